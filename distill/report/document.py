"""The document that both files tell: sections of passages, tables, charts and galleries, in reading order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from distill.landmarks import IBUG68, Markup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# How much a block matters where there is room for four pages only: MUST stays or the PDF is refused, PAGE is for the
# HTML page alone; between them the larger numbers go first.
MUST, FIRST, SHOULD, COULD, MAY, PAGE = range(6)


@dataclass(frozen=True)
class Passage:
    text: tuple[str, ...]  # paragraphs, plain
    title: str = ""
    rank: int = MUST
    wide: bool = False
    tone: str = ""  # "note": an absence or a caution


@dataclass(frozen=True)
class Column:
    name: str
    numeric: bool = False
    mono: bool = False  # run ids, fingerprints
    page_only: bool = False  # too wide for the PDF


@dataclass(frozen=True)
class Row:
    cells: tuple[str, ...]
    role: str = ""  # colours its mark
    strong: bool = False
    marked: frozenset[int] = frozenset()  # cells that differ from their neighbours
    page_only: bool = False


@dataclass(frozen=True)
class Table:
    key: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    caption: str = ""
    rank: int = MUST
    wide: bool = False  # takes the whole width of a page of paper
    pdf_rows: int = 0  # at most so many in the PDF; 0: all
    headed: bool = True  # False: the section's title says it


@dataclass(frozen=True, eq=False)
class Chart:
    key: str
    title: str
    figure: Figure
    caption: str = ""
    rank: int = SHOULD
    small: bool = False  # three of them stand side by side
    describes: str = ""  # for those who cannot see it


@dataclass(frozen=True, eq=False)
class Tile:
    photo: bytes  # JPEG
    size: tuple[int, int]  # width and height of the image that the layers' coordinates belong to
    layers: tuple[tuple[str, np.ndarray], ...] = ()  # ("truth" or "prediction", (P, 2)), drawn in this order
    tag: str = ""  # in the corner
    role: str = ""  # colours the tag's mark
    markup: Markup = IBUG68  # what the layers' points are


@dataclass(frozen=True, eq=False)
class Gallery:
    key: str
    title: str
    rows: tuple[tuple[str, tuple[tuple[Tile, ...], ...]], ...]  # label, groups of tiles that belong together
    caption: str = ""
    rank: int = SHOULD
    in_line: bool = False  # on paper: the first group of each row, all in one line


@dataclass(frozen=True, eq=False)
class Logged:
    """A picture that a run logged when it ended."""

    key: str
    title: str
    png: bytes
    caption: str = ""
    rank: int = PAGE


Block = Passage | Table | Chart | Gallery | Logged


@dataclass(frozen=True, eq=False)
class Section:
    key: str
    title: str
    blocks: tuple[Block, ...]
    lead: str = ""  # a sentence under the title
    nav: str = ""  # a shorter title for the page's list of sections


@dataclass(frozen=True)
class Number:
    """One of the few large numbers at the top."""

    value: str
    words: str
    role: str = ""


@dataclass(frozen=True, eq=False)
class Document:
    title: str
    subtitle: str
    statement: str  # the answer, in one or two sentences
    numbers: tuple[Number, ...]
    cautions: tuple[str, ...]
    parts: tuple[tuple[str, tuple[Section, ...]], ...]  # ("Approach", sections), ("Experiments", sections), ...
    made: str  # when and by which version
    run_ids: tuple[str, ...] = field(default=())
