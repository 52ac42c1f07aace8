"""Points are drawn from the space and from nowhere else; poor trials are cut, never before they may be."""

from __future__ import annotations

import warnings

import optuna
import pytest
from optuna.trial import TrialState

from search import space as spaces
from search import storage
from search.space import Pruner

BASE = """
name: base
model: {backbone: lcnet_050, input_size: 64, head: {stride: 8, width: 16}}
train: {epochs: 20, lr: 0.002}
distill: {terms: {kl: {loss: heatmap_kl, weight: 2}}}
"""
SPACE = """
base: base.yaml
search:
  trial: {train.epochs: 9}
  sampler: {kind: KIND, seed: 3, startup: 8}
  pruner: {kind: none}
  objectives: OBJECTIVES
  space:
    train.lr: {float: [1e-4, 1e-2], log: true}
    train.clip: {float: [0, 2], step: 0.25}
    model.head.width: {int: [8, 64], log: true}
    train.accumulate: {choice: [1, 2, 4]}
    hint:
      recipe: none
      branches:
        none: {}
        one:
          set: {distill.terms.hint: {loss: fitnet, student: "level:1", teacher: "level:1"}}
          space: {distill.terms.hint.weight: {float: [0.1, 8], log: true}}
        two:
          set: {distill.terms.hint: {loss: attention, student: "level:2", teacher: "level:2"}}
          space:
            fade:
              recipe: hold
              branches:
                hold: {}
                fade:
                  set: {distill.terms.hint.schedule: linear}
                  space: {distill.terms.hint.final: {float: [0.1, 1]}}
"""


@pytest.fixture
def read(tmp_path):
    (tmp_path / "base.yaml").write_text(BASE)

    def read(kind: str = "tpe", objectives: str = "[val/nme]") -> spaces.Space:
        (tmp_path / "space.yaml").write_text(SPACE.replace("KIND", kind).replace("OBJECTIVES", objectives))
        return spaces.load(tmp_path / "space.yaml")

    return read


def drawn(space: spaces.Space, count: int, worker: int = 0, begun: int = 0) -> list[dict]:
    """Points of a study that learns that only `hint: one` is any good, and the better the heavier its term."""
    sampler = storage.make_sampler(space, worker, begun)
    study = optuna.create_study(directions=["minimize"] * len(space.search.objectives), sampler=sampler)
    points = []
    for _ in range(count):
        trial = study.ask()
        points.append(spaces.suggest(trial, space))
        value = 9 - points[-1].get("hint[one].distill.terms.hint.weight", 0)
        study.tell(trial, [value] * len(space.search.objectives))
    return points


@pytest.mark.parametrize(
    ("kind", "objectives", "count"),
    [
        ("tpe", "[val/nme]", 14),
        ("tpe", "[val/nme, model/mmacs]", 10),
        ("random", "[val/nme]", 14),
        ("gp", "[val/nme]", 9),
    ],
)
def test_every_sampler_draws_points_of_the_space(read, kind, objectives, count):
    space = read(kind, objectives)
    points = drawn(space, count)
    for point in points:
        config = space.config(point)  # which refuses a value too many or too few
        assert list(point) == [name for name, _, _ in space.active(point)]
        assert config.train.clip % 0.25 == 0 and 8 <= config.model.head.width <= 64
        assert isinstance(point["model.head.width"], int) and 1e-4 <= config.train.lr <= 1e-2
        assert ("hint" in config.distill.terms) == (point["hint"] != "none")
    assert len({point["hint"] for point in points}) > 1


def test_tpe_learns_what_is_good_on_a_branch(read):
    late = drawn(read("tpe"), 45)[25:]
    weights = [point["hint[one].distill.terms.hint.weight"] for point in late if point["hint"] == "one"]
    assert len(weights) > 12 and sum(weight > 4 for weight in weights) > 0.7 * len(weights)


def test_workers_draw_streams_of_their_own_and_one_that_is_started_again_goes_on(read):
    space = read("random")
    first = drawn(space, 3)
    assert drawn(space, 3) == first, "the same seed, the same points"
    for other in (drawn(space, 3, worker=1), drawn(space, 3, begun=3)):
        assert not [point for point in other if point in first]


def test_only_the_warning_of_the_groups_is_silenced(read):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        storage.make_sampler(read("tpe"))


# ---------------------------------------------------------------------------------------------------- pruning


def epochs_run(pruner: Pruner, curves: list[float]) -> list[int]:
    """Epochs of nine that trials train one after the other, each with the same value after every epoch."""
    sampler = optuna.samplers.RandomSampler(seed=0)
    # hyperband draws a trial's bracket from the study's name
    study = optuna.create_study(study_name="curves", sampler=sampler, pruner=storage.make_pruner(pruner, 9))
    lengths = []
    for value in curves:
        trial = study.ask()
        for epoch in range(1, 10):
            trial.report(value, epoch)
            if trial.should_prune():
                break
        study.tell(trial, *([] if epoch < 9 else [value]), state=TrialState.PRUNED if epoch < 9 else None)
        lengths.append(epoch)
    return lengths


WORSE = [10.0 + number for number in range(30)]


def test_hyperband_cuts_most_of_what_only_gets_worse_at_its_rungs():
    lengths = epochs_run(Pruner(kind="hyperband", min_epochs=1, factor=3), WORSE)
    assert lengths[0] == 9 and set(lengths) <= {1, 3, 9}, "rungs at 1, 3 and 9 epochs"
    assert sum(lengths) < 0.6 * 9 * len(WORSE)


@pytest.mark.parametrize("kind", ["hyperband", "median"])
def test_nothing_is_cut_before_its_least_epochs(kind):
    lengths = epochs_run(Pruner(kind=kind, min_epochs=4, factor=2, startup=2), WORSE)
    assert 4 <= min(lengths) < 9


def test_the_median_cuts_only_once_enough_trials_are_complete():
    lengths = epochs_run(Pruner(kind="median", startup=6), WORSE[:20])
    assert lengths[:6] == [9] * 6 and max(lengths[6:]) < 9


def test_without_a_pruner_all_run_to_their_end():
    assert set(epochs_run(Pruner(kind="none"), WORSE[:9])) == {9}
