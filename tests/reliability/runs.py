"""Tries on whole runs: cut, starved of disk, fed with numbers that are none, side by side in one store.

The data are cartoons of 64 px, the networks small: what is tried is what surrounds them.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import optuna
import psutil
from conftest import write_challenge
from files import REPO, Lost, expect
from running import CONTROL, same_weights, without_extras

from distill import config as configs
from distill import tracking
from distill.errors import UserError
from search.summary import RUN

if TYPE_CHECKING:
    from distill.training.finalize import TrainResult

SHORT = ("train.epochs=4", "train.checkpoint_seconds=0.0001", "tracking.register=false")
GRID = """
base: control.yaml
ablation: {title: Two, control: a, cells: {a: {}, b: {train.lr: 0.002}}}
"""
STUDY = """
base: control.yaml
search:
  title: Rates
  sampler: {kind: random}
  pruner: {kind: none}
  space: {train.lr: {float: [1e-3, 1e-2], log: true}}
"""
CROWD, MINUTES = 8, 5
CUTS = 3  # signals a try, each at a random moment
HALF_WRITTEN = re.compile(r".*\.(tmp|part)(\.\w+)?")
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(REPO),
    "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "false",
    "OMP_NUM_THREADS": "1",
}


def scene(folder: Path, train: int = 24, val: int = 8) -> Path:
    """A data root, a store to be, and the experiment files; gives back control.yaml."""
    write_challenge(folder / "data" / "synthetics_train", train, seed=0)
    write_challenge(folder / "data" / "synthetics_val", val, seed=1)
    (folder / "control.yaml").write_text(CONTROL.format(data=folder / "data", store=folder / "mlruns"))
    (folder / "grid.yaml").write_text(GRID)
    (folder / "study.yaml").write_text(STUDY)
    return folder / "control.yaml"


def start(folder: Path, *args: str, before: tuple[str, ...] = ()) -> psutil.Popen:
    """`python -m ARGS`, its output added to the folder's log."""
    with open(folder / "log", "ab") as log:
        return psutil.Popen(
            [*before, sys.executable, "-m", *args],
            cwd=REPO,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=ENVIRONMENT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )


def ended(process: psutil.Popen, folder: Path, since: int = 0, signalled: int = 0) -> None:
    """Wait for it. Raises UserError where it ended with 2 and one sentence, Lost for a traceback or another end."""
    code, text = process.wait(600), (folder / "log").read_bytes()[since:].decode(errors="replace")
    expect("Traceback" not in text, f"a traceback: {text[-600:]}")
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    if code == 2 and len(errors) == 1:
        raise UserError(errors[0])
    right = (0, -signalled, 128 + signalled) if signalled else (0,)
    expect(code in right, f"exit code {code}: {text[-600:]}")


@cache
def uncut(job: str, yaml: str, folder: Path) -> Path:
    """Weights of a training of this config in a process that nobody disturbs."""
    from distill.training import job as training

    file = folder / f"{job}.yaml"
    file.write_text(yaml)
    config = configs.load(file, [f"tracking.store={folder / 'uncut'}", "tracking.register=false"])
    return (training.train_teacher if job == "teacher" else training.train_student)(config).model_file


def finished(folder: Path, settings: configs.TrackingConfig, least: int = 1) -> list[Path]:
    """Model files of the store's finished trainings. Raises Lost where they are too few, or where one has other weights
    than an uncut training of its own config.
    """
    runs = [run for run in trainings(settings) if run.status == "FINISHED"]
    expect(len(runs) >= least, f"{len(runs)} of {least} trainings are finished")
    files = [tracking.artifact_path(settings, run.id, f"model/{run.job}.safetensors") for run in runs]
    for run, file in zip(runs, files, strict=True):
        stored = tracking.artifact_path(settings, run.id, "config.yaml").read_text()
        expect(same_weights(file, uncut(run.job, stored, folder)), f"run {run.id} has other weights")
    return files


def trainings(settings: configs.TrackingConfig) -> list[tracking.RunInfo]:
    """None where there is no store yet."""
    if not Path(settings.store).exists():
        return []
    return [run for run in tracking.list_runs(settings) if run.job in ("teacher", "student")]


def epochs_once(settings: configs.TrackingConfig, run: tracking.RunInfo) -> None:
    """Raises Lost where a SHORT training has not each of its epochs once."""
    points = tracking.metric_history(settings, run.id, "train/loss")
    expect([step for step, _ in points] == [1, 2, 3, 4], f"train/loss of run {run.id} has {points}")


def kills(job: str) -> Callable:
    """CUTS signals (KILL, TERM, INT) at random moments, then to the end by the same command or `resume=last`: the
    weights of an uncut run, bit for bit. job: teacher, student, grid or study.
    """

    def tries(rng: np.random.Generator, folder: Path) -> Iterator[tuple[str, Callable]]:
        control, typical, number = scene(folder), 60.0, 0
        wanted = 1 if job in ("teacher", "student") else 2

        def tried(here: Path, cuts: list[tuple[int, float]]) -> None:
            nonlocal typical
            settings = configs.load(control, [f"tracking.store={here / 'mlruns'}"]).tracking
            for signalled, share in [*cuts, (0, 0.0)]:
                if signalled == 0 and _done(settings) >= wanted:
                    break
                process, begun, since = (
                    start(here, *_command(job, folder, here)),
                    time.monotonic(),
                    _length(here / "log"),
                )
                try:
                    process.wait(share * typical if signalled else 600)
                    typical = 0.8 * (time.monotonic() - begun)  # it ended before
                except psutil.TimeoutExpired:
                    process.send_signal(signalled)
                ended(process, here, since, signalled)
                if job in ("teacher", "student") and _done(settings):
                    break
            finished(folder, settings, wanted)

        while True:
            number += 1
            here = folder / str(number)
            here.mkdir()
            cuts = [
                (int(rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])), rng.uniform()) for _ in range(CUTS)
            ]
            told = ", ".join(f"{signal.Signals(number).name} at {share:.2f}" for number, share in cuts)
            yield f"{job}, {told}", lambda here=here, cuts=cuts: tried(here, cuts)

    return tries


def _command(job: str, folder: Path, here: Path) -> tuple[str, ...]:
    store, out = f"tracking.store={here / 'mlruns'}", ("--out", f"{here}/out")
    if job == "grid":
        return ("distill.ablation", "run", f"{folder}/grid.yaml", *out, store, *SHORT)
    if job == "study":
        return ("search.study", "--config", f"{folder}/study.yaml", "--trials", "2", *out, store, *SHORT)
    if list((here / "mlruns" / "work").glob("*/checkpoint.pt")):
        return (f"distill.{job}", "resume=last", store)
    return (f"distill.{job}", "--config", f"{folder}/control.yaml", store, *SHORT)


def _done(settings: configs.TrackingConfig) -> int:
    return sum(run.status == "FINISHED" for run in trainings(settings))


def _length(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


# --------------------------------------------------------------------------------------------- disk, worker, store


def disks(rng: np.random.Generator, folder: Path) -> Iterator[tuple[str, Callable]]:
    """A tmpfs of 0 to 6 MB (a training: 0 to 20) that a prediction, an export, or a training with its cache fills; what
    lies there afterwards is whole. Needs `unshare` and user namespaces, or root.
    """
    control, number = scene(folder), 0
    pictures = folder / "data" / "synthetics_train"
    while True:
        number += 1
        here = folder / str(number)
        (disk := here / "disk").mkdir(parents=True)
        kind = ("predict", "predict", "predict", "export", "teacher")[number % 5]
        kilobytes = int(rng.integers(4, 20_000 if kind == "teacher" else 6_000 if kind == "export" else 400))
        command = {
            "predict": ("distill.predict", "bundled", str(pictures), "--out", f"{disk}/out"),
            "export": ("distill.export", "bundled", "--out", f"{disk}/out"),
            "teacher": (
                "distill.teacher",
                "--config",
                str(control),
                f"tracking.store={disk}/mlruns",
                f"data.cache={disk}/cache",
                *SHORT,
            ),
        }[kind]
        script = (
            f'mount -t tmpfs -o size={kilobytes}k t "{disk}" && "$@"; code=$?; cp -a "{disk}" "{here}/left"; exit $code'
        )

        def tried(here: Path = here, command: tuple = command, script: str = script) -> None:
            try:
                ended(start(here, *command, before=("unshare", "-rm", "sh", "-c", script, "sh")), here)
            finally:
                check_whole(here / "left")

        yield f"{kind} on {kilobytes} kB", tried


def memories(rng: np.random.Generator, folder: Path) -> Iterator[tuple[str, Callable]]:
    """A command in an address space of 0.5 to 7 GB (`ulimit -v`): it ends as it should, or by one sentence. Libraries
    take 3 to 6 GB of it (of addresses, not of memory) by being loaded. What lies there afterwards is whole."""
    control, number = scene(folder), 0
    pictures = str(folder / "data" / "synthetics_val")
    while True:
        number += 1
        (here := folder / str(number)).mkdir()
        command = (
            ("distill.predict", str(REPO / "distill/assets/student.onnx"), pictures, "--out", f"{here}/out"),
            ("distill.evaluate", "bundled", "--data", pictures, "--out", f"{here}/out"),
            ("distill.export", "bundled", "--images", pictures, "--out", f"{here}/out"),
            ("distill.student", "--config", str(control), f"tracking.store={here / 'mlruns'}", *SHORT),
        )[number % 4]
        megabytes = int(rng.integers(500, 7_000))
        script = f'ulimit -v {1000 * megabytes}; exec "$@"'

        def tried(here: Path = here, command: tuple = command, script: str = script) -> None:
            try:
                ended(start(here, *command, before=("sh", "-c", script, "sh")), here)
            finally:
                check_whole(here)

        yield f"{command[0]} in {megabytes} MB", tried


def read_only(rng: np.random.Generator, folder: Path) -> Iterator[tuple[str, Callable]]:
    """A command that reads or writes a store on a disk that is mounted read-only: right, or one sentence, and the store
    has the same bytes afterwards. Needs `unshare` and user namespaces, or root."""
    control, number = scene(folder), 0
    store, pictures = folder / "mlruns", str(folder / "data" / "synthetics_val")
    train_bare(configs.load(control, [*SHORT, f"tracking.store={store}"]))
    (run,) = [run.id for run in trainings(configs.load(control).tracking)]
    while True:
        number += 1
        (here := folder / str(number)).mkdir()
        command = (
            ("distill.evaluate", run, "--store", str(store), "--out", f"{here}/out"),
            ("distill.predict", run, pictures, "--store", str(store), "--out", f"{here}/out"),
            ("distill.export", run, "--store", str(store), "--out", f"{here}/out"),
            ("distill.student", "--config", str(control), *SHORT, "seed=7"),
            ("distill.ablation", "table", str(folder / "grid.yaml"), "--out", f"{here}/out"),
            ("distill.report", run, "--store", str(store), "--out", f"{here}/out"),
        )[number % 6]
        script = f'mount --bind "{store}" "{store}" && mount -o remount,ro,bind "{store}" && exec "$@"'

        def tried(here: Path = here, command: tuple = command, script: str = script) -> None:
            before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
            try:
                ended(start(here, *command, before=("unshare", "-rm", "sh", "-c", script, "sh")), here)
            finally:
                after = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
                expect(before == after, "the store has changed")

        yield f"{command[0]} of a read-only store", tried


def check_whole(folder: Path) -> None:
    """Raises Lost for a file that is half-written: a temporary one that was left, or one that its reader refuses."""
    from distill.data import images
    from distill.models.files import load_model
    from distill.predict.runtime import OnnxNetwork
    from distill.submission import file as submission
    from distill.training import checkpoint

    readers: dict[str, Callable[[Path], object]] = {
        **dict.fromkeys(images.SUFFIXES, images.read),
        ".pt": checkpoint.load,
        ".json": lambda file: json.loads(file.read_text()),
        ".safetensors": load_model,
        ".onnx": OnnxNetwork,
        ".zip": submission.read,
    }
    for file in (path for path in folder.rglob("*") if path.is_file()):
        name = str(file.relative_to(folder))
        expect(not HALF_WRITTEN.fullmatch(file.name), f"{name} is left")
        try:
            readers.get(file.suffix, lambda _: None)(file)
        except (UserError, ValueError) as error:  # which would count as a refusal of the command's
            raise Lost(f"{name} is not whole: {error}") from None


def loader_workers(rng: np.random.Generator, folder: Path) -> Iterator[tuple[str, Callable]]:
    """A loader worker is killed outright at a random moment; the run is resumed to the weights of an uncut one."""
    control, number = scene(folder), 0

    def tried(here: Path, share: float) -> None:
        settings = configs.load(control, [f"tracking.store={here / 'mlruns'}"]).tracking
        process = start(here, *_command("student", folder, here), "data.workers=1", "train.epochs=12")
        while process.is_running() and not list((here / "mlruns").glob("work/*/checkpoint.pt")):
            time.sleep(0.05)
        time.sleep(share)
        for child in process.children(recursive=True)[-1:]:
            child.kill()
        try:
            ended(process, here)
        except UserError as error:
            since = _length(here / "log")
            ended(start(here, *_command("student", folder, here)), here, since)
            finished(folder, settings)
            raise error
        finished(folder, settings)

    while True:
        number += 1
        here = folder / str(number)
        here.mkdir()
        yield f"loader worker {number}", lambda here=here, share=rng.uniform(): tried(here, share)


def stores(_rng: np.random.Generator, folder: Path) -> Iterator[tuple[str, Callable]]:
    """Four trainings at once begin in one sqlite store that is not there yet: each has each of its metrics once."""
    control, number = scene(folder), 0

    def tried(here: Path) -> None:
        settings = configs.load(control, [f"tracking.store={here / 'mlruns'}"]).tracking
        command = ("distill.student", "--config", str(control), f"tracking.store={here / 'mlruns'}", *SHORT)
        logs = [here / str(seed) for seed in range(4)]
        for log in logs:
            log.mkdir()
        processes = [start(log, *command, f"seed={log.name}") for log in logs]
        for process, log in zip(processes, logs, strict=True):
            ended(process, log)
        runs = trainings(settings)
        expect(len(runs) == 4 and all(run.status == "FINISHED" for run in runs), f"{len(runs)} runs")
        for run in runs:
            epochs_once(settings, run)

    while True:
        number += 1
        (here := folder / str(number)).mkdir()
        yield f"store {number}", lambda here=here: tried(here)


def crowds(_rng: np.random.Generator, folder: Path) -> Iterator[tuple[str, Callable]]:
    """CROWD processes for MINUTES in one sqlite store that is not there yet: half of them train one student after
    another, half are workers of one study, and end by SIGTERM. Each training and each trial is there once, whole, with
    each metric once."""
    control, number = scene(folder), 0

    def tried(here: Path) -> None:
        settings = configs.load(control, [f"tracking.store={here / 'mlruns'}"]).tracking
        end, store = time.monotonic() + 60 * MINUTES, f"tracking.store={here / 'mlruns'}"
        study = ("search.study", "--config", f"{folder}/study.yaml", "--study", "crowd", "--trials", "100000")

        def member(place: int) -> int:
            (log := here / str(place)).mkdir()
            if place % 2:
                process = start(log, *study, "--out", f"{log}/out", store, *SHORT)
                with contextlib.suppress(psutil.TimeoutExpired):
                    process.wait(end - time.monotonic())
                process.send_signal(signal.SIGTERM)
                ended(process, log, signalled=signal.SIGTERM)
                return 0
            for seed in itertools.count(1):
                since = _length(log / "log")
                command = ("distill.student", "--config", str(control), store, *SHORT, f"seed={1000 * place + seed}")
                ended(start(log, *command), log, since)
                if time.monotonic() > end:
                    return seed
            return 0

        with ThreadPoolExecutor(CROWD) as pool:
            trained = sum(pool.map(member, range(CROWD)))
        runs = {run.id: run for run in trainings(settings)}
        own = [run for run in runs.values() if int(run.params["seed"]) > 0]
        expect(len(own) == trained, f"{len(own)} runs of {trained} trainings")
        trials = optuna.load_study(study_name="crowd", storage=f"sqlite:///{here}/mlruns/optuna.db").trials
        kept = [trial.user_attrs[RUN] for trial in trials if trial.state.name == "COMPLETE"]
        expect(len(set(kept)) == len(kept) > 0, f"{len(kept)} trials have {len(set(kept))} runs")
        for run in [*own, *(runs[id] for id in kept)]:
            expect(run.status == "FINISHED", f"run {run.id} is {run.status}")
            epochs_once(settings, run)
        print(f"{trained} trainings and {len(kept)} trials by {CROWD} processes", file=sys.stderr)

    while True:
        number += 1
        (here := folder / str(number)).mkdir()
        yield f"crowd {number}", lambda here=here: tried(here)


# ---------------------------------------------------------------------------------------------------- data and numbers


def train_bare(config: configs.Config) -> TrainResult:
    """Train a student without pictures and ONNX export, which nothing here is about."""
    from distill.training import job as training

    with without_extras():
        return training.train_student(config)


def numbers(rng: np.random.Generator, folder: Path) -> Iterator[tuple[str, Callable]]:
    """Values that are no numbers, from labels, the teacher's weights and the loss; learning rates without measure; a
    batch of one, one training image, one validation image.
    """
    import torch
    from safetensors.torch import load_file, save_file

    from distill.distillation.losses import coordinate

    control, number = scene(folder), 0
    few = scene(folder / "few", train=1, val=1)
    quick = ("train.epochs=1", "tracking.register=false", f"tracking.store={folder / 'mlruns'}")

    def train(*more: str, file: Path = control) -> Path:
        return train_bare(configs.load(file, [*quick, *more])).model_file

    def finite(*more: str, file: Path = control) -> None:
        expect(
            all(torch.isfinite(tensor).all() for tensor in load_file(train(*more, file=file)).values()),
            "weights without number",
        )

    def teacher(value: float) -> None:
        tensors = load_file(source := train())
        from distill.models.files import read_description

        described = {"distill": json.dumps(read_description(source))}
        name = str(rng.choice([name for name in tensors if name.endswith("weight")]))
        tensors[name].view(-1)[0] = value
        save_file(tensors, folder / "teacher.safetensors", described)
        finite(f"teacher={folder / 'teacher.safetensors'}", "distill.terms={kl: {loss: heatmap_kl}}")

    def loss(value: float) -> None:
        real, calls, at = coordinate.LOSSES["nme"], [], int(rng.integers(1, 6))

        def odd(*args: torch.Tensor) -> torch.Tensor:
            calls.append(1)
            return real(*args) * (value if len(calls) == at else 1.0)

        coordinate.LOSSES["nme"] = odd
        try:
            finite()
        finally:
            coordinate.LOSSES["nme"] = real

    def label(value: float) -> None:
        labels = write_challenge(folder / "odd" / "synthetics_train", 24, seed=0)
        write_challenge(folder / "odd" / "synthetics_val", 8, seed=1)
        labels[int(rng.integers(24)), int(rng.integers(68)), 0] = value
        pair = ([f"00{i:04d}.jpg" for i in range(24)], labels)
        (folder / "odd" / "synthetics_train" / "annot.pkl").write_bytes(pickle.dumps(pair))
        finite(f"data.root={folder / 'odd'}", f"data.on_bad={rng.choice(['stop', 'skip'])}")

    while True:
        kind, value = number % 8, float(rng.choice([np.nan, np.inf, -np.inf, 1e30]))
        number += 1
        calls: list[Callable[[], object]] = [
            lambda value=value: label(value),
            lambda value=value: teacher(value),
            lambda value=value: loss(value),
            lambda value=value: finite(f"train.lr={abs(value)}"),
            lambda: finite("train.batch_size=1"),
            lambda: finite(file=few),
            lambda: finite("train.batch_size=1", file=few),
            lambda value=value: finite(f"loss.coordinate_weight={value}"),
        ]
        names = (
            "label",
            "teacher",
            "loss",
            "learning rate",
            "a batch of one",
            "one image of each",
            "both",
            "weight of a loss",
        )
        yield f"{names[kind]}, {value}", calls[kind]


def poison(rng: np.random.Generator, folder: Path) -> Iterator[tuple[str, Callable]]:
    """Validation images and labels exchanged for noise: the weights after each epoch stay the same bit for bit."""
    control, number = scene(folder), 0

    def snapshots(*more: str) -> list[Path]:
        config = configs.load(control, ["train.epochs=2", "train.snapshots=2", "tracking.register=false", *more])
        run = train_bare(config).run_id
        return sorted(tracking.artifact_path(config.tracking, run, "snapshots").iterdir())

    def tried(root: Path) -> None:
        shutil.copytree(folder / "data", root)
        labels = write_challenge(root / "synthetics_val", 8, seed=1)
        for i in range(8):
            cv2.imwrite(str(root / "synthetics_val" / f"01{i:04d}.jpg"), rng.integers(0, 256, (64, 64, 3), np.uint8))
        pair = ([f"01{i:04d}.jpg" for i in range(8)], np.clip(labels + rng.normal(0, 3, labels.shape), 1, 63))
        (root / "synthetics_val" / "annot.pkl").write_bytes(pickle.dumps(pair))
        ours, theirs = clean, snapshots(f"data.root={root}")
        expect(len(ours) == len(theirs) == 2 and all(map(same_weights, ours, theirs)), "other weights")

    clean = snapshots()
    while True:
        number += 1
        yield f"poison {number}", lambda root=folder / f"poison{number}": tried(root)
