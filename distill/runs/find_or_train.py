"""One training: found if it was done before, continued if it was cut, else done now.

Two trainings are the same when job, config digest, data fingerprints and teacher are, whoever made them. A lock file
per training lets several processes work on plans that overlap.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from distill import config as configs
from distill import tracking as track
from distill.config import Config, DataConfig, TrackingConfig
from distill.data.folders import resolve
from distill.errors import UserError
from distill.models.references import ModelReference, resolve_model, resolve_teacher
from distill.tracking import Held, RunInfo
from distill.tracking.registry import METRIC
from distill.training import checkpoint
from distill.training import job as training

PAUSE = 5.0  # seconds between looks at a training that another process is at


@dataclass(frozen=True)
class Cell:
    """A training to be had. `job` is teacher or student; `name` is for messages."""

    name: str
    job: str
    config: Config


@dataclass(frozen=True)
class Fingerprints:
    """Of a training and a validation set."""

    train: str
    val: str


@dataclass(frozen=True)
class Identity:
    """All that makes a training what it is."""

    job: str
    digests: tuple[str, ...]  # of the config, under each name that it may have had for this same teacher
    data: Fingerprints
    sources: dict[str, str]  # tag -> value: the runs of the models it goes out from, or hashes of bare files

    @property
    def key(self) -> str:
        """16 hex digits, the same however the teacher was named."""
        text = "\n".join([self.job, self.digests[-1], *vars(self.data).values(), *self.sources.values()])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Found:
    """What the store has of a training."""

    state: Literal["finished", "unfinished", "new"]
    run: RunInfo | None = None


@dataclass(frozen=True)
class Outcome:
    """A finished run, and how it came about."""

    run_id: str
    how: Literal["found", "continued", "trained"]


def settle(cell: Cell, tags: dict[str, str] | None = None, *, wait: bool = True) -> Outcome:
    """A finished run of this training, made now if need be, in a run that carries `tags`; and how it came about.

    Waits while another process makes it; wait=False: raises Held then. Raises UserError as training does, and in one of
    several torchrun processes.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError("Trainings of an ablation, recipe or search run in one process each; expected no torchrun.")
    data = fingerprints(cell.config.data)
    cell, identity = identify(cell, data, teacher_of(cell.config, data))
    tracking = cell.config.tracking
    with _only_one(tracking, identity, wait):
        found = _await(tracking, identity) if wait else find(tracking, identity)
        if found.state == "finished":
            return Outcome(found.run.id, "found")
        config = _tagged(cell.config, identity, tags or {})
        if found.state == "unfinished":
            stored = configs.from_dict(load_checkpoint(tracking, found.run.id)["config"], "the checkpoint's config")
            config = replace(config, resume=found.run.id, teacher=stored.teacher)
        else:
            _end_killed(tracking, identity)
        result = (training.train_teacher if cell.job == "teacher" else training.train_student)(config)
        return Outcome(result.run_id, "continued" if found.state == "unfinished" else "trained")


def fingerprints(data: DataConfig) -> Fingerprints:
    """Of the config's data sets, read and checked as training does. Raises UserError where they cannot be used."""
    train_set, val_set, _ = training.read_sets(Config(data=data), resolve(data))
    return Fingerprints(train_set.fingerprint, val_set.fingerprint)


def teacher_of(config: Config, data: Fingerprints) -> ModelReference | None:
    """The config's teacher as of now; None for a config without terms. Raises UserError where there is none."""
    return resolve_teacher(config.teacher, config.tracking, data.train) if config.distill.terms else None


def identify(cell: Cell, data: Fingerprints, teacher: ModelReference | None) -> tuple[Cell, Identity]:
    """The cell with its teacher named for good (by run id where it has one), and its identity.

    Raises UserError where the weights that it starts from are not to be found.
    """
    config = cell.config
    variants, sources = [config], {"teacher.run_id": ""}
    if config.distill.terms and teacher:
        sources = _source("teacher", teacher)
        variants.insert(0, replace(config, teacher=teacher.run_id or config.teacher))
        variants.append(replace(config, teacher=""))
    if config.init:
        sources |= _source("init", resolve_model(config.init, config.tracking))
    digests = tuple(dict.fromkeys(configs.digest(variant) for variant in variants))
    return replace(cell, config=variants[0]), Identity(cell.job, digests, data, sources)


def find(tracking: TrackingConfig, identity: Identity) -> Found:
    """A finished run of this training, else one with a checkpoint to continue. Raises Held where one is at work."""
    runs = _same(tracking, identity)
    for run in runs:
        if run.status == "FINISHED" and METRIC in run.metrics:
            return Found("finished", run)
    for run in runs:
        if run.status != "FINISHED" and _can_continue(tracking, run, identity):
            if track.is_held(track.work_dir(tracking, run.id)):
                raise Held(f"Run '{run.id}' is being trained by another process right now.")
            return Found("unfinished", run)
    return Found("new")


def is_busy(tracking: TrackingConfig, identity: Identity) -> bool:
    """Whether another process is running this training from an ablation, recipe or search."""
    try:
        with _only_one(tracking, identity, wait=False):
            return False
    except Held:
        return True


def load_checkpoint(tracking: TrackingConfig, run_id: str) -> dict:
    """The checkpoint of a run. Raises UserError where there is none that can be read."""
    return checkpoint.load(track.work_dir(tracking, run_id) / training.CHECKPOINT)


# ---------------------------------------------------------------------------------------------------- inside


def _await(tracking: TrackingConfig, identity: Identity) -> Found:
    """`find`, once no process holds the run: training commands take no part in our locks, but hold their run."""
    while True:
        try:
            return find(tracking, identity)
        except Held:
            time.sleep(PAUSE)


def _same(tracking: TrackingConfig, identity: Identity) -> list[RunInfo]:
    """All runs of this training, newest first for each name of its teacher."""
    data = {"data.train": identity.data.train, "data.val": identity.data.val}
    runs = [
        run
        for digest in identity.digests
        for run in track.runs_tagged(tracking, identity.job, {"distill.digest": digest, **data})
    ]
    return [run for run in runs if all(run.tags.get(tag, "") == value for tag, value in identity.sources.items())]


def _can_continue(tracking: TrackingConfig, run: RunInfo, identity: Identity) -> bool:
    if not (_work(tracking, run) / training.CHECKPOINT).is_file():
        return False
    try:
        state = load_checkpoint(tracking, run.id)
    except UserError:  # damaged, or of another version: the training begins anew
        return False
    return state["data"] == vars(identity.data)


def _end_killed(tracking: TrackingConfig, identity: Identity) -> None:
    """End runs of this training that were killed before their first checkpoint, which MLflow shows as RUNNING."""
    for run in _same(tracking, identity):
        work = _work(tracking, run)
        if run.status == "RUNNING" and work.is_dir() and not track.is_held(work):  # without a folder: another machine's
            track.end_run(tracking, run.id, "KILLED")


def _work(tracking: TrackingConfig, run: RunInfo) -> Path:
    return track.store_root(tracking) / "work" / run.id


def _tagged(config: Config, identity: Identity, tags: dict[str, str]) -> Config:
    hashes = {tag: value for tag, value in identity.sources.items() if tag.endswith(".file")}
    return replace(config, tracking=replace(config.tracking, tags={**config.tracking.tags, **hashes, **tags}))


@contextmanager
def _only_one(tracking: TrackingConfig, identity: Identity, wait: bool) -> Iterator[None]:
    file = track.store_root(tracking) / "work" / "locks" / f"{identity.key}.lock"
    with track.exclusive(file, "Another process is at this very training.", seconds=-1 if wait else 0):
        yield


def _source(kind: str, model: ModelReference) -> dict[str, str]:
    """The tag that names the model: its run, or for a bare file the hash of its bytes."""
    if model.run_id:
        return {f"{kind}.run_id": model.run_id}
    return {f"{kind}.file": hashlib.sha256(model.path.read_bytes()).hexdigest()[:16]}
