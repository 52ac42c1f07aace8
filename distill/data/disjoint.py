"""Nothing that is validated or tested on may be trained on, whatever it is named.

The same folder, label or file is refused; what merely looks alike (re-encoded, resized, relabelled) is named for a
warning. Alike are pictures whose difference hashes are: for each of 16 x 16 cells of the grey picture, whether the next
one to the right is brighter. Of 499 photographs, copies (JPEG quality 20 and up, down to a third of the side) differ in
at most 20 of the 256 bits, different ones in at least 33.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from distill import cores
from distill.data import images
from distill.data.annotations import LandmarkSet
from distill.errors import UserError
from distill.files import atomic

ALIKE = 20  # bits at most
_CELLS = 16  # each way
_STEP = 2  # grey levels at least; less is noise


def assert_disjoint(train: LandmarkSet, other: LandmarkSet) -> None:
    """Raises UserError where both are one folder, or share a label (to the last bit) or an image file (byte for byte).

    other: the validation set, or the test set, which need not have labels.
    """
    if train.folder.resolve() == other.folder.resolve():
        raise UserError(
            f"Training set and the set '{other.folder}', which is validated or tested on, are the same folder; "
            "expected disjoint sets."
        )

    def refuse(what: str, i: int, j: int) -> None:
        raise UserError(
            f"Training image '{train.folder / train.names[i]}' and '{other.folder / other.names[j]}', which is "
            f"validated or tested on, have the same {what}; expected disjoint sets."
        )

    if train.landmarks is not None and other.landmarks is not None:
        rows = {row.tobytes(): i for i, row in enumerate(train.landmarks)}
        for j, row in enumerate(other.landmarks):
            if row.tobytes() in rows:
                refuse("label", rows[row.tobytes()], j)
    # Files of one content have one length: only those few are read.
    same_length: dict[int, list[int]] = {}
    for i, length in enumerate(train.file_sizes):
        same_length.setdefault(int(length), []).append(i)
    for j, length in enumerate(other.file_sizes):
        for i in same_length.get(int(length), []):
            if (train.folder / train.names[i]).read_bytes() == (other.folder / other.names[j]).read_bytes():
                refuse("content", i, j)


def near_copies(
    train: LandmarkSet, others: Sequence[LandmarkSet], cache: str | os.PathLike | None = None
) -> list[tuple[Path, Path]]:
    """Training images that look like one of the other sets' images: pairs of files, the training image first.

    cache: a folder that keeps the hashes by the sets' fingerprints, so that later calls decode nothing; as for the
    pixels in it (cache.py), a fingerprint does not see a file edited to its very size.
    """
    found = []
    hashes = _hashes(train, cache)
    for other in others:
        theirs = _hashes(other, cache)
        for start in range(0, len(train), 4096):  # rows of a table of distances
            agreement = hashes[start : start + 4096] @ theirs.T
            for row in np.flatnonzero((_CELLS**2 - agreement.max(1)) / 2 <= ALIKE):
                i, j = start + int(row), int(agreement[row].argmax())
                found.append((train.folder / train.names[i], other.folder / other.names[j]))
    return found


def _hashes(landmark_set: LandmarkSet, cache: str | os.PathLike | None) -> np.ndarray:
    """(N, 256) float32 of -1 and 1, so that a product counts equal bits; zeros for an image that cannot be decoded."""
    kept = Path(cache) / f"{landmark_set.fingerprint}-hashes.npy" if cache else None
    if kept and (found := _read(kept, len(landmark_set))) is not None:
        return found.astype(np.float32)
    paths = [landmark_set.folder / name for name in landmark_set.names]
    with cores.pool(images.AT_ONCE) as threads:
        hashes = np.array(list(threads.map(_hash, paths)), np.float32)
    if kept:
        # where nothing can be written, the pixels' own cache is refused with its reason
        with contextlib.suppress(OSError), atomic(kept) as temporary:
            np.save(temporary, hashes.astype(np.int8))
    return hashes


def _read(path: Path, rows: int) -> np.ndarray | None:
    """Kept hashes; None where there are none of so many images."""
    try:
        found = np.load(path)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.shape == (rows, _CELLS**2) else None


def _hash(path: Path) -> np.ndarray:
    try:
        grey = images.decode_grey(path, 2 * (_CELLS + 1))
    except images.Broken:
        return np.zeros(_CELLS**2, np.float32)
    cells = cv2.resize(grey, (_CELLS + 1, _CELLS), interpolation=cv2.INTER_AREA).astype(np.int16)
    return np.where(np.diff(cells, axis=1) > _STEP, np.float32(1), np.float32(-1)).ravel()
