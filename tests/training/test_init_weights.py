"""Training that goes on from weights (`init`), with parts that do not train (`train.freeze`)."""

from __future__ import annotations

import pytest
import torch
from running import refusal
from safetensors.torch import load_file
from torch import nn

from distill import tracking
from distill.ablation import file as grid
from distill.ablation import job as ablation
from distill.config import HeadConfig, ModelConfig
from distill.errors import UserError
from distill.models.files import save_model, weights
from distill.models.landmarker import Landmarker
from distill.models.references import ModelReference
from distill.recipe import file as recipe
from distill.recipe import job as stages
from distill.training import distributed
from distill.training import job as training
from distill.training.init_weights import start_from
from distill.training.optim import freeze, train_mode

SMALL = ModelConfig("lcnet_050", input_size=64, head=HeadConfig(stride=8, width=16))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """An untrained model's."""
    path = tmp_path_factory.mktemp("init") / "model.safetensors"
    save_model(Landmarker(SMALL), path, {"job": "student", "run_id": "abc"})
    return path


def model(**changes) -> Landmarker:
    head = {key: changes.pop(key) for key in ("width", "stride", "norm", "kind") if key in changes}
    fields = vars(SMALL) | {"head": HeadConfig(**(vars(SMALL.head) | head))} | changes
    return Landmarker(ModelConfig(**fields))


# ---------------------------------------------------------------------------------------------------- init


def test_a_model_starts_from_the_weights_of_a_file(file):
    for own in (model(), model(input_size=96)):  # what is convolutional may grow
        assert not torch.equal(own.head.out.weight, load_file(file)["head.out.weight"])
        assert start_from(own, ModelReference(file, "", "model")) == "abc"
        given = load_file(file)
        assert all(torch.equal(given[name], tensor) for name, tensor in weights(own).items())
    assert start_from(model(), ModelReference(file, "def", "model")) == "def"  # the store knows better


def test_the_backbone_alone_goes_under_a_fresh_head_of_any_kind(file):
    given = load_file(file)
    for own in (model(), model(width=32), model(kind="regression")):
        before = {name: tensor.clone() for name, tensor in weights(own).items()}
        start_from(own, ModelReference(file, "", "model"), "backbone")
        for name, tensor in weights(own).items():
            assert torch.equal(tensor, given[name] if name.startswith("backbone.") else before[name]), name
    with pytest.raises(UserError, match="^init: first .*model.backbone lcnet_050.*lcnet_075"):
        start_from(model(backbone="lcnet_075", width=32), ModelReference(file, "", "first"), "backbone")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"backbone": "lcnet_075"}, "model.backbone lcnet_050.*lcnet_075"),
        ({"width": 32, "input_size": 96}, "model.head.width 16.*32"),
        ({"norm": "group"}, "model.head.norm batch.*group"),
        ({"stride": 16}, "model.head.stride 8.*16"),
    ],
)
def test_weights_of_another_architecture_are_refused_by_what_differs_first(file, changes, words):
    with pytest.raises(UserError, match=f"^init: first .*{words}"):
        start_from(model(**changes), ModelReference(file, "", "first"))


def test_a_run_starts_from_the_weights_of_another_and_records_it(tiny, bare):
    first = training.train_student(tiny.short())
    # a learning rate of next to nothing: what was there at the beginning is still there at the end
    config = tiny.short(f"init={first.run_id}", "train.epochs=1", "train.lr=1e-7", "train.min_lr=0")
    second = training.train_student(config)
    info = tiny.info(second)
    assert (info.tags["init.run_id"], info.tags["distill.role"]) == (first.run_id, "tuned")
    before, after = load_file(first.model_file), load_file(second.model_file)
    for name in (name for name in before if "running" not in name):
        assert torch.allclose(before[name], after[name], atol=1e-4), name
    assert tiny.info(first).tags["init.run_id"] == ""


def test_an_init_that_cannot_be_is_refused_before_a_run_exists(tiny, file):
    before = len(tracking.list_runs(tiny.tracking))
    for overrides, words in (
        ((f"init={file}", "model.head.width=32"), "init: model .*model.head.width 16"),
        (("init=absent.safetensors",), "absent.safetensors"),
        (("train.freeze=[backbone.blocks.9]",), "'backbone.blocks.9'.*backbone.blocks.5"),
        (("train.freeze=[backbone, head]",), "train.freeze: backbone, head"),
    ):
        with pytest.raises(UserError, match=words):
            training.train_student(tiny.short(*overrides))
    assert len(tracking.list_runs(tiny.tracking)) == before


# ---------------------------------------------------------------------------------------------------- devices


def test_a_gpu_that_is_not_there_is_one_sentence_before_anything_is_made(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    store = tmp_path / "mlruns"
    settings = ("train.device=cuda", f"tracking.store={store}")
    assert "train.device" in refusal(training.train_student, tiny.short(*settings))
    (tmp_path / "grid.yaml").write_text(f"base: {tiny.control_yaml}\nablation: {{control: a, cells: {{a: {{}}}}}}")
    assert "train.device" in refusal(ablation.run, grid.load(tmp_path / "grid.yaml", settings), tmp_path / "out")
    (tmp_path / "recipe.yaml").write_text(f"base: {tiny.control_yaml}\nstages: [{{name: a}}]")
    assert "train.device" in refusal(stages.run, recipe.load(tmp_path / "recipe.yaml", settings))
    for name in ("cuda:3", "mps", "xpu", "gpu"):
        assert "train.device" in refusal(tiny.short, f"train.device={name}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grid.yaml", "recipe.yaml"]


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert "2 GPUs" in refusal(distributed.start, "auto")
    assert distributed.start("cpu").device == torch.device("cpu")


# ---------------------------------------------------------------------------------------------------- freeze


def test_the_rest_of_a_model_trains_on_while_a_part_does_not():
    own = model()
    freeze(own, ["backbone.blocks.1"])
    objective = nn.Module()
    objective.student = own
    own.backbone.blocks[1].append(nn.Dropout())
    train_mode(objective, ["backbone.blocks.1"])
    for path, module in own.named_modules():
        assert module.training != path.startswith("backbone.blocks.1"), path
    for name, parameter in own.named_parameters():
        assert parameter.requires_grad != name.startswith("backbone.blocks.1."), name


@pytest.mark.slow
def test_two_processes_freeze_as_one_does(tiny, bare):
    """torchrun, DDP, gloo; with a distilled term whose adapter trains on features that do not."""
    from test_distributed import ALONE, torchrun  # samples that do not see each other

    first = training.train_student(tiny.config(*ALONE, "train.epochs=1"))
    overrides = (*ALONE, f"init={first.run_id}", "train.freeze=[backbone]", f"teacher={tiny.teacher.model_file}")
    one = training.train_student(tiny.config(*overrides, distilled=True))
    before = {run.id for run in tracking.list_runs(tiny.tracking)}
    done = torchrun("--config", str(tiny.distilled_yaml), *overrides, "name=two")
    assert done.returncode == 0, done.stderr[-4000:]
    (two,) = [run for run in tracking.list_runs(tiny.tracking) if run.id not in before]
    for key in ("train/loss", "train/raw/hint", "train/grad_norm", "val/nme", "val/agreement/nme"):
        assert tiny.curve(two.id, key) == pytest.approx(tiny.curve(one.run_id, key), rel=1e-3), key
    given = load_file(first.model_file)
    trained = load_file(tracking.artifact_path(tiny.tracking, two.id, "model/student.safetensors"))
    same = {name for name in given if torch.equal(given[name], trained[name])}
    assert same == {name for name in given if name.startswith("backbone.")}


# ---------------------------------------------------------------------------------------------------- assistants


def test_a_teacher_with_a_teacher_is_an_assistant_and_no_one_s_default(tiny, bare, file, tmp_path):
    """It is measured against its own teacher; a store of its own, in which it is the only one of the teachers' job."""
    few = (f"tracking.store={tmp_path}", "train.epochs=1", "model.input_size=96")
    result = training.train_teacher(tiny.short(f"teacher={file}", *few, distilled=True))
    where = tiny.config(*few).tracking
    info = tracking.find_run(where, result.run_id)
    assert (info.job, info.tags["distill.role"]) == ("teacher", "assistant")
    assert info.metrics["best/val/agreement/nme"] > 0 and not result.submission
