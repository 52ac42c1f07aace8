"""What the figures share: colours, an empty figure, headings, sheets of pictures, axes, legends, and writing to a file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distill.landmarks import IBUG68, Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
INK, MUTED, GRID = "#22272e", "#6b7480", "#e4e7eb"
TRUTH, PREDICTION = "#2fd07a", "#ff8c1a"
# First the words that name a role, so that a model keeps its colour from picture to picture; then any others in turn.
ROLES = (("teacher", "#3b6fb6"), ("control", "#8d96a3"), ("distil", "#f07f13"), ("student", "#f07f13"))
CYCLE = ("#f07f13", "#3b6fb6", "#2a9d8f", "#b5487e", "#8d96a3", "#c9a227", "#6a4c93", "#5c7f3a", "#d1495b", "#4bb3d1")
REGION_COLOURS = {"jaw": "#4bb3d1", "brows": "#c77dff", "nose": "#ffd23f", "eyes": "#4ade80", "mouth": "#ff5d73"}
# of regions with other names, in turn
OTHER_REGIONS = ("#7aa2ff", "#ffa657", "#9be564", "#ff8fd0", "#56e0c8", "#e6c9ff", "#f2e394", "#b0bec5")
YAW_LABELS = {"below_30": "below 30°", "30_to_60": "30° to 60°", "above_60": "above 60°"}
MARGIN = 0.16  # inches between a figure's contents and its edge


def new_figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def heading(figure: Figure, title: str, caption: str = "") -> None:
    width, height = figure.get_size_inches()
    figure.text(MARGIN / width, 1 - 0.13 / height, title, fontsize=13, weight="bold", color=INK, va="top")
    figure.text(MARGIN / width, 1 - 0.39 / height, caption, fontsize=9.5, color=MUTED, va="top")


def to_png(figure: Figure, path: str | os.PathLike, dpi: int = DPI) -> Path:
    """Write the figure; an interrupted write leaves no half picture. The same figure gives the same bytes."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        figure.savefig(temporary, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def sheet(
    rows: int,
    columns: int,
    title: str,
    caption: str,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    tile: float | None = None,
) -> tuple[Figure, list[list[Axes]]]:
    """A grid of square cells without axes: figure, and cells[row][column]."""
    tile = tile or min(2.6, max(1.55, 8.4 / columns))
    gap, left = 0.05, MARGIN + (0.27 if row_labels is not None else 0.0)
    top = (0.68 if title else 0.42 if caption else MARGIN) + (0.27 if column_labels is not None else 0.0)
    width = max(left + columns * tile + (columns - 1) * gap + MARGIN, 4.4)
    height = top + rows * tile + (rows - 1) * gap + MARGIN
    figure = new_figure(width, height)
    if title:
        heading(figure, title, caption)
    elif caption:
        figure.text(MARGIN / width, 1 - 0.14 / height, caption, fontsize=9.5, color=MUTED, va="top")
    cells: list[list[Axes]] = []
    for row in range(rows):
        y = height - top - (row + 1) * tile - row * gap
        cells.append([])
        for column in range(columns):
            x = left + column * (tile + gap)
            axes = figure.add_axes((x / width, y / height, tile / width, tile / height))
            axes.set(xticks=[], yticks=[], facecolor="#f4f5f7")
            for spine in axes.spines.values():
                spine.set_visible(False)
            cells[-1].append(axes)
            if column_labels is not None and row == 0:
                middle = (x + tile / 2) / width
                figure.text(middle, 1 - (top - 0.08) / height, column_labels[column], fontsize=10.5, weight="bold",
                            color=INK, ha="center", va="bottom")  # fmt: skip
        if row_labels is not None:
            figure.text((MARGIN + 0.06) / width, (y + tile / 2) / height, row_labels[row], fontsize=10.5, weight="bold",
                        color=INK, rotation=90, ha="center", va="center")  # fmt: skip
    return figure, cells


def face(axes: Axes, image: np.ndarray, pred: np.ndarray, target: np.ndarray | None, markup: Markup = IBUG68) -> None:
    height, width = image.shape[:2]
    # The extent puts (0, 0) at the outer corner of the first pixel, as the landmarks have it.
    axes.imshow(image, extent=(0, width, height, 0), interpolation="bilinear")
    if target is not None:
        outlines(axes, target, TRUTH, 0.9, markup)
    outlines(axes, pred, PREDICTION, 1.0, markup)
    axes.plot(*np.asarray(pred).T, linestyle="", marker="o", markersize=1.7, color=PREDICTION, markeredgewidth=0)
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)


def outlines(
    axes: Axes, points: np.ndarray, colour: str, width: float, markup: Markup = IBUG68, zorder: float = 2
) -> None:
    """The lines of a face (P, 2), P the points of `markup`."""
    points = np.asarray(points)
    for members, closed in markup.outlines:
        line = points[list(members) + list(members[:1] if closed else ())]
        axes.plot(*line.T, color=colour, linewidth=width, solid_joinstyle="round", antialiased=True, zorder=zorder)


def region_colours(markup: Markup) -> dict[str, str]:
    """A colour a region: its own where its name is known, else the next of a few."""
    unknown = [name for name in markup.regions if name not in REGION_COLOURS]
    others = {name: OTHER_REGIONS[i % len(OTHER_REGIONS)] for i, name in enumerate(unknown)}
    return {name: (REGION_COLOURS | others)[name] for name in markup.regions}


def tag(axes: Axes, text: str, small: str = "") -> None:
    """Words in a corner of a picture, readable on light and dark ground."""
    box = {"boxstyle": "round,pad=0.28", "facecolor": "#10141a", "alpha": 0.72, "edgecolor": "none"}
    common: dict[str, Any] = {"transform": axes.transAxes, "va": "top", "color": "white", "bbox": box}
    axes.text(0.03, 0.97, text, fontsize=8.5, weight="bold", **common)
    if small:
        common.update(va="bottom")
        axes.text(0.03, 0.03, small, fontsize=7, **common)


def key(with_target: bool) -> str:
    return "orange: prediction   ·   green: label" if with_target else "orange: prediction"


def short(name: str, length: int = 22) -> str:
    return name if len(name) <= length else "…" + name[1 - length :]


def style_axes(axes: Axes, title: str, x: str = "", y: str = "", size: float = 10.5, grid: str = "both") -> None:
    axes.set_title(title, fontsize=size, color=INK, loc="left", weight="bold", pad=6)
    axes.set_xlabel(x, fontsize=9.5, color=MUTED)
    axes.set_ylabel(y, fontsize=9.5, color=MUTED)
    axes.grid(True, axis=grid, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, colors=MUTED, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color("#c9ced6")


def legend(where: Figure | Axes, handles: Sequence[Any], labels: Sequence[str], loc: str, ncols: int) -> None:
    where.legend(
        handles, labels, loc=loc, ncols=ncols, frameon=True, facecolor="white", edgecolor="none", framealpha=0.85,
        fontsize=8.5, handlelength=1.2, borderpad=0.5, labelspacing=0.35, columnspacing=1.3, labelcolor=INK,
    )  # fmt: skip


def cycle(count: int) -> list[str]:
    return [CYCLE[index % len(CYCLE)] for index in range(count)]


def colours(labels: Mapping[str, Any]) -> dict[str, str]:
    """A colour a label: a role's own where no other label has it, else the next unused one."""
    chosen: dict[str, str] = {}
    for label in labels:
        role = next((colour for word, colour in ROLES if word in label.lower()), None)
        if role and role not in chosen.values():
            chosen[label] = role
    for label in labels:
        if label not in chosen:
            free = [colour for colour in CYCLE if colour not in chosen.values()]
            chosen[label] = free[0] if free else CYCLE[len(chosen) % len(CYCLE)]
    return {label: chosen[label] for label in labels}


def rgb_of(colour: str) -> tuple[float, float, float]:
    red, green, blue = rgb255_of(colour)
    return red / 255, green / 255, blue / 255


def rgb255_of(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
