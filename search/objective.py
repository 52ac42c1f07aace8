"""One trial: refused at no cost, or trained by the function that the command line calls, watched, and told to the study."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from distill import config as configs
from distill import profiling
from distill import tracking as track
from distill.config import Config, TrackingConfig
from distill.errors import UserError
from distill.models.files import predicted_bytes
from distill.models.landmarker import skeleton
from distill.runs import find_or_train as plan
from distill.tracking import Held, RunInfo
from distill.training import job as training
from distill.training.job import Callbacks
from distill.training.loop import Abandoned
from search.queue import ERROR, REFUSED, RUN, first_number, put_back
from search.space import Space
from search.storage import DatabaseAway, patiently

NME, SECONDS = "val/nme", "seconds"
COST = "model/"  # metrics of this kind are those of the network at full length, measured before it is trained
BYTES = "model/file_bytes"
GIVEN_UP = "distill.abandoned"  # the tag of a run that its watch gave up
_PRUNED = re.compile(r"epoch \d+ of \d+: ")


@dataclass(frozen=True)
class Place:
    """What a worker's trainings share: where they are kept, what they are part of, what of the machine is theirs."""

    tracking: TrackingConfig
    study: str
    parent: str  # run id of the study
    teacher: str = ""  # that the study began with, where the search file leaves it open
    threads: int = 0

    def tags(self, trial: optuna.Trial) -> dict[str, str]:
        return {
            "mlflow.parentRunId": self.parent,
            "distill.study": self.study,
            "optuna.study": self.study,
            "optuna.trial": str(trial.number),
        }


@dataclass
class Clock:
    """Splits a worker's time into training and the rest."""

    started: float = field(default_factory=time.perf_counter)
    training: float = 0.0

    def restart(self) -> None:
        self.started, self.training = time.perf_counter(), 0.0

    def train(self) -> AbstractContextManager[None]:
        return self._count(1)

    def pause(self) -> AbstractContextManager[None]:
        """What the study does inside training is no training."""
        return self._count(-1)

    @contextmanager
    def _count(self, sign: int) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.training += sign * (time.perf_counter() - start)

    @property
    def rest(self) -> float:
        return time.perf_counter() - self.started - self.training


def run(trial: optuna.Trial, values: dict[str, Any], space: Space, place: Place, clock: Clock) -> str:
    """Bring a trial to its end: done, pruned, refused, failed, or broken (failed, and this process cannot train any more);
    or leave it `waiting`, where another process is at its run, or `taken over` by one.

    Nothing that goes wrong in it is raised but DatabaseAway, and a request to stop (SystemExit, KeyboardInterrupt), after
    which the trial waits for the next worker.
    """
    work = _Work(trial, values, space, place, clock)
    try:
        with _heart(trial, space.heartbeat):
            end = work.end()
        work.tell(end)
        return end.word
    except UpdateFinishedTrialError:
        return "taken over"
    except (Held, SystemExit, KeyboardInterrupt) as stop:
        with suppress(UpdateFinishedTrialError):
            work.leave()
        if isinstance(stop, Held):
            return "waiting"
        raise


def costs(config: Config, wanted: set[str]) -> dict[str, float]:
    """The wanted ones of `model/...`, of the untrained network on the CPU. Raises UserError for one that cannot be built."""
    if not wanted:
        return {}
    model = skeleton(config.model, configs.markup_of(config))
    if wanted == {BYTES}:
        return {BYTES: float(predicted_bytes(model))}
    found = {f"{COST}{key}": float(value) for key, value in profiling.cost(model).to_dict().items()}
    return {key: found[key] for key in wanted}


# ---------------------------------------------------------------------------------------------------- inside


class _Refused(Exception):
    """A constraint does not hold."""


@dataclass(frozen=True)
class _End:
    word: str
    state: TrialState
    attributes: dict[str, Any] = field(default_factory=dict)
    values: list[float] | None = None


class _Work:
    """A trial in the making."""

    def __init__(self, trial: optuna.Trial, values: dict[str, Any], space: Space, place: Place, clock: Clock):
        self.trial, self.values, self.space, self.place, self.clock = trial, values, space, place, clock
        frozen = patiently(lambda: trial.study._storage.get_trial(trial._trial_id))
        self.reported = set(frozen.intermediate_values)  # by the worker before, if any
        self.seconds = frozen.user_attrs.get(SECONDS, 0.0)
        self.run_id = frozen.user_attrs.get(RUN, "")
        self._reports = len(space.objectives) == 1  # Optuna takes none where there are several
        self._epochs = 0

    def end(self) -> _End:
        """What the trial comes to."""
        try:
            return _End("done", TrialState.COMPLETE, values=self._objectives())
        except (DatabaseAway, Held, UpdateFinishedTrialError):
            raise
        except _TakenOver as reason:
            raise UpdateFinishedTrialError(str(reason)) from None
        except Abandoned as reason:
            with suppress(UserError):  # no trial is lost for a tag
                track.tag_run(self.place.tracking, self.run_id, {"distill.pruned": str(reason)})
            return _End("pruned", TrialState.PRUNED, {"pruned": str(reason)})
        except _Refused as reason:
            return _End("refused", TrialState.PRUNED, {REFUSED: str(reason)})
        except UserError as error:
            return _End("failed", TrialState.FAIL, {ERROR: str(error)})
        except Exception as error:
            told = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            return _End("broken" if "CUDA error" in told else "failed", TrialState.FAIL, {ERROR: told})

    def tell(self, end: _End) -> None:
        self._note(seconds=round(self.seconds + self.clock.training, 3), **end.attributes)
        self._note(overhead=round(self.clock.rest, 4))
        self.clock.restart()  # the telling itself counts with the next trial
        patiently(lambda: self.trial.study.tell(self.trial, end.values, state=end.state, skip_if_finished=True))

    def leave(self) -> None:
        self._note(seconds=round(self.seconds + self.clock.training, 3))
        put_back(self.trial)

    def _note(self, **attributes: Any) -> None:
        for key, value in attributes.items():
            patiently(lambda key=key, value=value: self.trial.set_user_attr(key, value))

    def _objectives(self) -> list[float]:
        full = self.space.config(self.values, full=True)
        self._note(config=configs.to_dict(full))
        found = self._constrain(full)
        found[NME] = self._train()
        values = [found[name] for name in self.space.objectives]
        for name, value in zip(self.space.objectives, values, strict=True):
            if not math.isfinite(value):
                raise UserError(f"The objective {name} is {value}.")
        return values

    def _constrain(self, full: Config) -> dict[str, float]:
        """Measure the network, tell the sampler how far within its bounds it is. Raises _Refused where it is not."""
        bounds = self.space.constraints
        found = costs(full, {name for name in (*bounds, *self.space.objectives) if name.startswith(COST)})
        told = self.trial.constraints
        for name, bound in bounds.items():
            if name not in told:
                patiently(lambda name=name, bound=bound: self.trial.set_constraint(name, found[name] / bound - 1))
        over = [
            f"{name} is {found[name]:,.6g}, above {bound:,.6g}" for name, bound in bounds.items() if found[name] > bound
        ]
        if over:
            raise _Refused("; ".join(over))
        return found

    def _train(self) -> float:
        """The best validation NME of this trial's run: a new one, or the one that an earlier worker began."""
        config = self._config()
        before = _find(self.place.tracking, self.run_id)
        if before is None:
            return self._call(config)
        if before.status == "FINISHED" and plan.METRIC in before.metrics:  # all but told
            self._adopt(before)
            return before.metrics[plan.METRIC]
        if _PRUNED.match(before.tags.get(GIVEN_UP, "")):
            self._adopt(before)
            raise Abandoned(before.tags[GIVEN_UP])
        if _can_continue(config, before.id):
            self._adopt(before)
            return self._call(replace(config, resume=before.id))
        if before.status == "RUNNING":
            track.end_run(self.place.tracking, before.id, "KILLED")
        return self._call(config)

    def _adopt(self, run: RunInfo) -> None:
        with suppress(UserError):  # no trial is lost for a tag
            track.tag_run(self.place.tracking, run.id, self.place.tags(self.trial))

    def _call(self, config: Config) -> float:
        with self.clock.train():
            return training.train_student(config, Callbacks(self._on_start, self._on_epoch)).report.nme

    def _config(self) -> Config:
        config, place = self.space.config(self.values), self.place
        label = f"{place.study}-{first_number(self.trial):03d}"
        tags = {**config.tracking.tags, **place.tags(self.trial)}
        self._epochs = config.train.epochs
        pinned = place.teacher if config.distill.terms and config.teacher == self.space.base.teacher else ""
        return replace(
            config,
            teacher=pinned or config.teacher,
            train=replace(config.train, threads=config.train.threads or place.threads),
            tracking=replace(config.tracking, run_name=label, tags=tags),
        )

    def _on_start(self, run_id: str) -> None:
        with self.clock.pause():
            self.run_id = run_id
            self._note(run_id=run_id)

    def _on_epoch(self, epoch: int, values: dict[str, float]) -> None:
        with self.clock.pause():
            try:
                self._note(epochs=epoch)
                if self._reports and epoch not in self.reported and math.isfinite(values.get(NME, math.nan)):
                    self._report(epoch, values[NME])
            except UpdateFinishedTrialError:
                raise _TakenOver(f"trial {self.trial.number} was silent, and another worker took it over") from None

    def _report(self, epoch: int, nme: float) -> None:
        patiently(lambda: self.trial.report(nme, epoch))
        if epoch < self._epochs and patiently(self.trial.should_prune):
            raise Abandoned(f"epoch {epoch} of {self._epochs}: {NME} {nme:.4g}")


class _TakenOver(Abandoned):
    """The trial is another worker's now."""


def _find(tracking: TrackingConfig, run_id: str) -> RunInfo | None:
    """An earlier worker's run, where it is in this store."""
    if not run_id:
        return None
    try:
        return track.find_run(tracking, run_id)
    except UserError:
        return None


def _can_continue(config: Config, run_id: str) -> bool:
    """Whether this machine has a checkpoint of the run, and it is of the same training."""
    try:
        state = plan.load_checkpoint(config.tracking, run_id)
        return configs.digest(configs.from_dict(state["config"])) == configs.digest(config)
    except UserError:  # none, damaged, or of another version
        return False


@contextmanager
def _heart(trial: optuna.Trial, seconds: int) -> Iterator[None]:
    """Signs of life of this process while it is at the trial, whatever the database does meanwhile."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(seconds):
            with suppress(Exception):  # the next one may get through; three missed ones are told by the others
                trial.study._storage.record_heartbeat(trial._trial_id)

    thread = threading.Thread(target=beat, name="heart", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
