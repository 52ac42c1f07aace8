"""A drawn face that follows a face on video: motion retargeting in its simplest form.

    python examples/puppet.py outputs/bundled/student.onnx film.mp4 puppet.mp4

The 68 points of each frame give the turn of the head, the opening of eyes and mouth and the height of the brows; the
puppet shows them. Needs `pip install .` only.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from distill import headpose, load_student
from distill.predict import smoothing, video

SIDE = 480  # of the puppet's picture, pixels
SKIN, LINE, HAIR, LIP, INSIDE = (246, 200, 160), (92, 52, 40), (88, 58, 44), (206, 92, 88), (96, 30, 36)


def measure(points: np.ndarray) -> dict[str, float]:
    """(68, 2) points -> turn in degrees, and lengths over the distance of the outer eye corners."""
    yaw, pitch, roll = headpose.estimate(points[None])[0]
    angle = np.radians(roll)
    upright = points @ np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    upright = upright / max(np.linalg.norm(upright[36] - upright[45]), 1e-6)

    def height(upper: list[int], lower: list[int]) -> float:
        return float(upright[lower, 1].mean() - upright[upper, 1].mean())

    return {
        "yaw": float(np.clip(yaw, -60, 60)),
        "pitch": float(np.clip(pitch, -40, 40)),
        "roll": float(roll),
        "left_eye": height([37, 38], [41, 40]),
        "right_eye": height([43, 44], [47, 46]),
        "brows": height([18, 19, 20, 23, 24, 25], [36, 39, 42, 45]),
        "mouth": height([61, 62, 63], [67, 66, 65]),
    }


def draw(face: dict[str, float]) -> np.ndarray:
    """(SIDE, SIDE, 3) uint8 RGB."""
    picture = np.full((SIDE, SIDE, 3), (235, 228, 214), np.uint8)
    turn = np.array([np.sin(np.radians(face["yaw"])), np.sin(np.radians(face["pitch"]))])
    angle = np.radians(face["roll"])
    rotate = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    def at(x: float, y: float, depth: float = 1.0) -> tuple[int, int]:
        """A point of the face, in head widths from its centre, moved by the head's turn."""
        moved = rotate @ (np.array([x, y]) + 0.28 * depth * turn)
        return tuple(int(v) for v in (moved * SIDE * 0.38 + SIDE / 2))

    def ellipse(centre: tuple[int, int], width: float, height: float, colour: tuple[int, int, int]) -> None:
        axes = (max(1, round(width * SIDE * 0.38)), max(1, round(height * SIDE * 0.38)))
        cv2.ellipse(picture, centre, axes, face["roll"], 0, 360, colour, -1, cv2.LINE_AA)

    ellipse(at(0, -0.15, 0), 0.92, 1.05, HAIR)
    ellipse(at(0, 0, 0.1), 0.82, 1.0, SKIN)
    for side, eye in ((-1, "left_eye"), (1, "right_eye")):
        ellipse(at(0.36 * side, -0.12), 0.17, min(0.15, 0.9 * max(face[eye], 0.01)), (252, 252, 250))
        if face[eye] > 0.07:
            ellipse(at(0.36 * side, -0.12, 1.2), 0.06, 0.06, (64, 122, 96))
        brow = -0.2 - 0.6 * max(face["brows"], 0.05)
        cv2.line(picture, at(0.2 * side, brow), at(0.52 * side, brow + 0.03), LINE, 7, cv2.LINE_AA)
    cv2.line(picture, at(0, 0), at(0.06, 0.22, 1.5), LINE, 4, cv2.LINE_AA)
    ellipse(at(0, 0.5), 0.28, 0.06 + 0.5 * max(face["mouth"], 0), LIP)
    ellipse(at(0, 0.5), 0.2, 0.5 * max(face["mouth"], 0), INSIDE)
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="an exported student.onnx")
    parser.add_argument("film")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    student, calm = load_student(args.model), smoothing.OneEuro()
    with video.opened(args.film) as film, video.writer(args.out) as write:
        for frame in film.frames:
            if isinstance(frame, video.Lost):
                continue
            points = calm(student(frame.image).points, frame.seconds)
            height, width = frame.image.shape[:2]
            shown = cv2.resize(frame.image, (round(width * SIDE / height), SIDE), interpolation=cv2.INTER_AREA)
            write(np.concatenate([shown, draw(measure(points))], axis=1), frame.seconds)


if __name__ == "__main__":
    main()
