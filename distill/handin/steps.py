"""The commands that trained a model: its teachers, the models it was initialised from, then itself."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from distill import tracking as track
from distill.config import TrackingConfig
from distill.errors import UserError
from distill.files import read_yaml
from distill.tracking import RunInfo

FOLDER = "train"
DATA = "DATA"  # stands for the data root in commands


@dataclass(frozen=True)
class Step:
    """One training on the path to the handed-in model."""

    name: str  # number and role, by which later steps call it: 1-teacher
    run: RunInfo
    config: str  # the experiment file's text; empty for an average, which has none
    command: str
    remarks: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        return f"{FOLDER}/{self.name}.yaml"


def trace(info: RunInfo, tracking: TrackingConfig) -> list[Step]:
    """The steps to the model of this run, in order; the last one is its own.

    Raises UserError where a run's config cannot be read. A run that is missing from the store is named in `remarks`.
    """
    done: dict[str, Step] = {}

    def visit(run: RunInfo) -> str:
        if run.id not in done:
            names, remarks = {}, []
            for key, source in _sources(run).items():
                try:
                    names[key] = visit(track.find_run(tracking, source))
                except UserError:
                    names[key] = source
                    remarks.append(f"Run {source}, which this step starts from, is not in the store any more.")
            role = run.tags.get("distill.role") or run.job
            make = _average if role == "averaged" else _training
            done[run.id] = make(f"{len(done) + 1}-{role}", run, names, remarks, tracking)
        return done[run.id].name

    visit(info)
    return list(done.values())


def _sources(run: RunInfo) -> dict[str, str]:
    """The runs that this one starts from, by what they are to it; the members of an average by themselves."""
    if run.tags.get("distill.role") == "averaged":
        return {parent: parent for parent in run.tags.get("average.parents", "").split(",") if parent}
    sources = {key: run.tags.get(f"{key}.run_id", "") for key in ("init", "teacher")}
    return {key: source for key, source in sources.items() if source}


def _average(name: str, run: RunInfo, members: dict[str, str], remarks: list[str], _: TrackingConfig) -> Step:
    method = run.params.get("average.method", "greedy")
    command = f"python -m distill.average {' '.join(members.values())} --method {method} --name {name}"
    return Step(name, run, "", command, tuple(remarks))


def _training(name: str, run: RunInfo, names: dict[str, str], remarks: list[str], tracking: TrackingConfig) -> Step:
    values = read_yaml(track.artifact_path(tracking, run.id, "config.yaml"))
    files = {key: str(values[key]) for key in ("teacher", "init") if values.get(key) and key not in names}
    if not values.get("distill", {}).get("terms"):
        files.pop("teacher", None)  # named in the config, but unused without terms
    for key, file in files.items():
        names[key] = Path(file).name
        remarks.append(f"Its {key} was the file '{Path(file).name}', which no run of the store made.")
    if checkpoint := values.get("model", {}).get("checkpoint"):
        remarks.append(f"It begins with the weights of the file '{Path(checkpoint).name}', which is not in here.")
    given = "".join(f" {key}={shlex.quote(value)}" for key, value in sorted(names.items()))
    command = (
        f"python -m distill.{run.job} --config {FOLDER}/{name}.yaml data.root={DATA} tracking.run_name={name}{given}"
    )
    return Step(name, run, yaml.safe_dump(_portable(values), sort_keys=False), command, tuple(remarks))


def _portable(values: dict[str, Any]) -> dict[str, Any]:
    """A run's config without what is of its machine and of its store; of files and folders the bare names."""
    values = {key: dict(part) if isinstance(part, dict) else part for key, part in values.items() if key != "tracking"}
    for section, keys, bare in (
        (values, ("teacher", "init", "resume"), False),
        (values.get("data", {}), ("root", "cache"), False),
        (values.get("data", {}), ("train", "val", "test"), True),
        (values.get("model", {}), ("checkpoint",), True),
    ):
        section.update({key: Path(str(section[key])).name if bare else "" for key in keys if section.get(key)})
    return values
