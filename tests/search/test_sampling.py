"""Points are drawn from the space and from nowhere else, the recipe first; poor trials are cut, never before they may be."""

from __future__ import annotations

import warnings

import optuna
import pytest
from optuna.trial import TrialState

from distill import config as configs
from search import sampling
from search import space as spaces

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
  sampler: {kind: KIND, seed: 3, STARTUP}
  pruner: PRUNER
  objectives: OBJECTIVES
  enqueue: [{train.lr: 3e-3}]
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
            fade: {recipe: hold, branches: {hold: {}, fade: {set: {distill.terms.hint.schedule: linear}, space: {distill.terms.hint.final: {float: [0.1, 1]}}}}}
"""
OBJECTIVES = {1: "[val/nme]", 2: "[val/nme, model/file_bytes]"}


@pytest.fixture
def read(tmp_path):
    (tmp_path / "base.yaml").write_text(BASE)

    def read(kind: str = "tpe", pruner: str = "{kind: none}", objectives: int = 1) -> spaces.Space:
        startup = {"tpe": "startup: 10", "gp": "startup: 5", "random": ""}[kind]
        text = SPACE.replace("KIND", kind).replace("STARTUP", startup).replace("PRUNER", pruner)
        (tmp_path / "space.yaml").write_text(text.replace("OBJECTIVES", OBJECTIVES[objectives]))
        return spaces.load(tmp_path / "space.yaml")

    return read


@pytest.fixture(autouse=True)
def quiet():
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(level)


def drawn(space: spaces.Space, count: int, worker: int = 0, begun: int = 0) -> list[dict]:
    """Points of a study that learns that only `hint: one` is any good, and the better the heavier its term."""
    study = optuna.create_study(
        directions=["minimize"] * len(space.objectives), sampler=sampling.make_sampler(space, worker, begun)
    )
    points = []
    for _ in range(count):
        trial = study.ask()
        points.append(sampling.suggest(trial, space))
        value = 9 - points[-1].get("hint[one].distill.terms.hint.weight", 0)
        study.tell(trial, [value] * len(space.objectives))
    return points


@pytest.mark.parametrize("objectives", OBJECTIVES)
@pytest.mark.parametrize("kind", ["tpe", "random", "gp"])
def test_every_sampler_draws_points_of_the_space(read, kind, objectives):
    space = read(kind, objectives=objectives)
    points = drawn(space, 7 if kind == "gp" else 14)
    for values in points:
        config = space.config(values)  # which refuses a value too many or too few
        assert list(values) == [node.name for node in space.active(values)]
        assert config.train.clip % 0.25 == 0 and 8 <= config.model.head.width <= 64
        assert isinstance(values["model.head.width"], int) and 1e-4 <= config.train.lr <= 1e-2
        assert ("hint" in config.distill.terms) == (values["hint"] != "none")
    assert {values["hint"] for values in points} > {"one"}, "several branches are seen"


def test_tpe_learns_what_is_good_on_a_branch(read):
    late = drawn(read("tpe"), 60)[30:]
    weights = [values["hint[one].distill.terms.hint.weight"] for values in late if values["hint"] == "one"]
    assert len(weights) > 20 and sum(weight > 4 for weight in weights) > 0.7 * len(weights)


@pytest.mark.parametrize("kind", ["tpe", "random"])
def test_workers_draw_streams_of_their_own_and_one_that_comes_again_goes_on(read, kind):
    space = read(kind)
    first = drawn(space, 3)
    assert drawn(space, 3) == first, "the same seed, the same points"
    for other in (drawn(space, 3, worker=1), drawn(space, 3, begun=3)):
        assert not [values for values in other if values in first]


def test_only_the_warning_of_the_groups_is_silenced(read):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampling.make_sampler(read("tpe"))
        with pytest.raises(optuna.exceptions.ExperimentalWarning):
            optuna.samplers.TPESampler(multivariate=True, group=True)


# ---------------------------------------------------------------------------------------------------- pruning


def epochs_run(space: spaces.Space, curves: list[float]) -> list[int]:
    """Epochs that trials train one after the other, each with the same value after every epoch."""
    study = optuna.create_study(
        sampler=optuna.samplers.RandomSampler(seed=0), pruner=sampling.make_pruner(space.pruner, space.epochs)
    )
    lengths = []
    for value in curves:
        trial = study.ask()
        for epoch in range(1, space.epochs + 1):
            trial.report(value, epoch)
            if trial.should_prune():
                break
        if epoch < space.epochs:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, value)
        lengths.append(epoch)
    return lengths


WORSE = [10.0 + number for number in range(30)]


def test_hyperband_cuts_most_of_what_only_gets_worse_at_its_rungs(read):
    lengths = epochs_run(read(pruner="{kind: hyperband, min_epochs: 1, factor: 3}"), WORSE)
    assert lengths[0] == 9 and set(lengths) <= {1, 3, 9}, "rungs at 1, 3 and 9 epochs"
    assert sum(lengths) < 0.5 * 9 * len(WORSE)


def test_nothing_is_cut_before_its_least_epochs(read):
    for kind in ("{kind: hyperband, min_epochs: 4, factor: 2}", "{kind: median, startup: 2, min_epochs: 4}"):
        lengths = epochs_run(read(pruner=kind), WORSE)
        assert min(lengths) >= 4 and min(lengths) < 9, kind


def test_the_median_cuts_only_once_enough_trials_are_complete(read):
    lengths = epochs_run(read(pruner="{kind: median, startup: 6, min_epochs: 1}"), WORSE)
    assert lengths[:6] == [9] * 6 and max(lengths[6:]) < 9


def test_without_a_pruner_all_run_to_their_end(read):
    assert set(epochs_run(read(), WORSE)) == {9}


# ---------------------------------------------------------------------------------------------------- a dry run


def test_a_dry_run_shows_what_is_enqueued_and_then_what_a_first_worker_would_draw(read, capsys):
    space = read()
    points = sampling.draw(space, 4)
    assert points[:2] == list(space.enqueue) and points[0]["train.lr"] == 0.002 and points[1]["train.lr"] == 0.003
    assert points == sampling.draw(space, 4) and points[2] != points[3]
    assert len(sampling.draw(space, 1)) == 1
    optuna.logging.set_verbosity(optuna.logging.INFO)
    sampling.draw(space, 1)
    assert optuna.logging.get_verbosity() == optuna.logging.INFO
    assert capsys.readouterr() == ("", ""), "what is drawn is given back, not told"


def test_points_as_text_mark_what_differs_from_the_recipe(read):
    space = read()
    recipe = space.enqueue[0]
    other = {**recipe, "train.lr": 0.0012345, "hint": "one", "hint[one].distill.terms.hint.weight": 0.5}
    first, second = sampling.to_text(space, [recipe, other]).split("\n\n")
    assert "*" not in first and "the recipe" in first and configs.digest(space.config(recipe)) in first
    assert [line.strip() for line in second.splitlines() if "*" in line] == [
        "* train.lr: 0.001234", "* hint: one", "* hint[one].distill.terms.hint.weight: 0.5"
    ]  # fmt: skip
