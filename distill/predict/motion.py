"""What a face does, in numbers that do not depend on who it is or where: for a puppet, or for any other use."""

from __future__ import annotations

import functools
from dataclasses import astuple, dataclass

import numpy as np

from distill import headpose
from distill.errors import UserError
from distill.landmarks import IBUG68

_SETTLE = 20  # frames after which the face's own rest counts as much as the mean face's
_NOSE_LENGTHS = 1.6  # of which most faces' outer eye corners are farther apart
_REST_MOST = 300  # frames that the memory of a face's rest reaches back, at most


@dataclass(frozen=True)
class Motion:
    """Turn of the head in degrees (signs as in distill.headpose), and lengths over the distance of the outer eye corners.

    left and right are of the picture.
    """

    yaw: float
    pitch: float
    roll: float
    left_eye: float  # height of the opening
    right_eye: float
    left_brow: float  # height above the eye
    right_brow: float
    mouth_open: float  # height of the gap between the lips
    mouth_width: float
    smile: float  # height of the mouth's corners above its middle


def measure(points: np.ndarray) -> Motion:
    """The motion of one face's 68 points, (68, 2) pixels of any scale.

    Lengths are taken in the face's own upright frame: turned back by its roll, and with what yaw and pitch foreshorten
    made up for. Raises UserError for another number of points, or points that are no face.
    """
    points = np.asarray(points, np.float64)
    if points.shape != (IBUG68.count, 2):
        raise UserError(f"A face of {len(points)} points cannot drive a puppet; expected the {IBUG68.count} landmarks.")
    yaw, pitch, roll = headpose.estimate(points[None])[0]
    angle = np.radians(roll)
    upright = points @ np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    # beyond 60 degrees what is seen says too little to be stretched back
    upright /= [max(np.cos(np.radians(yaw)), 0.5), max(np.cos(np.radians(pitch)), 0.5)]
    first, last = IBUG68.outer_eye_corners
    across = float(np.linalg.norm(upright[first] - upright[last]))
    along = _NOSE_LENGTHS * float(upright[33, 1] - upright[27, 1])  # in profile the eyes' distance is next to nothing
    upright /= max(across, along, 1e-6)

    def height(upper: list[int], lower: list[int]) -> float:
        return float(upright[lower, 1].mean() - upright[upper, 1].mean())

    return Motion(
        yaw=float(yaw),
        pitch=float(pitch),
        roll=float(roll),
        left_eye=height([37, 38], [41, 40]),
        right_eye=height([43, 44], [47, 46]),
        left_brow=height([18, 19, 20], [36, 39]),
        right_brow=height([23, 24, 25], [42, 45]),
        mouth_open=height([61, 62, 63], [67, 66, 65]),
        mouth_width=float(upright[54, 0] - upright[48, 0]),
        smile=height([48, 54], [51, 57]),
    )


@functools.cache
def at_rest() -> Motion:
    """The mean face's: straight, neutral."""
    return measure(headpose.mean_face()[:, :2] * [1.0, -1.0])


class Rest:
    """The face's own resting state, learned from its frames: eyes and brows differ more between people than within one."""

    def __init__(self) -> None:
        self._mean = np.array(astuple(at_rest()))
        self._frames = 0

    def update(self, motion: Motion) -> Motion:
        """Take in a frame's motion; give back the state of rest as far as it is known. Heads turned far say nothing."""
        if abs(motion.yaw) < 35 and abs(motion.pitch) < 35:
            self._frames = min(self._frames + 1, _REST_MOST)
            self._mean += (np.array(astuple(motion)) - self._mean) / (self._frames + _SETTLE)
        return Motion(*self._mean.tolist())
