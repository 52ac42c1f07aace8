"""train.compile: the same losses, whatever is tapped. Compiling takes a minute or so, so most of it is marked slow."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch._dynamo.config as dynamo

from distill.config import Config, DistillConfig, HeadConfig, ModelConfig, TermConfig
from distill.distillation.balance import make as make_balance
from distill.distillation.distiller import Distiller
from distill.distillation.objective import Objective, Supervision
from distill.errors import UserError
from distill.models.landmarker import Landmarker
from distill.models.teacher import FrozenTeacher
from distill.training import compile
from distill.training import job as training

SMALL = ModelConfig("lcnet_050", input_size=64, head=HeadConfig(stride=8, width=16))


def test_no_compiled_module_has_a_tap_inside():
    """A hook inside a compiled region would go on filling the dictionary of the first pass."""
    model = Landmarker(SMALL)
    assert compile.compilable(model, []) == ["backbone", "head"]
    taps = ["backbone.blocks.2", "backbone.blocks.4.0.conv_dw"]
    parts = compile.compilable(model, taps)
    assert "head" in parts and "backbone.blocks.2" in parts and "backbone.blocks.3" in parts
    for tap in taps:
        assert not [part for part in parts if tap.startswith(f"{part}.")]
    seen = set()
    for part in parts:  # each module once
        inner = {id(module) for module in model.get_submodule(part).modules()}
        assert not inner & seen
        seen |= inner


def test_a_machine_that_cannot_compile_is_reported_before_training(tiny, monkeypatch):
    def absent(*_args, **_kwargs):
        raise RuntimeError("No working C++ compiler found in ['g++']. More of it\nover several lines")

    monkeypatch.setattr(torch, "compile", lambda function: absent)
    with pytest.raises(UserError, match=r"No working C\+\+ compiler.*train\.compile=false") as error:
        training.train_student(tiny.short("train.compile=true"))
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("balance", ["none", "grad_norm"])
@dynamo.patch(fail_on_recompile_limit_hit=True)  # else it would go on eagerly, and prove nothing
def test_compiled_losses_and_gradients_are_the_eager_ones(balance):
    """Heatmaps, a level and module paths on both sides; for two batches, so that a tap left over from the first would
    show."""
    torch.manual_seed(0)
    teacher = FrozenTeacher(Landmarker(replace(SMALL, input_size=96)))
    terms = {
        "kl": TermConfig("heatmap_kl"),
        "hint": TermConfig("fitnet", student="level:3", teacher="level:3"),
        "path": TermConfig("at", student="backbone.blocks.1", teacher="backbone.blocks.2"),
    }
    config = Config(distill=DistillConfig(terms, balance))
    student = Landmarker(SMALL)
    objective = Objective(student, Supervision(config.loss), Distiller(terms, student, teacher), make_balance(config))
    batches = [(torch.randint(0, 255, (4, 96, 96, 3), dtype=torch.uint8), torch.rand(4, 68, 2) * 96) for _ in range(2)]

    def passes() -> list[dict[str, torch.Tensor]]:
        found = []
        for images, points in batches:
            objective.zero_grad()
            total, raw, _, _ = objective.train()(images, points, 0.5)
            total.backward()
            gradients = {name: p.grad.norm() for name, p in student.named_parameters() if p.dim() == 4}
            found.append({name: value.detach() for name, value in {**raw, "total": total, **gradients}.items()})
        return found

    eager = passes()
    if objective.balance is not None:
        objective.balance.load_state_dict(make_balance(config).state_dict())
    compile.compile_objective(objective)
    for before, after in zip(eager, passes(), strict=True):
        for name in before:
            assert after[name] == pytest.approx(float(before[name]), rel=1e-3), name
    assert eager[0]["path"] != pytest.approx(float(eager[1]["path"]), rel=1e-2)
