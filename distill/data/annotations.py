"""Labelled face images on disk -> one checked `LandmarkSet`, whichever of the two layouts they come in.

Challenge layout: square JPEG crops beside `annot.pkl`, landmarks in pixels of the crop.
Microsoft layout: FaceSynthetics as downloaded, `NNNNNN.png` beside `NNNNNN_ldmks.txt` (70 lines `x y`, the last two are
the pupils, beyond the 68 points) and `NNNNNN_seg.png`; its images are cropped to the challenge's framing when they are read.

What is checked on load, before anything trains:

- the set: folder and labels there and readable, as many labels as names, names plain and unique, not empty;
- each image: there, JPEG or PNG, header readable, complete to its end marker. Pixels are not decoded here, so damage in
  the middle of a file passes; truncation, by far the usual damage, does not. 3000 images take about a second;
- each label: as many points as the landmark set has, finite, none further than one image side outside the image, not all on one spot (a spread of at
  least 1/20 of the side), at least half of them inside the image;
- the frame: labels have one frame a set, so all images of a labelled set are square and of one size; one that is not is
  a broken image. And since faces are framed about the middle (the medians are 0.50 and 0.58 of the side in the real and
  in the rendered sets), the median centre of the landmarks must lie there too: labels of 384 px beside images of 256 px
  put it at 0.75, the reverse at 0.33.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Literal

import cv2
import numpy as np

from distill.config import Config, DataConfig, markup_of
from distill.data import SAMPLE_ROOT, geometry, unpickling
from distill.errors import UserError
from distill.landmarks import IBUG68, Markup

CROP_SIZE = 384  # side of the crops made from the Microsoft layout: the challenge's image size
DATA_VARIABLE = "DISTILL_DATA"

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_MICROSOFT_LINES = 70
_CENTRE_X = (0.37, 0.65)  # where a set's median landmark centre may lie, as a fraction of the side
_CENTRE_Y = (0.37, 0.72)
_READ_IMAGE = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION  # labels are in the stored pixels, not the turned ones


class BadImage(UserError):
    """An image of a set, or its label, cannot be used."""


class _Broken(Exception):
    """Why one image, or its label, cannot be used."""


# ---------------------------------------------------------------------------------------------------- the set


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
        """16 hex digits over names, label bytes, what the points are, and image byte sizes (not pixels, not the place)."""
        digest = hashlib.sha256("\0".join(self.names).encode())
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
        path = self.folder / self.names[i]
        try:
            data = np.frombuffer(path.read_bytes(), np.uint8)
            pixels = cv2.imdecode(data, _READ_IMAGE) if data.size else None
        except (OSError, cv2.error):
            pixels = None
        if pixels is None:
            raise UserError(f"Image '{path}' cannot be decoded.")
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
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


# ---------------------------------------------------------------------------------------------------- reading


def read_annot(path: str | os.PathLike, markup: Markup = IBUG68) -> tuple[list[str], np.ndarray]:
    """The challenge's `annot.pkl`: image names and landmarks, (N, P, 2) float32 in pixels of the image.

    The file is a pickled pair `names, labels`; a label is P pairs of numbers, P the points of `markup`, or an array of that shape. Only plain values
    and numpy numbers are admitted (see safe_pickle). Finiteness and range are read_set's to check.

    Raises UserError for a file that is unreadable or refused, not such a pair, whose counts differ, or where a label has
    not that many points.
    """
    names, rows = _parse_annot(Path(path))
    labels = np.empty((len(rows), markup.count, 2), np.float32)
    for i, row in enumerate(rows):
        try:
            labels[i] = _points(row, markup)
        except _Broken as reason:
            raise UserError(f"Annotation file '{path}', entry {i} ('{names[i]}'): {reason}.") from None
    return names, labels


def read_set(
    folder: str | os.PathLike,
    *,
    on_bad: Literal["stop", "skip"] = "stop",
    crop_scale: float = 1.9,
    crop_lift: float = 0.08,
    limit: int = 0,
    need_labels: bool = True,
    markup: Markup = IBUG68,
) -> LandmarkSet:
    """Read and check one folder; the layout is recognised by `annot.pkl` or `*_ldmks.txt`.

    on_bad: "stop" refuses the set at its first broken image or label, "skip" leaves those out and lists them in `skipped`;
    set-level faults are refused either way. crop_scale, crop_lift: framing of the Microsoft layout, a square of
    crop_scale times the larger side of the landmarks' box, centred crop_lift of its side above the box's centre. limit:
    only this many images, evenly spread (0: all). need_labels=False: take the folder's JPEG and PNG files in sorted order
    and look at no label; sizes may then differ. markup: what the points of a label are; of a Microsoft text file it takes the
    first lines.

    Raises UserError, one sentence, for anything in this module's list of checks.
    """
    folder = Path(folder)
    files = _list(folder)
    microsoft = "annot.pkl" not in files and any(name.endswith("_ldmks.txt") for name in files)
    if not need_labels:
        images = (name for name in files if name.lower().endswith(_IMAGE_SUFFIXES))
        names = sorted(name for name in images if not (microsoft and name.endswith("_seg.png")))
        rows: Sequence = [None] * len(names)
    elif microsoft:
        names = sorted(name.removesuffix("_ldmks.txt") + ".png" for name in files if name.endswith("_ldmks.txt"))
        rows = [folder / (name.removesuffix(".png") + "_ldmks.txt") for name in names]
    elif "annot.pkl" in files:
        names, rows = _parse_annot(folder / "annot.pkl")
        _check_names(names, folder / "annot.pkl")
    else:
        raise UserError(f"Data set '{folder}' has no labels: neither annot.pkl nor *_ldmks.txt files lie in it.")
    if not names:
        raise UserError(f"Data set '{folder}' is empty: no {'labelled ' if need_labels else ''}image in it.")

    chosen = spread(len(names), limit)
    names, rows = [names[i] for i in chosen], [rows[i] for i in chosen]
    kept, skipped = _check_images(folder, names, rows, files, need_labels, on_bad, markup)
    if not kept:
        name, reason = skipped[0]
        raise UserError(f"Data set '{folder}' is empty: all {len(skipped)} images are broken ('{name}': {reason}).")

    sizes = np.array([size for _, size, _ in kept], np.int64)
    landmarks = np.stack([points for _, _, points in kept]) if need_labels else None
    boxes = None
    if microsoft and landmarks is not None:
        boxes = _crop_boxes(landmarks, crop_scale, crop_lift)
        side = boxes[:, 2:3] - boxes[:, 0:1]
        landmarks = ((landmarks - boxes[:, None, :2]) * (CROP_SIZE / side[:, None])).astype(np.float32)
        sizes = np.full_like(sizes, CROP_SIZE)
    kept_names = tuple(name for name, _, _ in kept)
    file_sizes = np.array([files[name] for name in kept_names], np.int64)
    return LandmarkSet(folder, kept_names, landmarks, sizes, boxes, tuple(skipped), file_sizes, markup)


def read_labelled(
    folder: Path, config: Config, on_bad: Literal["stop", "skip"] = "stop", limit: int = 0
) -> LandmarkSet:
    """A labelled set as a training with this config reads it: its crop of Microsoft's layout, its landmark set."""
    data, markup = config.data, markup_of(config)
    return read_set(
        folder,
        on_bad=on_bad,
        limit=limit,
        crop_scale=data.crop_scale,
        crop_lift=data.crop_lift,
        markup=markup,
    )


def _list(folder: Path) -> dict[str, int]:
    """Name -> bytes of the folder's files."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    except OSError as error:
        raise UserError(f"Data folder '{folder}' cannot be read: {error.strerror or error}.") from None


def _parse_annot(path: Path) -> tuple[list[str], Sequence]:
    """Names and labels, the latter as they were pickled."""
    pair = unpickling.load(path)
    if (
        not isinstance(pair, list | tuple)
        or len(pair) != 2
        or not all(isinstance(p, list | tuple | np.ndarray) for p in pair)
    ):
        raise UserError(f"Annotation file '{path}' holds a {type(pair).__name__}; expected a pair of names and labels.")
    names, rows = list(pair[0]), pair[1]
    for i, name in enumerate(names):
        if not isinstance(name, str):
            raise UserError(f"Annotation file '{path}', entry {i}: the name is a {type(name).__name__}; expected text.")
    if len(names) != len(rows):
        raise UserError(f"Annotation file '{path}' has {len(names)} names but {len(rows)} labels; expected as many.")
    return names, rows


def _check_names(names: list[str], path: Path) -> None:
    for name in names:
        if not name or name in (".", "..") or any(c in name for c in "/\\\0"):
            raise UserError(f"Annotation file '{path}' names the image {name!r}; expected a plain file name beside it.")
    name, count = Counter(names).most_common(1)[0] if names else ("", 0)
    if count > 1:
        raise UserError(f"Annotation file '{path}' names the image '{name}' {count} times; expected each name once.")


def _points(row, markup: Markup) -> np.ndarray:
    """One label as (P, 2) float32: P pairs of numbers, an array of them, or a Microsoft text file."""
    if isinstance(row, Path):
        return _read_text_label(row, markup)
    try:
        points = np.asarray(row, np.float32)
    except (TypeError, ValueError):
        raise _Broken(f"its label is not {markup.count} pairs of numbers") from None
    if points.ndim != 2 or points.shape[1] != 2:
        raise _Broken(f"its label has the shape {points.shape}; expected ({markup.count}, 2)")
    if len(points) != markup.count:
        raise _Broken(f"its label has {len(points)} points; expected {markup.count}, those of {markup.name}")
    return points


def _read_text_label(path: Path, markup: Markup) -> np.ndarray:
    try:
        lines = [line for line in path.read_text(encoding="ascii").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        raise _Broken(f"its label '{path.name}' is not a readable text file") from None
    exactly = markup.fits(IBUG68)  # that file is known; another set's may go on with points of any kind
    wanted = _MICROSOFT_LINES if exactly else markup.count
    if len(lines) < wanted or (exactly and len(lines) > wanted):
        raise _Broken(f"its label '{path.name}' has {len(lines)} points; expected {wanted} lines")
    try:
        return np.array([[float(x), float(y)] for x, y in (line.split() for line in lines[: markup.count])], np.float32)
    except ValueError:
        raise _Broken(f"its label '{path.name}' has a line that is not two numbers") from None


def _crop_boxes(landmarks: np.ndarray, scale: float, lift: float) -> np.ndarray:
    """Square crops x0 y0 x1 y1 around (N, P, 2) landmarks, (N, 4) float64; see read_set."""
    low, high = landmarks.min(1).astype(np.float64), landmarks.max(1).astype(np.float64)
    side = scale * (high - low).max(1, keepdims=True)
    centre = (low + high) / 2 - side * [0.0, lift]
    return np.concatenate([centre - side / 2, centre + side / 2], axis=1)


# ---------------------------------------------------------------------------------------------------- checking


def _check_images(folder: Path, names, rows, files: dict[str, int], labelled: bool, on_bad: str, markup: Markup):
    """Kept (name, (width, height), points or None) and skipped (name, reason). Raises UserError when told to stop."""
    skipped: list[tuple[str, str]] = []

    def broken(name: str, reason: _Broken) -> None:
        if on_bad == "stop":
            raise BadImage(f"Image '{folder / name}' cannot be used: {reason}.")
        skipped.append((name, str(reason)))

    readable = []
    for name, row in zip(names, rows, strict=True):
        try:
            if name not in files:
                raise _Broken("there is no such file")
            readable.append((name, _image_size(folder / name), row))
        except _Broken as reason:
            broken(name, reason)
    if not labelled:
        return readable, skipped

    common = Counter(size for _, size, _ in readable).most_common(1)[0][0] if readable else (0, 0)
    if common[0] != common[1]:
        raise UserError(
            f"Data set '{folder}' has images of {common[0]}x{common[1]} pixels; expected square ones in the labels' frame."
        )
    parsed = []
    for name, size, row in readable:
        try:
            if size != common:
                raise _Broken(
                    f"it is {size[0]}x{size[1]} pixels where the set's labels are for {common[0]}x{common[1]}"
                )
            points = _points(row, markup)
            if not np.isfinite(points).all():
                raise _Broken("its label has a coordinate that is not finite")
            parsed.append((name, size, points))
        except _Broken as reason:
            broken(name, reason)
    if parsed:  # before single labels are judged, so that labels in a wrong frame are called that
        _check_frame(folder, np.stack([points for _, _, points in parsed]), common[0])
    kept = []
    for name, size, points in parsed:
        try:
            _check_points(points, size[0])
            kept.append((name, size, points))
        except _Broken as reason:
            broken(name, reason)
    return kept, skipped


def _check_points(points: np.ndarray, side: int) -> None:
    """(P, 2) finite landmarks of a square image. Raises _Broken."""
    if points.min() < -side or points.max() > 2 * side:
        far = points.ravel()[np.abs(points - side / 2).argmax()]
        raise _Broken(
            f"its label has the coordinate {far:g}, more than one image side of {side} pixels outside the image"
        )
    extent = float(np.ptp(points, axis=0).max())
    if extent < side / 20:
        raise _Broken(f"its landmarks spread over {extent:.3g} pixels only, in an image of {side}")
    inside = int(((points >= 0) & (points <= side)).all(1).sum())
    if inside < len(points) / 2:
        raise _Broken(f"only {inside} of its {len(points)} landmarks lie inside the image of {side} pixels")


def _check_frame(folder: Path, landmarks: np.ndarray, side: int) -> None:
    """Labels and images must be in one frame: the landmarks' median centre lies about the middle of the image."""
    x, y = np.median((landmarks.min(1) + landmarks.max(1)) / (2 * side), axis=0)
    if not (_CENTRE_X[0] <= x <= _CENTRE_X[1] and _CENTRE_Y[0] <= y <= _CENTRE_Y[1]):
        raise UserError(
            f"Data set '{folder}': its images are {side}x{side} pixels but its landmarks are centred at "
            f"({x * side:.0f}, {y * side:.0f}), so the labels were made for another image size; expected about "
            f"({side * 0.5:.0f}, {side * 0.58:.0f})."
        )


def _image_size(path: Path) -> tuple[int, int]:
    """Width and height from the header of a JPEG or PNG that is complete to its end. Raises _Broken."""
    try:
        with open(path, "rb") as file:
            start = file.read(8)
            if start[:2] == b"\xff\xd8":
                return _jpeg_size(file)
            if start == b"\x89PNG\r\n\x1a\n":
                return _png_size(file)
    except OSError as error:
        raise _Broken(f"it cannot be read ({error.strerror or error})") from None
    raise _Broken("it is empty" if not start else "it is neither a JPEG nor a PNG")


def _jpeg_size(file: BinaryIO) -> tuple[int, int]:
    """Walk the segments to the frame header (SOFn), then look for the end marker (ITU T.81, annex B)."""
    size = (0, 0)
    file.seek(2)
    while True:
        head = file.read(4)
        if len(head) < 4 or head[0] != 0xFF:
            raise _Broken("its JPEG header is broken")
        marker, length = head[1], struct.unpack(">H", head[2:])[0]
        if marker == 0xFF:  # fill byte
            file.seek(-3, os.SEEK_CUR)
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame = file.read(5)
            if len(frame) < 5:
                raise _Broken("its JPEG header is broken")
            height, width = struct.unpack(">xHH", frame)
            size = (width, height)
            length -= 5
        if marker == 0xDA:  # start of scan: pixels follow
            break
        if length < 2:
            raise _Broken("its JPEG header is broken")
        file.seek(length - 2, os.SEEK_CUR)
    if 0 in size:
        raise _Broken("its JPEG header gives no size")
    scan = file.tell()
    end = file.seek(0, os.SEEK_END)
    file.seek(max(scan, end - 16))
    if b"\xff\xd9" not in file.read():
        file.seek(scan)  # a camera may have appended something of its own after the picture
        if b"\xff\xd9" not in file.read():
            raise _Broken("it is truncated (a JPEG without its end marker)")
    return size


def _png_size(file: BinaryIO) -> tuple[int, int]:
    header = file.read(16)
    if len(header) < 16 or header[4:8] != b"IHDR":
        raise _Broken("its PNG header is broken")
    size = struct.unpack(">II", header[8:])
    if 0 in size:
        raise _Broken("its PNG header gives no size")
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - 64))
    if b"IEND\xaeB`\x82" not in file.read():
        raise _Broken("it is truncated (a PNG without its end chunk)")
    return size


# ---------------------------------------------------------------------------------------------------- which folders


@dataclass(frozen=True)
class SetPaths:
    root: Path
    train: Path
    val: Path
    test: Path | None
    is_sample: bool  # root is the bundled sample


def resolve(data: DataConfig) -> SetPaths:
    """The set folders a config means: under data.root, else $DISTILL_DATA, else the bundled sample.

    val "auto" is aflw_val where that exists, else synthetics_val; test "auto" is aflw_test, else synthetics_test, else
    none. Raises UserError for a root or set folder that is not there.
    """
    said = os.environ.get(DATA_VARIABLE, "")
    if data.root:
        root, source = Path(data.root).expanduser(), "data.root"
    elif said:
        root, source = Path(said).expanduser(), f"the environment variable {DATA_VARIABLE}"
    else:
        root, source = SAMPLE_ROOT, "the bundled sample"
    if not root.is_dir():
        raise UserError(f"Data root '{root}' (from {source}) is not a folder.")

    def existing(key: str, name: str) -> Path:
        if not (root / name).is_dir():
            there = sorted(path.name for path in root.iterdir() if path.is_dir())
            shown = ", ".join(there[:8]) + (", ..." if len(there) > 8 else "") or "no folder"
            raise UserError(
                f"data.{key}: folder '{name}' is not in the data root '{root}' (from {source}), which has {shown}; expected "
                f"a root that holds it, or another folder's name in data.{key}."
            )
        return root / name

    def first(*names: str) -> Path | None:
        return next((root / name for name in names if (root / name).is_dir()), None)

    train = existing("train", data.train)
    val = first("aflw_val", "synthetics_val") if data.val == "auto" else existing("val", data.val)
    if val is None:
        raise UserError(
            f"data.val: neither 'aflw_val' nor 'synthetics_val' is in the data root '{root}' (from {source}); "
            "name the validation folder with data.val=."
        )
    test = first("aflw_test", "synthetics_test") if data.test == "auto" else existing("test", data.test)
    return SetPaths(root, train, val, test, root.resolve() == SAMPLE_ROOT)


def assert_disjoint(train: LandmarkSet, val: LandmarkSet) -> None:
    """Nothing that is validated on may be trained on, whatever it is named.

    Raises UserError where both are one folder, or share a label (to the last bit) or an image file (byte for byte).
    """
    if train.folder.resolve() == val.folder.resolve():
        raise UserError(f"Training and validation set are the same folder '{val.folder}'; expected two disjoint sets.")

    def refuse(what: str, i: int, j: int) -> None:
        raise UserError(
            f"Training image '{train.folder / train.names[i]}' and validation image '{val.folder / val.names[j]}' have the "
            f"same {what}; expected disjoint sets."
        )

    if train.landmarks is not None and val.landmarks is not None:
        rows = {row.tobytes(): i for i, row in enumerate(train.landmarks)}
        for j, row in enumerate(val.landmarks):
            if row.tobytes() in rows:
                refuse("label", rows[row.tobytes()], j)
    # Files of one content have one length: only those few are read.
    same_length: dict[int, list[int]] = {}
    for i, length in enumerate(train.file_sizes):
        same_length.setdefault(int(length), []).append(i)
    for j, length in enumerate(val.file_sizes):
        for i in same_length.get(int(length), []):
            if (train.folder / train.names[i]).read_bytes() == (val.folder / val.names[j]).read_bytes():
                refuse("content", i, j)
