"""Promises of distill.tracking: all that is logged is found again, nothing stops a job, looking makes nothing."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running import refusal
from stores import config, history, online, quick, root, start  # noqa: F401

import distill.tracking.client as store
from distill import tracking as t
from distill.config import TrackingConfig
from distill.tracking import ui
from distill.tracking.__main__ import main

REPO = Path(__file__).resolve().parents[2]


# ---------------------------------------------------------------------------------------------------- logging


def test_import_needs_no_mlflow():
    code = (
        "import sys, distill.tracking, distill.tracking.__main__; print(sorted({'mlflow', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_everything_logged_is_found_again(config, tmp_path):

    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"\x00\x01")
    params = {"name": "kd", "long": "x" * 7000, "empty": "", "distill.terms": {}, "bad@name": 1}
    params.update({f"p{i}": i for i in range(120)})  # more than MLflow takes in one call
    uri = "uri: http://me:secret@host\n"
    with start(config, params=params, config_yaml=uri, tags={"data": "f00d"}) as run:
        assert run.work.is_dir() and run.work.parent == t.store_root(config) / "work"
        for step in range(3):
            run.log_metrics({"val/nme": 3.0 - step, "distill/kl(raw)": float("nan")}, step)
        run.log_metrics({"third": 10 / 3, "parameters": 12345678}, 0)
        run.log_params({"later": True})
        run.set_tags({"note": "x" * 9000})
        run.log_artifact(weights, "model")
        run.log_artifact(weights.parent, "whole")
        run.log_dict({"é": [1]}, "deep/er/values.json")
        run.log_text("hello", "note.txt")
        run.log_dataset("synthetics", "a" * 64, tmp_path, "training")
    info = t.find_run(config, run.id)
    assert (info.name, info.job, info.status) == ("mnv3 s0", "student", "FINISHED")
    assert info.tags["data"] == "f00d" and len(info.tags["note"]) == 8000 and info.tags["distill.recipe"] == "kd"
    assert info.params["p119"] == "119" and info.params["later"] == "True" and info.params["bad_name"] == "1"
    assert info.params["empty"] == "" and len(info.params["long"]) == 6000
    assert history(config, run.id, "val/nme") == [(0, 3.0), (1, 2.0), (2, 1.0)]
    assert len(history(config, run.id, "distill/kl_raw_")) == 3
    assert (info.metrics["third"], info.metrics["parameters"]) == (3.333333, 12345678)

    def read(path):
        return t.artifact_path(config, run.id, path).read_bytes()

    assert read("model/weights.bin") == read(f"whole/{tmp_path.name}/weights.bin") == b"\x00\x01"
    assert json.loads(read("deep/er/values.json")) == {"é": [1]} and read("note.txt") == b"hello"
    assert b"me:***@host" in read("config.yaml") and b"secret" not in read("config.yaml")
    environment = json.loads(read("environment.json"))
    assert environment["packages"]["mlflow"] == info.tags["env.mlflow"] and environment["hardware"]["cores"] >= 1
    dataset = store.connect(config).get_run(run.id).inputs.dataset_inputs[0]
    assert (dataset.dataset.name, dataset.dataset.digest, dataset.tags[0].value) == ("synthetics", "a" * 36, "training")


def test_store_lies_where_the_config_places_it(config, root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with start(config) as run:
        run.log_text("x", "x.txt")
    assert (root / "mlflow.db").exists() and list(tmp_path.iterdir()) == []
    assert t.artifact_path(config, run.id, "x.txt").is_relative_to(root / "artifacts")
    assert "MLFLOW_TRACKING_URI" not in os.environ  # a later call with another store must not be fooled


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "FINISHED"), (ValueError("nan"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(143), "KILLED")],
)
def test_status_shows_how_it_ended(config, error, status):
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
        assert unknown in refusal(start, config, resume_id=unknown)


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
        assert run.register("a/b") is None
        run.log_metrics({"loss": 1.0}, 1)
        assert online(run)
    warned = " ".join(caplog.messages)
    assert all(word in warned for word in ("log_metrics", "absent.bin", "log_dict", "refused 'enter'"))
    assert history(config, run.id) == [(1, 1.0)]


def test_null_run_takes_every_call_that_run_takes(tmp_path):
    public = {name for name in vars(t.Run) if not name.startswith("_")} - {"start"}
    with t.NullRun(tmp_path, id="r") as run:
        assert public <= set(dir(run)) and run.work == tmp_path
        run.log_metrics({"loss": 1.0}, step=1)
        assert run.register("n") is None


def test_impossible_uris_are_refused_before_anything_runs(root):
    for uri in ("mlruns", "ftp://host/x", "http://", "http://host:notaport", "sqlite://", "file:///tmp/x"):
        assert "tracking.uri" in refusal(start, TrackingConfig(uri=uri, store=str(root)))


# ---------------------------------------------------------------------------------------------------- finding


def test_find_run_by_id_prefix_and_name(config):
    with start(config, run_name="only-one") as run:
        pass
    for _ in range(2):
        start(config, run_name="twins").finish()
    for ref in (run.id, run.id[:8], "only-one"):
        assert t.find_run(config, ref).id == run.id
    for ref in ("no-such-name", "o'brien", run.id[:5], "f" * 32):
        assert ref in refusal(t.find_run, config, ref)
    assert "'twins'" in refusal(lambda: t.find_run(config, "twins"))


def test_newest_run(config):
    tags = {"data.fingerprint": config.experiment}
    assert t.newest_run(config, "teacher", tags) is None
    ids = [start(config, job="teacher", tags=tags) for _ in range(2)]
    for run in reversed(ids):
        run.finish()
    start(config, job="teacher", tags=tags)  # still running
    start(config, job="teacher", tags=tags).finish("FAILED")
    start(config, job="student", tags=tags).finish()
    start(config, job="teacher", tags={"data.fingerprint": "other"}).finish()
    assert t.newest_run(config, "teacher", tags).id == ids[0].id, "the one that ended last"
    assert len(t.list_runs(config)) == 6 and [r.job for r in t.list_runs(config, "student")] == ["student"]


def test_what_is_not_there_is_one_sentence(config):
    run = start(config)
    run.finish()
    assert "'model/x.bin'" in refusal(lambda: t.artifact_path(config, run.id, "model/x.bin"))
    assert "'val/nme'" in refusal(lambda: t.metric_history(config, run.id, "val/nme"))
    assert "0" * 32 in refusal(lambda: t.artifact_path(config, "0" * 32, "x"))


def test_looking_makes_nothing(tmp_path):
    nowhere = TrackingConfig(store=str(tmp_path / "mlruns"))
    for look in (
        lambda: t.find_run(nowhere, "abcdef"),
        lambda: t.artifact_path(nowhere, "0" * 32, "x"),
        lambda: t.resolve_registry(nowhere, "models:/distill-student@champion"),
        lambda: t.end_run(nowhere, "0" * 32, "KILLED"),
        lambda: main(["ui", "--store", nowhere.store]),
        lambda: t.upload(t.store_root(nowhere), []),
    ):
        assert nowhere.store in refusal(look)
    assert (
        t.newest_run(nowhere, "teacher", {}) is None and t.list_runs(nowhere) == t.runs_tagged(nowhere, "x", {}) == []
    )
    t.send_waiting(t.store_root(nowhere), t.tracking_uri(nowhere))
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------- the pages' server


def test_a_taken_port_is_one_sentence(root, config):
    start(config).finish()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert str(port) in refusal(lambda: main(["ui", "--store", str(root), "--port", str(port)]))


def test_the_pages_are_served_with_one_worker_and_open_at_the_runs(root, config, monkeypatch, capsys):
    start(config).finish()
    served = []
    monkeypatch.setattr(ui.os, "execv", lambda program, command: served.append(command))
    monkeypatch.setattr(ui.os, "environ", dict(os.environ))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    main(["ui", "--store", str(root), "--port", port, "--experiment", config.experiment])
    assert served[0][1:] == ["-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", port]
    assert ui.os.environ["MLFLOW_BACKEND_STORE_URI"] == t.tracking_uri(config)
    number = store.connect(config).get_experiment_by_name(config.experiment).experiment_id
    assert f"http://127.0.0.1:{port}/#/experiments/{number}/runs" in capsys.readouterr().out
    main(["ui", "--store", str(root), "--uri", "http://there:1/"])
    assert "http://there:1/#/experiments" in capsys.readouterr().out and len(served) == 1


# ---------------------------------------------------------------------------------------------------- network

WATCH = """
import os, sys
connected = []
calls = ("socket.connect", "socket.getaddrinfo")
sys.addaudithook(lambda name, args: connected.append((name, args)) if name in calls else None)
import numpy as np
from distill import load_student
from distill.config import TrackingConfig
from distill.tracking import Run
import distill.data.augment
load_student(sys.argv[1])(np.zeros((64, 64, 3), np.uint8))
with Run.start(TrackingConfig(store=sys.argv[2]), job="x", run_name="x", params={}, config_yaml="", tags={}) as run:
    run.log_metrics({"loss": 1.0}, 1)
print(connected, [os.environ[name] for name in ("ORT_DISABLE_TELEMETRY", "DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY")])
"""


def test_no_command_calls_home(root, config, exported, tmp_path):
    """Sockets of Python are watched; onnxruntime's are its own, so its switch and the files it would leave are looked
    at.
    """
    start(config).finish()
    switches = ("TELEMETRY", "TRACK", "UPDATE")
    env = {key: value for key, value in os.environ.items() if not any(word in key for word in switches)}
    env |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-c", WATCH, str(exported.onnx), str(root)]
    done = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] ['1', '1', '1']"
    left = [path for path in tmp_path.rglob("*") if path.is_file() and "onnx" in str(path).lower()]
    assert not left


# ---------------------------------------------------------------------------------------------------- a moved store


def test_a_copied_store_stands_on_its_own(config, root, tmp_path, capsys):
    with start(config) as run:
        run.log_text("before", "note.txt")
    copy = tmp_path / "a copy"
    shutil.copytree(root, copy)
    main(["moved", "--store", str(copy)])
    assert f"in '{root}' are in '{copy}' now" in capsys.readouterr().out
    main(["moved", "--store", str(copy)])
    assert "there already" in capsys.readouterr().out
    there = TrackingConfig(store=str(copy), experiment=config.experiment)
    assert t.artifact_path(there, run.id, "note.txt").is_relative_to(copy)
    with start(there) as later:
        later.log_text("after", "note.txt")
    assert t.artifact_path(there, later.id, "note.txt").is_relative_to(copy)
