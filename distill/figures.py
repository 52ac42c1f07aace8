"""Pictures of data, predictions and results. The only module that knows matplotlib.

Functions take arrays and return a matplotlib `Figure` (object-oriented, Agg canvas, no pyplot, so nothing global is
touched); `to_png` writes one. matplotlib is imported by the first figure only: `draw`, for photographs and video, needs
just cv2. Images are (H, W, 3) uint8 RGB; landmarks are (68, 2) continuous pixels of their image.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from distill import headpose, metrics
from distill.errors import UserError
from distill.landmarks import OUTLINES, REGIONS

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
YAW_LABELS = {"below_30": "below 30°", "30_to_60": "30° to 60°", "above_60": "above 60°"}
MARGIN = 0.16  # inches between a figure's contents and its edge


# ---------------------------------------------------------------------------------------------------- faces


def overlay_sheet(
    images: Sequence[np.ndarray],
    pred: np.ndarray,
    target: np.ndarray | None = None,
    titles: Sequence[str] | None = None,
    columns: int = 4,
    title: str = "",
) -> Figure:
    """A sheet of images with predictions (N, 68, 2) in orange over labels (N, 68, 2) in thin green; None: no labels."""
    count = len(images)
    columns = max(1, min(columns, count))
    rows = -(-count // columns)
    figure, cells = _sheet(rows, columns, title, _key(target is not None))
    for index in range(count):
        axes = cells[index // columns][index % columns]
        _face(axes, images[index], pred[index], None if target is None else target[index])
        if titles is not None:
            _tag(axes, titles[index])
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
) -> Figure:
    """Three rows of `each` images by their NME in percent (N,), which is printed in each with its name.

    `images` may be any sequence that decodes on access: only the images shown are asked for.
    """
    chosen = choose(errors, each)
    columns = len(chosen["best"])
    caption = f"{_key(True)}   ·   NME in %, mean of all {len(errors)} images {np.mean(errors):.2f}"
    figure, cells = _sheet(3, columns, title, caption, row_labels=list(chosen))
    for row, indices in zip(cells, chosen.values(), strict=True):
        for axes, index in zip(row, indices, strict=True):
            _face(axes, images[index], pred[index], target[index])
            _tag(axes, f"{errors[index]:.2f} %", _short(names[index]) if names is not None else "")
    return figure


def teacher_against_student(
    images: Sequence[np.ndarray],
    target: np.ndarray | None,
    predictions: Mapping[str, np.ndarray],
    errors: Mapping[str, np.ndarray] | None = None,
    titles: Sequence[str] | None = None,
    title: str = "Teacher against student",
) -> Figure:
    """A row an image, a column a model. `predictions`: label -> (N, 68, 2); `errors`: label -> (N,) NME in percent."""
    labels = list(predictions)
    figure, cells = _sheet(
        len(images), len(labels), title, _key(target is not None), row_labels=titles, column_labels=labels
    )
    for row, image in enumerate(images):
        for column, label in enumerate(labels):
            axes = cells[row][column]
            _face(axes, image, predictions[label][row], None if target is None else target[row])
            if errors is not None:
                _tag(axes, f"{errors[label][row]:.2f} %")
    return figure


def heatmap_overlay(
    image: np.ndarray,
    heatmaps: np.ndarray,
    extent: tuple[float, float, float, float] | None = None,
    points: np.ndarray | None = None,
    title: str = "Heatmaps",
) -> Figure:
    """Heatmaps (68, h, w) over their image, each scaled to its own peak, coloured by region.

    `extent` (left, top, right, bottom) is where the outer corners of the grid lie, in pixels of the image; a grid that
    reaches beyond the frame is shown so. None: exactly the frame. `points` (68, 2): the coordinates decoded from them.
    """
    height, width = image.shape[:2]
    left, top, right, bottom = extent or (0.0, 0.0, float(width), float(height))
    peaks = heatmaps.max(axis=(1, 2), keepdims=True)
    heat = np.clip(heatmaps / np.where(peaks > 0, peaks, 1.0), 0.0, 1.0)
    rgb, alpha = np.zeros((*heat.shape[1:], 3)), np.zeros(heat.shape[1:])
    for region, members in REGIONS.items():
        region_heat = heat[list(members)].max(axis=0)
        stronger = region_heat > alpha
        rgb[stronger] = _rgb(REGION_COLOURS[region])
        alpha = np.maximum(alpha, region_heat)
    figure, cells = _sheet(1, 1, title, "each point's map scaled to its peak", tile=4.2)
    axes = cells[0][0]
    axes.set_facecolor("#10141a")
    axes.imshow((image * 0.65).astype(np.uint8), extent=(0, width, height, 0), interpolation="bilinear")
    axes.imshow(np.dstack([rgb, alpha]), extent=(left, right, bottom, top), interpolation="nearest")
    axes.set_xlim(min(left, 0), max(right, width))
    axes.set_ylim(max(bottom, height), min(top, 0))
    if points is not None:
        axes.plot(*points.T, linestyle="", marker="+", markersize=4, markeredgewidth=0.7, color="white")
    at = 0.02
    for region in REGIONS:
        axes.text(at, 0.02, region, transform=axes.transAxes, fontsize=9, weight="bold", color=REGION_COLOURS[region])
        at += 0.035 + 0.022 * len(region)
    return figure


def draw(image: np.ndarray, points: np.ndarray, confidence: np.ndarray | None = None) -> np.ndarray:
    """A copy of the picture (H, W, 3) uint8 with the landmarks (68, 2) drawn on it, anti-aliased, by cv2 alone.

    Sizes follow the face, and the picture where that is smaller. `confidence` (68,) in 0..1 colours the points from
    red (unsure) to green; without it they are orange. The colours are RGB.
    """
    canvas = np.ascontiguousarray(image).copy()
    points = np.asarray(points, dtype=np.float64)
    unit = min(1.6 * float(np.ptp(points, axis=0).max()), float(max(canvas.shape[:2]))) / 256
    shift = 4  # binary digits after the point: cv2 draws at 1/16 px
    # cv2 counts from pixel centres, this package from their corners.
    fixed = np.clip(np.round((points - 0.5) * 2**shift), -(2**24), 2**24).astype(np.int32)
    line, radius = max(1, round(0.8 * unit)), max(1.2, 1.8 * unit)
    lines = [fixed[list(members)] for members, closed in OUTLINES if not closed]
    loops = [fixed[list(members)] for members, closed in OUTLINES if closed]
    shade = canvas.copy()  # a soft dark edge, so that lines and points show on light skin as well
    for polylines, closed in ((lines, False), (loops, True)):
        cv2.polylines(shade, polylines, closed, (16, 20, 26), line + 2, cv2.LINE_AA, shift)
    for x, y in fixed.tolist():
        cv2.circle(shade, (x, y), round((radius + 1) * 2**shift), (16, 20, 26), cv2.FILLED, cv2.LINE_AA, shift)
    canvas = cv2.addWeighted(canvas, 0.45, shade, 0.55, 0)
    for polylines, closed in ((lines, False), (loops, True)):
        cv2.polylines(canvas, polylines, closed, (245, 245, 245), line, cv2.LINE_AA, shift)
    if confidence is None:
        colours = [_rgb255(PREDICTION)] * len(points)
    else:
        sure = np.clip(np.asarray(confidence, dtype=np.float64), 0.0, 1.0)[:, None]
        # Two halves through yellow: a straight blend of red and green passes through mud.
        low, middle, high = np.array([230, 30, 50]), np.array([255, 205, 40]), np.array([40, 210, 120])
        blend = np.where(sure < 0.5, low + 2 * sure * (middle - low), middle + (2 * sure - 1) * (high - middle))
        colours = [tuple(int(round(c)) for c in colour) for colour in blend]
    for (x, y), colour in zip(fixed.tolist(), colours, strict=True):
        cv2.circle(canvas, (x, y), round(radius * 2**shift), colour, cv2.FILLED, cv2.LINE_AA, shift)
    return canvas


# ---------------------------------------------------------------------------------------------------- curves and bars


def learning_curves(history: Mapping[str, Sequence[tuple[int, float]]], title: str = "Learning curves") -> Figure:
    """One run's course: validation NME large, the loss terms beside it, the learning rate below.

    `history` maps metric names to (epoch, value) pairs. `val/nme...` go to the large panel, names that end in `lr` to
    the small one, those with `loss` or `raw` or `weighted` in them to the loss panels; others are left out. Panels
    without a curve are not drawn.
    """
    val = {k: v for k, v in history.items() if k.startswith("val/nme") and v}
    rate = {k: v for k, v in history.items() if k.split("/")[-1] in ("lr", "learning_rate") and v}
    terms = {
        k: v for k, v in history.items()
        if v and k not in val and k not in rate and any(word in k for word in ("loss", "raw", "weighted"))
    }  # fmt: skip
    weighted = {_term(k): v for k, v in terms.items() if "raw" not in k}
    raw = {_term(k): v for k, v in terms.items() if "raw" in k}
    panels = [("Loss terms, weighted", weighted), ("Loss terms, raw", raw), ("Learning rate", rate)]
    panels = [(name, curves) for name, curves in panels if curves]

    figure = _figure(9.6, 5.2)
    caption = ""
    if "val/nme" in val:
        epoch, best = min(val["val/nme"], key=lambda pair: pair[1])
        caption = f"best validation NME {best:.2f} %, epoch {epoch}"
    _heading(figure, title, caption)
    wide = figure.add_gridspec(1, 2, width_ratios=[1.3, 1], left=0.055, right=0.98, top=0.8, bottom=0.095, wspace=0.16)
    main = figure.add_subplot(wide[0] if panels else wide[:])
    _style(main, "Validation NME (%)", "epoch")
    _curves(main, val, dict(zip(val, _cycle(len(val)), strict=True)), bold="val/nme")
    if caption:
        main.plot([epoch], [best], "o", color=CYCLE[0], markersize=7, markeredgecolor="white", zorder=5)
    if len(val) > 1:
        lines, labels = main.get_legend_handles_labels()
        _legend(main, lines, [label.removeprefix("val/") for label in labels], loc="upper right", ncols=2)
    if panels:
        heights = [0.6 if curves is rate else 1 for _, curves in panels]
        grid = wide[1].subgridspec(len(panels), 1, height_ratios=heights, hspace=0.5)
        names = list(dict.fromkeys([*weighted, *raw]))
        colours = dict(zip(names, _cycle(len(names)), strict=True))  # a term keeps its colour in both panels
        handles: dict[str, Any] = {}
        for place, (name, curves) in zip(grid, panels, strict=True):
            axes = figure.add_subplot(place)
            _style(axes, name, "epoch" if curves is panels[-1][1] else "", size=9.5)
            _curves(axes, curves, dict.fromkeys(rate, MUTED) if curves is rate else colours)
            if curves is not rate:
                handles.update((line.get_label(), line) for line in axes.get_lines())
        if handles:
            ordered = [name for name in names if name in handles]
            columns = min(4, len(ordered)) if len(ordered) != 5 else 3
            _legend(figure, [handles[name] for name in ordered], ordered, loc="upper right", ncols=columns)
    return figure


def ced(errors: Mapping[str, np.ndarray], maximum: float = metrics.FAILURE, title: str = "") -> Figure:
    """Cumulative error distributions: label -> per-image NME (N,) in percent. The legend gives NME, AUC and failures."""
    figure = _figure(6.6, 4.3)
    _heading(figure, title or "How many images are at least this good?", "cumulative error distribution")
    axes = figure.add_axes((0.095, 0.125, 0.875, 0.7))
    for label, colour in _colours(errors).items():
        thresholds, fractions = metrics.ced(errors[label], maximum)
        words = (
            f"{label}:  NME {np.mean(errors[label]):.2f} %,  AUC {metrics.auc(errors[label], maximum):.3f},  "
            f"failures {100 * metrics.failure_rate(errors[label], maximum):.1f} %"
        )
        axes.step(thresholds, 100 * fractions, where="post", color=colour, linewidth=2.2, label=words)
    _style(axes, "", f"NME of an image (%); above {maximum:g} it counts as a failure", "images (%)")
    axes.set_xlim(0, maximum)
    axes.set_ylim(0, 102)
    axes.legend(loc="lower right", frameon=True, facecolor="white", edgecolor="none", framealpha=0.85, fontsize=9)
    return figure


def error_by_point(per_point: np.ndarray, title: str = "Error by point") -> Figure:
    """Mean error (68,) in percent on the mean frontal face: discs by colour and size; regions' means beside it."""
    from matplotlib.colors import LinearSegmentedColormap

    per_point = np.asarray(per_point, dtype=np.float64)
    figure = _figure(6.6, 5.4)
    _heading(figure, title, f"mean over images, % of the normaliser; all points {per_point.mean():.2f}")
    axes = figure.add_axes((0.02, 0.03, 0.66, 0.83))
    face = _layout()
    centre = face.mean(axis=0)
    for members, closed in OUTLINES:
        line = face[list(members) + list(members[:1] if closed else ())]
        axes.plot(*line.T, color="#c9ced6", linewidth=1.3, zorder=1)
    ramp = LinearSegmentedColormap.from_list("error", ["#fbe7a1", "#f6a935", "#d9482b", "#7d0f3a"])
    size = 50 + 130 * per_point / max(per_point.max(), 1e-9)
    discs = axes.scatter(
        *face.T, c=per_point, s=size, cmap=ramp, vmin=per_point.min(), zorder=2, edgecolors="#8b8f98", linewidths=0.5
    )
    for index in np.argsort(per_point)[-3:]:
        outward = (face[index] - centre) / np.linalg.norm(face[index] - centre)
        axes.annotate(
            f"{per_point[index]:.1f}", face[index], xytext=19 * outward, textcoords="offset points", fontsize=8.5,
            color=INK, weight="bold", ha="center", va="center",
        )  # fmt: skip
    axes.set_aspect("equal")
    axes.margins(0.12, 0.09)
    axes.axis("off")
    bar = figure.colorbar(discs, cax=figure.add_axes((0.72, 0.1, 0.022, 0.34)))
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=9, colors=INK, length=0)
    bar.set_label("%", rotation=0, fontsize=9, color=MUTED, labelpad=8)
    means = {name: per_point[list(members)].mean() for name, members in REGIONS.items()}
    for row, (name, value) in enumerate(means.items()):
        y = 0.79 - 0.055 * row
        figure.text(0.72, y, name, fontsize=10, color=MUTED)
        figure.text(0.93, y, f"{value:.2f}", fontsize=10, color=INK, weight="bold", ha="right")
    return figure


def error_by_region_and_yaw(reports: Mapping[str, metrics.Report], title: str = "Where the error is") -> Figure:
    """Grouped bars of NME in percent: left by region, right by |yaw|; one colour a model. Bins without images stay away."""
    if not reports:
        raise UserError("There is no report to draw; expected at least one.")
    first = next(iter(reports.values()))
    bins = [name for name in metrics.YAW_BINS if any(report.by_yaw[name] for report in reports.values())]
    figure = _figure(9.6, 4.2)
    _heading(figure, title, f"NME in %, normaliser '{first.normalizer}', {first.count} images")
    ratio = [len(REGIONS) + 1, max(len(bins), 1)]
    grid = figure.add_gridspec(1, 2, width_ratios=ratio, left=0.05, right=0.985, top=0.77, bottom=0.125, wspace=0.1)
    by_region = figure.add_subplot(grid[0] if bins else grid[:])
    _style(by_region, "By region", grid="y")
    values = {label: [report.nme, *report.by_region.values()] for label, report in reports.items()}
    _bars(by_region, ["all", *REGIONS], values)
    if bins:
        by_yaw = figure.add_subplot(grid[1], sharey=by_region)
        _style(by_yaw, "By head yaw", grid="y")
        by_yaw.tick_params(labelleft=False)
        counts = {name: next(r.by_yaw[name]["count"] for r in reports.values() if r.by_yaw[name]) for name in bins}
        values = {
            label: [report.by_yaw[name]["nme"] if report.by_yaw[name] else np.nan for name in bins]
            for label, report in reports.items()
        }
        _bars(by_yaw, [f"{YAW_LABELS[name]}\nn = {counts[name]}" for name in bins], values)
    handles, labels = by_region.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="upper right", bbox_to_anchor=(0.99, 0.99), ncols=min(4, len(labels)), frameon=False,
        fontsize=10, handlelength=1, handleheight=1, columnspacing=1.4,
    )  # fmt: skip
    return figure


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


# ---------------------------------------------------------------------------------------------------- parts


def _layout() -> np.ndarray:
    """(68, 2) the mean face from the front, y up, its mouth opened so that the discs of the lips lie apart."""
    face = headpose.mean_face()[:, :2].copy()
    face[55:60, 1] -= 1.1  # lower lip, outside
    face[65:68, 1] -= 0.8  # lower lip, inside
    face[[48, 54, 60, 64], 1] -= 0.4  # corners
    face[[60, 64], 0] *= 0.8  # inner corners
    face[31:36, 0] *= 1.2  # nostrils
    return face


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _heading(figure: Figure, title: str, caption: str = "") -> None:
    width, height = figure.get_size_inches()
    figure.text(MARGIN / width, 1 - 0.13 / height, title, fontsize=13, weight="bold", color=INK, va="top")
    figure.text(MARGIN / width, 1 - 0.39 / height, caption, fontsize=9.5, color=MUTED, va="top")


def _sheet(
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
    figure = _figure(width, height)
    if title:
        _heading(figure, title, caption)
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


def _face(axes: Axes, image: np.ndarray, pred: np.ndarray, target: np.ndarray | None) -> None:
    height, width = image.shape[:2]
    # The extent puts (0, 0) at the outer corner of the first pixel, as the landmarks have it.
    axes.imshow(image, extent=(0, width, height, 0), interpolation="bilinear")
    if target is not None:
        _outlines(axes, target, TRUTH, width=0.9)
    _outlines(axes, pred, PREDICTION, width=1.0)
    axes.plot(*np.asarray(pred).T, linestyle="", marker="o", markersize=1.7, color=PREDICTION, markeredgewidth=0)
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)


def _outlines(axes: Axes, points: np.ndarray, colour: str, width: float) -> None:
    points = np.asarray(points)
    for members, closed in OUTLINES:
        line = points[list(members) + list(members[:1] if closed else ())]
        axes.plot(*line.T, color=colour, linewidth=width, solid_joinstyle="round", antialiased=True)


def _tag(axes: Axes, text: str, small: str = "") -> None:
    """Words in a corner of a picture, readable on light and dark ground."""
    box = {"boxstyle": "round,pad=0.28", "facecolor": "#10141a", "alpha": 0.72, "edgecolor": "none"}
    common: dict[str, Any] = {"transform": axes.transAxes, "va": "top", "color": "white", "bbox": box}
    axes.text(0.03, 0.97, text, fontsize=8.5, weight="bold", **common)
    if small:
        common.update(va="bottom")
        axes.text(0.03, 0.03, small, fontsize=7, **common)


def _key(with_target: bool) -> str:
    return "orange: prediction   ·   green: label" if with_target else "orange: prediction"


def _short(name: str, length: int = 22) -> str:
    return name if len(name) <= length else "…" + name[1 - length :]


def _style(axes: Axes, title: str, x: str = "", y: str = "", size: float = 10.5, grid: str = "both") -> None:
    axes.set_title(title, fontsize=size, color=INK, loc="left", weight="bold", pad=6)
    axes.set_xlabel(x, fontsize=9.5, color=MUTED)
    axes.set_ylabel(y, fontsize=9.5, color=MUTED)
    axes.grid(True, axis=grid, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, colors=MUTED, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color("#c9ced6")


def _curves(
    axes: Axes, curves: Mapping[str, Sequence[tuple[int, float]]], colours: Mapping[str, str], bold: str = ""
) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    for label, pairs in curves.items():
        x, y = zip(*pairs, strict=True)
        strong = label == bold
        axes.plot(
            x, y, color=colours[label], linewidth=2.4 if strong else 1.5, alpha=0.75 if bold and not strong else 1,
            label=label, marker="o" if len(x) == 1 else None, markersize=4, zorder=4 if strong else 3,
        )  # fmt: skip
    values = np.array([value for pairs in curves.values() for _, value in pairs])
    positive = values[values > 0]
    if positive.size and (values >= 0).all() and positive.max() > 2 * positive.min():
        axes.set_yscale("log", nonpositive="mask")  # a weight may be scheduled to 0
        decades = np.log10(positive.max() / positive.min())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7) if decades < 1.5 else (1,), numticks=12))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(which="minor", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))


def _term(key: str) -> str:
    """`train/raw/kl`, `train/weighted/kl` -> `kl`, so that a term has one colour in both panels; `train/loss` -> `loss`."""
    return key.split("/")[-1]


def _legend(where: Figure | Axes, handles: Sequence[Any], labels: Sequence[str], loc: str, ncols: int) -> None:
    where.legend(
        handles, labels, loc=loc, ncols=ncols, frameon=True, facecolor="white", edgecolor="none", framealpha=0.85,
        fontsize=8.5, handlelength=1.2, borderpad=0.5, labelspacing=0.35, columnspacing=1.3, labelcolor=INK,
    )  # fmt: skip


def _cycle(count: int) -> list[str]:
    return [CYCLE[index % len(CYCLE)] for index in range(count)]


def _bars(axes: Axes, groups: Sequence[str], values: Mapping[str, Sequence[float]]) -> None:
    width = 0.8 / len(values)
    for place, (label, colour) in enumerate(_colours(values).items()):
        x = np.arange(len(groups)) + (place - (len(values) - 1) / 2) * width
        bars = axes.bar(x, values[label], width * 0.92, color=colour, label=label)
        texts = ["" if np.isnan(value) else f"{value:.{2 if len(values) <= 3 else 1}f}" for value in values[label]]
        axes.bar_label(bars, texts, fontsize=7.5 if len(values) <= 4 else 6.5, color=INK, padding=2)
    axes.set_xticks(range(len(groups)), groups)
    axes.tick_params(axis="x", labelsize=9.5, colors=INK)
    axes.margins(y=0.1)


def _colours(labels: Mapping[str, Any]) -> dict[str, str]:
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


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = _rgb255(colour)
    return red / 255, green / 255, blue / 255


def _rgb255(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
