"""Comparisons as pictures: differences with intervals, accuracy against cost, cost by batch and input size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from distill.figures.style import BETTER, CYCLE, INK, UNSURE, WORSE, chart, cycle, legend, plain_log, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINE = 0.34  # inches a row
BUDGET = 15.0  # MB, rule 3 of the challenge
# of a label beside its dot, in points, the best first
PLACES = (
    (7, 0),
    (-7, 0),
    (5, 9),
    (5, -9),
    (-5, 9),
    (-5, -9),
    (0, 13),
    (0, -13),
    (7, 20),
    (7, -20),
    (-7, 20),
    (-7, -20),
)


@dataclass(frozen=True)
class Effect:
    """One variant against the control, in percent points of NME: negative is better."""

    label: str
    mean: float
    low: float
    high: float
    clear: bool  # whether it may be coloured as an effect
    seeds: Sequence[float] = field(default=())  # difference of each seed
    note: str = ""  # beside the label, e.g. the NME itself


def forest(effects: Sequence[Effect], control: str, title: str = "", caption: str = "", width: float = 0.0) -> Figure:
    """A line a variant: its difference to the control with the 95 % interval, its seeds as small dots.

    Green: clearly better; red: clearly worse; grey: neither. width: inches; 0: by the length of the labels.
    """
    longest = max([len(words) for effect in effects for words in (effect.label, effect.note)] + [8])
    height = LINE * (len(effects) + 0.4) + 0.6 + (0.66 if caption else 0.42 if title else 0)
    figure = chart((width or 6.9 + 0.082 * longest, height), title, caption)
    axes = figure.add_subplot()
    axes.axvline(0, color=INK, linewidth=1.1, zorder=1)
    for row, effect in enumerate(effects):
        colour = UNSURE if not effect.clear else BETTER if effect.mean < 0 else WORSE
        axes.plot([effect.low, effect.high], [row, row], color=colour, linewidth=2.4, solid_capstyle="butt", zorder=3)
        axes.plot([effect.mean], [row], "s", color=colour, markersize=7, markeredgecolor="white", zorder=5)
        shift = np.linspace(-0.16, 0.16, len(effect.seeds)) if len(effect.seeds) > 1 else np.zeros(1)
        if len(effect.seeds):
            axes.plot(effect.seeds, row + shift, "o", color=INK, markersize=3.2, alpha=0.55, linestyle="", zorder=4)
        words = f"{effect.mean:+.3f}\n[{effect.low:+.3f}, {effect.high:+.3f}]"
        axes.annotate(
            words,
            (1, row),
            xytext=(6, 0),
            xycoords=axes.get_yaxis_transform(),
            textcoords="offset points",
            fontsize=7.6,
            color=colour,
            va="center",
            linespacing=1.25,
        )
    style_axes(axes, "", f"val/nme minus that of '{control}' (percent points; left is better)", grid="x")
    labels = [f"{effect.label}\n{effect.note}" if effect.note else effect.label for effect in effects]
    axes.set_yticks(range(len(effects)), labels, color=INK, fontsize=8.5)
    axes.set_ylim(len(effects) - 0.35, -0.65)
    axes.margins(x=0.08)
    return figure


@dataclass(frozen=True)
class Candidate:
    """One model with what it costs."""

    label: str
    nme: float  # percent
    megabytes: float
    latency_ms: float


def front(cost: Sequence[float], error: Sequence[float]) -> list[int]:
    """Indices of the candidates that no other beats in both, cheapest first."""
    best, chosen = np.inf, []
    for index in sorted(range(len(cost)), key=lambda i: (cost[i], error[i])):
        if error[index] < best:
            best = error[index]
            chosen.append(index)
    return chosen


def pareto(
    candidates: Sequence[Candidate],
    title: str = "",
    limit_mb: float = BUDGET,
    caption: str = "towards the lower left is better; the line joins those that none beats in both",
    size: tuple[float, float] = (11.4, 5.0),
) -> Figure:
    """NME against file size and against CPU latency; the front drawn, its members bold."""
    figure = chart(size, title, caption if title else "")
    errors = [candidate.nme for candidate in candidates]
    costs = (
        ("Against size", "MB, float32 file", [candidate.megabytes for candidate in candidates]),
        ("Against latency", "ms an image, one CPU thread", [candidate.latency_ms for candidate in candidates]),
    )
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (name, unit, values) in zip(panels, costs, strict=True):
        style_axes(axes, name, unit, "val/nme (%)" if axes is panels[0] else "")
        ahead = front(values, errors)
        axes.step(
            [values[i] for i in ahead],
            [errors[i] for i in ahead],
            where="post",
            color=CYCLE[0],
            linewidth=1.6,
            alpha=0.7,
            zorder=2,
        )
        axes.margins(0.16, 0.12)
        if axes is panels[0] and max(values) > 0.8 * limit_mb:
            axes.axvline(limit_mb, color=WORSE, linewidth=1, linestyle="--")
        for index in range(len(candidates)):
            colour, dot = (CYCLE[0], 7.0) if index in ahead else (UNSURE, 5.5)
            axes.plot(
                values[index], errors[index], "o", color=colour, markersize=dot, markeredgecolor="white", zorder=4
            )
    for axes, (_, _, values) in zip(panels, costs, strict=True):
        place_labels(axes, values, errors, [candidate.label for candidate in candidates], front(values, errors))
    return figure


def step_cost(values: Mapping[str, Sequence[tuple[int, float, float]]], name: str) -> Figure:
    """A line an input size. values: label -> (images of a batch, images a second, MB kept for the backward pass)."""
    figure = chart((9.6, 3.9), f"A training step of {name}", "speed and memory by images in a batch and input size")
    panels = figure.subplots(1, 2)
    batches = sorted({point[0] for points in values.values() for point in points})
    for axes, what, column in zip(panels, ("images a second", "MB kept for the backward pass"), (1, 2), strict=True):
        style_axes(axes, what[0].upper() + what[1:], "images in a batch")
        for (label, points), colour in zip(values.items(), cycle(len(values)), strict=True):
            axes.plot([p[0] for p in points], [p[column] for p in points], "o-", color=colour, label=label)
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        plain_log(axes.xaxis)
        axes.set_xticks(batches, [str(count) for count in batches])
    legend(panels[0], panels[0].get_legend_handles_labels(), loc="best", ncols=1)
    return figure


def place_labels(axes: Axes, x: Sequence[float], y: Sequence[float], labels: Sequence[str], ahead: list[int]) -> None:
    """Each label beside its dot, where it covers no dot, no other label and not the front (its members are `ahead`)."""
    figure: Any = axes.figure
    figure.canvas.draw()  # places of dots, and so of labels, are only known then
    figure.set_layout_engine("none")
    to_pixels, renderer = axes.transData.transform, figure.canvas.get_renderer()
    frame = axes.get_window_extent(renderer)
    unit = figure.dpi / 72
    dots = to_pixels(np.column_stack([x, y]))
    taken: list[tuple[float, float, float, float]] = [(u - 4, v - 4, u + 4, v + 4) for u, v in dots]
    line = dots[ahead]
    for (u, v), (next_u, next_v) in zip(line, line[1:], strict=False):  # the front's steps
        taken += [(u, v - 1, next_u, v + 1), (next_u - 1, next_v, next_u + 1, v)]
    for index in sorted(range(len(labels)), key=lambda i: dots[i][1]):
        best = None
        weight = "bold" if index in ahead else "normal"
        for dx, dy in PLACES:
            side = "left" if dx > 0 else "right" if dx < 0 else "center"
            text = axes.annotate(
                labels[index],
                (x[index], y[index]),
                xytext=(dx, dy),
                textcoords="offset points",
                ha=side,
                va="center",
                fontsize=8,
                color=INK,
                zorder=5,
                weight=weight,
            )
            box = text.get_window_extent(renderer)
            corners = (box.x0, box.y0, box.x1, box.y1)
            cost = sum(_overlap(corners, other) for other in taken) + 50 * unit * _outside(corners, frame)
            if best is None or cost < best[0] - 1e-6:
                if best:
                    best[1].remove()
                best = (cost, text, corners)
            else:
                text.remove()
            if best[0] == 0:
                break
        taken.append(best[2])


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _outside(a: tuple[float, ...], frame) -> float:
    return max(0.0, frame.x0 - a[0]) + max(0.0, a[2] - frame.x1) + max(0.0, frame.y0 - a[1]) + max(0.0, a[3] - frame.y1)
