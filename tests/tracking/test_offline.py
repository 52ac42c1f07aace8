"""A run whose server is away goes on in a local store, and arrives at the server whole and once."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running import refusal
from stores import alias_holder, config, history, online, outage, quick, root, start  # noqa: F401

import distill.tracking.client as client
import distill.tracking.run as run_module
from distill import tracking as t
from distill.config import TrackingConfig
from distill.tracking import offline
from distill.tracking.__main__ import main


def log_all(run, tmp_path, steps=range(4)):
    weights = tmp_path / "weights.bin"
    for content in (b"old", b"new"):
        weights.write_bytes(content)
        run.log_artifact(weights, "model")
    weights.unlink()
    for step in steps:
        run.log_metrics({"loss": step}, step)
    run.log_text("hello", "note.txt")
    run.set_tags({"late": "yes"})
    run.log_dataset("synthetics", "d" * 36, "/data", "training")
    run.register("offline-model")


def assert_complete(config, run_id):
    """What `log_all` logged, once each."""
    info = t.find_run(config, run_id)
    assert info.status == "FINISHED" and info.params["train.lr"] == "0.002" and info.tags["late"] == "yes"
    assert info.name == "mnv3 s0" and "distill.offline" not in info.tags
    assert history(config, run_id) == [(i, float(i)) for i in range(4)]
    assert t.artifact_path(config, run_id, "model/weights.bin").read_bytes() == b"new"
    assert t.artifact_path(config, run_id, "note.txt").read_text() == "hello"
    assert t.datasets(config, run_id) == [t.DatasetInput("synthetics", "d" * 36, "/data", "training")]
    assert alias_holder(config, "offline-model", "newest")[1] == run_id
    assert not waiting(config, run_id)


def waiting(config, name=None) -> list[Path]:
    return offline.offline_folders(t.store_root(config), name)


def upload(*args) -> int:
    """The exit code of the command."""
    try:
        main(["upload", *map(str, args)])
    except SystemExit as end:
        return end.code
    return 0


def test_offline_from_the_start_then_uploaded(root, request, tmp_path, caplog, capsys):
    with socket.socket() as taken:  # a port where nobody listens
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    config = TrackingConfig(uri=f"http://127.0.0.1:{port}", store=str(root), experiment=request.node.name)
    with start(config) as run:
        assert not online(run) and run.id.startswith("offline-")
        log_all(run, tmp_path)
        (run.work / "checkpoint.pt").touch()
    assert f"upload {run.id} --store '{root}'" in caplog.text and f"nothing answers at {config.uri}" in caplog.text
    assert t.find_run(config, run.id).status == "OFFLINE"
    command = [run.id, "--store", root]
    assert upload(*command) == 1 and "not sent" in capsys.readouterr().out
    assert config.uri in refusal(lambda: t.list_runs(config))

    here = TrackingConfig(store=str(root), experiment=config.experiment)
    assert upload(*command, "--uri", t.tracking_uri(here)) == 0
    (info,) = t.list_runs(here)
    assert info.id == t.find_run(here, run.id).id and info.id in capsys.readouterr().out
    assert_complete(here, info.id)
    assert (t.work_dir(here, info.id) / "checkpoint.pt").exists()
    assert not waiting(here, run.id)
    with start(here, resume_id=run.id) as again:  # by the name it had offline
        assert online(again) and again.id == info.id and (again.work / "checkpoint.pt").exists()
    assert len(t.list_runs(here)) == 1


def test_outage_in_mid_run_is_sent_when_it_ends(config, tmp_path, outage, caplog, monkeypatch):
    with start(config) as run:
        run.log_metrics({"loss": 0.0}, 0)
        outage.begin()
        log_all(run, tmp_path, steps=(1, 2))
        assert not online(run) and caplog.text.count("is away") == 1
        outage.end()
        run.log_metrics({"loss": 3.0}, 3)
        assert not online(run)  # it looks for the server once a minute only
        monkeypatch.setattr(run_module, "PROBE_SECONDS", 0.0)
        run.set_tags({"back": 1})
        assert online(run)
    assert_complete(config, run.id)
    assert t.find_run(config, run.id).tags["back"] == "1"


def test_what_a_run_logged_online_is_not_overwritten_by_its_first_values(config, outage):
    with start(config, tags={t.NOTE: "at the start"}) as run:
        run.set_tags({t.NOTE: "result"})
        outage.begin()
        run.log_metrics({"loss": 1.0}, 1)
        outage.end()
    assert t.find_run(config, run.id).tags[t.NOTE] == "result" and history(config, run.id) == [(1, 1.0)]


def test_outage_until_after_the_end_and_an_upload_that_is_cut_off(config, tmp_path, outage, caplog, monkeypatch):
    from mlflow import MlflowClient

    with start(config) as run:
        outage.begin()
        log_all(run, tmp_path)
    assert "still only on this machine" in caplog.text
    outage.end()
    assert t.find_run(config, run.id).status == "RUNNING"

    def broken(*_):
        raise ConnectionError("again")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifact", broken)  # after parameters, tags and metrics were sent
        assert upload("--store", config.store) == 1 and waiting(config, run.id)
    t.send_waiting(t.store_root(config), t.tracking_uri(config))
    assert_complete(config, run.id)


def test_nothing_is_doubled_when_an_answer_is_lost(config, monkeypatch):
    """The server takes the points, but the connection breaks before it says so."""
    from mlflow import MlflowClient

    real, lost = MlflowClient.log_batch, []

    with start(config) as run:

        def answer_lost(self, run_id, *args, **kwargs):
            real(self, run_id, *args, **kwargs)
            if run_id == run.id and kwargs.get("metrics") and len(lost) < 2:
                lost.append(run_id)
                raise ConnectionError("reset by peer")

        monkeypatch.setattr(MlflowClient, "log_batch", answer_lost)
        run.log_metrics({"loss": 1.0}, 1)
        run.log_metrics({"loss": 2.0}, 2)
        run._probe(force=True)
        assert not online(run) and len(lost) == 2
    assert history(config, run.id) == [(1, 1.0), (2, 2.0)]


def test_resume_while_the_store_is_away(config, outage):
    run = start(config)
    for step in (1, 2):
        run.log_metrics({"loss": step}, step)
    outage.begin()
    run.log_metrics({"loss": 3.0}, 3)
    run._local.lock.release()  # killed here, with one point in its local store
    with start(config, resume_id=run.id) as second:
        assert second.id == run.id
        for step in (2, 3, 4):  # 2 is on the server, 3 in the first local store
            second.log_metrics({"loss": step}, step)
    assert len(waiting(config, run.id)) == 2
    outage.end()
    with start(config, resume_id=run.id) as third:
        assert online(third)
        for step in (4, 5):
            third.log_metrics({"loss": step}, step)
    assert history(config, run.id) == [(i, float(i)) for i in range(1, 6)]
    info = t.find_run(config, run.id)
    assert info.status == "FINISHED" and info.name == "mnv3 s0"


def test_a_run_that_never_saw_its_server_resumes_while_that_is_still_away(config, outage):
    outage.begin()
    run = start(config)
    run.log_metrics({"loss": 1.0}, 1)
    assert upload("--store", config.store) == 1, "it is still running"
    run._local.lock.release()
    with start(config, resume_id=run.id) as again:
        again.log_metrics({"loss": 2.0}, 2)
    outage.end()
    assert upload("--store", config.store) == 0
    (info,) = t.list_runs(config)
    assert history(config, info.id) == [(1, 1.0), (2, 2.0)] and info.name == "mnv3 s0"


def test_a_kill_loses_nothing_that_was_logged(root, config, outage):
    """In a process of its own: what is on disk then is what counts."""
    pid = os.fork()
    if pid == 0:
        try:
            outage.begin()
            run = start(config)
            for step in range(3):
                run.log_metrics({"loss": step}, step)
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    assert upload("--store", root) == 0
    (info,) = t.list_runs(config)
    assert history(config, info.id) == [(0, 0.0), (1, 1.0), (2, 2.0)] and info.status == "RUNNING"


def test_a_run_of_another_server_is_refused(config, outage, capsys):
    with start(config) as run:
        outage.begin()
        run.log_metrics({"loss": 1.0}, 1)
    outage.end()
    (folder,) = waiting(config, run.id)
    place = offline.offline_place(folder)
    local = offline.only_run(place)
    belongs = json.loads(local.data.tags["distill.offline"])
    for run_id, code, printed in (("0" * 32, 1, "begun on another tracking server"), (run.id, 0, run.id)):
        client.connect(place).set_tag(local.info.run_id, "distill.offline", json.dumps({**belongs, "run_id": run_id}))
        assert upload("--store", config.store) == code and printed in capsys.readouterr().out


def test_upload_names_what_it_cannot_send(tmp_path):
    assert "'x'" in refusal(lambda: main(["upload", "x", "--store", str(tmp_path)]))


def test_no_password_is_shown_or_stored(root, outage, caplog, capsys):
    outage.begin()
    config = TrackingConfig(uri="http://me:secret@127.0.0.1:9", store=str(root), experiment="password")
    with start(config, params={"tracking.uri": config.uri}) as run:
        pass
    assert "me:***@" in caplog.text and "me:secret" not in caplog.text
    (folder,) = waiting(config, run.id)
    assert not any(b"me:secret" in path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert upload(run.id, "--store", root) == 1 and "--uri" in capsys.readouterr().out
    assert upload(run.id, "--store", root, "--uri", t.tracking_uri(TrackingConfig(store=str(root)))) == 1
    outage.end()
    assert upload(run.id, "--store", root, "--uri", t.tracking_uri(TrackingConfig(store=str(root)))) == 0


@pytest.mark.parametrize("probe_seconds", [0.0, 60.0])
def test_where_nothing_can_be_written_one_sentence_is_logged(config, monkeypatch, caplog, probe_seconds):
    """As on a full disk: neither the store nor the local one takes anything; the job goes on."""
    import resource

    monkeypatch.setattr(run_module, "PROBE_SECONDS", probe_seconds)
    with start(config) as run:
        run.log_metrics({"loss": 0.0}, 0)
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, limit[1]))
        try:
            for step in range(1, 4):
                run.log_metrics({"loss": step}, step)
                run.set_tags({"a": step})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        assert "is back" not in caplog.text
        run.log_metrics({"loss": 4.0}, 4)
    assert len(caplog.messages) <= 4 and not any(record.exc_info for record in caplog.records), caplog.text
    assert "What this run logs is lost until one of them takes it again." in caplog.text
    assert history(config, run.id) == [(0, 0.0), (4, 4.0)] and t.find_run(config, run.id).status == "FINISHED"


@pytest.mark.slow
def test_a_real_server_killed_and_restarted(tmp_path, monkeypatch):
    monkeypatch.setattr(client, "PATIENCE", 2.0)
    monkeypatch.setattr(run_module, "PROBE_SECONDS", 1.0)
    monkeypatch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}"]
    command += ["--artifacts-destination", str(tmp_path / "server")]

    def serve():
        server = subprocess.Popen(command, cwd=tmp_path, start_new_session=True)
        end = time.monotonic() + 90
        while not client.listening(uri) and time.monotonic() < end:
            time.sleep(0.5)
        return server

    def kill(server):
        os.killpg(server.pid, 9)
        server.wait()

    config = TrackingConfig(uri=uri, store=str(tmp_path / "mlruns"), experiment="served")
    server = serve()
    try:
        with start(config) as run:
            assert online(run)
            run.log_metrics({"loss": 0.0}, 0)
            kill(server)
            log_all(run, tmp_path, steps=(1, 2))
            assert not online(run)
            server = serve()
            time.sleep(1.0)
            run.log_metrics({"loss": 3.0}, 3)
            assert online(run)
        assert_complete(config, run.id)
        assert t.artifact_path(config, run.id, "model").is_dir()
        assert "model/none" in refusal(lambda: t.artifact_path(config, run.id, "model/none"))
    finally:
        kill(server)
