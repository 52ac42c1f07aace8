"""A study in pictures, drawn by optuna.visualization.matplotlib: history, curves, importance, slices, parallel axes, front.

Each trial is one training with one seed. What that cannot show is not drawn (importances of fewer than FEW trials) or is said
in the caption (whether a trial beats the recipe).
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.trial import TrialState

from distill.figures import style
from distill.figures.compare import place_labels
from search import summary
from search.summary import TrialRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from search.space import Space

EVALUATOR = "PED-ANOVA"  # https://arxiv.org/abs/2304.10255
FEW, HINT = 10, 30  # done trials: below, importances are not drawn; below, they are called a hint
BEST, DONE, PRUNED = style.CYCLE[0], style.CYCLE[1], "#b9c0c9"
UNITS = {
    "val/nme": "val/nme (%)",
    "model/latency_ms": "ms an image, one CPU thread",
    "model/file_bytes": "bytes of the float32 file",
}
ONE_SEED = "each trial is one training with one seed: small differences may be chance"


def draw(
    space: Space, study: str, rows: Sequence[TrialRow], curves: Mapping[int, Mapping[int, float]]
) -> dict[str, Figure]:
    """File name without its ending -> figure. curves: trial -> epoch -> val/nme.

    Trials that were refused or failed have no value to draw.
    """
    shown = [row for row in rows if row.state in ("done", "pruned")]
    done = [row for row in shown if row.state == "done"]
    if not shown:
        return {}
    made: dict[str, Figure] = {}
    with style.pyplot_apart(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that these pictures are experimental, and that there are few trials
        drawn = _copy(study, len(space.search.objectives), rows, curves)
        recipe = summary.with_params(rows, space.enqueue[0])
        if done and len(space.search.objectives) > 1:
            made["front"] = _front(space, drawn, rows, recipe)
        elif done:
            made["history"] = _history(space, drawn, rows, recipe)
        if any(curves.get(row.number) for row in shown):
            made["curves"] = _curves(space, drawn, shown)
        scores = importances(drawn, rows)
        if scores:
            made["importance"] = _importance(space, drawn, len(done))
        if len(done) > 1:
            made["slices"] = _slices(space, drawn, summary.best(rows), recipe)
            made["parallel"] = _parallel(space, drawn)
    return made


def importances(study: optuna.Study, rows: Sequence[TrialRow]) -> dict[str, float]:
    """Parameter -> its share in how the first objective varies over the done trials, largest first; they add up to 1.

    PED-ANOVA compares the best tenth with the rest, conditional parameters included. Empty for fewer than FEW done trials, or
    where all have the same value: then nothing can be said.
    """
    done = [row for row in rows if row.state == "done"]
    if len(done) < FEW or len({row.value for row in done}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        found = optuna.importance.get_param_importances(
            study, evaluator=evaluator, target=_first_objective, normalize=True
        )
    return {name: float(value) for name, value in found.items() if math.isfinite(value)}


def trust(done: int) -> str:
    """How far importances of so many trials can be trusted, in a few words."""
    return f"over {done} trials" + (": a hint, not a finding" if done < HINT else "")


# ---------------------------------------------------------------------------------------------------- pictures


def _history(space: Space, study: optuna.Study, rows: Sequence[TrialRow], recipe: TrialRow | None) -> Figure:
    axes = optuna.visualization.matplotlib.plot_optimization_history(study)
    unit, best = _unit(space.search.objectives[0]), summary.best(rows)
    caption = f"study {study.study_name}, {summary.counted(rows)}; {ONE_SEED}"
    figure = _framed(axes, space.search.title, caption, (9.6, 4.6), "trial", unit)
    axes.collections[0].set(color=DONE, label="trained to its end", zorder=3)
    axes.lines[0].set(
        drawstyle="steps-post", color=BEST, linewidth=2.2, alpha=1, label=f"best so far, {best.value:.3f}"
    )
    axes.plot(best.number, best.value, "*", color=BEST, markersize=14, markeredgecolor="white", zorder=6)
    pruned = [row for row in rows if row.state == "pruned" and row.values]
    if pruned:
        at, values = [row.number for row in pruned], [row.value for row in pruned]
        axes.plot(at, values, "o", color=PRUNED, markersize=5, zorder=2, label="pruned: the value that it reached")
    if recipe:
        dashed = {"color": style.INK, "linewidth": 1.1, "linestyle": (0, (4, 3)), "zorder": 1}
        axes.axhline(recipe.value, label=f"the hand-written recipe, {recipe.value:.3f}", **dashed)
    axes.margins(y=0.1)
    _scaled(axes, [row.value for row in rows if row.values])
    _legend(figure, *axes.get_legend_handles_labels())
    return figure


def _curves(space: Space, study: optuna.Study, shown: Sequence[TrialRow]) -> Figure:
    axes = optuna.visualization.matplotlib.plot_intermediate_values(study)
    pruned = sum(row.state == "pruned" for row in shown)
    trained, full = sum(row.epoch for row in shown), space.epochs * len(shown)
    caption = (
        f"{pruned} of {len(shown)} trials pruned; {trained} of {full} epochs trained, {1 - trained / full:.0%} spared"
    )
    figure = _framed(
        axes, f"{space.search.title}: learning curves", caption, (9.6, 4.6), "epoch", _unit(space.search.objectives[0])
    )
    kinds = {f"Trial{row.number}": "best" if row.best else row.state for row in shown}
    looks = {"best": (BEST, 2.6, 4), "done": (DONE, 1.2, 3), "pruned": (PRUNED, 1.0, 2)}  # colour, width, layer
    handles = {}
    for line in list(axes.lines):
        kind = kinds[line.get_label()]
        colour, width, order = looks[kind]
        line.set(color=colour, linewidth=width, zorder=order, marker="", alpha=1 if kind == "best" else 0.6)
        x, y = line.get_data()
        marker = "x" if kind == "pruned" else "o"
        handles[kind] = axes.plot(x[-1], y[-1], marker, color=colour, zorder=order)[0]
    _scaled(axes, [value for line in axes.lines for value in line.get_ydata()])
    _legend(figure, list(handles.values()), list(handles))
    return figure


def _importance(space: Space, study: optuna.Study, done: int) -> Figure:
    axes = optuna.visualization.matplotlib.plot_param_importances(study, target=_first_objective, target_name="share")
    height = 1.3 + 0.34 * len(axes.patches)
    caption = f"{EVALUATOR} for {space.search.objectives[0]}, {trust(done)}; {ONE_SEED}"
    figure = _framed(
        axes, f"{space.search.title}: what mattered", caption, (9.6, height), "share of the importance", ""
    )
    longest = max(len(label.get_text()) for label in axes.get_yticklabels())
    figure.subplots_adjust(left=(0.4 + 0.08 * longest) / 9.6)
    for bar in axes.patches:
        bar.set(color=DONE, height=0.6)
        bar.set_y(round(bar.get_y() + 0.4) - 0.3)
    axes.tick_params(axis="y", labelsize=9.3, colors=style.INK)
    axes.grid(visible=False, axis="y")
    return figure


def _slices(space: Space, study: optuna.Study, best: TrialRow, recipe: TrialRow | None) -> Figure:
    panels = np.atleast_1d(
        optuna.visualization.matplotlib.plot_slice(study, target=_first_objective, target_name="value")
    )
    names = [axes.get_xlabel() for axes in panels]
    size = (max(2.2 * len(panels) + 1.2, 9.6), 3.6)
    caption = f"a dot a trained trial, darker the later; star: the best; dashed: the recipe; {ONE_SEED}"
    figure = _framed(panels[0], f"{space.search.title}: each parameter by itself", caption, size, "", "")
    figure.axes[-1].remove()  # the scale of the colours
    figure.subplots_adjust(wspace=0.12, bottom=0.2, top=0.7)
    labels = summary.labels(best.params)
    at = {labels[name]: value for name, value in best.params.items()}
    for axes, name in zip(panels, names, strict=True):
        unit = _unit(space.search.objectives[0]) if axes is panels[0] else ""
        style.style_axes(axes, "\n(".join(name.split(" (")), "", unit, size=9.5)
        axes.set_facecolor("white")
        axes.tick_params(labelsize=8)
        dots = axes.collections[0]
        dots.set(linewidth=0.4, zorder=3, clim=(-0.4 * len(study.trials), len(study.trials)))  # the palest are not seen
        if recipe:
            axes.axhline(recipe.value, color=style.INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        texts = [text.get_text() for text in axes.get_xticklabels()]
        words = axes.xaxis.have_units()  # of a choice
        if name in at:
            x = next(text for text in texts if text.strip("'") == str(at[name])) if words else at[name]
            edge = {"markeredgecolor": style.INK, "markeredgewidth": 0.6}
            axes.plot(x, best.value, "*", color=BEST, markersize=14, zorder=6, **edge)
        values = np.unique(np.asarray(dots.get_offsets())[:, 0])
        if words:
            axes.set_xticks(axes.get_xticks(), [text.strip("'") for text in texts], rotation=25, ha="right")
            axes.set_xlim(-0.5, len(texts) - 0.5)
        elif axes.get_xscale() == "log":
            marks = np.geomspace(values[0], values[-1], 3) if len(values) > 1 else values
            axes.set_xticks(marks, [f"{mark:.2g}" for mark in marks])
            axes.set_xticks([], minor=True)
        elif len(values) < 6:
            axes.set_xticks(values)
    _scaled(panels[0], [trial.values[0] for trial in study.trials if trial.state == TrialState.COMPLETE])
    return figure


def _parallel(space: Space, study: optuna.Study) -> Figure:
    axes = optuna.visualization.matplotlib.plot_parallel_coordinate(
        study, target=_first_objective, target_name=space.search.objectives[0]
    )
    params = sorted({name for trial in study.trials if trial.state == TrialState.COMPLETE for name in trial.params})
    names = [space.search.objectives[0], *params]  # in Optuna's order, which cuts long ones
    size = (max(1.45 * len(names) + 1.2, 9.6), 4.8)
    caption = "a line a trained trial, dark: the best values; None: the parameter is on another branch"
    figure = _framed(axes, f"{space.search.title}: all parameters together", caption, size, "", "")
    lines, box = (
        axes.collections[0],
        {"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.8, "edgecolor": "none"},
    )
    low, high = min(lines.get_array()), max(lines.get_array())
    lines.set(linewidth=1.6, clim=(low, high + 0.35 * (high - low)))  # the palest colours would not be seen
    names = ["\n(".join(name.split(" (")) for name in names]
    axes.set_xticks(range(len(names)), names, rotation=0, color=style.INK, weight="bold")
    bar, *others = (other for other in figure.axes if other is not axes)
    inches = size[0]
    for other in [axes, *others, bar]:
        place = (1 - 0.95 / inches, 0.12 / inches) if other is bar else (0.75 / inches, 1 - 2.3 / inches)
        other.set_position((place[0], 0.16, place[1], 0.66))
        other.grid(visible=False)
        other.tick_params(labelsize=8, length=2, colors=style.INK)
        if other.get_yscale() == "log":
            style.plain_log(other.yaxis)
        for label in other.get_yticklabels() if other is not bar else ():
            label.set_bbox(box)
        for spine in ("left", "right") if other is not bar else ():
            other.spines[spine].set(visible=True, color=style.MUTED)
    bar.set_ylabel(_unit(space.search.objectives[0]), fontsize=9, color=style.MUTED)
    return figure


def _front(space: Space, study: optuna.Study, rows: Sequence[TrialRow], recipe: TrialRow | None) -> Figure:
    names = [_unit(name) for name in space.search.objectives]
    axes = optuna.visualization.matplotlib.plot_pareto_front(study, target_names=names)
    caption = f"towards the lower left is better; {summary.counted(rows)}; one seed a trial"
    figure = _framed(axes, space.search.title, caption, (8.2, 5.2), *names)
    for dots, colour in zip(axes.collections[::-1], (BEST, PRUNED), strict=False):
        dots.set(color=colour, zorder=3)
    front = summary.front(rows)
    x, y = [row.values[0] for row in front], [row.values[1] for row in front]
    axes.step(x, y, where="post", color=BEST, linewidth=1.8, alpha=0.7)
    named = {row.number: (*row.values, str(row.number)) for row in front}
    if recipe:
        axes.plot(*recipe.values, "o", color="none", markeredgecolor=style.INK, markersize=13, zorder=5)
        named[recipe.number] = (*recipe.values, "the recipe")
    axes.margins(0.09, 0.12)
    place_labels(axes, *(list(column) for column in zip(*named.values(), strict=True)), list(range(len(front))))
    return figure


# ---------------------------------------------------------------------------------------------------- inside


def _copy(
    study: str, objectives: int, rows: Sequence[TrialRow], curves: Mapping[int, Mapping[int, float]]
) -> optuna.Study:
    """The study as it is drawn: short names of parameters; only done and pruned trials have values, numbers are kept."""
    made = optuna.create_study(study_name=study, directions=["minimize"] * objectives)
    labels = summary.labels(dict.fromkeys(name for row in rows for name in row.params))
    for row in rows:
        done = row.state == "done"
        if not done and (row.state != "pruned" or not row.values):
            made.add_trial(optuna.create_trial(state=TrialState.FAIL))
            continue
        trial = copy.copy(row.trial)
        trial.params = {labels[name]: value for name, value in row.params.items()}
        trial.distributions = {labels[name]: found for name, found in row.trial.distributions.items()}
        trial.intermediate_values = dict(curves.get(row.number, {}))
        made.add_trial(trial)
    return made


def _first_objective(trial: optuna.trial.FrozenTrial) -> float:
    return trial.values[0]


def _unit(objective: str) -> str:
    return UNITS.get(objective, objective)


def _framed(axes: Axes, title: str, caption: str, size: tuple[float, float], x: str, y: str) -> Figure:
    """The figure of some axes in this project's style, at this size in inches."""
    figure = axes.figure
    figure.set_layout_engine("none")
    figure.set_size_inches(*size)
    figure.suptitle("")
    figure.subplots_adjust(left=0.75 / size[0], right=0.98, top=1 - 0.85 / size[1], bottom=0.55 / size[1])
    style.heading(figure, title, caption)
    style.style_axes(axes, "", x, y)
    axes.set_title("", loc="center")
    axes.set_facecolor("white")
    if axes.get_legend():
        axes.get_legend().remove()
    return figure


def _legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Below the axes, where it hides no trial."""
    figure.subplots_adjust(bottom=0.85 / figure.get_size_inches()[1])
    style.legend(figure, handles, labels, loc="lower center", ncols=len(labels))


def _scaled(axes: Axes, values: Sequence[float]) -> None:
    """Logarithmic where the largest value is many times the smallest; trials and epochs are whole numbers."""
    if 0 < min(values) < max(values) / 3 < math.inf:
        axes.set_yscale("log")
        style.plain_log(axes.yaxis)
    if axes.get_xlabel() in ("trial", "epoch"):
        axes.xaxis.get_major_locator().set_params(integer=True)
