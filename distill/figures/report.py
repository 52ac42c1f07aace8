"""Figures of the report: small charts without headings (the page sets those), and heat drawn over photographs.

A chart is as wide as one column of the page, so that its words stay legible on a phone and on half a sheet of paper.
`to_svg` gives a chart whose colours and typeface are the page's own; `to_jpeg` packs a photograph.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from distill import metrics
from distill.figures.compare import front, place_labels
from distill.figures.curves import away, face_layout, plot_curves
from distill.figures.style import GRID, INK, MUTED, colours, legend, new_figure, outlines, style_axes
from distill.landmarks import IBUG68, Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 4.6  # inches
LABEL = 30  # characters beside a row of a forest plot
BUDGET = 15  # MB, challenge rule 3
PAGE_ROLES = {"teacher": "#3b6fb6", "control": "#8d96a3", "distilled": "#f07f13"}
RULE = "#c9ced6"
BETTER, WORSE = "#1f8a70", "#c8452f"
# What `to_svg` hands over to the page's style sheet, by the names of its custom properties.
PAGE_COLOURS = {
    INK: "ink", MUTED: "muted", GRID: "grid", RULE: "rule", "#ffffff": "paper", BETTER: "better", WORSE: "worse",
    **{colour: role for role, colour in PAGE_ROLES.items()},
}  # fmt: skip
HEAT = ((0.0, (20, 8, 46)), (0.3, (122, 28, 109)), (0.6, (229, 92, 48)), (0.82, (251, 180, 26)), (1.0, (252, 255, 164)))


class Bubble(NamedTuple):
    label: str
    megabytes: float
    nme: float  # percent
    milliseconds: float
    main: bool = True  # one of the models that the report is about; others stand back


class Difference(NamedTuple):
    label: str
    mean: float  # percent points
    low: float
    high: float
    clear: bool  # the interval keeps to one side of zero, by the test that the report names


# ---------------------------------------------------------------------------------------------------- charts


def cumulative(errors: Mapping[str, np.ndarray], maximum: float = metrics.FAILURE) -> Figure:
    """Cumulative error distributions: label -> per-image NME (N,) in percent."""
    figure = new_figure(WIDTH, 3.1)
    axes = figure.add_axes((0.075, 0.145, 0.9, 0.775))
    for label, colour in colours(errors).items():
        thresholds, fractions = metrics.ced(errors[label], maximum)
        axes.step(thresholds, 100 * fractions, where="post", color=colour, linewidth=2.0, label=label)
    _style(axes, "NME of an image, %", "images at or below, %")
    axes.set_xlim(0, maximum)
    axes.set_ylim(0, 102)
    legend(axes, *axes.get_legend_handles_labels(), loc="lower right", ncols=1)
    return figure


def bars(groups: Sequence[str], values: Mapping[str, Sequence[float]], unit: str = "NME, %") -> Figure:
    """Lying bars: for each group one a label, with its value at the end; NaN leaves a gap."""
    lines = max(len(values) + 0.9, 2.6)  # of a group; its name may take two
    height = 0.135 * len(groups) * lines + 0.75
    figure = new_figure(WIDTH, height)
    axes = figure.add_axes((0.17, 0.42 / height, 0.76, 1 - 0.75 / height))
    thickness = 1 / lines
    for place, (label, colour) in enumerate(colours(values).items()):
        y = np.arange(len(groups)) + (place - (len(values) - 1) / 2) * thickness
        drawn = axes.barh(y, values[label], thickness * 0.86, color=colour, label=label)
        words = ["" if np.isnan(value) else f"{value:.2f}" for value in values[label]]
        axes.bar_label(drawn, words, fontsize=8, color=INK, padding=3)
    style_axes(axes, "", unit, grid="x")
    axes.set_yticks(range(len(groups)), groups)
    axes.tick_params(axis="y", labelsize=9, colors=INK)
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.margins(x=0.1)
    axes.spines["bottom"].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="upper center", ncols=min(3, len(labels)), frameon=False, fontsize=8.5, handlelength=0.9,
        handleheight=0.9, columnspacing=1.3, labelcolor=INK, bbox_to_anchor=(0.55, 1.0),
    )  # fmt: skip
    return figure


def face(
    per_point: np.ndarray,
    top: float,
    signed: bool = False,
    markup: Markup = IBUG68,
    layout: np.ndarray | None = None,
) -> Figure:
    """Values (P,) as discs on the mean face, by size and colour. `top` is the value of the largest disc.

    layout: (P, 2) where the points of a set other than the 68 lie, as in metrics.Report.

    Unsigned: an error in percent, pale to dark. Signed: a difference in points, green where it is below zero (better)
    and red where it is above. The three largest are written beside their discs.
    """
    from matplotlib.colors import LinearSegmentedColormap

    values = np.asarray(per_point, dtype=np.float64)
    figure = new_figure(3.1, 3.1)
    axes = figure.add_axes((0.0, 0.1, 1.0, 0.9))
    layout = face_layout() if layout is None else layout
    outlines(axes, layout, RULE, 1.1, markup, zorder=1)
    share = np.clip(np.abs(values) / max(top, 1e-9), 0, 1)
    if signed:
        ramp = LinearSegmentedColormap.from_list("difference", [BETTER, "#a9d8c8", "#eceff3", "#f0b7a8", WORSE])
        drawn, low = np.clip(values, -top, top), -top
    else:
        ramp = LinearSegmentedColormap.from_list("error", ["#fbe7a1", "#f6a935", "#d9482b", "#7d0f3a"])
        drawn, low = np.clip(values, 0, top), 0.0
    discs = axes.scatter(
        *layout.T, c=drawn, s=(14 + 120 * share) * min(1, 68 / len(values)), cmap=ramp, vmin=low, vmax=top, zorder=2, edgecolors=MUTED,
        linewidths=0.4,
    )  # fmt: skip
    centre = layout.mean(axis=0)
    for index in np.argsort(-np.abs(values))[:3]:
        outward = away(layout[index] - centre)
        axes.annotate(
            _signed(values[index]) if signed else f"{values[index]:.1f}", layout[index],
            xytext=17 * outward, textcoords="offset points", fontsize=9, color=INK, ha="center", va="center",
        )  # fmt: skip
    axes.set_aspect("equal")
    axes.margins(0.2, 0.09)
    axes.axis("off")
    bar = figure.colorbar(discs, cax=figure.add_axes((0.25, 0.085, 0.5, 0.022)), orientation="horizontal")
    bar.solids.set_rasterized(False)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8.5, colors=MUTED, length=0, pad=3)
    bar.set_ticks([-top, 0, top] if signed else [0, top])
    bar.ax.xaxis.set_major_formatter(lambda value, _: _signed(value) if signed and value else f"{value:g}")
    return figure


def courses(
    curves: Mapping[str, Sequence[tuple[int, float]]], what: str, own_colours: Mapping[str, str] = {}
) -> Figure:  # noqa: B006
    """Curves of (epoch, value) by label; the best of each is marked where `what` is an NME."""
    figure = new_figure(WIDTH, 3.1)
    left = 0.1 if "NME" in what else 0.135  # small losses have long numbers
    axes = figure.add_axes((left, 0.145, 0.975 - left, 0.775))
    _style(axes, "epoch", what)
    drawn = {**colours(curves), **own_colours}
    plot_curves(axes, curves, drawn)
    if "NME" in what:
        for label, pairs in curves.items():
            axes.plot(
                *min(pairs, key=lambda pair: pair[1]), "o", color=drawn[label], markersize=5.5, markeredgecolor="white",
                zorder=5,
            )  # fmt: skip
    handles, labels = axes.get_legend_handles_labels()
    legend(axes, handles, labels, loc="best" if "NME" not in what else "upper right", ncols=1 + (len(labels) > 5))
    return figure


def bubbles(entries: Sequence[Bubble]) -> Figure:
    """Size of the model file against NME; the area of a bubble is its time for one image."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(WIDTH, 3.1)
    axes = figure.add_axes((0.075, 0.145, 0.9, 0.775))
    _style(axes, "model file, MB", "validation NME, %")
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    slowest = max(entry.milliseconds for entry in entries)
    tint = colours({entry.label: None for entry in entries if entry.main})
    sizes = np.array([entry.megabytes for entry in entries])
    errors = np.array([entry.nme for entry in entries])
    reach = max(np.ptp(errors), 0.05 * errors.mean())
    axes.set_ylim(errors.min() - 0.35 * reach, errors.max() + 0.35 * reach)
    # room on the left for half a bubble, whatever the range
    span = max(np.ptp(sizes), 0.4 * sizes.max())
    axes.set_xlim(max(0.0, sizes.min() - 0.25 * span), sizes.max() + 0.3 * span)
    if axes.get_xlim()[0] < BUDGET < axes.get_xlim()[1]:
        axes.axvline(BUDGET, color=WORSE, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        axes.annotate(
            f"{BUDGET} MB limit", (BUDGET, axes.get_ylim()[1]), xytext=(-4, -4), textcoords="offset points", fontsize=8.5,
            color=WORSE, ha="right", va="top",
        )  # fmt: skip
    inches = axes.get_position().height * figure.get_size_inches()[1]
    line = (axes.get_ylim()[1] - axes.get_ylim()[0]) / (72 * inches) * 25  # what two lines of words take, in percent
    below = -np.inf
    for entry in sorted(entries, key=lambda entry: (entry.main, entry.nme)):
        area = 60 + 640 * entry.milliseconds / slowest
        axes.scatter(
            entry.megabytes, entry.nme, s=area, color=tint[entry.label] if entry.main else RULE,
            alpha=0.8 if entry.main else 0.4, edgecolors="white", linewidths=1.2, zorder=3 if entry.main else 2,
        )  # fmt: skip
        if entry.main:
            left = entry.megabytes > sizes.min() + 0.6 * np.ptp(sizes)
            place = max(entry.nme, below + line)  # clear of the words of the one before
            below = place
            offset = np.sqrt(area / np.pi) + 4
            axes.annotate(
                f"{entry.label}\n{entry.milliseconds:.1f} ms", (entry.megabytes, place),
                xytext=(-offset if left else offset, 0), textcoords="offset points", fontsize=9, color=INK,
                ha="right" if left else "left", va="center",
            )  # fmt: skip
    return figure


def frontier(labels: Sequence[str], cost: Sequence[float], error: Sequence[float], unit: str) -> Figure:
    """Error in percent against a cost; those that no other beats in both are joined and bold."""
    figure = new_figure(WIDTH, 3.4)
    axes = figure.add_axes((0.085, 0.135, 0.885, 0.79))
    _style(axes, unit, "NME, %")
    ahead = front(cost, error)
    colour = PAGE_ROLES["distilled"]
    axes.step(
        [cost[i] for i in ahead],
        [error[i] for i in ahead],
        where="post",
        color=colour,
        linewidth=1.6,
        alpha=0.7,
        zorder=2,
    )
    axes.margins(0.2, 0.14)
    for index in range(len(labels)):
        strong = index in ahead
        axes.plot(cost[index], error[index], "o", color=colour if strong else PAGE_ROLES["control"],
                  markersize=7 if strong else 5.5, markeredgecolor="white", zorder=4)  # fmt: skip
    place_labels(axes, cost, error, labels, ahead)
    return figure


def differences(rows: Sequence[Difference], unit: str = "difference from the control, points of NME") -> Figure:
    """Forest plot: mean and interval of each row; filled where the interval is clear of zero, hollow where it is not."""
    from matplotlib.ticker import MaxNLocator

    longest = max(len(row.label) for row in rows)
    height = 0.29 * len(rows) + 0.6
    figure = new_figure(WIDTH, height)
    left = 0.05 + 0.0155 * min(longest, LABEL)
    axes = figure.add_axes((left, 0.46 / height, 0.965 - left, 1 - 0.56 / height))
    style_axes(axes, "", unit, grid="x")
    axes.axvline(0, color=MUTED, linewidth=1)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    for y, row in enumerate(rows):
        colour = MUTED if not row.clear else BETTER if row.mean < 0 else WORSE
        axes.plot([row.low, row.high], [y, y], color=colour, linewidth=2.2, solid_capstyle="round", zorder=3)
        axes.plot([row.mean], [y], "o", color=colour if row.clear else "white", markeredgecolor=colour, markersize=6.5,
                  markeredgewidth=1.6, zorder=4)  # fmt: skip
    axes.set_yticks(
        range(len(rows)), [row.label if len(row.label) <= LABEL else f"{row.label[: LABEL - 1]}…" for row in rows]
    )
    axes.tick_params(axis="y", labelsize=9, colors=INK)
    axes.tick_params(axis="x", labelsize=8.5)
    axes.xaxis.label.set_size(8.5)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.spines["bottom"].set_visible(False)
    axes.margins(x=0.08)
    return figure


def _style(axes: Axes, x: str, y: str) -> None:
    """Axes whose vertical unit stands above them, level, so that it takes no width."""
    style_axes(axes, "", x)
    axes.set_title(y, fontsize=9.5, color=MUTED, loc="left", pad=6)


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


# ---------------------------------------------------------------------------------------------------- photographs


def over_photo(
    image: np.ndarray, heat: np.ndarray, extent: tuple[float, float, float, float], strength: float = 0.85
) -> np.ndarray:
    """Heat (h, w), zero to its own peak, over a darkened grey photo (H, W, 3) uint8 RGB of the same size.

    `extent` (left, top, right, bottom) is where the outer corners of the heat's grid lie, in pixels of the photo; what
    reaches beyond the photo is cut.
    """
    height, width = image.shape[:2]
    left, top, right, bottom = extent
    rows, columns = heat.shape
    scale = np.array([[(right - left) / columns, 0, left], [0, (bottom - top) / rows, top]], dtype=np.float64)
    # from cell centres to pixel centres
    scale[:, 2] += 0.5 * scale[[0, 1], [0, 1]] - 0.5
    large = cv2.warpAffine(
        np.asarray(heat, dtype=np.float32), scale, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )  # fmt: skip
    share = np.clip(large / max(float(large.max()), 1e-12), 0, 1)
    places, stops = zip(*HEAT, strict=True)
    tint = np.stack([np.interp(share, places, [stop[channel] for stop in stops]) for channel in range(3)], axis=-1)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float64)
    alpha = (strength * share**0.7)[..., None]
    return np.clip(0.72 * grey * (1 - alpha) + tint * alpha, 0, 255).astype(np.uint8)


def to_jpeg(image: np.ndarray, side: int = 320, quality: int = 86) -> bytes:
    """(H, W, 3) uint8 RGB -> JPEG whose longer side is at most `side` pixels."""
    scale = side / max(image.shape[:2])
    if scale < 1:
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


# ---------------------------------------------------------------------------------------------------- files


def to_bytes(figure: Figure, dpi: int = 220) -> bytes:
    """The figure as PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def to_svg(figure: Figure, name: str) -> str:
    """The figure as an <svg> element to be set into a page, transparent, its text as text.

    Colours become `var(--ink)` and so on, so that the page's light or dark style decides; ids begin with `name`, so
    that several figures can stand in one page.
    """
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(?<=[\s])id="([^"]*)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{name}-", text)
    for colour, property_name in PAGE_COLOURS.items():
        text = text.replace(colour, f"var(--{property_name})")
    text = re.sub(r"\s*xmlns:xlink=\"[^\"]*\"", "", text).replace("xlink:href", "href")
    width, height = (72 * side for side in figure.get_size_inches())
    return re.sub(
        r"<svg[^>]*>", f'<svg viewBox="0 0 {width:g} {height:g}" xmlns="http://www.w3.org/2000/svg">', text, count=1
    )


def typefaces() -> dict[str, Path]:
    """TrueType files that come with matplotlib, for documents that must look the same everywhere: a serif, a mono."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    names = {
        "serif": "STIXGeneral", "serif-bold": "STIXGeneralBol", "serif-italic": "STIXGeneralItalic",
        "serif-bold-italic": "STIXGeneralBolIta", "mono": "DejaVuSansMono",
    }  # fmt: skip
    return {name: folder / f"{file}.ttf" for name, file in names.items()}
