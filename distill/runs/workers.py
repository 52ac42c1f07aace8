"""Trainings in processes of their own, several at a time, each with its part of the machine.

A worker sits in a session of its own, so that Ctrl-C reaches the runner alone, which then signals every worker once to
save and stop; and it watches its runner, to do the same when that is killed. The workers here are `python -m
distill.ablation cell SPEC`, one a training; `launch`, `follow`, `why` and `stop` serve others too.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill import cores
from distill.files import write_text

if TYPE_CHECKING:
    from distill.runs.find_or_train import Cell, Identity, Outcome

BUSY = 75  # exit code of a worker that found another process at its training
PATIENCE = 5.0  # seconds before a training that another process is at is looked at again
GLANCE = 0.2  # seconds between looks at the workers


@dataclass(frozen=True)
class Task:
    """A training for a worker."""

    cell: Cell
    identity: Identity
    tags: dict[str, str]
    log: Path  # of its workers, one after the other


@dataclass(frozen=True)
class Share:
    """What one of several workers at a time has of the machine."""

    threads: int
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Process:
    """A worker as its runner sees it."""

    popen: subprocess.Popen
    log: Path
    log_start: int  # where in the log its own output begins


@dataclass(frozen=True)
class Ended:
    """What became of a task."""

    task: Task
    outcome: Outcome | None  # None: it failed
    error: str = ""


def shares(workers: int, device: str, gpus: int) -> list[Share]:
    """The machine in equal parts: its cores, and its GPUs in turn. workers: parts, 0: one a GPU, or one; device: auto,
    cpu or cuda."""
    workers = workers or max(1, gpus if device != "cpu" else 1)
    threads = max(1, cores.threads() // workers)
    common = {"OMP_NUM_THREADS": str(threads)}
    names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    names = names or [str(index) for index in range(gpus)]
    if device == "cpu" or gpus < 2:
        return [Share(threads, common)] * workers
    return [Share(threads, {**common, "CUDA_VISIBLE_DEVICES": names[i % len(names)]}) for i in range(workers)]


def work_off(
    tasks: Sequence[Task], parts: Sequence[Share], is_busy: Callable[[Task], bool], on_end: Callable[[Ended], None]
) -> None:
    """Run every task, in this order, as many at a time as there are parts; `on_end` is called with each.

    A task that another process is at waits until that one is through. However this call ends, its workers are signalled
    to save and waited for.
    """
    waiting = [(task, 0.0) for task in tasks]  # with the moment from which on it may be tried
    live: dict[int, tuple[Task, Process]] = {}  # by part
    try:
        while waiting or live:
            for part in [i for i in range(len(parts)) if i not in live]:
                ready = next((i for i, (_, after) in enumerate(waiting) if after <= time.monotonic()), None)
                if ready is None:
                    break
                task, _ = waiting.pop(ready)
                if is_busy(task):
                    waiting.append((task, time.monotonic() + PATIENCE))
                else:
                    live[part] = task, _start(task, parts[part])
            time.sleep(GLANCE)
            for part, (task, process) in list(live.items()):
                code = process.popen.poll()
                if code is None:
                    continue
                del live[part]
                if code == BUSY:
                    waiting.append((task, time.monotonic() + PATIENCE))
                else:
                    on_end(_ended(task, process))
    finally:
        stop(process for _, process in live.values())
        for task, _ in live.values():
            _forget(task)


def work(spec_file: Path) -> None:
    """The body of a worker process. Exit code BUSY: another process is at this training."""
    spec = json.loads(spec_file.read_text(encoding="utf-8"))
    follow(spec["runner"])

    from distill import config as configs
    from distill.runs import find_or_train
    from distill.tracking import Held

    cell = find_or_train.Cell(spec["name"], spec["job"], configs.from_dict(spec["config"]))
    try:
        outcome = find_or_train.settle(cell, spec["tags"], wait=False)
    except Held:
        sys.exit(BUSY)
    write(Path(spec["result"]), dataclasses.asdict(outcome))


# ---------------------------------------------------------------------------------------------------- any worker


def launch(command: Sequence[str], share: Share, log: Path, secrets: dict[str, str] | None = None) -> Process:
    """Start `python -m COMMAND` with its share of the machine. secrets: environment that no other user can read."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as file:
        start = file.tell()
        popen = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **share.environment, **(secrets or {})},
        )
    return Process(popen, log, start)


def follow(runner: int) -> None:
    """In a worker: stop, as on a signal, once the runner is gone."""

    def watch() -> None:
        while os.getppid() == runner:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def stop(processes: Iterable[Process]) -> None:
    """Signal each once, for a second signal would not let it save; and wait for all."""
    processes = list(processes)
    for process in processes:
        process.popen.terminate()
    for process in processes:
        process.popen.wait()


def why(process: Process) -> str:
    """Why a worker failed, from its exit code and log."""
    reason = last_words(process.log, process.log_start)
    code = process.popen.returncode
    return f"ended by {signal.Signals(-code).name} after: {reason}" if code < 0 else reason


def write(file: Path, value: dict[str, Any]) -> None:
    """Keys stay in their order: that of terms and photometric steps is part of what a config computes."""
    write_text(file, json.dumps(value))


def last_words(log: Path, start: int = 0) -> str:
    """The line of a worker's log, from byte `start` on, that gives the error."""
    try:
        text = log.read_bytes()[start:].decode(errors="replace")
    except OSError:
        return "it left no log"
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or ["its log is empty"])[-1].removeprefix("error: ")


# ---------------------------------------------------------------------------------------------------- inside


def _start(task: Task, share: Share) -> Process:
    from distill import config as configs

    config = task.cell.config
    train = dataclasses.replace(config.train, threads=config.train.threads or share.threads)
    spec: dict[str, Any] = {
        "runner": os.getpid(),
        "name": task.cell.name,
        "job": task.cell.job,
        "config": configs.to_dict(dataclasses.replace(config, train=train)),
        "tags": task.tags,
        "result": str(_beside(task.log, "result")),
    }
    write(_beside(task.log, "spec"), spec)
    return launch(["distill.ablation", "cell", str(_beside(task.log, "spec"))], share, task.log)


def _ended(task: Task, process: Process) -> Ended:
    from distill.runs.find_or_train import Outcome

    outcome, file = None, _beside(task.log, "result")
    if process.popen.returncode == 0 and file.is_file():
        outcome = Outcome(**json.loads(file.read_text(encoding="utf-8")))
    _forget(task)
    return Ended(task, outcome, "" if outcome else why(process))


def _beside(log: Path, kind: str) -> Path:
    """Files by which this runner and its worker communicate; another runner of the same file has its own."""
    return log.with_name(f"{log.name}.{os.getpid()}.{kind}.json")


def _forget(task: Task) -> None:
    for kind in ("spec", "result"):
        _beside(task.log, kind).unlink(missing_ok=True)
