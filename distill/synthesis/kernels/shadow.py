"""The shadow map of the key light: what stands in its way, and how much of it arrives."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from distill.synthesis.kernels import kernel, part


class Shadow(NamedTuple):
    """A world point lies at ((axes[0] @ point, axes[1] @ point) - low) * scale of the map, -axes[2] @ point away."""

    maps: np.ndarray  # (3, n, n) distance from the light in cm, and its 3 x 3 minimum and maximum
    axes: np.ndarray  # (3, 3) right and up in the map, towards the light
    low: np.ndarray  # (2,) cm
    scale: np.float32  # texels a cm


@part
def locate(shadow, x, y, z):
    """Place (u, v) in texels and distance from the light of a world point."""
    axes = shadow.axes
    u = (axes[0, 0] * x + axes[0, 1] * y + axes[0, 2] * z - shadow.low[0]) * shadow.scale
    v = (axes[1, 0] * x + axes[1, 1] * y + axes[1, 2] * z - shadow.low[1]) * shadow.scale
    return u, v, -(axes[2, 0] * x + axes[2, 1] * y + axes[2, 2] * z)


@kernel
def seen_by_light(points, shadow, out):
    """World points (n, 3) to the map: out (n, 3) = u, v, distance from the light."""
    for i in range(points.shape[0]):
        out[i, 0], out[i, 1], out[i, 2] = locate(shadow, points[i, 0], points[i, 1], points[i, 2])


@kernel
def add_strands(strands, shadow):
    """Put the points of world strands (N, K, 3), and the middles between them, into the map."""
    depth = shadow.maps[0]
    n = depth.shape[0]
    for s in range(strands.shape[0]):
        for q in range(2 * strands.shape[1] - 1):
            k = q // 2
            x, y, z = strands[s, k, 0], strands[s, k, 1], strands[s, k, 2]
            if q & 1:
                x = 0.5 * (x + strands[s, k + 1, 0])
                y = 0.5 * (y + strands[s, k + 1, 1])
                z = 0.5 * (z + strands[s, k + 1, 2])
            right, up, distance = locate(shadow, x, y, z)
            u, v = int(right), int(up)
            if 0 <= u < n and 0 <= v < n and distance < depth[v, u]:
                depth[v, u] = distance


@part
def _spline(k, t):
    """Quadratic B-spline weight of tap k = 0, 1, 2 at offset t in 0..1."""
    if k == 1:
        return np.float32(0.75) - (t - np.float32(0.5)) * (t - np.float32(0.5))
    if k == 0:
        t = np.float32(1.0) - t
    return np.float32(0.5) * t * t


@part
def arriving(maps, u, v, z, softness):
    """Share of the key light that arrives: a smooth 3 x 3 filter, each tap fading with depth (softness 1/cm).

    The minimum and maximum of the maps settle most points at once.
    """
    n = maps.shape[1]
    if u < 1.5 or v < 1.5 or u > n - 2 or v > n - 2:
        return np.float32(1.0)
    j, i = int(u), int(v)
    if z <= maps[1, i, j]:
        return np.float32(1.0)
    if (z - maps[2, i, j]) * softness > 9:
        return np.float32(0.0)
    depth = maps[0]
    tu, tv = u - np.float32(j), v - np.float32(i)
    total = np.float32(0.0)
    for q in range(3):
        wq = _spline(q, tv)
        for p in range(3):
            wp = _spline(p, tu)
            d = max(np.float32(0.0), (z - depth[i + q - 1, j + p - 1]) * softness)
            total += wq * wp / (1 + d + np.float32(0.5) * d * d)  # close to exp(-d)
    return total
