"""Landmarks, heatmaps and errors drawn on faces: sheets of images, pixels of one picture, values on the mean face."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from distill import headpose
from distill.figures.style import (
    DIFFERENCE_RAMP,
    ERROR_RAMP,
    HEAT_RAMP,
    INK,
    MARGIN,
    MUTED,
    PREDICTION,
    RULE,
    TRUTH,
    chart,
    heading,
    new_figure,
    ramp,
    rgb255_of,
)
from distill.landmarks import IBUG68, Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# ---------------------------------------------------------------------------------------------------- sheets


@dataclass(frozen=True, eq=False)
class Cell:
    """One image of a sheet, and what is drawn on it."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    points: np.ndarray | None = None  # (P, 2) prediction, orange
    truth: np.ndarray | None = None  # (P, 2) label, green, below the prediction
    tag: str = ""  # in the upper left corner
    small: str = ""  # in the lower left corner


def sheet(
    rows: Sequence[Sequence[Cell]],
    title: str = "",
    caption: str = "",
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    width: float = 0.0,
    markup: Markup = IBUG68,
) -> Figure:
    """Images in square cells, rows of equal length or shorter. width: inches at most; 0: by the number of columns."""
    columns = max(len(row) for row in rows)
    gap, left = 0.05, MARGIN + (0.27 if row_labels else 0.0)
    tile = min(1.3, (width - left - MARGIN + gap) / columns - gap) if width else min(2.6, max(1.55, 8.4 / columns))
    top = (0.68 if title else 0.42 if caption else MARGIN) + (0.27 if column_labels else 0.0)
    width = max(left + columns * (tile + gap) + MARGIN, 0.0 if width else 4.4)
    height = top + len(rows) * (tile + gap) + MARGIN
    figure = new_figure(width, height)
    heading(figure, title, caption)
    words: dict[str, Any] = {"fontsize": 10.5 if tile > 1.5 else 8.5, "weight": "bold", "color": INK, "ha": "center"}
    for row, cells in enumerate(rows):
        y = height - top - (row + 1) * tile - row * gap
        for column, cell in enumerate(cells):
            x = left + column * (tile + gap)
            _face(figure.add_axes((x / width, y / height, tile / width, tile / height)), cell, markup, tile)
        if row_labels:
            at = ((MARGIN + 0.06) / width, (y + tile / 2) / height)
            figure.text(*at, row_labels[row], rotation=90, va="center", **words)
    for column, label in enumerate(column_labels):
        x = left + column * (tile + gap) + tile / 2
        figure.text(x / width, 1 - (top - 0.08) / height, label, va="bottom", **words)
    return figure


def overlay_sheet(
    images: Sequence[np.ndarray],
    pred: np.ndarray,
    target: np.ndarray | None = None,
    titles: Sequence[str] | None = None,
    columns: int = 4,
    title: str = "",
    markup: Markup = IBUG68,
) -> Figure:
    """A sheet of images with predictions (N, P, 2) in orange over labels (N, P, 2) in thin green; None: no labels."""
    cells = [
        Cell(image, pred[i], None if target is None else target[i], titles[i] if titles else "")
        for i, image in enumerate(images)
    ]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    return sheet(rows, title, key(target is not None), markup=markup)


def choose(errors: np.ndarray, each: int = 4) -> dict[str, np.ndarray]:
    """Indices of the `each` best, median and worst images by their errors (N,), each from better to worse.

    So that a job need only decode the images that it shows.
    """
    order = np.argsort(np.asarray(errors), kind="stable")
    each = min(each, len(order))
    middle = (len(order) - each) // 2
    return {"best": order[:each], "median": order[middle : middle + each], "worst": order[len(order) - each :]}


def best_median_worst(
    images: Sequence[np.ndarray],
    pred: np.ndarray,
    target: np.ndarray,
    errors: np.ndarray,
    names: Sequence[str] | None = None,
    each: int = 4,
    title: str = "Best, median and worst images",
    markup: Markup = IBUG68,
) -> Figure:
    """Three rows of `each` images by their NME in percent (N,), which is printed in each with its name.

    `images` may be any sequence that decodes on access: only the images shown are read.
    """
    chosen = choose(errors, each)
    rows = [
        [Cell(images[i], pred[i], target[i], f"{errors[i]:.2f} %", short(names[i]) if names else "") for i in which]
        for which in chosen.values()
    ]
    caption = f"{key(True)}   ·   NME in %, mean of all {len(errors)} images {np.mean(errors):.2f}"
    return sheet(rows, title, caption, row_labels=list(chosen), markup=markup)


def teacher_against_student(
    images: Sequence[np.ndarray],
    target: np.ndarray | None,
    predictions: Mapping[str, np.ndarray],
    errors: Mapping[str, np.ndarray] | None = None,
    titles: Sequence[str] = (),
    title: str = "Teacher against student",
    markup: Markup = IBUG68,
) -> Figure:
    """A row an image, a column a model. `predictions`: label -> (N, P, 2); `errors`: label -> (N,) NME in percent."""
    rows = [
        [
            Cell(image, points[i], None if target is None else target[i], f"{errors[label][i]:.2f} %" if errors else "")
            for label, points in predictions.items()
        ]
        for i, image in enumerate(images)
    ]
    return sheet(rows, title, key(target is not None), titles, list(predictions), markup=markup)


def outlines(
    axes: Axes, points: np.ndarray, colour: str, width: float, markup: Markup = IBUG68, zorder: float = 2
) -> None:
    """The lines of a face (P, 2), P the points of `markup`."""
    points = np.asarray(points)
    for members, closed in markup.outlines:
        line = points[list(members) + list(members[:1] if closed else ())]
        axes.plot(*line.T, color=colour, linewidth=width, solid_joinstyle="round", antialiased=True, zorder=zorder)


def key(with_target: bool) -> str:
    """What the colours of a sheet mean."""
    return "orange: prediction   ·   green: label" if with_target else "orange: prediction"


def short(name: str, length: int = 22) -> str:
    """The end of a name, for a corner of an image."""
    return name if len(name) <= length else "…" + name[1 - length :]


def _face(axes: Axes, cell: Cell, markup: Markup, tile: float) -> None:
    height, width = cell.image.shape[:2]
    axes.set(xticks=[], yticks=[], facecolor="#f4f5f7")
    for spine in axes.spines.values():
        spine.set_visible(False)
    # The extent puts (0, 0) at the outer corner of the first pixel, as the landmarks have it.
    axes.imshow(cell.image, extent=(0, width, height, 0), interpolation="bilinear")
    if cell.truth is not None:
        outlines(axes, cell.truth, TRUTH, 0.9, markup)
    if cell.points is not None:
        outlines(axes, cell.points, PREDICTION, 1.0, markup)
        axes.plot(
            *np.asarray(cell.points).T,
            linestyle="",
            marker="o",
            markersize=1.7 * min(1, tile / 1.5),
            color=PREDICTION,
            markeredgewidth=0,
        )
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    box = {"boxstyle": "round,pad=0.28", "facecolor": "#10141a", "alpha": 0.72, "edgecolor": "none"}
    common: dict[str, Any] = {"transform": axes.transAxes, "color": "white", "bbox": box}
    size = 8.5 if tile > 1.5 else 6.5
    if cell.tag:
        axes.text(0.03, 0.97, cell.tag, fontsize=size, weight="bold", va="top", **common)
    if cell.small:
        axes.text(0.03, 0.03, cell.small, fontsize=size - 1.5, va="bottom", **common)


# ---------------------------------------------------------------------------------------------------- pixels


def heat_over(
    image: np.ndarray, heat: np.ndarray, extent: tuple[float, float, float, float] | None = None, strength: float = 0.85
) -> np.ndarray:
    """Heat (h, w), zero to its own peak, over a darkened grey image (H, W, 3) uint8 RGB of the same size.

    `extent` (left, top, right, bottom) is where the outer corners of the heat's grid lie, in pixels of the image; None:
    exactly the image. What reaches beyond it is cut.
    """
    height, width = image.shape[:2]
    left, top, right, bottom = extent or (0, 0, width, height)
    rows, columns = heat.shape
    scale = np.array([[(right - left) / columns, 0, left], [0, (bottom - top) / rows, top]], dtype=np.float64)
    # from cell centres to pixel centres
    scale[:, 2] += 0.5 * scale[[0, 1], [0, 1]] - 0.5
    heat = np.asarray(heat, dtype=np.float32)
    edge = cv2.BORDER_REPLICATE
    large = cv2.warpAffine(heat, scale, (width, height), flags=cv2.INTER_CUBIC, borderMode=edge)
    share = np.clip(large / max(float(large.max()), 1e-12), 0, 1)
    places, stops = [place for place, _ in HEAT_RAMP], [stop for _, stop in HEAT_RAMP]
    tint = np.stack([np.interp(share, places, [stop[channel] for stop in stops]) for channel in range(3)], axis=-1)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float64)
    alpha = (strength * share**0.7)[..., None]
    return np.clip(0.72 * grey * (1 - alpha) + tint * alpha, 0, 255).astype(np.uint8)


def draw(
    image: np.ndarray, points: np.ndarray, confidence: np.ndarray | None = None, markup: Markup = IBUG68
) -> np.ndarray:
    """A copy of the picture (H, W, 3) uint8 with the landmarks (P, 2) drawn on it, anti-aliased, by cv2 alone.

    Sizes follow the face, and the picture where that is smaller. `confidence` (P,) in 0..1 colours the points from
    red (unsure) to green; without it they are orange. The colours are RGB.
    """
    canvas = np.ascontiguousarray(image).copy()
    points = np.asarray(points, dtype=np.float64)
    unit = min(1.6 * float(np.ptp(points, axis=0).max()), float(max(canvas.shape[:2]))) / 256
    shift = 4  # binary digits after the point: cv2 draws at 1/16 px
    # cv2 counts from pixel centres, this package from their corners.
    fixed = np.clip(np.round((points - 0.5) * 2**shift), -(2**24), 2**24).astype(np.int32)
    line, radius = max(1, round(0.8 * unit)), max(1.2, 1.8 * unit)
    lines = [fixed[list(members)] for members, closed in markup.outlines if not closed]
    loops = [fixed[list(members)] for members, closed in markup.outlines if closed]
    shade = canvas.copy()  # a soft dark edge, so that lines and points show on light skin as well
    for polylines, closed in ((lines, False), (loops, True)):
        cv2.polylines(shade, polylines, closed, (16, 20, 26), line + 2, cv2.LINE_AA, shift)
    for x, y in fixed.tolist():
        cv2.circle(shade, (x, y), round((radius + 1) * 2**shift), (16, 20, 26), cv2.FILLED, cv2.LINE_AA, shift)
    canvas = cv2.addWeighted(canvas, 0.45, shade, 0.55, 0)
    for polylines, closed in ((lines, False), (loops, True)):
        cv2.polylines(canvas, polylines, closed, (245, 245, 245), line, cv2.LINE_AA, shift)
    if confidence is None:
        colours = [rgb255_of(PREDICTION)] * len(points)
    else:
        sure = np.clip(np.asarray(confidence, dtype=np.float64), 0.0, 1.0)[:, None]
        # Two halves through yellow: a straight blend of red and green passes through mud.
        low, middle, high = np.array([230, 30, 50]), np.array([255, 205, 40]), np.array([40, 210, 120])
        blend = np.where(sure < 0.5, low + 2 * sure * (middle - low), middle + (2 * sure - 1) * (high - middle))
        colours = [(round(red), round(green), round(blue)) for red, green, blue in blend.tolist()]
    for (x, y), colour in zip(fixed.tolist(), colours, strict=True):
        cv2.circle(canvas, (x, y), round(radius * 2**shift), colour, cv2.FILLED, cv2.LINE_AA, shift)
    return canvas


# ---------------------------------------------------------------------------------------------------- the mean face


def error_by_point(
    per_point: np.ndarray,
    title: str = "Error by point",
    caption: str = "",
    markup: Markup = IBUG68,
    layout: np.ndarray | None = None,
    size: tuple[float, float] = (5.4, 5.4),
    top: float = 0.0,
    signed: bool = False,
) -> Figure:
    """Values (P,) as discs on the mean frontal face, by size and colour; the three largest are written beside theirs.

    Unsigned: errors in percent, pale to dark. Signed: differences in percent points, green where below zero (better)
    and red above. layout: (P, 2) where the points of a set other than the 68 lie, as in metrics.Report. top: the value
    of the largest disc; 0: the largest there is.
    """
    values = np.asarray(per_point, dtype=np.float64)
    top = top or max(float(np.abs(values).max()), 1e-9)
    layout = face_layout() if layout is None else layout
    figure = chart(size, title, caption)
    axes = figure.add_subplot()
    outlines(axes, layout, RULE, 1.2, markup, zorder=1)
    share = np.clip(np.abs(values) / top, 0, 1)
    unit = (min(size) / 5.4) ** 2 * min(1, 68 / len(values))
    colours = ramp(DIFFERENCE_RAMP if signed else ERROR_RAMP)
    discs = axes.scatter(
        layout[:, 0],
        layout[:, 1],
        c=np.clip(values, -top, top),
        s=(40 + 160 * share) * unit,
        cmap=colours,
        vmin=-top if signed else 0.0,
        vmax=top,
        zorder=2,
        edgecolors=MUTED,
        linewidths=0.4,
    )
    centre = layout.mean(axis=0)
    for index in np.argsort(-np.abs(values))[:3]:
        at = (12 + 8 * unit**0.5) * _outward(layout[index] - centre)
        axes.annotate(
            _signed(values[index]) if signed else f"{values[index]:.1f}",
            layout[index],
            xytext=at,
            textcoords="offset points",
            fontsize=8.5,
            color=INK,
            ha="center",
            va="center",
        )
    axes.set_aspect("equal")
    axes.margins(0.16, 0.09)
    axes.axis("off")
    bar = figure.colorbar(discs, ax=axes, orientation="horizontal", shrink=0.6, aspect=24, pad=0.01)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8.5, colors=MUTED, length=0, pad=3)
    bar.set_ticks([-top, 0, top] if signed else [0, top])
    bar.ax.xaxis.set_major_formatter(lambda value, _: _signed(value) if signed and value else f"{value:.3g}")
    return figure


def face_layout() -> np.ndarray:
    """(68, 2) the mean face from the front, y up, its mouth opened so that the discs of the lips lie apart."""
    face = headpose.mean_face()[:, :2].copy()
    face[55:60, 1] -= 1.1  # lower lip, outside
    face[65:68, 1] -= 0.8  # lower lip, inside
    face[[48, 54, 60, 64], 1] -= 0.4  # corners
    face[[60, 64], 0] *= 0.8  # inner corners
    face[31:36, 0] *= 1.2  # nostrils
    return face


def _outward(offset: np.ndarray) -> np.ndarray:
    """(2,) the direction of an offset from a face's centre; down at the centre itself."""
    length = float(np.linalg.norm(offset))
    return offset / length if length > 1e-9 else np.array([0.0, -1.0])


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")
