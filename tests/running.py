"""Tiny whole runs that several test files look at, each trained once a session and only if a test wants it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from distill import config as configs
from distill import tracking
from distill.config import Config
from distill.errors import UserError

if TYPE_CHECKING:
    from distill.models.landmarker import Landmarker

REPO = Path(__file__).resolve().parent.parent
OTHERS = ("recipes", "ablations", "search")  # files of other kinds, with tests of their own
EXPERIMENTS = sorted(path for path in (REPO / "experiments").rglob("*.yaml") if path.parent.name not in OTHERS)

# learns the cartoons to about 5 % in five seconds of one core
CONTROL = """
name: control
model: {{backbone: lcnet_050, input_size: 64, head: {{stride: 8, width: 16}}}}
augment: {{photometric: {{noise: {{name: GaussNoise, p: 0.5, args: {{std_range: [0.01, 0.05]}}}}}}}}
loss: {{coordinate: nme, coordinate_weight: 20}}
data: {{root: "{data}", workers: 0}}
train: {{epochs: 12, batch_size: 4, lr: 0.005, ema: 0.9, threads: 1, amp: "off"}}
tracking: {{store: "{store}", experiment: tiny}}
"""
DISTILLED = """
base: control.yaml
name: distilled
distill:
  terms:
    kl: {loss: heatmap_kl, weight: 1.5}
    hint: {loss: fitnet, weight: 0.5, schedule: cosine, student: "level:3", teacher: "level:3"}
    attention: {loss: attention, weight: 0.1, student: "level:2", teacher: backbone.blocks.2}
"""
TERMS = ("kl", "hint", "attention")


@dataclass(frozen=True)
class Tiny:
    """A data root of 64 px images (24 to train on, 8 to validate on, 4 unlabelled), a store, two experiment files."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def store(self) -> Path:
        return self.folder / "mlruns"

    @property
    def control_yaml(self) -> Path:
        return self.folder / "control.yaml"

    @property
    def distilled_yaml(self) -> Path:
        return self.folder / "distilled.yaml"

    @property
    def tracking(self) -> configs.TrackingConfig:
        return self.config().tracking

    def config(self, *overrides: str, distilled: bool = False) -> Config:
        return configs.load(self.distilled_yaml if distilled else self.control_yaml, overrides)

    def short(self, *overrides: str, distilled: bool = False) -> Config:
        """Two epochs of six batches, unregistered: for what shows at once."""
        return self.config("train.epochs=2", "tracking.register=false", *overrides, distilled=distilled)

    def info(self, result) -> tracking.RunInfo:
        return tracking.find_run(self.tracking, result.run_id)

    def curve(self, run_id: str, key: str) -> list[float]:
        """One value an epoch, checked to be that."""
        points = tracking.metric_history(self.tracking, run_id, key)
        assert [step for step, _ in points] == list(range(1, len(points) + 1)), f"{key}: {points}"
        return [value for _, value in points]

    @cached_property
    def teacher(self):
        """Larger than the student, at another input size."""
        from distill.training import job as training

        return training.train_teacher(
            self.config("name=teacher", "model.backbone=lcnet_075", "model.input_size=96", "tracking.outputs=light")
        )

    @cached_property
    def control(self):
        from distill.training import job as training

        return training.train_student(self.config())

    @cached_property
    def distilled(self):
        assert self.control  # trained before, whichever test comes first
        from distill.training import job as training

        return training.train_student(self.config(f"teacher={self.teacher.run_id}", distilled=True))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    from conftest import write_challenge  # which imports this module

    folder = tmp_path_factory.mktemp("whole runs")
    write_challenge(folder / "data" / "synthetics_train", 24, seed=0)
    write_challenge(folder / "data" / "synthetics_val", 8, seed=1)
    write_challenge(folder / "data" / "synthetics_test", 4, seed=2, labelled=False)
    (folder / "control.yaml").write_text(CONTROL.format(data=folder / "data", store=folder / "mlruns"))
    (folder / "distilled.yaml").write_text(DISTILLED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
        for name in ("MLFLOW_TRACKING_URI", "DISTILL_DATA"):
            patch.delenv(name, raising=False)
        yield Tiny(folder)


@contextmanager
def without_extras() -> Iterator[None]:
    """While inside, whole runs make neither pictures nor an ONNX file."""
    from distill.evaluate.job import predict_set
    from distill.export import job as exporting
    from distill.training import finalize

    made: dict[Path, Landmarker] = {}

    def no_onnx(model, path, _described):
        path.write_bytes(b"")
        made[path] = model
        return path, 0.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finalize, "pictures", lambda *_, **__: [])
        patch.setattr(exporting, "to_onnx", no_onnx)
        patch.setattr(exporting, "solve", lambda onnx, images: predict_set(made[onnx], images).points)
        patch.setattr(finalize, "pack", lambda *_: [])
        yield


@pytest.fixture
def bare() -> Iterator[None]:
    """For tests that look neither at pictures nor at the ONNX file of a run."""
    with without_extras():
        yield


def in_this_process(tasks, parts, is_busy, on_end) -> None:
    """distill.runs.workers.work_off without its processes."""
    from distill.runs import find_or_train
    from distill.runs.workers import Ended

    for task in tasks:
        assert not is_busy(task)
        try:
            on_end(Ended(task, find_or_train.settle(task.cell, task.tags, wait=False)))
        except UserError as error:
            on_end(Ended(task, None, str(error)))


def same_weights(a: Path, b: Path) -> bool:
    """Bit for bit."""
    import torch
    from safetensors.torch import load_file

    x, y = load_file(a), load_file(b)
    return x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x)


def refusal(call: Callable[..., object], *args: object, **named: object) -> str:
    """The one sentence of the UserError that a call raises."""
    try:
        call(*args, **named)
    except UserError as error:
        assert "\n" not in str(error) and str(error)[-1] in ".?"
        return str(error)
    raise AssertionError("it was not refused")
