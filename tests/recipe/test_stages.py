"""Recipes: what a file may say, and that its stages go on from each other, once each, however often they are cut."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running import REPO, same_weights
from safetensors.torch import load_file

from distill import tracking
from distill.config import HeadConfig, ModelConfig, TrackingConfig
from distill.errors import UserError
from distill.recipe import __main__ as entry
from distill.recipe import file as stages
from distill.training import checkpoint, loop

FOLDER = REPO / "experiments" / "recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))
LONG = ("assistant", "born_again")  # three trainings each

# ---------------------------------------------------------------------------------------------------- files


def written(tmp_path: Path, text: str) -> Path:
    (tmp_path / "base.yaml").write_text("name: base\nmodel: {backbone: lcnet_050}\ntrain: {epochs: 4}\n")
    (tmp_path / "recipe.yaml").write_text(text)
    return tmp_path / "recipe.yaml"


TWO = """
base: base.yaml
set: {seed: 3}
stages:
  - name: first
    set: {train.lr: 0.001, train.snapshots: 2}
  - name: second
    init: first
    teacher: first
    set: {train.freeze: [backbone], distill.terms.self: {loss: heatmap_kl}}
  - {name: mean, job: average, of: first, method: uniform}
"""


def test_stages_are_the_base_with_their_own_keys_and_overrides_last(tmp_path):
    recipe = stages.load(
        written(tmp_path, TWO), ["train.epochs=9", "stages.second.train.lr=0.5", "init=x", "teacher=y"]
    )
    first, second, mean = recipe.stages
    assert (recipe.name, first.config.name, second.config.name) == ("recipe", "recipe-first", "recipe-second")
    assert (first.config.seed, first.config.train.epochs, first.config.train.lr) == (3, 9, 0.001)
    assert (second.config.train.lr, second.config.train.freeze) == (0.5, ["backbone"])
    assert (first.config.init, first.config.teacher) == ("x", "y")  # a run, given from without ...
    assert (second.config.init, second.config.teacher) == ("", "")  # ... and not where a stage is meant
    assert (second.needs, mean.needs, mean.method) == (("first", "first"), ("first",), "uniform")


def test_the_second_stage_of_dwpose_trains_a_fresh_head_on_the_frozen_backbone():
    """A head that starts as its own teacher has nothing to learn from it; how it starts:
    tests/training/test_init_weights.py."""
    config = stages.load(FOLDER / "dwpose.yaml").stages[-1].config
    assert config.init_part == "backbone" and config.train.freeze == ["backbone"] and config.distill.terms


def test_the_digest_is_of_what_is_computed(tmp_path):
    file = written(tmp_path, TWO)
    same = stages.load(file, ["tracking.store=elsewhere", "train.threads=2"])
    assert stages.load(file).digest == same.digest
    assert stages.load(file).digest != stages.load(file, ["seed=4"]).digest
    assert stages.load(file).digest != stages.load(written(tmp_path, TWO.replace("uniform", "greedy"))).digest


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("init: first", "init: frist"), "stage 'second': 'init' is 'frist'; expected an earlier stage: first"),
        (("init: first", "init: mean"), "stage 'second': 'init' is 'mean', which comes no earlier"),
        (("init: first", "init: second"), "'second', which comes no earlier"),
        (("teacher: first", "taecher: first"), "stage 'second': 'taecher'"),
        (("base: base.yaml", "bas: base.yaml"), "'bas'.*base, name, set, stages"),
        (("base: base.yaml", ""), "'base'"),
        (("train.lr", "train.rl"), "stage 'first': .*'train.rl'"),
        (("name: second", "name: first"), "another stage"),
        (("name: second", "job: student"), "stage 2: 'name'"),
        (("method: uniform", "method: mean"), "stage 'mean': 'method' .*'uniform'.*'greedy'"),
        (("method: uniform", "set: {seed: 1}"), "stage 'mean': 'set'"),
        (("job: average", "job: mean"), "stage 'mean': 'job'"),
        (("of: first", "of: second"), "'of' is 'second'.*train.snapshots 0"),
        (("of: first,", ""), "stage 'mean': 'of'"),
        (("self: {loss: heatmap_kl}", "self: {}"), "stage 'second'"),
        ((", distill.terms.self: {loss: heatmap_kl}", ""), "'teacher' is 'first'.*'distill.terms'"),
        (("[backbone]", "[backbone], model.head.width: 24"), "second': model.head.width is 24.*'first'.*64"),
        (("{seed: 3}", "{resume: last}"), "'resume'"),
        (("stages:", "stages: {}\nmore:"), "'more'"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_by_stage_and_key(tmp_path, change, words):
    assert change[0] in TWO
    with pytest.raises(UserError, match=words) as error:
        stages.load(written(tmp_path, TWO.replace(*change)))
    assert "\n" not in str(error.value) and "recipe.yaml" in str(error.value)


def test_a_dry_run_shows_what_sets_each_stage_apart(tmp_path, capsys):
    entry.main(["--config", str(written(tmp_path, TWO)), "--dry-run", "stages.first.train.lr=0.25"])
    printed = capsys.readouterr().out
    first, second, mean = printed.split("\n\n")[1:]
    assert first.splitlines() == ["1  first  (student)", "   seed: 3", "   train.lr: 0.25", "   train.snapshots: 2"]
    assert "init: first; teacher: first" in second and "distill.terms.self: {loss: heatmap_kl}" in second
    assert mean.strip() == "3  mean  (average; uniform, of first)"


# ---------------------------------------------------------------------------------------------------- runs


def small(tiny, folder: Path, path: Path, store: Path | None = None) -> list[str]:
    """Overrides that make a recipe's stages tiny, and an untrained teacher for those that want one from without.

    Runs go to an experiment of the recipe's name.
    """
    from distill.models.files import save_model
    from distill.models.landmarker import Landmarker

    teacher = folder / "teacher.safetensors"
    if not teacher.is_file():
        own = ModelConfig("lcnet_050", input_size=64, head=HeadConfig(stride=8, width=16))
        save_model(Landmarker(own), teacher, {"job": "teacher", "run_id": ""})
    each = [
        "model.backbone=lcnet_050",
        "model.backbone_args={}",
        "model.input_size=64",
        "model.head.width=16",
        f"data.root={tiny.data}",
        "data.limit=8",
        "data.workers=0",
        "data.cache=",
        "train.epochs=1",
        "train.batch_size=4",
        "train.threads=1",
        "train.checkpoint_seconds=0.0001",
        f"tracking.store={store or tiny.store}",
        "tracking.register=false",
        "tracking.outputs=light",
        f"tracking.experiment={path.stem}",
        f"teacher={teacher}",
    ]
    averaged = [stage.of[0] for stage in stages.load(path, each[:1]).stages if stage.of]
    return [*each, *(f"stages.{name}.train.{key}=2" for name in averaged for key in ("epochs", "snapshots"))]


def children(store: Path, path: Path) -> tuple[tracking.RunInfo, dict[str, tracking.RunInfo]]:
    """A recipe's one parent run in a store, and its stages' runs by name."""
    runs = tracking.list_runs(TrackingConfig(store=str(store), experiment=path.stem))
    (parent,) = [run for run in runs if run.job == "recipe"]
    found = {run.tags["recipe.stage"]: run for run in runs if run.tags.get("mlflow.parentRunId") == parent.id}
    assert len(found) == len(runs) - 1
    return parent, found


def model_of(store: Path, run: tracking.RunInfo) -> Path:
    return tracking.artifact_path(TrackingConfig(store=str(store)), run.id, f"model/{run.job}.safetensors")


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.slow] if path.stem in LONG else []) for path in RECIPES],
    ids=lambda path: path.stem,
)
def test_a_recipe_that_ships_runs_and_is_not_run_twice(tiny, tmp_path, monkeypatch, capsys, path):
    args = ["--config", str(path), *small(tiny, tmp_path, path)]
    entry.main(args)
    parent, runs = children(tiny.store, path)
    recipe = stages.load(path, args[2:])
    assert list(runs)[::-1] == [stage.name for stage in recipe.stages]
    assert parent.status == "FINISHED" and {run.status for run in runs.values()} == {"FINISHED"}
    for stage in recipe.stages:
        info = runs[stage.name]
        assert parent.tags[f"recipe.run.{stage.name}"] == info.id
        assert parent.metrics[f"stage/{stage.name}/nme"] == info.metrics["best/val/nme"]
        if stage.init:
            assert info.tags["init.run_id"] == runs[stage.init].id
        if stage.teacher:
            assert info.tags["teacher.run_id"] == runs[stage.teacher].id
            assert "best/val/agreement/nme" in info.metrics
        if stage.config.train.freeze and stage.init:
            a, b = (load_file(model_of(tiny.store, runs[name])) for name in (stage.name, stage.init))
            frozen = tuple(f"{part}." for part in stage.config.train.freeze)
            assert {name for name in a if (a[name] == b[name]).all()} == {name for name in a if name.startswith(frozen)}
    roles = {stage.name: runs[stage.name].tags["distill.role"] for stage in recipe.stages}
    expected = {"average": "averaged", "assistant": "assistant", "first": "control", "third": "distilled"}
    assert all(roles[name] == expected.get(name, roles[name]) for name in roles)

    monkeypatch.setattr(loop, "fit", None)
    capsys.readouterr()
    entry.main(args)
    printed = capsys.readouterr().out
    assert printed.count(" found ") == len(recipe.stages) and parent.id in printed
    assert children(tiny.store, path)[1].keys() == runs.keys()


def test_a_stage_that_cannot_be_is_refused_before_the_first_one_trains(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "fit", None)
    path = FOLDER / "dwpose.yaml"
    for change, words in (
        ("stages.head.train.freeze=[backbone.blocks.77]", "stage 'head': train.freeze: 'backbone.blocks.77'"),
        ("stages.head.model.backbone=lcnet_075", "stage 'head': model.backbone .*'lcnet_075'.*'distill'"),
        ("stages.head.model.head.width=9000", "model.head.width"),
        ("data.root=absent", "'absent'"),
    ):
        with pytest.raises(UserError, match=words):
            entry.main(["--config", str(path), *small(tiny, tmp_path, path), "tracking.experiment=refused", change])
    assert not tracking.list_runs(TrackingConfig(store=str(tiny.store), experiment="refused"))


@pytest.mark.slow
def test_killed_inside_a_stage_the_same_command_ends_in_the_same_weights(tiny, tmp_path):
    path, longer = FOLDER / "dwpose.yaml", "train.epochs=6"
    args = ["--config", str(path), *small(tiny, tmp_path, path, tmp_path / "cut"), longer]

    def run(*, cut: bool) -> int:
        process = subprocess.Popen(
            [sys.executable, "-m", "distill.recipe", *args],
            cwd=REPO,
            env=os.environ | {"PYTHONPATH": str(REPO)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while cut and process.poll() is None:
                process.send_signal(signal.SIGSTOP)  # so that what the checkpoint says stays true
                for file in (tmp_path / "cut").glob("work/*/checkpoint.pt"):
                    state = checkpoint.load(file)
                    if state["config"]["name"] == "dwpose-head" and state["progress"]["step"] >= 3:
                        process.kill()
                process.send_signal(signal.SIGCONT)
                time.sleep(0.05)
            return process.wait(600)
        finally:
            process.kill()

    assert run(cut=True) == -signal.SIGKILL
    parent, before = children(tmp_path / "cut", path)
    assert (before["distill"].status, before["head"].status) == ("FINISHED", "RUNNING")
    assert run(cut=False) == 0
    again, after = children(tmp_path / "cut", path)
    assert again.id == parent.id and again.status == "FINISHED"
    assert {name: run.id for name, run in after.items()} == {name: run.id for name, run in before.items()}
    entry.main(["--config", str(path), *small(tiny, tmp_path, path, tmp_path / "whole"), longer])
    _, whole = children(tmp_path / "whole", path)
    for name, info in whole.items():
        assert same_weights(model_of(tmp_path / "cut", after[name]), model_of(tmp_path / "whole", info)), name
