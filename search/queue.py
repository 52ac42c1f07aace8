"""Which trial comes next: what dead workers left, what is enqueued, then what the sampler draws; and how many are done.

A trial is one of the study's N once it has ended: complete, pruned, or failed by an error. A refused one is not. One whose
worker died (Optuna: FAIL, without an `error`) goes on as a copy that keeps its values, reports and run; of such a chain only
the last one counts. All of this is read from the database each time, so a process may die anywhere in it.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from distill import tracking as track
from distill.config import TrackingConfig
from search import sampling
from search.space import Space
from search.storage import patiently, turn

RETRY_OF, RUN, ERROR, REFUSED = "retry_of", "run_id", "error", "refused"  # attributes of a trial
RUNG = "completed_rung_"  # a pruner's notes, which hold for the number of a trial and not for its copy's


@dataclass(frozen=True)
class Tally:
    """How many of a study's trials are what."""

    ended: int
    running: int

    def is_complete(self, total: int) -> bool:
        return self.ended >= total


@dataclass(frozen=True)
class Next:
    """What a worker's turn came to: a trial of its own, or none now; `complete`: none ever."""

    trial: optuna.Trial | None
    values: dict[str, Any]
    complete: bool


def take(study: optuna.Study, space: Space, total: int, url: str, tracking: TrackingConfig) -> Next:
    """The next trial, which is running then and this process's.

    No trial: as many as are wanted have ended, or will once those that run have.
    """
    return patiently(lambda: _take(study, space, total, url, tracking))


def tally(study: optuna.Study) -> Tally:
    trials = study.get_trials(deepcopy=False)
    last = {chain[-1].number for chain in _chains(trials).values()}
    ended = [trial for trial in trials if trial.number in last and _has_ended(trial)]
    return Tally(len(ended), sum(trial.state == TrialState.RUNNING for trial in trials))


def put_back(trial: optuna.Trial) -> None:
    """Leave a trial to whoever comes next; it keeps its number, values, reports and run."""
    patiently(lambda: trial.study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING))


def first_number(trial: optuna.Trial | FrozenTrial) -> int:
    """Of the chain of copies that a trial is in."""
    return trial.user_attrs.get(RETRY_OF, trial.number)


# ---------------------------------------------------------------------------------------------------- inside


def _take(study: optuna.Study, space: Space, total: int, url: str, tracking: TrackingConfig) -> Next:
    with turn(url, study.study_name):
        _take_over(study, space.retries, tracking)
        found = tally(study)
        if found.ended + found.running >= total:
            return Next(None, {}, found.is_complete(total))
        waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        if not waiting:
            study.enqueue_trial({})  # one that the sampler draws
            waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        first = waiting[0]._trial_id
        # The heart beats before the trial runs: whoever is killed in between leaves none that runs for ever.
        study._storage.record_heartbeat(first)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that heartbeats were meant for Optuna's own loop
                trial = study.ask()
                return Next(trial, sampling.suggest(trial, space), False)
        except (SystemExit, KeyboardInterrupt):
            study._storage.set_trial_state_values(first, TrialState.WAITING)
            raise


def _take_over(study: optuna.Study, retries: int, tracking: TrackingConfig) -> None:
    """Enqueue the trials of dead workers again, each at most `retries` times."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        work = track.store_root(tracking) / "work" / str(trial.user_attrs.get(RUN))
        if track.is_held(work):  # silent or not (the machine slept), its process lives
            study._storage.record_heartbeat(trial._trial_id)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        fail_stale_trials(study)
    for first, chain in _chains(study.get_trials(deepcopy=False)).items():
        if _is_dead(chain[-1]) and len(chain) <= retries:
            study.add_trial(_copy(chain[-1], first))


def _copy(trial: FrozenTrial, first: int) -> FrozenTrial:
    known: dict[str, BaseDistribution] = trial.distributions
    return optuna.create_trial(
        state=TrialState.WAITING,
        params=trial.params,
        distributions=known,
        user_attrs={**trial.user_attrs, RETRY_OF: first},
        system_attrs={key: value for key, value in trial.system_attrs.items() if not key.startswith(RUNG)},
        intermediate_values=trial.intermediate_values,
    )


def _chains(trials: list[FrozenTrial]) -> dict[int, list[FrozenTrial]]:
    """First number -> the trial and its copies, by number."""
    chains: dict[int, list[FrozenTrial]] = {}
    for trial in trials:
        chains.setdefault(first_number(trial), []).append(trial)
    return chains


def _is_dead(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.FAIL and ERROR not in trial.user_attrs


def _has_ended(trial: FrozenTrial) -> bool:
    return trial.state.is_finished() and REFUSED not in trial.user_attrs
