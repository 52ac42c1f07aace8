"""A worker of a study: it asks for trials and trains them, one after the other, until as many as wanted have ended.

`python -m search.worker SPEC` is what `search.runner` starts; not for people.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from distill import cli
from distill.errors import UserError

if TYPE_CHECKING:
    from search.space import Space

URL = "SEARCH_STORAGE"  # environment, for a URL may hold a password
PAUSE = 1.0  # seconds between looks at a study whose last trials are others'
MOST_REFUSED = 20  # in a row


@dataclass(frozen=True)
class Spec:
    """What a runner tells its worker."""

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
    spec = Spec(**json.loads(Path(argv[0]).read_text(encoding="utf-8")))

    from distill.runs import workers as pool
    from search import space as spaces

    pool.follow(spec.runner)
    work_off(spec, spaces.load(spec.file, spec.overrides), os.environ[URL])


def work_off(spec: Spec, space: Space, url: str) -> None:
    """Train until the study has `spec.trials` trials. Waits while others are at the last ones, to take over a dead one's.

    Raises UserError where the database goes away, or all that is drawn is refused; SystemExit where this process cannot train
    any more.
    """
    from search import objective, queue, storage

    study = storage.open_study(space, spec.study, url, spec.worker)
    place = objective.Place(space.base.tracking, spec.study, spec.parent, spec.teacher, spec.threads)
    clock, refused = objective.Clock(), 0
    while True:
        found = queue.take(study, space, spec.trials, url, place.tracking)
        if found.complete:
            return
        end = "waiting" if found.trial is None else objective.run(found.trial, found.values, space, place, clock)
        if end == "waiting":
            time.sleep(PAUSE)
            clock.restart()
            continue
        if end == "broken":
            sys.exit(1)
        refused = refused + 1 if end == "refused" else 0
        if refused == MOST_REFUSED:
            raise UserError(
                f"{space.path}: {refused} configurations in a row were refused by 'search.constraints'; expected bounds that "
                f"more of the space keeps."
            )


if __name__ == "__main__":
    cli.run(main)
