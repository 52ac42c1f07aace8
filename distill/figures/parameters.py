"""The parameters of a search as pictures: which mattered, and where the good values lie."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from distill.figures.search import BEST, DONE, PRUNED, Trial, plain_log, spread, words_of
from distill.figures.style import INK, MUTED, heading, new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RAMP = ("#0f6b5c", "#2a9d8f", "#a9cdb4", "#ecd9b4", "#eab08a")  # from the best value to the worst


@dataclass(frozen=True)
class Axis:
    """A parameter: its range, or its choices."""

    name: str
    label: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choices: tuple[Any, ...] = ()
    marks: tuple[float, ...] = ()  # its values, where they are but a few numbers

    def place(self, value: Any) -> float:
        """0 at the low end, 1 at the high end; choices lie evenly, away from the ends."""
        if self.choices:
            return (self.choices.index(value) + 0.5) / len(self.choices)
        low, high, at = (math.log(x) if self.log else x for x in (self.low, self.high, value))
        return (at - low) / (high - low) if high > low else 0.5


def importance(scores: Mapping[str, float], title: str, caption: str = "") -> Figure:
    """A bar for each parameter's share, largest first."""
    ordered = sorted(scores.items(), key=lambda item: -item[1])
    longest = max((len(name) for name, _ in ordered), default=8)
    left, top, bottom = 0.4 + 0.082 * longest, 0.78, 0.5
    width, height = left + 6.2, top + bottom + 0.34 * max(len(ordered), 1)
    figure = new_figure(width, height)
    heading(figure, title, caption)
    axes = figure.add_axes((left / width, bottom / height, 5.5 / width, (height - top - bottom) / height))
    style_axes(axes, "", "share of the importance", grid="x")
    shares = [score for _, score in ordered]
    bars = axes.barh(range(len(ordered)), shares, color=[BEST] + [DONE] * (len(ordered) - 1), height=0.62)
    axes.bar_label(
        bars, [f"{share:.0%}" if share >= 0.005 else "< 1%" for share in shares], padding=4, fontsize=8.5, color=INK
    )
    axes.set_yticks(range(len(ordered)), [name for name, _ in ordered])
    axes.tick_params(axis="y", labelsize=9.3, colors=INK)
    axes.set_xlim(0, 1.12 * max([*shares, 1e-9]))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_ylim(len(ordered) - 0.45, -0.55)
    return figure


def slices(trials: Sequence[Trial], axes: Sequence[Axis], objective: str, title: str, caption: str = "") -> Figure:
    """A panel a parameter: its values against the objective; later trials are darker, choices are spread to be seen."""
    from matplotlib.colors import LinearSegmentedColormap

    columns = min(4, max(len(axes), 1))
    lines = math.ceil(max(len(axes), 1) / columns)
    width, height = max(2.75 * columns + 0.75, 6.4), 2.45 * lines + 1.0
    figure = new_figure(width, height)
    heading(
        figure,
        title,
        caption or "orange: trained to the end, darker the later; star: the best; grey: pruned, at the value reached",
    )
    grid = figure.add_gridspec(lines, columns, left=0.62 / width, right=1 - 0.16 / width, top=1 - 0.98 / height,
                               bottom=0.4 / height, wspace=0.14, hspace=0.44)  # fmt: skip
    ramp = LinearSegmentedColormap.from_list("age", ["#fbd9b8", BEST, "#8a3d00"])
    last = max((trial.number for trial in trials), default=0) or 1
    best = min((trial for trial in trials if not trial.pruned), key=lambda trial: trial.value, default=None)
    first = None
    for index, axis in enumerate(axes):
        panel = figure.add_subplot(grid[index // columns, index % columns], sharey=first)
        style_axes(panel, axis.label, "", words_of(objective) if index % columns == 0 else "", size=9.5)
        if first is None:
            first = panel
            spread(panel, [trial.value for trial in trials])
        panel.tick_params(labelleft=index % columns == 0, labelsize=8)
        _scale(panel, axis)
        for trial in trials:
            if axis.name not in trial.params:
                continue
            at = _jittered(axis, trial)
            if trial is best:
                panel.plot(
                    at, trial.value, "*", color=BEST, markersize=14, markeredgecolor=INK, markeredgewidth=0.6, zorder=6
                )
            elif trial.pruned:
                panel.plot(at, trial.value, "o", color="none", markeredgecolor=PRUNED, markersize=4, zorder=2)
            else:
                panel.plot(
                    at,
                    trial.value,
                    "o",
                    color=ramp(trial.number / last),
                    markersize=6,
                    markeredgecolor="white",
                    zorder=4,
                )
    return figure


def parallel(trials: Sequence[Trial], axes: Sequence[Axis], objective: str, title: str, caption: str = "") -> Figure:
    """A line a trial across all parameters to its value, which colours it; pruned ones are thin, grey and end before it.

    A trial on a branch without a parameter passes that axis at the very bottom, on the mark `unused`.
    """
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    done = sorted((trial for trial in trials if not trial.pruned), key=lambda trial: -trial.value)  # the best on top
    values = [trial.value for trial in done] or [0.0, 1.0]
    # one that went astray must not make all others look alike
    top = min(max(values), np.quantile(values, 0.75) + 1.5 * np.subtract(*np.quantile(values, [0.75, 0.25])))
    span = Axis(objective, words_of(objective), min(values), float(top))
    words = max((len(_word(choice)) for choice in axes[0].choices), default=0) if axes else 0
    left = max(0.62, 0.2 + 0.065 * words)  # inches: the first axis has its marks at the left of the panel
    width, height = max(7.0, 1.28 * (len(axes) + 1) + 0.38 + left), 5.2
    figure = new_figure(width, height)
    heading(figure, title, caption or "green: the best values; thin grey: pruned")
    panel = figure.add_axes((left / width, 0.85 / height, 1 - (0.73 + left) / width, 1 - 1.75 / height))
    panel.set(xlim=(-0.12, len(axes) + 0.12), ylim=(-0.17, 1.02), xticks=[], yticks=[])
    for spine in panel.spines.values():
        spine.set_visible(False)
    ramp = LinearSegmentedColormap.from_list("nme", RAMP)
    norm = Normalize(span.low, max(span.high, span.low + 1e-9), clip=True)
    for trial in [*(trial for trial in trials if trial.pruned), *done]:
        heights = [_jittered(axis, trial, True) if axis.name in trial.params else -0.12 for axis in axes]
        if not trial.pruned:
            heights.append(span.place(min(trial.value, span.high)))
        points, codes = [(0.0, heights[0])], [Path.MOVETO]
        for x, (a, b) in enumerate(zip(heights, heights[1:], strict=False)):
            points += [(x + 0.4, a), (x + 0.6, b), (x + 1, b)]
            codes += [Path.CURVE4] * 3
        best = trial is done[-1] if done else False
        colour = PRUNED if trial.pruned else ramp(norm(trial.value))
        width_of_line = 0.7 if trial.pruned else 3.0 if best else 1.5
        panel.add_patch(PathPatch(Path(points, codes), fill=False, edgecolor=colour, linewidth=width_of_line,
                                  alpha=0.75 if trial.pruned else 1 if best else 0.8, capstyle="round",
                                  zorder=2 if trial.pruned else 4 if best else 3))  # fmt: skip
    for x, axis in enumerate([*axes, span]):
        gap = any(axis.name not in trial.params for trial in trials) and axis is not span
        _upright(panel, x, axis, gap, len(done) == 0 and axis is span)
    strip = np.linspace(0, 1, 128)[:, None]
    panel.imshow(ramp(norm(span.low + strip * (span.high - span.low))), extent=(len(axes) + 0.02, len(axes) + 0.06, 0, 1),
                 origin="lower", aspect="auto", zorder=5)  # fmt: skip
    return figure


# ---------------------------------------------------------------------------------------------------- inside


def _jittered(axis: Axis, trial: Trial, as_place: bool = False) -> float:
    """Where a trial lies on an axis; on one of choices a little beside, always the same, so that dots do not cover dots."""
    value = trial.params[axis.name]
    if not axis.choices:
        return axis.place(value) if as_place else value
    aside = ((trial.number * 0.618034) % 1 - 0.5) * 0.5  # the golden ratio spreads successive numbers evenly
    place = axis.choices.index(value) + aside
    return (place + 0.5) / len(axis.choices) if as_place else place


def _scale(panel: Axes, axis: Axis) -> None:
    if axis.choices:
        words = [_word(choice) for choice in axis.choices]
        crowded = sum(map(len, words)) > 24
        panel.set_xticks(range(len(words)), words, rotation=18 if crowded else 0, ha="right" if crowded else "center")
        panel.set_xlim(-0.5, len(words) - 0.5)
        return
    if axis.log:
        panel.set_xscale("log")
        plain_log(panel.xaxis)
    if axis.marks:
        panel.set_xticks(axis.marks, [_word(value) for value in axis.marks])
    if axis.log:
        edge = (axis.high / axis.low) ** 0.05
        panel.set_xlim(axis.low / edge, axis.high * edge)
    elif axis.high > axis.low:
        edge = 0.05 * (axis.high - axis.low)
        panel.set_xlim(axis.low - edge, axis.high + edge)


def _upright(panel: Axes, x: int, axis: Axis, gap: bool, empty: bool) -> None:
    """One of the parallel axes, with its marks at the left and its name below."""
    panel.plot([x, x], [0, 1], color=MUTED, linewidth=1.0, zorder=6)
    if axis.choices:
        marks = [(axis.place(choice), _word(choice)) for choice in axis.choices]
    elif empty:
        marks = []
    else:
        inner = math.sqrt(axis.low * axis.high) if axis.log else (axis.low + axis.high) / 2
        marks = [
            (axis.place(value), f"{value:.3g}") for value in axis.marks or dict.fromkeys((axis.low, inner, axis.high))
        ]
    if gap:
        panel.plot([x, x], [-0.12, 0], color=MUTED, linewidth=1.0, linestyle=":", zorder=6)
        marks.append((-0.12, "unused"))
    box = {"boxstyle": "round,pad=0.12", "facecolor": "white", "alpha": 0.8, "edgecolor": "none"}
    for place, word in marks:
        panel.plot([x - 0.02, x], [place, place], color=MUTED, linewidth=1.0, zorder=6)
        panel.text(x - 0.035, place, word, fontsize=7.8, color=INK, ha="right", va="center", bbox=box, zorder=7)
    first, fork, rest = axis.label.partition(" (")
    first = first if len(first) < 15 else first.replace(".", ".\n", 1)
    name = first + (f"\n({rest}" if fork else "")
    panel.text(x, -0.2, name, fontsize=8.8, color=INK, weight="bold", ha="center", va="top", linespacing=1.1)


def _word(choice: Any) -> str:
    return f"{choice:g}" if isinstance(choice, float) else str(choice)
