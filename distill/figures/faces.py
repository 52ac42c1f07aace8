"""Landmarks and heatmaps drawn on their images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from distill.figures.style import PREDICTION, face, key, region_colours, rgb255_of, rgb_of, sheet, short, tag
from distill.landmarks import IBUG68, Markup

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    count = len(images)
    columns = max(1, min(columns, count))
    rows = -(-count // columns)
    figure, cells = sheet(rows, columns, title, key(target is not None))
    for index in range(count):
        axes = cells[index // columns][index % columns]
        face(axes, images[index], pred[index], None if target is None else target[index], markup)
        if titles is not None:
            tag(axes, titles[index])
    return figure


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

    `images` may be any sequence that decodes on access: only the images shown are asked for.
    """
    chosen = choose(errors, each)
    columns = len(chosen["best"])
    caption = f"{key(True)}   ·   NME in %, mean of all {len(errors)} images {np.mean(errors):.2f}"
    figure, cells = sheet(3, columns, title, caption, row_labels=list(chosen))
    for row, indices in zip(cells, chosen.values(), strict=True):
        for axes, index in zip(row, indices, strict=True):
            face(axes, images[index], pred[index], target[index], markup)
            tag(axes, f"{errors[index]:.2f} %", short(names[index]) if names is not None else "")
    return figure


def teacher_against_student(
    images: Sequence[np.ndarray],
    target: np.ndarray | None,
    predictions: Mapping[str, np.ndarray],
    errors: Mapping[str, np.ndarray] | None = None,
    titles: Sequence[str] | None = None,
    title: str = "Teacher against student",
    markup: Markup = IBUG68,
) -> Figure:
    """A row an image, a column a model. `predictions`: label -> (N, P, 2); `errors`: label -> (N,) NME in percent."""
    labels = list(predictions)
    figure, cells = sheet(
        len(images), len(labels), title, key(target is not None), row_labels=titles, column_labels=labels
    )
    for row, image in enumerate(images):
        for column, label in enumerate(labels):
            axes = cells[row][column]
            face(axes, image, predictions[label][row], None if target is None else target[row], markup)
            if errors is not None:
                tag(axes, f"{errors[label][row]:.2f} %")
    return figure


def heatmap_overlay(
    image: np.ndarray,
    heatmaps: np.ndarray,
    extent: tuple[float, float, float, float] | None = None,
    points: np.ndarray | None = None,
    title: str = "Heatmaps",
    markup: Markup = IBUG68,
) -> Figure:
    """Heatmaps (P, h, w) over their image, each scaled to its own peak, coloured by region.

    `extent` (left, top, right, bottom) is where the outer corners of the grid lie, in pixels of the image; a grid that
    reaches beyond the frame is shown so. None: exactly the frame. `points` (P, 2): the coordinates decoded from them.
    """
    height, width = image.shape[:2]
    left, top, right, bottom = extent or (0.0, 0.0, float(width), float(height))
    peaks = heatmaps.max(axis=(1, 2), keepdims=True)
    heat = np.clip(heatmaps / np.where(peaks > 0, peaks, 1.0), 0.0, 1.0)
    rgb, alpha = np.zeros((*heat.shape[1:], 3)), np.zeros(heat.shape[1:])
    tints = region_colours(markup)
    for region, members in markup.regions.items():
        region_heat = heat[list(members)].max(axis=0)
        stronger = region_heat > alpha
        rgb[stronger] = rgb_of(tints[region])
        alpha = np.maximum(alpha, region_heat)
    figure, cells = sheet(1, 1, title, "each point's map scaled to its peak", tile=4.2)
    axes = cells[0][0]
    axes.set_facecolor("#10141a")
    axes.imshow((image * 0.65).astype(np.uint8), extent=(0, width, height, 0), interpolation="bilinear")
    axes.imshow(np.dstack([rgb, alpha]), extent=(left, right, bottom, top), interpolation="nearest")
    axes.set_xlim(min(left, 0), max(right, width))
    axes.set_ylim(max(bottom, height), min(top, 0))
    if points is not None:
        axes.plot(*points.T, linestyle="", marker="+", markersize=4, markeredgewidth=0.7, color="white")
    at = 0.02
    for region, tint in tints.items():
        axes.text(at, 0.02, region, transform=axes.transAxes, fontsize=9, weight="bold", color=tint)
        at += 0.035 + 0.022 * len(region)
    return figure


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
        colours = [tuple(int(round(c)) for c in colour) for colour in blend]
    for (x, y), colour in zip(fixed.tolist(), colours, strict=True):
        cv2.circle(canvas, (x, y), round(radius * 2**shift), colour, cv2.FILLED, cv2.LINE_AA, shift)
    return canvas
