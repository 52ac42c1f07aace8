"""Frames of a video file or camera with their true times, and a video file to write frames to; RGB throughout.

Files are read and written by PyAV (FFmpeg), which gives each frame's own time; cameras by OpenCV.
"""

from __future__ import annotations

import contextlib
import heapq
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from distill.errors import UserError
from distill.files import atomic

USUAL_FPS = 25.0  # of files that do not state their rate
TICK = Fraction(1, 60_000)  # seconds; times of a written video are multiples of it. 24, 25, 30 and 29.97 Hz are exact

av.logging.set_level(None)  # what goes wrong is reported once, by us


@dataclass(frozen=True, eq=False)
class Frame:
    """A decoded frame."""

    index: int  # place in the video, counted from 0; lost frames count
    seconds: float  # since the first frame: the container's own times for a file, measured for a camera
    image: np.ndarray  # (H, W, 3) uint8 RGB, upright


@dataclass(frozen=True)
class Lost:
    """A frame of a file that cannot be decoded, or rests on one that cannot."""

    index: int
    seconds: float
    reason: str


@dataclass(frozen=True)
class Video:
    """An open video. `frames` can be iterated once, and gives every frame in order; a camera's never end."""

    name: str  # for files made from it
    count: int  # frames according to the file's header, for a progress bar; 0: unknown
    live: bool  # a camera
    frames: Iterator[Frame | Lost]


@contextlib.contextmanager
def opened(source: str, camera: int | None = None) -> Iterator[Video]:
    """A video file, or the camera of this number. Raises UserError where it cannot be opened."""
    if camera is not None:
        with _camera(camera) as frames:
            yield Video(f"camera{camera}", 0, True, frames)
        return
    path = Path(source)
    if not path.is_file():
        raise UserError(f"Video '{source}' does not exist.")
    try:  # an absolute path is never taken for an address, and a playlist in the file opens no other address
        container = av.open(str(path.absolute()), options={"protocol_whitelist": "file"})
    except (av.FFmpegError, UnicodeEncodeError) as error:
        raise UserError(f"Video '{source}' cannot be decoded: {_reason(error)}.") from None
    with container:
        if not container.streams.video:
            raise UserError(f"Video '{source}' has no pictures, only {len(container.streams)} other streams.")
        stream = container.streams.video[0]
        stream.thread_type = "SLICE"  # decoding errors come with the packet that has them
        yield Video(path.stem, stream.frames, False, _Reader(container, stream).frames())


class _Reader:
    """Decodes the first video stream of a file, and keeps account of what is lost.

    Packets come in decoding order and frames in order of their times, some packets later. Where a packet cannot be
    decoded, FFmpeg continues and fills the gap with whatever it has. So what was decoded after it is lost, too, until a
    key frame.
    """

    def __init__(self, container: Any, stream: Any):
        self.container, self.stream = container, stream
        self.step = 1 / float(stream.average_rate or stream.guessed_rate or USUAL_FPS)
        self.lost: list[tuple[float, str]] = []  # a heap by time: lost frames that have no place yet
        self.damaged = False  # since a packet that could not be decoded, until a key frame
        self.clean_from = -np.inf  # time of the key frame after damage; earlier frames may rest on what was lost
        self.unusable: set[float] = set()  # times of what is lost; FFmpeg may give a picture all the same
        self.index = 0
        self.first: float | None = None
        self.last = -np.inf
        self.shift = 0.0

    def frames(self) -> Iterator[Frame | Lost]:
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:  # the container itself is damaged from here on
                heapq.heappush(self.lost, (np.inf, f"the rest of the file cannot be read: {_reason(error)}"))
                packet = None
            if packet is None:
                break
            yield from self._of_packet(packet)
        while self.lost:
            yield self._next_lost()
        named, held = self._promised(), self.last + self.step
        if self.first is not None and named > held - self.first + max(1.0, 10 * self.step):
            end = held - self.first - self.step
            missing = f"the header names {named:.3f} s, and nothing can be read after {end:.3f} s"
            yield Lost(*self._next_place(np.inf), missing)

    def _promised(self) -> float:
        """Seconds of the stream by its header; 0 where there is none, or it may be another stream's."""
        if self.stream.duration:
            return float(self.stream.duration * self.stream.time_base)
        alone = len(self.container.streams) == 1
        return self.container.duration / av.time_base if alone and self.container.duration else 0.0

    def _of_packet(self, packet: Any) -> Iterator[Frame | Lost]:
        at = self._time(packet)
        if packet.is_keyframe and self.damaged:
            self.damaged, self.clean_from = False, at
        dependent = packet.size and (self.damaged or at < self.clean_from)
        reason = "rests on a frame that cannot be decoded" if dependent else ""
        try:
            if packet.is_corrupt:
                raise av.InvalidDataError(0, "its data are not whole")
            decoded = packet.decode()
        except av.FFmpegError as error:
            reason, decoded, self.damaged = f"cannot be decoded: {_reason(error)}", [], True
        if reason:
            heapq.heappush(self.lost, (at, reason))
            self.unusable.add(at)
        for frame in decoded:
            at = self._time(frame)
            if at in self.unusable:
                continue
            while self.lost and self.lost[0][0] < at:
                yield self._next_lost()
            image = frame.to_ndarray(format="rgb24")
            if frame.rotation:  # a phone's film, to be shown turned
                image = np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90)))
            yield Frame(*self._next_place(at), image)

    def _time(self, item: Any) -> float:
        """Seconds of a packet or frame by the container; what has no time follows the one before at the usual rate."""
        stamp = item.pts if item.pts is not None else item.dts
        return float(stamp * item.time_base) if stamp is not None else max(self.last, 0.0) + self.step

    def _next_lost(self) -> Lost:
        at, reason = heapq.heappop(self.lost)
        return Lost(*self._next_place(at), reason)

    def _next_place(self, at: float) -> tuple[int, float]:
        """Index and seconds of the next frame. Times that do not go on, as in files that were joined, are shifted."""
        if not np.isfinite(at):
            at = self.last + self.step - self.shift if np.isfinite(self.last) else 0.0
        self.first = at if self.first is None else self.first
        if at + self.shift <= self.last:
            self.shift = self.last + self.step - at
        self.last = at + self.shift
        self.index += 1
        return self.index - 1, self.last - self.first


@contextlib.contextmanager
def _camera(number: int) -> Iterator[Iterator[Frame | Lost]]:
    with _silent_opencv():
        capture = cv2.VideoCapture(number)
    try:
        if not capture.isOpened():
            raise UserError(f"Camera {number} cannot be opened.")
        yield _camera_frames(capture)
    finally:
        capture.release()


def _camera_frames(capture: cv2.VideoCapture) -> Iterator[Frame | Lost]:
    start, index = time.monotonic(), 0
    while True:
        there, image = capture.read()
        if not there:
            return
        yield Frame(index, time.monotonic() - start, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
        index += 1


@contextlib.contextmanager
def writer(path: Path, gop: int = 50) -> Iterator[Callable[[np.ndarray, float], None]]:
    """A function that adds (H, W, 3) uint8 RGB to an MP4 file (H.264), to be shown at so many seconds from the start.

    The file appears when all is written, and not at all when something fails. Its size is that of the first frame, to
    which others are scaled; an odd last row or column, which the codec cannot hold, is repeated once. gop: frames from
    one key frame to the next, at most. Raises UserError where the file cannot be written.
    """
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    stream: Any = None
    try:
        with atomic(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:

            def write(image: np.ndarray, seconds: float) -> None:
                nonlocal stream
                height, width = image.shape[:2]
                image = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
                if stream is None:
                    stream = container.add_stream(codec, options={"preset": "veryfast", "crf": "18"})
                    stream.height, stream.width = image.shape[:2]
                    stream.pix_fmt, stream.time_base, stream.codec_context.gop_size = "yuv420p", TICK, gop
                    stream.codec_context.time_base = TICK
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image, np.uint8), format="rgb24")
                frame = frame.reformat(stream.width, stream.height, "yuv420p")
                frame.pts, frame.time_base = round(seconds / TICK), TICK
                container.mux(stream.encode(frame))

            yield write
            if stream is not None:
                container.mux(stream.encode())
    except av.FFmpegError as error:
        raise UserError(f"Video '{path}' cannot be written: {_reason(error)}.") from None


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


@contextlib.contextmanager
def _silent_opencv() -> Iterator[None]:
    """Keep the remarks of OpenCV off stderr: a camera that is not there is reported once, by us."""
    log = cv2.utils.logging
    level = log.getLogLevel()
    log.setLogLevel(log.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        log.setLogLevel(level)
