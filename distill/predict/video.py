"""Frames of a video file or camera, and a video file to write frames to; RGB outside, OpenCV's own order inside."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from distill.errors import UserError

SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".gif")
FALLBACK_FPS = 25.0  # of cameras and files that do not say
_CAMERA = re.compile(r"camera(?::(\d+))?")


class Frame(NamedTuple):
    index: int  # counted from 0
    seconds: float  # since the first frame: index / fps for a file, measured for a camera
    image: np.ndarray  # (H, W, 3) uint8 RGB


@dataclass(frozen=True)
class Video:
    """An open video. `frames` can be asked for once."""

    name: str  # for files made from it
    fps: float
    width: int
    height: int
    count: int  # frames, as the file says; 0: unknown, or a camera
    live: bool  # a camera
    capture: cv2.VideoCapture

    def frames(self) -> Iterator[Frame]:
        """Every frame in order; a camera's never end. Raises UserError where a video holds none at all."""
        start, index = time.monotonic(), 0
        while True:
            there, image = self.capture.read()
            if not there:
                break
            seconds = time.monotonic() - start if self.live else index / self.fps
            yield Frame(index, seconds, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
            index += 1
        if not index:
            raise UserError(f"Video '{self.name}' holds no frame that can be decoded.")


def camera_index(source: str) -> int | None:
    """N of `camera:N`, 0 of `camera`, None of anything else."""
    found = _CAMERA.fullmatch(source)
    return int(found[1] or 0) if found else None


@contextlib.contextmanager
def opened(source: str) -> Iterator[Video]:
    """A file or `camera[:N]`, released in the end. Raises UserError where it cannot be opened."""
    camera = camera_index(source)
    if camera is None and not Path(source).is_file():
        raise UserError(f"Video '{source}' does not exist.")
    with _silence():
        capture = cv2.VideoCapture(source if camera is None else camera)
    try:
        if not capture.isOpened():
            what = f"Video '{source}' cannot be decoded" if camera is None else f"Camera {camera} cannot be opened"
            raise UserError(f"{what}; expected a video that OpenCV reads, or camera:N.")
        fps = capture.get(cv2.CAP_PROP_FPS)
        yield Video(
            name=Path(source).stem if camera is None else f"camera{camera}",
            fps=fps if 0 < fps < 1000 else FALLBACK_FPS,
            width=int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
            height=int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
            count=max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))) if camera is None else 0,
            live=camera is not None,
            capture=capture,
        )
    finally:
        capture.release()


class Writer:
    """Writes frames to an MP4 file (MPEG-4 part 2, which every build of OpenCV has); use as a context manager.

    The file appears when all is written, and not at all when something fails. The size is that of the first frame; an odd
    last row or column, which the codec cannot hold, is repeated once.
    """

    def __init__(self, path: Path, fps: float):
        self.path, self.fps = path, fps
        self._temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
        self._writer: cv2.VideoWriter | None = None

    def __enter__(self) -> Writer:
        return self

    def write(self, image: np.ndarray) -> None:
        """Add (H, W, 3) uint8 RGB. Raises UserError where this OpenCV cannot write the file."""
        height, width = image.shape[:2]
        image = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            size = (image.shape[1], image.shape[0])
            with _silence():
                self._writer = cv2.VideoWriter(str(self._temporary), cv2.VideoWriter_fourcc(*"mp4v"), self.fps, size)
            if not self._writer.isOpened():
                raise UserError(f"Video '{self.path}' cannot be written: this OpenCV has no MPEG-4 encoder.")
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    def __exit__(self, kind, _error, _trace) -> None:
        if self._writer is not None:
            self._writer.release()
            if kind is None:
                os.replace(self._temporary, self.path)
        self._temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the remarks of OpenCV and FFmpeg off stderr: what goes wrong is told once, by us."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read once, at the first video of a process
    log = cv2.utils.logging
    level = log.getLogLevel()
    log.setLogLevel(log.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        log.setLogLevel(level)
