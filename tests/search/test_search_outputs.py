"""What a study shows while it runs and leaves behind says what its trials were, and nothing that they were not."""

from __future__ import annotations

import csv
import io

import numpy as np
import optuna
import pytest
import yaml
from matplotlib.colors import to_hex
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from rich.console import Console

from distill import config as configs
from distill.config import TrackingConfig
from distill.figures import parameters as varied
from distill.figures import search as drawn
from search import outputs, summary
from search import space as spaces
from search.live_table import LiveTable, time_left
from search.summary import TrialRow

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


@pytest.fixture
def space(tmp_path):
    return read_space(tmp_path, "[val/nme]")


def read_space(folder, objectives):
    (folder / "base.yaml").write_text(BASE)
    (folder / "rates.yaml").write_text(FILE.replace("[val/nme]", objectives))
    return spaces.load(folder / "rates.yaml")


def new_study(objectives: int = 1) -> optuna.Study:
    return optuna.create_study(directions=["minimize"] * objectives, study_name="rates")


def add(study, params, values=None, curve=(), state=TrialState.COMPLETE, **attributes) -> None:
    values = None if values is None else values if isinstance(values, list) else [values]
    study.add_trial(
        optuna.create_trial(
            state=state, params=params, distributions={name: RANGES[name] for name in params}, values=values,
            user_attrs=attributes, intermediate_values=dict(enumerate(curve, start=1)),
        )
    )  # fmt: skip


@pytest.fixture
def study():
    """0 the recipe, 1 pruned, 2 refused, 3 failed, 4 died and went on as 5 (done, the best), 6 running, 7 died for good."""
    made = new_study()
    add(made, RECIPE, 6.0, [20.0, 9.0, 6.0], epochs=9, seconds=12.5)
    add(
        made,
        {RATE: 4e-4, WIDTH: 8, HINTS: "none"},
        15.0,
        [25.0, 15.0],
        TrialState.PRUNED,
        pruned="epoch 2 of 9: val/nme 15",
    )
    add(
        made,
        {RATE: 1e-3, WIDTH: 32, HINTS: "none"},
        None,
        (),
        TrialState.PRUNED,
        refused="model/file_bytes is 16, above 15",
    )
    add(made, {RATE: 6e-3, WIDTH: 8, HINTS: "none"}, None, [90.0], TrialState.FAIL, error="the loss is nan")
    best = {RATE: 3e-3, WIDTH: 32, HINTS: "fine", FINE: 1.0}
    add(made, best, None, [21.0], TrialState.FAIL, epochs=1)
    add(made, best, 5.0, [21.0, 8.0, 5.0], retry_of=4, epochs=9)
    add(made, {RATE: 2e-3, WIDTH: 24, HINTS: "none"}, None, [19.0], TrialState.RUNNING, epochs=1)
    add(made, {RATE: 2.5e-3, WIDTH: 24, HINTS: "none"}, None, (), TrialState.FAIL)
    return made


# ---------------------------------------------------------------------------------------------------- rows


def test_every_trial_is_told_in_a_word_and_counts_once(study, space):
    rows = summary.rows(study, space)
    states = ["done", "pruned", "refused", "failed", "retried", "done", "running", "failed"]
    assert [row.state for row in rows] == states and set(states) <= set(summary.STATES)
    assert [row.note for row in rows[1:5]] == [
        "epoch 2 of 9: val/nme 15", "model/file_bytes is 16, above 15", "the loss is nan", "its worker died; trial 5 goes on with it",
    ]  # fmt: skip
    assert rows[7].note == "its worker died" and rows[6].epoch == 1 and {row.epochs for row in rows} == {9}
    assert rows[1].value == 15.0 and rows[3].values is None
    assert summary.best(study).number == 5
    assert outputs.counted(rows) == "5 trials: 1 running, 2 done, 1 pruned, 1 refused, 2 failed, 1 retried"


def test_a_pruned_or_refused_trial_is_never_the_best(space):
    made = new_study()
    add(made, RECIPE, 1.0, [1.0], TrialState.PRUNED)
    add(made, RECIPE, 0.5, [0.5], TrialState.PRUNED, refused="too large")
    assert summary.best(made) is None and summary.front(made) == []
    add(made, RECIPE, 7.0)
    assert summary.best(made).number == 2


def test_the_front_holds_whoever_nobody_beats():
    made = new_study(2)
    for values in ([5.0, 10.0], [6.0, 8.0], [6.0, 9.0], [5.0, 10.0], [4.0, 20.0], [7.0, 8.0]):
        add(made, RECIPE, values)
    assert [row.number for row in summary.front(made)] == [4, 0, 1]


def test_labels_are_short_and_no_two_alike():
    names = ["train.lr", "features", "distill.terms.kl.weight", "distill.terms.kd.weight", COARSE, FINE,
             "hints[fine].fading[slow].distill.terms.hint.final", "augment.photometric.blur.p", "train.min_lr"]  # fmt: skip
    labels = summary.labels(names)
    assert list(labels.values()) == [
        "lr", "features", "kl.weight", "kd.weight", "hint.weight (coarse)", "hint.weight (fine)", "hint.final (fine, slow)",
        "blur.p", "min_lr",
    ]  # fmt: skip
    assert summary.labels(["data.size", "model.size"]) == {"data.size": "data.size", "model.size": "model.size"}


def test_importance_finds_the_parameter_that_matters_and_is_silent_where_it_cannot_know():
    made = new_study()
    assert summary.importances(made) == {}
    rng = np.random.default_rng(0)
    for count in range(30):
        rate = float(np.exp(rng.uniform(np.log(3e-4), np.log(6e-3))))
        add(made, {RATE: rate, WIDTH: int(rng.choice([8, 16, 24, 32]))}, 5 + abs(np.log(rate / 2e-3)))
        if count == 0:
            assert summary.importances(made) == {}
    scores = summary.importances(made)
    assert next(iter(scores)) == RATE and scores[RATE] > 0.6 and sum(scores.values()) == pytest.approx(1)
    same = new_study()
    for _ in range(3):
        add(same, RECIPE, 5.0)
    assert summary.importances(same) == {}


def test_the_csv_reads_back_as_it_was(study, space):
    text = summary.to_csv(summary.rows(study, space), space.objectives)
    read = list(csv.DictReader(io.StringIO(text)))
    assert len(read) == 8 and float(read[5]["val/nme"]) == 5.0 and read[5]["state"] == "done"
    assert float(read[0]["train.lr"]) == 0.002 and read[0][FINE] == "" and read[5][FINE] == "1.0"
    assert read[3]["note"] == "the loss is nan" and read[3]["val/nme"] == "" and read[0]["seconds"] == "12.5"


# ---------------------------------------------------------------------------------------------------- while it runs


def shown(space, total, *looks, terminal=False) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=150, height=40, color_system=None)
    with LiveTable(space, total, console) as table:
        for rows in looks:
            table.show(rows)
    return out.getvalue()


def test_a_log_gets_one_line_a_trial_that_ended_and_none_twice(study, space):
    rows = summary.rows(study, space)
    lines = shown(space, 9, rows[:1], rows, rows).splitlines()
    assert [int(line.split()[1]) for line in lines] == [1, 2, 3, 4, 5, 7]  # 0 had ended before, 6 has not yet
    assert "★ best so far" in lines[4] and "best val/nme 5.000 (trial 5)" in lines[4] and "(5 of 9;" in lines[4]
    assert "the loss is nan" in lines[2] and not any("★" in line for line in lines[:4])


def test_a_terminal_gets_a_table_with_the_best_marked(study, space):
    text = shown(space, 9, summary.rows(study, space), terminal=True)
    assert (
        "★ 5" in text
        and "5 of 9" in text
        and "Rates and hints: 1 running, 2 done" in text
        and "hint.weight (fine)=1" in text
    )
    assert "★ 0" not in text


def test_the_table_keeps_to_the_last_trials(space):
    made = new_study()
    for number in range(40):
        add(made, RECIPE, 9.0 - number / 10)
    text = shown(space, 50, summary.rows(made, space), terminal=True)
    assert "★ 39" in text and " 25 " in text and " 24 " not in text


def row(state: str, epoch: int = 9, number: int = 0) -> TrialRow:
    return TrialRow(number, state, epoch, 9, None, "", None, None, "", {})


def test_time_left_follows_the_pace_since_the_watch_began():
    old, new = [row("done")] * 4, [row("pruned")] * 2
    assert time_left(old, 10, 4, 60.0) is None, "nothing ended yet"
    assert time_left([*old, *new], 10, 4, 60.0) == pytest.approx(4 * 30)
    half = [*old, *new, row("running", 4), row("running", 5), row("refused"), row("retried"), row("waiting", 0)]
    assert time_left(half, 10, 4, 60.0) == pytest.approx((4 - 1) * 60 / 3)
    assert time_left([*old, *new], 6, 4, 60.0) == 0.0


# ---------------------------------------------------------------------------------------------------- what it leaves


def test_a_study_leaves_its_best_configuration_its_trials_and_its_pictures(study, space, tmp_path):
    files = outputs.finish(space, study, TrackingConfig(store=str(tmp_path)), "", tmp_path / "out")
    assert {file.name for file in files} == {
        "best.yaml", "trials.csv", "history.png", "importance.png", "slices.png", "parallel.png", "curves.png",
    }  # fmt: skip
    assert all(file.parent == tmp_path / "out" / "rates" and file.stat().st_size > 100 for file in files)
    config = configs.load(tmp_path / "out" / "rates" / "best.yaml")
    wanted = space.config(study.trials[5].params, full=True)
    assert configs.digest(config) == configs.digest(wanted)
    assert (config.train.epochs, config.train.lr, config.distill.terms["hint"].student) == (30, 3e-3, "level:1")
    comment = (tmp_path / "out" / "rates" / "best.yaml").read_text()
    assert "trial 5 of study 'rates'" in comment and "val/nme 5 as a trial ({train.epochs: 9})" in comment
    assert "The hand-written recipe, trial 0, came to val/nme 6." in comment and "somewhere" not in comment


def test_a_trial_that_stored_its_configuration_is_taken_at_its_word(study, space, tmp_path):
    stored = space.config({**RECIPE, RATE: 5e-3}, full=True)
    add(study, RECIPE, 1.0, config=configs.to_dict(stored))
    outputs.finish(space, study, TrackingConfig(store=str(tmp_path)), "", tmp_path)
    assert configs.load(tmp_path / "rates" / "best.yaml").train.lr == 5e-3


def test_a_study_in_which_all_failed_says_so_and_has_no_best(space, tmp_path):
    made = new_study()
    for _ in range(2):
        add(made, RECIPE, None, (), TrialState.FAIL, error="the loss is nan")
    files = outputs.finish(space, made, TrackingConfig(store=str(tmp_path)), "", tmp_path)
    assert [file.name for file in files] == ["trials.csv"]
    assert outputs.to_text(space, made) == (
        "Study 'rates': 2 trials: 2 failed. No trial came to its end, so there is no best.yaml; trial 0: the loss is nan"
    )


def test_with_one_completed_trial_importance_is_left_out_and_that_is_said(space, tmp_path):
    made = new_study()
    add(made, RECIPE, 6.0, [9.0, 6.0])
    files = outputs.finish(space, made, TrackingConfig(store=str(tmp_path)), "", tmp_path)
    assert "importance.png" not in {file.name for file in files} and "history.png" in {file.name for file in files}
    assert "importance: not told" in outputs.to_text(space, made)
    assert "the hand-written recipe itself" in (tmp_path / "rates" / "best.yaml").read_text()


def test_of_two_objectives_the_whole_front_is_left(tmp_path):
    space = read_space(tmp_path, "[val/nme, model/latency_ms]")
    made = new_study(2)
    for width, values in ((16, [5.0, 10.0]), (8, [6.0, 8.0]), (32, [7.0, 12.0])):
        add(made, {**RECIPE, WIDTH: width}, values)
    files = outputs.finish(space, made, TrackingConfig(store=str(tmp_path)), "", tmp_path)
    names = {str(file.relative_to(tmp_path / "rates")) for file in files}
    assert {"front.png", "best.yaml", "front/trial-000.yaml", "front/trial-001.yaml"} <= names
    assert not {"history.png", "front/trial-002.yaml"} & names
    assert yaml.safe_load((tmp_path / "rates" / "front" / "trial-001.yaml").read_text())["model"]["head"]["width"] == 8
    assert outputs.to_text(space, made).count("on the front") == 2


# ---------------------------------------------------------------------------------------------------- pictures


def dots(axes, colour: str) -> list[tuple[float, float]]:
    """Places of the markers of one colour."""
    found = [line for line in axes.get_lines() if line.get_marker() not in ("None", "", None)]
    return [
        tuple(map(float, point)) for line in found if to_hex(line.get_color()) == colour for point in line.get_xydata()
    ]


def test_pictures_leave_out_whoever_failed_or_was_refused(study, space):
    trials = summary.trials(summary.rows(study, space))
    assert [(trial.number, trial.pruned) for trial in trials] == [(0, False), (1, True), (5, False)]


def test_history_steps_down_along_the_best(study, space):
    trials = summary.trials(summary.rows(study, space))
    axes = drawn.history(trials, "val/nme", "t", failed=[3, 7], recipe=0).axes[0]
    step = next(line for line in axes.get_lines() if line.get_drawstyle() == "steps-post")
    assert step.get_xydata().tolist() == [[0, 6], [5, 5], [7, 5]]
    assert dots(axes, drawn.PRUNED) == [(1, 15)] and dots(axes, drawn.DONE) == [(0, 6), (5, 5)]
    assert [x for x, _ in dots(axes, drawn.FAILED)] == [3, 7]


def test_curves_end_where_trials_were_cut_and_count_what_was_spared(study, space):
    trials = summary.trials(summary.rows(study, space))
    figure = drawn.curves(trials, "val/nme", 3, "t")
    assert "1 of 3 trials pruned; 8 of 9 epochs trained, 11% spared" in [text.get_text() for text in figure.texts]
    ends = sorted(line.get_xydata()[-1].tolist() for line in figure.axes[0].get_lines() if len(line.get_xydata()) > 1)
    assert ends == [[2, 15], [3, 5], [3, 6]]
    heights = [patch.get_height() for patch in figure.axes[1].patches]
    assert heights == [0, 0, 1, 3, 3, 2]


def test_slices_are_on_the_scale_of_their_parameter(study, space):
    axes = summary.axes(study)
    figure = varied.slices(summary.trials(summary.rows(study, space)), axes, "val/nme", "t")
    panels = {panel.get_title(loc="left"): panel for panel in figure.axes}
    assert set(panels) == {"lr", "head.width", "hints", "hint.weight (coarse)", "hint.weight (fine)"}
    assert panels["lr"].get_xscale() == "log" and panels["head.width"].get_xscale() == "linear"
    assert [mark.get_text() for mark in panels["hints"].get_xticklabels()] == ["none", "coarse", "fine"]
    assert [mark.get_text() for mark in panels["head.width"].get_xticklabels()] == ["8", "16", "24", "32"]
    at = {round(float(line.get_xdata()[0])) for line in panels["hints"].get_lines()}
    assert at == {0, 1, 2}, "jitter never takes a trial to another choice"
    assert len(panels["hint.weight (fine)"].get_lines()) == 1


def test_in_parallel_a_pruned_trial_ends_before_the_objective(study, space):
    axes = summary.axes(study)
    figure = varied.parallel(summary.trials(summary.rows(study, space)), axes, "val/nme", "t")
    lines = [patch for patch in figure.axes[0].patches if patch.get_path().codes is not None]
    ends = [patch.get_path().vertices[-1] for patch in lines]
    assert [end[0] for end in ends] == [len(axes) - 1, len(axes), len(axes)]
    assert ends[0][1] < 0 and ends[1][1] == 1 and ends[2][1] == 0, "off the axis, worst, best"
    assert to_hex(lines[2].get_edgecolor()) == varied.RAMP[0] and to_hex(lines[0].get_edgecolor()) == drawn.PRUNED


def test_the_front_is_drawn_through_whoever_nobody_beats():
    trials = [drawn.Trial(number, values, {}) for number, values in enumerate([(5.0, 10.0), (6.0, 8.0), (7.0, 12.0)])]
    axes = drawn.front(trials, ["val/nme", "model/latency_ms"], "t", recipe=2).axes[0]
    step = next(line for line in axes.get_lines() if line.get_drawstyle() == "steps-post")
    assert step.get_xydata().tolist() == [[8, 6], [10, 5]]
    assert {text.get_text() for text in axes.texts} == {"0", "1", "the recipe"}


def test_importance_bars_are_ordered_and_named():
    axes = varied.importance({"a": 0.2, "b": 0.7, "c": 0.1}, "t", "PED-ANOVA").axes[0]
    assert [mark.get_text() for mark in axes.get_yticklabels()] == ["b", "a", "c"]
    assert [patch.get_width() for patch in axes.patches] == [0.7, 0.2, 0.1]


def test_a_lone_trial_and_one_value_for_all_can_be_drawn(space):
    made = new_study()
    for count in (1, 2):
        add(made, {RATE: 1e-3, WIDTH: 8, HINTS: "none"}, 5.0, [5.0])
        rows = summary.rows(made, space)
        assert len(outputs.pictures(space, made, rows)) == 4, f"{count} trials"
    pruned = new_study()
    add(pruned, RECIPE, 9.0, [9.0], TrialState.PRUNED)
    assert "parallel" in outputs.pictures(space, pruned, summary.rows(pruned, space))
