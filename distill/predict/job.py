"""Landmarks of pictures, written as files. `video_job` does the same for video. Needs no torch itself."""

from __future__ import annotations

import os
import re
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from tqdm import tqdm

from distill import cores
from distill.data import images
from distill.errors import UserError
from distill.files import write_text
from distill.predict import output, pictures, smoothing
from distill.predict.boxes import Boxes
from distill.predict.crops import BOX_SCALE, Box
from distill.predict.output import Face
from distill.predict.runtime import OnnxNetwork, Student

LEFT_OUT = "left_out.txt"
_CAMERA = re.compile(r"camera(?::(\d{1,4}))?", re.ASCII)


@dataclass(frozen=True)
class Options:
    """What is made of the predictions, and where."""

    out: Path
    format: Literal["json", "csv"] = "json"
    draw: bool = True
    smooth: bool = False  # video: return the smoothed points
    boxes: Boxes | None = None
    box_scale: float = BOX_SCALE
    on_bad: Literal["skip", "stop"] = "skip"  # a picture or frame that cannot be used


@dataclass(frozen=True)
class Predicted:
    """Summary of what was predicted and written."""

    landmarks: Path
    pictures: int  # pictures or frames
    faces: int
    seconds: float  # of reading, predicting and drawing
    confidence: float  # mean over all points
    drawn: Path | None = None  # folder of the drawn pictures, or the drawn video
    unboxed: int = 0  # pictures without a box in the box file
    letterboxed: int = 0  # pictures without a box whose longer side is over 1.5 times the shorter
    unused_boxes: tuple[str, ...] = ()  # images of the box file that are none of the pictures
    left_out: dict[str, str] = field(default_factory=dict)  # picture or frame -> why
    calm: smoothing.Calm | None = None  # video: jitter without and with smoothing
    fps: float = 0.0


def kind_of(source: str) -> Literal["folder", "image", "video", "camera"]:
    """An existing path comes first, then `camera:N`. Raises UserError where it is neither."""
    path = Path(source)
    if path.is_dir():
        return "folder"
    if not path.exists():
        if camera_index(source) is not None:
            return "camera"
        raise UserError(f"'{source}' is not a folder, a picture, a video, or camera:N; there is no such file.")
    if not path.is_file():
        raise UserError(f"'{source}' is not a regular file; expected a picture, a video or a folder.")
    return "image" if path.suffix.lower() in images.SUFFIXES else "video"


def camera_index(source: str) -> int | None:
    """N of `camera:N`, 0 of `camera`, None of anything else."""
    found = _CAMERA.fullmatch(source)
    return int(found[1] or 0) if found else None


def check_sources(sources: Sequence[str]) -> None:
    """Raises UserError for a source that is not there, or a video beside other sources."""
    kinds = {source: kind_of(source) for source in sources}
    moving = [source for source, kind in kinds.items() if kind in ("video", "camera")]
    if moving and len(sources) > 1:
        raise UserError(f"'{moving[0]}' is a {kinds[moving[0]]} beside {len(sources) - 1} others; expected it alone.")


def list_pictures(sources: Sequence[str]) -> dict[str, Path]:
    """Name -> path of files as given and of the pictures in folders, in order; hidden files in folders are passed over.

    A name is that of the file, or its path as given where several have that name. Raises UserError for a folder without
    pictures.
    """
    found: list[Path] = []
    for source in sources:
        if kind_of(source) != "folder":
            found.append(Path(source))
            continue
        inside = sorted(path for path in Path(source).iterdir() if images.is_picture(path.name))
        if not inside:
            raise UserError(f"Folder '{source}' is empty: no picture ({', '.join(images.SUFFIXES)}) in it.")
        found += inside
    found = list(dict.fromkeys(found))
    often = Counter(path.name for path in found)
    return {path.name if often[path.name] == 1 else str(path): path for path in found}


def predict_pictures(student: Student, files: dict[str, Path], options: Options) -> Predicted:
    """Landmarks of each picture, by its boxes or whole, and the drawn pictures.

    Writes landmarks.json or landmarks.csv, NAME.jpg of each picture, and left_out.txt with each picture that could not
    be used and why. What was predicted until Ctrl-C or an error is written, too. Raises UserError for boxes of other
    pictures, drawings that would replace a picture, where no picture can be used, and with on_bad="stop" for the first
    one.
    """
    boxes = {name: options.boxes.find(path) if options.boxes else () for name, path in files.items()}
    if options.boxes and not any(boxes.values()):
        raise UserError(
            f"Box file '{options.boxes.file}' names none of the {len(files)} pictures, such as '{next(iter(files))}'."
        )
    targets = _targets(files, options.out) if options.draw else {}
    landmarks = options.out / f"landmarks.{options.format}"
    found: dict[str, list[Face]] = {}
    left_out: dict[str, str] = {}
    letterboxed, started = 0, time.monotonic()
    works = [_Work(path, boxes[name], targets.get(name)) for name, path in files.items()]
    try:
        for name, work, done in zip(files, works, _done(student, works, options), strict=True):
            if isinstance(done, str):
                left_out[name] = done
                continue
            found[name] = done.faces
            letterboxed += not work.boxes and max(done.shape) > 1.5 * min(done.shape)
    finally:
        if found:
            write = output.pictures_csv if options.format == "csv" else output.pictures_json
            write(landmarks, found, options.boxes is not None)
        write_left_out(options.out, left_out)
    if not found:
        name, reason = next(iter(left_out.items()))
        raise UserError(f"None of the {len(files)} pictures can be used, such as '{name}': {reason}.")
    everyone = [face for some in found.values() for face in some]
    return Predicted(
        landmarks=landmarks,
        pictures=len(found),
        faces=len(everyone),
        seconds=time.monotonic() - started,
        confidence=float(np.mean([face.found.confidence for face in everyone])),
        drawn=options.out if options.draw else None,
        unboxed=sum(not boxes[name] for name in found) if options.boxes else 0,
        letterboxed=letterboxed,
        unused_boxes=options.boxes.unused(files.values()) if options.boxes else (),
        left_out=left_out,
    )


class _Work(NamedTuple):
    """One picture, its boxes (none: it is the crop), and where its drawing goes."""

    path: Path
    boxes: Sequence[Box]
    target: Path | None


class _Done(NamedTuple):
    faces: list[Face]
    shape: tuple[int, ...]  # height and width of the picture


def _done(student: Student, works: Sequence[_Work], options: Options) -> Iterator[_Done | str]:
    """What comes of each picture, or why it is left out, in order; a thread a core reads, predicts, draws and writes.

    A torch student computes one picture at a time, on all cores. Raises UserError for the first picture that cannot
    be used where it is not to be skipped, and for a drawing that cannot be written; then no drawing of a later
    picture stays.
    """
    written: list[Path] = []
    count = 0

    def one(work: _Work) -> _Done | str:
        try:
            image = images.decode(work.path, upright=True)
            faces = [face_in(student, image, box, options.box_scale) for box in work.boxes or (None,)]
        except (images.Broken, UserError) as error:
            reason = str(error).rstrip(".")
            if options.on_bad == "stop":
                raise UserError(f"Image '{work.path}' cannot be used: {reason}.") from None
            return reason
        if work.target:
            written.append(work.target)
            pictures.write(work.target, output.drawn(image, faces, student.markup))
        return _Done(faces, image.shape[:2])

    bar = tqdm(total=len(works), desc="pictures", unit="picture", disable=None, dynamic_ncols=True, leave=False)
    try:
        with cores.pool(None if isinstance(student.network, OnnxNetwork) else 1) as pool, bar:
            for done in pool.map(one, works):
                bar.update()
                count += 1
                yield done
    finally:  # threads run ahead of a picture that stops the job
        for work in works[count:]:
            if work.target in written:
                work.target.unlink(missing_ok=True)


def face_in(student: Student, image: np.ndarray, box: Box | None, box_scale: float) -> Face:
    """One face of (H, W, 3) uint8 RGB. Raises UserError for a box that does not fit and a result that is not finite."""
    found = student(image, box, box_scale)
    if not (np.isfinite(found.points).all() and np.isfinite(found.confidence).all()):
        raise UserError(f"the model '{student.label}' gives values that are not finite.")
    return Face(box, found, student.markup.names, student.expected_error(found.confidence))


def write_left_out(out: Path, left_out: dict[str, str]) -> None:
    """A line each, or no file where there are none; that of an earlier call would mislead."""
    if left_out:
        write_text(out / LEFT_OUT, "".join(f"{name}\t{reason}\n" for name, reason in left_out.items()))
    else:
        (out / LEFT_OUT).unlink(missing_ok=True)


def _targets(files: dict[str, Path], out: Path) -> dict[str, Path]:
    """Where each picture's drawing goes: STEM.jpg, or NAME.jpg where two have one stem. Raises UserError for an
    input."""
    often = Counter(unicodedata.normalize("NFC", path.stem) for path in files.values())
    targets, taken = {}, set()
    inputs = {path.absolute() for path in files.values()}
    for name, path in files.items():
        stem = path.stem if often[unicodedata.normalize("NFC", path.stem)] == 1 else name.replace(os.sep, "_")
        target = out / f"{stem}.jpg"
        if target.absolute() in inputs:
            raise UserError(f"The drawing of '{path}' would replace the picture '{target}'; give another --out.")
        if target in taken:
            raise UserError(f"Two drawings would have the name '{target}'; predict their folders one at a time.")
        taken.add(target)
        targets[name] = target
    return targets
