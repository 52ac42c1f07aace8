"""A teacher's targets, kept: the same training as with the teacher at hand, and never those of something else."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import pytest
import torch

from distill import config as configs
from distill.config import Config, DistillConfig, HeadConfig, ModelConfig, TermConfig
from distill.distillation import targets
from distill.distillation.methods import Outputs
from distill.errors import UserError
from distill.models.files import save_model
from distill.models.landmarker import Landmarker, Prediction
from distill.models.teacher import FrozenTeacher
from distill.training import job, loop
from distill.training.distributed import Processes

ALONE = Processes(0, 1, torch.device("cpu"))
TERMS = {
    "kl": TermConfig("heatmap_kl"),
    "points": TermConfig("coordinate"),
    "hint": TermConfig("fitnet", student="level:3", teacher="level:3"),
}


@pytest.fixture(scope="module")
def teacher_file(tmp_path_factory):
    """Another input size than the student's, heatmaps with peaks."""
    torch.manual_seed(1)
    model = Landmarker(ModelConfig("lcnet_050", input_size=96, head=HeadConfig(stride=8, width=16)))
    model.head.out.weight.data.mul_(2000)
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_model(model, path, {})
    return path


@pytest.fixture
def config(tiny_root, teacher_file) -> Config:
    """A student, on two views of each of 16 images."""
    return configs.load(
        None,
        [
            f"data.root={tiny_root}",
            f"teacher={teacher_file}",
            "data.workers=0",
            "data.limit=16",
            "train.batch_size=8",
            "train.epochs=3",
            "model.backbone=lcnet_050",
            "model.input_size=64",
            "model.head.stride=8",
            "model.head.width=16",
            "train.amp=off",
            "distill.views=2",
        ],
    )


def kept(config: Config, folder, terms=TERMS, **changes) -> Config:
    views = {"views": config.distill.views} | changes
    return replace(config, distill=DistillConfig(terms=terms, cache=str(folder or ""), **views))


def train(config: Config, epochs: int) -> list[dict[str, float]]:
    """All that each step logs."""
    training = job.build(config, "student", ALONE)
    trainer = loop.Trainer(
        training.objective, config.train, ALONE, seed=config.seed, batches_per_epoch=len(training.loader.batch_sampler)
    )
    steps = []
    for epoch in range(epochs):
        training.loader.batch_sampler.set_position(epoch)
        steps += [{name: v.item() for name, v in trainer.train_step(batch).items()} for batch in training.loader]
    return steps


@pytest.fixture
def asked(monkeypatch) -> list[int]:
    """How many images the teacher was given, pass by pass."""
    seen: list[int] = []
    forward = FrozenTeacher.forward

    def counting(self, images):
        seen.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(FrozenTeacher, "forward", counting)
    return seen


def test_training_on_kept_targets_is_bit_for_bit_that_with_the_teacher(config, tmp_path, asked):
    online = train(kept(config, None), 2)
    asked.clear()
    assert train(kept(config, tmp_path / "cache"), 2) == online
    assert sum(asked) == 8 + 2 * 16, "one batch to measure, then each view once"
    asked.clear()
    other_seed = replace(kept(config, tmp_path / "cache", {"hint": TERMS["hint"]}), seed=5)
    train(other_seed, 1)
    assert not asked, "another seed with fewer terms has nothing to compute"


def test_fixed_views_come_round_and_are_those_of_every_seed(config):
    shown = {}
    for seed in (0, 7):
        dataset = job.build(replace(config, seed=seed), "student", ALONE).loader.dataset
        shown[seed] = [dataset[epoch, 3].image for epoch in range(4)]
    (a, b, again, _), other = shown[0], shown[7]
    assert (a == again).all() and (a == other[0]).all() and (b == other[1]).all() and (a != b).any()


def test_a_build_that_was_killed_goes_on_where_it_was(config, tmp_path, asked, monkeypatch):
    train(kept(config, tmp_path / "whole"), 0)
    packed, real = [], targets.pack

    def killed(*args):
        packed.append(1)
        if len(packed) == 4:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(targets, "pack", killed)
        patch.setattr(targets, "SAVE_SECONDS", 0)
        train(kept(config, tmp_path / "cut"), 0)
    asked.clear()
    train(kept(config, tmp_path / "cut"), 0)
    assert sum(asked) == 8 + 2 * 16 - 2 * 8, "two batches were saved"
    for file in (tmp_path / "whole").glob("*.bin"):
        assert file.read_bytes() == (tmp_path / "cut" / file.name).read_bytes()


def test_what_is_missing_is_computed_again(config, tmp_path):
    cached = kept(config, tmp_path, {"kl": TERMS["kl"]})
    train(cached, 0)
    file = tmp_path / "logits.bin"
    whole = file.read_bytes()
    for damage in (
        lambda: file.write_bytes(whole[:-7]),
        lambda: file.unlink(),
        lambda: (tmp_path / "parts.json").write_text("{"),
    ):
        damage()
        train(cached, 0)
        assert file.read_bytes() == whole


@pytest.mark.parametrize(
    "name, changes",
    [
        ("distill.views", {"distill": {"views": 3}}),
        ("distill.cache_cells", {"distill": {"cache_cells": 9}}),
        ("augment.rotate", {"augment": {"rotate": 5.0}}),
        ("data.train", {"data": {"limit": 12}}),
        ("teacher", {}),
    ],
)
def test_targets_of_something_else_are_refused_by_its_name(config, tmp_path, name, changes, teacher_file):
    cached = kept(config, tmp_path / "cache", {"points": TERMS["points"]})
    train(cached, 0)
    other = replace(cached, **{section: replace(getattr(cached, section), **c) for section, c in changes.items()})
    if name == "teacher":
        torch.manual_seed(2)
        path = tmp_path / "other.safetensors"
        save_model(Landmarker(ModelConfig("lcnet_050", input_size=96, head=HeadConfig(stride=8, width=16))), path, {})
        other = replace(cached, teacher=str(path))
    with pytest.raises(UserError, match=rf"\b{name}\b"):
        train(other, 0)


@pytest.mark.parametrize("kind", ["heatmap", "simcc"])
def test_a_heatmap_keeps_its_most_probable_cells_and_the_mass_of_the_rest(kind):
    torch.manual_seed(0)
    model = Landmarker(ModelConfig("lcnet_050", input_size=64, head=HeadConfig(kind=kind, stride=8, width=16))).eval()
    shape = (2, 68, *(model.codec.grid.cells,) * 2) if kind == "heatmap" else (2, 68, 2, model.codec.grid.cells)
    logits = 2 * torch.randn(shape)
    points, confidence = model.codec.decode(logits)
    outputs = Outputs(model, Prediction(points, confidence, logits), {"tap": torch.randn(2, 3, 4, 4)})
    exact = targets.unpack(model, targets.pack(outputs, True, 0))
    assert torch.equal(exact.prediction.logits, logits) and torch.equal(exact.maps["tap"], outputs.maps["tap"])
    found = [targets.errors(outputs, targets.pack(outputs, True, cells)) for cells in (4, 32, 10_000)]
    assert found[0]["KL"] > 2 * found[1]["KL"] > 0 and found[2]["KL"] < 1e-5
    assert found[2]["points (% of the side)"] < 0.01 and found[0]["tap (relative)"] < 1e-3
    restored = targets.unpack(model, targets.pack(outputs, True, 4)).prediction.logits
    flat = restored.flatten(2) if kind == "heatmap" else restored
    torch.testing.assert_close(flat.logsumexp(-1), torch.zeros(flat.shape[:-1]), atol=2e-3, rtol=0)


def test_size_and_error_are_printed_before_anything_is_built(config, tmp_path, capsys):
    train(kept(config, tmp_path / "small", cache_cells=9), 0)
    text = capsys.readouterr().out
    size = sum(file.stat().st_size for file in (tmp_path / "small").glob("*.bin"))
    assert f"{size / 1e9:.3g} GB" in text and "KL" in text and "level:3 (relative)" in text
    parts = json.loads((tmp_path / "small" / "parts.json").read_text())
    assert {part["dtype"] for name, part in parts.items() if name in ("log_p", "tap level:3")} == {"float16"}
    train(kept(config, tmp_path / "small", cache_cells=9), 0)
    assert "Teacher targets" not in capsys.readouterr().out, "a second run finds them"


def test_kept_targets_travel_light_to_loader_processes(config, tmp_path):
    source = job.build(kept(config, tmp_path), "student", ALONE).loader.dataset.targets
    before = source.row(1, 5)
    data = pickle.dumps(source)
    assert len(data) < 3000 and (pickle.loads(data).row(1, 5)["logits"] == before["logits"]).all()


def test_a_folder_changes_no_digest_and_what_it_leaves_out_does(config):
    plain, exact = kept(config, None), kept(config, "somewhere")
    assert configs.digest(exact) == configs.digest(plain)
    assert configs.digest(kept(config, "somewhere", cache_cells=9)) != configs.digest(plain)
    assert configs.digest(kept(config, None, cache_cells=9)) == configs.digest(plain)
    assert configs.digest(kept(config, None, views=3)) != configs.digest(plain)
    with pytest.raises(UserError, match="distill.views"):
        configs.load(None, ["distill.cache=DIR"])
