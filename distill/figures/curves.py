"""Numbers as pictures: learning curves, cumulative errors, errors by point, region and yaw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from distill import headpose, metrics
from distill.errors import UserError
from distill.figures.style import (
    CYCLE,
    INK,
    MUTED,
    YAW_LABELS,
    colours,
    cycle,
    heading,
    legend,
    new_figure,
    outlines,
    style_axes,
)
from distill.landmarks import IBUG68, Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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

    figure = new_figure(9.6, 5.2)
    caption = ""
    if "val/nme" in val:
        epoch, best = min(val["val/nme"], key=lambda pair: pair[1])
        caption = f"best validation NME {best:.2f} %, epoch {epoch}"
    heading(figure, title, caption)
    wide = figure.add_gridspec(1, 2, width_ratios=[1.3, 1], left=0.055, right=0.98, top=0.8, bottom=0.095, wspace=0.16)
    main = figure.add_subplot(wide[0] if panels else wide[:])
    style_axes(main, "Validation NME (%)", "epoch")
    plot_curves(main, val, dict(zip(val, cycle(len(val)), strict=True)), bold="val/nme")
    if caption:
        main.plot([epoch], [best], "o", color=CYCLE[0], markersize=7, markeredgecolor="white", zorder=5)
    if len(val) > 1:
        lines, labels = main.get_legend_handles_labels()
        legend(main, lines, [label.removeprefix("val/") for label in labels], loc="upper right", ncols=2)
    if panels:
        heights = [0.6 if curves is rate else 1 for _, curves in panels]
        grid = wide[1].subgridspec(len(panels), 1, height_ratios=heights, hspace=0.5)
        names = list(dict.fromkeys([*weighted, *raw]))
        colours = dict(zip(names, cycle(len(names)), strict=True))  # a term keeps its colour in both panels
        handles: dict[str, Any] = {}
        for place, (name, curves) in zip(grid, panels, strict=True):
            axes = figure.add_subplot(place)
            style_axes(axes, name, "epoch" if curves is panels[-1][1] else "", size=9.5)
            plot_curves(axes, curves, dict.fromkeys(rate, MUTED) if curves is rate else colours)
            if curves is not rate:
                handles.update((line.get_label(), line) for line in axes.get_lines())
        if handles:
            ordered = [name for name in names if name in handles]
            columns = min(4, len(ordered)) if len(ordered) != 5 else 3
            legend(figure, [handles[name] for name in ordered], ordered, loc="upper right", ncols=columns)
    return figure


def ced(errors: Mapping[str, np.ndarray], maximum: float = metrics.FAILURE, title: str = "") -> Figure:
    """Cumulative error distributions: label -> per-image NME (N,) in percent. The legend gives NME, AUC and failures."""
    figure = new_figure(6.6, 4.3)
    heading(figure, title or "How many images are at least this good?", "cumulative error distribution")
    axes = figure.add_axes((0.095, 0.125, 0.875, 0.7))
    for label, colour in colours(errors).items():
        thresholds, fractions = metrics.ced(errors[label], maximum)
        words = (
            f"{label}:  NME {np.mean(errors[label]):.2f} %,  AUC {metrics.auc(errors[label], maximum):.3f},  "
            f"failures {100 * metrics.failure_rate(errors[label], maximum):.1f} %"
        )
        axes.step(thresholds, 100 * fractions, where="post", color=colour, linewidth=2.2, label=words)
    style_axes(axes, "", f"NME of an image (%); above {maximum:g} it counts as a failure", "images (%)")
    axes.set_xlim(0, maximum)
    axes.set_ylim(0, 102)
    axes.legend(loc="lower right", frameon=True, facecolor="white", edgecolor="none", framealpha=0.85, fontsize=9)
    return figure


def error_by_point(
    per_point: np.ndarray,
    title: str = "Error by point",
    markup: Markup = IBUG68,
    layout: np.ndarray | None = None,
) -> Figure:
    """Mean error (P,) in percent on the mean frontal face: discs by colour and size; regions' means beside it.

    layout: (P, 2) where the points of a set other than the 68 lie, as in metrics.Report.
    """
    from matplotlib.colors import LinearSegmentedColormap

    per_point = np.asarray(per_point, dtype=np.float64)
    figure = new_figure(6.6, 5.4)
    heading(figure, title, f"mean over images, % of the normaliser; all points {per_point.mean():.2f}")
    axes = figure.add_axes((0.02, 0.03, 0.66, 0.83))
    face = face_layout() if layout is None else layout
    centre = face.mean(axis=0)
    outlines(axes, face, "#c9ced6", 1.3, markup, zorder=1)
    ramp = LinearSegmentedColormap.from_list("error", ["#fbe7a1", "#f6a935", "#d9482b", "#7d0f3a"])
    size = (50 + 130 * per_point / max(per_point.max(), 1e-9)) * min(1, 68 / len(per_point))
    discs = axes.scatter(
        *face.T, c=per_point, s=size, cmap=ramp, vmin=per_point.min(), zorder=2, edgecolors="#8b8f98", linewidths=0.5
    )
    for index in np.argsort(per_point)[-3:]:
        outward = away(face[index] - centre)
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
    means = {name: per_point[list(members)].mean() for name, members in markup.regions.items()}
    for row, (name, value) in enumerate(means.items()):
        y = 0.79 - 0.055 * min(1, 6 / len(means)) * row
        figure.text(0.72, y, name, fontsize=10, color=MUTED)
        figure.text(0.93, y, f"{value:.2f}", fontsize=10, color=INK, weight="bold", ha="right")
    return figure


def error_by_region_and_yaw(reports: Mapping[str, metrics.Report], title: str = "Where the error is") -> Figure:
    """Grouped bars of NME in percent: left by region, right by |yaw|; one colour a model. Bins without images stay away."""
    if not reports:
        raise UserError("There is no report to draw; expected at least one.")
    first = next(iter(reports.values()))
    bins = [name for name in metrics.YAW_BINS if any(report.by_yaw[name] for report in reports.values())]
    figure = new_figure(9.6, 4.2)
    heading(figure, title, f"NME in %, normaliser '{first.normalizer}', {first.count} images")
    regions = list(first.by_region)
    ratio = [len(regions) + 1, max(len(bins), 1)]
    grid = figure.add_gridspec(1, 2, width_ratios=ratio, left=0.05, right=0.985, top=0.77, bottom=0.125, wspace=0.1)
    by_region = figure.add_subplot(grid[0] if bins else grid[:])
    style_axes(by_region, "By region", grid="y")
    values = {label: [report.nme, *report.by_region.values()] for label, report in reports.items()}
    plot_bars(by_region, ["all", *regions], values)
    if bins:
        by_yaw = figure.add_subplot(grid[1], sharey=by_region)
        style_axes(by_yaw, "By head yaw", grid="y")
        by_yaw.tick_params(labelleft=False)
        counts = {name: next(r.by_yaw[name]["count"] for r in reports.values() if r.by_yaw[name]) for name in bins}
        values = {
            label: [report.by_yaw[name]["nme"] if report.by_yaw[name] else np.nan for name in bins]
            for label, report in reports.items()
        }
        plot_bars(by_yaw, [f"{YAW_LABELS[name]}\nn = {counts[name]}" for name in bins], values)
    handles, labels = by_region.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="upper right", bbox_to_anchor=(0.99, 0.99), ncols=min(4, len(labels)), frameon=False,
        fontsize=10, handlelength=1, handleheight=1, columnspacing=1.4,
    )  # fmt: skip
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


def away(offset: np.ndarray) -> np.ndarray:
    """(2,) the direction of an offset from a face's centre; down at the centre itself."""
    length = float(np.linalg.norm(offset))
    return offset / length if length > 1e-9 else np.array([0.0, -1.0])


def plot_curves(
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


def plot_bars(axes: Axes, groups: Sequence[str], values: Mapping[str, Sequence[float]]) -> None:
    width = 0.8 / len(values)
    for place, (label, colour) in enumerate(colours(values).items()):
        x = np.arange(len(groups)) + (place - (len(values) - 1) / 2) * width
        bars = axes.bar(x, values[label], width * 0.92, color=colour, label=label)
        texts = ["" if np.isnan(value) else f"{value:.{2 if len(values) <= 3 else 1}f}" for value in values[label]]
        axes.bar_label(bars, texts, fontsize=7.5 if len(values) <= 4 else 6.5, color=INK, padding=2)
    axes.set_xticks(range(len(groups)), groups)
    axes.tick_params(axis="x", labelsize=9.5, colors=INK)
    axes.margins(y=0.1)
