"""Landmark sets as data: how many points, which mirror each other, regions, drawing order. From YAML; 68 points by
default.

Coordinates everywhere in this package are continuous pixels: (0, 0) is the outer corner of the top-left pixel, pixel
centres lie at .5, x grows right and y grows down. So resizing an image is a plain multiplication of its landmarks and
a mirror image has x' = W - x.

How to describe a set of one's own: docs/landmarks.md. Points are counted from 0.
"""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.errors import UserError

FOLDER = Path(__file__).parent / "landmark_sets"
KEYS = ("name", "points", "names", "regions", "outlines", "flip_pairs", "outer_eye_corners", "as_68")
_RANGE = re.compile(r"(\d+)(?:\s*-\s*(\d+))?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)  # a region's is part of metric names


@dataclass(frozen=True)
class Markup:
    """One landmark set: what the points of a label are, whichever picture they lie on."""

    name: str
    count: int  # points
    regions: dict[str, tuple[int, ...]]  # partition the points; every point belongs to exactly one
    outlines: tuple[tuple[tuple[int, ...], bool], ...]  # polylines to draw, as (points, closed)
    flip_pairs: tuple[tuple[int, int], ...]  # change places in a mirror image; points in no pair lie on the axis
    names: tuple[str, ...] = ()  # of the points, for people; empty: they have none
    # the distance that the "interocular" normaliser divides by (300W protocol); None: the set has no such points
    outer_eye_corners: tuple[int, int] | None = None
    as_68: tuple[tuple[int, int], ...] = ()  # (own point, the iBUG point that it is), by which head pose is estimated

    @functools.cached_property
    def flip_permutation(self) -> tuple[int, ...]:
        """points_of_mirror_image = mirrored_coordinates[list(flip_permutation)]"""
        perm = list(range(self.count))
        for a, b in self.flip_pairs:
            perm[a], perm[b] = b, a
        return tuple(perm)

    def __str__(self) -> str:
        return f"{self.name} ({self.count} points)"

    def fits(self, other: Markup) -> bool:
        """Whether a point of one is the same point of the other, by their descriptions; drawing does not matter."""
        return (self.name, self.count, self.flip_permutation) == (other.name, other.count, other.flip_permutation)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, in the form that a YAML file has."""
        values: dict[str, Any] = {"name": self.name, "points": self.count}
        if self.names:
            values["names"] = list(self.names)
        values["regions"] = {name: _ranges(points) for name, points in self.regions.items()}
        values["outlines"] = [{"closed": _ranges(p)} if closed else _ranges(p) for p, closed in self.outlines]
        values["flip_pairs"] = [list(pair) for pair in self.flip_pairs]
        if self.outer_eye_corners:
            values["outer_eye_corners"] = list(self.outer_eye_corners)
        if self.as_68:
            values["as_68"] = [[_ranges(side) for side in zip(*self.as_68, strict=True)]]
        return values

    def to_yaml(self) -> str:
        """A file that `find` reads."""
        import yaml

        return yaml.safe_dump(self.to_dict(), sort_keys=False, width=120)

    def reference(self) -> str:
        """What `find` leads back to this set, on any machine: a shipped set's name, else the whole description."""
        return self.name if self.name in shipped() and find(self.name) == self else json.dumps(self.to_dict())


# ---------------------------------------------------------------------------------------------------- finding


@functools.cache
def shipped() -> tuple[str, ...]:
    """Names of the sets that come with the package."""
    return (IBUG68.name, *sorted(path.stem for path in FOLDER.glob("*.yaml")))


def find(text: str, beside: Path | None = None) -> Markup:
    """A set by a shipped name, a YAML file's path, or the text that `Markup.reference` gives.

    A relative path is looked for in the current folder, then in `beside`. Raises UserError, one sentence, where there
    is no such set, and for any mistake in its description.
    """
    if text == IBUG68.name:
        return IBUG68
    if text.startswith("{"):
        try:
            return from_dict(json.loads(text), "Landmark set")
        except json.JSONDecodeError:
            raise UserError(f"Landmark set '{text[:40]}...' is not valid JSON.") from None
    if text in shipped():
        return _shipped(text)
    places = [Path(text).expanduser(), *([beside / text] if beside else [])]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise UserError(f"Landmark set '{text}' is neither one of {', '.join(shipped())} nor a YAML file.")
    return _read(path)


@functools.cache
def _shipped(name: str) -> Markup:
    return _read(FOLDER / f"{name}.yaml")


def _read(path: Path) -> Markup:
    from distill.files import read_yaml  # here, so that predicting from an ONNX file needs no YAML

    return from_dict(read_yaml(path, "Landmark set"), f"Landmark set '{path}'")


# ---------------------------------------------------------------------------------------------------- reading


def from_dict(values: Any, source: str) -> Markup:
    """A set from the keys and values of its description. Raises UserError that begins with `source` for any mistake."""
    return _Reader(values, source).markup()


class _Reader:
    """Reads one description; every complaint names the source, the key, what is there and what is expected."""

    def __init__(self, values: Any, source: str):
        self.source = source
        if not isinstance(values, dict):
            raise UserError(f"{source} is a {type(values).__name__}; expected the keys {', '.join(KEYS)}.")
        self.values = values
        for key in values:
            self.need(key in KEYS, f"'{key}' is unknown; expected one of {', '.join(KEYS)}")
        for key in ("name", "points", "regions", "flip_pairs"):
            self.need(key in values, f"'{key}' is missing")
        self.count = values["points"]
        right = isinstance(self.count, int) and not isinstance(self.count, bool) and 2 <= self.count <= 1000
        self.need(right, f"'points' is {self.count!r}; expected their number, between 2 and 1000")

    def need(self, ok: bool, complaint: str) -> None:
        if not ok:
            raise UserError(f"{self.source}: {complaint}.")

    def markup(self) -> Markup:
        name = str(self.values["name"])
        self.need(
            _NAME.fullmatch(name) is not None, f"'name' is {name!r}; expected a word of letters, digits, _ . and -"
        )
        return Markup(
            name=name,
            count=self.count,
            regions=self.regions(),
            outlines=self.outlines(),
            flip_pairs=self.flip_pairs(),
            names=self.names(),
            outer_eye_corners=self.corners(),
            as_68=self.as_68(),
        )

    def names(self) -> tuple[str, ...]:
        given = self.values.get("names") or []
        self.need(isinstance(given, list), f"'names' is {given!r}; expected a list")
        names = tuple(str(name) for name in given)
        if names:
            self.need(len(names) == self.count, f"'names' has {len(names)} names; expected {self.count}, one a point")
            twice, often = Counter(names).most_common(1)[0]
            self.need(often == 1, f"'names' has '{twice}' {often} times; expected each name once")
        return names

    def regions(self) -> dict[str, tuple[int, ...]]:
        given = self.values["regions"]
        self.need(isinstance(given, dict) and bool(given), f"'regions' is {given!r}; expected names and their points")
        regions: dict[str, tuple[int, ...]] = {}
        owner: dict[int, str] = {}
        for name, value in given.items():
            word = isinstance(name, str) and _NAME.fullmatch(name) is not None
            self.need(word, f"'regions' names {name!r}; expected a word of letters, digits, _ . and -")
            regions[name] = self.points(value, f"regions.{name}")
            for point in regions[name]:
                both = f"'{owner.get(point)}' and '{name}'" if owner.get(point) != name else f"'{name}' twice"
                self.need(
                    point not in owner, f"'regions' has the point {point} in {both}; expected it in one region once"
                )
                owner[point] = name
        left = [point for point in range(self.count) if point not in owner]
        self.need(
            not left, f"'regions' leaves out the point {left[0] if left else ''}; expected every point in a region"
        )
        return regions

    def outlines(self) -> tuple[tuple[tuple[int, ...], bool], ...]:
        given = self.values.get("outlines") or []
        self.need(isinstance(given, list), f"'outlines' is {given!r}; expected a list of points, such as 0-16")
        found = []
        for i, value in enumerate(given):
            closed = isinstance(value, dict)
            if closed:
                self.need(
                    set(value) == {"closed"}, f"'outlines.{i}' has the keys {list(value)}; expected 'closed' alone"
                )
                value = value["closed"]
            found.append((self.points(value, f"outlines.{i}"), closed))
            self.need(len(found[-1][0]) > 1, f"'outlines.{i}' is one point; expected two or more")
        return tuple(found)

    def flip_pairs(self) -> tuple[tuple[int, int], ...]:
        found = self.pairs("flip_pairs", self.count)
        partner: dict[int, int] = {}
        for a, b in found:
            self.need(a != b, f"'flip_pairs' pairs the point {a} with itself; a point on the axis stands in no pair")
            for point, other in ((a, b), (b, a)):
                before = partner.setdefault(point, other)
                where = f"with {before} and {other}" if before != other else f"with {other} more than once"
                self.need(before == other, f"'flip_pairs' pairs the point {point} {where}; expected one partner")
        twice, often = Counter(frozenset(pair) for pair in found).most_common(1)[0] if found else ((), 1)
        self.need(often == 1, f"'flip_pairs' has the pair {sorted(twice)} {often} times; expected it once")
        return found

    def corners(self) -> tuple[int, int] | None:
        if (given := self.values.get("outer_eye_corners")) is None:
            return None
        points = self.points(given, "outer_eye_corners")
        self.need(len(set(points)) == 2, f"'outer_eye_corners' is {given!r}; expected two points")
        return points[0], points[1]

    def as_68(self) -> tuple[tuple[int, int], ...]:
        found = self.pairs("as_68", 68)
        for side, whose in enumerate(("own", "iBUG")):
            twice, often = Counter(pair[side] for pair in found).most_common(1)[0] if found else (0, 1)
            self.need(often == 1, f"'as_68' has the {whose} point {twice} {often} times; expected it once")
        return found

    def pairs(self, key: str, other: int) -> tuple[tuple[int, int], ...]:
        """[[0, 5], [1-4, 9-6]] -> ((0, 5), (1, 9), (2, 8), ...); the second of each is below `other`."""
        given = self.values.get(key) or []
        self.need(isinstance(given, list), f"'{key}' is {given!r}; expected a list of pairs")
        found: list[tuple[int, int]] = []
        for i, pair in enumerate(given):
            right = isinstance(pair, list) and len(pair) == 2
            self.need(right, f"'{key}.{i}' is {pair!r}; expected a pair, such as [0, 5] or [0-4, 9-5]")
            first, second = self.points(pair[0], f"{key}.{i}"), self.points(pair[1], f"{key}.{i}", other)
            self.need(
                len(first) == len(second),
                f"'{key}.{i}' pairs {len(first)} points with {len(second)}; expected as many on both sides",
            )
            found += zip(first, second, strict=True)
        return tuple(found)

    def points(self, value: Any, key: str, count: int = 0) -> tuple[int, ...]:
        """3, "0-16", "7-4, 9" or a list of such -> the points; each below `count` (0: the set's)."""
        count = count or self.count
        if isinstance(value, list):
            self.need(bool(value), f"'{key}' is empty; expected points")
            return tuple(point for part in value for point in self.points(part, key, count))
        found: list[int] = []
        for part in str(value).split(","):
            match = _RANGE.fullmatch(part.strip())
            self.need(match is not None, f"'{key}' is {value!r}; expected points such as 3, 0-16 or 7-4")
            assert match
            first, last = int(match[1]), int(match[2] or match[1])
            for point in (first, last):
                self.need(point < count, f"'{key}' names the point {point}; expected 0 to {count - 1}")
            found += range(first, last + 1) if last >= first else range(first, last - 1, -1)
        return tuple(found)


def _ranges(points: tuple[int, ...]) -> str:
    """The shortest words for points in their order: 0-16, 20, 25-22."""
    runs: list[list[int]] = []
    for point in points:
        step = runs and point - runs[-1][-1]
        if step in (1, -1) and (len(runs[-1]) == 1 or runs[-1][-1] - runs[-1][-2] == step):
            runs[-1].append(point)
        else:
            runs.append([point])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


# ---------------------------------------------------------------------------------------------------- the default

# iBUG / Multi-PIE order; here and not in a file, because every command needs it.
IBUG68 = from_dict(
    {
        "name": "ibug68",
        "points": 68,
        "regions": {"jaw": "0-16", "brows": "17-26", "nose": "27-35", "eyes": "36-47", "mouth": "48-67"},
        "outlines": [
            "0-16",
            "17-21",
            "22-26",
            "27-30",
            "31-35",
            {"closed": "36-41"},
            {"closed": "42-47"},
            {"closed": "48-59"},
            {"closed": "60-67"},
        ],
        "flip_pairs": [
            ["0-7", "16-9"],  # jaw
            ["17-21", "26-22"],  # brows
            ["31-32", "35-34"],  # nostrils
            ["36-39", "45-42"],
            ["40-41", "47-46"],  # eyes
            ["48-50", "54-52"],
            ["55-56", "59-58"],  # outer lip
            ["60-61", "64-63"],
            [65, 67],  # inner lip
        ],
        "outer_eye_corners": [36, 45],
        "as_68": [["0-67", "0-67"]],
    },
    "ibug68",
)
