"""Several processes (torchrun, DDP, gloo on CPUs) compute what one process computes with the same global batch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from running import REPO, same_weights

from distill import config as configs
from distill import tracking
from distill.training import job as training

# samples that do not see each other: a batch norm's statistics would be those of a process's share
ALONE = (
    "model.backbone=convnext_atto",
    "model.head.norm=group",
    "train.batch_size=8",
    "train.lr=0.001",
    "train.epochs=3",
    "tracking.register=false",
)
CURVES = (
    "train/loss",
    "train/raw/coordinate",
    "train/raw/heatmap",
    "train/weighted/heatmap",
    "train/grad_norm",
    "val/nme",
)


def torchrun(*args: str, module: str = "distill.student") -> subprocess.CompletedProcess:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        module,
        *args,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
    return subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=500)


@pytest.mark.slow
def test_two_processes_give_the_curve_of_one(tiny, bare):
    one = training.train_student(tiny.config(*ALONE))
    before = {run.id for run in tracking.list_runs(tiny.tracking)}
    done = torchrun("--config", str(tiny.control_yaml), *ALONE, "name=two", "train.accumulate=2")
    assert done.returncode == 0, done.stderr[-4000:]
    (two,) = [run for run in tracking.list_runs(tiny.tracking) if run.id not in before]  # one run, not one a process
    assert two.status == "FINISHED" and done.stdout.count(f"run {two.id}") == 1
    for key in CURVES:
        assert tiny.curve(two.id, key) == pytest.approx(tiny.curve(one.run_id, key), rel=1e-4), key
    assert tiny.curve(two.id, "train/lr") == tiny.curve(one.run_id, "train/lr")
    assert tracking.artifact_path(tiny.tracking, two.id, "submission/solution.zip").is_file()


@pytest.mark.slow
def test_a_distilled_run_on_two_processes_stops_and_resumes(tiny):
    """SIGTERM to torchrun reaches both: the main one saves, both leave, and the run goes on to the weights of an
    uncut one."""
    common = ("--config", str(tiny.distilled_yaml), *ALONE, f"teacher={tiny.teacher.model_file}")
    whole = torchrun(*common, "name=two")
    assert whole.returncode == 0, whole.stderr[-4000:]
    uncut = tracking.list_runs(tiny.tracking)[0]

    known = set(tiny.store.glob("work/*"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    process = subprocess.Popen(
        [*command, "distill.student", *common, "name=two", "train.checkpoint_seconds=0.0001"],
        cwd=REPO,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        while not (found := [f for f in set(tiny.store.glob("work/*")) - known if (f / training.CHECKPOINT).exists()]):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        output = process.communicate(timeout=200)[0]
    finally:
        process.kill()
    run_id = found[0].name
    assert f"resume={run_id}" in output and tracking.find_run(tiny.tracking, run_id).status == "KILLED"
    resumed = torchrun(f"resume={run_id}", f"tracking.store={tiny.store}")
    assert resumed.returncode == 0, resumed.stderr[-4000:]
    files = [
        tracking.artifact_path(configs.TrackingConfig(store=str(tiny.store)), id, "model/student.safetensors")
        for id in (uncut.id, run_id)
    ]
    assert same_weights(*files)
