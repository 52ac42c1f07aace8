"""An optional cache of decoded images: one memory-mapped uint8 file per data set and side.

Decoding a JPEG costs several times its augmentation; a cached image costs a page fault. The set's fingerprint is in the
file's name and in a JSON file beside it, so the cache of other data is never taken for this one's. (The fingerprint
covers names, labels and byte sizes: images edited to the very same byte sizes need the cache folder emptied by hand.)
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from distill.data.annotations import LandmarkSet
from distill.data.augment import plain
from distill.errors import UserError
from distill.files import write_text


class CachedImages:
    """image(i) -> (H, W, 3) uint8 RGB out of a cache file. Sent to another process, it opens the file anew there."""

    def __init__(self, path: Path, shape: tuple[int, int, int, int]):
        self.path, self.shape = path, shape
        self._pixels: np.ndarray | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_pixels": None}  # a memory map would be pickled as a copy of the whole file

    def image(self, i: int) -> np.ndarray:
        if self._pixels is None:
            self._pixels = np.memmap(self.path, np.uint8, "r", shape=self.shape)
        return np.array(self._pixels[i])


def open_or_build(
    landmark_set: LandmarkSet, folder: str | os.PathLike, side: int = 0, progress: bool = True
) -> CachedImages:
    """The cache of this set in `folder`, built where it is missing, cut short or of other data.

    side: images are brought to side x side (plain(), landmarks are the caller's to map by to_view); 0: kept as they
    are. progress: show a bar while building. Processes that call at once build it once.

    Raises UserError where side is 0 and the images differ in size, or the cache cannot be written.
    """
    if side:
        height = width = side
    else:
        width, height = (int(n) for n in landmark_set.sizes[0])
        if (landmark_set.sizes != landmark_set.sizes[0]).any():
            raise UserError(
                f"Data set '{landmark_set.folder}' has images of several sizes, and a cache holds one; "
                "set data.cache_size to a side in pixels."
            )
    shape = (len(landmark_set), height, width, 3)
    meta = {"fingerprint": landmark_set.fingerprint, "side": side, "shape": list(shape)}
    path = Path(folder) / f"{landmark_set.fingerprint}-{side or 'full'}.u8"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not _is_whole(path, meta):
                _build(landmark_set, path, meta, progress)
    except OSError as error:
        raise UserError(f"Image cache '{path}' cannot be written: {error.strerror or error}.") from None
    return CachedImages(path, shape)


def _is_whole(path: Path, meta: dict) -> bool:
    try:
        found = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return found == meta and path.stat().st_size == np.prod(meta["shape"])
    except (OSError, ValueError):
        return False


def _build(landmark_set: LandmarkSet, path: Path, meta: dict, progress: bool) -> None:
    part = path.with_suffix(".part")
    try:
        with open(part, "wb") as file:
            for i in tqdm(range(len(landmark_set)), "decoding images", disable=not progress, leave=False):
                pixels = landmark_set.image(i)
                if meta["side"]:
                    pixels, _ = plain(pixels, None, meta["side"])
                if list(pixels.shape) != meta["shape"][1:]:
                    raise UserError(
                        f"Image '{landmark_set.folder / landmark_set.names[i]}' has changed since it was checked."
                    )
                file.write(pixels.tobytes())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    write_text(path.with_suffix(".json"), json.dumps(meta))  # last: without it the pixels do not count
