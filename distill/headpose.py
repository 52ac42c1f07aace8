"""Head rotation from image points, without a model to load: which way does this face look?

Good to a degree or two on rendered heads, which is enough to sort images into yaw bins; it is not a pose estimator to
publish with.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np

from distill.errors import UserError
from distill.landmarks import IBUG68, Markup

# A pose is estimated from at least so many points, whose distances from their best plane have at least this root of the
# sum of squares, in cm on the mean face. With 2 px of noise at 15 px a cm the mouth alone (20 points, 2.1 cm) gives the
# yaw within 2.2 degrees on average, the eyes alone (12 points, 0.9 cm) within 5.2.
FEWEST, THICKNESS = 6, 1.5
ASSET = Path(__file__).parent / "assets" / "mean_face_68.json"


@functools.cache
def mean_face() -> np.ndarray:
    """(68, 3) mean face in cm: x to the subject's left, y up, z forward. Treat as read-only.

    Fitted to 4,000 rendered heads of known pose, whose landmarks are the AFLW-like vertices that the renderer labels
    (docs/mean_face.py; the credit of ICT-FaceKit is in the asset). On 4,000 others the yaw is off by 0.9 degrees on
    average and 2.6 % fall into a wrong yaw bin; by the vertices of Multi-PIE it was 4.0 degrees and 9.7 %.
    """
    points = np.array(json.loads(ASSET.read_text(encoding="utf-8"))["points"], dtype=np.float64)
    points.setflags(write=False)
    return points


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """(3, 3) matrix that turns the mean face, angles in degrees as in `estimate`: R = Rz(-roll) Rx(-pitch) Ry(yaw)."""
    a, b, c = np.radians([yaw, -pitch, -roll])
    turn_y = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    turn_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    turn_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return turn_z @ turn_x @ turn_y


def can_estimate(markup: Markup) -> bool:
    """Whether enough of the set's points are iBUG points, and they lie far enough from one plane, to estimate a
    pose."""
    if len(markup.as_68) < FEWEST:
        return False
    face = mean_face()[[there for _, there in markup.as_68]]
    spread = np.linalg.svd(face - face.mean(axis=0), compute_uv=False)
    return bool(spread[2] >= THICKNESS)


def estimate(landmarks: np.ndarray, markup: Markup = IBUG68) -> np.ndarray:
    """Yaw, pitch, roll in degrees: (N, 3) from `landmarks` (N, P, 2) in pixels of any scale, P the points of `markup`.

    yaw    in (-180, 180], positive: the face looks to the right of the picture
    pitch  in [-90, 90],   positive: it looks up
    roll   in (-180, 180], positive: it is tilted clockwise in the picture
    Roll is the outermost rotation, so turning a picture in its plane changes the roll alone.

    Scaled orthographic fit of a mean face: linear least squares for the 2 x 3 camera matrix (the POS step of DeMenthon
    & Davis, "Model-based object pose in 25 lines of code", IJCV 1995), then the nearest pair of orthonormal rows, by
    the polar decomposition. Of the points only those that are iBUG points count; `can_estimate` checks whether they are
    enough. Raises UserError for a wrong shape, non-finite points, or points that all lie on one line.
    """
    landmarks = np.asarray(landmarks, dtype=np.float64)
    if landmarks.ndim != 3 or landmarks.shape[1:] != (markup.count, 2):
        raise UserError(f"The landmarks have shape {landmarks.shape}; expected (N, {markup.count}, 2).")
    if not np.isfinite(landmarks).all():
        image = int(np.argwhere(~np.isfinite(landmarks))[0, 0])
        raise UserError(f"The landmarks of image {image} (counted from 0) are not finite.")

    own, there = (list(side) for side in zip(*markup.as_68, strict=True))
    landmarks, face = landmarks[:, own], mean_face()[there]
    face = face - face.mean(axis=0)
    seen = (landmarks - landmarks.mean(axis=1, keepdims=True)) * [1.0, -1.0]  # y up, like the face
    camera = (np.linalg.pinv(face) @ seen).transpose(0, 2, 1)  # (N, 2, 3)
    u, scale, vt = np.linalg.svd(camera, full_matrices=False)
    flat = np.flatnonzero(scale[:, 1] <= 1e-6 * scale[:, 0])
    if flat.size:
        raise UserError(f"The landmarks of image {flat[0]} (counted from 0) lie on one line; expected a face.")
    rows = u @ vt
    third = np.cross(rows[:, 0], rows[:, 1])
    return angles(np.concatenate([rows, third[:, None]], axis=1))


def angles(turns: np.ndarray) -> np.ndarray:
    """Yaw, pitch, roll in degrees, (N, 3), of rotation matrices (N, 3, 3): the inverse of `rotation`."""
    yaw = np.arctan2(-turns[:, 2, 0], turns[:, 2, 2])
    pitch = -np.arcsin(np.clip(turns[:, 2, 1], -1.0, 1.0))
    roll = -np.arctan2(-turns[:, 0, 1], turns[:, 1, 1])
    return np.degrees(np.stack([yaw, pitch, roll], axis=1))
