"""Landmarks of pictures and of video, written as files: what `python -m distill.predict` does. Needs no torch itself."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from distill.errors import UserError
from distill.landmarks import IBUG68
from distill.predict import (
    drawing,
    output,
    pictures,
    puppet,
    smoothing,
    video,
)
from distill.predict.boxes import Boxes
from distill.predict.crops import BOX_SCALE, Box
from distill.predict.output import Face
from distill.predict.runtime import Landmarks, Student


@dataclass(frozen=True)
class Wanted:
    """What is to be made of the predictions, and where."""

    out: Path
    format: str = "json"  # or csv
    draw: bool = True
    smooth: bool = False  # video: give out the smoothed points
    puppet: bool = False  # video: also a drawn face that follows, beside the frames
    boxes: Boxes | None = None
    box_scale: float = BOX_SCALE


@dataclass(frozen=True)
class Made:
    """What came of it."""

    landmarks: Path
    pictures: int  # pictures or frames
    faces: int
    seconds: float  # of reading and predicting; of drawing too where it is a video
    confidence: float  # mean over all points
    drawn: Path | None = None  # folder of the drawn pictures, or the drawn video
    puppet: Path | None = None
    unboxed: int = 0  # pictures that the box file does not name
    calm: smoothing.Calm | None = None  # video: jitter without and with smoothing
    fps: float = 0.0


def kind_of(source: str) -> str:
    """folder, image, video or camera. Raises UserError where it is none of these."""
    if video.camera_index(source) is not None:
        return "camera"
    path = Path(source)
    if path.is_dir():
        return "folder"
    if not path.exists():
        raise UserError(f"'{source}' is not a folder, a picture, a video, or camera:N; there is no such file.")
    return "image" if path.suffix.lower() in pictures.SUFFIXES else "video"


def check_sources(sources: Sequence[str]) -> None:
    """Raises UserError for a source that is not there, or a video beside other sources."""
    kinds = {source: kind_of(source) for source in sources}
    moving = [source for source, kind in kinds.items() if kind in ("video", "camera")]
    if moving and len(sources) > 1:
        raise UserError(f"'{moving[0]}' is a {kinds[moving[0]]} beside {len(sources) - 1} others; expected it alone.")


def list_pictures(sources: Sequence[str]) -> dict[str, Path]:
    """Name -> path of files as given and of the pictures in folders, in order.

    A name is that of the file, or its path as given where several have that name. Raises UserError for a folder without
    pictures.
    """
    found: list[Path] = []
    for source in sources:
        if kind_of(source) != "folder":
            found.append(Path(source))
            continue
        inside = sorted(path for path in Path(source).iterdir() if path.suffix.lower() in pictures.SUFFIXES)
        if not inside:
            raise UserError(f"Folder '{source}' is empty: no picture ({', '.join(pictures.SUFFIXES)}) in it.")
        found += inside
    found = list(dict.fromkeys(found))
    often = Counter(path.name for path in found)
    return {path.name if often[path.name] == 1 else str(path): path for path in found}


def predict_pictures(student: Student, files: dict[str, Path], wanted: Wanted) -> Made:
    """Landmarks of each picture, by its boxes or whole, and the drawn pictures.

    Writes landmarks.json or landmarks.csv, and NAME.png of each picture, into wanted.out. Raises UserError, and writes
    nothing, for a picture that cannot be read, a box that does not fit, boxes of other pictures, or drawings that would
    replace a picture.
    """
    boxes = {name: wanted.boxes.find(path) if wanted.boxes else () for name, path in files.items()}
    if wanted.boxes and not any(boxes.values()):
        raise UserError(
            f"Box file '{wanted.boxes.file}' names none of the {len(files)} pictures, such as '{next(iter(files))}'."
        )
    targets = _targets(files, wanted.out) if wanted.draw else {}
    found: dict[str, list[Face]] = {}
    started = time.monotonic()
    for name, path in _progress(files, "pictures"):
        image = pictures.read(path)
        try:
            found[name] = [_face(student, image, box, wanted.box_scale) for box in boxes[name] or (None,)]
        except UserError as error:
            raise UserError(f"Image '{path}': {error}") from None
    seconds = time.monotonic() - started
    landmarks = wanted.out / f"landmarks.{wanted.format}"
    if wanted.format == "csv":
        output.pictures_csv(landmarks, found)
    else:
        output.pictures_json(landmarks, found, wanted.boxes is not None)
    for name, target in _progress(targets, "drawings"):
        faces = [face.found for face in found[name]]
        pictures.write(target, drawing.on_picture(pictures.read(files[name]), faces, student.markup))
    everyone = [face for some in found.values() for face in some]
    return Made(
        landmarks=landmarks,
        pictures=len(files),
        faces=len(everyone),
        seconds=seconds,
        confidence=float(np.mean([face.found.confidence for face in everyone])),
        drawn=wanted.out if wanted.draw else None,
        unboxed=sum(not some for some in boxes.values()) if wanted.boxes else 0,
    )


def predict_video(student: Student, source: str, wanted: Wanted) -> Made:
    """Landmarks of each frame, smoothed if asked for, the drawn video and the puppet's; jitter both ways is always measured.

    A box holds from its frame on, until the next; before the first one, and without boxes, the whole frame is the crop.
    A camera is read until Ctrl-C, and then all is written as for a file. Raises UserError for a video that cannot be
    decoded, boxes of no frame, or a drawing that would replace the video.
    """
    if wanted.puppet and not student.markup.fits(IBUG68):
        raise UserError(
            f"'{student.label}' predicts {student.markup}; a puppet follows the {IBUG68.count} of {IBUG68.name} only."
        )
    boxes = wanted.boxes.by_frame() if wanted.boxes else {}
    track = _Track()
    started = time.monotonic()
    with video.opened(source) as opened, contextlib.ExitStack() as closing:
        if boxes and opened.count and min(boxes) >= opened.count:
            raise UserError(
                f"Box file '{wanted.boxes.file}' begins at frame {min(boxes)}; the video has {opened.count} frames."
            )
        drawn = wanted.out / f"{opened.name}_landmarks.mp4" if wanted.draw else None
        side = wanted.out / f"{opened.name}_puppet.mp4" if wanted.puppet else None
        for path in (drawn, side):
            if path and path.resolve() == Path(source).resolve():
                raise UserError(f"'{path}' is the video itself; give another --out.")
        drawn_to = closing.enter_context(video.Writer(drawn, opened.fps)) if drawn else None
        side_to = closing.enter_context(video.Writer(side, opened.fps)) if side else None
        calm, act = smoothing.OneEuro(), puppet.Retargeter()
        box = None
        frames = tqdm(
            opened.frames(),
            opened.name,
            opened.count or None,
            unit="frame",
            disable=None,
            dynamic_ncols=True,
            leave=False,
        )
        with _until_stopped(opened.live), contextlib.closing(frames):
            for frame in frames:
                box = boxes.get(frame.index, box)
                raw = _face(student, frame.image, box, wanted.box_scale).found
                smooth = Landmarks(calm(raw.points, frame.seconds), raw.confidence)
                shown = smooth if wanted.smooth else raw
                track.add(frame.seconds, raw.points, smooth.points, Face(box, shown, student.markup.names))
                if not (drawn_to or side_to):
                    continue
                picture = drawing.on_picture(frame.image, [shown], student.markup)
                if drawn_to:
                    drawn_to.write(picture)
                if side_to:
                    side_to.write(drawing.side_by_side(picture, puppet.draw(act(shown.points), frame.image.shape[0])))
        if not track.faces:
            raise UserError(f"'{source}' gave no frame.")
    measured = track.compare(float(np.sqrt(opened.width * opened.height)))
    facts = {
        "source": Path(source).name,
        "landmarks": student.markup.name,
        "fps": opened.fps,
        "width": opened.width,
        "height": opened.height,
        "smoothed": wanted.smooth,
        "jitter_percent": {"raw": measured.before, "smoothed": measured.after},
        "lag_frames": measured.lag_frames,
    }
    landmarks = wanted.out / f"landmarks.{wanted.format}"
    if wanted.format == "csv":
        output.video_csv(landmarks, track.seconds, track.faces)
    else:
        output.video_json(landmarks, facts, track.seconds, track.faces)
    return Made(
        landmarks=landmarks,
        pictures=len(track.faces),
        faces=len(track.faces),
        seconds=time.monotonic() - started,
        confidence=float(np.mean([face.found.confidence for face in track.faces])),
        drawn=drawn,
        puppet=side,
        calm=measured,
        fps=opened.fps,
    )


@dataclass
class _Track:
    """A face through a video."""

    seconds: list[float] = field(default_factory=list)
    raw: list[np.ndarray] = field(default_factory=list)
    smooth: list[np.ndarray] = field(default_factory=list)
    faces: list[Face] = field(default_factory=list)

    def add(self, seconds: float, raw: np.ndarray, smooth: np.ndarray, face: Face) -> None:
        self.seconds.append(seconds)
        self.raw.append(raw)
        self.smooth.append(smooth)
        self.faces.append(face)

    def compare(self, size: float) -> smoothing.Calm:
        return smoothing.compare(np.stack(self.raw), np.stack(self.smooth), size)


def _face(student: Student, image: np.ndarray, box: Box | None, box_scale: float) -> Face:
    return Face(box, student(image, box, box_scale), student.markup.names)


def _progress(files: dict[str, Path], what: str) -> Iterable[tuple[str, Path]]:
    return tqdm(files.items(), what, unit="picture", disable=None, dynamic_ncols=True, leave=False)


def _targets(files: dict[str, Path], out: Path) -> dict[str, Path]:
    """Where each picture's drawing goes: STEM.png, or NAME.png where two have one stem. Raises UserError for an input."""
    often = Counter(path.stem for path in files.values())
    targets, taken = {}, set()
    inputs = {path.resolve() for path in files.values()}
    for name, path in files.items():
        stem = path.stem if often[path.stem] == 1 else name.replace(os.sep, "_")
        target = out / f"{stem}.png"
        if target.resolve() in inputs:
            raise UserError(f"The drawing of '{path}' would replace the picture '{target}'; give another --out.")
        if target in taken:
            raise UserError(f"Two drawings would have the name '{target}'; predict their folders one at a time.")
        taken.add(target)
        targets[name] = target
    return targets


@contextlib.contextmanager
def _until_stopped(live: bool) -> Iterator[None]:
    """Ctrl-C is how a camera is stopped; a file's it interrupts."""
    try:
        yield
    except KeyboardInterrupt:
        if not live:
            raise
