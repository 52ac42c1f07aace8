"""Landmarks as files, JSON for programs and CSV for tables, and drawn.

Points in pixels to 0.001, confidences in 0..1 to 0.0001, expected errors in percent of the crop's side to 0.01.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distill import figures
from distill.files import write_text
from distill.landmarks import IBUG68, Markup
from distill.predict.crops import Box
from distill.predict.runtime import Landmarks

WORST = 5.0  # expected error in percent of the crop's side that is drawn in plain red


@dataclass(frozen=True)
class Face:
    """One face: its box (None: the whole picture was the crop), and its landmarks."""

    box: Box | None
    found: Landmarks
    names: tuple[str, ...] = ()  # of the points, where the landmark set has them
    expected_error: np.ndarray | None = None  # (P,) percent of the crop's side; None: the student is not calibrated

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: points, confidence, and expected_error, names and box where there are any."""
        values: dict[str, Any] = {
            "points": np.round(self.found.points.astype(np.float64), 3).tolist(),
            "confidence": np.round(self.found.confidence.astype(np.float64), 4).tolist(),
        }
        if self.expected_error is not None:
            values["expected_error"] = np.round(self.expected_error, 2).tolist()
        named = {"names": list(self.names)} if self.names else {}
        return values | named | ({"box": list(self.box)} if self.box else {})


def drawn(image: np.ndarray, faces: Iterable[Face], markup: Markup = IBUG68) -> np.ndarray:
    """A copy of (H, W, 3) uint8 RGB with the outlines and points of each face, coloured from red (unsure) to green.

    The colour shows the expected error, from 0 to WORST, or the confidence of a student that is not calibrated.
    """
    image = image.copy()
    for face in faces:
        sure = face.found.confidence if face.expected_error is None else 1 - face.expected_error / WORST
        image = figures.draw(image, face.found.points, sure, markup)
    return image


def pictures_json(path: Path, faces: Mapping[str, Sequence[Face]], boxed: bool) -> Path:
    """{name: {points, confidence, expected_error}}, or, where there are boxes, {name: [{points, ..., box}, ...]}.

    A picture has a line.
    """
    rows = {name: [face.to_dict() for face in some] if boxed else some[0].to_dict() for name, some in faces.items()}
    lines = (f" {json.dumps(name)}: {json.dumps(rows[name], sort_keys=True)}" for name in sorted(rows))
    return write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def pictures_csv(path: Path, faces: Mapping[str, Sequence[Face]], boxed: bool) -> Path:
    """A row a face: image, face (counted from 0 in its image), x1, y1, c1 (and e1), x2, ...; by name where the points
    have one."""
    rows = [(name, number, face) for name, some in faces.items() for number, face in enumerate(some)]
    return _table(path, ("image", "face"), rows)


def video_json(
    path: Path, facts: Mapping[str, Any], frames: Sequence[int], seconds: Sequence[float], faces: Sequence[Face]
) -> Path:
    """The facts of the video, and `frames`: a list of {frame, seconds, points, confidence, expected_error}."""
    rows = [
        {"frame": index, "seconds": round(at, 4)} | face.to_dict()
        for index, at, face in zip(frames, seconds, faces, strict=True)
    ]
    return write_text(path, json.dumps(dict(facts) | {"frames": rows}, indent=1) + "\n")


def video_csv(path: Path, frames: Sequence[int], seconds: Sequence[float], faces: Sequence[Face]) -> Path:
    """A row a frame: frame, seconds, x1, y1, c1 (and e1), x2, ...; by name where the points have one."""
    rows = [(index, f"{at:.4f}", face) for index, at, face in zip(frames, seconds, faces, strict=True)]
    return _table(path, ("frame", "seconds"), rows)


def _table(path: Path, keys: tuple[str, str], rows: Iterable[tuple[Any, Any, Face]]) -> Path:
    rows = list(rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    first = rows[0][2] if rows else None
    count = len(first.found.points) if first else 0
    columns = [f"_{name}" for name in first.names] if first and first.names else [str(i + 1) for i in range(count)]
    digits = {"x": 3, "y": 3, "c": 4} | ({} if first is None or first.expected_error is None else {"e": 2})
    writer.writerow([*keys, *(f"{letter}{column}" for column in columns for letter in digits)])
    for key, number, face in rows:
        expected = [] if face.expected_error is None else [face.expected_error]
        values = np.column_stack([face.found.points, face.found.confidence, *expected])
        cells = (f"{value:.{d}f}" for point in values for value, d in zip(point, digits.values(), strict=True))
        writer.writerow([key, number, *cells])
    return write_text(path, text.getvalue())
