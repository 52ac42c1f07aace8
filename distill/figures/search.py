"""The course of a search as pictures: values by trial, learning curves and what pruning spared, the front of two objectives.

Objectives are minimised. Trials that were refused or failed have no value and are left out by the caller.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from distill.figures.compare import place_labels
from distill.figures.style import CYCLE, INK, MUTED, heading, legend, new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEST, DONE, PRUNED, FAILED = CYCLE[0], CYCLE[1], "#c3c9d1", "#d1495b"
UNITS = {
    "val/nme": "val/nme (%)",
    "model/latency_ms": "ms an image, one CPU thread",
    "model/file_bytes": "bytes of the float32 file",
}


@dataclass(frozen=True)
class Trial:
    number: int
    values: tuple[float, ...]  # the objectives; of a pruned trial its last value
    params: Mapping[str, Any]  # by Axis.name; on a branch without a parameter it is not there
    pruned: bool = False
    curve: Sequence[tuple[int, float]] = ()  # (epoch from 1, first objective)

    @property
    def value(self) -> float:
        return self.values[0]


def words_of(objective: str) -> str:
    return UNITS.get(objective, objective)


# ---------------------------------------------------------------------------------------------------- the course


def history(
    trials: Sequence[Trial],
    objective: str,
    title: str,
    caption: str = "",
    failed: Sequence[int] = (),
    recipe: int | None = None,
) -> Figure:
    """Value by trial number, and the running best as a step line. `recipe`: number of the trial whose value is the one to beat."""
    figure = new_figure(9.6, 4.6)
    heading(figure, title, caption)
    axes = figure.add_axes((0.075, 0.125, 0.905, 0.69))
    done = [trial for trial in trials if not trial.pruned]
    style_axes(axes, "", "trial", words_of(objective))
    spread(axes, [trial.value for trial in trials])
    shown = _dots(axes, [trial for trial in trials if trial.pruned], PRUNED, 5.0, "pruned: the value that it reached")
    shown += _dots(axes, done, DONE, 6.0, "trained to its end")
    last = max([trial.number for trial in trials] + [*failed, 0])
    if done:
        numbers = [trial.number for trial in done]
        lowest = np.minimum.accumulate([trial.value for trial in done])
        shown += axes.step(
            [*numbers, last], [*lowest, lowest[-1]], where="post", color=BEST, linewidth=2.2, label="best so far"
        )
        winner = min(done, key=lambda trial: trial.value)
        axes.plot(winner.number, winner.value, "*", color=BEST, markersize=15, markeredgecolor="white", zorder=6)
        axes.annotate(f"{winner.value:.3f}", (winner.number, winner.value), xytext=(0, -15), textcoords="offset points",
                      fontsize=9, weight="bold", color=BEST, ha="center", va="center", zorder=6)  # fmt: skip
    reference = next((trial for trial in done if trial.number == recipe), None)
    if reference:
        shown.append(axes.axhline(reference.value, color=INK, linewidth=1.1, linestyle=(0, (4, 3)), zorder=1,
                                  label=f"the hand-written recipe: {reference.value:.3f}"))  # fmt: skip
    if failed:
        ground = axes.get_xaxis_transform()
        shown += axes.plot(
            failed, [0.02] * len(failed), "x", color=FAILED, transform=ground, markersize=6, label="failed"
        )
    axes.set_xlim(-0.03 * (last + 1) - 0.2, 1.03 * (last + 1) - 0.8)
    low, high = axes.get_ylim()
    axes.set_ylim(low * (low / high) ** 0.12 if axes.get_yscale() == "log" else low - 0.12 * (high - low), high)
    _whole_numbers(axes)
    legend(figure, shown, [line.get_label() for line in shown], loc="upper right", ncols=3)
    return figure


def curves(trials: Sequence[Trial], objective: str, epochs: int, title: str) -> Figure:
    """Learning curves of all trials, pruned ones to where they were cut; below, the epochs that were trained and those spared."""
    figure = new_figure(9.6, 6.2)
    full = epochs * len(trials)
    trained = sum(trial.curve[-1][0] for trial in trials if trial.curve)
    cut = sum(trial.pruned for trial in trials)
    heading(figure, title, f"{cut} of {len(trials)} trials pruned; {trained} of {full} epochs trained"
            + (f", {1 - trained / full:.0%} spared" if full else ""))  # fmt: skip
    grid = figure.add_gridspec(2, 1, height_ratios=[3, 1], left=0.075, right=0.98, top=0.86, bottom=0.085, hspace=0.3)
    axes = figure.add_subplot(grid[0])
    style_axes(axes, "Learning curves", "", words_of(objective))
    drawn = [trial for trial in trials if trial.curve]
    spread(axes, [value for trial in drawn for _, value in trial.curve])
    best = min((trial for trial in drawn if not trial.pruned), key=lambda trial: trial.value, default=None)
    shown = {}
    for trial in sorted(drawn, key=lambda trial: (trial is best, not trial.pruned)):
        x, y = zip(*trial.curve, strict=True)
        kind = "best" if trial is best else "pruned" if trial.pruned else "trained to its end"
        colour, width = {"best": (BEST, 2.6), "pruned": (MUTED, 0.9)}.get(kind, (DONE, 1.2))
        axes.plot(
            x, y, color=colour, linewidth=width, alpha=1 if trial is best else 0.55, zorder=4 if trial is best else 2
        )
        marker = "x" if trial.pruned else "o"
        shown[kind] = axes.plot(x[-1], y[-1], marker, color=colour, markersize=6 if trial is best else 4.5, linestyle="",
                                zorder=5)[0]  # fmt: skip
    order = [kind for kind in ("best", "trained to its end", "pruned") if kind in shown]
    legend(figure, [shown[kind] for kind in order], order, loc="upper right", ncols=3)
    below = figure.add_subplot(grid[1], sharex=axes)
    style_axes(below, "Trials that trained this epoch; hatched: those that pruning spared it", "epoch", "", grid="y")
    at = np.arange(1, max(epochs, 1) + 1)
    alive = np.array([sum(bool(trial.curve) and trial.curve[-1][0] >= epoch for trial in trials) for epoch in at])
    below.bar(
        at,
        len(trials) - alive,
        bottom=alive,
        color="#f2f4f6",
        edgecolor="#dde1e6",
        hatch="////",
        width=0.86,
    )
    below.bar(at, alive, color=DONE, width=0.86)
    axes.set_xlim(0.4, len(at) + 0.6)
    axes.tick_params(labelbottom=False)
    _whole_numbers(below)
    return figure


def front(
    trials: Sequence[Trial], objectives: Sequence[str], title: str, caption: str = "", recipe: int | None = None
) -> Figure:
    """First objective against the second: the trials that none beats in both are joined and bear their numbers."""
    done = [trial for trial in trials if not trial.pruned]
    figure = new_figure(8.2, 5.2)
    heading(
        figure, title, caption or "towards the lower left is better; the line joins the trials that none beats in both"
    )
    axes = figure.add_axes((0.09, 0.11, 0.885, 0.74))
    style_axes(axes, "", words_of(objectives[1]), words_of(objectives[0]))
    spread(axes, [trial.value for trial in done])
    spread(axes, [trial.values[1] for trial in done], which="x")
    axes.margins(0.09, 0.12)
    ahead = [trial for trial in done if not any(_beats(other, trial) for other in done)]
    ahead.sort(key=lambda trial: (trial.values[1], trial.value))
    axes.plot([trial.values[1] for trial in done], [trial.value for trial in done], "o", color=PRUNED, markersize=6,
              markeredgecolor="white", zorder=2)  # fmt: skip
    x, y = [trial.values[1] for trial in ahead], [trial.value for trial in ahead]
    axes.step(x, y, where="post", color=BEST, linewidth=1.8, alpha=0.7, zorder=3)
    axes.plot(x, y, "o", color=BEST, markersize=9, markeredgecolor="white", linestyle="", zorder=4)
    named = list(ahead)
    for trial in done:
        if trial.number == recipe:
            axes.plot(trial.values[1], trial.value, "o", color="none", markeredgecolor=INK, markersize=13, zorder=5)
            named += [] if trial in ahead else [trial]
    words = ["the recipe" if trial.number == recipe else f"{trial.number}" for trial in named]
    place_labels(
        axes, [trial.values[1] for trial in named], [trial.value for trial in named], words, list(range(len(ahead)))
    )
    return figure


# ---------------------------------------------------------------------------------------------------- inside


def _beats(one: Trial, other: Trial) -> bool:
    return one.values != other.values and all(a <= b for a, b in zip(one.values, other.values, strict=True))


def _dots(axes: Axes, trials: Sequence[Trial], colour: str, size: float, label: str) -> list[Any]:
    if not trials:
        return []
    at, values = [trial.number for trial in trials], [trial.value for trial in trials]
    return axes.plot(at, values, "o", color=colour, markersize=size, markeredgecolor="white", label=label, zorder=3)


def spread(axes: Axes, values: Sequence[float], which: str = "y") -> None:
    """A logarithmic axis where the largest value is many times the smallest; its numbers written out."""
    found = [value for value in values if math.isfinite(value)]
    if found and min(found) > 0 and max(found) > 3 * min(found):
        (axes.set_yscale if which == "y" else axes.set_xscale)("log")
        plain_log(axes.yaxis if which == "y" else axes.xaxis)


def plain_log(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    upright = axis.axis_name == "y"  # numbers above each other need less room
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0, 7.0) if upright else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _whole_numbers(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
