"""What a study shows while it runs and leaves behind says what its trials were, and nothing that they were not."""

from __future__ import annotations

import csv
import io
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from distill import config as configs
from distill.config import TrackingConfig
from search import outputs, pictures, runner, summary
from search import space as spaces

BASE = """
name: base
model: {backbone: lcnet_050, input_size: 64, head: {stride: 8, width: 16}}
data: {root: somewhere}
train: {epochs: 30, lr: 0.002, batch_size: 4}
distill: {terms: {hint: {loss: fitnet, weight: 0.5, student: "level:2", teacher: "level:2"}}}
"""
FILE = """
base: base.yaml
search:
  title: Rates and hints
  objectives: [val/nme]
  trial: {train.epochs: 9}
  space:
    train.lr: {float: [3.0e-4, 6.0e-3], log: true}
    model.head.width: {int: [8, 32], step: 8}
    hints:
      recipe: coarse
      branches:
        none: {}
        coarse:
          set: {distill.terms.hint: {loss: fitnet, weight: 0.5, student: "level:2", teacher: "level:2"}}
          space: {distill.terms.hint.weight: {float: [0.1, 8.0], log: true}}
        fine:
          set: {distill.terms.hint: {loss: fitnet, weight: 0.5, student: "level:1", teacher: "level:1"}}
          space: {distill.terms.hint.weight: {float: [0.1, 8.0], log: true}}
"""
RATE, WIDTH, HINTS = "train.lr", "model.head.width", "hints"
COARSE, FINE = (f"hints[{branch}].distill.terms.hint.weight" for branch in ("coarse", "fine"))
RANGES = {
    RATE: FloatDistribution(3e-4, 6e-3, log=True),
    WIDTH: IntDistribution(8, 32, step=8),
    HINTS: CategoricalDistribution(("none", "coarse", "fine")),
    COARSE: FloatDistribution(0.1, 8, log=True),
    FINE: FloatDistribution(0.1, 8, log=True),
}
RECIPE = {RATE: 0.002, WIDTH: 16, HINTS: "coarse", COARSE: 0.5}
NONE = {RATE: 1e-3, WIDTH: 8, HINTS: "none"}


def read_space(folder, objectives: str = "[val/nme]") -> spaces.Space:
    (folder / "base.yaml").write_text(BASE)
    (folder / "rates.yaml").write_text(FILE.replace("[val/nme]", objectives))
    return spaces.load(folder / "rates.yaml")


@pytest.fixture
def space(tmp_path):
    return read_space(tmp_path)


def new_study(objectives: int = 1) -> optuna.Study:
    return optuna.create_study(directions=["minimize"] * objectives, study_name="rates")


def add(study, params, values=None, curve=(), state=TrialState.COMPLETE, system=None, **attributes) -> None:
    values = None if values is None else values if isinstance(values, list) else [values]
    study.add_trial(
        optuna.create_trial(
            state=state,
            params=params,
            distributions={name: RANGES[name] for name in params},
            values=values,
            user_attrs=attributes,
            system_attrs=system or {},
            intermediate_values=dict(enumerate(curve, start=1)),
        )
    )


def add_many(study, count: int, seed: int = 0) -> None:
    """Done trials of which only the rate matters."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        rate = float(np.exp(rng.uniform(np.log(3e-4), np.log(6e-3))))
        add(study, {RATE: rate, WIDTH: int(rng.choice([8, 16, 24, 32])), HINTS: "none"}, 5 + abs(np.log(rate / 2e-3)))


@pytest.fixture
def study():
    """0 the recipe, 1 pruned, 2 refused, 3 failed, 4 died and went on as 5 (done, the best), 6 running, 7 stopped."""
    made = new_study()
    fail = TrialState.FAIL
    add(made, RECIPE, 6.0, [20.0, 9.0, 6.0], epochs=9)
    add(made, {**NONE, RATE: 4e-4}, 15.0, [25.0, 15.0], TrialState.PRUNED, pruned="epoch 2 of 9: val/nme 15")
    add(made, {**NONE, WIDTH: 32}, None, (), TrialState.PRUNED, refused="model/file_bytes is 16, above 15")
    add(made, {**NONE, RATE: 6e-3}, None, [90.0], fail, error="the loss is nan")
    best = {RATE: 3e-3, WIDTH: 32, HINTS: "fine", FINE: 1.0}
    add(made, best, None, [21.0], fail, epochs=1)
    add(made, best, 5.0, [21.0, 8.0, 5.0], system={"failed_trial": 4, "retry_history": [4]}, epochs=9)
    add(made, {**NONE, WIDTH: 24}, None, [19.0], TrialState.RUNNING, epochs=1)
    add(made, {**NONE, WIDTH: 16}, None, (), fail, stopped=7)
    return made


def write(space, study, folder):
    return outputs.write(space, study, summary.rows(study, space), TrackingConfig(store=str(folder)), "", folder)


# ---------------------------------------------------------------------------------------------------- rows


def test_every_trial_is_in_one_state_and_counts_once(study, space):
    rows = summary.rows(study, space)
    states = ["done", "pruned", "refused", "failed", "retried", "done", "running", "interrupted"]
    assert [row.state for row in rows] == states and set(states) <= set(summary.STATES)
    assert [row.note for row in rows[1:4]] == [
        "epoch 2 of 9: val/nme 15",
        "model/file_bytes is 16, above 15",
        "the loss is nan",
    ]
    assert "trial 5 goes on" in rows[4].note
    assert rows[6].epoch == 1 and {row.epochs for row in rows} == {9}
    assert rows[1].value == 15.0 and rows[3].values == []
    assert summary.best(rows).number == 5 and summary.tally(rows) == summary.Tally(ended=4, running=1)
    counted = "4 trials: 1 running, 2 done, 1 pruned, 1 refused, 1 failed, 1 interrupted, 1 retried"
    assert summary.counted(rows) == counted


@pytest.mark.parametrize("retries", [0, 1, 2])
def test_a_worker_s_death_is_forgiven_so_often(tmp_path, retries):
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "rates.yaml").write_text(FILE.replace("  trial:", f"  retries: {retries}\n  trial:"))
    space, study = spaces.load(tmp_path / "rates.yaml"), new_study()
    for deaths in range(1, 4):
        history = {"retry_history": list(range(deaths - 1))} if deaths > 1 else {}
        add(study, NONE, None, (), TrialState.FAIL, system=history)
        states = [row.state for row in summary.rows(study, space)]
        assert states == ["retried"] * (deaths - 1) + ["interrupted" if deaths <= retries else "failed"]


def test_a_pruned_or_refused_trial_is_never_the_best():
    made = new_study()
    add(made, RECIPE, 1.0, [1.0], TrialState.PRUNED)
    add(made, RECIPE, 0.5, [0.5], TrialState.PRUNED, refused="too large")
    assert summary.best(summary.rows(made)) is None
    add(made, RECIPE, 7.0)
    assert summary.best(summary.rows(made)).number == 2


def test_the_front_holds_the_trials_that_no_other_dominates():
    made = new_study(2)
    for values in ([5.0, 10.0], [6.0, 8.0], [6.0, 9.0], [4.0, 20.0], [7.0, 8.0]):
        add(made, RECIPE, values)
    assert [row.number for row in summary.front(summary.rows(made))] == [3, 0, 1]


def test_labels_are_short_and_no_two_alike():
    names = {
        "train.lr": "lr",
        "features": "features",
        "distill.terms.kl.weight": "kl.weight",
        COARSE: "hint.weight (coarse)",
        "hints[fine].fading[slow].distill.terms.hint.final": "hint.final (fine, slow)",
        "train.min_lr": "min_lr",
    }
    assert summary.labels(names) == names
    assert summary.labels(["data.size", "model.size"]) == {"data.size": "data.size", "model.size": "model.size"}


def test_the_csv_reads_back_as_it_was(study, space):
    text = summary.to_csv(summary.rows(study, space), space.search.objectives)
    read = list(csv.DictReader(io.StringIO(text)))
    assert len(read) == 8 and float(read[5]["val/nme"]) == 5.0 and read[5]["state"] == "done"
    assert float(read[0]["train.lr"]) == 0.002 and read[0][FINE] == "" and read[5][FINE] == "1.0"
    assert read[3]["note"] == "the loss is nan" and read[3]["val/nme"] == "" and float(read[0]["seconds"]) >= 0


# ---------------------------------------------------------------------------------------------------- while it runs


def test_each_trial_that_ends_gets_one_line_and_the_best_is_marked(study, space, monkeypatch, capsys):
    watch = runner.Watch(space, study, SimpleNamespace(log_metrics=lambda *_, **__: None), total=9)
    rows = summary.rows(study, space)
    for look in (rows[:1], rows, rows):
        monkeypatch.setattr(summary, "rows", lambda *_, look=look: look)
        watch.rows()
    lines = capsys.readouterr().out.splitlines()
    assert [int(line.split()[1]) for line in lines] == [1, 2, 3, 4, 5]  # 0 had ended before, 6 and 7 have not yet
    assert "★" in lines[4] and "val/nme 5 " in lines[4] and "(4 of 9, some " in lines[4]
    assert "the loss is nan" in lines[2] and not any("★" in line for line in lines[:4])


# ---------------------------------------------------------------------------------------------------- what it leaves


def test_a_study_leaves_its_best_configuration_its_trials_and_its_pictures(study, space, tmp_path):
    files = write(space, study, tmp_path / "out")
    assert {file.name for file in files} == {"best.yaml", "trials.csv", "history.png", "curves.png"}
    assert all(file.parent == tmp_path / "out" / "rates" and file.stat().st_size > 100 for file in files)
    config = configs.load(tmp_path / "out" / "rates" / "best.yaml")
    assert configs.digest(config) == configs.digest(space.config(study.trials[5].params, full=True))
    assert (config.train.epochs, config.train.lr, config.distill.terms["hint"].student) == (30, 3e-3, "level:1")
    comment = (tmp_path / "out" / "rates" / "best.yaml").read_text()
    for part in ("trial 5 of study 'rates'", "val/nme 5", "recipe, trial 0, has val/nme 6."):
        assert part in comment
    assert "somewhere" not in comment, "it can be put anywhere"


def test_a_trial_that_stored_its_configuration_is_taken_at_its_word(study, space, tmp_path):
    stored = space.config({**RECIPE, RATE: 5e-3}, full=True)
    add(study, RECIPE, 1.0, config=configs.to_dict(stored))
    rows = summary.rows(study, space)
    text = outputs.recipe(study, rows, summary.best(rows), space, TrackingConfig(store=str(tmp_path)))
    assert yaml.safe_load(text)["train"]["lr"] == 5e-3


def test_a_study_in_which_all_failed_prints_that_and_has_no_best(space, tmp_path):
    made = new_study()
    for _ in range(2):
        add(made, RECIPE, None, (), TrialState.FAIL, error="the loss is nan")
    assert [file.name for file in write(space, made, tmp_path)] == ["trials.csv"]
    text = outputs.to_text(space, made, summary.rows(made, space))
    assert "2 failed" in text and "the loss is nan" in text and "best:" not in text


def test_the_text_is_careful_with_few_trials_of_one_seed(study, space):
    add(study, RECIPE, 6.5)
    text = outputs.to_text(space, study, summary.rows(study, space))
    assert "best: trial 5" in text and "one seed" in text and "search.best" in text and "importance: not shown" in text
    assert "a hint" in pictures.trust(pictures.HINT - 1) and "a hint" not in pictures.trust(pictures.HINT)


def test_of_two_objectives_the_whole_front_is_left(tmp_path):
    space = read_space(tmp_path, "[val/nme, model/latency_ms]")
    made = new_study(2)
    for width, values in ((16, [5.0, 10.0]), (8, [6.0, 8.0]), (32, [7.0, 12.0])):
        add(made, {**RECIPE, WIDTH: width}, values)
    names = {str(file.relative_to(tmp_path / "rates")) for file in write(space, made, tmp_path)}
    assert {"front.png", "best.yaml", "front/trial-000.yaml", "front/trial-001.yaml"} <= names
    assert not {"history.png", "front/trial-002.yaml"} & names
    assert yaml.safe_load((tmp_path / "rates" / "front" / "trial-001.yaml").read_text())["model"]["head"]["width"] == 8
    assert outputs.to_text(space, made, summary.rows(made, space)).count("on the front") == 2


# ---------------------------------------------------------------------------------------------------- pictures


def drawn(study, space) -> dict:
    rows = summary.rows(study, space)
    return pictures.draw(space, study, rows, {row.number: row.trial.intermediate_values for row in rows})


def dots(figure, kind: str) -> list[tuple[float, float]]:
    """Places of the markers of one kind of trial."""
    colour, _ = pictures.LOOKS[kind]
    found = [line for line in figure.axes[0].get_lines() if line.get_marker() == "o" and line.get_color() == colour]
    return [tuple(map(float, at)) for line in found for at in line.get_xydata()]


def words(figure) -> str:
    return " ".join(text.get_text() for text in figure.texts)


def test_history_shows_each_trial_at_its_number_the_best_so_far_and_the_recipe(study, space):
    figure = drawn(study, space)["history"]
    axes = figure.axes[0]
    assert dots(figure, "done") == [(0, 6), (5, 5)] and dots(figure, "pruned") == [(1, 15)]
    best, recipe = (
        next(line for line in axes.get_lines() if name in line.get_label()) for name in ("best so", "recipe")
    )
    assert best.get_drawstyle() == "steps-post" and best.get_ydata()[-1] == 5 and list(recipe.get_ydata()) == [6, 6]
    assert "one seed" in words(figure)


def test_curves_end_where_trials_were_cut_and_count_what_was_spared(study, space):
    figure = drawn(study, space)["curves"]
    assert "1 of 3 trials pruned; 20 of 27 epochs trained, 26% spared" in words(figure)
    ends = sorted(line.get_xydata()[-1].tolist() for line in figure.axes[0].get_lines() if len(line.get_xydata()) > 1)
    assert ends == [[2, 15], [3, 5], [3, 6]]


def test_importances_are_drawn_of_enough_trials_only_and_called_what_they_are(space):
    made = new_study()
    add_many(made, pictures.FEW - 1)
    assert "importance" not in drawn(made, space)
    add_many(made, 5, seed=1)
    few = drawn(made, space)["importance"]
    assert few.axes[0].get_yticklabels()[0].get_text() == "lr" and "a hint" in words(few)
    scores = pictures.importances(made, summary.rows(made))
    assert next(iter(scores)) == RATE and sum(scores.values()) == pytest.approx(1)


def test_importances_of_trials_that_are_all_alike_are_none():
    made = new_study()
    for _ in range(pictures.FEW):
        add(made, RECIPE, 5.0)
    assert pictures.importances(made, summary.rows(made)) == {}


def test_the_front_is_drawn_through_the_trials_that_no_other_dominates(tmp_path):
    space = read_space(tmp_path, "[val/nme, model/latency_ms]")
    made = new_study(2)
    for width, values in ((8, [5.0, 10.0]), (24, [6.0, 8.0]), (16, [7.0, 12.0])):
        add(made, {**RECIPE, WIDTH: width}, values)
    axes = drawn(made, space)["front"].axes[0]
    step = next(line for line in axes.get_lines() if line.get_drawstyle() == "steps-post")
    assert step.get_xydata().tolist() == [[5, 10], [6, 8]]
    assert {text.get_text() for text in axes.texts} == {"0", "1", "the recipe"}


def test_a_lone_trial_and_one_value_for_all_can_be_drawn(space):
    made = new_study()
    add(made, NONE, 5.0, [5.0])
    assert set(drawn(made, space)) == {"history", "curves"}
    pruned = new_study()
    add(pruned, RECIPE, 9.0, [9.0], TrialState.PRUNED)
    assert set(drawn(pruned, space)) == {"curves"}
