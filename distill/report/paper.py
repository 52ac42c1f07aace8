"""How the parts of a document look on paper: reportlab's only place."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

from reportlab.lib.colors import HexColor
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.lib.utils import ImageReader
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import Flowable, Paragraph, Spacer, TableStyle
from reportlab.platypus import Table as Grid

from distill.figures.report import to_bytes, typefaces
from distill.figures.style import GRID, INK, MUTED, PREDICTION, TRUTH
from distill.report.document import (
    Block,
    Chart,
    Column,
    Document,
    Gallery,
    Passage,
    Section,
    Table,
    Tile,
)
from distill.report.layout import (
    Band,
    Page,
    Piece,
    Placed,
    Shrinking,
    lay_out,
)
from distill.report.wording import counted

MARGIN = 16 * mm
WIDTH = A4[0] - 2 * MARGIN
GUTTER = 6 * mm
COLUMN = (WIDTH - GUTTER) / 2
RULE, WASH, ACCENT = "#c9ced6", "#f6f7f9", "#b35508"
ROLE_COLOURS = {
    "teacher": "#3b6fb6", "assistant": "#3b6fb6", "control": "#8d96a3", "tuned": "#8d96a3", "distilled": "#f07f13",
    "averaged": "#f07f13",
}  # fmt: skip


@functools.cache
def _fonts() -> None:
    for name, path in typefaces().items():
        pdfmetrics.registerFont(TTFont(name, str(path)))
    pdfmetrics.registerFontFamily(
        "serif", normal="serif", bold="serif-bold", italic="serif-italic", boldItalic="serif-bold-italic"
    )


@functools.cache
def _style(name: str) -> ParagraphStyle:
    _fonts()
    base: dict[str, Any] = {"fontName": "serif", "textColor": HexColor(INK)}
    made = {
        "text": {"fontSize": 9.2, "leading": 11, "spaceAfter": 3},
        "lead": {"fontSize": 9.3, "leading": 11.4, "spaceAfter": 3.5, "textColor": HexColor(MUTED)},
        "title": {"fontName": "serif-bold", "fontSize": 21, "leading": 24, "spaceAfter": 4},
        "subtitle": {"fontSize": 9, "leading": 11, "spaceAfter": 6, "textColor": HexColor(MUTED)},
        "statement": {"fontSize": 11, "leading": 14, "spaceAfter": 5},
        "part": {
            "fontName": "serif-bold", "fontSize": 14, "leading": 17, "spaceBefore": 8, "spaceAfter": 3,
            "textColor": HexColor(ACCENT),
        },
        "section": {"fontName": "serif-bold", "fontSize": 10.8, "leading": 13, "spaceBefore": 6, "spaceAfter": 2.5},
        "name": {"fontName": "serif-bold", "fontSize": 8.6, "leading": 10.5, "spaceBefore": 3, "spaceAfter": 2},
        "caption": {"fontSize": 7.4, "leading": 8.9, "spaceAfter": 5, "textColor": HexColor(MUTED)},
        "cell": {"fontSize": 7.6, "leading": 9},
        "number": {"fontName": "serif-bold", "fontSize": 14, "leading": 16},
        "under": {"fontSize": 7.6, "leading": 9, "textColor": HexColor(MUTED)},
    }[name]  # fmt: skip
    return ParagraphStyle(name, **(base | made))


def plan(document: Document, kept: set[int], makers: Makers, remark: str) -> list[list[Placed]]:
    """Pages with the blocks whose id() is in `kept`: what stands where."""
    _fonts()
    page = Page(MARGIN, A4[1] - 13 * mm, 14 * mm, WIDTH, GUTTER)
    return lay_out(Canvas(io.BytesIO(), pagesize=A4), _bands(document, kept, makers, remark), page)


def draw(document: Document, pages: Sequence[Sequence[Placed]]) -> bytes:
    """The pages as a PDF."""
    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=A4, invariant=1)
    canvas.setTitle(document.title)
    canvas.setSubject(document.statement)
    for number, page in enumerate(pages, start=1):
        for placed in page:
            placed.piece.draw(canvas, placed.x, placed.top)
        canvas.setFont("serif", 7.4)
        canvas.setFillColor(HexColor(MUTED))
        canvas.drawString(MARGIN, 8.5 * mm, f"{document.title[:70]}  ·  made {document.made}, from MLflow alone")
        canvas.drawRightString(A4[0] - MARGIN, 8.5 * mm, str(number))
        canvas.showPage()
    canvas.save()
    return buffer.getvalue()


def _bands(document: Document, kept: set[int], makers: Makers, remark: str) -> list[Band]:
    bands = [Band([Piece(_head(document))], wide=True)]
    for number, (part, sections) in enumerate(_in_order(document), start=1):
        bands.append(Band([Piece([Paragraph(f"{number}  {escape(part)}", _style("part"))])], wide=True))
        shown = [(section, [b for b in section.blocks if id(b) in kept]) for section in sections]
        late: list[Block] = []  # charts that follow the last of several sections of tables
        index = 0
        for place, (section, blocks) in enumerate(shown):
            tabular = section.key.startswith("ablation")
            if tabular:
                late += [block for block in blocks if isinstance(block, Chart)]
                blocks = [block for block in blocks if not isinstance(block, Chart)]
                if not any(following.key.startswith("ablation") for following, _ in shown[place + 1 :]):
                    blocks, late = [*blocks, *late], []
            if not blocks:
                continue
            index += 1
            heads = [Paragraph(f"{number}.{index}  {escape(section.title)}", _style("section"))]
            if section.lead:
                heads.append(Paragraph(escape(section.lead), _style("lead")))
            for band in makers.bands(blocks):
                band.pieces[0].flowables[:0] = heads
                heads = []
                if not band.wide and not bands[-1].wide:
                    bands[-1].pieces += band.pieces
                else:
                    bands.append(band)
    if remark:
        bands.append(Band([Piece([Paragraph(escape(remark), _style("caption"))])], wide=True))
    return _together(bands)


def _in_order(document: Document) -> list[tuple[str, Sequence[Section]]]:
    """The parts as the challenge wants them: the approach first."""
    return sorted(document.parts, key=lambda part: part[0] != "Approach")


def _together(bands: list[Band]) -> list[Band]:
    """A title or a passage across the page stays with what is across the page below it."""
    joined: list[Band] = []
    for band in bands:
        above = joined[-1] if joined else None
        if band.wide and above and above.wide and all(isinstance(f, Paragraph) for f in above.pieces[-1].flowables):
            band.pieces[0].flowables[:0] = above.pieces[-1].flowables
            above.pieces.pop()
            if not above.pieces:
                joined.pop()
        joined.append(band)
    return joined


def _head(document: Document) -> list[Flowable]:
    cells = [
        [Paragraph(escape(n.value), _style("number")), Paragraph(_marked(n.words, n.role), _style("under"))]
        for n in document.numbers
    ]
    numbers = Grid([cells], colWidths=[WIDTH / max(1, len(cells))] * len(cells), style=TableStyle([
        ("BACKGROUND", (0, 0), (-1, -1), HexColor(WASH)), ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("TOPPADDING", (0, 0), (-1, -1), 4), ("BOTTOMPADDING", (0, 0), (-1, -1), 5),
    ]))  # fmt: skip
    return [
        Paragraph(escape(document.title), _style("title")),
        Paragraph(escape(document.subtitle), _style("subtitle")),
        Paragraph(escape(document.statement), _style("statement")),
        *([numbers, Spacer(0, 4)] if cells else []),
        *([Paragraph(escape(" ".join(document.cautions)), _style("caption"))] if document.cautions else []),
    ]


def _marked(text: str, role: str) -> str:
    colour = ROLE_COLOURS.get(role)
    return f'<font name="serif" color="{colour}">●</font> {escape(text)}' if colour else escape(text)


class Makers:
    """Blocks -> flowables. Tables are made once and used again while the document is being fitted."""

    def __init__(self) -> None:
        self._tables: dict[int, list[Flowable]] = {}

    def bands(self, blocks: Sequence[Block]) -> list[Band]:
        """A section's blocks, in order; small charts stand side by side across the page."""
        made: list[Band] = []
        small = [block for block in blocks if isinstance(block, Chart) and block.small]
        for block in blocks:
            if block in small:
                if block is small[0]:
                    made.append(Band([Piece([self._small_charts(small)])], wide=True))
            elif isinstance(block, Passage):
                start = f"<b>{escape(block.title)}.</b> " if block.title else ""
                texts = [start + escape(block.text[0]), *map(escape, block.text[1:])]
                made.append(Band([Piece([Paragraph(text, _style("text"))]) for text in texts], block.wide))
            elif isinstance(block, Chart):
                made.append(Band([Piece([self._named(block, COLUMN)])], wide=False))
            elif isinstance(block, Table):
                if id(block) not in self._tables:
                    self._tables[id(block)] = table(block)
                made.append(Band([Piece([*self._tables[id(block)]])], wide=block.wide))
            elif isinstance(block, Gallery):
                name, caption = (
                    Paragraph(escape(block.title), _style("name")),
                    Paragraph(escape(block.caption), _style("caption")),
                )
                made.append(Band([Piece([name, Sheet(block), Spacer(0, 3), caption])], wide=True))
            else:
                raise TypeError(f"no place on paper for a {type(block).__name__}")
        return made

    def _small_charts(self, charts: Sequence[Chart]) -> Flowable:
        width = WIDTH / 3
        cells = [self._named(chart, width - 3 * mm) for chart in charts]
        return Grid([cells], colWidths=[width] * len(cells), hAlign="LEFT", style=_bare())

    def _named(self, chart: Chart, width: float) -> Flowable:
        rows = [[Paragraph(escape(chart.title), _style("name"))], [Picture(chart, width)], [Spacer(0, 2)]]
        rows += [[Paragraph(escape(chart.caption), _style("caption"))], [Spacer(0, 5)]]
        return Grid(rows, colWidths=[width], hAlign="LEFT", style=_bare())


class Picture(Flowable):
    """A chart, which becomes pixels only where it is drawn."""

    def __init__(self, chart: Chart, width: float):
        super().__init__()
        across, down = chart.figure.get_size_inches()
        self.chart, self.width, self.height = chart, width, width * down / across

    def wrap(self, *_: float) -> tuple[float, float]:
        return self.width, self.height

    def draw(self) -> None:
        self.canv.drawImage(_image(to_bytes(self.chart.figure)), 0, 0, self.width, self.height)


def _bare() -> TableStyle:
    sides = ("LEFTPADDING", "RIGHTPADDING", "TOPPADDING", "BOTTOMPADDING")
    return TableStyle([(side, (0, 0), (-1, -1), 0) for side in sides] + [("VALIGN", (0, 0), (-1, -1), "TOP")])


# ---------------------------------------------------------------------------------------------------- tables


def table(block: Table) -> list[Flowable]:
    """Title, rows between rules, caption; in type as large as the width allows."""
    width = WIDTH if block.wide else COLUMN
    shown = [i for i, column in enumerate(block.columns) if not column.page_only]
    columns = [block.columns[i] for i in shown]
    rows = [row for row in block.rows if not row.page_only]
    left = len(rows) - block.pdf_rows if block.pdf_rows else 0
    rows = rows[: block.pdf_rows] if left > 0 else rows
    texts = [[row.cells[i] for i in shown] for row in rows]
    pad = 4.0 if block.wide else 3.0
    size, widths = _fit(columns, texts, width, pad)
    heads = [_cell(column.name, size, "serif", MUTED, column.numeric) for column in columns]
    body = []
    for row, cells in zip(rows, texts, strict=True):
        line = []
        for place, (column, text) in enumerate(zip(columns, cells, strict=True)):
            font = "mono" if column.mono else "serif-bold" if row.strong else "serif"
            colour = ACCENT if shown[place] in row.marked else INK
            words = _marked(text, row.role) if place == 0 else escape(text)
            line.append(_cell(words, size, font, colour, column.numeric, raw=True))
        body.append(line)
    style = TableStyle([
        ("LINEABOVE", (0, 0), (-1, 0), 0.8, HexColor(INK)), ("LINEBELOW", (0, 0), (-1, 0), 0.4, HexColor(MUTED)),
        ("LINEBELOW", (0, -1), (-1, -1), 0.8, HexColor(INK)), ("LINEBELOW", (0, 1), (-1, -2), 0.25, HexColor(GRID)),
        ("LEFTPADDING", (0, 0), (-1, -1), pad / 2), ("RIGHTPADDING", (0, 0), (-1, -1), pad / 2),
        ("TOPPADDING", (0, 0), (-1, -1), 0.9), ("BOTTOMPADDING", (0, 0), (-1, -1), 1.4), ("VALIGN", (0, 0), (-1, -1), "TOP"),
    ])  # fmt: skip
    for place in range(len(columns)):
        if gap := _apart(columns, place):
            style.add("LEFTPADDING", (place, 0), (place, -1), pad / 2 + gap)
    caption = block.caption + (f" {counted(left, 'more row')} in report.html." if left > 0 else "")
    grid = Grid([heads, *body], colWidths=widths, style=style, hAlign="LEFT", repeatRows=1)
    after = [Paragraph(escape(caption), _style("caption"))] if caption else []
    before = [Paragraph(escape(block.title), _style("name"))] if block.headed else [Spacer(0, 2)]
    return [*before, grid, Spacer(0, 2), *after]


def _apart(columns: Sequence[Column], place: int) -> float:
    """Words after numbers: one is set to the left, the other to the right, so they would touch."""
    return 7.0 if place and columns[place - 1].numeric and not columns[place].numeric else 0.0


def _cell(text: str, size: float, font: str, colour: str, right: bool, raw: bool = False) -> Paragraph:
    size = 0.8 * size if font == "mono" else size
    style = ParagraphStyle(
        "cell", fontName=font, fontSize=size, leading=1.2 * size, textColor=HexColor(colour), alignment=2 if right else 0,
        splitLongWords=True,
    )  # fmt: skip
    return Paragraph(text if raw else escape(text), style)


def _fit(
    columns: Sequence[Column], texts: Sequence[Sequence[str]], width: float, pad: float
) -> tuple[float, list[float]]:
    """Type size and column widths: one line a cell if that can be, else the widest columns of words are broken."""
    for size in (8.4, 8.0, 7.6, 7.2, 6.8, 6.4):
        natural = []
        for place, column in enumerate(columns):
            font, scale = ("mono", 0.8) if column.mono else ("serif-bold", 1.0)
            mark = 1.2 * size if place == 0 else 0
            words = [pdfmetrics.stringWidth(column.name, "serif", size)]
            words += [pdfmetrics.stringWidth(cells[place], font, scale * size) + mark for cells in texts]
            natural.append(max(words) + pad + 1 + _apart(columns, place))
        if sum(natural) <= width:
            slack = (width - sum(natural)) / len(columns)
            return size, [w + slack for w in natural]
    words = [i for i, column in enumerate(columns) if not column.numeric]
    while sum(natural) > width and words:
        widest = max(words, key=lambda i: natural[i])
        natural[widest] -= min(6.0, sum(natural) - width)
    return size, natural


# ---------------------------------------------------------------------------------------------------- photographs


class Sheet(Shrinking):
    """Rows of photographs, their landmarks as lines."""

    GAP, GROUP_GAP, LABEL = 1.5, 6.0, 9.0

    def __init__(self, gallery: Gallery):
        super().__init__()
        self.highest = 10_000.0
        if gallery.in_line:
            self.rows = [("", [groups[0] for _, groups in gallery.rows])]
        else:
            self.rows = [(label, list(groups)) for label, groups in gallery.rows]

    def wrap(self, available_width: float, _: float) -> tuple[float, float]:
        tiles = max(sum(len(group) for group in groups) for _, groups in self.rows)
        gaps = max(len(groups) for _, groups in self.rows) - 1
        self.left = self.LABEL if any(label for label, _ in self.rows) else 0
        self.side = (available_width - self.left - gaps * self.GROUP_GAP - (tiles - 1 - gaps) * self.GAP) / tiles
        between = (len(self.rows) - 1) * 2 * self.GAP
        self.side = min(self.side, 34 * mm, (self.highest - between) / len(self.rows))
        self.needed = len(self.rows) * self.side + between
        return available_width, self.needed

    def limit(self, height: float) -> None:
        self.highest = height

    def draw(self) -> None:
        canvas = self.canv
        for index, (label, groups) in enumerate(self.rows):
            y = (len(self.rows) - 1 - index) * (self.side + 2 * self.GAP)
            if label:
                canvas.saveState()
                canvas.translate(6, y + self.side / 2)
                canvas.rotate(90)
                canvas.setFont("serif", 8)
                canvas.setFillColor(HexColor(MUTED))
                canvas.drawCentredString(0, 0, label)
                canvas.restoreState()
            x = self.left
            for group in groups:
                for tile in group:
                    self._tile(tile, x, y)
                    x += self.side + self.GAP
                x += self.GROUP_GAP - self.GAP

    def _tile(self, tile: Tile, x: float, y: float) -> None:
        canvas, side = self.canv, self.side
        width, height = tile.size
        scale = side / max(width, height)
        canvas.saveState()
        clip = canvas.beginPath()
        clip.rect(x, y, side, side)
        canvas.clipPath(clip, stroke=0, fill=0)
        canvas.drawImage(_image(tile.photo), x, y + side - height * scale, width * scale, height * scale)
        canvas.setLineWidth(0.55)
        canvas.setLineJoin(1)
        for name, points in tile.layers:
            canvas.setStrokeColor(HexColor(TRUTH if name == "truth" else PREDICTION))
            for members, closed in tile.markup.outlines:
                path = canvas.beginPath()
                for place, (u, v) in enumerate(points[list(members)]):
                    (path.lineTo if place else path.moveTo)(x + u * scale, y + side - v * scale)
                if closed:
                    path.close()
                canvas.drawPath(path, stroke=1, fill=0)
        if tile.tag:
            self._tag(tile, x, y)
        canvas.restoreState()

    def _tag(self, tile: Tile, x: float, y: float) -> None:
        canvas = self.canv
        size = 6.2 if self.side > 22 * mm else 5.4
        mark = 0.75 * size if tile.role in ROLE_COLOURS else 0
        width = pdfmetrics.stringWidth(tile.tag, "serif", size) + mark + 4
        canvas.setFillColor(HexColor("#0c0f13"), alpha=0.78)
        canvas.roundRect(x + 1.5, y + 1.5, width, size + 2, 1.5, stroke=0, fill=1)
        canvas.setFillAlpha(1)
        if mark:
            canvas.setFillColor(HexColor(ROLE_COLOURS[tile.role]))
            canvas.circle(x + 3.5 + size / 4, y + 2.5 + size / 2, size / 4, stroke=0, fill=1)
        canvas.setFillColor(HexColor("#ffffff"))
        canvas.setFont("serif", size)
        canvas.drawString(x + 3.5 + mark, y + 1.5 + 0.32 * size, tile.tag)


@functools.lru_cache(maxsize=64)
def _image(data: bytes) -> ImageReader:
    return ImageReader(io.BytesIO(data))
