"""Which machine runs which training of a grid, over all machines that share a database.

An Optuna study holds a trial for each training that a machine has begun: its parameters are cell and seed, its value
val/nme. A machine that dies leaves a trial without heartbeats; the next machine that looks fails it and takes over.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, suppress
from typing import Self

import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from distill.ablation.file import Grid
from distill.ablation.job import Claims
from distill.runs.workers import Task
from search import storage

HEARTBEAT = 30  # seconds
TRAINING, BEGUN = "training", "begun"  # a trial's attributes: the training's key; set once it has had a heartbeat


class SharedClaims(Claims):
    """A machine's part in a grid: `take` a training before it starts, `end` it afterwards."""

    def __init__(self, grid: Grid, url: str, heartbeat: int = HEARTBEAT):
        """Raises UserError for a database that cannot be used."""
        self.name, self.url = f"grid {grid.name} {grid.digest}", url
        self.study, self.storage = storage.open_claims(self.name, url, heartbeat)
        self.place = self.storage.get_study_id_from_name(self.name)
        cells = (*(f"teacher {name}" for name in grid.teachers), *grid.cells)
        self.parameters = {"cell": CategoricalDistribution(cells), "seed": IntDistribution(0, 2**63 - 1)}
        self.held: dict[str, int] = {}  # key of a training -> trial id
        self.over = threading.Event()
        self.beats = threading.Thread(target=self._beat, args=(heartbeat,), daemon=True)

    def __enter__(self) -> Self:
        self.beats.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Give up what is held, for others to take over."""
        self.over.set()
        self.beats.join()
        for key in list(self.held):
            self._end(key, None)

    def turn(self) -> AbstractContextManager[None]:
        """Be the one process, over all machines, that does what one at a time must do to this grid."""
        return storage.turn(self.url, self.name)

    def take(self, task: Task) -> bool:
        """Whether this machine has claimed the training; False while another one runs it. Raises DatabaseAway."""
        return task.identity.key in self.held or storage.patiently(lambda: self._take(task))

    def end(self, task: Task, nme: float | None) -> None:
        """What became of a training; None: it failed. Raises DatabaseAway."""
        self._end(task.identity.key, nme)

    def _take(self, task: Task) -> bool:
        key = task.identity.key
        with self.turn():
            storage.fail_dead(self.study, lambda trial: BEGUN in trial.user_attrs)
            running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            if any(trial.user_attrs[TRAINING] == key for trial in running):
                return False
            trial = optuna.trial.create_trial(
                state=TrialState.RUNNING,
                params={"cell": task.cell.name, "seed": task.cell.config.seed},
                distributions=self.parameters,
                user_attrs={TRAINING: key},
            )
            number = self.storage.create_new_trial(self.place, trial)
            self.storage.record_heartbeat(number)
            self.storage.set_trial_user_attr(number, BEGUN, True)
        self.held[key] = number
        return True

    def _end(self, key: str, nme: float | None) -> None:
        number = self.held.pop(key, None)
        if number is None:
            return
        state, values = (TrialState.FAIL, None) if nme is None else (TrialState.COMPLETE, [nme])
        with suppress(UpdateFinishedTrialError):  # we were silent for too long, and another machine has failed it
            storage.patiently(lambda: self.storage.set_trial_state_values(number, state, values))

    def _beat(self, seconds: int) -> None:
        while not self.over.wait(seconds):
            for number in list(self.held.values()):
                self.storage.record_heartbeat(number)
