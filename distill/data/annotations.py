"""Labelled face images on disk -> one checked `LandmarkSet`, whichever of the two layouts they come in.

Challenge layout: JPEG crops beside `annot.pkl`, landmarks in pixels of each crop, whatever its size.
Microsoft layout: FaceSynthetics as downloaded, `NNNNNN.png` beside `NNNNNN_ldmks.txt` (70 lines `x y`, the last two are
the pupils, beyond the 68 points) and `NNNNNN_seg.png`; its images are cropped to the challenge's framing when they are
read.

What is checked on load, before anything trains:

- the set: folder and labels there and readable, as many labels as names, names plain and unique, not empty;
- each image: there, a picture, header readable, not too large, complete to its end (images.py). Pixels are decoded here
  only where that is wished: damage in the middle of a file otherwise passes; truncation, by far the usual damage, does
  not. 3000 images take about a second;
- each label: as many points as the landmark set has, finite, none further than one image side outside the image, not
  all on one spot (a spread of at least 1/20 of the side), at least half of them inside the image;
- the frame: since faces are framed about the middle, the median centre of the landmarks must lie there too, and an
  image of another size than most must not have a label that fits their size only (labels.py).
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from distill import cores
from distill.config import Config, markup_of
from distill.data import geometry, images
from distill.data.images import Broken
from distill.data.labels import check_frame, check_points, parse_annot, points_of
from distill.errors import UserError
from distill.landmarks import IBUG68, Markup

CROP_SIZE = 384  # side of the crops made from the Microsoft layout: the challenge's image size

_LABEL = "_ldmks.txt"

OnBad = Literal["stop", "skip"]


class BadImage(UserError):
    """An image of a set, or its label, cannot be used."""


@dataclass(frozen=True, eq=False)
class LandmarkSet:
    """Checked images and their landmarks; only `image` reads pixels."""

    folder: Path
    names: tuple[str, ...]  # file names within folder
    landmarks: np.ndarray | None  # (N, P, 2) float32, pixels of image(i); None: unlabelled
    sizes: np.ndarray  # (N, 2) int64, width and height of image(i)
    boxes: np.ndarray | None  # (N, 4) float64, x0 y0 x1 y1 of the crop in the file's pixels; None: files are used whole
    skipped: tuple[tuple[str, str], ...] = ()  # (name, reason) of images left out by on_bad="skip"
    file_sizes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # (N,) bytes, for the fingerprint
    markup: Markup = IBUG68  # what the points are

    def __len__(self) -> int:
        return len(self.names)

    @property
    def fingerprint(self) -> str:
        """16 hex digits over names, labels, what the points are, bytes of each image (not pixels, not the place)."""
        digest = hashlib.sha256(os.fsencode("\0".join(self.names)))
        if self.landmarks is not None:
            digest.update(np.ascontiguousarray(self.landmarks, "<f4").tobytes())
            if not self.markup.fits(IBUG68):  # so that the sets of 68 points keep the fingerprints that they have
                digest.update(repr((self.markup.name, self.markup.flip_permutation)).encode())
        digest.update(self.file_sizes.astype("<i8").tobytes())
        return digest.hexdigest()[:16]

    def image(self, i: int) -> np.ndarray:
        """Image i as (height, width, 3) uint8 RGB, contiguous; in the Microsoft layout its square crop, black outside.

        Raises UserError where the file has become unreadable since it was checked.
        """
        pixels = images.read(self.folder / self.names[i])
        if self.boxes is None:
            return pixels
        x0, y0, x1, _ = self.boxes[i]
        scale = CROP_SIZE / (x1 - x0)
        return geometry.warp(pixels, np.array([[scale, 0, -scale * x0], [0, scale, -scale * y0], [0, 0, 1]]), CROP_SIZE)

    def subset(self, indices: Sequence[int] | np.ndarray) -> LandmarkSet:
        """The images at these indices, in this order, as a set of its own (own fingerprint, nothing skipped)."""
        indices = np.asarray(indices, np.int64)
        return replace(
            self,
            names=tuple(self.names[i] for i in indices),
            landmarks=None if self.landmarks is None else self.landmarks[indices],
            sizes=self.sizes[indices],
            boxes=None if self.boxes is None else self.boxes[indices],
            skipped=(),
            file_sizes=self.file_sizes[indices],
        )


def spread(count: int, limit: int) -> np.ndarray:
    """`limit` indices evenly spread over range(count), all of them where limit is 0 or at least count. (n,) int64"""
    if limit == 0 or limit >= count:
        return np.arange(count)
    return np.arange(limit) * count // limit


def read_set(
    folder: str | os.PathLike,
    *,
    on_bad: OnBad = "stop",
    crop_scale: float = 1.9,
    crop_lift: float = 0.08,
    limit: int = 0,
    need_labels: bool = True,
    decode: bool = False,
    markup: Markup = IBUG68,
) -> LandmarkSet:
    """Read and check one folder, of the layout that `annot.pkl` or `*_ldmks.txt` shows. Hidden files are passed over.

    on_bad: "stop" refuses the set at its first broken image or label, "skip" leaves those out and lists them in
    `skipped`; set-level faults are refused either way. crop_scale, crop_lift: framing of the Microsoft layout, a square
    of crop_scale times the larger side of the landmarks' box, centred crop_lift of its side above the box's centre.
    limit: only this many images, evenly spread (0: all). need_labels=False: take the folder's pictures in sorted order
    and look at no label. decode: an image is broken also where its pixels cannot be decoded; takes as long as reading
    it. markup: what the points of a label are; of a Microsoft text file it takes the first lines.

    Raises UserError, one sentence, for anything in this module's list of checks; BadImage for a single image.
    """
    folder = Path(folder)
    files = _list(folder)
    names, rows, microsoft = _find(folder, files, need_labels)
    if not names:
        raise UserError(f"Data set '{folder}' is empty: no {'labelled ' if need_labels else ''}image in it.")
    chosen = spread(len(names), limit)
    bad = _Bad(folder, on_bad)
    kept = _check([(names[i], rows[i]) for i in chosen], files, bad, decode, markup if need_labels else None)
    if not kept:
        name, reason = bad.skipped[0]
        raise UserError(f"Data set '{folder}' is empty: all {len(bad.skipped)} images are broken ('{name}': {reason}).")

    sizes = np.array([one.size for one in kept], np.int64)
    landmarks = np.stack([one.points for one in kept]) if need_labels else None
    boxes = None
    if microsoft and landmarks is not None:
        boxes = _crop_boxes(landmarks, crop_scale, crop_lift)
        side = boxes[:, 2:3] - boxes[:, 0:1]
        landmarks = ((landmarks - boxes[:, None, :2]) * (CROP_SIZE / side[:, None])).astype(np.float32)
        sizes = np.full_like(sizes, CROP_SIZE)
    kept_names = tuple(one.name for one in kept)
    file_sizes = np.array([files[name] for name in kept_names], np.int64)
    return LandmarkSet(folder, kept_names, landmarks, sizes, boxes, tuple(bad.skipped), file_sizes, markup)


def read_labelled(
    folder: Path, config: Config, on_bad: OnBad = "stop", limit: int = 0, decode: bool = False
) -> LandmarkSet:
    """A labelled set as a training with this config reads it: its crop of Microsoft's layout, its landmark set.

    Raises UserError, as `read_set` does.
    """
    data, markup = config.data, markup_of(config)
    scale, lift = data.crop_scale, data.crop_lift
    return read_set(folder, on_bad=on_bad, limit=limit, decode=decode, markup=markup, crop_scale=scale, crop_lift=lift)


def picture_names(folder: str | os.PathLike) -> tuple[str, ...]:
    """Names of the pictures that a folder holds, readable or not, sorted. Raises UserError where there are none."""
    folder = Path(folder)
    names, _, _ = _find(folder, _list(folder), need_labels=False)
    if not names:
        raise UserError(f"Data set '{folder}' is empty: no image in it.")
    return tuple(names)


# ---------------------------------------------------------------------------------------------------- inside


@dataclass(frozen=True)
class _Image:
    name: str
    size: tuple[int, int]  # width, height
    points: np.ndarray | None  # (P, 2) float32; None: unlabelled


class _Bad:
    """What becomes of images that cannot be used: the first one ends the reading, or all are listed."""

    def __init__(self, folder: Path, on_bad: OnBad):
        self.folder, self.stop = folder, on_bad == "stop"
        self.skipped: list[tuple[str, str]] = []

    @contextmanager
    def looking_at(self, name: str) -> Iterator[None]:
        """Raises BadImage for a Broken one where it ends the reading."""
        try:
            yield
        except Broken as reason:
            if self.stop:
                raise BadImage(f"Image '{self.folder / name}' cannot be used: {reason}.") from None
            self.skipped.append((name, str(reason)))


def _list(folder: Path) -> dict[str, int]:
    """Name -> bytes of what lies in the folder; 0 for what is no regular file."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name: _bytes(entry) for entry in entries}
    except OSError as error:
        raise UserError(f"Data folder '{folder}' cannot be read: {error.strerror or error}.") from None


def _bytes(entry: os.DirEntry) -> int:
    try:
        return entry.stat().st_size if entry.is_file() else 0
    except OSError:  # a link to itself
        return 0


def _find(folder: Path, files: dict[str, int], need_labels: bool) -> tuple[list[str], Sequence[Any], bool]:
    """Names of the images; their labels as they are, or None where not needed; whether it is Microsoft's layout."""
    labelled = sorted(name.removesuffix(_LABEL) for name in files if name.endswith(_LABEL) and not name.startswith("."))
    microsoft = "annot.pkl" not in files and bool(labelled)
    if not need_labels:
        pictures = (name for name in files if images.is_picture(name))
        names = sorted(name for name in pictures if not (microsoft and name.endswith("_seg.png")))
        return names, [None] * len(names), microsoft
    if microsoft:
        return [f"{stem}.png" for stem in labelled], [folder / (stem + _LABEL) for stem in labelled], True
    if "annot.pkl" in files:
        return *parse_annot(folder / "annot.pkl"), False
    raise UserError(f"Data set '{folder}' has no labels: neither annot.pkl nor *{_LABEL} files lie in it.")


def _check(
    found: Sequence[tuple[str, Any]], files: dict[str, int], bad: _Bad, decode: bool, markup: Markup | None
) -> list[_Image]:
    """The images that can be used, of (name, label); labels are looked at where there is a markup.

    Raises UserError for the set as a whole, and as `bad` does.
    """
    seen: list[_Image] = []
    paths = [bad.folder / name if name in files else None for name, _ in found]
    with cores.pool(images.AT_ONCE) as pool:
        sizes = pool.map(partial(_size, decode=True), paths) if decode else map(_size, paths)
        for (name, row), size in zip(found, sizes, strict=True):
            with bad.looking_at(name):
                if isinstance(size, Broken):
                    raise size
                points = points_of(row, markup) if markup else None
                if points is not None and not np.isfinite(points).all():
                    raise Broken("its label has a coordinate that is not finite")
                seen.append(_Image(name, size, points))
    labelled = [one.points for one in seen if one.points is not None]
    if not labelled:
        return seen
    # before single labels are judged, so that labels in a wrong frame are called that
    check_frame(bad.folder, np.stack(labelled), np.array([one.size for one in seen]))
    usual, count = Counter(one.size for one in seen).most_common(1)[0]
    kept = []
    for one in seen:
        with bad.looking_at(one.name):
            check_points(one.points, one.size, usual if 2 * count >= len(seen) else one.size)
            kept.append(one)
    return kept


def _size(path: Path | None, decode: bool = False) -> tuple[int, int] | Broken:
    """Width and height of an image, or why it cannot be used. path: None where there is none."""
    if path is None:
        return Broken("there is no such file")
    try:
        height, width = images.decode(path).shape[:2] if decode else images.size(path)[::-1]
    except Broken as reason:
        return reason
    return width, height


def _crop_boxes(landmarks: np.ndarray, scale: float, lift: float) -> np.ndarray:
    """Square crops x0 y0 x1 y1 around (N, P, 2) landmarks, (N, 4) float64; see read_set."""
    low, high = landmarks.min(1).astype(np.float64), landmarks.max(1).astype(np.float64)
    side = scale * (high - low).max(1, keepdims=True)
    centre = (low + high) / 2 - side * [0.0, lift]
    return np.concatenate([centre - side / 2, centre + side / 2], axis=1)
