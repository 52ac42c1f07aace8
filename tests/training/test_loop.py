"""Promises of the step and of the loop around it, on a small model and noise."""

from __future__ import annotations

import math
import os
import signal
from dataclasses import replace

import pytest
import torch
from trainers import ALONE, SMALL, TERMS, Batches, Hooks, make_objective, make_trainer, run, same

from distill.config import TermConfig
from distill.distillation.losses import coordinate as landmark_losses
from distill.errors import UserError
from distill.training import loop
from distill.training.checkpoint import Interrupted
from distill.training.optim import freeze

# ---------------------------------------------------------------------------------------------------- one step


def test_a_step_changes_the_weights_and_gives_every_value_by_name():
    trainer = make_trainer(make_objective(terms=TERMS))
    before = {name: tensor.clone() for name, tensor in trainer.objective.state_dict().items() if tensor is not None}
    values = trainer.train_step(Batches().first())
    assert {
        "train/loss",
        "train/points_outside",
        "train/grad_norm",
        "train/clipped",
        "train/grad_norm_adapters",
    } <= set(values)
    for name in ("coordinate", "heatmap", *TERMS):
        assert {f"train/raw/{name}", f"train/weighted/{name}"} <= set(values)
    total = sum(value for name, value in values.items() if name.startswith("train/weighted/"))
    assert values["train/loss"] == pytest.approx(float(total), rel=1e-5)
    assert all(value.dim() == 0 and not value.requires_grad for value in values.values())
    assert trainer.progress.step == 1
    parameters = dict(trainer.objective.named_parameters())
    assert all(parameter.grad is not None for parameter in parameters.values())
    moved = [name for name, parameter in parameters.items() if not torch.equal(parameter, before[name])]
    assert len(moved) > 0.9 * len(parameters)  # some biases have no gradient yet


def test_passes_of_a_batch_add_up_to_the_whole():
    batch = Batches(batch_size=8).first()
    for optimizer in ("adamw", "sgd"):
        whole, split = (
            make_trainer(make_objective(ALONE), batch_size=8, accumulate=parts, optimizer=optimizer) for parts in (1, 4)
        )
        values = [trainer.train_step(batch) for trainer in (whole, split)]
        for name, value in values[0].items():
            assert values[1][name] == pytest.approx(float(value), rel=1e-4, abs=1e-6), name


def test_the_teacher_gets_its_own_view_and_the_student_s_does_not_depend_on_it():
    seen = []
    objective = make_objective(terms={"kl": TermConfig("heatmap_kl")})
    teacher = objective.distiller.teacher
    teacher.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    trainer, batch = make_trainer(objective, accumulate=2), Batches().first()
    views = torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8)
    trainer.train_step(batch._replace(teacher_images=views))
    assert torch.equal(torch.cat(seen), views)
    seen.clear()
    trainer.train_step(batch)
    assert torch.equal(torch.cat(seen), batch.images)


def test_terms_of_no_weight_leave_the_student_s_steps_bit_for_bit_as_they_were():
    """Adapters are clipped apart: the gradients that they would have do not shorten the student's."""
    control = make_trainer()
    weightless, distilled = (
        make_trainer(make_objective(terms={name: replace(term, weight=weight) for name, term in TERMS.items()}))
        for weight in (0.0, 1.0)
    )
    for trainer in (control, weightless, distilled):
        trainer.train_step(Batches().first())
    states = [trainer.objective.student.state_dict() for trainer in (control, weightless, distilled)]
    assert same(states[0], states[1]) and not same(states[0], states[2])


def test_the_share_of_clipped_steps_is_logged():
    for limit, share in ((1e-6, 1.0), (1e6, 0.0), (0.0, 0.0)):
        hooks = Hooks()
        run(make_trainer(epochs=1, clip=limit), hooks=hooks)
        ((_, metrics),) = hooks.epochs
        assert metrics["train/clipped"] == share and metrics["train/grad_norm"] > 1e-6


@pytest.mark.parametrize("kind", ["loss", "gradient norm"])
def test_divergence_is_found_before_anything_is_changed(monkeypatch, kind):
    trainer, batches = make_trainer(), Batches()
    trainer.train_step(batches.first())
    before = {name: tensor.clone() for name, tensor in trainer.objective.named_parameters()}
    real = landmark_losses.LOSSES["l1"]

    def broken(points, target, weight):
        value = real(points, target, weight)
        return value * math.nan if kind == "loss" else value + (points.sum() * 0).sqrt()

    monkeypatch.setitem(landmark_losses.LOSSES, "l1", broken)
    with pytest.raises(loop.Diverged, match=rf"{kind} .*nan.*epoch 1, batch 1\b.*coordinate=.*heatmap="):
        trainer.train_step(batches.first())
    assert same(before, dict(trainer.objective.named_parameters())) and trainer.progress.step == 1


def test_a_value_on_its_way_is_checked_before_a_checkpoint_is_made():
    """As on a GPU, where a step's values are read one step later."""
    trainer = make_trainer()
    trainer.unread = loop.Unread(
        {"train/loss": torch.tensor(math.inf), "train/grad_norm": torch.tensor(1.0)}, "epoch 1"
    )
    with pytest.raises(loop.Diverged, match="inf.*epoch 1"):
        trainer.state_dict()


# ---------------------------------------------------------------------------------------------------- exactness


@pytest.mark.parametrize(
    "options",
    [pytest.param({}, marks=pytest.mark.slow), {"terms": TERMS, "balanced": "grad_norm"}],
    ids=["plain", "distilled"],
)
def test_every_checkpoint_leads_to_the_same_end(options):
    """Also from the middle of an epoch; with a gradient balance, whose measurements count."""
    *earlier, end = run(make_trainer(make_objective(**options), checkpoint_seconds=1e-9))
    assert len(earlier) == 9 + 2  # after each of nine batches, and after each epoch
    for state in (earlier[1], earlier[3]):
        trainer = make_trainer(make_objective(**options))
        trainer.load_state_dict(state)
        last = run(trainer)[-1]
        assert same(last["average"], end["average"]) and same(last["objective"], end["objective"])
        history = [{k: v for k, v in epoch.items() if "second" not in k} for epoch in last["progress"]["history"]]
        assert history == [{k: v for k, v in e.items() if "second" not in k} for e in end["progress"]["history"]]


def test_a_resumed_epoch_counts_its_seconds_from_the_beginning(monkeypatch):
    clock = Clock(monkeypatch)
    state = run(clock.slow(make_trainer(epochs=1, checkpoint_seconds=1e-9), 10))[1]  # two of three batches done
    assert state["progress"]["seconds"] == pytest.approx(20, abs=1)
    clock.now += 1000  # between the sessions nobody trains
    trainer = clock.slow(make_trainer(epochs=1), 10)
    trainer.load_state_dict(state)
    hooks = Hooks()
    run(trainer, hooks=hooks)
    ((_, metrics),) = hooks.epochs
    assert metrics["train/epoch_seconds"] == pytest.approx(30, abs=1)
    assert metrics["train/images_per_second"] == pytest.approx(12 / 30, rel=0.1)
    assert 0 <= metrics["train/loader_seconds"] <= 1  # the clock stands still but in a step
    assert trainer.progress.seconds == pytest.approx(30, abs=1)


def test_checkpoints_of_earlier_versions_load():
    """Two optimiser groups without a factor on the rate, and a progress with fewer fields."""
    trainer = make_trainer()
    *_, state = run(trainer)
    groups = [
        {k: v for k, v in g.items() if k not in ("lr_scale", "fused")} for g in state["optimizer"]["param_groups"]
    ]
    state["optimizer"]["param_groups"] = groups
    for name in ("lr", "epoch_seconds", "validation_seconds"):
        del state["progress"][name]
    again = make_trainer(epochs=4)
    again.load_state_dict(state)
    assert again.progress.step == 9 and again.optimizer.param_groups[0]["fused"]
    run(again)
    assert again.progress.step == 12


def test_a_signal_saves_the_very_batch():
    class Signalled(Batches):
        def __iter__(self):
            for number, batch in enumerate(super().__iter__(), start=1):
                if number == 2:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield batch

    trainer, kept = make_trainer(), []
    with pytest.raises(Interrupted) as stopped:
        loop.fit(trainer, Signalled(), Hooks(), kept.append, "test")
    assert stopped.value.code == 128 + signal.SIGTERM
    (state,) = kept
    assert (state["progress"]["epoch"], state["progress"]["batch"], state["progress"]["step"]) == (0, 2, 2)


# ---------------------------------------------------------------------------------------------------- epochs


def test_the_average_is_what_is_validated_and_does_not_touch_what_trains():
    hooks, plain = Hooks(), Hooks()
    averaged, alone = run(make_trainer(), hooks=hooks), run(make_trainer(ema=0.0), hooks=plain)
    for state, validated in zip(averaged, hooks.validated, strict=True):
        assert same(state["average"], validated)
        assert not torch.equal(validated["head.out.weight"], state["objective"]["student.head.out.weight"])
    for state, other, validated in zip(averaged, alone, plain.validated, strict=True):
        assert same(state["objective"], other["objective"])
        student = {n.removeprefix("student."): t for n, t in other["objective"].items() if n.startswith("student.")}
        assert same(student, validated)


def test_early_stop_after_patience_and_the_best_epoch_is_known():
    hooks = Hooks(9, 5, 6, 7, 5.5, 1)
    trainer = make_trainer(epochs=6, patience=2)
    run(trainer, hooks=hooks)
    assert [epoch for epoch, _ in hooks.epochs] == [1, 2, 3, 4]
    assert hooks.best == [1, 2] and (trainer.progress.best, trainer.progress.best_epoch) == (5, 1)


def test_patience_ends_only_after_a_validation():
    hooks = Hooks(9, 5, 6)
    run(make_trainer(epochs=6, patience=1, val_every=2), hooks=hooks)
    assert [(epoch, m[loop.SELECT]) for epoch, m in hooks.epochs if loop.SELECT in m] == [(2, 9), (4, 5), (6, 6)]


def test_the_last_epoch_is_validated_whatever_val_every():
    hooks = Hooks()
    run(make_trainer(epochs=3, val_every=2), hooks=hooks)
    assert [epoch for epoch, metrics in hooks.epochs if loop.SELECT in metrics] == [2, 3]


def test_frozen_parts_stay_bit_for_bit_what_they_were_batch_statistics_included():
    for average in (0.9, 0.0):  # without an average the model itself is validated, and put back as it was
        objective = make_objective()
        freeze(objective.student, ["backbone.blocks.1", "head.mix"])
        before = {name: tensor.clone() for name, tensor in objective.student.state_dict().items()}
        run(make_trainer(objective, freeze=["backbone.blocks.1", "head.mix"], ema=average, weight_decay=0.5))
        after = objective.student.state_dict()
        still = {name for name in before if name.startswith(("backbone.blocks.1.", "head.mix."))}
        assert [name for name in still if "running_mean" in name]
        assert {name for name in before if torch.equal(before[name], after[name])} == still


# ---------------------------------------------------------------------------------------------------- minutes


class Clock:
    """Time that passes only in steps and validations."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(loop.time, "monotonic", lambda: self.now)

    def slow(self, trainer: loop.Trainer, seconds: float) -> loop.Trainer:
        step = trainer.train_step

        def slowly(batch):
            self.now += seconds
            return step(batch)

        trainer.train_step = slowly
        return trainer

    def hooks(self, seconds: float) -> Hooks:
        hooks = Hooks(*range(100, 0, -1))
        validate = hooks.validate

        def slowly(model):
            self.now += seconds
            return validate(model)

        hooks.validate = slowly
        return hooks


def test_minutes_end_the_training_by_the_clock_validation_included(monkeypatch):
    """Steps of 10 s, validations of 30 s: 20 steps, 7 validations after 3 steps each, would take 410 s."""
    clock = Clock(monkeypatch)
    trainer, hooks = clock.slow(make_trainer(minutes=5.0, epochs=5, min_lr=0.0), 10), clock.hooks(30)
    start = clock.now
    run(trainer, hooks=hooks)
    assert 240 <= clock.now - start <= 310  # the budget, and at most a step more
    assert loop.SELECT in hooks.epochs[-1][1] and hooks.best[-1] == len(hooks.epochs) == trainer.progress.epoch
    rates = [metrics["train/lr"] for _, metrics in hooks.epochs]
    assert rates[-1] < 0.1 * max(rates)  # the schedule has come to its end, too


def test_minutes_are_those_of_all_sessions(monkeypatch):
    clock = Clock(monkeypatch)
    whole = clock.slow(make_trainer(minutes=2.0, checkpoint_seconds=1e-9), 10)
    states = run(whole, hooks=clock.hooks(5))
    clock.now += 5000
    resumed = clock.slow(make_trainer(minutes=2.0), 10)
    resumed.load_state_dict(states[4])
    run(resumed, hooks=clock.hooks(5))
    assert 100 <= resumed.progress.seconds <= 130 and resumed.progress.step == whole.progress.step


def test_a_budget_that_ends_in_the_first_epoch_still_gives_a_validated_model(monkeypatch):
    clock = Clock(monkeypatch)
    trainer, hooks = clock.slow(make_trainer(minutes=0.1), 10), clock.hooks(1)
    run(trainer, hooks=hooks)
    assert trainer.progress.step == 1 and hooks.best == [1]


# ---------------------------------------------------------------------------------------------------- the machine


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "train.batch_size"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore"), "CUDA out of memory"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 5"),
            "train.batch_size",
        ),
        (RuntimeError("DataLoader worker (pid 123) is killed by signal: Killed. "), r"pid 123"),
        (RuntimeError("DataLoader worker (pid(s) 1, 2) exited unexpectedly"), r"pid\(s\) 1, 2"),
    ],
)
def test_what_the_machine_does_to_a_training_is_one_sentence(error, words):
    with pytest.raises(UserError, match=words) as message, loop.plain_errors():
        raise error
    assert "\n" not in str(message.value)


def test_other_errors_are_left_as_they_are():
    with pytest.raises(RuntimeError, match="ours"), loop.plain_errors():
        raise RuntimeError("ours")


def test_the_model_s_size_is_no_matter_to_the_step():
    """Views of another size than the model's input are resampled."""
    values = make_trainer(make_objective(replace(SMALL, input_size=64))).train_step(Batches().first())
    assert math.isfinite(values["train/loss"])
