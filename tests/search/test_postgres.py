"""A study in a real PostgreSQL server, started here: made by several processes at once, a restart, a kill -9."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from running import REPO
from studies import FakeTraining, Study, at_once, inside_at_once, opened_by_three

from distill import tracking
from distill.errors import UserError
from search import space as spaces
from search import storage, summary

FILE = """
base: {base}
search:
  title: Rates
  trial: {{train.epochs: 12, data.limit: 8, train.checkpoint_seconds: 0.0001}}
  sampler: {{kind: tpe, startup: 2}}
  pruner: {{kind: none}}
  heartbeat: 1
  space: {{train.lr: {{float: [1.0e-4, 2.0e-2], log: true}}}}
"""


class Server:
    """One PostgreSQL server of this machine's own binaries, with a data folder that goes with it."""

    def __init__(self, folder: Path, binaries: Path, user: str | None):
        self.folder, self.binaries, self.user = folder, binaries, user
        self.process: subprocess.Popen | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    def popen(self, program: str, *args: str) -> subprocess.Popen:
        with open(self.folder / "log", "ab") as log:
            return subprocess.Popen(
                [self.binaries / program, *args],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                user=self.user,
                group=self.user,
                extra_groups=[] if self.user else None,
            )

    def make(self) -> None:
        made = self.popen("initdb", "-D", "data", "-A", "trust", "-U", "me", "--no-sync", "--locale=C", "-E", "UTF8")
        assert made.wait(120) == 0, (self.folder / "log").read_text()

    def start(self) -> None:
        self.process = self.popen(
            "postgres",
            "-D",
            "data",
            "-p",
            str(self.port),
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            "fsync=off",
            "-k",
            str(self.folder),
        )
        deadline = time.monotonic() + 120
        while not self._answers():
            assert self.process.poll() is None and time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.1)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)  # "fast": it ends its clients' connections
        self.process.wait(120)

    def database(self, name: str) -> str:
        """URL of a new one; with a password, which such a server does not ask for."""
        import psycopg

        with psycopg.connect(self._at("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql://me:{{secret}}@127.0.0.1:{self.port}/{name}"

    def _at(self, database: str) -> str:
        return f"host=127.0.0.1 port={self.port} user=me dbname={database}"

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self._at("postgres"), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    pytest.importorskip("psycopg", reason="no psycopg, the driver of PostgreSQL")
    places = [Path(path).parent.resolve() for path in [shutil.which("postgres")] if path]
    places += [path.parent for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), reverse=True)]
    place = next((place for place in places if (place / "initdb").exists()), None)
    if place is None:
        pytest.skip("no PostgreSQL server on this machine (Debian: apt install postgresql)")
    user = "postgres" if os.getuid() == 0 else None  # it refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # short, for its socket, and open to its user
    try:
        if user:
            try:
                shutil.chown(folder, user, user)
            except LookupError:
                pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        made = Server(folder, place, user)
        made.make()
        made.start()
        yield made
        made.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def file(tiny, tmp_path) -> Path:
    path = tmp_path / "rates.yaml"
    path.write_text(FILE.format(base=tiny.control_yaml))
    return path


@pytest.mark.slow
def test_several_processes_that_make_the_tables_and_the_study_at_once_make_one(server, file):
    given = server.database("fresh")
    space = spaces.load(file)
    url = storage.url_of(space.base.tracking.store, given)
    assert url.startswith("postgresql+psycopg://") and "{secret}" not in tracking.redact(url)
    assert opened_by_three(file, url, "rates") == [0, 0, 0]
    assert len(storage.find_study("rates", url).trials) == 1  # the recipe, waiting
    with pytest.raises(UserError, match="/absent") as error:
        storage.open_study(space, "rates", url.replace("/fresh", "/absent"))
    assert "secret" not in str(error.value)


@pytest.mark.slow
def test_a_turn_is_one_process_s_at_a_time_and_a_restart_of_the_server_is_survived(server, file, monkeypatch):
    training = FakeTraining(monkeypatch)
    space = spaces.load(file)
    study = Study(file, url=storage.url_of(space.base.tracking.store, server.database("turns")))
    storage.open_study(space, study.name, study.url)
    assert inside_at_once(study.url, study.name, seconds=0.05) == [1, 1, 1, 1]

    def restart() -> None:
        server.stop()
        threading.Timer(1.0, server.start).start()

    training.at[0, 1] = restart
    at_once(lambda number: study.work(5, number), 2)
    assert sorted(set(study.states())) in (["done"], ["done", "retried"]) and study.states().count("done") == 5


@contextmanager
def command(file: Path, url: str, trials: int) -> Iterator[tuple[psutil.Popen, Path]]:
    """`python -m search.study` with two workers, and what it says."""
    log = file.with_suffix(".log")
    args = ["--config", str(file), "--trials", str(trials), "--workers", "2", "--storage", url]
    args += ["--study", file.parent.name]
    environment = os.environ | {"PYTHONPATH": str(REPO), "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "false"}
    with open(log, "ab") as printed:
        process = psutil.Popen(
            [sys.executable, "-m", "search.study", *args, "--out", str(file.parent / "out")],
            cwd=REPO,
            stdout=printed,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    try:
        yield process, log
    finally:
        if process.is_running() and process.poll() is None:
            process.terminate()
            process.wait(120)


def worker_in_mid_trial(runner: psutil.Popen) -> tuple[psutil.Process, str] | None:
    """A worker and the run that it is at, which has a checkpoint: who holds a run has its lock open."""
    for worker in runner.children():
        for opened in worker.open_files():
            run = Path(opened.path).parent
            if Path(opened.path).name == "lock" and (run / "checkpoint.pt").is_file():
                return worker, run.name
    return None


@pytest.mark.slow
def test_a_worker_killed_outright_in_mid_trial_costs_nothing(server, tiny, file):
    url = server.database("killed")
    with command(file, url, trials=4) as (runner, log):
        deadline, found = time.monotonic() + 600, None
        while found is None:
            assert runner.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
            found = worker_in_mid_trial(runner)
        killed, run_id = found
        os.kill(killed.pid, signal.SIGKILL)
        assert runner.wait(600) == 0, log.read_text()

    name = file.parent.name
    rows = summary.rows(storage.find_study(name, storage.url_of(tiny.store, url)))
    assert sorted(row.state for row in rows) == ["done"] * 4 + ["retried"], log.read_text()
    (dead,) = [row for row in rows if row.state == "retried"]
    (copy,) = [row for row in rows if row.run_id == run_id and row.state == "done"]
    assert dead.run_id == run_id and copy.params == dead.params and copy.number > dead.number

    runs = {run.id: run for run in tracking.runs_tagged(tiny.tracking, "student", {"optuna.study": name})}
    done = [row for row in rows if row.state == "done"]
    assert sorted(runs) == sorted(row.run_id for row in done), "every trial has one run, and every run is a trial's"
    for row in done:
        run = runs[row.run_id]
        assert run.status == "FINISHED" and run.tags["optuna.trial"] == str(row.number)
        assert row.value == pytest.approx(run.metrics["best/val/nme"])
        assert [step for step, _ in tracking.metric_history(tiny.tracking, run.id, "val/nme")] == list(range(1, 13))
        assert list(row.trial.intermediate_values) == list(range(1, 13))
    assert "distill.resumed" in runs[run_id].tags, "it went on from its checkpoint"
    (parent,) = tracking.runs_tagged(tiny.tracking, "study", {"distill.study": name})
    assert parent.status == "FINISHED" and {run.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.id}
    assert parent.tags["optuna.storage"].count("secret") == 0
