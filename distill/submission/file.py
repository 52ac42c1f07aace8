"""The challenge's submission file: a zip of any name that holds exactly one file, `solution.txt`, at its root.

One row an image, 137 fields with one space between: `image_name x1 y1 ... x68 y68`, coordinates in pixels of the image
as submitted (the challenge's crops are 384 x 384), rows in any order.
"""

from __future__ import annotations

import hashlib
import lzma
import math
import os
import re
import unicodedata
import zipfile
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from distill.errors import UserError
from distill.files import atomic, read_text
from distill.landmarks import IBUG68, Markup

MEMBER = "solution.txt"
NUM_POINTS = IBUG68.count  # the challenge's own, whatever a model predicts
FIELDS = 1 + 2 * NUM_POINTS
DECIMALS = 4
FARTHEST = 1e9  # pixels; beyond, a float64 has no four decimals any more
LARGEST = 64_000_000  # bytes of text; the challenge's file has about 2 million, a zip bomb has no bound
LONGEST_LINE = 20_000  # characters; a row has about 1,300
MOST_PROBLEMS = 1000  # after which the rest of a file is not read
_DIGITS = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_NUMBER = re.compile(_DIGITS)
_ROW = re.compile(rf"\S+(?: {_DIGITS}){{{FIELDS - 1}}}")
_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)


def check_points(markup: Markup, what: str) -> None:
    """Raises UserError where the points are not those that a submission has. what: whose they are, for the message."""
    if not markup.fits(IBUG68):
        raise UserError(f"{what} predicts {markup}; a submission has the {IBUG68.count} of {IBUG68.name}.")


def check_names(names: Sequence[str]) -> None:
    """Raises UserError for names that a submission cannot hold: none, twice the same, white space, not UTF-8."""
    if not names:
        raise UserError("There is no image to write a submission for; expected at least one.")
    seen: set[str] = set()
    for name in names:
        if not name or not name.isprintable() or any(character.isspace() for character in name):
            raise UserError(
                f"Image name {name!r} cannot stand in a submission; expected printable characters without white space."
            )
        if name in seen:
            raise UserError(f"Image name '{name}' occurs twice; expected each image once.")
        seen.add(name)


def write(path_zip: str | os.PathLike, names: Sequence[str], points: np.ndarray) -> Path:
    """Write the zip, read it back, check it, and only then put it in its place; returns its path.

    `names` are N distinct image names without white space, `points` (N, 68, 2) in pixels. The same input gives the
    same bytes. Raises UserError for names or points that such a file cannot hold, and for a folder that cannot be
    written to.
    """
    path = Path(path_zip)
    names = [str(name) for name in names]
    points = np.asarray(points, dtype=np.float64)
    _check_input(names, points)
    rounded = np.round(points, DECIMALS) + 0.0  # + 0.0 turns -0.0 into 0.0
    rows = [
        " ".join([name, *(f"{value:.{DECIMALS}f}" for value in row)]) + "\n"
        for name, row in zip(names, rounded.reshape(len(names), -1), strict=True)
    ]
    entry = zipfile.ZipInfo(MEMBER, date_time=(1980, 1, 1, 0, 0, 0))  # no clock: same input, same bytes
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.create_system = 3  # Unix, whatever machine writes it
    entry.external_attr = 0o644 << 16
    try:
        with atomic(path) as temporary:
            with zipfile.ZipFile(temporary, "w") as archive:
                archive.writestr(entry, "".join(rows).encode("utf-8"))
            read_names, read_points, problems = _parse(temporary)
            problems += _check_names(read_names, names)
            if problems or read_names != names or not np.allclose(read_points, points, rtol=0, atol=10.0**-DECIMALS):
                raise RuntimeError(f"{path}: what was written does not read back: {problems[:3]}")
    except OSError as error:
        raise UserError(f"'{path}' cannot be written: {error.strerror or error}.") from None
    return path


def read(path_zip: str | os.PathLike) -> tuple[list[str], np.ndarray]:
    """Names and points (N, 68, 2) of a submission. Raises UserError with the first problem that `check` would list."""
    names, points, problems = _parse(Path(path_zip))
    if problems:
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise UserError(f"'{path_zip}': {problems[0]}{more}.")
    return names, points


def check(path_zip: str | os.PathLike, expected_names: Iterable[str] | None = None) -> list[str]:
    """Everything wrong with a submission, one sentence each with line and field (both from 1); empty: it is fine.

    `expected_names`: the images it must hold, no more and no fewer; None: any.
    """
    names, _, problems = _parse(Path(path_zip))
    if expected_names is not None and names and len(problems) < MOST_PROBLEMS:
        problems += _check_names(names, expected_names)
    return problems


def read_names(file: Path) -> list[str]:
    """Image names, one a line. Raises UserError for a file that is unreadable or empty, or names an image twice."""
    names = [line.strip() for line in read_text(file, "--names", LARGEST).splitlines() if line.strip()]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice or not names:
        found = f"names the image '{twice[0]}' more than once" if twice else "is empty"
        raise UserError(f"--names '{file}' {found}; expected image names, one a line.")
    return names


def sha256(path_zip: str | os.PathLike) -> str:
    """64 hex digits of the file's bytes, by which ledger and runs know it. Raises UserError where it cannot be read."""
    try:
        return hashlib.sha256(Path(path_zip).read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"'{path_zip}' cannot be read: {error.strerror or error}.") from None


# ---------------------------------------------------------------------------------------------------- parts


def _check_input(names: list[str], points: np.ndarray) -> None:
    if points.ndim != 3 or points.shape[1:] != (NUM_POINTS, 2):
        raise UserError(f"The points have shape {points.shape}; expected (N, {NUM_POINTS}, 2).")
    if len(names) != len(points):
        raise UserError(f"There are {len(names)} image names and points of {len(points)} images; expected as many.")
    check_names(names)
    bad = np.argwhere(~(np.abs(points) < FARTHEST))
    if bad.size:
        image, point, axis = bad[0]
        raise UserError(
            f"Image '{names[image]}', point {point}: {'xy'[axis]} is {points[tuple(bad[0])]}; "
            f"expected finite, below {FARTHEST:g}."
        )


def _parse(path: Path) -> tuple[list[str], np.ndarray, list[str]]:
    """Names, points (N, 68, 2) and problems. Where there are problems, the points are of the rows without any."""
    text, problem = _text(path)
    problems = [problem] if problem else []
    names: list[str] = []
    values = array("d")
    first_line: dict[str, int] = {}
    for number, line in enumerate(_lines(text), start=1):
        row = _row(line)
        found = [] if row else _check_line(number, line)
        for name in line[:LONGEST_LINE].split()[:1]:
            if name in first_line:
                found.append(f"line {number}, field 1: image '{name}' stands on line {first_line[name]} already")
            first_line.setdefault(name, number)
            names.append(name)
        values.extend(row)
        problems += found
        if len(problems) >= MOST_PROBLEMS:
            problems.append(f"line {number}: the file was read to here only")
            break
    return names, np.array(values).reshape(-1, NUM_POINTS, 2), problems


def _lines(text: str) -> Iterator[str]:
    """One at a time, without their ends: a list of millions of short lines would take a hundred times the text."""
    start = 0
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        yield text[start:end]
        start = end + 1


def _text(path: Path) -> tuple[str, str]:
    """The text of the one member, and "", or "" and what is wrong."""
    try:
        if path.exists() and not path.is_file():
            return "", "the file is not a regular file"
        with zipfile.ZipFile(path) as archive:
            found = [item.filename for item in archive.infolist()]
            if found != [MEMBER]:
                listed = ", ".join(repr(name[:80]) for name in found[:5]) + (", ..." if len(found) > 5 else "")
                return "", f"the zip holds {listed or 'nothing'}; expected exactly one file, '{MEMBER}', at its root"
            with archive.open(MEMBER) as member:
                data = member.read(LARGEST + 1)  # whatever size the zip states
            if len(data) > LARGEST:
                return "", f"'{MEMBER}' is larger than {LARGEST:,} bytes"
        text = data.decode("utf-8")
    except OSError as error:
        return "", f"the file cannot be read: {error.strerror or error}"
    except zipfile.BadZipFile:
        return "", "the file is not an intact zip"
    except UnicodeDecodeError as error:
        return "", f"'{MEMBER}' is not UTF-8 text (byte {error.start})"
    except (
        RuntimeError,
        ValueError,
        zlib.error,
        lzma.LZMAError,
        EOFError,
    ) as error:  # a password, an odd method, damage
        return "", f"'{MEMBER}' cannot be unpacked: {error}"
    if text.startswith("\ufeff"):
        return "", f"'{MEMBER}' starts with a byte order mark; expected an image name"
    return (text, "") if text.strip() else ("", f"'{MEMBER}' is empty")


def _row(line: str) -> list[float]:
    """The numbers of a line without fault; of another, none."""
    values = list(map(float, line.split(" ")[1:])) if _ROW.fullmatch(line) else []
    return values if all(map(math.isfinite, values)) else []


def _check_line(number: int, line: str) -> list[str]:
    """What is wrong with a line, field by field."""
    if len(line) > LONGEST_LINE:
        return [f"line {number}: {len(line):,} characters; expected {FIELDS} fields"]
    problems = []
    if line.endswith("\r"):
        problems.append(f"line {number}: ends in a carriage return (Windows line ends); expected plain line feeds")
        line = line.removesuffix("\r")
    fields = line.split()
    if not fields:
        return [*problems, f"line {number}: empty"]
    if line != " ".join(fields):
        # Where exactly one space does not separate two fields: the first empty piece, or white space of another kind.
        pieces = line.split(" ")
        at = next(i for i, piece in enumerate(pieces, start=1) if not piece or piece != "".join(piece.split()))
        kind = "an extra space" if not pieces[at - 1] else "a tab or other white space"
        problems.append(f"line {number}, field {at}: {kind}; expected one space between fields and none at the ends")
    if len(fields) != FIELDS:
        problems.append(f"line {number}: {len(fields)} fields; expected {FIELDS}")
    for at, field in enumerate(fields[1:], start=2):
        if _NOT_FINITE.fullmatch(field) or (_NUMBER.fullmatch(field) and not np.isfinite(float(field))):
            problems.append(f"line {number}, field {at}: '{field[:40]}' is not finite")
        elif not _NUMBER.fullmatch(field):
            problems.append(f"line {number}, field {at}: '{field[:40]}' is not a number")
    return problems


def _check_names(names: Iterable[str], expected: Iterable[str]) -> list[str]:
    found, wanted = set(names), set(expected)
    problems = []
    missing = {unicodedata.normalize("NFC", name): name for name in wanted - found}
    alike = [name for name in sorted(found - wanted) if unicodedata.normalize("NFC", name) in missing]
    if alike:
        problems.append(
            f"{len(alike)} names differ from an image's only in how accents are stored, composed or decomposed "
            f"(Unicode NFC, NFD); expected them as in the file's name: {_listed(alike)}"
        )
    for what, some in (("missing", sorted(wanted - found)), ("not in the set", sorted(found - wanted))):
        if some:
            problems.append(f"{len(some)} of the images are {what}: {_listed(some)}")
    return problems


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
