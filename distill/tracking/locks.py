"""Who is at work on what: lock files, which a kill lets go of."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from distill.errors import UserError


class Held(UserError):
    """Another process holds the lock."""


@contextlib.contextmanager
def exclusive(file: Path, refusal: str, seconds: float = 0) -> Iterator[None]:
    """Be the one process that holds this lock file; wait so long for it (-1: for ever). Raises Held(refusal)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file)
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        raise Held(refusal) from None
    try:
        yield
    finally:
        lock.release()


def hold(work: Path) -> contextlib.AbstractContextManager[None]:
    """While inside, the run with this work folder is this process's. Raises Held if it is another's."""
    refusal = f"Run '{work.name}' is being trained by another process right now."
    return exclusive(work / "lock", refusal, seconds=2)  # `is_held` takes it for a moment


def is_held(work: Path) -> bool:
    """Whether a process is at work on the run with this work folder."""
    if not (work / "lock").exists():
        return False
    try:
        with exclusive(work / "lock", ""):
            return False
    except Held:
        return True
