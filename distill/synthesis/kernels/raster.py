"""Triangles to pixels: the z-buffer of a picture, orthographic depth maps, thin layers over a picture."""

from __future__ import annotations

import numpy as np

from distill.synthesis.kernels import kernel, part


@part
def _pixels(a, b, c, limit):
    """First and last pixel whose centre lies between the extremes of three coordinates; last < first: none does."""
    f0, half = np.float32(0), np.float32(0.5)  # truncation is floor: the arguments are not negative
    return int(max(f0, min(a, b, c) + half)), min(limit, int(max(f0, max(a, b, c) + half))) - 1


@part
def _row(a1, b1, a2, b2, xa, x0, x1):
    """Pixels x0..x1 of a row where b1 + a1 dx, b2 + a2 dx and one minus both are not negative (dx = x + 0.5 - xa)."""
    low, high = np.float32(x0), np.float32(x1)
    for k in range(3):
        a, b = (a1, b1) if k == 0 else (a2, b2) if k == 1 else (-a1 - a2, np.float32(1.0) - b1 - b2)
        if abs(a) < 1e-12:
            continue
        end = -b / a + xa - np.float32(0.5)
        if a > 0:
            low = max(low, end - np.float32(0.01))
        else:
            high = min(high, end + np.float32(0.01))
    return int(np.ceil(low)), int(np.floor(high))


@kernel
def z_buffer(screen, triangles, single_sided, inverse_depth, owner, weights):
    """Draw triangles (T, 3) of screen points (V, 3) into a z-buffer of (H, W).

    inverse_depth: 1 / cm, larger is nearer, 0 at the start; owner: the triangle's number; weights (H, W, 2): the
    perspective-correct shares of corners 2 and 3. The first `single_sided` triangles are skipped when seen from behind.
    """
    height, width = inverse_depth.shape
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        xa, ya, xb, yb, xc, yc = screen[a, 0], screen[a, 1], screen[b, 0], screen[b, 1], screen[c, 0], screen[c, 1]
        area = (xb - xa) * (yc - ya) - (xc - xa) * (yb - ya)
        if area > -1e-7 and (t < single_sided or area < 1e-7):
            continue
        if min(screen[a, 2], screen[b, 2], screen[c, 2]) < 1.0:
            continue
        x0, x1 = _pixels(xa, xb, xc, width)
        y0, y1 = _pixels(ya, yb, yc, height)
        if x1 < x0 or y1 < y0:
            continue
        inv = np.float32(1.0) / area
        ia, ib, ic = np.float32(1.0) / screen[a, 2], np.float32(1.0) / screen[b, 2], np.float32(1.0) / screen[c, 2]
        d1x, d2x = (yc - ya) * inv, -(yb - ya) * inv
        d1y, d2y = -(xc - xa) * inv, (xb - xa) * inv
        wide = x1 - x0 > 6
        start, end = x0, x1
        for y in range(y0, y1 + 1):
            dy = np.float32(y + 0.5) - ya
            if wide:
                start, end = _row(d1x, dy * d1y, d2x, dy * d2y, xa, x0, x1)
            for x in range(start, end + 1):
                dx = np.float32(x + 0.5) - xa
                w1 = dx * d1x + dy * d1y
                w2 = dx * d2x + dy * d2y
                w0 = np.float32(1.0) - w1 - w2
                if min(w0, w1, w2) < np.float32(-1e-5):
                    continue
                iz = w0 * ia + w1 * ib + w2 * ic
                if iz > inverse_depth[y, x]:
                    inverse_depth[y, x] = iz
                    owner[y, x] = t
                    weights[y, x, 0] = w1 * ib / iz
                    weights[y, x, 1] = w2 * ic / iz


@kernel
def depth_map(points, triangles, single_sided, depth):
    """Orthographic depth map: depth (n, n) keeps the smallest third coordinate of points (V, 3); it starts large."""
    height, width = depth.shape
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        xa, ya, xb, yb, xc, yc = points[a, 0], points[a, 1], points[b, 0], points[b, 1], points[c, 0], points[c, 1]
        area = (xb - xa) * (yc - ya) - (xc - xa) * (yb - ya)
        if area < 1e-7 and (t < single_sided or area > -1e-7):
            continue
        x0, x1 = _pixels(xa, xb, xc, width)
        y0, y1 = _pixels(ya, yb, yc, height)
        if x1 < x0 or y1 < y0:
            continue
        inv = np.float32(1.0) / area
        d1x, d2x = (yc - ya) * inv, -(yb - ya) * inv
        d1y, d2y = -(xc - xa) * inv, (xb - xa) * inv
        wide = x1 - x0 > 6
        start, end = x0, x1
        for y in range(y0, y1 + 1):
            dy = np.float32(y + 0.5) - ya
            if wide:
                start, end = _row(d1x, dy * d1y, d2x, dy * d2y, xa, x0, x1)
            for x in range(start, end + 1):
                dx = np.float32(x + 0.5) - xa
                w1 = dx * d1x + dy * d1y
                w2 = dx * d2x + dy * d2y
                if w1 < 0 or w2 < 0 or w1 + w2 > 1:
                    continue
                z = points[a, 2] + w1 * (points[b, 2] - points[a, 2]) + w2 * (points[c, 2] - points[a, 2])
                if z < depth[y, x]:
                    depth[y, x] = z


@kernel
def blend_layer(screen, triangles, colour, alpha, inverse_depth, image):
    """Blend triangles of one opacity over what is behind them (lashes, lenses); colour (V, 3), image (H, W, 4)."""
    height, width = inverse_depth.shape
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        xa, ya, xb, yb, xc, yc = screen[a, 0], screen[a, 1], screen[b, 0], screen[b, 1], screen[c, 0], screen[c, 1]
        area = (xb - xa) * (yc - ya) - (xc - xa) * (yb - ya)
        if abs(area) < 1e-7 or min(screen[a, 2], screen[b, 2], screen[c, 2]) < 1:
            continue
        inv = 1.0 / area
        ia, ib, ic = 1.0 / screen[a, 2], 1.0 / screen[b, 2], 1.0 / screen[c, 2]
        x0, x1 = max(0, int(np.ceil(min(xa, xb, xc) - 0.5))), min(width - 1, int(np.floor(max(xa, xb, xc) - 0.5)))
        y0, y1 = max(0, int(np.ceil(min(ya, yb, yc) - 0.5))), min(height - 1, int(np.floor(max(ya, yb, yc) - 0.5)))
        for y in range(y0, y1 + 1):
            for x in range(x0, x1 + 1):
                dx, dy = x + 0.5 - xa, y + 0.5 - ya
                w1 = (dx * (yc - ya) - (xc - xa) * dy) * inv
                w2 = ((xb - xa) * dy - dx * (yb - ya)) * inv
                w0 = 1.0 - w1 - w2
                if w0 < 0 or w1 < 0 or w2 <= 0:
                    continue
                if w0 * ia + w1 * ib + w2 * ic < inverse_depth[y, x] * 0.9995:
                    continue
                for k in range(3):
                    mixed = w0 * colour[a, k] + w1 * colour[b, k] + w2 * colour[c, k]
                    image[y, x, k] = image[y, x, k] * (1 - alpha) + alpha * mixed
                image[y, x, 3] = image[y, x, 3] * (1 - alpha) + alpha
