"""What the figures share: colours, empty figures, headings, axes, legends, and writing to a file or into a page."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distill.files import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
INK, MUTED, GRID, RULE = "#22272e", "#6b7480", "#e4e7eb", "#c9ced6"
TRUTH, PREDICTION = "#2fd07a", "#ff8c1a"  # on faces
BETTER, WORSE, UNSURE = "#1f8a70", "#c8452f", "#8d96a3"
# First the words that name a role, so that a model keeps its colour from picture to picture; then any others in turn.
ROLES = (("teacher", "#3b6fb6"), ("control", "#8d96a3"), ("distil", "#f07f13"), ("student", "#f07f13"))
CYCLE = ("#f07f13", "#3b6fb6", "#2a9d8f", "#b5487e", "#8d96a3", "#c9a227", "#6a4c93", "#5c7f3a", "#d1495b", "#4bb3d1")
ERROR_RAMP = ("#fbe7a1", "#f6a935", "#d9482b", "#7d0f3a")  # small to large
DIFFERENCE_RAMP = (BETTER, "#a9d8c8", "#eceff3", "#f0b7a8", WORSE)
# strength of a heatmap, 0 to 1 -> RGB
HEAT_RAMP = (
    (0.0, (20, 8, 46)),
    (0.3, (122, 28, 109)),
    (0.6, (229, 92, 48)),
    (0.82, (251, 180, 26)),
    (1.0, (252, 255, 164)),
)
MARGIN = 0.16  # inches between a figure's contents and its edge
# What `to_svg` leaves to the style sheet of its page, by the names of CSS custom properties.
PAGE_COLOURS = {
    INK: "ink", MUTED: "muted", GRID: "grid", RULE: "rule", "#ffffff": "paper", BETTER: "better", WORSE: "worse",
    "#3b6fb6": "teacher", "#8d96a3": "control", "#f07f13": "distilled",
}  # fmt: skip


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, outside pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def chart(size: tuple[float, float], title: str = "", caption: str = "") -> Figure:
    """A figure of `size` inches; its axes fill the room that labels leave, below a heading if there is one."""
    figure = new_figure(*size)
    figure.set_layout_engine("constrained", w_pad=0.06, h_pad=0.06)
    if title or caption:
        heading(figure, title, caption)
        layout: Any = figure.get_layout_engine()
        layout.set(rect=(0, 0, 1, 1 - (0.66 if caption else 0.42) / size[1]))
    return figure


def heading(figure: Figure, title: str, caption: str = "") -> None:
    """A title and a grey caption at the upper left."""
    width, height = figure.get_size_inches()
    figure.text(MARGIN / width, 1 - 0.13 / height, title, fontsize=13, weight="bold", color=INK, va="top")
    top = 0.39 if title else 0.14
    figure.text(MARGIN / width, 1 - top / height, caption, fontsize=9.5, color=MUTED, va="top")


def style_axes(
    axes: Axes, title: str, x: str = "", y: str = "", size: float = 10.5, grid: Literal["both", "x", "y"] = "both"
) -> None:
    """Title, labels and grid of a chart in this project's look; size: of the title, in points."""
    axes.set_title(title, fontsize=size, color=INK, loc="left", weight="bold", pad=6)
    axes.set_xlabel(x, fontsize=9.5, color=MUTED)
    axes.set_ylabel(y, fontsize=9.5, color=MUTED)
    axes.grid(True, axis=grid, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, colors=MUTED, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(RULE)


def legend(where: Figure | Axes, entries: tuple[Sequence[Any], Sequence[str]], loc: str, ncols: int) -> None:
    """entries: handles and labels, as `Axes.get_legend_handles_labels` gives them."""
    box: dict[str, Any] = {
        "facecolor": "white",
        "edgecolor": "none",
        "framealpha": 0.85,
        "borderpad": 0.5,
        "labelspacing": 0.35,
    }
    where.legend(
        entries[0],
        entries[1],
        loc=loc,
        ncols=ncols,
        fontsize=8.5,
        handlelength=1.2,
        columnspacing=1.3,
        labelcolor=INK,
        **box,
    )


def ramp(colours: Sequence[str]) -> Any:
    """A matplotlib colour map through these colours."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("ramp", list(colours))


def cycle(count: int) -> list[str]:
    """The first colours of the palette, repeated where there are too few."""
    return [CYCLE[index % len(CYCLE)] for index in range(count)]


def colours(labels: Iterable[str]) -> dict[str, str]:
    """A colour a label: a role's own where no other label has it, else the next unused one."""
    labels = list(labels)
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


def rgb255_of(colour: str) -> tuple[int, int, int]:
    """`#rrggbb` as three numbers from 0 to 255."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


# ---------------------------------------------------------------------------------------------------- files


def to_png(figure: Figure, path: str | os.PathLike) -> Path:
    """Write the figure; an interrupted write leaves no half picture. The same figure gives the same bytes."""
    path = Path(path)
    with atomic(path) as temporary:
        # the default level, 6, takes a seventh longer a picture and makes files a tenth smaller
        kwargs = {"compress_level": 3}
        figure.savefig(
            temporary, format="png", dpi=DPI, facecolor="white", metadata={"Software": None}, pil_kwargs=kwargs
        )
    return path


def to_jpeg(figure: Figure, dpi: int = 200, quality: int = 86) -> bytes:
    """The figure as the bytes of a JPEG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="jpg", dpi=dpi, facecolor="white", pil_kwargs={"quality": quality})
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
    """TrueType files that come with matplotlib, for documents that must look the same on every machine."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    names = {
        "serif": "STIXGeneral", "serif-bold": "STIXGeneralBol", "serif-italic": "STIXGeneralItalic",
        "sans": "DejaVuSans", "sans-bold": "DejaVuSans-Bold", "mono": "DejaVuSansMono",
    }  # fmt: skip
    return {name: folder / f"{file}.ttf" for name, file in names.items()}


def plain_log(axis: Any) -> None:
    """Numbers of a logarithmic axis written out, as few as can be read."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    upright = axis.axis_name == "y"  # numbers above each other need less room
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0, 7.0) if upright else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
