"""Strands drawn as thin lit lines."""

from __future__ import annotations

import numpy as np

from distill.synthesis.kernels import kernel, part
from distill.synthesis.kernels.shadow import arriving, locate


@part
def _colour(hair, x, y, z, tx, ty, tz, root, gloss, light, shadow, camera):
    """Kajiya-Kay: light on a strand of colour hair (3,) at a world point, running along the unit vector t."""
    directions, colours, sky, ground = light.directions, light.colours, light.sky, light.ground
    vx, vy, vz = camera[0] - x, camera[1] - y, camera[2] - z
    length = 1.0 / np.sqrt(vx * vx + vy * vy + vz * vz)
    vx *= length
    vy *= length
    vz *= length
    k0, k1, k2 = hair[0], hair[1], hair[2]
    c0 = k0 * root * (sky[0] * 0.40 + ground[0] * 0.2)
    c1 = k1 * root * (sky[1] * 0.40 + ground[1] * 0.2)
    c2 = k2 * root * (sky[2] * 0.40 + ground[2] * 0.2)
    for n in range(directions.shape[0]):
        lx, ly, lz = directions[n, 0], directions[n, 1], directions[n, 2]
        along = tx * lx + ty * ly + tz * lz
        diffuse = np.sqrt(max(0.0, 1 - along * along)) * 0.5 * root
        hx, hy, hz = lx + vx, ly + vy, lz + vz
        half = tx * hx + ty * hy + tz * hz
        sine = max(0.0, 1 - half * half / (hx * hx + hy * hy + hz * hz + 1e-9))
        s4 = sine * sine * sine * sine
        shine = 0.028 * gloss * s4 * s4 * s4 * s4 * s4
        diffuse += 0.35 * gloss * s4 * sine
        q = 0.5 + 0.5 * max(-1.0, min(1.0, lx * vx + ly * vy + lz * vz + 0.5))
        if n == 0:
            u, v, distance = locate(shadow, x, y, z)
            q *= arriving(shadow.maps, u, v, distance - np.float32(0.3), np.float32(1.3))
        c0 += colours[n, 0] * q * (k0 * diffuse + shine)
        c1 += colours[n, 1] * q * (k1 * diffuse + shine)
        c2 += colours[n, 2] * q * (k2 * diffuse + shine)
    return c0, c1, c2


@part
def _line(xa, ya, za, xb, yb, zb, width, alpha, dot, c0, c1, c2, inverse_depth, image):
    """An anti-aliased, depth-tested line between screen points, `width` px wide; dot: at least a pixel long."""
    rows, columns = inverse_depth.shape
    dx, dy = xb - xa, yb - ya
    flat = abs(dx) > abs(dy)
    if not flat:  # swap so that the first coordinate is the major one
        xa, ya, xb, yb = ya, xa, yb, xb
        dx, dy = dy, dx
    if abs(dx) < 1e-3:
        return
    if dx < 0:
        xa, ya, xb, yb, za, zb = xb, yb, xa, ya, zb, za
    slope = dy / dx
    width *= np.sqrt(1 + slope * slope)  # across the minor axis
    if width < 0.4:
        alpha *= width / 0.4
        width = 0.4
    i0 = max(0, int(np.ceil(xa - 0.5)))
    i1 = min((columns if flat else rows) - 1, int(np.ceil(xb - 0.5)) - 1)
    if i1 < i0 and dot and xb - xa > 0.3:
        i0 = max(0, int(xa))
        i1 = min(i0, (columns if flat else rows) - 1)
    last = (rows if flat else columns) - 1
    rise = (1.0 / zb - 1.0 / za) / (xb - xa)
    for i in range(i0, i1 + 1):
        d = i + 0.5 - xa
        middle = ya + slope * d
        iz = 1.0 / za + rise * d
        low, high = middle - 0.5 * width, middle + 0.5 * width
        for j in range(max(0, int(np.floor(low))), min(last, int(np.floor(high))) + 1):
            cover = (min(high, j + 1.0) - max(low, j)) * alpha
            y, x = (j, i) if flat else (i, j)
            if iz > inverse_depth[y, x] and cover > 0.02:
                if cover > 0.5:
                    inverse_depth[y, x] = iz
                rest = 1 - cover
                image[y, x, 0] = image[y, x, 0] * rest + c0 * cover
                image[y, x, 1] = image[y, x, 1] * rest + c1 * cover
                image[y, x, 2] = image[y, x, 2] * rest + c2 * cover
                image[y, x, 3] = image[y, x, 3] * rest + cover


@part
def _hidden(x, y, z, inverse_depth):
    """Whether a screen point is off the picture or well behind something."""
    rows, columns = inverse_depth.shape
    i, j = int(y), int(x)
    return x < 0 or y < 0 or j >= columns or i >= rows or inverse_depth[i, j] * (z - 0.3) > 1.0


@kernel
def draw_strands(points, screen, colour, width, brush, light, shadow, camera, frame):
    """Draw strands: points (N, K, 3) world, screen (N, K, 3), colour (N, 3), width (N,) px.

    brush (4,): darkening of the roots, gloss, opacity, and by how many cm strands are drawn nearer than they are.
    """
    root_darkening, gloss, alpha, bias = brush[0], brush[1], brush[2], brush[3]
    count = points.shape[1]
    depth = frame.inverse_depth
    for s in range(points.shape[0]):
        before = True
        for k in range(count - 1):
            xa, ya, za = screen[s, k, 0], screen[s, k, 1], screen[s, k, 2] - bias
            xb, yb, zb = screen[s, k + 1, 0], screen[s, k + 1, 1], screen[s, k + 1, 2] - bias
            if k == 0:
                before = _hidden(xa, ya, za, depth)
            after = _hidden(xb, yb, zb, depth)
            skip = before and after
            before = after
            if skip or za < 1 or zb < 1:
                continue
            x, y, z = points[s, k, 0], points[s, k, 1], points[s, k, 2]
            tx, ty, tz = points[s, k + 1, 0] - x, points[s, k + 1, 1] - y, points[s, k + 1, 2] - z
            length = 1.0 / (np.sqrt(tx * tx + ty * ty + tz * tz) + 1e-9)
            along = k / (count - 1.0)
            root = 1 - root_darkening * (1 - min(1.0, along * 3))
            c0, c1, c2 = _colour(
                colour[s], x, y, z, tx * length, ty * length, tz * length, root, gloss, light, shadow, camera
            )
            thick = width[s] * (1.0 - 0.5 * along)
            fade = alpha * (1.0 if along < 0.75 else 0.25 + (1.0 - along) * 3.0)
            _line(xa, ya, za, xb, yb, zb, thick, fade, k < 2, c0, c1, c2, depth, frame.image)
