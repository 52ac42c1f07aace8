"""A worker of a study: trains trials, one after the other, until as many as wanted have ended.

`python -m search.worker SPEC` is what `search.runner` starts; not a command for users.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import time
import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from distill import cli
from distill.errors import UserError

if TYPE_CHECKING:
    import optuna

    from search.objective import Place
    from search.space import Space
    from search.summary import Tally

URL = "SEARCH_STORAGE"  # environment, for a URL may hold a password
PAUSE = 1.0  # seconds between looks at a study whose last trials are others'
MOST_REFUSED = 20  # in a row
BEGUN = "begun"  # a trial's attribute: the number under which a worker has it


@dataclass(frozen=True)
class Spec:
    """What a runner passes to its worker."""

    runner: int  # process id
    file: str
    overrides: list[str]
    study: str
    trials: int
    worker: int  # number, over all machines
    parent: str
    teacher: str
    threads: int


def main(argv: list[str]) -> None:
    """Do the work of a spec file."""
    spec = Spec(**json.loads(Path(argv[0]).read_text(encoding="utf-8")))

    from distill.runs import workers
    from search.space import load

    workers.follow(spec.runner)
    work(spec, load(spec.file, spec.overrides), os.environ[URL])


def work(spec: Spec, space: Space, url: str) -> None:
    """Train until the study has `spec.trials` trials. Waits while others are at the last ones, to take over a dead
    one's.

    Raises UserError where the database goes away, or all that is drawn is refused; SystemExit where this process is
    stopped, or cannot train any more.
    """
    from distill import tracking as track
    from search import storage
    from search.objective import Broken, Place, Stopped

    # the command has opened it before; its server may have gone away since
    opened = partial(storage.open_study, space, spec.study, url, spec.worker)
    study = track.retried(opened, storage.DatabaseAway, storage.PATIENCE)
    place, refused = Place(space.base.tracking, spec.study, spec.parent, spec.teacher, spec.threads), 0
    while True:
        try:
            found, ended = run_next(study, space, place, spec.trials, url)
        except storage.ERRORS:  # until it answers; a trial whose end was not stored is recovered
            storage.patiently(lambda: study.get_trials(deepcopy=False))
            continue
        except Stopped as stopped:
            sys.exit(stopped.code)
        except Broken:
            sys.exit(1)
        if found.ended >= spec.trials:
            return
        if ended is None:
            time.sleep(PAUSE)
            continue
        refused = refused + 1 if ended == "refused" else 0
        if refused == MOST_REFUSED:
            raise UserError(
                f"{space.path}: {refused} configurations in a row were refused by 'search.constraints'; expected "
                "bounds that more of the space keeps."
            )


def run_next(study: optuna.Study, space: Space, place: Place, total: int, url: str) -> tuple[Tally, str | None]:
    """Train the study's next trial: one that was interrupted, one that is enqueued, or one that the sampler draws.

    One process at a time, over all machines, recovers, counts and draws, so that a study gets exactly `total` trials.
    Returns what had ended before, and the trial's state; None where as many as wanted have ended or are running.
    """
    from optuna.trial import TrialState

    from search import objective, storage, summary
    from search.space import suggest

    with ExitStack() as turn:
        turn.enter_context(storage.turn(url, study.study_name))
        _recover(study, space)
        found = summary.tally(summary.rows(study, space))
        if found.ended + found.running >= total:
            return found, None
        begun = []

        def train(trial: optuna.Trial) -> list[float]:
            point = suggest(trial, space)
            trial.set_user_attr(BEGUN, trial.number)
            begun.append(trial.number)
            turn.close()
            return objective.evaluate(trial, point, space, place)

        try:
            study.optimize(train, n_trials=1, catch=(objective.Failed,))
        except ValueError:  # Optuna's, for the end of a trial that has ended
            if not begun or study.get_trials(deepcopy=False)[begun[0]].state != TrialState.FAIL:
                raise
        return found, summary.rows(study, space)[begun[0]].state


def _recover(study: optuna.Study, space: Space) -> None:
    """Enqueue copies of the trials of stopped and of dead workers; to be called in one's turn."""
    from optuna.exceptions import ExperimentalWarning
    from optuna.storages import RetryHeartbeatStaleTrialCallback

    from search import storage, summary

    def begun(trial: optuna.trial.FrozenTrial) -> bool:
        about = trial.user_attrs
        return about.get(BEGUN, trial.number if summary.RUN in about else None) == trial.number

    storage.fail_dead(study, begun)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        retry = RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)
        for row in summary.rows(study, space):
            if row.state == "interrupted":
                retry(study, copy.deepcopy(row.trial))


if __name__ == "__main__":
    cli.run(main)
