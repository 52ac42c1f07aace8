"""What trains at which rate and with which decay, and in which precision."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from trainers import SHORT, SMALL, TERMS, Batches, make_objective, make_trainer, same

from distill.config import ModelConfig, TrainConfig
from distill.models.landmarker import Landmarker
from distill.training import precision
from distill.training.distributed import Processes
from distill.training.optim import WeightAverage, clip_gradients, lr_at, parameter_groups

ALONE = Processes(0, 1, torch.device("cpu"))


def groups_of(objective, **changes) -> dict[str, tuple[float, float]]:
    """Name -> weight decay and factor on the learning rate, of every parameter that trains."""
    names = {id(parameter): name for name, parameter in objective.named_parameters()}
    return {
        names[id(parameter)]: (group["weight_decay"], group["lr_scale"])
        for group in parameter_groups(objective, replace(SHORT, **changes))
        for parameter in group["params"]
    }


def test_every_parameter_trains_once_and_vectors_do_not_decay():
    objective = make_objective(terms=TERMS)
    found = groups_of(objective, weight_decay=0.1)
    assert found.keys() == {name for name, _ in objective.named_parameters()}
    for name, parameter in objective.named_parameters():
        assert found[name] == (0.1 if parameter.dim() > 1 else 0.0, 1.0), name


@pytest.mark.parametrize(
    ("backbone", "args", "exempt"),
    [
        ("vit_tiny_patch16_224", {"depth": 3}, {"model.pos_embed", "model.cls_token"}),
        (
            "swin_tiny_patch4_window7_224",
            {"depths": [1, 1, 1, 1]},
            {"layers_3.blocks.0.attn.relative_position_bias_table"},
        ),
        ("lcnet_050", {}, set()),
    ],
)
def test_what_timm_exempts_from_weight_decay_does_not_decay(backbone, args, exempt):
    objective = make_objective()
    objective.student = Landmarker(replace(SMALL, backbone=backbone, backbone_args=args, input_size=64))
    matrices = {name for name, parameter in objective.named_parameters() if parameter.dim() > 1}
    spared = {name for name, (decay, _) in groups_of(objective, weight_decay=0.1).items() if not decay} & matrices
    assert {f"student.backbone.{name}" for name in exempt} <= spared
    assert bool(spared) == bool(exempt)


def test_backbone_and_head_have_rates_of_their_own():
    objective = make_objective(terms=TERMS)
    found = groups_of(objective, backbone_lr=0.1, layer_decay=0.5)
    scales = {name: scale for name, (_, scale) in found.items()}
    assert {scale for name, scale in scales.items() if ".backbone." not in name} == {1.0}
    stages = [scales[f"student.backbone.blocks.{i}.0.conv_dw.weight"] for i in range(6)]
    assert stages == pytest.approx([0.1 * 0.5 ** (5 - i) for i in range(6)])
    trainer = make_trainer(objective, backbone_lr=0.1)
    trainer.train_step(Batches().first())
    rates = {group["lr_scale"]: group["lr"] for group in trainer.optimizer.param_groups}
    assert rates == {1.0: trainer.progress.lr, 0.1: pytest.approx(0.1 * trainer.progress.lr)}


def test_the_rate_warms_up_and_falls_to_its_least():
    config = TrainConfig(lr=1.0, min_lr=0.1)
    rates = [lr_at(step, 10, 110, config) for step in range(110)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)]) and rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[-1] == pytest.approx(0.1, abs=1e-3)
    assert rates[60] == pytest.approx(0.55)  # half way
    assert lr_at(200, 10, 110, config) == 0.1 and lr_at(0, 0, 10, config) == 1.0


def test_the_average_follows_the_model_more_slowly_the_longer_it_trains():
    model = torch.nn.BatchNorm1d(1)
    average = WeightAverage(model, 0.9)
    for step, expected in ((1, 1 - 2 / 11), (200, None)):
        with torch.no_grad():
            before = average.model.running_mean.item()
            model.running_mean.fill_(1.0 if step == 1 else 2.0)
            model.num_batches_tracked.fill_(step)
        average.update(model, step)
        moved = 0.1 * 2.0 + 0.9 * before if expected is None else expected
        assert average.model.running_mean.item() == pytest.approx(moved)
        assert average.model.num_batches_tracked.item() == step
    assert WeightAverage(model, 0.0).model is model


def test_adapters_are_clipped_apart_so_that_they_do_not_shorten_the_students_steps():
    student, adapter = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    student.grad, adapter.grad = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 200.0])
    values = clip_gradients([student], [adapter], 10.0)
    assert student.grad.tolist() == [3, 4] and adapter.grad.tolist() == pytest.approx([0, 10], rel=1e-4)
    assert (values["train/grad_norm"], values["train/grad_norm_adapters"], values["train/clipped"]) == (5, 200, 0)
    assert clip_gradients([student], [], 1.0)["train/clipped"] == 1


# ---------------------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize(
    ("seconds", "expected"), [((1.0, 0.5), "bfloat16"), ((0.5, 1.0), "float32"), ((1.0, 0.95), "float32")]
)
def test_auto_takes_the_faster_on_a_cpu_and_float32_where_they_are_alike(monkeypatch, seconds, expected):
    measured = dict(zip(("float32", "bfloat16"), seconds, strict=True))
    monkeypatch.setattr(precision, "measure", lambda *_: measured)
    monkeypatch.setattr(precision, "has_bfloat16", lambda: True)
    config, objective = replace(SHORT, amp="auto"), make_objective()
    assert precision.choose(config, objective, ALONE, (4, 32), None) == (expected, measured)
    # a resumed run goes on as it began, one of before there was a choice in float32
    assert precision.choose(config, objective, ALONE, (4, 32), "bfloat16") == ("bfloat16", {})
    assert precision.choose(config, objective, ALONE, (4, 32), "") == ("float32", {})
    for amp, name in (("off", "float32"), ("bf16", "bfloat16")):
        assert precision.choose(replace(config, amp=amp), objective, ALONE, (4, 32), None) == (name, {})


def test_measuring_leaves_the_objective_and_the_random_numbers_as_they_were():
    objective = make_objective(terms=TERMS, balanced="grad_norm").train()
    before = {name: value.clone() for name, value in objective.state_dict().items() if isinstance(value, torch.Tensor)}
    scales, drawn = objective.balance.get_extra_state(), torch.get_rng_state()
    seconds = precision.measure(objective, (2, 32))
    assert set(seconds) == {"float32", "bfloat16"} and all(value > 0 for value in seconds.values())
    after = {name: value for name, value in objective.state_dict().items() if isinstance(value, torch.Tensor)}
    assert same(before, after) and objective.balance.get_extra_state() == scales
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(parameter.grad is None for parameter in objective.parameters())


def test_bfloat16_trains_the_same_weights_in_float32():
    trainer = make_trainer(precision="bfloat16")
    exact, rounded = (t.train_step(Batches().first())["train/loss"] for t in (make_trainer(), trainer))
    assert exact != rounded and rounded == pytest.approx(float(exact), rel=0.05) and math.isfinite(rounded)
    assert {parameter.dtype for parameter in trainer.objective.parameters()} == {torch.float32}


def test_a_regression_head_has_no_layers_of_its_own():
    """Whatever the head, the backbone's layers are counted from its own end."""
    objective = make_objective(ModelConfig("lcnet_050", input_size=32, head=replace(SMALL.head, kind="regression")))
    scales = {scale for name, (_, scale) in groups_of(objective, layer_decay=0.5).items() if ".blocks.5." in name}
    assert scales == {1.0}
