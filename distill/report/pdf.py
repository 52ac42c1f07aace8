"""The document as a PDF of at most four pages: what has no room goes, by rank, and is named.

In the challenge's order: the approach, then the experiments. Text in two columns, wide tables and pictures across.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from distill.errors import UserError
from distill.report import paper
from distill.report.document import MUST, PAGE, Block, Document

MAX_PAGES = 4


@dataclass(frozen=True)
class Paper:
    path: Path
    pages: int
    left_out: tuple[str, ...]  # titles of the blocks that had no room


def write(document: Document, path: Path) -> Paper:
    """Write the PDF, atomically. Raises UserError where even what must be in it takes more than MAX_PAGES."""
    makers = paper.Makers()
    blocks = [block for block in blocks_of(document) if block.rank < PAGE]

    def plan(gone: list[Block]) -> list[list[paper.Placed]]:
        absent = {id(block) for block in gone}
        remark = _remark([block for block in blocks if id(block) in absent])
        return paper.plan(document, {id(block) for block in blocks} - absent, makers, remark)

    rest = sorted((b for b in blocks if b.rank > MUST), key=lambda block: (block.rank, blocks.index(block)))
    pages = plan(rest)
    if len(pages) > MAX_PAGES:
        raise UserError(
            f"The PDF would take {len(pages)} pages; expected at most {MAX_PAGES}. Report fewer runs or ablations."
        )
    # as many of the more important as there is room for, found by halving; then whichever of the others still fits
    low, high = 0, len(rest)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(plan(rest[middle:])) <= MAX_PAGES else (low, middle - 1)
    gone = rest[low:]
    pages = plan(gone)
    for block in gone[1:]:
        fewer = [other for other in gone if other is not block]
        again = plan(fewer)
        if len(again) <= MAX_PAGES:
            pages, gone = again, fewer
    left_out = sorted(gone, key=blocks.index)
    data = paper.draw(document, pages)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return Paper(path, len(pages), tuple(_name(block) for block in left_out))


def blocks_of(document: Document) -> Iterator[Block]:
    for _, sections in document.parts:
        for section in sections:
            yield from section.blocks


def _name(block: Block) -> str:
    return block.title or f"{block.text[0][:50]}…"  # only passages go without a title


def _remark(left_out: list[Block]) -> str:
    names = [block.title for block in left_out if block.title]
    return f"No room here, but in report.html: {'; '.join(names)}." if names else ""
