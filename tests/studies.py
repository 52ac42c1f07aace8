"""Small studies for the tests of the search, which take its fixtures by `pytest_plugins = ["studies"]`.

PYTEST_DONT_REWRITE: it is imported before it is a plugin.
"""

from __future__ import annotations

import multiprocessing
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy
from optuna.storages import RDBStorage

from distill.tracking import RunInfo
from search import objective, storage, summary, worker
from search import space as spaces

BASE = """
name: base
model: {backbone: lcnet_050, input_size: 64, head: {stride: 8, width: 16}}
train: {epochs: 9, lr: 0.002}
"""
SEARCH = """
base: base.yaml
search:
  title: Rates
  trial: {train.epochs: 3}
  sampler: {kind: random}
  pruner: {kind: none}
  heartbeat: 1
  retries: 2
  space: {train.lr: {float: [1e-4, 2e-2], log: true}}
"""


def write_search(folder: Path, *changes: tuple[str, str]) -> Path:
    """A search file and its base in a folder that is also the store; (old, new) are put in place of its parts."""
    text = SEARCH
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "base.yaml").write_text(f"{BASE}tracking: {{store: '{folder}'}}\n")
    (folder / "rates.yaml").write_text(text)
    return folder / "rates.yaml"


class Killed(BaseException):
    """Ends a worker where it is, as kill -9 does: nothing catches it."""


class FakeTraining:
    """In place of distill.training.job.train_student and of the runs that it leaves: val/nme 5 + 3 / epoch, at once.

    at: (number of the training, epoch) -> what happens after this epoch. value: instead of the last epoch's.
    """

    def __init__(self, monkeypatch):
        self.configs, self.at, self.runs, self.value = [], {}, {}, None
        monkeypatch.setattr(objective, "train_student", self.train)
        monkeypatch.setattr(objective._Attempt, "_find", lambda _attempt, run_id: self.runs.get(run_id))
        monkeypatch.setattr(objective._Attempt, "_tag", lambda _attempt, run_id, tags: None)
        monkeypatch.setattr(objective, "_can_continue", lambda config, run_id: True)

    def train(self, config, watch):
        number = len(self.configs)
        self.configs.append(config)
        run = config.resume or f"{number:032x}"
        trained = self.runs[run].metrics["epoch"] if config.resume else 0
        watch.on_start(run)
        for epoch in range(trained + 1, config.train.epochs + 1):
            self.runs[run] = info(run, "KILLED", epoch=epoch)
            watch.on_epoch(epoch, {"val/nme": 5 + 3 / epoch})
            self.at.get((number, epoch), lambda: None)()
        nme = 6.0 if self.value is None else self.value
        self.runs[run] = info(run, "FINISHED", **{"best/val/nme": nme})
        return SimpleNamespace(report=SimpleNamespace(nme=nme))


def info(run: str, status: str, **metrics: float) -> RunInfo:
    return RunInfo(id=run, name="", job="student", tags={}, params={}, metrics=metrics, status=status)


class Study:
    """A study in an sqlite file of its own, whose trials are trained in this process."""

    def __init__(self, file: Path, name: str = "rates", url: str = ""):
        self.file, self.name, self.url = file, name, url or storage.url_of(file.parent)

    @property
    def space(self) -> spaces.Space:
        return spaces.load(self.file)

    def work(self, trials: int, number: int = 0) -> list[summary.TrialRow]:
        """What a worker does, until the study has so many trials; its rows."""
        worker.work(
            worker.Spec(0, str(self.file), [], self.name, trials, number, "parent", "", 1), self.space, self.url
        )
        return self.rows()

    def rows(self) -> list[summary.TrialRow]:
        return summary.rows(storage.find_study(self.name, self.url), self.space)

    def states(self) -> list[str]:
        return [row.state for row in self.rows()]

    def silence(self) -> None:
        """As if every worker had been silent for an hour."""
        with sqlalchemy.create_engine(self.url).begin() as connection:
            connection.execute(sqlalchemy.text("UPDATE trial_heartbeats SET heartbeat = datetime('now', '-1 hour')"))


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory) -> Path:
    """An sqlite file with Optuna's tables, made once: a second of CPU that each test would spend again."""
    file = tmp_path_factory.mktemp("database") / "optuna.db"
    RDBStorage(f"sqlite:///{file}").remove_session()
    return file


@pytest.fixture
def study(tmp_path, empty_database) -> Study:
    """One that nobody has opened yet."""
    shutil.copy(empty_database, tmp_path)
    return Study(write_search(tmp_path))


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


def at_once(deed: Callable[[int], None], count: int) -> None:
    """Have threads do something at once, each with its number; an error in one is raised."""
    errors: list[BaseException] = []

    def one(number: int) -> None:
        try:
            deed(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def inside_at_once(url: str, name: str, seconds: float) -> list[int]:
    """How many of four threads each found in their turn, itself among them; a turn takes some seconds."""
    inside, most = [], []

    def one(_number: int) -> None:
        with storage.turn(url, name):
            inside.append(1)
            most.append(len(inside))
            time.sleep(seconds)
            inside.pop()

    at_once(one, 4)
    return most
