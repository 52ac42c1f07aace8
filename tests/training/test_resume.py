"""A run that is cut, however it is cut, continues to the very weights of an uncut one, in the same MLflow run.

The references are the session's uncut runs (`tiny.control`, `tiny.distilled`): 12 epochs of 6 batches, one thread, no
loader worker. What is cut and resumed here loads with a worker, which must not matter either.
"""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import re
import runpy
import shlex
import shutil
import signal
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from conftest import write_challenge
from running import TERMS, same_weights

from distill import config as configs
from distill import student, tracking
from distill.distillation.losses import coordinate as landmark_losses
from distill.errors import UserError
from distill.files import write_text
from distill.tracking import RunInfo
from distill.training import checkpoint, finalize
from distill.training import job as training

# a model that draws random numbers in every step (stochastic depth)
CHANCE = (
    "model.backbone=mobilenetv3_small_050",
    "model.backbone_args={drop_path_rate: 0.3}",
    "train.epochs=3",
    "tracking.register=false",
)

# ---------------------------------------------------------------------------------------------------- real processes


@dataclass
class Cut:
    """One session of a run in a process of its own, ended by a signal in the middle of an epoch."""

    code: int
    output: str
    state: dict  # the checkpoint it left
    status: str  # of the MLflow run afterwards


def slowly(args: list[str], log: Path, progress: Path) -> None:
    """`python -m distill.student ARGS`, the body of a process. After each checkpoint it writes down where it is, and
    waits a little, since on a fast machine nobody could catch it in between."""
    save = checkpoint.save

    def watched(path: Path, state: dict) -> None:
        save(path, state)
        write_text(progress, json.dumps([path.parent.name, state["progress"]]))
        time.sleep(0.15)

    checkpoint.save = watched
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)
    os.chdir(log.parent)
    sys.argv = ["distill.student", *args]
    try:
        runpy.run_module("distill.student", run_name="__main__", alter_sys=True)
    finally:
        sys.stdout.flush()


class Session:
    """`python -m distill.student` in a process of its own, watched through what it writes down. It comes from a server
    that has imported all and runs nothing: a fork of the tests' process would hang on the threads that it had."""

    def __init__(self, store: Path, log: Path, *args: str):
        self.store, self.log, self.progress = store, log, log.with_suffix(".json")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["distill.training.job", "mlflow"])
        self.process = context.Process(target=slowly, args=([*args, "data.workers=1"], log, self.progress))
        self.process.start()

    def under_way(self, after: int) -> bool:
        if not self.progress.exists():
            return False
        _, progress = json.loads(self.progress.read_text())
        # of 6 batches; a process stopped while it writes one checkpoint is two batches further when it sees a signal
        return progress["epoch"] >= after and 0 < progress["batch"] < 3

    def cut(self, number: int, after: int) -> tuple[str, Cut]:
        """Send the signal once an epoch from `after` on (from 0) is under way. The run's id, and what became of it."""
        deadline = time.monotonic() + 600
        while True:
            assert self.process.is_alive() and time.monotonic() < deadline, self.log.read_text()
            if self.under_way(after):
                os.kill(self.process.pid, signal.SIGSTOP)  # so that this stays true
                if self.under_way(after):
                    break
                os.kill(self.process.pid, signal.SIGCONT)
            time.sleep(0.01)
        run_id, _ = json.loads(self.progress.read_text())
        os.kill(self.process.pid, number)
        os.kill(self.process.pid, signal.SIGCONT)
        self.process.join(120)
        code = self.process.exitcode
        state = checkpoint.load(self.store / "work" / run_id / training.CHECKPOINT)
        return run_id, Cut(code, self.log.read_text(), state, "")


@pytest.fixture(scope="module")
def history(tiny, tmp_path_factory):
    """A distilled run: killed, resumed, terminated, resumed to its end by the command that it printed, from another
    folder."""
    folder = tmp_path_factory.mktemp("cuts")
    reference = tiny.distilled
    cuts: dict[str, Cut] = {}

    def cut(name: str, number: int, after: int, *args: str) -> str:
        session = Session(tiny.store, folder / name, *args)
        try:
            run_id, cuts[name] = session.cut(number, after)
        finally:
            session.process.kill()
        cuts[name].status = tracking.find_run(tiny.tracking, run_id).status
        return run_id

    yaml, teacher = str(tiny.distilled_yaml), f"teacher={tiny.teacher.run_id}"
    often = "train.checkpoint_seconds=0.0001"  # a checkpoint after every batch
    unregistered = "tracking.register=false"  # the session's own student stays the newest
    run_id = cut("kill", signal.SIGKILL, 1, "--config", yaml, teacher, often, unregistered)
    cut("terminate", signal.SIGTERM, 2, f"resume={run_id[:8]}", f"tracking.store={tiny.store}")
    command = re.search(r"Continue with: python -m distill\.student (.*)", cuts["terminate"].output)
    assert command, cuts["terminate"].output
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(elsewhere)  # no experiments/, no mlruns/, no data
        student.main([*shlex.split(command[1]), "train.checkpoint_seconds=600"])
    assert not list(elsewhere.iterdir())
    return reference, run_id, cuts


def test_killed_in_mid_epoch_ends_in_the_very_same_weights(tiny, history):
    reference, run_id, cuts = history
    assert cuts["kill"].code == -signal.SIGKILL and cuts["kill"].status == "RUNNING"
    for cut in cuts.values():
        assert 0 < cut.state["progress"]["batch"] < 6
    steps = [cut.state["progress"]["step"] for cut in cuts.values()]
    assert steps == sorted(set(steps)) and steps[-1] < 72
    resumed = tracking.artifact_path(tiny.tracking, run_id, "model/student.safetensors")
    assert same_weights(resumed, reference.model_file)


def test_a_resumed_run_is_the_same_run_with_every_point_once(tiny, history):
    reference, run_id, _ = history
    info = tracking.find_run(tiny.tracking, run_id)
    assert info.status == "FINISHED" and info.tags["teacher.run_id"] == tiny.teacher.run_id
    assert info.params == tiny.info(reference).params | {
        key: info.params[key] for key in ("train.checkpoint_seconds", "data.workers", "tracking.register")
    }
    assert info.metrics.keys() == tiny.info(reference).metrics.keys()
    exact = ["train/loss", "train/lr", "train/grad_norm", "val/nme", *(f"train/raw/{name}" for name in TERMS)]
    for key in exact:
        assert tiny.curve(run_id, key) == tiny.curve(reference.run_id, key), key
    for key in info.metrics:
        points = tracking.metric_history(tiny.tracking, run_id, key)
        assert len({step for step, _ in points}) == len(points), key


def test_nothing_is_left_to_resume(tiny, history):
    _, run_id, _ = history
    left = {path.name for path in (tiny.store / "work" / run_id).iterdir()}
    assert training.CHECKPOINT not in left and training.TEACHER_COPY not in left
    with pytest.raises(UserError, match=run_id):
        checkpoint.stored_config([f"resume={run_id}", f"tracking.store={tiny.store}"])


def test_a_signal_ends_the_process_in_order(history):
    _, run_id, cuts = history
    cut = cuts["terminate"]
    assert (cut.code, cut.status) == (128 + signal.SIGTERM, "KILLED")
    assert f"python -m distill.student resume={run_id}" in cut.output and "Traceback" not in cut.output


def test_ctrl_c_saves_the_very_batch(tiny, bare, uncut, monkeypatch, capsys):
    """Without any checkpoint inside an epoch but the one that the signal asks for."""
    real, calls = landmark_losses.LOSSES["nme"], []

    def interrupting(*args):
        calls.append(1)
        if len(calls) == 9:  # the third batch of the second epoch
            os.kill(os.getpid(), signal.SIGINT)
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setitem(landmark_losses.LOSSES, "nme", interrupting)
        with pytest.raises(SystemExit) as stopped:
            training.train_teacher(tiny.config(*CHANCE))
    assert stopped.value.code == 128 + signal.SIGINT and len(calls) == 9
    (run_id,) = re.findall(r"Continue with: python -m distill.teacher resume=(\w+)", capsys.readouterr().out)
    progress = checkpoint.load(tiny.store / "work" / run_id / training.CHECKPOINT)["progress"]
    assert (progress["epoch"], progress["batch"], progress["step"]) == (1, 3, 9)
    assert tracking.find_run(tiny.tracking, run_id).status == "KILLED"
    result = training.train_teacher(tiny.config(*CHANCE, "resume=last"))
    assert result.run_id == run_id and same_weights(result.model_file, uncut.model_file)


def test_the_printed_command_names_every_place_absolutely(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = configs.load(None, ["data.root=faces", "data.cache=cache #1", "teacher=x"])
    command = checkpoint.resume_command(config, "teacher", "abc", Path("faces"))
    assert shlex.split(command) == [
        "python",
        "-m",
        "distill.teacher",
        "resume=abc",
        f"tracking.store={tmp_path}/mlruns",
        f"data.root={tmp_path}/faces",
        f"data.cache={tmp_path}/cache #1",
    ]
    again = configs.load(None, shlex.split(command)[3:])
    assert again.data.cache == f"{tmp_path}/cache #1" and again.data.root == f"{tmp_path}/faces"
    bundled = checkpoint.resume_command(configs.Config(), "student", "abc", None)
    assert shlex.split(bundled)[3:] == ["resume=abc", f"tracking.store={tmp_path}/mlruns"]


# ---------------------------------------------------------------------------------------------------- any moment


class Killed(BaseException):
    """As unexpected as a power cut, but in this process."""


MOMENTS = {
    "before the first checkpoint": ("checkpoint.save", "before", 1),
    "after an epoch was logged, before it was saved": ("checkpoint.save", "before", 2),
    "when all was trained, before it was evaluated": ("finalize.predict_set", "before", 1),
}


@pytest.fixture(scope="module")
def uncut(tiny):
    return training.train_teacher(tiny.config(*CHANCE))


@pytest.mark.parametrize("moment", MOMENTS)
def test_resumes_from_any_moment(tiny, bare, uncut, monkeypatch, moment):
    name, when, count = MOMENTS[moment]
    owner = {"checkpoint": checkpoint, "finalize": finalize, "training": training}[name.split(".")[0]]
    function = name.split(".")[1]
    real, calls = getattr(owner, function), []

    def fragile(*args, **kwargs):
        calls.append(1)
        if len(calls) == count and when == "before":
            raise Killed
        result = real(*args, **kwargs)
        if len(calls) == count:
            raise Killed
        return result

    with monkeypatch.context() as patch:
        patch.setattr(owner, function, fragile)
        with pytest.raises(Killed):
            training.train_teacher(tiny.config(*CHANCE))
    run_id = tracking.list_runs(tiny.tracking)[0].id
    if moment == "before the first checkpoint":
        with pytest.raises(UserError, match=run_id):
            training.train_teacher(tiny.config(*CHANCE, f"resume={run_id}"))
        return
    # a process that was killed inside its next checkpoint leaves a file, which the next start removes
    left = tiny.store / "work" / run_id / ".checkpoint.4000000.tmp.pt"
    left.touch()
    (left.parent / "lock").touch()
    result = training.train_teacher(tiny.config(*CHANCE, f"resume={run_id}"))
    assert result.run_id == run_id and same_weights(result.model_file, uncut.model_file)
    for key in ("train/loss", "val/nme"):
        assert tiny.curve(run_id, key) == tiny.curve(uncut.run_id, key)
    assert tiny.info(result).status == "FINISHED" and not left.exists()


def test_resumes_without_what_it_started_from_to_the_same_snapshots(tiny, bare, monkeypatch, tmp_path):
    """Killed after the third of four epochs was written and before it was saved; frozen parts stay frozen."""
    source = tmp_path / "source.safetensors"
    shutil.copyfile(tiny.control.model_file, source)
    often = [f"init={source}", "train.freeze=[backbone.blocks.1, head.mix]", "train.epochs=4", "train.snapshots=3"]
    whole = training.train_student(tiny.short(*often))
    real, saves = checkpoint.save, []

    def fragile(path, state):
        saves.append(1)
        if len(saves) == 3:
            raise Killed
        real(path, state)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", fragile)
        with pytest.raises(Killed):
            training.train_student(tiny.short(*often))
    run_id = tracking.list_runs(tiny.tracking)[0].id
    early = {path.name: path.read_bytes() for path in (tiny.store / "work" / run_id / "snapshots").iterdir()}
    assert set(early) == {"epoch_002.safetensors", "epoch_003.safetensors"}
    source.unlink()
    result = training.train_student(tiny.short(*often, f"resume={run_id}"))
    assert same_weights(result.model_file, whole.model_file)
    ours, theirs = (tracking.artifact_path(tiny.tracking, run.run_id, "snapshots") for run in (result, whole))
    names = [f"epoch_{epoch:03d}.safetensors" for epoch in (2, 3, 4)]
    assert sorted(path.name for path in ours.iterdir()) == sorted(path.name for path in theirs.iterdir()) == names
    for name in names:
        mine, other = (ours / name).read_bytes(), (theirs / name).read_bytes()
        assert mine == early.get(name, mine) == other.replace(whole.run_id.encode(), run_id.encode())
    assert tiny.info(result).tags["init.run_id"] == tiny.control.run_id


# ---------------------------------------------------------------------------------------------------- refusals


@pytest.fixture(scope="module")
def unfinished(tiny) -> RunInfo:
    """A teacher that stopped after its first epoch; on a data root of its own, which tests may copy."""

    def stop(*_args, **_kwargs):
        raise Killed

    real = checkpoint.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", lambda path, state: (real(path, state), stop()))
        with pytest.raises(Killed):
            training.train_teacher(tiny.short())
    return tracking.list_runs(tiny.tracking)[0]


def test_resume_refuses_another_config_by_naming_the_key(tiny, unfinished):
    for change, key in (("train.lr=0.004", "train.lr"), ("augment.flip=0.1", "augment.flip"), ("seed=5", "seed")):
        with pytest.raises(UserError, match=rf"\b{re.escape(key)}="):
            training.train_teacher(tiny.short(f"resume={unfinished.id}", change))


def test_resume_refuses_other_data(tiny, unfinished, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(tiny.data, root)
    write_challenge(root / "synthetics_val", 8, seed=9)
    with pytest.raises(UserError, match=r"resume: .*\bval\b"):
        training.train_teacher(tiny.short(f"resume={unfinished.id}", f"data.root={root}"))
    write_challenge(root / "synthetics_train", 24, seed=8)
    with pytest.raises(UserError, match=r"resume: .*\btrain\b"):
        training.train_teacher(tiny.short(f"resume={unfinished.id}", f"data.root={root}"))


def test_resume_refuses_what_is_not_there_or_not_that(tiny, unfinished):
    with pytest.raises(UserError, match="0123456789abcdef"):
        training.train_teacher(tiny.short("resume=0123456789abcdef"))
    with pytest.raises(UserError, match=tiny.teacher.run_id):
        training.train_teacher(tiny.short(f"resume={tiny.teacher.run_id}"))
    with pytest.raises(UserError, match="teacher.*student"):
        training.train_student(tiny.short(f"resume={unfinished.id}"))
    assert tracking.find_run(tiny.tracking, unfinished.id).status == "KILLED"  # refused, and not touched


def test_resume_alone_brings_the_run_s_own_config(tiny, unfinished):
    """Whatever the default experiment says; only what was given beside it is this call's."""
    call = [f"resume={unfinished.id}", f"tracking.store={tiny.store}"]
    stored = checkpoint.stored_config(call)
    assert (stored.train.lr, stored.data.workers, stored.tracking.experiment) == (0.005, 0, "tiny")
    assert stored.resume == unfinished.id and stored.tracking.store == str(tiny.store)
    assert checkpoint.stored_config([*call, "data.workers=3"]) == replace(stored, data=replace(stored.data, workers=3))
    with pytest.raises(UserError, match=r"train\.lr=0\.005.*0\.1\b"):
        training.train_teacher(checkpoint.stored_config([*call, "train.lr=0.1"]))


def test_a_run_killed_before_its_first_checkpoint_ends_as_killed_at_the_next_start(tiny, bare, monkeypatch):
    """Its lock is left behind, and nobody holds it; a run that somebody holds is left alone."""

    def start() -> tracking.Run:
        run = tracking.Run.start(tiny.tracking, job="teacher", run_name="", params={}, config_yaml="", tags={})
        (run.work / "lock").touch()
        return run

    dead, alive = start(), start()
    with tracking.hold(alive.work):
        checkpoint.tidy(tiny.tracking)
        assert tracking.find_run(tiny.tracking, dead.id).status == "KILLED"
        assert tracking.find_run(tiny.tracking, alive.id).status == "RUNNING"
    alive.finish()


@pytest.mark.parametrize("where", ["torch", "disk"])
def test_a_full_disk_is_one_sentence_and_leaves_the_checkpoint_before(tmp_path, monkeypatch, where):
    """torch turns what the file raises into an error of its own."""
    file = tmp_path / training.CHECKPOINT
    state = {"job": "teacher", "config": {}, "data": {}, "teacher_run": ""}
    checkpoint.save(file, {**state, "epoch": 1})

    def full(*_args):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            if where == "torch":
                raise RuntimeError("[enforce fail at inline_container.cc:672]")  # noqa: B904
            raise

    monkeypatch.setattr(torch if where == "torch" else os, "save" if where == "torch" else "fsync", full)
    with pytest.raises(UserError, match="checkpoint.pt.*No space left on device"):
        checkpoint.save(file, {**state, "epoch": 2})
    assert checkpoint.load(file)["epoch"] == 1 and list(tmp_path.iterdir()) == [file]


def _one_weight_changed(file: Path) -> None:
    checkpoint.save(file, {"job": "teacher", "config": {}, "data": {}, "teacher_run": "", "w": torch.full((99,), 7.0)})
    data = bytearray(file.read_bytes())
    data[data.index(torch.full((9,), 7.0).numpy().tobytes())] ^= 1
    file.write_bytes(data)


BROKEN = {
    "text": lambda file: file.write_bytes(b"not a checkpoint"),
    "one bit of a weight": _one_weight_changed,  # which torch.load does not notice
    "no config": lambda file: checkpoint.save(file, {"job": "teacher", "data": {}, "teacher_run": ""}),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_checkpoint_is_one_sentence(tmp_path, kind):
    folder = tmp_path / "work" / "abc"
    folder.mkdir(parents=True)
    file = folder / training.CHECKPOINT
    BROKEN[kind](file)
    with pytest.raises(UserError) as refused:
        checkpoint.stored_config(["resume=last", f"tracking.store={tmp_path}"])
    assert str(file) in str(refused.value) and "\n" not in str(refused.value)
