"""One trial: refused at no cost, or trained by the command line's own function, reported and pruned by epoch."""

from __future__ import annotations

import math
import re
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NoReturn

import optuna
from optuna.exceptions import UpdateFinishedTrialError

from distill import config as configs
from distill import profiling
from distill import tracking as track
from distill.config import Config, TrackingConfig
from distill.errors import UserError
from distill.models.files import predicted_bytes
from distill.models.landmarker import skeleton
from distill.runs.find_or_train import METRIC, load_checkpoint
from distill.tracking import RunInfo
from distill.training.job import Callbacks, train_student
from distill.training.loop import Abandoned
from search.space import NME, Space
from search.storage import DatabaseAway, patiently
from search.summary import ERROR, PRUNED, REFUSED, RUN, STOPPED, first_number

COST = "model/"  # metrics of this kind are those of the network at full length, measured before it is trained
BYTES = "model/file_bytes"
GIVEN_UP = "distill.abandoned"  # the tag of a run that its watch gave up
PAUSE = 1.0  # seconds between looks at a run that another process holds
_PRUNED = re.compile(r"epoch \d+ of \d+: ")


class Failed(Exception):
    """This trial failed; others may not."""


class Broken(Exception):
    """This trial failed, and this process cannot train any more."""


class Stopped(Exception):
    """This process is to end; the trial goes on with the next worker. `code`: the exit code."""

    def __init__(self, request: BaseException):
        super().__init__("stopped")
        self.code = getattr(request, "code", 130)


@dataclass(frozen=True)
class Place:
    """What a worker's trainings share: where they are kept, what they are part of, what of the machine is theirs."""

    tracking: TrackingConfig
    study: str
    parent: str  # run id of the study
    teacher: str = ""  # that the study began with, where the search file leaves it open
    threads: int = 0


def evaluate(trial: optuna.Trial, point: dict[str, Any], space: Space, place: Place) -> list[float]:
    """The objectives of a trial: Optuna's objective function, for a point of the space.

    Raises TrialPruned for a refused trial (the reason is its attribute `refused`) and a pruned one (`pruned`), Failed
    or Broken for one that went wrong (`error`), Stopped where this process is to end, DatabaseAway, and
    UpdateFinishedTrialError where another worker took the trial over.
    """
    try:
        return _Attempt(trial, space, place).objectives(point)
    except (optuna.TrialPruned, DatabaseAway, UpdateFinishedTrialError):
        raise
    except (SystemExit, KeyboardInterrupt) as request:
        with suppress(Exception):  # the trial is recovered in any case, once its worker was silent for long
            trial.set_user_attr(STOPPED, trial.number)
        raise Stopped(request) from request
    except Exception as error:
        why = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}".strip().splitlines()[0]
        patiently(lambda: trial.set_user_attr(ERROR, why))
        raise (Broken if "CUDA error" in why else Failed)(why) from error


def costs(config: Config, wanted: set[str]) -> dict[str, float]:
    """The wanted ones of `model/...`, of the untrained network on the CPU. Raises UserError for an impossible one."""
    if not wanted:
        return {}
    model = skeleton(config.model, configs.markup_of(config))
    if wanted == {BYTES}:
        return {BYTES: float(predicted_bytes(model))}
    found = {f"{COST}{key}": float(value) for key, value in profiling.cost(model).to_dict().items()}
    return {key: found[key] for key in wanted}


# ---------------------------------------------------------------------------------------------------- inside


class _Attempt:
    """This process's attempt at a trial, which an earlier worker may have begun."""

    def __init__(self, trial: optuna.Trial, space: Space, place: Place):
        self.trial, self.space, self.place = trial, space, place
        self.frozen = trial.study.get_trials(deepcopy=False)[trial.number]  # as it began here
        self.epochs = 0

    def objectives(self, point: dict[str, Any]) -> list[float]:
        full = self.space.config(point, full=True)
        self._note(config=configs.to_dict(full))
        found = self._constrained(full)
        found[NME] = self._trained(self._config(point))
        for name in self.space.search.objectives:
            if not math.isfinite(found[name]):
                raise UserError(f"The objective {name} is {found[name]}.")
        return [found[name] for name in self.space.search.objectives]

    def _constrained(self, full: Config) -> dict[str, float]:
        """The network's costs; the sampler gets their distance from the bounds. Raises TrialPruned beyond one."""
        bounds = self.space.search.constraints
        found = costs(full, {name for name in (*bounds, *self.space.search.objectives) if name.startswith(COST)})
        for name in bounds.keys() - self.trial.constraints.keys():
            patiently(partial(self.trial.set_constraint, name, found[name] / bounds[name] - 1))
        over = [
            f"{name} is {found[name]:,.6g}, above {most:,.6g}" for name, most in bounds.items() if found[name] > most
        ]
        if over:
            self._note(**{REFUSED: "; ".join(over)})
            raise optuna.TrialPruned(over[0])
        return found

    def _config(self, point: dict[str, Any]) -> Config:
        """What is trained: the point's config in its place, as part of the study."""
        config, place = self.space.config(point), self.place
        self.epochs = config.train.epochs
        pinned = place.teacher if config.distill.terms and config.teacher == self.space.base.teacher else ""
        return replace(
            config,
            teacher=pinned or config.teacher,
            train=replace(config.train, threads=config.train.threads or place.threads),
            tracking=replace(
                config.tracking,
                run_name=f"{place.study}-{first_number(self.frozen):03d}",
                tags={**config.tracking.tags, **self._tags()},
            ),
        )

    def _trained(self, config: Config) -> float:
        """The best validation NME of this trial's run: a new run, or the one that an earlier worker began."""
        run_id = str(self.frozen.user_attrs.get(RUN) or "")
        while run_id and track.is_held(track.store_root(self.place.tracking) / "work" / run_id):
            time.sleep(PAUSE)  # its worker was silent but is running; it will find the trial taken over
        before = self._find(run_id)
        if before is None:
            return self._train(config)
        finished = before.status == "FINISHED" and METRIC in before.metrics
        given_up = before.tags.get(GIVEN_UP, "") if _PRUNED.match(before.tags.get(GIVEN_UP, "")) else ""
        continues = not finished and not given_up and _can_continue(config, run_id)
        if finished or given_up or continues:
            self._tag(run_id, self._tags())
        elif before.status == "RUNNING":
            track.end_run(self.place.tracking, run_id, "KILLED")
        if given_up:
            self._prune(given_up)
        if finished:
            return before.metrics[METRIC]
        return self._train(replace(config, resume=run_id) if continues else config)

    def _train(self, config: Config) -> float:
        try:
            return train_student(config, Callbacks(self._on_start, self._on_epoch)).report.nme
        except _TakenOver as reason:
            raise UpdateFinishedTrialError(str(reason)) from None
        except Abandoned as reason:
            self._tag(self.trial.user_attrs[RUN], {"distill.pruned": str(reason)})
            self._prune(str(reason))

    def _on_start(self, run_id: str) -> None:
        self._note(**{RUN: run_id})

    def _on_epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        nme = metrics.get(NME, math.nan)
        try:
            self._note(epochs=epoch)
            # Optuna takes no reports where there are several objectives, and none twice
            if (
                len(self.space.search.objectives) > 1
                or epoch in self.frozen.intermediate_values
                or not math.isfinite(nme)
            ):
                return
            patiently(lambda: self.trial.report(nme, epoch))
            prune = epoch < self.epochs and patiently(self.trial.should_prune)
        except UpdateFinishedTrialError:
            raise _TakenOver(f"trial {self.trial.number} was silent, and another worker took it over") from None
        if prune:
            raise Abandoned(f"epoch {epoch} of {self.epochs}: {NME} {nme:.4g}")

    def _prune(self, why: str) -> NoReturn:
        self._note(**{PRUNED: why})
        raise optuna.TrialPruned(why)

    def _note(self, **attributes: Any) -> None:
        for key, value in attributes.items():
            patiently(partial(self.trial.set_user_attr, key, value))

    def _tags(self) -> dict[str, str]:
        study, number = self.place.study, str(self.trial.number)
        return {
            "mlflow.parentRunId": self.place.parent,
            "distill.study": study,
            "optuna.study": study,
            "optuna.trial": number,
        }

    def _tag(self, run_id: str, tags: dict[str, str]) -> None:
        with suppress(UserError):  # no trial is lost for a tag
            track.tag_run(self.place.tracking, run_id, tags)

    def _find(self, run_id: str) -> RunInfo | None:
        """An earlier worker's run, where it is in this store."""
        try:
            return track.find_run(self.place.tracking, run_id) if run_id else None
        except UserError:
            return None


class _TakenOver(Abandoned):
    """The trial is another worker's now."""


def _can_continue(config: Config, run_id: str) -> bool:
    """Whether this machine has a checkpoint of the run, and it is of the same training."""
    try:
        state = load_checkpoint(config.tracking, run_id)
        return configs.digest(configs.from_dict(state["config"])) == configs.digest(config)
    except UserError:  # none, damaged, or of another version
        return False
