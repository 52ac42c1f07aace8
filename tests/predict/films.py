"""Films for tests: uneven times, and damage."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from distill.predict import video

# 40 frames: 30 a second, with pauses; the mean rate says nothing of a frame's time
TIMES = np.cumsum(np.where(np.arange(40) % 8 == 7, 0.4, 1 / 30)) - 1 / 30


def picture(index: int) -> np.ndarray:
    """(64, 80, 3) uint8 RGB: a disc that moves from left to right over noise, which fills the file."""
    image = np.random.default_rng(index).integers(0, 60, (64, 80, 3), dtype=np.uint8)
    return cv2.circle(image, (10 + index, 32), 9, (220, 180, 90), -1)


def uneven_film(path: Path, gop: int = 8) -> Path:
    """An MP4 of 40 frames, with a key frame every `gop`."""
    with video.writer(path, gop) as write:
        for index, seconds in enumerate(TIMES):
            write(picture(index), seconds)
    return path


def damaged(film: Path, to: Path) -> Path:
    """The film with zeros over a tenth of its bytes, from two fifths on."""
    data = bytearray(film.read_bytes())
    first, count = 2 * len(data) // 5, len(data) // 10
    data[first : first + count] = bytes(count)
    to.write_bytes(data)
    return to
