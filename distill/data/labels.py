"""Labels as they lie on disk: the challenge's `annot.pkl`, and the text files beside Microsoft's images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from distill.data import unpickling
from distill.data.images import Broken
from distill.errors import UserError
from distill.files import read_text
from distill.landmarks import IBUG68, Markup

MICROSOFT_LINES = 70  # of a text file: the last two are the pupils, beyond the 68 points
_LARGEST_TEXT = 1_000_000  # bytes


def parse_annot(path: Path) -> tuple[list[str], Sequence]:
    """The challenge's `annot.pkl`, a pickled pair of names (plain, each there once) and labels, which stay as they are
    (`points_of`). Only plain values and numpy numbers are admitted (unpickling.py). Raises UserError."""
    pair = unpickling.load(path)
    if not (isinstance(pair, list | tuple) and len(pair) == 2 and all(_is_list(part) for part in pair)):
        raise UserError(f"Annotation file '{path}' holds a {type(pair).__name__}; expected a pair of names and labels.")
    names, rows = pair
    if len(names) != len(rows):
        raise UserError(f"Annotation file '{path}' has {len(names)} names but {len(rows)} labels; expected as many.")
    names = list(names)
    for i, name in enumerate(names):
        if not isinstance(name, str):
            raise UserError(f"Annotation file '{path}', entry {i}: the name is a {type(name).__name__}; expected text.")
        if not _is_plain(name):
            raise UserError(f"Annotation file '{path}' names the image {name!r}; expected a plain file name beside it.")
    name, count = Counter(names).most_common(1)[0] if names else ("", 0)
    if count > 1:
        raise UserError(f"Annotation file '{path}' names the image '{name}' {count} times; expected each name once.")
    return names, rows


def points_of(row: Any, markup: Markup) -> np.ndarray:
    """One label as (P, 2) float32: P pairs of numbers, an array of them, or the path of a text file. Raises Broken."""
    if isinstance(row, Path):
        return _read_text_label(row, markup)
    shape = row.shape if isinstance(row, np.ndarray) else _shape(row)
    if len(shape) != 2 or shape[1] != 2:
        raise Broken(f"its label is not {markup.count} pairs of numbers")
    if shape[0] != markup.count:
        raise Broken(f"its label has {shape[0]} points; expected {markup.count}, those of {markup.name}")
    try:
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as that
            return np.asarray(row, np.float32)
    except (TypeError, ValueError, OverflowError):
        raise Broken(f"its label is not {markup.count} pairs of numbers") from None


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _is_plain(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return bool(name) and name not in (".", "..") and not any(c in name for c in "/\\\0")


def _shape(row: Any) -> tuple[int, ...]:
    """(n, 2) for a list of n pairs of numbers; () for anything else. Looks no deeper: shared lists may be endless."""
    if not isinstance(row, list | tuple) or not all(_is_list(pair) and len(pair) == 2 for pair in row):
        return ()
    kinds = set(map(type, chain.from_iterable(row)))
    return (len(row), 2) if all(issubclass(kind, int | float | np.number) for kind in kinds) else ()


def _read_text_label(path: Path, markup: Markup) -> np.ndarray:
    try:
        lines = [line for line in read_text(path, "Label", _LARGEST_TEXT).splitlines() if line.strip()]
    except UserError:
        raise Broken(f"its label '{path.name}' is not a readable text file") from None
    exactly = markup.fits(IBUG68)  # that file is known; another set's may go on with points of any kind
    wanted = MICROSOFT_LINES if exactly else markup.count
    if len(lines) < wanted or (exactly and len(lines) > wanted):
        raise Broken(f"its label '{path.name}' has {len(lines)} points; expected {wanted} lines")
    try:
        points = [(float(x), float(y)) for x, y in (line.split() for line in lines[: markup.count])]
    except ValueError:
        raise Broken(f"its label '{path.name}' has a line that is not two numbers") from None
    with np.errstate(over="ignore"):
        return np.array(points, np.float32)


# ---------------------------------------------------------------------------------------------------- checks

# between which the centre of a face lies, as fractions of its image's width and height; the medians are (0.50, 0.58)
_LOWEST, _HIGHEST = np.array([0.37, 0.37]), np.array([0.65, 0.72])


def check_frame(folder: Path, landmarks: np.ndarray, sizes: np.ndarray) -> None:
    """(N, P, 2) landmarks of images of (N, 2) width and height: their median centre lies about the middle.

    Labels of 384 px beside images of 256 px put it at 0.75, the reverse at 0.33. Raises UserError naming the folder.
    """
    x, y = np.median(_centre(landmarks) / sizes, axis=0)
    if not _in_frame(np.array([x, y])):
        raise UserError(
            f"Data set '{folder}': its landmarks are centred at ({x:.2f}, {y:.2f}) of the images' width and height, so "
            "the labels were made for another image size; expected about (0.50, 0.58)."
        )


def check_points(points: np.ndarray, size: tuple[int, int], usual: tuple[int, int]) -> None:
    """(P, 2) finite landmarks of an image of this width and height, in a set where images usually have the other.

    Raises Broken where they do not fit the image, or where they fit an image of the usual size only.
    """
    centre, side = _centre(points), max(size)
    if not _in_frame(centre / size) and _in_frame(centre / usual):
        raise Broken("it is {}x{} pixels where its label is for the set's {}x{}".format(*size, *usual))
    outside = np.maximum(-points, points - np.array(size)).max()
    if outside > side:
        far = points.ravel()[np.abs(points - np.array(size) / 2).argmax()]
        raise Broken(
            f"its label has the coordinate {far:g}, more than one image side of {side} pixels outside the image"
        )
    extent = float(np.ptp(points, axis=0).max())
    if extent < side / 20:
        raise Broken(f"its landmarks spread over {extent:.3g} pixels only, in an image of {side}")
    inside = int(((points >= 0) & (points <= size)).all(1).sum())
    if inside < len(points) / 2:
        raise Broken(f"only {inside} of its {len(points)} landmarks lie inside the image of {size[0]}x{size[1]} pixels")


def _centre(landmarks: np.ndarray) -> np.ndarray:
    return (landmarks.min(-2) + landmarks.max(-2)) / 2


def _in_frame(centre: np.ndarray) -> bool:
    return bool(((_LOWEST <= centre) & (centre <= _HIGHEST)).all())
