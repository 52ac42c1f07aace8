"""Simple meshes: vertices (n, 3) and triangles (t, 3) of tubes, spheres and sheets. Centimetres."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from distill.synthesis import array_columns as col
from distill.synthesis.facemodel import unit

F4 = np.float32


class Shape(NamedTuple):
    """A triangle mesh."""

    vertices: np.ndarray  # (n, 3)
    triangles: np.ndarray  # (t, 3) int32


def surface(
    specular: float = 0.0, gloss: float = 10.0, ao: float = 1.0, scatter: float = 0.0, bump: float = 0.0
) -> np.ndarray:
    """(N_SURFACE,) of a thing that is the same all over."""
    out = np.zeros(col.N_SURFACE, F4)
    out[col.S_NECKLINE] = 9.0
    out[[col.S_SPECULAR, col.S_GLOSS, col.S_AO, col.S_SCATTER, col.S_BUMP]] = specular, gloss, ao, scatter, bump
    return out


@cache
def grid(rows: int, columns: int) -> np.ndarray:
    """Triangles of a grid of vertices."""
    i, j = np.meshgrid(np.arange(rows - 1), np.arange(columns - 1), indexing="ij")
    a, b = i * columns + j, i * columns + j + 1
    c, d = (i + 1) * columns + j + 1, (i + 1) * columns + j
    halves = [np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)]
    return np.concatenate(halves).astype(np.int32)


def sheet(points: np.ndarray) -> Shape:
    """A grid of points (rows, columns, 3)."""
    return Shape(points.reshape(-1, 3), grid(*points.shape[:2]))


def tube(path, radius, sides: int = 8, flat: float = 1.0) -> Shape:
    """A tube around a path (n, 3), of one radius or one a point; flat < 1 squeezes it along its second axis."""
    path = np.asarray(path, float)
    radius = np.broadcast_to(radius, len(path))
    along = unit(np.gradient(path, axis=0))
    u = unit(np.cross(along, [0.13, 0.31, 0.94]) + 1e-6)
    w = np.cross(along, u)
    angle = np.linspace(0, 2 * np.pi, sides + 1)[None, :, None]
    ring = np.cos(angle) * u[:, None] + flat * np.sin(angle) * w[:, None]
    return sheet(path[:, None] + radius[:, None, None] * ring)


def sphere(centre: np.ndarray, radius: float, rings: int = 10) -> Shape:
    """centre (3,) and radius in cm; twice as many columns as rings."""
    theta, phi = np.linspace(0, np.pi, rings)[:, None], np.linspace(0, 2 * np.pi, 2 * rings)[None]
    points = np.stack([np.sin(theta) * np.cos(phi), np.cos(theta) + 0 * phi, np.sin(theta) * np.sin(phi)], -1)
    return sheet(points * radius + centre)


def bow(start: np.ndarray, middle: np.ndarray, end: np.ndarray, steps: int = 12) -> np.ndarray:
    """(steps, 3) points of a quadratic Bezier curve."""
    q = np.linspace(0, 1, steps)[:, None]
    return (1 - q) ** 2 * start + 2 * q * (1 - q) * middle + q**2 * end


def loop(y: float, z: float, rx: float, rz: float, tilt: float, steps: int) -> np.ndarray:
    """(steps, 3) closed path around neck or head: an ellipse in x and z about (0, y, z), its front tilted downwards."""
    a = np.linspace(0, 2 * np.pi, steps)
    return np.stack([rx * np.cos(a), y - tilt * np.sin(a), z + rz * np.sin(a)], 1)
