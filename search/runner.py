"""A study, from its search file to its results: workers are started, watched, replaced and stopped, under one parent
run.
"""

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
from distill.models.landmarker import skeleton
from distill.models.references import resolve_model, resolve_teacher
from distill.runs import workers
from distill.runs.find_or_train import fingerprints
from distill.runs.workers import Process, Share
from distill.training.distributed import check_device
from search import outputs, storage, summary
from search.space import Space
from search.summary import TrialRow
from search.worker import URL, Spec

if TYPE_CHECKING:
    from optuna import Study

# the study's attributes
PARENT, TEACHER, DATA, TRIALS, WORKERS, RECIPE = "parent_run", "teacher", "data", "trials", "workers", "recipe"
GLANCE, LOOK = 0.2, 1.0  # seconds between looks at the workers, and at the trials
USER_ERROR = 2  # exit code of a worker after a UserError
MOST_DEATHS = 3  # of workers, per worker, without a trial that ended in between


@dataclass(frozen=True)
class Order:
    """The command line's part of a study, beside the search file."""

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
    files: list[Path]
    text: str  # all of it in words

    @property
    def best(self) -> TrialRow | None:
        """The done trial with the smallest first objective."""
        return summary.best(self.rows)


def run(space: Space, order: Order, out: Path) -> Finished:
    """Have as many trials of the study ended as ordered, and write what they came to under `out`.

    Trials that exist count, whichever machine made them. Raises UserError for what can be known to be wrong before the
    first trial, for a database that goes away, and for workers that keep dying.
    """
    check_device(space.base.train.device)
    skeleton(space.base.model, configs.markup_of(space.base))  # names first: data takes longer to check
    tracking = space.base.tracking
    parts = workers.shares(order.workers, space.base.train.device, torch.cuda.device_count())
    data, teacher = vars(fingerprints(space.config(space.enqueue[0]).data)), _teacher(space)  # before anything is made
    study = storage.open_study(space, order.study, order.url)
    teacher, first = _join(study, space, order, data, teacher, len(parts))
    with _parent(study, space, order.url) as parent:
        what = (os.getpid(), str(space.path), list(order.overrides), order.study, order.trials)
        specs = [Spec(*what, first + part, parent.id, teacher, share.threads) for part, share in enumerate(parts)]
        watch = Watch(space, study, parent, order.trials)
        done = summary.tally(watch.rows()).ended
        print(
            f"{space.search.title}: study '{order.study}' of {order.trials} trials, {done} of them done; "
            f"{len(parts)} at a time; kept in {track.redact(order.url)}.",
            flush=True,
        )
        try:
            if done < order.trials:
                folder = track.store_root(tracking) / "work" / "studies" / file_name(order.study)
                work(specs, parts, order.url, folder, watch)
        except (KeyboardInterrupt, SystemExit):
            done = summary.tally(watch.rows()).ended
            print(f"\nStopped; {done} of {order.trials} trials are done. Continue with: {order.again}", flush=True)
            raise
        rows = watch.rows()
        _end_dead_runs(rows, order.study, tracking)
        files = outputs.write(space, study, rows, tracking, parent.id, out)
        text = outputs.to_text(space, study, rows)
        parent.set_tags({track.NOTE: f"{_note(space, order.study)}\n\n```\n{text}\n```"})
    return Finished(parent.id, rows, files, text)


class Watch:
    """The trials of a study as they are; those that end are logged in the parent run and printed."""

    def __init__(self, space: Space, study: Study, parent: track.Run, total: int):
        self.space, self.study, self.parent, self.total = space, study, parent, total
        self.ended: set[int] = set()  # numbers of trials that were logged
        # numbers of trials that need no line any more; None: before the first look
        self.printed: set[int] | None = None
        self.started, self.before = time.monotonic(), 0  # when we began to watch, and how many had ended then

    def rows(self) -> list[TrialRow]:
        """All trials now; those that have ended since are logged."""
        found = storage.patiently(lambda: summary.rows(self.study, self.space))
        best: dict[str, float] = {}
        for row in found:
            if row.state == "done":
                for key, value in zip(self.space.search.objectives, row.values, strict=True):
                    best[f"best/{key}"] = min(value, best.get(f"best/{key}", value))
                if row.number not in self.ended:
                    self.parent.log_metrics(best, step=row.number)
            if row.state in summary.ENDED:
                self.ended.add(row.number)
        self._print(found)
        return found

    def _print(self, rows: list[TrialRow]) -> None:
        """A line for each trial that is over since the last look; none for those from before the first."""
        over = {row.number: row for row in rows if row.state not in ("running", "waiting", "interrupted")}
        ended = summary.tally(rows).ended
        if self.printed is None:
            self.printed, self.before = set(over), ended
        for number in sorted(over.keys() - self.printed):
            pace = (time.monotonic() - self.started) / max(ended - self.before, 1)
            left = f", some {summary.clock(pace * (self.total - ended))} left" if ended < self.total else ""
            print(f"{summary.line(over[number], rows, self.space)}  ({ended} of {self.total}{left})", flush=True)
        self.printed |= over.keys()


def work(specs: list[Spec], parts: list[Share], url: str, folder: Path, watch: Watch) -> None:
    """Keep a worker in each part of the machine until they find nothing to do any more; replace those that die.

    However this ends, workers are signalled to save, then waited for. Raises UserError where replacing does not help.
    """
    files = [folder / f"worker-{part}.{os.getpid()}.json" for part in range(len(parts))]
    live: dict[int, Process] = {}

    def start(part: int) -> None:
        log = folder / f"worker-{part}.log"
        live[part] = workers.launch(["search.worker", str(files[part])], parts[part], log, {URL: url})

    looked, deaths, ended = 0.0, 0, len(watch.ended)
    try:
        for part, spec in enumerate(specs):
            workers.write(files[part], vars(spec))
            start(part)
        while live:
            time.sleep(GLANCE)
            for part, process in list(live.items()):
                code = process.popen.poll()
                if code is None:
                    continue
                del live[part]
                if code == USER_ERROR:
                    raise UserError(workers.why(process))
                if code:
                    deaths += 1
                    if deaths > MOST_DEATHS * len(parts):
                        raise UserError(f"Workers keep dying, lately: {workers.why(process)} (log: {process.log}).")
                    start(part)
            if time.monotonic() - looked > LOOK or not live:
                looked = time.monotonic()
                watch.rows()
                if len(watch.ended) > ended:
                    ended, deaths = len(watch.ended), 0
    finally:
        workers.stop(live.values())
        for file in files:
            file.unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------------------- what all share


def _teacher(space: Space) -> str:
    """The run id of what 'the newest teacher' or an alias means now; empty where the search file names one for good.

    Raises UserError where the named one, or any, is not to be found.
    """
    base = space.base
    if not (base.distill.terms or "distill.terms" in str(space.described()["space"])):
        return ""
    if base.teacher and not base.teacher.startswith("models:/"):
        resolve_model(base.teacher, base.tracking)
        return ""
    train = "" if base.teacher else fingerprints(base.data).train
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
        agreed = {DATA: data, TEACHER: teacher, TRIALS: order.trials, WORKERS: first + workers}
        for key, value in (agreed | {RECIPE: configs.to_dict(space.base)}).items():
            study.set_user_attr(key, value)
    return teacher, first


def _parent(study: Study, space: Space, url: str) -> track.Run:
    """The study's parent run in this store: the one that it has, or a new one."""
    name, tracking = study.study_name, space.base.tracking
    tags = {"distill.study": name, "optuna.study": name, "optuna.storage": track.redact(url)}
    lock = track.store_root(tracking) / "work" / "locks" / f"study-{file_name(name)}.lock"
    with track.exclusive(lock, "", seconds=-1):  # two runners of one study: one parent
        known = study.user_attrs.get(PARENT, "")
        runs = track.runs_tagged(tracking, "study", tags) if known else []
        here = next((run.id for run in runs if run.id == known), runs[0].id if runs else None)
        run = track.Run.start(
            tracking,
            job="study",
            run_name=name,
            params=_about(space, name),
            tags=tags | {track.NOTE: _note(space, name)},
            config_yaml=space.path.read_text(encoding="utf-8"),
            resume_id=here,
        )
        if not known:
            study.set_user_attr(PARENT, run.id)
    return run


def _note(space: Space, name: str) -> str:
    return (
        f"Search `{name}`: {space.search.title}. Its trials are this run's children, its results among the artifacts."
    )


def _about(space: Space, name: str) -> dict[str, Any]:
    return {
        **space.search.model_dump(include={"title", "sampler", "pruner", "constraints", "trial"}),
        "name": name,
        "objectives": ", ".join(space.search.objectives),
    }


def _end_dead_runs(rows: list[TrialRow], study: str, tracking: TrackingConfig) -> None:
    """MLflow would show the run of a worker that died as running for ever."""
    if summary.tally(rows).running:
        return
    for run in track.runs_tagged(tracking, "student", {"optuna.study": study}):
        if run.status == "RUNNING" and not track.is_held(track.store_root(tracking) / "work" / run.id):
            track.end_run(tracking, run.id, "KILLED")
