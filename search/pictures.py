"""A study in pictures: history, learning curves, importance, and the front of two objectives.

Each trial is one training with one seed. What that cannot show is not drawn (importances of fewer than FEW trials) or
is noted in the caption (whether a trial beats the recipe). `optuna-dashboard` draws the rest.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import optuna

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
LOOKS = {"best": (style.CYCLE[0], 2.4), "done": (style.CYCLE[1], 1.2), "pruned": ("#b9c0c9", 1.0)}  # colour, line width
UNITS = {
    "val/nme": "val/nme (%)",
    "model/latency_ms": "ms an image, one CPU thread",
    "model/file_bytes": "bytes of the float32 file",
}
ONE_SEED = "each trial is one training with one seed: small differences may be chance"
DASHED: dict[str, Any] = {"color": style.INK, "linewidth": 1.1, "linestyle": (0, (4, 3)), "zorder": 1}


def draw(
    space: Space, study: optuna.Study, rows: Sequence[TrialRow], curves: Mapping[int, Mapping[int, float]]
) -> dict[str, Figure]:
    """File name without its ending -> figure. curves: trial -> epoch -> val/nme.

    Trials that were refused or failed have no value to draw.
    """
    shown = [row for row in rows if row.state in ("done", "pruned")]
    done = [row for row in shown if row.state == "done"]
    recipe = summary.with_params(rows, space.enqueue[0])
    made: dict[str, Figure] = {}
    if done and len(space.search.objectives) > 1:
        made["front"] = _front(space, rows, recipe)
    elif done:
        made["history"] = _history(space, study.study_name, rows, recipe)
    if any(curves.get(row.number) for row in shown):
        made["curves"] = _curves(space, shown, curves)
    if scores := importances(study, rows):
        made["importance"] = _importance(space, scores, len(done))
    return made


def importances(study: optuna.Study, rows: Sequence[TrialRow]) -> dict[str, float]:
    """Parameter -> its share in how the first objective varies over the done trials, largest first, 1 in all
    (PED-ANOVA: the best tenth against the rest). Empty for fewer than FEW done trials, or where all have the same
    value."""
    done = [row for row in rows if row.state == "done"]
    if len(done) < FEW or len({row.value for row in done}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental, and few trials
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        found = optuna.importance.get_param_importances(
            study, evaluator=evaluator, target=lambda trial: trial.values[0], normalize=True
        )
    return {name: float(value) for name, value in found.items() if math.isfinite(value)}


def trust(done: int) -> str:
    """How far importances of so many trials can be trusted, in a few words."""
    return f"over {done} trials" + (": a hint, not a finding" if done < HINT else "")


# ---------------------------------------------------------------------------------------------------- pictures


def _history(space: Space, study: str, rows: Sequence[TrialRow], recipe: TrialRow | None) -> Figure:
    axes = _axes(space.search.title, f"study {study}, {summary.counted(rows)}; {ONE_SEED}", "trial", _unit(space))
    words = {"done": "trained to its end", "pruned": "pruned: the value that it reached"}
    for state, label in words.items():
        own = [row for row in rows if row.state == state and row.values]
        if own:
            at, values = [row.number for row in own], [row.value for row in own]
            axes.plot(at, values, "o", color=LOOKS[state][0], markersize=6, zorder=3, label=label)
    done = [row for row in rows if row.state == "done"]
    numbers, best = [row.number for row in done], list(itertools.accumulate((row.value for row in done), min))
    colour, width = LOOKS["best"]
    axes.step(numbers, best, where="post", color=colour, linewidth=width, label=f"best so far, {best[-1]:.3f}")
    axes.plot(numbers[best.index(best[-1])], best[-1], "*", color=colour, markersize=14, zorder=6)
    if recipe:
        axes.axhline(recipe.value, label=f"the hand-written recipe, {recipe.value:.3f}", **DASHED)
    return _finished(axes, [row.value for row in rows if row.values])


def _curves(space: Space, shown: Sequence[TrialRow], curves: Mapping[int, Mapping[int, float]]) -> Figure:
    pruned = sum(row.state == "pruned" for row in shown)
    trained, full = sum(row.epoch for row in shown), space.epochs * len(shown)
    spared = f"{trained} of {full} epochs trained, {1 - trained / full:.0%} spared"
    caption = f"{pruned} of {len(shown)} trials pruned; {spared}"
    axes = _axes(f"{space.search.title}: learning curves", caption, "epoch", _unit(space))
    drawn: list[float] = []
    for row in sorted(shown, key=lambda row: (row.best, row.state == "done")):
        points = sorted(curves.get(row.number, {}).items())
        if not points:
            continue
        kind = "best" if row.best else row.state
        (colour, width), (x, y) = LOOKS[kind], zip(*points, strict=True)
        axes.plot(x, y, color=colour, linewidth=width, alpha=1 if row.best else 0.6)
        axes.plot(x[-1], y[-1], "x" if kind == "pruned" else "o", color=colour, label=kind)
        drawn += y
    return _finished(axes, drawn)


def _importance(space: Space, scores: Mapping[str, float], done: int) -> Figure:
    caption = f"{EVALUATOR} for {space.search.objectives[0]}, {trust(done)}; {ONE_SEED}"
    title, names = f"{space.search.title}: what mattered", summary.labels(scores)
    axes = _axes(title, caption, "share of the importance", "", (9.6, 1.3 + 0.34 * len(scores)))
    bars = axes.barh([names[name] for name in scores], list(scores.values()), height=0.6, color=LOOKS["done"][0])
    axes.bar_label(bars, fmt="{:.0%}", padding=3, fontsize=8.5, color=style.INK)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    return axes.figure


def _front(space: Space, rows: Sequence[TrialRow], recipe: TrialRow | None) -> Figure:
    caption = f"towards the lower left is better; {summary.counted(rows)}; one seed a trial"
    axes = _axes(space.search.title, caption, _unit(space), _unit(space, 1), (8.2, 5.2))
    front = summary.front(rows)
    for kind, own in (("pruned", [r for r in rows if r.state == "done" and not r.best]), ("best", front)):
        axes.plot(*zip(*(row.values for row in own), strict=True) if own else ([], []), "o", color=LOOKS[kind][0])
    x, y = zip(*(row.values for row in front), strict=True)
    axes.step(x, y, where="post", color=LOOKS["best"][0], linewidth=1.8, alpha=0.7)
    named = {row.number: (*row.values, str(row.number)) for row in front}
    if recipe:
        axes.plot(*recipe.values, "o", color="none", markeredgecolor=style.INK, markersize=13, zorder=5)
        named[recipe.number] = (*recipe.values, "the recipe")
    axes.margins(0.09, 0.12)
    at_x, at_y, labels = zip(*named.values(), strict=True)
    place_labels(axes, at_x, at_y, labels, list(range(len(front))))
    return axes.figure


# ---------------------------------------------------------------------------------------------------- inside


def _unit(space: Space, objective: int = 0) -> str:
    return UNITS.get(space.search.objectives[objective], space.search.objectives[objective])


def _axes(title: str, caption: str, x: str, y: str, size: tuple[float, float] = (9.6, 4.6)) -> Any:
    axes = style.chart(size, title, caption).add_subplot()
    style.style_axes(axes, "", x, y)
    return axes


def _finished(axes: Any, values: Sequence[float]) -> Figure:
    """With a legend below the axes, where it hides no trial; numbers of trials and epochs are whole."""
    handles = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    entries = list(handles.values()), list(handles)
    style.legend(axes.figure, entries, loc="outside lower center", ncols=len(handles))
    axes.margins(y=0.1)
    axes.xaxis.get_major_locator().set_params(integer=True)
    _scaled(axes, values)
    return axes.figure


def _scaled(axes: Axes, values: Sequence[float]) -> None:
    """Logarithmic where the largest value is many times the smallest."""
    if 0 < min(values) < max(values) / 3 < math.inf:
        axes.set_yscale("log")
        style.plain_log(axes.yaxis)
