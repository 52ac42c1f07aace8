"""Every experiment file that ships is valid, and trains: shrunk to a few small images, but with its own backbone and
recipe."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from running import EXPERIMENTS, REPO

from distill import config as configs
from distill import tracking
from distill.config import HeadConfig, ModelConfig

FOLDER = REPO / "experiments"
NAMES = [str(path.relative_to(FOLDER)) for path in EXPERIMENTS]
LARGE = {"teacher.yaml", "gpu/teacher.yaml"}  # 88 and 31 million parameters: some GB of memory, a minute
# the network and the kind of terms of another file, with other numbers
ALIKE = {"base.yaml", "student.yaml", "demo/student.yaml", "gpu/student.yaml", "gpu/distill.yaml"} | {
    f"cpu/{name}.yaml" for name in ("yardstick", "best", "searched", "continued_192")
}


def shrunk(tiny, folder: Path, path: Path, *overrides: str) -> configs.Config:
    few = [
        f"data.root={tiny.data}",
        "data.limit=8",
        "data.workers=0",
        "model.input_size=64",
        "model.pretrained=false",
        "train.epochs=1",
        "train.minutes=0",  # epochs, and not the clock, end it
        "train.batch_size=4",
        "train.accumulate=1",
        "train.device=cpu",
        f"tracking.store={tiny.store}",
        "tracking.experiment=recipes",
        "tracking.register=false",
    ]
    if configs.load(path).data.cache:
        few.append(f"data.cache={folder / 'cache'}")
    return configs.load(path, [*few, *overrides])


def untrained_teacher(tiny, folder: Path, path: Path) -> Path:
    """A file of the model that the teacher.yaml beside `path` describes; of its small relative where it is large."""
    from distill.models.files import save_model
    from distill.models.landmarker import Landmarker

    own = path.with_name("teacher.yaml")
    model = shrunk(tiny, folder, own).model if own.is_file() else ModelConfig(input_size=64)
    if str(own.relative_to(FOLDER)) in LARGE:
        model = ModelConfig("convnext_atto", input_size=64, head=HeadConfig(width=32))
    save_model(Landmarker(model), folder / "teacher.safetensors", {"job": "teacher", "run_id": ""})
    return folder / "teacher.safetensors"


def test_there_are_experiments():
    assert {"base.yaml", "teacher.yaml", "student.yaml", "distill.yaml", "demo/distill.yaml"} <= set(NAMES)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LARGE | ALIKE else []) for name in NAMES]
)
def test_takes_its_steps(tiny, bare, monkeypatch, tmp_path, name):
    from distill.training import job as training
    from distill.training import loop

    path = FOLDER / name
    objectives, fit = [], loop.fit
    monkeypatch.setattr(loop, "fit", lambda trainer, *a: objectives.append(trainer.objective) or fit(trainer, *a))
    config = shrunk(tiny, tmp_path, path)
    if config.distill.terms:
        config = shrunk(tiny, tmp_path, path, f"teacher={untrained_teacher(tiny, tmp_path, path)}")
    train = training.train_teacher if path.stem.startswith("teacher") else training.train_student
    result = train(config)
    run = tracking.find_run(config.tracking, result.run_id)
    assert run.status == "FINISHED" and math.isfinite(run.metrics["train/loss"]) and run.metrics["train/grad_norm"] > 0
    assert {f"train/raw/{term}" for term in config.distill.terms} <= run.metrics.keys()
    idle = [n for n, p in objectives[0].named_parameters() if p.requires_grad and p.grad is None]
    assert not idle  # nothing is carried that does not learn; several processes (DDP) refuse such


@pytest.mark.parametrize("name", NAMES)
def test_builds_at_its_full_size(name):
    """Model, cells and the student's taps; without memory, so that the largest are built as well."""
    from distill.distillation.distiller import check_terms
    from distill.models.landmarker import skeleton

    config = configs.load(FOLDER / name)
    with torch.device("meta"):
        model = skeleton(config.model)
    model.check_cells()
    check_terms(config.distill.terms, model)


@pytest.mark.parametrize(
    "folder", sorted({path.parent for path in EXPERIMENTS if path.stem == "distill"}), ids=lambda p: p.name
)
def test_the_control_is_the_distilled_recipe_without_its_terms(folder):
    control, distilled = (configs.flatten(configs.load(folder / f"{name}.yaml")) for name in ("student", "distill"))
    different = {key for key in control.keys() | distilled.keys() if control.get(key) != distilled.get(key)}
    assert {key for key in different if not key.startswith("distill.terms")} == {"name"}


@pytest.mark.parametrize("name", [name for name in NAMES if Path(name).stem == "student"])
def test_students_keep_the_budget_at_their_full_size(name):
    from distill.models.files import MAX_BYTES, check_budget
    from distill.models.landmarker import skeleton

    assert check_budget(skeleton(configs.load(FOLDER / name).model)) <= MAX_BYTES
