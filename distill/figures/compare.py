"""Ablations as pictures: differences with intervals, accuracy against cost, a grid of two keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from distill.figures.style import CYCLE, INK, MUTED, heading, new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BETTER, WORSE, UNSURE = "#2a9d8f", "#d1495b", "#8d96a3"
LINE = 0.34  # inches a row


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


def forest(effects: Sequence[Effect], control: str, title: str, caption: str = "") -> Figure:
    """A line a variant: its difference to the control with the 95 % interval, its seeds as small dots.

    Green: clearly better; red: clearly worse; grey: neither.
    """
    count = max(len(effects), 1)
    longest = max([len(effect.label) for effect in effects] + [len(effect.note) for effect in effects] + [8])
    left, right, top, bottom = 0.35 + 0.082 * longest, 1.25, 0.78, 0.55
    width, height = left + 5.2 + right, top + bottom + LINE * (count + 0.4)
    figure = new_figure(width, height)
    heading(figure, title, caption)
    axes = figure.add_axes((left / width, bottom / height, 5.2 / width, (height - top - bottom) / height))
    axes.axvline(0, color=INK, linewidth=1.1, zorder=1)
    for row, effect in enumerate(effects):
        colour = UNSURE if not effect.clear else BETTER if effect.mean < 0 else WORSE
        axes.plot([effect.low, effect.high], [row, row], color=colour, linewidth=2.4, solid_capstyle="butt", zorder=3)
        axes.plot([effect.mean], [row], "s", color=colour, markersize=7, markeredgecolor="white", zorder=5)
        shift = np.linspace(-0.16, 0.16, len(effect.seeds)) if len(effect.seeds) > 1 else np.zeros(1)
        if len(effect.seeds):
            axes.plot(effect.seeds, row + shift, "o", color=INK, markersize=3.2, alpha=0.55, linestyle="", zorder=4)
        side = axes.get_yaxis_transform()
        words = f"{effect.mean:+.3f}\n[{effect.low:+.3f}, {effect.high:+.3f}]"
        axes.text(1.02, row, words, transform=side, fontsize=7.6, color=colour, va="center", linespacing=1.25)
        axes.text(-0.02, row, f"{effect.label}\n", transform=side, fontsize=9.3, color=INK, va="center", ha="right",
                  linespacing=0.9, weight="bold")  # fmt: skip
        axes.text(-0.02, row, f"\n{effect.note}", transform=side, fontsize=7.6, color=MUTED, va="center", ha="right",
                  linespacing=1.2)  # fmt: skip
    style_axes(axes, "", f"val/nme minus that of '{control}' (percent points; left is better)", grid="x")
    axes.set_yticks([])
    axes.set_ylim(count - 0.35, -0.65)
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


def pareto(candidates: Sequence[Candidate], title: str, limit_mb: float = 15.0, caption: str = "") -> Figure:
    """NME against file size and against CPU latency; the front drawn, its members bold."""
    figure = new_figure(11.4, 5.0)
    heading(figure, title, caption or "towards the lower left is better; the line joins those that none beats in both")
    grid = figure.add_gridspec(1, 2, left=0.06, right=0.975, top=0.8, bottom=0.115, wspace=0.16)
    errors = [candidate.nme for candidate in candidates]
    costs = (
        ("Against size", "MB, float32 file", [candidate.megabytes for candidate in candidates]),
        ("Against latency", "ms an image, one CPU thread", [candidate.latency_ms for candidate in candidates]),
    )
    for place, (name, unit, values) in enumerate(costs):
        axes = figure.add_subplot(grid[place])
        style_axes(axes, name, unit, "val/nme (%)" if place == 0 else "")
        ahead = front(values, errors)
        axes.step([values[i] for i in ahead], [errors[i] for i in ahead], where="post", color=CYCLE[0], linewidth=1.6,
                  alpha=0.7, zorder=2)  # fmt: skip
        axes.margins(0.16, 0.12)
        if place == 0 and max(values) > 0.8 * limit_mb:
            axes.axvline(limit_mb, color=WORSE, linewidth=1, linestyle="--")
        for index in range(len(candidates)):
            strong = index in ahead
            axes.plot(values[index], errors[index], "o", color=CYCLE[0] if strong else UNSURE, markersize=7 if strong else 5.5,
                      markeredgecolor="white", zorder=4)  # fmt: skip
        place_labels(axes, values, errors, [candidate.label for candidate in candidates], ahead)
    return figure


def place_labels(axes, x: Sequence[float], y: Sequence[float], labels: Sequence[str], ahead: list[int]) -> None:
    """Each label beside its dot, where it covers no dot, no other label and not the front (its members are `ahead`)."""
    figure = axes.figure
    figure.canvas.draw()  # places are only known then
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
        for dx, dy, side in ((7, 0, "left"), (-7, 0, "right"), (5, 9, "left"), (5, -9, "left"), (-5, 9, "right"),
                             (-5, -9, "right"), (0, 13, "center"), (0, -13, "center"), (7, 20, "left"), (7, -20, "left"),
                             (-7, 20, "right"), (-7, -20, "right")):  # fmt: skip
            text = axes.annotate(labels[index], (x[index], y[index]), xytext=(dx, dy), textcoords="offset points", ha=side,
                                 va="center", fontsize=8, color=INK, zorder=5,
                                 weight="bold" if index in ahead else "normal")  # fmt: skip
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


def heat(values: Mapping[tuple[float, float], float], x: str, y: str, title: str, caption: str = "") -> Figure:
    """A grid of two keys: (x value, y value) -> NME; dark green is best, the best one framed. Values not there stay white."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    columns, rows = (sorted({key[axis] for key in values}) for axis in (0, 1))
    table = np.array([[values.get((column, row), np.nan) for column in columns] for row in rows])
    width, height = 1.6 + 1.05 * len(columns), 1.45 + 0.62 * len(rows)
    figure = new_figure(max(width, 5.2), height)
    heading(figure, title, caption)
    w, h = figure.get_size_inches()
    axes = figure.add_axes((1.1 / w, 0.6 / h, (w - 1.3) / w, (h - 1.35) / h))
    ramp = LinearSegmentedColormap.from_list("nme", ["#1b7f6b", "#8fd0b5", "#f3f0e6", "#f0b78c"])
    axes.imshow(table, cmap=ramp, aspect="auto", origin="lower")
    low, high = np.nanmin(table), np.nanmax(table)
    for (row, column), value in np.ndenumerate(table):
        if np.isfinite(value):
            dark = high > low and (value - low) / (high - low) < 0.25
            axes.text(column, row, f"{value:.3f}", ha="center", va="center", fontsize=9.5,
                      color="white" if dark else INK)  # fmt: skip
    row, column = np.unravel_index(np.nanargmin(table), table.shape)
    axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=INK, linewidth=1.8, zorder=5))
    style_axes(axes, "", x, y)
    axes.grid(False)
    axes.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
    axes.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
    return figure
