"""A study, from its search file to its results: workers are started, watched, replaced and stopped, under one parent run."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from distill import config as configs
from distill import tracking as track
from distill.ablation.file import file_name
from distill.config import TrackingConfig
from distill.errors import UserError
from distill.models.references import resolve_model, resolve_teacher
from distill.runs import find_or_train as plan
from distill.runs import workers as pool
from distill.runs.workers import Process, Share
from search import outputs, queue, storage, summary
from search.live_table import LiveTable
from search.space import Space
from search.summary import TrialRow
from search.worker import URL, Spec

if TYPE_CHECKING:
    from optuna import Study

# the study's attributes
PARENT, TEACHER, DATA, TRIALS, WORKERS, RECIPE = "parent_run", "teacher", "data", "trials", "workers", "recipe"
GLANCE, LOOK = 0.2, 1.0  # seconds between looks at the workers, and at the trials
USER_ERROR = 2  # exit code of a worker that a person must help
MOST_DEATHS = 3  # of workers, per worker, without a trial that ended in between


@dataclass(frozen=True)
class Order:
    """What is asked for beside the search file."""

    study: str  # its name
    url: str  # of its database
    trials: int  # that it shall have in all
    workers: int = 0  # at a time, here; 0: one a GPU, or one
    overrides: tuple[str, ...] = ()  # that the space was read with
    again: str = ""  # the command that continues


@dataclass(frozen=True)
class Finished:
    """What a call of `run` came to."""

    parent_id: str
    rows: list[TrialRow]
    best: TrialRow | None  # of several objectives: the best in the first
    files: list[Path]
    told: str  # all of it in words


def run(space: Space, order: Order, out: Path) -> Finished:
    """Have as many trials of the study ended as ordered, and write what they came to under `out`.

    Trials that exist count, whichever machine made them. Raises UserError for what can be known to be wrong before the first
    trial, for a database that goes away, and for workers that keep dying.
    """
    gpus, device = torch.cuda.device_count(), space.base.train.device
    parts = pool.shares(order.workers or max(1, gpus if device != "cpu" else 1), device, gpus)
    data, teacher = _data(space), _teacher(space)  # told before anything is made
    study = storage.open_study(space, order.study, order.url)
    teacher, first = _join(study, space, order, data, teacher, len(parts))
    with _parent(study, space, order.url) as parent:
        runner = _Runner(space, order, study, parts, parent, teacher, first)
        found = queue.tally(study)
        print(
            f"{space.title}: study '{order.study}' of {order.trials} trials, {found.ended} of them done; {len(parts)} at a time; "
            f"kept in {storage.redacted(order.url)}.",
            flush=True,
        )
        try:
            if not found.is_complete(order.trials):
                runner.work()
        except (KeyboardInterrupt, SystemExit):
            done = queue.tally(study).ended
            print(f"\nStopped; {done} of {order.trials} trials are done. Continue with: {order.again}", flush=True)
            raise
        _bury(study, space.base.tracking)
        rows = runner.look()
        files = outputs.finish(space, study, space.base.tracking, parent.id, out)
        told = outputs.to_text(space, study)
        parent.set_tags({track.NOTE: f"{_note(space, order.study)}\n\n```\n{told}\n```"})
    return Finished(parent.id, rows, summary.best(study), files, told)


# ---------------------------------------------------------------------------------------------------- the runner


class _Runner:
    """Keeps a worker in each part of the machine for as long as there is something to train."""

    def __init__(
        self, space: Space, order: Order, study: Study, parts: list[Share], parent: track.Run, teacher: str, first: int
    ):
        self.space, self.order, self.study, self.parts, self.parent = space, order, study, parts, parent
        self.teacher, self.first = teacher, first  # as `_join` gives them
        self.folder = track.store_root(space.base.tracking) / "work" / "studies" / file_name(order.study)
        self.logged: set[int] = set()
        self.deaths = 0  # since a trial ended

    def work(self) -> None:
        """Until the workers find nothing to do any more. However this ends, they are asked to save and waited for."""
        live: dict[int, Process] = {}
        looked, ended = 0.0, 0
        try:
            live |= {part: self._start(part) for part in range(len(self.parts))}
            with LiveTable(self.space, self.order.trials) as table:
                while live:
                    time.sleep(GLANCE)
                    for part, process in list(live.items()):
                        if process.popen.poll() is not None:
                            del live[part]
                            if process.popen.returncode:
                                live[part] = self._replace(part, process)
                    if time.monotonic() - looked > LOOK or not live:
                        looked = time.monotonic()
                        table.show(self.look())
                        if len(self.logged) > ended:
                            ended, self.deaths = len(self.logged), 0
        finally:
            pool.stop(live.values())
            for part in range(len(self.parts)):
                self._file(part).unlink(missing_ok=True)

    def look(self) -> list[TrialRow]:
        """The trials as they are; the parent run hears of those that ended."""
        rows = storage.patiently(lambda: summary.rows(self.study, self.space))
        best: dict[str, float] = {}
        for row in rows:
            if row.state == "done":
                for key, value in zip(self.space.objectives, row.values, strict=True):
                    best[f"best/{key}"] = min(value, best.get(f"best/{key}", value))
                if row.number not in self.logged:
                    self.parent.log_metrics(best, step=row.number)
            if row.state in summary.ENDED:
                self.logged.add(row.number)
        return rows

    def _start(self, part: int) -> Process:
        order, share = self.order, self.parts[part]
        spec = Spec(
            os.getpid(), str(self.space.path), list(order.overrides), order.study, order.trials, self.first + part,
            self.parent.id, self.teacher, share.threads,
        )  # fmt: skip
        pool.write(self._file(part), vars(spec))
        log = self.folder / f"worker-{part}.log"
        return pool.launch(["search.worker", str(self._file(part))], share, log, {URL: order.url})

    def _replace(self, part: int, process: Process) -> Process:
        """A new worker for one that died; what it was at is taken over. Raises UserError where that would not help."""
        why = pool.why(process)
        if process.popen.returncode == USER_ERROR:
            raise UserError(why)
        self.deaths += 1
        if self.deaths > MOST_DEATHS * len(self.parts):
            raise UserError(f"Workers keep dying, lately: {why} (log: {process.log}).")
        return self._start(part)

    def _file(self, part: int) -> Path:
        return self.folder / f"worker-{part}.{os.getpid()}.json"


# ---------------------------------------------------------------------------------------------------- what all share


def _data(space: Space) -> dict[str, str]:
    """Fingerprints of the sets that trials see. Raises UserError where they cannot be used."""
    return vars(plan.fingerprints(space.config(space.enqueue[0]).data))


def _teacher(space: Space) -> str:
    """The run id of what 'the newest teacher' or an alias means now; empty where the search file names one for good.

    Raises UserError where the named one, or any, is not to be found.
    """
    base = space.base
    if not (base.distill.terms or "distill.terms" in space.text):
        return ""
    if base.teacher and not base.teacher.startswith("models:/"):
        resolve_model(base.teacher, base.tracking)
        return ""
    train = "" if base.teacher else plan.fingerprints(base.data).train
    return resolve_teacher(base.teacher, base.tracking, train).run_id


def _join(
    study: Study, space: Space, order: Order, data: dict[str, str], teacher: str, workers: int
) -> tuple[str, int]:
    """Agree with all who ever worked at the study: the teacher, and the number of this call's first worker.

    Raises UserError where the study has other data than this machine, or a teacher that is not in this store.
    """
    with storage.turn(order.url, order.study):
        known = study.user_attrs
        began = known.get(DATA, data)
        for key in (key for key in data if data[key] != began[key]):
            raise UserError(
                f"{space.path}: the {key} data here has fingerprint {data[key]}, the study '{order.study}' began with "
                f"{began[key]}; expected the same images."
            )
        teacher, first = known.get(TEACHER, teacher), known.get(WORKERS, 0)
        if teacher:
            resolve_model(teacher, space.base.tracking)
        agreed = {
            DATA: data, TEACHER: teacher, TRIALS: order.trials, WORKERS: first + workers,
            RECIPE: configs.to_dict(space.base),
        }  # fmt: skip
        for key, value in agreed.items():
            study.set_user_attr(key, value)
    return teacher, first


def _parent(study: Study, space: Space, url: str) -> track.Run:
    """The study's parent run in this store: the one that it has, or a new one."""
    name, tracking = study.study_name, space.base.tracking
    tags = {"distill.study": name, "optuna.study": name, "optuna.storage": storage.redacted(url)}
    lock = track.store_root(tracking) / "work" / "locks" / f"study-{file_name(name)}.lock"
    with track.exclusive(lock, "", seconds=-1):  # two runners of one study: one parent
        known = study.user_attrs.get(PARENT, "")
        runs = track.runs_tagged(tracking, "study", tags) if known else []
        here = next((run.id for run in runs if run.id == known), runs[0].id if runs else None)
        run = track.Run.start(
            tracking, job="study", run_name=name, params=_about(space, name), 
            tags=tags | {track.NOTE: _note(space, name)},
            config_yaml=space.path.read_text(encoding="utf-8"), resume_id=here,
        )  # fmt: skip
        if not known:
            study.set_user_attr(PARENT, run.id)
    return run


def _note(space: Space, name: str) -> str:
    return f"Search `{name}`: {space.title}. Its trials are this run's children, its results among the artifacts."


def _about(space: Space, name: str) -> dict[str, Any]:
    return {
        "name": name, "title": space.title, "objectives": ", ".join(space.objectives), "sampler": vars(space.sampler),
        "pruner": vars(space.pruner), "constraints": space.constraints, "trial": space.trial, "digest": space.digest,
    }  # fmt: skip


def _bury(study: Study, tracking: TrackingConfig) -> None:
    """Runs whose worker died: MLflow would show them running for ever."""
    if queue.tally(study).running:
        return
    for run in track.runs_tagged(tracking, "student", {"optuna.study": study.study_name}):
        if run.status == "RUNNING" and not track.is_held(track.store_root(tracking) / "work" / run.id):
            track.end_run(tracking, run.id, "KILLED")
