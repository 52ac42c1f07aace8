"""What a training step costs by batch and input size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from distill.figures.style import chart, cycle, legend, plain_log, style_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
