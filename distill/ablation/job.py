"""An ablation, from its file to its table: whatever is missing is trained, in N processes, under one parent run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from tqdm import tqdm

from distill import figures
from distill import tracking as track
from distill.ablation import table
from distill.ablation.existing import TEACHERS, Entry, Existing, check_networks, check_terms, look_up, parent_tags
from distill.ablation.file import Grid, file_name
from distill.ablation.table import Result, Table
from distill.config import Config, TrackingConfig
from distill.errors import UserError
from distill.files import write_text
from distill.runs import find_or_train
from distill.runs.workers import Ended, Share, Task, shares, work_off
from distill.tracking import RunInfo

TABLE_FILE = "table.json"


class Claims:
    """Which trainings are this machine's to start: all, for locks keep its own processes apart. Where several machines
    share a grid, `search.trial_claims.SharedClaims` takes this place."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Give up what is held."""

    def turn(self) -> AbstractContextManager[None]:
        """For what one process at a time may do to the grid."""
        return nullcontext()

    def take(self, task: Task) -> bool:
        """Whether this machine may start the training; False while another one runs it."""
        return True

    def end(self, task: Task, nme: float | None) -> None:
        """The training has ended; None: it failed."""


@dataclass(frozen=True)
class Finished:
    """The result of `run`."""

    parent_id: str
    table: Table
    files: list[Path]
    failed: list[str]


def run(grid: Grid, out: Path, workers: int = 0, again: str = "", claims: Callable[[], Claims] = Claims) -> Finished:
    """Train what is missing and write the table. workers: trainings at a time; 0: one a GPU, or one.

    again: the command that continues, for the message of an interrupted call. claims: makes the claims where other
    machines have a part; called when the grid is found to be in order.

    Raises UserError for what can be known to be wrong before the first training starts; a training that fails stops no
    other.
    """
    parts = shares(workers, grid.cells[grid.control].train.device, torch.cuda.device_count())
    check_networks(grid)
    found = look_up(grid)
    check_terms(grid, found)
    tracking = _tracking(grid)
    with ExitStack() as stack:
        ours = stack.enter_context(claims())
        with ours.turn():
            parent = stack.enter_context(_parent(grid, found))
        runner = _Runner(grid, found, parent.id, parts, ours)
        try:
            runner.train()
        except (KeyboardInterrupt, SystemExit):
            print(f"\nStopped; {runner.bar.n} of {runner.bar.total} are done. Continue with: {again}", flush=True)
            raise
        found = look_up(grid)
        made = collect(grid, found)
        files = write(made, out / grid.name)
        track.add_artifacts(tracking, parent.id, files)
        parent.log_metrics(_as_metrics(made), step=0)
        parent.set_tags({track.NOTE: f"{_note(grid)}\n\n{table.to_markdown(made)}"})
        if runner.failed:
            parent.finish("FAILED")
    return Finished(parent.id, made, files, runner.failed)


def show(grid: Grid, out: Path) -> Finished:
    """The table of what there is, without training anything; kept in the parent run too, where there is one."""
    found = look_up(grid)
    made = collect(grid, found)
    files = write(made, out / grid.name)
    if found.parent:
        track.add_artifacts(_tracking(grid), found.parent.id, files)
    return Finished(found.parent.id if found.parent else "", made, files, [])


def dry_run(grid: Grid) -> str:
    """What `run` would do, as text."""
    found = look_up(grid)
    entries = [*found.teachers.values(), *found.entries]
    width = max(len(entry.cell.name) for entry in entries)
    lines = [
        f"{entry.cell.name.ljust(width)}  seed {entry.planned.seed}  {entry.found.state:10}  "
        f"{entry.found.run.id if entry.found.run else ''}".rstrip()
        for entry in entries
    ]
    return "\n".join([*lines, "", _summary(grid, found)])


def collect(grid: Grid, found: Existing) -> Table:
    """The table of the finished trainings. Raises UserError where they were measured on different images."""
    tracking = _tracking(grid)
    done = [entry for entry in found.entries if entry.found.state == "finished"]
    others = {
        entry.identity.data.val: entry.planned.cell for entry in done if entry.identity.data.val != found.data.val
    }
    for val, cell in others.items():
        raise UserError(
            f"{grid.path}: cell '{cell}' was validated on images with fingerprint {val}, the control's are "
            f"{found.data.val}; expected one validation set."
        )
    least = table.latencies({entry.found.run.id: entry.found.run.metrics for entry in done})
    results = [_result(tracking, entry, least) for entry in done]
    data = vars(found.data)
    return table.tabulate(grid.name, grid.title, grid.cells, grid.control, grid.seeds, data, results, grid.pareto)


def _result(tracking: TrackingConfig, entry: Entry, least: Mapping[str, float]) -> Result:
    """A finished run's row; least: as `table.latencies`. Raises UserError where its report is gone."""
    run = entry.found.run
    size = run.metrics.get("model/file_bytes")
    return Result(
        cell=entry.planned.cell,
        seed=entry.planned.seed,
        run_id=run.id,
        errors=track.read_errors(tracking, run.id),
        agreement=run.metrics.get("best/val/agreement/nme"),
        minutes=_minutes(tracking, run),
        megabytes=None if size is None else size / 1e6,
        latency_ms=least.get(run.id),
    )


def write(made: Table, folder: Path) -> list[Path]:
    """table.md, .csv, .json and the pictures, each whole or not at all."""
    texts = {
        "table.md": table.to_markdown(made),
        "table.csv": table.to_csv(made),
        TABLE_FILE: json.dumps(made.to_dict(), indent=1) + "\n",
    }
    files = [write_text(folder / name, text) for name, text in texts.items()]
    return [*files, *(figures.to_png(figure, folder / name) for name, figure in table.pictures(made).items())]


# ---------------------------------------------------------------------------------------------------- the runner


class _Runner:
    """Trains what is missing, teachers first, and prints each result."""

    def __init__(self, grid: Grid, found: Existing, parent_id: str, parts: list[Share], claims: Claims):
        self.grid, self.found, self.parent_id, self.parts, self.claims = grid, found, parent_id, parts, claims
        self.folder = track.store_root(_tracking(grid)) / "work" / "ablations" / grid.name
        self.failed: list[str] = []
        self.best = min(
            (run.metrics[find_or_train.METRIC] for run in _finished_runs(found.entries)), default=float("inf")
        )
        everything = [*found.teachers.values(), *found.entries]
        done = sum(entry.found.state == "finished" for entry in everything)
        print(f"{grid.title}: {_summary(grid, found)}, {len(self.parts)} at a time.", flush=True)
        self.bar = tqdm(total=len(everything), initial=done, desc=grid.name, unit="run", dynamic_ncols=True)

    def train(self) -> None:
        with self.bar:
            self._train(self.found.teachers.values())
            entries = self.found.entries
            if any(entry.identity is None for entry in entries):
                entries = look_up(self.grid).entries
            for entry in entries:
                if entry.identity is None:
                    self._failed(entry.cell.name, entry.planned.seed, f"its teacher {entry.cell.config.teacher} failed")
            self._train(entry for entry in entries if entry.identity is not None)

    def _train(self, entries: Iterable[Entry]) -> None:
        tasks = [self._task(entry) for entry in entries if entry.found.state != "finished"]
        work_off(tasks, self.parts, self._is_busy, self._ended)

    def _is_busy(self, task: Task) -> bool:
        return find_or_train.is_busy(_tracking(self.grid), task.identity) or not self.claims.take(task)

    def _task(self, entry: Entry) -> Task:
        planned, name = entry.planned, file_name(entry.planned.cell)
        label = f"{self.grid.name}-{name}-s{planned.seed}"
        tags = {"mlflow.parentRunId": self.parent_id, "distill.ablation": self.grid.name, "distill.cell": planned.cell}
        cell = replace(entry.cell, config=_named(entry.cell.config, label))
        return Task(cell, entry.identity, tags, self.folder / f"{name}-s{planned.seed}.log")

    def _ended(self, ended: Ended) -> None:
        cell = ended.task.cell
        seed = cell.config.seed
        if ended.outcome is None:
            self.claims.end(ended.task, None)
            self._failed(cell.name, seed, f"{ended.error} (log: {ended.task.log})")
            return
        run = track.find_run(cell.config.tracking, ended.outcome.run_id)
        nme = run.metrics[find_or_train.METRIC]
        self.claims.end(ended.task, nme)
        if cell.job == "student":
            self.best = min(self.best, nme)
        minutes = _minutes(cell.config.tracking, run)
        spent = "" if minutes is None else f"{minutes:6.1f} min  "
        self._say(f"{cell.name}  seed {seed}  val/nme {nme:.3f}  {spent}{ended.outcome.how}  run {run.id}")

    def _failed(self, cell: str, seed: int, why: str) -> None:
        self.failed.append(f"{cell}, seed {seed}: {why}")
        self._say(f"{cell}  seed {seed}  FAILED: {why}")

    def _say(self, line: str) -> None:
        tqdm.write(f"  {line}")
        best = f"best val/nme {self.best:.3f}" if math.isfinite(self.best) else ""
        failed = f"{len(self.failed)} failed" if self.failed else ""
        self.bar.set_postfix_str(", ".join(word for word in (best, failed) if word), refresh=False)
        self.bar.update()


def _parent(grid: Grid, found: Existing) -> track.Run:
    """The grid's parent run: the one it had before, or a new one."""
    about = {
        "name": grid.name,
        "title": grid.title,
        "control": grid.control,
        "seeds": " ".join(map(str, grid.seeds)),
        "cells": ", ".join(grid.cells),
    }
    tags = {**parent_tags(grid, found.data), TEACHERS: json.dumps(found.meant)}
    tags[track.NOTE] = _note(grid)
    tracking = _tracking(grid)
    lock = track.store_root(tracking) / "work" / "locks" / f"ablation-{grid.digest}.lock"
    with track.exclusive(lock, "", seconds=-1):  # two runners of one file: one parent
        known = track.runs_tagged(tracking, "ablation", parent_tags(grid, found.data))
        return track.Run.start(
            tracking,
            job="ablation",
            run_name=grid.name,
            params=about,
            tags=tags,
            config_yaml=grid.path.read_text(encoding="utf-8"),
            resume_id=known[0].id if known else None,
        )


def _note(grid: Grid) -> str:
    about = "Its trainings are this run's children, its table and pictures are among the artifacts."
    return f"Ablation `{grid.name}`: {grid.title}. {about}"


def _tracking(grid: Grid) -> TrackingConfig:
    return grid.cells[grid.control].tracking


def _named(config: Config, label: str) -> Config:
    return replace(config, tracking=replace(config.tracking, run_name=config.tracking.run_name or label))


def _finished_runs(entries: Iterable[Entry]) -> list[RunInfo]:
    return [entry.found.run for entry in entries if entry.found.state == "finished"]


def _summary(grid: Grid, found: Existing) -> str:
    entries = [*found.teachers.values(), *found.entries]
    counts = {
        state: sum(entry.found.state == state for entry in entries) for state in ("finished", "unfinished", "new")
    }
    teachers = f" and {len(grid.teachers)} teachers" if grid.teachers else ""
    planned = f"{len(grid.cells)} cells x {len(grid.seeds)} seeds{teachers} = {len(entries)} runs"
    return f"{planned}: {counts['finished']} finished, {counts['unfinished']} to continue, {counts['new']} new"


def _minutes(tracking: TrackingConfig, run: RunInfo) -> float | None:
    """Spent training, over all sessions; runs of older versions have only their epochs' seconds."""
    if "train/minutes" in run.metrics:
        return run.metrics["train/minutes"]
    if "train/epoch_seconds" not in run.metrics:
        return None
    return sum(seconds for _, seconds in track.metric_history(tracking, run.id, "train/epoch_seconds")) / 60


def _as_metrics(made: Table) -> dict[str, float]:
    values = {f"nme/{file_name(row.cell)}": row.mean for row in made.rows if row.nme}
    if values:  # under the name that the run list is sorted by
        values[find_or_train.METRIC] = min(values.values())
    return values | {f"difference/{file_name(row.cell)}": row.difference.mean for row in made.rows if row.difference}
