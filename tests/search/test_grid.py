"""A grid that several machines share: each training is one machine's, and a dead machine's goes to another."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from running import REPO, refusal

from distill import tracking
from distill.ablation import file as grids
from distill.ablation import job as ablation
from distill.runs.workers import Ended
from distill.tracking import client
from search import grid as entry
from search import storage
from search.trial_claims import SharedClaims

FILE = """
base: control.yaml
ablation:
  title: Three rates
  seeds: [0]
  control: control
  set: {train.epochs: 1, data.limit: 8, train.weight_decay: 0.0456}
  cells:
    control: {}
    slower: {train.lr: 0.001}
    slowest: {train.lr: 0.0001}
"""


@pytest.fixture
def planned(tiny) -> grids.Grid:
    (tiny.folder / "rates.yaml").write_text(FILE)
    return grids.load(tiny.folder / "rates.yaml")


@pytest.fixture
def url(tmp_path) -> str:
    return storage.url_of(tmp_path)


def task(name: str):
    """As much of a training as a claim looks at."""
    return SimpleNamespace(
        cell=SimpleNamespace(name=name, config=SimpleNamespace(seed=0)), identity=SimpleNamespace(key=f"key of {name}")
    )


def states(claims: SharedClaims) -> list[tuple[str, str, float | None]]:
    return [(trial.params["cell"], trial.state.name, trial.value) for trial in claims.study.get_trials()]


def test_a_training_is_one_machine_s_until_it_has_ended(planned, url):
    with SharedClaims(planned, url) as ours, SharedClaims(planned, url) as theirs:
        assert ours.take(task("control")) and ours.take(task("control"))  # it stays ours
        assert not theirs.take(task("control")) and theirs.take(task("slower"))
        assert not ours.take(task("slower"))
        ours.end(task("control"), 2.5)
        theirs.end(task("slower"), None)
        assert theirs.take(task("control"))  # to find the finished run
        assert ours.take(task("slower"))  # to try it again
    assert states(ours) == [
        ("control", "COMPLETE", 2.5),
        ("slower", "FAIL", None),
        ("control", "FAIL", None),  # given up by the end of the command
        ("slower", "FAIL", None),
    ]


def test_a_machine_that_shows_no_sign_of_life_loses_its_training(planned, url):
    dead = SharedClaims(planned, url, heartbeat=1)  # never entered: its heart does not beat
    assert dead.take(task("control"))
    with SharedClaims(planned, url, heartbeat=1) as ours:
        assert not ours.take(task("control"))
        assert ours.take(task("slower"))
        time.sleep(storage.SILENT_BEATS + 1.5)
        assert ours.take(task("control"))
        with SharedClaims(planned, url, heartbeat=1) as third:
            assert not third.take(task("slower"))  # ours, which beats
        dead.end(task("control"), 2.5)  # too late, and no error
    assert ("control", "COMPLETE", 2.5) not in states(ours)


def test_a_process_killed_while_it_took_a_training_does_not_keep_it(planned, url, monkeypatch):
    ours, dead = SharedClaims(planned, url), SharedClaims(planned, url)
    monkeypatch.setattr(dead.storage, "record_heartbeat", lambda _number: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        dead.take(task("control"))
    assert ours.take(task("control"))


def test_grids_that_differ_do_not_meet(planned, tiny, url):
    other = grids.load(tiny.folder / "rates.yaml", ["train.batch_size=2"])
    assert SharedClaims(planned, url).take(task("control")) and SharedClaims(other, url).take(task("control"))


def test_the_command_leaves_what_another_machine_is_at(planned, tiny, url, tmp_path, monkeypatch, capsys):
    """Without trainings: what is ours fails, what is theirs is not begun."""
    found = ablation.look_up(planned).entries
    began = []

    def work_off(tasks, parts, is_busy, on_end):
        began.extend(task.cell.name for task in tasks if not is_busy(task))
        for each in tasks:
            if each.cell.name in began:
                on_end(Ended(each, None, "the test trains nothing"))

    monkeypatch.setattr(ablation, "work_off", work_off)
    with SharedClaims(planned, url) as theirs:
        held = SimpleNamespace(cell=found[1].cell, identity=found[1].identity)
        assert held.cell.name == "slower" and theirs.take(held)
        with pytest.raises(SystemExit):
            entry.main([str(planned.path), "--storage", url, "--out", str(tmp_path / "out")])
        assert began == ["control", "slowest"]
        assert states(theirs) == [("slower", "RUNNING", None), ("control", "FAIL", None), ("slowest", "FAIL", None)]
    assert "the test trains nothing" in capsys.readouterr().out


def test_a_database_that_cannot_be_is_one_sentence(planned, tmp_path):
    args = [str(planned.path), "--out", str(tmp_path / "out"), "--storage"]
    assert "mysql" in refusal(entry.main, [*args, "mysql://host/grid"])
    assert "/no" in refusal(entry.main, [*args, f"sqlite:///{tmp_path}/no/grid.db"])


@pytest.mark.slow
def test_two_machines_share_a_grid(planned, tiny, tmp_path):
    """Two folders for two machines' own files, one MLflow server, one database."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri, places = f"http://127.0.0.1:{port}", ["--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}"]
    places += ["--artifacts-destination", str(tmp_path / "server")]
    serve = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port), *places]
    environment = os.environ | {
        "PYTHONPATH": str(REPO),
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "false",
    }

    def machine(name: str) -> tuple[subprocess.Popen, Path]:
        log = tmp_path / f"{name}.log"
        given = [f"tracking.store={tmp_path / name}", "--storage", storage.url_of(tmp_path), "--out", tmp_path / name]
        with open(log, "wb") as file:
            command = [sys.executable, "-m", "search.grid", str(planned.path), *map(str, given)]
            return subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=file, stderr=file), log

    server = subprocess.Popen(serve, cwd=tmp_path, env=environment, start_new_session=True)
    try:
        end = time.monotonic() + 120
        while not client.listening(uri) and time.monotonic() < end:
            time.sleep(0.5)
        machines = [machine("left"), machine("right")]
        codes = [process.wait(900) for process, _ in machines]
        assert codes == [0, 0], [log.read_text() for _, log in machines]
        told = tiny.config(f"tracking.uri={uri}", f"tracking.store={tmp_path / 'look'}").tracking
        runs = tracking.list_runs(told, "student")
        assert sorted(run.tags["distill.cell"] for run in runs) == ["control", "slower", "slowest"]
        assert {run.status for run in runs} == {"FINISHED"}
        assert len(tracking.runs_tagged(told, "ablation", {})) == 1
        for _, log in machines:
            assert log.read_text().count("  trained  ") in (1, 2), log.read_text()
    finally:
        os.killpg(server.pid, 9)
        server.wait()
