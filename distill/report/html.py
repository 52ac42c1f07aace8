"""The document as one HTML page that needs nothing else: styles and script inside, charts as SVG, photographs as data."""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from distill.figures.report import to_svg
from distill.landmarks import IBUG68, Markup
from distill.report.document import (
    Chart,
    Document,
    Gallery,
    Passage,
    Tile,
)

HERE = Path(__file__).parent


def write(document: Document, path: Path) -> Path:
    """Write the page, atomically. Raises OSError where the folder cannot be written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(render(document), encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def render(document: Document) -> str:
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    photos = _photos(document)
    environment.globals.update(
        css=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup((HERE / "page.js").read_text(encoding="utf-8")),
        svg=lambda chart: Markup(to_svg(chart.figure, chart.key)),
        data_uri=data_uri,
        photos=photos,
        photo_id=lambda tile: photos[tile.photo][0],
        outlines=outlines,
        kind=lambda block: type(block).__name__,
        sort_key=sort_key,
        groups=chart_groups,
    )
    return environment.get_template("page.html.j2").render(document=document)


def data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def sort_key(text: str) -> str:
    """What a column is sorted by: the first number in a cell, or nothing where there is none."""
    found = re.search(r"[+\-]?\d[\d,]*\.?\d*", text.replace("−", "-"))
    return found[0].replace(",", "") if found else ""


def outlines(points: np.ndarray, markup: Markup = IBUG68) -> list[str]:
    """SVG path data of the face's lines, in pixels."""
    paths = []
    for members, closed in markup.outlines:
        line = " L".join(f"{x:.1f} {y:.1f}" for x, y in np.asarray(points, dtype=float)[list(members)])
        paths.append(f"M{line}{'Z' if closed else ''}")
    return paths


def chart_groups(blocks: tuple[Any, ...]) -> list[tuple[str, list[Any]]]:
    """Neighbouring charts together, so that they can stand side by side: (charts, small, beside or block; blocks)."""
    found: list[tuple[str, list[Any]]] = []
    for block in blocks:
        name = ("small" if block.small else "charts") if isinstance(block, Chart) else "block"
        if name != "block" and found and found[-1][0] == name:
            found[-1][1].append(block)
        else:
            found.append((name, [block]))
    return _beside(found)


def _beside(found: list[tuple[str, list[Any]]]) -> list[tuple[str, list[Any]]]:
    """A passage and the one chart that follows it stand side by side."""
    joined: list[tuple[str, list[Any]]] = []
    for name, blocks in found:
        if name == "charts" and len(blocks) == 1 and joined and isinstance(joined[-1][1][0], Passage):
            blocks, name = [*joined.pop()[1], *blocks], "beside"
        joined.append((name, blocks))
    return joined


def _photos(document: Document) -> dict[bytes, tuple[str, Tile]]:
    """Each photograph once, however many tiles show it: its bytes -> (id, a tile that shows it)."""
    tiles = [
        tile
        for _, sections in document.parts
        for section in sections
        for block in section.blocks if isinstance(block, Gallery)
        for _, groups in block.rows
        for group in groups
        for tile in group
    ]  # fmt: skip
    found: dict[bytes, tuple[str, Tile]] = {}
    for tile in tiles:
        found.setdefault(tile.photo, (f"photo-{len(found)}", tile))
    return found
