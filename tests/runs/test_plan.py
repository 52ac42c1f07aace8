"""A training that was done is found, one that was cut is continued, and none is made twice, whoever made it first."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from conftest import write_challenge
from running import refusal, same_weights

from distill import config as configs
from distill import tracking
from distill.runs import find_or_train
from distill.runs.find_or_train import Cell
from distill.tracking import Held
from distill.training import checkpoint
from distill.training import job as training


def settled(cell: Cell) -> str:
    return find_or_train.settle(cell).run_id


class Killed(BaseException):
    """As unexpected as a power cut, but in this process."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("plans") / "mlruns"


@pytest.fixture
def mine(tiny, bare, store, request):
    """Configs of the shortest trainings; no other test has the same."""
    decay = 0.01 + request.session.items.index(request.node) * 1e-6

    def config(*overrides: str, distilled: bool = False) -> configs.Config:
        own = (
            f"tracking.store={store}",
            f"tracking.experiment={request.node.name}",
            f"train.weight_decay={decay:.6f}",
            "data.limit=8",
            "tracking.outputs=light",
        )
        return tiny.short(*own, *overrides, distilled=distilled)

    return config


@pytest.fixture
def trainings(monkeypatch):
    """The run ids that trainings resume, one entry a training: "" for those begun anew."""
    resumed = []
    for name in ("train_teacher", "train_student"):
        real = getattr(training, name)
        monkeypatch.setattr(training, name, lambda config, real=real: resumed.append(config.resume) or real(config))
    return resumed


def cut_after_first_checkpoint(monkeypatch, config) -> str:
    """Train until the first checkpoint is written, and die; the run's id."""
    real = checkpoint.save

    def stop(path, state):
        real(path, state)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", stop)
        with pytest.raises(Killed):
            settled(Cell("a", "student", config))
    return tracking.list_runs(config.tracking, "student")[0].id


def test_a_finished_training_is_found_whatever_it_is_called_and_wherever_it_runs(mine, trainings, tmp_path):
    run_id = training.train_student(mine()).run_id  # as the command line does
    other = mine("name=another", "train.threads=2", "data.workers=1", "tracking.experiment=elsewhere")
    assert find_or_train.settle(Cell("control", "student", other)) == find_or_train.Outcome(run_id, "found")
    assert trainings == [""]  # the command line's


def test_another_config_seed_job_or_data_is_another_training(mine, trainings, tmp_path):
    first = settled(Cell("a", "student", mine()))
    root = tmp_path / "data"
    write_challenge(root / "synthetics_train", 24, seed=0)
    write_challenge(root / "synthetics_val", 8, seed=9)
    others = [
        Cell("a", "student", mine("train.lr=0.004")),
        Cell("a", "student", mine("seed=1")),
        Cell("a", "teacher", mine()),
        Cell("a", "student", mine(f"data.root={root}")),
    ]
    found = [find_or_train.find(cell.config.tracking, identity_of(cell)).state for cell in others]
    assert found == ["new"] * 4 and trainings == [""]
    assert find_or_train.find(mine().tracking, identity_of(Cell("b", "student", mine()))).run.id == first


def identity_of(cell: Cell) -> find_or_train.Identity:
    data = find_or_train.fingerprints(cell.config.data)
    return find_or_train.identify(cell, data, find_or_train.teacher_of(cell.config, data))[1]


def test_a_teacher_is_the_same_however_it_is_named(mine, trainings):
    first, second = (settled(Cell("t", "teacher", mine(f"seed={seed}"))) for seed in (0, 1))
    distilled = settled(Cell("a", "student", mine("teacher=", distilled=True)))  # the newest: the second
    for name in (second, second[:8], ""):
        cell = Cell("a", "student", mine(f"teacher={name}", distilled=True))
        assert find_or_train.settle(cell) == find_or_train.Outcome(distilled, "found"), name
    assert (
        find_or_train.find(
            mine().tracking, identity_of(Cell("a", "student", mine(f"teacher={first}", distilled=True)))
        ).run
        is None
    )
    assert tracking.find_run(mine().tracking, distilled).tags["teacher.run_id"] == second
    assert len(trainings) == 3


def test_a_teacher_in_a_file_is_known_by_its_bytes(mine, tmp_path):
    import torch

    from distill.models.files import save_model
    from distill.models.landmarker import Landmarker

    file = tmp_path / "teacher.safetensors"
    torch.manual_seed(1)
    save_model(Landmarker(mine().model), file, {"job": "teacher", "run_id": ""})
    cell = Cell("a", "student", mine(f"teacher={file}", distilled=True))
    run_id = settled(cell)
    assert find_or_train.settle(cell) == find_or_train.Outcome(run_id, "found")
    torch.manual_seed(2)
    save_model(Landmarker(mine().model), file, {"job": "teacher", "run_id": ""})  # other weights, same name
    assert find_or_train.find(cell.config.tracking, identity_of(cell)).state == "new"


def test_a_cut_training_continues_in_its_run_to_the_same_weights(mine, trainings, monkeypatch):
    teacher = settled(Cell("t", "teacher", mine()))
    config = mine(f"teacher={teacher}", distilled=True)
    run_id = cut_after_first_checkpoint(
        monkeypatch, mine("teacher=", distilled=True)
    )  # it called its teacher otherwise
    assert find_or_train.settle(Cell("a", "student", config)) == find_or_train.Outcome(run_id, "continued")
    assert trainings == ["", "", run_id]
    again = training.train_student(replace(config, tracking=replace(config.tracking, experiment="uncut")))
    resumed = tracking.artifact_path(config.tracking, run_id, "model/student.safetensors")
    assert same_weights(resumed, again.model_file)


def test_what_died_before_its_first_checkpoint_is_marked_and_begun_anew(mine, trainings, monkeypatch):
    def die(*_args):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", die)
        with pytest.raises(Killed):
            settled(Cell("a", "student", mine()))
    (dead,) = tracking.list_runs(mine().tracking)
    tracking.client.connect(mine().tracking).update_run(dead.id, status="RUNNING")  # as a kill -9 leaves it
    run_id = settled(Cell("a", "student", mine()))
    assert run_id != dead.id and trainings == ["", ""]
    assert tracking.find_run(mine().tracking, dead.id).status == "KILLED"


def test_a_damaged_checkpoint_is_not_continued(mine, monkeypatch):
    run_id = cut_after_first_checkpoint(monkeypatch, mine())
    (tracking.work_dir(mine().tracking, run_id) / training.CHECKPOINT).write_bytes(b"cut off")
    assert find_or_train.settle(Cell("a", "student", mine())).how == "trained"


def test_the_tags_are_the_run_s_and_change_nothing_of_what_it_is(mine):
    cell = Cell("a", "student", mine("tracking.tags={by: hand}"))
    run_id = find_or_train.settle(cell, {"mlflow.parentRunId": "abc"}).run_id
    tags = tracking.find_run(mine().tracking, run_id).tags
    assert (tags["by"], tags["mlflow.parentRunId"]) == ("hand", "abc")
    assert find_or_train.settle(Cell("a", "student", mine()), {"mlflow.parentRunId": "def"}) == find_or_train.Outcome(
        run_id, "found"
    )


# holds a file's lock, says so, and waits for its end
HOLDER = """
import sys; from pathlib import Path; from distill.tracking import exclusive
with exclusive(Path(sys.argv[1]), ''): print('held', flush=True); sys.stdin.read()
"""


@pytest.fixture
def elsewhere():
    """Another process that holds a lock file; killed outright at the end."""
    holders = []

    def hold(path):
        process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdin=-1, stdout=-1, text=True)
        holders.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in holders:
        process.kill()
        process.communicate()


def test_two_processes_never_make_one_training(mine, trainings, elsewhere):
    cell = Cell("a", "student", mine())
    identity = identity_of(cell)
    holder = elsewhere(tracking.store_root(cell.config.tracking) / "work" / "locks" / f"{identity.key}.lock")
    assert find_or_train.is_busy(cell.config.tracking, identity)
    with pytest.raises(Held):
        find_or_train.settle(cell, wait=False)
    holder.kill()  # a kill lets go
    holder.wait()
    assert not find_or_train.is_busy(cell.config.tracking, identity)
    assert find_or_train.settle(cell, wait=False).how == "trained" and trainings == [""]


def test_a_run_that_a_command_is_training_is_left_alone(mine, trainings, monkeypatch, elsewhere):
    run_id = cut_after_first_checkpoint(monkeypatch, mine())
    elsewhere(tracking.work_dir(mine().tracking, run_id) / "lock")
    with pytest.raises(Held):
        find_or_train.settle(Cell("a", "student", mine()), wait=False)
    assert run_id in refusal(lambda: training.train_student(mine(f"resume={run_id}")))
    assert trainings == ["", run_id] and tracking.find_run(mine().tracking, run_id).status == "KILLED"


def test_several_torchrun_processes_are_refused(mine, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "torchrun" in refusal(lambda: settled(Cell("a", "student", mine())))
