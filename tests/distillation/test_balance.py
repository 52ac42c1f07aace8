"""distill.balance=grad_norm: a term's weight means so many times the pull of the labels; resumed, it goes on
exactly."""

from __future__ import annotations

import copy

import pytest
import torch
from test_distiller import TAPS, batch, model, student, teacher

from distill.config import Config, DistillConfig, LossConfig, TermConfig, TrainConfig
from distill.distillation import balance
from distill.distillation.balance import KEEP, RANGE, GradientBalance
from distill.distillation.distiller import Distiller
from distill.distillation.objective import Objective, Supervision
from distill.errors import UserError
from distill.models.files import save_model

TERMS = {
    "kl": TermConfig(loss="heatmap_kl", weight=2.0),
    "fit": TermConfig(loss="fitnet", weight=0.5, schedule="linear", final=0.0, **TAPS),
}


@pytest.fixture(scope="module")
def parts():
    return student(), teacher()


def balanced(parts, every: int = 1, terms=TERMS) -> Objective:
    torch.manual_seed(0)
    pupil, master = parts
    pupil = copy.deepcopy(pupil)
    return Objective(
        pupil,
        Supervision(LossConfig(coordinate_weight=5)),
        Distiller(terms, pupil, master),
        GradientBalance(terms, every),
    )


def pull(objective: Objective, value: torch.Tensor) -> float:
    """Length of the gradient that `value` alone leaves in the backbone."""
    objective.zero_grad()
    value.backward(retain_graph=True)
    found = [p.grad.flatten() for p in objective.student.backbone.parameters() if p.grad is not None]
    return torch.cat(found).norm().item()


def test_a_weight_is_so_many_times_the_gradient_of_the_labels(parts):
    whole = balanced(parts)
    total, raw, weights, _ = whole(*batch(), 0.5)
    labels = raw["coordinate"] * weights["coordinate"] + raw["heatmap"] * weights["heatmap"]
    wanted = pull(whole, labels)
    assert pull(whole, raw["kl"] * weights["kl"]) == pytest.approx(2.0 * wanted, rel=1e-3)
    assert pull(whole, raw["fit"] * weights["fit"]) == pytest.approx(0.5 * 0.5 * wanted, rel=1e-3)  # half of it faded
    # what is reported is what is summed, and the labels' own weights are left alone
    assert (weights["coordinate"], weights["heatmap"]) == (5.0, 1.0)
    scales = whole.scales()
    assert weights == pytest.approx(
        {"coordinate": 5, "heatmap": 1, "kl": 2 * scales["kl"], "fit": 0.25 * scales["fit"]}
    )
    torch.testing.assert_close(total, sum(raw[name] * weights[name] for name in raw))


def test_without_a_balance_nothing_is_measured_and_nothing_changes(parts, monkeypatch):
    whole = balanced(parts)
    plain = Objective(whole.student, whole.supervision, whole.distiller)
    monkeypatch.setattr(torch.autograd, "grad", None)
    weights = plain(*batch(), 0.0).weights
    assert weights["kl"] == 2.0 and weights["fit"] == 0.5 and plain.scales() == {}
    assert not [name for name in plain.state_dict() if "balance" in name]


def test_measuring_leaves_no_gradient_and_no_trace_in_the_terms(parts):
    whole = balanced(parts)
    plain = Objective(copy.deepcopy(whole.student), whole.supervision, whole.distiller)
    raw = whole(*batch(), 0.0).raw
    expected = plain(*batch(), 0.0).raw
    assert all(p.grad is None for p in whole.parameters())
    for name in raw:
        torch.testing.assert_close(raw[name], expected[name], rtol=0, atol=0)
    sum(raw.values()).backward()  # the graph is still there


def test_it_measures_every_so_many_passes_and_moves_a_share_of_the_way(parts):
    whole = balanced(parts, every=3)
    seen = []
    for seed in range(4):
        whole(*batch(seed=seed), 0.0)
        seen.append(whole.scales()["kl"])
    assert seen[0] == seen[1] == seen[2] != seen[3]
    fresh = balanced(parts, every=1)
    fresh.student.load_state_dict(whole.student.state_dict())  # batch statistics do not count while training
    fresh(*batch(seed=3), 0.0)
    assert seen[3] == pytest.approx(seen[0] ** KEEP * fresh.scales()["kl"] ** (1 - KEEP), rel=1e-4)


def test_evaluation_neither_measures_nor_counts(parts):
    whole = balanced(parts).eval()
    whole(*batch(), 0.0)
    with torch.no_grad():
        whole.train()(*batch(), 0.0)
    assert whole.scales() == {"kl": 1.0, "fit": 1.0} and whole.balance.passes == 0


def test_a_restored_objective_goes_on_exactly(parts):
    def run(objective: Objective, optimizer, steps: range) -> None:
        for step in steps:
            torch.manual_seed(step)
            optimizer.zero_grad()
            objective(*batch(seed=step), step / 6).total.backward()
            optimizer.step()

    def make() -> tuple[Objective, torch.optim.Optimizer]:
        objective = balanced(parts, every=2)
        return objective, torch.optim.SGD(objective.parameters(), 0.01)

    uncut, optimizer = make()
    run(uncut, optimizer, range(6))
    first, optimizer = make()
    run(first, optimizer, range(3))
    stored = copy.deepcopy(first.state_dict())
    second, optimizer = make()
    second.load_state_dict(stored)
    run(second, optimizer, range(3, 6))
    assert second.scales() == uncut.scales() != first.scales()
    ours, theirs = second.student.state_dict(), uncut.student.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_saved_state_is_plain_so_that_loading_it_runs_no_code(parts, tmp_path):
    whole = balanced(parts)
    whole(*batch(), 0.0)
    torch.save(whole.state_dict(), tmp_path / "state.pt")
    again = balanced(parts)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert again.scales() == whole.scales()


def test_a_term_without_gradient_keeps_its_scale_and_a_tiny_one_is_bounded():
    class Student(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone, self.head = torch.nn.Linear(1, 1, bias=False), torch.nn.Identity()

    pupil = Student()
    weight = pupil.backbone.weight.sum()
    scaler = GradientBalance(["zero", "none", "whisper", "shout", "broken"], 1)
    raw = {
        "zero": 0 * weight,
        "none": torch.ones(()),
        "whisper": 1e-9 * weight,
        "shout": 1e9 * weight,
        "broken": weight * float("nan"),
    }
    scales = scaler(pupil, 3 * weight, raw)
    assert scales == {"zero": 1.0, "none": 1.0, "whisper": RANGE[1], "shout": RANGE[0], "broken": 1.0}
    assert scaler(pupil, 0 * weight, raw) == scales, "labels without gradient are no measure"


@pytest.mark.parametrize("frozen", ["some of the backbone", "all of it"])
def test_it_measures_where_the_student_trains(parts, frozen):
    whole = balanced(parts)
    backbone = list(whole.student.backbone.parameters())
    for p in backbone[: len(backbone) // 2] if frozen == "some of the backbone" else backbone:
        p.requires_grad_(False)
    _, raw, weights, _ = whole(*batch(), 0.0)
    labels = raw["coordinate"] * weights["coordinate"] + raw["heatmap"] * weights["heatmap"]
    where = [p for p in backbone if p.requires_grad] or list(whole.student.head.parameters())

    def length(value):
        parts = torch.autograd.grad(value, where, retain_graph=True, allow_unused=True)
        return torch.cat([part.flatten() for part in parts if part is not None]).norm().item()

    assert length(raw["kl"] * weights["kl"]) == pytest.approx(2 * length(labels), rel=1e-3)
    if frozen == "all of it":  # the tap lies in the backbone, where nothing moves
        assert whole.scales()["fit"] == 1.0


def test_a_student_of_which_nothing_trains_is_refused_in_one_sentence(parts):
    whole = balanced(parts)
    whole.student.requires_grad_(False)
    with pytest.raises(UserError, match="distill.balance.*train.freeze"):
        whole(*batch(), 0.0)


def test_the_config_decides_whether_and_how_often():
    terms = {"kl": TermConfig(loss="heatmap_kl")}
    off, on = DistillConfig(terms), DistillConfig(terms, balance="grad_norm", balance_every=20)
    assert balance.make(Config(distill=off)) is None
    assert balance.make(Config(distill=DistillConfig(balance="grad_norm"))) is None, (
        "the control has nothing to balance"
    )
    made = balance.make(Config(distill=on, train=TrainConfig(accumulate=4)))
    assert made.every == 80 and made.scales == {"kl": 1.0}  # passes in 20 steps


def test_scales_are_logged_every_epoch_and_weigh_what_is_logged(tiny, bare, tmp_path):
    from distill.training import job as training

    # what a teacher says does not matter here, so this one is untrained
    save_model(model("lcnet_075", 64, stride=8), tmp_path / "teacher.safetensors", {})
    result = training.train_student(
        tiny.short(
            f"teacher={tmp_path / 'teacher.safetensors'}",
            "train.accumulate=2",
            "distill.balance=grad_norm",
            "distill.balance_every=3",
            distilled=True,
        )
    )
    for name, weight in {"kl": 1.5, "attention": 0.1}.items():
        scales = tiny.curve(result.run_id, f"train/scale/{name}")
        raw, weighted = (tiny.curve(result.run_id, f"train/{kind}/{name}") for kind in ("raw", "weighted"))
        assert len(scales) == 2 and all(scale > 0 and scale != 1 for scale in scales)
        for s, r, w in zip(scales, raw, weighted, strict=True):
            assert w == pytest.approx(weight * s * r, rel=0.5)  # a mean of products, a product of means
