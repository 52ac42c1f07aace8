"""Landmarks as files, JSON for programs and CSV for tables, and drawn. Points in pixels to 0.001, confidences in 0..1 to 0.0001."""

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
from distill.landmarks import Markup
from distill.predict.crops import Box
from distill.predict.runtime import Landmarks


@dataclass(frozen=True)
class Face:
    """One face: its box (None: the whole picture was the crop), and its landmarks."""

    box: Box | None
    found: Landmarks
    names: tuple[str, ...] = ()  # of the points, where the landmark set has them

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: points, confidence, and names and the box where there are any."""
        values: dict[str, Any] = {
            "points": np.round(self.found.points.astype(np.float64), 3).tolist(),
            "confidence": np.round(self.found.confidence.astype(np.float64), 4).tolist(),
        }
        named = {"names": list(self.names)} if self.names else {}
        return values | named | ({"box": list(self.box)} if self.box else {})


def drawn(image: np.ndarray, faces: Iterable[Landmarks], markup: Markup) -> np.ndarray:
    """A copy of (H, W, 3) uint8 RGB with the outlines and points of each face, coloured from red (unsure) to green."""
    image = image.copy()
    for points, confidence in faces:
        image = figures.draw(image, points, confidence, markup)
    return image


def pictures_json(path: Path, faces: Mapping[str, Sequence[Face]], boxed: bool) -> Path:
    """{name: {points, confidence}}, or, where there are boxes, {name: [{points, confidence, box}, ...]}."""
    rows = {name: [face.to_dict() for face in some] if boxed else some[0].to_dict() for name, some in faces.items()}
    return write_text(path, json.dumps(rows, indent=1, sort_keys=True) + "\n")


def pictures_csv(path: Path, faces: Mapping[str, Sequence[Face]], boxed: bool) -> Path:
    """A row a face: image, face (counted from 0 in its image), x1, y1, c1, x2, ...; by name where the points have
    one."""
    rows = [(name, number, face) for name, some in faces.items() for number, face in enumerate(some)]
    return _table(path, ("image", "face"), rows)


def video_json(
    path: Path, facts: Mapping[str, Any], frames: Sequence[int], seconds: Sequence[float], faces: Sequence[Face]
) -> Path:
    """The facts of the video, and `frames`: a list of {frame, seconds, points, confidence}."""
    rows = [
        {"frame": index, "seconds": round(at, 4)} | face.to_dict()
        for index, at, face in zip(frames, seconds, faces, strict=True)
    ]
    return write_text(path, json.dumps(dict(facts) | {"frames": rows}, indent=1) + "\n")


def video_csv(path: Path, frames: Sequence[int], seconds: Sequence[float], faces: Sequence[Face]) -> Path:
    """A row a frame: frame, seconds, x1, y1, c1, x2, ...; by name where the points have one."""
    rows = [(index, f"{at:.4f}", face) for index, at, face in zip(frames, seconds, faces, strict=True)]
    return _table(path, ("frame", "seconds"), rows)


def _table(path: Path, keys: tuple[str, str], rows: Iterable[tuple[Any, Any, Face]]) -> Path:
    rows = list(rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    first = rows[0][2] if rows else None
    count = len(first.found.points) if first else 0
    columns = [f"_{name}" for name in first.names] if first and first.names else [str(i + 1) for i in range(count)]
    writer.writerow([*keys, *(f"{letter}{column}" for column in columns for letter in "xyc")])
    for first, second, face in rows:
        values = np.column_stack([face.found.points, face.found.confidence]).ravel()
        writer.writerow(
            [first, second, *(f"{value:.4f}" if i % 3 == 2 else f"{value:.3f}" for i, value in enumerate(values))]
        )
    return write_text(path, text.getvalue())
