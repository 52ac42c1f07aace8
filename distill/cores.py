"""The processor cores that this process may use, and threads for work outside the interpreter."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


def available() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def given() -> int:
    """OMP_NUM_THREADS, as torch reads it; 0: not set."""
    found = os.environ.get("OMP_NUM_THREADS", "")
    return int(found) if found.isdigit() else 0


def threads() -> int:
    """How many threads may compute at once: OMP_NUM_THREADS, else one a core."""
    return given() or available()


@contextmanager
def pool(most: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """Threads for work outside the interpreter (decoding, the network, encoding): `threads()`, and at most `most`.

    While inside, OpenCV itself uses one thread. What waits is cancelled on leaving.
    """
    import cv2

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    executor = ThreadPoolExecutor(min(most, threads()) if most else threads())
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)
        cv2.setNumThreads(before)
