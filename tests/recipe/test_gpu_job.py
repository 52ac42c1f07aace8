"""experiments/gpu/job.py, rehearsed on a CPU at toy size: what it computes there comes home whole."""

from __future__ import annotations

import importlib
import json
import math
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from running import REPO
from safetensors.torch import load_file

from distill import tracking
from distill.config import TrackingConfig
from distill.models.references import resolve_model
from distill.tracking import client

SMALL = [
    "model.backbone=lcnet_050",
    "model.input_size=64",
    "model.head.width=16",
    "data.workers=0",
    "data.limit=8",
    "train.batch_size=4",
    "train.device=cpu",
    "train.threads=1",
    "train.amp=off",
]


@pytest.fixture
def job(monkeypatch):
    monkeypatch.syspath_prepend(str(REPO))
    monkeypatch.setattr(client, "PATIENCE", 0.0)
    # not on the machine that this is for
    for name in ("albumentations", "optuna", "plutoprint"):
        monkeypatch.setitem(sys.modules, name, None)
    return importlib.import_module("experiments.gpu.job")


def test_the_trainings_share_the_time_that_is_left(job):
    first = job.budget("teacher", left=400.0, overhead=20.0)
    assert first == pytest.approx((400 - job.CLOSING - 60) * job.SHARES["teacher"] / 60)
    left = 400 - 60 * first - 20
    second = job.budget("distilled", left, 20.0)
    third = job.budget("control", left - 60 * second - 20, 20.0)
    assert second == pytest.approx(third) and 60 * (first + second + third) + 60 + job.CLOSING == pytest.approx(400)
    assert job.budget("distilled", 30.0, 20.0) == 0.0


def test_renders_that_the_time_allowed_get_their_labels(job, tmp_path, monkeypatch):
    """Rendering is cut by the clock; what it has finished without a gap is labelled by a second call."""
    counts = []

    def run(command, check, timeout=None):
        options = dict(zip(command[3::2], command[4::2], strict=True))
        counts.append(int(options["--count"]))
        if timeout is not None:
            shards = tmp_path / "work/data/synthetics_train/shards"
            shards.mkdir(parents=True)
            for first in (0, 50, 150):
                (shards / f"{first:06d}.npy").touch()
            raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(job.subprocess, "run", run)
    made = job.Job(tmp_path / "out", tmp_path / "work", 10.0, []).render(SimpleNamespace(size=64, photographs=None))
    assert made == tmp_path / "work/data" and counts == [job.VALIDATION, job.VALIDATION_START, 100]


def home(job, out, store, names):
    """The runs of `names` in the store that took OUT in."""
    job.main(["--take-in", str(out), "--store", str(store)])
    place = TrackingConfig(store=str(store), experiment="gpu")
    runs = {run.tags["distill.role"]: run for run in tracking.list_runs(place)}
    assert runs.keys() == names and {run.status for run in runs.values()} == {"FINISHED"}
    assert all(math.isfinite(run.metrics["best/val/nme"]) for run in runs.values())
    assert tracking.metric_history(place, runs["teacher"].id, "train/loss")
    teacher = resolve_model(runs["distilled"].tags["teacher.run_id"], place)
    assert teacher.run_id == runs["teacher"].id
    return place, runs


@pytest.mark.slow
def test_what_was_trained_comes_home(job, tiny, tmp_path, capsys):
    out = tmp_path / "out"
    work = ["--work", str(tmp_path / "work"), "--data", str(tiny.data)]
    job.main(["--out", str(out), *work, "--minutes", "0.01", *SMALL, "teacher.model.head.width=24"])
    assert all(file.is_file() and file.stat().st_size < 2**24 for file in out.iterdir()) and len([*out.iterdir()]) <= 8
    summary = json.loads((out / "summary.json").read_text())
    assert summary.keys() == {"teacher", "distilled"} and "no time is left" in capsys.readouterr().out
    made = next((tmp_path / "work").rglob("artifacts/model/teacher.safetensors"))
    exact = load_file(made)
    shutil.rmtree(tmp_path / "work")  # it stays there
    place, runs = home(job, out, tmp_path / "mlruns", {"teacher", "distilled"})
    widths = {role: run.params["model.head.width"] for role, run in runs.items()}
    assert widths == {"teacher": "24", "distilled": "16"}
    kept = load_file(resolve_model(runs["teacher"].id, place).path)
    assert all(kept[name].equal(exact[name].half().float()) for name in exact)
    student = resolve_model(runs["distilled"].id, place).path
    assert student.read_bytes() == (out / "distilled.safetensors").read_bytes()
    assert runs["distilled"].metrics["best/val/nme"] == pytest.approx(summary["distilled"]["val/nme"])


@pytest.mark.slow
def test_the_whole_job_rendering_included(job, tmp_path):
    out = tmp_path / "out"
    work = ["--work", str(tmp_path / "work"), "--size", "64"]
    job.main(["--out", str(out), *work, "--minutes", "3", *SMALL, "data.limit=0"])
    summary = json.loads((out / "summary.json").read_text())
    assert summary.keys() == {"render", "teacher", "distilled", "control"}
    assert not any("failed" in phase for phase in summary.values())
    home(job, out, tmp_path / "mlruns", {"teacher", "distilled", "control"})
