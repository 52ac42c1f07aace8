"""What is promised of a study's database, whichever it is: asked of an sqlite file and of a PostgreSQL server."""

from __future__ import annotations

import multiprocessing
import threading
import time
from pathlib import Path

from search import space as spaces
from search import storage


def opened_by_three(file: Path, url: str, name: str) -> list[int]:
    """Exit codes of three processes that open one study at once."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_open, args=(file, url, name)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def _open(file: Path, url: str, name: str) -> None:
    storage.open_study(spaces.load(file), name, url)


def inside_at_once(url: str, name: str, seconds: float) -> list[int]:
    """How many of four threads each found in their turn, itself among them; a turn takes some seconds."""
    inside, most = [], []

    def one():
        with storage.turn(url, name):
            inside.append(1)
            most.append(len(inside))
            time.sleep(seconds)
            inside.pop()

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return most
