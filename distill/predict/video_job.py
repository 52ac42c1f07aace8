"""Landmarks of a video or camera, frame by frame, written as files."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from distill.errors import UserError
from distill.predict import drawing, output, smoothing, video
from distill.predict.crops import Box
from distill.predict.job import Options, Predicted, face_in
from distill.predict.output import Face
from distill.predict.runtime import Landmarks, Student


def predict_video(student: Student, source: str, options: Options) -> Predicted:
    """Landmarks of each frame, smoothed if asked for, and the drawn video; jitter both ways is always measured.

    A box holds from its frame on, until the next; before the first one, and without boxes, the whole frame is the crop.
    A camera is read until Ctrl-C, and then all is written as for a file. Raises UserError for a video that cannot be
    decoded, boxes of no frame, or a drawing that would replace the video.
    """
    boxes = options.boxes.by_frame() if options.boxes else {}
    track = _Track()
    started = time.monotonic()
    with video.opened(source) as film, contextlib.ExitStack() as closing:
        drawn = options.out / f"{film.name}_landmarks.mp4" if options.draw else None
        if drawn and drawn.resolve() == Path(source).resolve():
            raise UserError(f"'{drawn}' is the video itself; give another --out.")
        writer = closing.enter_context(video.Writer(drawn, film.fps)) if drawn else None
        frames = tqdm(
            film.frames(), film.name, film.count or None, unit="frame", disable=None, dynamic_ncols=True, leave=False
        )
        with _until_stopped(film.live), contextlib.closing(frames):
            _follow(student, frames, boxes, options, track, writer)
        if not track.faces:
            raise UserError(f"'{source}' gave no frame that can be used.")
        if boxes and min(boxes) > track.frames[-1]:
            raise UserError(
                f"Box file '{options.boxes.file}' begins at frame {min(boxes)}; the video has {track.frames[-1] + 1} frames."
            )
    measured = smoothing.compare(np.stack(track.raw), np.stack(track.smooth), float(np.sqrt(film.width * film.height)))
    landmarks = options.out / f"landmarks.{options.format}"
    if options.format == "csv":
        output.video_csv(landmarks, track.seconds, track.faces)
    else:
        facts = {
            "source": Path(source).name,
            "landmarks": student.markup.name,
            "fps": film.fps,
            "width": film.width,
            "height": film.height,
            "smoothed": options.smooth,
            "jitter_percent": {"raw": measured.before, "smoothed": measured.after},
            "lag_frames": measured.lag_frames,
        }
        output.video_json(landmarks, facts, track.seconds, track.faces)
    return Predicted(
        landmarks=landmarks,
        pictures=len(track.faces),
        faces=len(track.faces),
        seconds=time.monotonic() - started,
        confidence=float(np.mean([face.found.confidence for face in track.faces])),
        drawn=drawn,
        left_out=track.left_out,
        calm=measured,
        fps=film.fps,
    )


@dataclass
class _Track:
    """A face through a video."""

    frames: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    raw: list[np.ndarray] = field(default_factory=list)
    smooth: list[np.ndarray] = field(default_factory=list)
    faces: list[Face] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def _follow(
    student: Student,
    frames: Iterator[video.Frame],
    boxes: dict[int, Box],
    options: Options,
    track: _Track,
    writer: video.Writer | None,
) -> None:
    """Predict every frame into `track`, and draw it. A frame that cannot be used is left out, unless on_bad is "stop"."""
    calm, box = smoothing.OneEuro(), None
    for frame in frames:
        box = boxes.get(frame.index, box)
        try:
            found = face_in(student, frame.image, box, options.box_scale).found
        except UserError as error:
            if options.on_bad == "stop":
                raise UserError(f"Frame {frame.index}: {error}") from None
            track.left_out[f"frame {frame.index}"] = str(error)
            continue
        smooth = Landmarks(calm(found.points, frame.seconds), found.confidence)
        shown = smooth if options.smooth else found
        track.frames.append(frame.index)
        track.seconds.append(frame.seconds)
        track.raw.append(found.points)
        track.smooth.append(smooth.points)
        track.faces.append(Face(box, shown, student.markup.names))
        if writer:
            writer.write(drawing.on_picture(frame.image, [shown], student.markup))


@contextlib.contextmanager
def _until_stopped(live: bool) -> Iterator[None]:
    """Ctrl-C ends a camera; for a file it is an interrupt."""
    try:
        yield
    except KeyboardInterrupt:
        if not live:
            raise
