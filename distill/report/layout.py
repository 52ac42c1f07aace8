"""Pieces onto pages: bands that go across, and bands of two columns of even height."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import Flowable
from reportlab.platypus import Table as Grid

LEAST = 70.0  # points: a column is not begun in less room than this
LEAST_SHARE = 0.75  # of its size, to which a picture is shrunk to end a page
LEAST_ROWS = 3  # of a table, on either side of a page break


class Shrinking(Flowable):
    """A flowable that can be told to take less height. `needed` is what it took when it was last measured, in points."""

    needed = 0.0

    def limit(self, height: float) -> None:
        raise NotImplementedError


@dataclass
class Piece:
    """Flowables that stay together, one below the other."""

    flowables: list[Flowable]
    heights: list[float] = field(default_factory=list)

    def measure(self, canvas: Canvas, width: float) -> float:
        """Height at this width, with the space around each flowable, in points."""
        self.heights = [
            flowable.wrapOn(canvas, width, 10_000)[1] + flowable.getSpaceBefore() + flowable.getSpaceAfter()
            for flowable in self.flowables
        ]
        return sum(self.heights)

    def shrink(self, canvas: Canvas, width: float, room: float) -> float:
        """Make what can be made smaller as small as it takes to fit, down to LEAST_SHARE of its size; the new height."""
        height = sum(self.heights)
        for flowable in self.flowables:
            if isinstance(flowable, Shrinking) and flowable.needed * (1 - LEAST_SHARE) >= height - room > 0:
                flowable.limit(flowable.needed - (height - room))
        return self.measure(canvas, width)

    def split(self, canvas: Canvas, width: float, room: float) -> tuple[Piece, Piece] | None:
        """The part of a piece with a long table that has this much room, and the rest; None where that leaves a stump."""
        for place, flowable in enumerate(self.flowables):
            before = sum(self.heights[:place])
            if isinstance(flowable, Grid) and len(flowable._cellvalues) >= 2 * LEAST_ROWS:
                # where the table alone would fit, but not what follows it, its last rows go with that
                most = sum(flowable._rowHeights[: -LEAST_ROWS - 1])
                parts = flowable.splitOn(canvas, width, min(room - before, most))
                if len(parts) == 2 and all(len(part._cellvalues) > LEAST_ROWS for part in parts):
                    return Piece([*self.flowables[:place], parts[0]]), Piece([parts[1], *self.flowables[place + 1 :]])
        return None

    def draw(self, canvas: Canvas, x: float, top: float) -> None:
        for flowable, height in zip(self.flowables, self.heights, strict=True):
            flowable.drawOn(canvas, x, top - height + flowable.getSpaceAfter())
            top -= height


@dataclass
class Band:
    pieces: list[Piece]
    wide: bool  # one piece across the page; else pieces for two columns


@dataclass(frozen=True)
class Page:
    """Where things may be on a page, in points from its lower left corner."""

    left: float
    top: float
    bottom: float
    width: float
    gutter: float

    @property
    def column(self) -> float:
        return (self.width - self.gutter) / 2


@dataclass(frozen=True)
class Placed:
    piece: Piece
    x: float
    top: float


def lay_out(canvas: Canvas, bands: Sequence[Band], page: Page) -> list[list[Placed]]:
    """The places of all pieces, page by page, in the order of the bands. Nothing is drawn; the canvas measures."""
    pages: list[list[Placed]] = [[]]
    y = page.top

    def turn() -> None:
        nonlocal y
        pages.append([])
        y = page.top

    for band in bands:
        if band.wide:
            waiting = list(band.pieces)
            while waiting:
                piece, room = waiting.pop(0), y - page.bottom
                height = piece.measure(canvas, page.width)
                if height > room and y < page.top:
                    height = piece.shrink(canvas, page.width, room)
                if height > room:
                    parts = piece.split(canvas, page.width, room)
                    if parts:
                        waiting = [*parts, *waiting]
                        continue
                    if y < page.top:
                        turn()
                pages[-1].append(Placed(piece, page.left, y))
                y -= height
            continue
        pieces = list(band.pieces)
        heights = [piece.measure(canvas, page.column) for piece in pieces]
        while pieces:
            room = y - page.bottom
            if room < max(LEAST, min(heights[0], page.top - page.bottom)) and y < page.top:
                turn()
                continue
            first, second = _share(heights, room)
            used = 0.0
            for column, (start, stop) in enumerate(((0, first), (first, second))):
                x, top = page.left + column * (page.column + page.gutter), y
                for piece, height in zip(pieces[start:stop], heights[start:stop], strict=True):
                    pages[-1].append(Placed(piece, x, top))
                    top -= height
                used = max(used, y - top)
            pieces, heights, y = pieces[second:], heights[second:], y - used
    return pages


def _share(heights: Sequence[float], room: float) -> tuple[int, int]:
    """How many pieces end the left and the right column: of even height if all fit, else as many as have room."""
    splits = range(1, len(heights) + 1)
    best = min(splits, key=lambda k: max(sum(heights[:k]), sum(heights[k:])))
    if max(sum(heights[:best]), sum(heights[best:])) <= room:
        return best, len(heights)
    ends, start = [], 0
    for _ in range(2):
        stop, left = start, room
        while stop < len(heights) and heights[stop] <= left:
            left -= heights[stop]
            stop += 1
        ends.append(stop)
        start = stop
    return max(1, ends[0]), max(1, *ends)  # a piece higher than a page is drawn all the same
