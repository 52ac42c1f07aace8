"""Regions of the face as masks of its vertices, painted from the landmarks of the neutral face. Lengths in cm."""

from __future__ import annotations

import cv2
import numpy as np

from distill.synthesis import array_columns as col

# azimuth from the front in degrees, and the height of the hairline there
_HAIRLINE = ([0, 25, 45, 60, 72, 84, 95, 105, 125, 180], [10.2, 10.0, 9.0, 6.9, 4.6, 3.0, 3.2, 1.0, -1.5, -4.0])
_FOLD = np.array([[1.75, -0.2, 10.4], [2.5, -1.2, 10.2], [3.0, -2.4, 9.8], [3.1, -3.4, 9.5]])  # from nose wing to mouth


def smoothstep(a: float, b: float, x: np.ndarray) -> np.ndarray:
    """0 at a, 1 at b, smooth between."""
    t = np.clip((x - a) / (b - a), 0, 1)
    return t * t * (3 - 2 * t)


def paint(vertices: np.ndarray, landmarks: np.ndarray, is_skin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Masks (V, N_MASKS) float32 (K_AO still 0), and how far a brow lowered by 1 cm moves each vertex, (V,) float32.

    landmarks: (68,) vertices of the Multi-PIE points.
    """
    v = vertices.astype(np.float64)
    x, y, z = v.T
    points = v[landmarks]
    lips = _lip_distance(v, points, is_skin)
    out = np.zeros((len(v), col.N_MASKS))
    _blobs(out, v, is_skin)
    out[:, col.K_LIPS] = smoothstep(-0.10, 0.06, lips) * is_skin
    loops = [np.vstack([points[i : i + 6, :2], points[i : i + 1, :2]]) for i in (36, 42)]
    eye = np.minimum(*(_line_distance(v[:, :2], loop)[0] for loop in loops))
    out[:, col.K_EYELINE] = np.exp(-((eye / 0.16) ** 2)) * (z > 7.5) * is_skin
    fold = _line_distance(np.abs(v) * [1, 0, 1] + v * [0, 1, 0], _FOLD)[0]
    out[:, col.K_FOLD] = np.exp(-((fold / 0.28) ** 2)) * is_skin
    _beard(out, v, lips, is_skin)
    # the brows' upper edge follows the line of landmarks
    lower = np.array([0, -0.12])
    right, along_right = _line_distance(v[:, :2], points[17:22, :2] + lower)
    left, along_left = _line_distance(v[:, :2], points[26:21:-1, :2] + lower)
    out[:, col.K_BROW_DISTANCE] = np.where((z > 5.5) & is_skin, np.where(x < 0, right, left), 9)
    out[:, col.K_BROW_ALONG] = np.where(x < 0, along_right, along_left)
    out[:, col.K_HAIR_HEIGHT], out[:, col.K_RECEDE] = _hairline(v, is_skin)
    out[:, col.K_DEPTH] = smoothstep(1.5, 10.6, z)
    out[:, col.K_TEETH] = smoothstep(6.5, 10.3, z)
    out[:, col.K_X], out[:, col.K_Y], out[:, col.K_Z] = x, y, z
    return out.astype(np.float32), _brow_movement(v, points, is_skin)


def _blob(v: np.ndarray, centre, size) -> np.ndarray:
    return np.exp(-(((v - centre) / size) ** 2).sum(1))


def _both(v: np.ndarray, centre, size) -> np.ndarray:
    """A blob and its mirror image."""
    return np.maximum(_blob(v, np.array(centre), size), _blob(v, np.array(centre) * [-1, 1, 1], size))


def _blobs(out: np.ndarray, v: np.ndarray, is_skin: np.ndarray) -> None:
    x, y, z = v.T
    out[:, col.K_CHEEK] = _both(v, [4.6, 0.2, 8.2], [2.0, 1.8, 3.0])
    out[:, col.K_NOSE] = _blob(v, [0, 0.2, 12.6], [1.4, 1.2, 2.2])
    out[:, col.K_EAR] = (np.abs(x) > 7.4) * (np.abs(y - 2.2) < 3.6) * (np.abs(z + 0.5) < 3.2) * 1.0
    out[:, col.K_UNDER_EYE] = _both(v, [2.9, 2.3, 9.5], [1.5, 0.55, 2.0])
    out[:, col.K_LID] = _both(v, [3.1, 4.25, 9.6], [1.6, 0.5, 2.0])
    out[:, col.K_FOREHEAD] = smoothstep(6.0, 8.0, y) * smoothstep(2.0, 6.0, z)
    out[:, col.K_CROW] = _both(v, [5.6, 3.6, 7.6], [0.9, 1.3, 2.0])


def _beard(out: np.ndarray, v: np.ndarray, lips: np.ndarray, is_skin: np.ndarray) -> None:
    """Below the nose, on jaw and chin, in front of the ears; not on the lips."""
    x, y, z = v.T
    side = np.abs(x)
    low = smoothstep(-0.2, -3.2, y - 0.55 * (side - 3.0).clip(0, 4))
    front = np.maximum(low * smoothstep(0.3, 2.5, z + 0.35 * (side > 6.2)), 0)
    off_lips = 1 - smoothstep(-0.25, -0.02, lips)
    below = front * smoothstep(-1.15, -1.6, y) * smoothstep(-10.6, -8.6, y)
    out[:, col.K_BEARD] = below * off_lips * is_skin * (z > 0.2)
    moustache = smoothstep(0.15, 0.6, _blob(v, [0, -2.0, 11.3], [2.4, 0.75, 2.2]))
    out[:, col.K_MOUSTACHE] = moustache * (1 - smoothstep(-0.2, 0.0, lips)) * (y < -1.35) * is_skin
    out[:, col.K_CHIN] = _blob(v, [0, -6.6, 10.3], [2.2, 1.7, 3.0]) * off_lips * is_skin


def _hairline(v: np.ndarray, is_skin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(V,) height above the hairline, and (V,) where it rises when hair recedes."""
    x, y, z = v.T
    side = np.abs(x)
    azimuth = np.degrees(np.arctan2(side, z - 0.5))
    height = np.where(is_skin, y - np.interp(azimuth, *_HAIRLINE), -9.0)
    height[(side > 7.35) & (y < 5.0) & (z > -3.4) & (z < 3.2)] = -9.0  # ears
    return height, smoothstep(20, 50, 70 - np.abs(azimuth - 35)) * smoothstep(-2, 4, z)


def _brow_movement(v: np.ndarray, points: np.ndarray, is_skin: np.ndarray) -> np.ndarray:
    """(V,) float32: full on the brow, fading over forehead and upper lid."""
    x, y, z = v.T
    side = np.abs(x)
    brow = np.interp(side, points[22:27, 0], points[22:27, 1])
    lid = np.interp(side, points[[42, 43, 44, 45], 0], points[[42, 43, 44, 45], 1])
    below = smoothstep(0.12, 0.95, (y - lid) / np.maximum(brow - lid, 0.3))
    share = np.where(y > brow, 1 - smoothstep(0, 3.5, y - brow), below)
    return (share * is_skin * smoothstep(2.0, 6.0, z) * (1 - smoothstep(6.8, 8.2, side))).astype(np.float32)


def _lip_distance(v: np.ndarray, points: np.ndarray, is_skin: np.ndarray) -> np.ndarray:
    """(V,) signed distance to the outline of the lips in front view, positive inside; -9 far away.

    The outline is a Catmull-Rom curve through the landmarks, with corners at those of the mouth.
    """
    x, y, z = v.T
    outer = points[48:60, :2]
    n = len(outer)
    outline = []
    for i in range(n):
        p0, p1, p2, p3 = outer[i - 1], outer[i], outer[(i + 1) % n], outer[(i + 2) % n]
        if i in (0, 6):
            p0 = p1
        if i in (5, 11):
            p3 = p2
        for s in np.linspace(0, 1, 9)[:-1]:
            square, cube = (2 * p0 - 5 * p1 + 4 * p2 - p3) * s**2, (3 * p1 - p0 - 3 * p2 + p3) * s**3
            outline.append(0.5 * (2 * p1 + (p2 - p0) * s + square + cube))
    contour = np.array(outline, np.float32)
    out = np.full(len(v), -9.0)
    for i in np.where(is_skin & (np.abs(x) < 3.2) & (np.abs(y + 3.5) < 1.8) & (z > 8.0))[0]:
        out[i] = cv2.pointPolygonTest(contour, (float(x[i]), float(y[i])), True)
    return out


def _line_distance(points: np.ndarray, line: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) distance from points (N, D) to a polyline (M, D), and (N,) where along it the nearest point is, 0..1."""
    nearest, along = np.full(len(points), 1e9), np.zeros(len(points))
    lengths = np.linalg.norm(np.diff(line, axis=0), axis=1)
    before = np.r_[0, np.cumsum(lengths)] / lengths.sum()
    for i in range(len(line) - 1):
        d = line[i + 1] - line[i]
        t = np.clip(((points - line[i]) @ d) / (d @ d), 0, 1)
        distance = np.linalg.norm(points - line[i] - t[:, None] * d, axis=1)
        nearer = distance < nearest
        nearest[nearer] = distance[nearer]
        along[nearer] = (before[i] + t * (before[i + 1] - before[i]))[nearer]
    return nearest, along
