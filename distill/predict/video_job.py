"""Landmarks of a video or camera, frame by frame, written as files."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from distill.errors import UserError
from distill.predict import output, smoothing, video
from distill.predict.crops import Box
from distill.predict.job import Options, Predicted, camera_index, face_in, write_left_out
from distill.predict.output import Face
from distill.predict.runtime import Landmarks, Student


def predict_video(student: Student, source: str, options: Options) -> Predicted:
    """Landmarks of each frame, smoothed or not, and the drawn video; jitter both ways is always measured.

    A box holds from its frame on, until the next; before the first one, and without boxes, the whole frame is the crop.
    Frames that cannot be decoded or used are left out and named; the drawn video keeps the times of the rest. A camera
    is read until Ctrl-C, and then all is written as for a file. Raises UserError for a video that cannot be opened or
    gives no frame, boxes of no frame, or a drawing that would replace the video.
    """
    boxes = options.boxes.by_frame() if options.boxes else {}
    track = _Track()
    started = time.monotonic()
    camera = None if Path(source).exists() else camera_index(source)
    with video.opened(source, camera) as film, contextlib.ExitStack() as closing:
        drawn = options.out / f"{film.name}_landmarks.mp4" if options.draw else None
        if drawn and drawn.resolve() == Path(source).resolve():
            raise UserError(f"'{drawn}' is the video itself; give another --out.")
        write = closing.enter_context(video.writer(drawn)) if drawn else None
        frames = tqdm(
            film.frames, film.name, film.count or None, unit="frame", disable=None, dynamic_ncols=True, leave=False
        )
        with _until_stopped(film.live), contextlib.closing(frames):
            _follow(student, frames, boxes, options, track, write)
        if not track.faces:
            reason = next(iter(track.left_out.values()), "it holds no picture")
            raise UserError(f"'{source}' gave no frame that can be used: {reason.rstrip('.')}.")
        if boxes and min(boxes) > track.frames[-1]:
            raise UserError(
                f"Box file '{options.boxes.file}' begins at frame {min(boxes)}; the last frame is {track.frames[-1]}."
            )
    size = float(np.sqrt(track.width * track.height))
    measured = smoothing.compare(np.stack(track.raw), np.stack(track.smooth), size, track.seconds)
    fps = 1 / float(np.median(np.diff(track.seconds))) if len(track.seconds) > 1 else video.USUAL_FPS
    landmarks = options.out / f"landmarks.{options.format}"
    if options.format == "csv":
        output.video_csv(landmarks, track.frames, track.seconds, track.faces)
    else:
        facts = {
            "source": Path(source).name,
            "landmarks": student.markup.name,
            "fps": round(fps, 3),
            "width": track.width,
            "height": track.height,
            "smoothed": options.smooth,
            "jitter_percent": {"raw": measured.before, "smoothed": measured.after},
            "lag_frames": measured.lag_frames,
            "left_out": len(track.left_out),
        }
        output.video_json(landmarks, facts, track.frames, track.seconds, track.faces)
    write_left_out(options.out, track.left_out)
    return Predicted(
        landmarks=landmarks,
        pictures=len(track.faces),
        faces=len(track.faces),
        seconds=time.monotonic() - started,
        confidence=float(np.mean([face.found.confidence for face in track.faces])),
        drawn=drawn,
        left_out=track.left_out,
        calm=measured,
        fps=fps,
    )


@dataclass
class _Track:
    """A face through a video."""

    width: int = 0  # of the first frame, pixels
    height: int = 0
    frames: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    raw: list[np.ndarray] = field(default_factory=list)
    smooth: list[np.ndarray] = field(default_factory=list)
    faces: list[Face] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def _follow(
    student: Student,
    frames: Iterable[video.Frame | video.Lost],
    boxes: dict[int, Box],
    options: Options,
    track: _Track,
    write: Callable[[np.ndarray, float], None] | None,
) -> None:
    """Predict every frame into `track`, and draw it. A frame that cannot be used is left out, unless on_bad is
    "stop"."""
    calm, box = smoothing.OneEuro(), None
    for frame in frames:
        box = boxes.get(frame.index, box)
        try:
            if isinstance(frame, video.Lost):
                raise UserError(f"{frame.reason}.")
            face = face_in(student, frame.image, box, options.box_scale)
        except UserError as error:
            name = f"frame {frame.index} ({frame.seconds:.3f} s)"
            if options.on_bad == "stop":
                raise UserError(f"{name.capitalize()}: {error}") from None
            track.left_out[name] = str(error)
            continue
        if not track.faces:
            track.height, track.width = frame.image.shape[:2]
        smooth = Landmarks(calm(face.found.points, frame.seconds), face.found.confidence)
        shown = replace(face, found=smooth) if options.smooth else face
        track.frames.append(frame.index)
        track.seconds.append(frame.seconds)
        track.raw.append(face.found.points)
        track.smooth.append(smooth.points)
        track.faces.append(shown)
        if write:
            write(output.drawn(frame.image, [shown], student.markup), frame.seconds)


@contextlib.contextmanager
def _until_stopped(live: bool) -> Iterator[None]:
    """Ctrl-C ends a camera; for a file it is an interrupt."""
    try:
        yield
    except KeyboardInterrupt:
        if not live:
            raise
