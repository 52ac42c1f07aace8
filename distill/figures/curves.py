"""Numbers as pictures: learning curves, cumulative errors, errors by region, yaw and roll."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from distill import metrics
from distill.errors import UserError
from distill.figures.style import CYCLE, INK, MUTED, chart, colours, cycle, legend, style_axes
from distill.metrics.calibration import Reliability

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = Sequence[tuple[int, float]]  # (epoch, value)


def learning_curves(
    history: Mapping[str, Points], title: str = "Learning curves", size: tuple[float, float] = (9.6, 5.2)
) -> Figure:
    """One run's course: validation NME large, the loss terms beside it, the learning rate below.

    `history` maps metric names to (epoch, value) pairs. `val/nme...` go to the large panel, names that end in `lr` to
    the small one, those with `loss` or `raw` or `weighted` in them to the loss panels; others are left out. Panels
    without a curve are not drawn.
    """
    val = {k.removeprefix("val/"): v for k, v in history.items() if k.startswith("val/nme") and v}
    rate = {k: v for k, v in history.items() if k.split("/")[-1] in ("lr", "learning_rate") and v}
    terms = {k: v for k, v in history.items() if v and any(word in k for word in ("loss", "raw", "weighted"))}
    weighted = {_term(k): v for k, v in terms.items() if "raw" not in k}
    raw = {_term(k): v for k, v in terms.items() if "raw" in k}
    panels = [("Loss terms, weighted", weighted), ("Loss terms, raw", raw), ("Learning rate", rate)]
    panels = [(name, curves) for name, curves in panels if curves]
    best = min(val["nme"], key=lambda pair: pair[1]) if "nme" in val else None
    figure = chart(size, title, f"best validation NME {best[1]:.2f} %, epoch {best[0]}" if best else "")
    parts: Any = figure.subfigures(1, 2, width_ratios=[1.3, 1]) if panels else (figure, None)
    left, right = parts
    axes = left.add_subplot()
    style_axes(axes, "Validation NME (%)", "epoch")
    plot_curves(axes, val, dict(zip(val, cycle(len(val)), strict=True)), bold="nme")
    if best:
        axes.plot(*best, "o", color=CYCLE[0], markersize=7, markeredgecolor="white", zorder=5)
    if len(val) > 1:
        legend(axes, axes.get_legend_handles_labels(), loc="upper right", ncols=2)
    if right:
        names = list(dict.fromkeys([*weighted, *raw]))
        tint = dict(zip(names, cycle(len(names)), strict=True))  # a term keeps its colour in both panels
        heights = [0.6 if curves is rate else 1 for _, curves in panels]
        shared: dict[str, Any] = {}
        for axes, (name, curves) in zip(
            right.subplots(len(panels), 1, height_ratios=heights, squeeze=False)[:, 0], panels, strict=True
        ):
            style_axes(axes, name, "epoch" if curves is panels[-1][1] else "", size=9.5)
            plot_curves(axes, curves, dict.fromkeys(rate, MUTED) if curves is rate else tint)
            if curves is not rate:
                shared |= {line.get_label(): line for line in axes.get_lines()}
        if shared:
            entries = list(shared.values()), list(shared)
            legend(right, entries, loc="outside upper center", ncols=min(4, len(shared)))
    return figure


def curves(
    values: Mapping[str, Points],
    y: str,
    title: str = "",
    size: tuple[float, float] = (4.6, 3.1),
    mark_lowest: bool = False,
) -> Figure:
    """Curves by label in one panel. mark_lowest: a dot at the lowest point of each."""
    figure = chart(size, title)
    axes = figure.add_subplot()
    style_axes(axes, "", "epoch", y)
    tint = colours(values)
    plot_curves(axes, values, tint)
    for label, pairs in values.items() if mark_lowest else ():
        lowest = min(pairs, key=lambda pair: pair[1])
        axes.plot(*lowest, "o", color=tint[label], markersize=5.5, markeredgecolor="white", zorder=5)
    legend(axes, axes.get_legend_handles_labels(), loc="best", ncols=1 + (len(values) > 5))
    return figure


def reliability(found: Reliability, title: str = "Expected against true error", width: float = 7.6) -> Figure:
    """Mean true error over mean expected error of each bin, by point and by image; on the line they are equal.
    Percent."""
    figure = chart((width, 0.55 * width), title, f"means: expected {found.expected:.2f} %, true {found.true:.2f} %")
    panels = (("points", found.by_point), ("images", found.by_image))
    for axes, (what, bins) in zip(figure.subplots(1, 2), panels, strict=True):
        style_axes(
            axes, f"{what}, rank correlation {bins.rank_correlation:.2f}", "expected error (%)", "true error (%)"
        )
        top = 1.08 * max(*bins.expected, *bins.true)
        axes.plot([0, top], [0, top], color=MUTED, linewidth=1.0)
        axes.plot(bins.expected, bins.true, "o-", color=CYCLE[0], markersize=5, linewidth=1.6)
        axes.set_xlim(0, top)
        axes.set_ylim(0, top)
    return figure


def ced(
    errors: Mapping[str, np.ndarray],
    title: str = "How many images are at least this good?",
    maximum: float = metrics.FAILURE,
    size: tuple[float, float] = (6.6, 4.3),
    summary: bool = True,
) -> Figure:
    """Cumulative error distributions: label -> per-image NME (N,) in percent. summary: NME, AUC and failures in the
    legend.
    """
    figure = chart(size, title, f"cumulative error; above {maximum:g} % an image counts as a failure" if title else "")
    axes = figure.add_subplot()
    for label, colour in colours(errors).items():
        thresholds, fractions = metrics.ced(errors[label], maximum)
        words = label
        if summary:
            words += (
                f":  NME {np.mean(errors[label]):.2f} %,  AUC {metrics.auc(errors[label], maximum):.3f},  "
                f"failures {100 * metrics.failure_rate(errors[label], maximum):.1f} %"
            )
        axes.step(thresholds, 100 * fractions, where="post", color=colour, linewidth=2.0, label=words)
    style_axes(axes, "", "NME of an image (%)", "images (%)")
    axes.set_xlim(0, maximum)
    axes.set_ylim(0, 102)
    legend(axes, axes.get_legend_handles_labels(), loc="lower right", ncols=1)
    return figure


def error_by_region_and_pose(
    reports: Mapping[str, metrics.Report | Sequence[metrics.Report]],
    title: str = "Where the error is",
    size: tuple[float, float] = (11.0, 4.2),
) -> Figure:
    """Grouped bars of NME in percent by region, |yaw| and |roll|; one colour a model, means over the reports of its
    seeds.

    Regions stand in the order of the first report. Bins without images stay away.
    """
    if not reports:
        raise UserError("There is no report to draw; expected at least one.")
    seeds = {label: [r] if isinstance(r, metrics.Report) else list(r) for label, r in reports.items()}
    first = next(iter(seeds.values()))[0]
    regions = {label: {"all": _mean(r.nme for r in rs)} for label, rs in seeds.items()}
    for label, rs in seeds.items():
        regions[label] |= {name: _mean(r.by_region.get(name) for r in rs) for name in first.by_region}
    panels = [("By region", list(next(iter(regions.values()))), {k: list(v.values()) for k, v in regions.items()})]
    for name, angle in (("By head yaw", "by_yaw"), ("By head roll", "by_roll")):
        cells = {label: [getattr(r, angle) for r in rs] for label, rs in seeds.items()}
        counts = {k: cell["count"] for rs in cells.values() for bins in rs for k, cell in bins.items() if cell}
        order = metrics.YAW_BINS if angle == "by_yaw" else metrics.ROLL_BINS
        bins = [k for k in order if k in counts]
        values = {
            label: [_mean(found[k]["nme"] if found.get(k) else None for found in rs) for k in bins]
            for label, rs in cells.items()
        }
        if bins:
            panels.append((name, [f"{bin_words(order[k])}\nn = {counts[k]}" for k in bins], values))
    figure = chart(size, title, f"NME in %, normaliser '{first.normalizer}', {first.count} images" if title else "")
    ratios = [max(len(groups), 2) + 0.5 for _, groups, _ in panels]
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False, width_ratios=ratios)[0]
    for place, (name, groups, values) in zip(axes, panels, strict=True):
        style_axes(place, name, grid="y")
        _bars(place, groups, values, dense=size[0] / sum(ratios) < 0.26 * len(seeds))
    entries = axes[0].get_legend_handles_labels()
    legend(figure, entries, loc="upper right" if title else "outside upper right", ncols=min(4, len(seeds)))
    return figure


def bin_words(bounds: tuple[float, float]) -> str:
    """`< 30°`, `30-60°`, `> 60°`"""
    low, high = bounds
    return f"< {high:g}°" if low == 0 else f"> {low:g}°" if np.isinf(high) else f"{low:g}-{high:g}°"


def plot_curves(axes: Axes, curves: Mapping[str, Points], colours: Mapping[str, str], bold: str = "") -> None:
    """Curves by label; logarithmic where the values span more than a factor of two. bold: the label of a thick one."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    for label, pairs in curves.items():
        x, y = zip(*pairs, strict=True)
        strong = label == bold
        axes.plot(
            x,
            y,
            color=colours[label],
            linewidth=2.4 if strong else 1.5,
            alpha=0.75 if bold and not strong else 1,
            label=label,
            marker="o" if len(x) == 1 else None,
            markersize=4,
            zorder=4 if strong else 3,
        )
    values = np.array([value for pairs in curves.values() for _, value in pairs])
    positive = values[values > 0]
    if positive.size and (values >= 0).all() and positive.max() > 2 * positive.min():
        axes.set_yscale("log", nonpositive="mask")  # a weight may be scheduled to 0
        decades = np.log10(positive.max() / positive.min())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7) if decades < 1.5 else (1,), numticks=12))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(which="minor", length=0)
    epochs = {epoch for pairs in curves.values() for epoch, _ in pairs}
    if len(epochs) == 1:
        axes.set_xticks([*epochs])
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))


def _term(key: str) -> str:
    """`train/raw/kl`, `train/weighted/kl` -> `kl`, so that a term has one colour in both panels; `train/loss` ->
    `loss`.
    """
    return key.split("/")[-1]


def _mean(values: Any) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else float("nan")


def _bars(axes: Axes, groups: Sequence[str], values: Mapping[str, Sequence[float]], dense: bool) -> None:
    """dense: bars too narrow for two digits after the point."""
    width = 0.8 / len(values)
    for place, (label, colour) in enumerate(colours(values).items()):
        x = np.arange(len(groups)) + (place - (len(values) - 1) / 2) * width
        bars = axes.bar(x, values[label], width * 0.92, color=colour, label=label)
        texts = ["" if np.isnan(value) else f"{value:.{1 if dense else 2}f}" for value in values[label]]
        axes.bar_label(bars, texts, fontsize=6.5 if dense else 7.5, color=INK, padding=2)
    axes.set_xticks(range(len(groups)), groups)
    axes.tick_params(axis="x", labelsize=8.5 if dense else 9.5, colors=INK)
    axes.margins(y=0.1)
