"""Face boxes from a file: which face, where, in pixels of its picture.

CSV: a header with at least image, x, y, w, h, then a row a face. JSON: a list of such objects, or an object
{image: [x, y, w, h]} or {image: [[x, y, w, h], ...]}. x and y are the left and top of the box. `image` is the picture's
name or path as it is given to the prediction; for a video the number of the frame, counted from 0, from which on the
box holds.
"""

from __future__ import annotations

import csv
import math
import re
import reprlib
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.errors import UserError
from distill.files import parse_json, read_text
from distill.predict.crops import Box

FIELDS = ("x", "y", "w", "h")
LARGEST = 20_000_000  # bytes of a box file


@dataclass(frozen=True)
class Boxes:
    """The faces of each picture, in the file's order."""

    file: Path
    of: dict[str, tuple[Box, ...]]

    def find(self, path: Path) -> tuple[Box, ...]:
        """Boxes of a picture, by its path as given or by its name; empty where the file has none."""
        return self.of.get(_normal(str(path))) or self.of.get(_normal(path.name), ())

    def unused(self, paths: Iterable[Path]) -> tuple[str, ...]:
        """Images of the file that are none of these pictures."""
        names = {_normal(name) for path in paths for name in (str(path), path.name)}
        return tuple(name for name in self.of if name not in names)

    def by_frame(self) -> dict[int, Box]:
        """Boxes of a video. Raises UserError where an image is no number of a frame, or a frame has several faces."""
        found = {}
        for name, boxes in self.of.items():
            if not re.fullmatch(r"\d{1,12}", name, re.ASCII):
                raise UserError(
                    f"Box file '{self.file}' has the image '{name[:40]}'; expected a video's frame number, from 0."
                )
            if len(boxes) > 1 or int(name) in found:
                raise UserError(f"Box file '{self.file}' has several boxes for frame {name}; a video is of one face.")
            found[int(name)] = boxes[0]
        return found


def read(path: Path) -> Boxes:
    """Read a box file. Raises UserError naming the line (CSV) or entry (JSON) and the field that is wrong."""
    text = read_text(path, "Box file", LARGEST)
    entries = _of_json(path, text) if path.suffix.lower() == ".json" else _of_csv(path, text)
    found: dict[str, list[Box]] = {}
    for where, name, values in entries:
        if not isinstance(name, (str, int)) or isinstance(name, bool) or str(name).strip() == "":
            raise UserError(
                f"Box file '{path}', {where}, field 'image' is {reprlib.repr(name)}; expected a picture's name."
            )
        found.setdefault(_normal(str(name).strip()), []).append(_box(path, where, values))
    if not found:
        raise UserError(f"Box file '{path}' holds no box; expected rows of image, x, y, w, h.")
    return Boxes(path, {name: tuple(boxes) for name, boxes in found.items()})


def _normal(name: str) -> str:
    """One form of names that look alike: systems differ in how they store an accent."""
    return unicodedata.normalize("NFC", name)


def _of_csv(path: Path, text: str) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """(where, image, values) of each row that is not empty."""
    rows = csv.reader(text.splitlines())
    try:
        header = [name.strip().lower() for name in next(rows, [])]
        missing = [name for name in ("image", *FIELDS) if name not in header]
        if missing:
            raise UserError(
                f"Box file '{path}', line 1 has no column '{missing[0]}'; expected the header image,x,y,w,h."
            )
        for row in filter(None, rows):
            where = f"line {rows.line_num}"
            if len(row) != len(header):
                raise UserError(f"Box file '{path}', {where} has {len(row)} fields; expected {len(header)}.")
            values = dict(zip(header, row, strict=True))
            yield where, values["image"], values
    except csv.Error as error:  # a field of more than 131,072 characters
        raise UserError(f"Box file '{path}', line {rows.line_num} is not CSV: {error}.") from None


def _of_json(path: Path, text: str) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """(where, image, values) of each box."""
    content = parse_json(text, f"Box file '{path}'", LARGEST)
    if isinstance(content, dict):
        for name, boxes in content.items():
            several = isinstance(boxes, list) and boxes and isinstance(boxes[0], list)
            for number, box in enumerate(boxes if several else [boxes]):
                where = f"image '{name}'" + (f", box {number}" if several else "")
                if not isinstance(box, list) or len(box) != len(FIELDS):
                    raise UserError(f"Box file '{path}', {where} is {reprlib.repr(box)}; expected [x, y, w, h].")
                yield where, name, dict(zip(FIELDS, box, strict=True))
    elif isinstance(content, list):
        for number, entry in enumerate(content):
            where = f"entry {number}"
            if not isinstance(entry, dict):
                raise UserError(f"Box file '{path}', {where} is {reprlib.repr(entry)}; expected an object.")
            for name in ("image", *FIELDS):
                if name not in entry:
                    raise UserError(f"Box file '{path}', {where} has no field '{name}'; expected image, x, y, w, h.")
            yield where, entry["image"], entry
    else:
        raise UserError(f"Box file '{path}' holds a {type(content).__name__}; expected a list or an object.")


def _box(path: Path, where: str, values: dict[str, Any]) -> Box:
    numbers = []
    for name in FIELDS:
        value = values[name]
        try:
            number = float(value) if not isinstance(value, bool) else math.nan
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        positive = name in ("w", "h")
        if not math.isfinite(number) or (positive and number <= 0):
            kind = "a number above 0" if positive else "a finite number"
            raise UserError(f"Box file '{path}', {where}, field '{name}' is {reprlib.repr(value)}; expected {kind}.")
        numbers.append(number)
    return Box(*numbers)
