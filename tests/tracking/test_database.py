"""The sqlite file of a store: whole from its first second, refused when broken, found whatever its folder's name."""

from __future__ import annotations

import functools
import multiprocessing
import os
import sqlite3
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from running import refusal
from stores import alias_holder, config, history, log_report, online, quick, root, start  # noqa: F401

from distill import tracking as t
from distill.config import TrackingConfig
from distill.tracking import client, database
from distill.tracking.__main__ import main


def one_run(store: Path) -> t.RunInfo:
    """A run logged to this store and found again there."""
    place = TrackingConfig(store=str(store), experiment="one")
    with start(place) as run:
        run.log_text("x", "x.txt")
    assert online(run) and t.artifact_path(place, run.id, "x.txt").is_relative_to(store)
    return t.find_run(place, run.id)


@pytest.mark.parametrize("folder", ["q?1", "%20", "%41", "#", "a b+c&d=e;f"])
def test_each_folder_has_its_own_store_whatever_its_name(folder, tmp_path):
    store = tmp_path / folder / "mlruns"
    run = one_run(store)
    with sqlite3.connect(store / "mlflow.db") as base:
        assert base.execute("SELECT run_uuid FROM runs").fetchall() == [(run.id,)]
    assert [path.name for path in tmp_path.iterdir()] == [folder]
    uri = t.sqlite_uri(store / "mlflow.db")
    assert database.sqlite_file(uri) == store / "mlflow.db"
    assert t.tracking_uri(TrackingConfig(uri=uri)) == uri, "as a person gives it"


def test_processes_start_on_a_fresh_store_at_once(tmp_path, monkeypatch):
    """Forked, so that MLflow is imported once; each builds the empty database anew."""
    one_run(tmp_path / "other")  # imports are made
    database._empty.cache_clear()
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=one_run, args=(tmp_path / "mlruns",)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(t.list_runs(TrackingConfig(store=str(tmp_path / "mlruns"), experiment="one"))) == 3


def test_a_kill_while_the_database_is_made_leaves_none(tmp_path, monkeypatch):
    file = tmp_path / "mlflow.db"
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            database._make(file)
    (tmp_path / ".mlflow.1234.tmp.db").write_bytes(b"of a process that was killed")
    assert not file.exists()
    one_run(tmp_path)
    assert not list(tmp_path.glob(".mlflow*"))


def test_a_half_made_database_is_named(tmp_path):
    """As a kill leaves it where MLflow makes one: later tables are there, the version of the schema is an early one."""
    file = tmp_path / "mlflow.db"
    file.write_bytes(database._empty())
    with sqlite3.connect(file) as base:
        base.execute("DROP TABLE webhooks")
        base.execute("UPDATE alembic_version SET version_num = '75868b020152'")  # before the last step of MLflow 3.17
    assert str(file) in refusal(lambda: one_run(tmp_path))


def test_a_second_client_of_a_store_releases_no_lock_of_the_first(tmp_path, monkeypatch):
    """Another process would take the log of changes for nobody's and delete it: runs would vanish from one side."""
    one_run(tmp_path)
    place = TrackingConfig(store=str(tmp_path), experiment="one")
    kept = client.connect(place)
    monkeypatch.setattr(client, "_client", functools.cache(client._client.__wrapped__))
    client.connect(place)
    command = [
        sys.executable,
        "-c",
        f"import sqlite3; sqlite3.connect({str(tmp_path / 'mlflow.db')!r}).execute('SELECT 1 FROM runs').fetchall()",
    ]
    subprocess.run(command, check=True)
    assert (tmp_path / "mlflow.db-wal").exists() and len(kept.search_runs(["1"])) == 1


def test_what_is_no_database_is_named(tmp_path):
    (tmp_path / "mlflow.db").write_text("no database at all")
    assert "mlflow.db" in refusal(lambda: one_run(tmp_path))
    (tmp_path / "mlflow.db").write_bytes(b"")
    one_run(tmp_path)


def test_a_read_only_store_is_read_and_refuses_runs(tmp_path, monkeypatch):
    run = one_run(tmp_path)
    place = TrackingConfig(store=str(tmp_path), experiment="one")
    monkeypatch.setattr(client, "_client", functools.cache(client._client.__wrapped__))
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK and real(path, mode))
    assert t.find_run(place, run.id).id == run.id and t.artifact_path(place, run.id, "x.txt").read_text() == "x"
    assert str(tmp_path) in refusal(lambda: start(place))


def test_a_store_of_an_earlier_version_opens_is_read_and_goes_on(tmp_path):
    """Made at commit c02a7de and moved since: a finished and registered run, a killed one, and one that was logged
    offline.
    """
    with tarfile.open(Path(__file__).with_name("store_c02a7de.tar.gz")) as packed:
        packed.extractall(tmp_path, filter="data")
    place = TrackingConfig(store=str(tmp_path / "mlruns"), experiment="old")
    main(["moved", "--store", place.store])
    old = t.find_run(place, "finished")
    assert (old.status, old.metrics["best/val/nme"], old.params["train.lr"]) == ("FINISHED", 3.0, "0.002")
    assert history(place, old.id, "val/nme")[0] == (1, pytest.approx(3.667, abs=1e-3))
    assert t.datasets(place, old.id)[0].name == "synthetics_val"
    run_id, folder = t.resolve_registry(place, "models:/distill-student@champion")
    assert run_id == old.id and (folder / "student.safetensors").read_bytes() == b"weights"

    killed = t.find_run(place, "killed")
    with start(place, resume_id=killed.id) as run:
        assert (run.work / "checkpoint.pt").read_bytes() == b"state"
        for step in (2, 3):
            run.log_metrics({"val/nme": 1.0}, step)
        run.log_metrics({"best/val/nme": 1.0}, 3)
        log_report(run, [0.9, 1.0, 1.1])
        assert run.register("distill-student") == "2"
    assert history(place, killed.id, "val/nme") == [(1, 5.0), (2, 4.0), (3, 1.0)]
    assert alias_holder(place, "distill-student", "champion") == ("2", killed.id)
    assert alias_holder(place, "distill-student", "previous") == ("1", old.id)
