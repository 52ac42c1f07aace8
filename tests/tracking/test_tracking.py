"""Promises of distill.tracking: all that is logged is found again, nothing is lost or doubled, nothing stops a job."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import distill.tracking.client as store
import distill.tracking.run as run_module
from distill import tracking as t
from distill.config import TrackingConfig
from distill.errors import UserError
from distill.tracking.__main__ import main

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """One store for all tests (building a database takes seconds); its path has a space and an accent."""
    return tmp_path_factory.mktemp("my é store") / "mlruns"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(store, "PATIENCE", 0.0)
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def config(root, request) -> TrackingConfig:
    return TrackingConfig(store=str(root), experiment=request.node.name)


def start(config, resume_id=None, **changes) -> t.Run:
    given = dict(
        job="student", run_name="mnv3 s0", params={"name": "kd", "train.lr": 0.002}, config_yaml="a: 1\n", tags={}
    )
    return t.Run.start(config, **{**given, **changes}, resume_id=resume_id)


@pytest.fixture
def outage(monkeypatch):
    """`outage.begin()`: every call to the store fails, as when its server is gone; `outage.end()`: it is back."""
    real = store._client

    def gone(uri, pid):
        raise ConnectionError("the server is gone")

    def begin():
        monkeypatch.setattr(store, "_client", gone)

    def end():
        monkeypatch.setattr(store, "_client", real)

    return SimpleNamespace(begin=begin, end=end)


def history(config, run_id, key="loss"):
    return t.metric_history(config, run_id, key)


# ---------------------------------------------------------------------------------------------------- logging


def test_import_needs_no_mlflow():
    code = (
        "import sys, distill.tracking, distill.tracking.__main__; print(sorted({'mlflow', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_everything_logged_is_found_again(config, tmp_path):
    import matplotlib.figure

    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"\x00\x01")
    figure = matplotlib.figure.Figure(figsize=(1, 1))
    params = {"name": "kd", "long": "x" * 7000, "empty": "", "distill.terms": {}, "bad@name": 1}
    params.update({f"p{i}": i for i in range(120)})  # more than MLflow takes in one call
    uri = "uri: http://me:secret@host\n"
    with start(config, params=params, config_yaml=uri, tags={"data": "f00d"}) as run:
        assert run.work.is_dir() and run.work.parent == t.store_root(config) / "work"
        for step in range(3):
            run.log_metrics({"val/nme": 3.0 - step, "distill/kl(raw)": float("nan")}, step)
        run.log_params({"later": True})
        run.set_tags({"note": "x" * 9000})
        run.log_artifact(weights, "model")
        run.log_artifact(weights.parent, "whole")
        run.log_dict({"é": [1]}, "deep/er/values.json")
        run.log_text("hello", "note.txt")
        run.log_figure(figure, "pictures/curve.png")
        run.log_dataset("synthetics", "a" * 64, tmp_path, "training")
    info = t.find_run(config, run.id)
    assert (info.name, info.job, info.status) == ("mnv3 s0", "student", "FINISHED")
    assert info.tags["data"] == "f00d" and len(info.tags["note"]) == 8000 and info.tags["distill.recipe"] == "kd"
    assert info.params["p119"] == "119" and info.params["later"] == "True" and info.params["bad_name"] == "1"
    assert info.params["empty"] == "" and len(info.params["long"]) == 6000
    assert history(config, run.id, "val/nme") == [(0, 3.0), (1, 2.0), (2, 1.0)]
    assert len(history(config, run.id, "distill/kl_raw_")) == 3

    def read(path):
        return t.artifact_path(config, run.id, path).read_bytes()

    assert read("model/weights.bin") == read(f"whole/{tmp_path.name}/weights.bin") == b"\x00\x01"
    assert json.loads(read("deep/er/values.json")) == {"é": [1]} and read("note.txt") == b"hello"
    assert read("pictures/curve.png").startswith(b"\x89PNG")
    assert b"me:***@host" in read("config.yaml") and b"secret" not in read("config.yaml")
    environment = json.loads(read("environment.json"))
    assert environment["packages"]["mlflow"] == info.tags["env.mlflow"] and environment["hardware"]["cores"] >= 1
    dataset = store.connect(config).get_run(run.id).inputs.dataset_inputs[0]
    assert (dataset.dataset.name, dataset.dataset.digest, dataset.tags[0].value) == ("synthetics", "a" * 36, "training")


def test_store_lies_where_the_config_says(config, root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with start(config) as run:
        run.log_text("x", "x.txt")
    assert (root / "mlflow.db").exists() and list(tmp_path.iterdir()) == []
    assert t.artifact_path(config, run.id, "x.txt").is_relative_to(root / "artifacts")
    assert "MLFLOW_TRACKING_URI" not in os.environ  # a later call with another store must not be fooled


@pytest.mark.parametrize(
    ("error", "status"), [(None, "FINISHED"), (ValueError("nan"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(143), "KILLED")]
)  # fmt: skip
def test_status_tells_how_it_ended(config, error, status):
    run = start(config)
    try:
        with run:
            if error:
                raise error
    except (ValueError, KeyboardInterrupt, SystemExit):
        pass
    info = t.find_run(config, run.id)
    assert info.status == status and info.tags.get("error") == ("ValueError: nan" if status == "FAILED" else None)


def test_resume_goes_on_in_the_same_run_and_doubles_no_point(config):
    run = start(config)
    run.log_metrics({"loss": 1.0, "lr": 0.1}, 1)
    run.log_metrics({"loss": 0.9}, 2)  # and here it was killed; it resumes from a checkpoint of step 0
    with start(config, params={"name": "kd", "train.lr": 0.1, "new": 1, "resume": run.id}, resume_id=run.id) as again:
        assert again.id == run.id and again.work == run.work
        assert t.find_run(config, run.id).status == "RUNNING"
        for step in (1, 2, 3):
            again.log_metrics({"loss": 1.1 - step / 10, "lr": 0.1}, step)
    assert history(config, run.id) == [(1, 1.0), (2, 0.9), (3, pytest.approx(0.8))]
    assert history(config, run.id, "lr") == [(1, 0.1), (2, 0.1), (3, 0.1)]
    info = t.find_run(config, run.id)
    assert info.status == "FINISHED" and info.params["new"] == "1" and info.params["train.lr"] == "0.002"
    assert info.tags["distill.changed_params"] == "train.lr: 0.002 -> 0.1"


def test_resume_of_an_unknown_run_is_one_sentence(config):
    for unknown in ("0" * 32, "offline-000000000000"):
        with pytest.raises(UserError, match=f"no run '{unknown}'"):
            start(config, resume_id=unknown)


def test_machine_load_is_recorded(config, monkeypatch):
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    with start(config) as run:
        time.sleep(0.8)
    assert "system/cpu_utilization_percentage" in t.find_run(config, run.id).metrics


def test_bad_calls_warn_and_never_raise(config, caplog, tmp_path):
    with start(config) as run:
        run.log_metrics({"loss": "not a number"}, 0)
        run.log_artifact(tmp_path / "absent.bin")
        run.log_dict({"x": object()}, "x.json")
        assert run.register("a/b", "model", ["best"]) is None
        run.log_metrics({"loss": 1.0}, 1)
        assert run.online
    warned = " ".join(caplog.messages)
    assert all(word in warned for word in ("log_metrics", "absent.bin", "log_dict", "refused 'register'"))
    assert history(config, run.id) == [(1, 1.0)]


def test_null_run_takes_every_call_that_run_takes(tmp_path):
    public = {name for name in vars(t.Run) if not name.startswith("_")} - {"start"}
    with t.NullRun(tmp_path, id="r") as run:
        assert public <= set(dir(run)) and run.work == tmp_path
        run.log_metrics({"loss": 1.0}, step=1)
        assert run.register("n", "f", [], "", {}) is None


# ---------------------------------------------------------------------------------------------------- away


def assert_complete(config, run_id, weights=b"new"):
    """What `log_all` logged, once each."""
    info = t.find_run(config, run_id)
    assert info.status == "FINISHED" and info.params["train.lr"] == "0.002" and info.tags["late"] == "yes"
    assert history(config, run_id) == [(i, float(i)) for i in range(4)]
    assert t.artifact_path(config, run_id, "model/weights.bin").read_bytes() == weights
    assert t.artifact_path(config, run_id, "note.txt").read_text() == "hello"
    assert t.resolve_registry(config, f"models:/m-{config.experiment}@best")[0] == run_id


def log_all(config, run, tmp_path, steps=range(4)):
    weights = tmp_path / "weights.bin"
    for content in (b"old", b"new"):
        weights.write_bytes(content)
        run.log_artifact(weights, "model")
    weights.unlink()
    for step in steps:
        run.log_metrics({"loss": step}, step)
    run.log_text("hello", "note.txt")
    run.set_tags({"late": "yes"})
    run.register(f"m-{config.experiment}", "model", ["best"], "it", {"nme": 3})


def test_offline_from_the_start_then_uploaded(root, request, tmp_path, caplog, capsys):
    with socket.socket() as taken:  # a port where nobody listens
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    config = TrackingConfig(uri=f"http://127.0.0.1:{port}", store=str(root), experiment=request.node.name)
    with start(config) as run:
        assert not run.online and run.id.startswith("offline-")
        log_all(config, run, tmp_path)
        (run.work / "checkpoint.pt").touch()
    folder = root / "offline" / run.id
    assert (
        f"python -m distill.tracking upload '{folder}'" in caplog.text
        and f"nobody answers at {config.uri}" in caplog.text
    )
    assert t.find_run(config, run.id).status == "OFFLINE"
    assert main(["upload", str(folder)]) == 1 and "left" in capsys.readouterr().out
    with pytest.raises(UserError, match="cannot be reached"):
        t.list_runs(config)

    here = TrackingConfig(store=str(root), experiment=config.experiment)
    uri = t.tracking_uri(here)
    assert main(["upload", str(folder), "--uri", uri]) == 0
    (info,) = t.list_runs(here)
    assert info.id == t.find_run(here, run.id).id and info.name == "mnv3 s0"
    assert_complete(here, info.id)
    assert (t.work_dir(here, info.id) / "checkpoint.pt").exists()
    assert not list((folder / "files").iterdir())
    capsys.readouterr()
    assert main(["upload", str(folder), "--uri", uri]) == 0 and "sent 0 events, 0 left" in capsys.readouterr().out
    assert_complete(here, info.id)
    with start(here, resume_id=run.id) as again:  # by the name it had offline
        assert again.online and again.id == info.id and (again.work / "checkpoint.pt").exists()
    assert len(t.list_runs(here)) == 1


def test_outage_in_mid_run_is_spooled_and_sent_when_it_ends(config, tmp_path, outage, caplog, monkeypatch):
    with start(config) as run:
        run.log_metrics({"loss": 0.0}, 0)
        outage.begin()
        log_all(config, run, tmp_path, steps=(1, 2))
        assert not run.online and caplog.text.count("is away") == 1
        outage.end()
        run.log_metrics({"loss": 3.0}, 3)
        assert not run.online  # it looks for the server once a minute only
        monkeypatch.setattr(run_module, "PROBE_SECONDS", 0.0)
        run.set_tags({"back": 1})
        assert run.online
    assert_complete(config, run.id)
    assert t.find_run(config, run.id).tags["back"] == "1"


def test_outage_until_after_the_end(config, tmp_path, outage, caplog):
    with start(config) as run:
        outage.begin()
        log_all(config, run, tmp_path)
    assert "still only on this machine" in caplog.text
    outage.end()
    assert t.find_run(config, run.id).status == "RUNNING"
    assert main(["upload", "--store", config.store]) == 0
    assert_complete(config, run.id)


def test_nothing_is_doubled_when_an_answer_is_lost(config, monkeypatch):
    """The server takes the points, but the connection breaks before it says so."""
    from mlflow import MlflowClient

    real, lost = MlflowClient.log_batch, []

    def answer_lost(self, run_id, *args, **kwargs):
        real(self, run_id, *args, **kwargs)
        if kwargs.get("metrics") and len(lost) < 2:
            lost.append(run_id)
            raise ConnectionError("reset by peer")

    with start(config) as run:
        monkeypatch.setattr(MlflowClient, "log_batch", answer_lost)
        run.log_metrics({"loss": 1.0}, 1)
        run.log_metrics({"loss": 2.0}, 2)
        run._probe(force=True)
        assert not run.online and len(lost) == 2
    assert history(config, run.id) == [(1, 1.0), (2, 2.0)]


def test_resume_while_the_store_is_away(config, outage):
    run = start(config)
    for step in (1, 2):
        run.log_metrics({"loss": step}, step)
    outage.begin()
    run.log_metrics({"loss": 3.0}, 3)  # killed here, with one point in the spool
    with start(config, resume_id=run.id) as second:
        assert second.id == run.id
        for step in (2, 3, 4):  # 2 is on the server, 3 in the spool
            second.log_metrics({"loss": step}, step)
    outage.end()
    with start(config, resume_id=run.id) as third:
        assert third.online
        for step in (4, 5):
            third.log_metrics({"loss": step}, step)
    assert history(config, run.id) == [(i, float(i)) for i in range(1, 6)]
    assert t.find_run(config, run.id).status == "FINISHED"


def test_a_torn_spool_loses_only_its_last_line(config, outage):
    outage.begin()
    run = start(config)
    run.log_metrics({"loss": 1.0}, 1)
    with open(run._spool.folder / "events.jsonl", "a") as file:
        file.write('{"op": "metrics", "val')  # kill -9 while writing
    outage.end()
    with start(config, resume_id=run.id) as again:
        again.log_metrics({"loss": 2.0}, 2)
    assert again.id != run.id and history(config, again.id) == [(1, 1.0), (2, 2.0)]


def test_spool_of_another_server_is_refused(config, outage, tmp_path, capsys):
    with start(config) as run:
        outage.begin()
        run.log_metrics({"loss": 1.0}, 1)
    outage.end()
    folder = Path(config.store) / "offline" / run.id
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, "run_id": "0" * 32}))  # a run that this store lacks
    assert main(["upload", str(folder)]) == 1
    printed = capsys.readouterr().out
    assert "begun on another tracking server" in printed and "sent 0 events" in printed
    (folder / "state.json").write_text(json.dumps(state))
    assert main(["upload", str(folder)]) == 0
    assert main(["upload", str(tmp_path)]) == 2


def test_impossible_uris_are_refused_before_anything_runs(root):
    for uri in ("mlruns", "ftp://host/x", "http://", "http://host:notaport", "sqlite://", "file:///tmp/x"):
        with pytest.raises(UserError, match="tracking.uri is '"):
            start(TrackingConfig(uri=uri, store=str(root)))


def test_no_password_is_shown_or_spooled(root, outage, caplog, capsys):
    outage.begin()
    config = TrackingConfig(uri="http://me:secret@127.0.0.1:9", store=str(root), experiment="password")
    with start(config, params={"tracking.uri": config.uri}) as run:
        pass
    assert "me:***@" in caplog.text and "secret" not in caplog.text
    folder = root / "offline" / run.id
    assert not any(b"secret" in path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert not t.upload([folder]) and "--uri" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------- finding


def test_find_run_by_id_prefix_and_name(config):
    with start(config, run_name="only-one") as run:
        pass
    for _ in range(2):
        start(config, run_name="twins").finish()
    for ref in (run.id, run.id[:8], "only-one"):
        assert t.find_run(config, ref).id == run.id
    for ref in ("no-such-name", "o'brien", run.id[:5], "f" * 32):
        with pytest.raises(UserError, match="There is no run"):
            t.find_run(config, ref)
    with pytest.raises(UserError, match="'twins' fits 2 runs"):
        t.find_run(config, "twins")


def test_newest_and_best_run(config):
    tags = {"data.fingerprint": config.experiment}
    assert t.newest_run(config, "teacher", tags) is None and t.best_run(config, "teacher", "val/nme", tags) is None
    ids = []
    for nme in (2.0, 1.0, 3.0):
        with start(config, job="teacher", tags=tags) as run:
            run.log_metrics({"val/nme": nme}, 1)
        ids.append(run.id)
    start(config, job="teacher", tags=tags)  # still running, and without the metric
    start(config, job="teacher", tags=tags).finish("FAILED")
    start(config, job="student", tags=tags).finish()
    start(config, job="teacher", tags={"data.fingerprint": "other"}).finish()
    assert t.newest_run(config, "teacher", tags).id == ids[2]
    assert t.best_run(config, "teacher", "val/nme", tags).id == ids[1]
    assert t.best_run(config, "teacher", "val/nme", tags, mode="max").id == ids[2]
    assert len(t.list_runs(config)) == 7 and [r.job for r in t.list_runs(config, "student")] == ["student"]


def test_registry_alias_moves_to_the_better_model(config, tmp_path):
    name, alias = "face student", "champion"
    assert t.alias_holder(config, name, alias) is None
    ids = []
    for number in (1, 2):
        (tmp_path / "weights.bin").write_text(str(number))
        with start(config) as run:
            run.log_artifact(tmp_path / "weights.bin", "model")
            assert run.register(name, "model", [alias], "a student", {"nme": 3.1}) == str(number)
            assert run.register(name, "model", [alias], "again", {}) == str(number)  # a resumed run registers again
        ids.append(run.id)
        assert t.alias_holder(config, name, alias) == (str(number), run.id)
    run_id, folder = t.resolve_registry(config, f"models:/{name}@{alias}")
    assert run_id == ids[1] and (folder / "weights.bin").read_text() == "2"
    assert t.resolve_registry(config, f"models:/{name}/1")[0] == ids[0]
    for ref in (f"models:/{name}@nobody", "models:/nothing@champion", f"models:/{name}/9"):
        with pytest.raises(UserError, match=f"no registered model '{ref}'"):
            t.resolve_registry(config, ref)
    with pytest.raises(UserError, match="not a registry reference"):
        t.resolve_registry(config, "models:/face student")


def test_what_is_not_there_is_one_sentence(config):
    run = start(config)
    run.finish()
    with pytest.raises(UserError, match="no artifact 'model/x.bin'"):
        t.artifact_path(config, run.id, "model/x.bin")
    with pytest.raises(UserError, match="no metric 'val/nme'"):
        t.metric_history(config, run.id, "val/nme")
    with pytest.raises(UserError, match="no run"):
        t.artifact_path(config, "0" * 32, "x")


# ---------------------------------------------------------------------------------------------------- processes


def test_three_processes_start_on_a_fresh_store_at_once(tmp_path):
    code = """
import sys
from distill.config import TrackingConfig
from distill.tracking import Run
config = TrackingConfig(store=sys.argv[1], experiment="together")
with Run.start(config, job="student", run_name="p", params={"name": "p"}, config_yaml="", tags={}) as run:
    for step in range(5):
        run.log_metrics({"loss": step}, step)
    print(run.id, run.online)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "mlruns")]
    jobs = [subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = [job.communicate(timeout=120)[0].split() for job in jobs]
    assert [online for _, online in printed] == ["True"] * 3
    config = TrackingConfig(store=str(tmp_path / "mlruns"), experiment="together")
    assert {run.id for run in t.list_runs(config)} == {run_id for run_id, _ in printed}
    assert all(len(history(config, run_id)) == 5 for run_id, _ in printed)


@pytest.mark.slow
def test_a_real_server_killed_and_restarted(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "PATIENCE", 2.0)
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
        while not store.listening(uri) and time.monotonic() < end:
            time.sleep(0.5)
        return server

    def kill(server):
        os.killpg(server.pid, 9)
        server.wait()

    config = TrackingConfig(uri=uri, store=str(tmp_path / "mlruns"), experiment="served")
    server = serve()
    try:
        with start(config) as run:
            assert run.online
            run.log_metrics({"loss": 0.0}, 0)
            kill(server)
            log_all(config, run, tmp_path, steps=(1, 2))
            assert not run.online
            server = serve()
            time.sleep(1.0)
            run.log_metrics({"loss": 3.0}, 3)
            assert run.online
        assert_complete(config, run.id)
        assert t.artifact_path(config, run.id, "model").is_dir()
        with pytest.raises(UserError, match="no artifact"):
            t.artifact_path(config, run.id, "model/none")
    finally:
        kill(server)


def test_a_copied_store_stands_on_its_own(config, root, tmp_path, capsys):
    with start(config) as run:
        run.log_text("before", "note.txt")
    copy = tmp_path / "a copy"
    shutil.copytree(root, copy)
    assert main(["moved", "--store", str(copy)]) == 0 and f"in '{root}' are in '{copy}' now" in capsys.readouterr().out
    assert main(["moved", "--store", str(copy)]) == 0 and "there already" in capsys.readouterr().out
    there = TrackingConfig(store=str(copy), experiment=config.experiment)
    assert t.artifact_path(there, run.id, "note.txt").is_relative_to(copy)
    with start(there) as later:
        later.log_text("after", "note.txt")
    assert t.artifact_path(there, later.id, "note.txt").is_relative_to(copy)
    assert not list(root.glob(f"artifacts/*/{later.id}")) and t.artifact_path(config, run.id, "note.txt").is_file()
    assert main(["moved", "--store", str(tmp_path)]) == 2 and "holds no mlflow.db" in capsys.readouterr().err
