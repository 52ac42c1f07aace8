"""Ends before the end: Ctrl-C and SIGTERM as a request (the loop saves first and leaves then), and giving up."""

from __future__ import annotations

import signal
from types import FrameType


class Interrupted(SystemExit):
    """Training was asked to stop and has saved. Exit code 128 + signal, as a shell expects."""

    def __init__(self, number: int):
        super().__init__(128 + number)
        self.signal = signal.Signals(number)


class Abandoned(Exception):
    """Whoever watches a training found it not worth going on, and says why."""


class StopRequest:
    """Context manager: while inside, the first SIGINT or SIGTERM sets `signal`; a second one acts as usual at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread (a search may train in one): signals are not ours there
                pass
        return self

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def __exit__(self, *_: object) -> None:
        self._restore()
