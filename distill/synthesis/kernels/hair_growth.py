"""Strands grown on the head: scalp hair by guides, brows and beards as short hairs. Head space.

Random numbers come from a xorshift generator of their own, state (1,) uint64: numpy's cost more than the strands.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from distill.synthesis import array_columns as col
from distill.synthesis.kernels import kernel, part

CENTRE_Y = 3.0  # height of the head's centre (0, CENTRE_Y, 0), from which its surface is a radius in each direction
HEAD_MAP = 64  # side of the octahedral map of these radii


# ---------------------------------------------------------------------------------------------------- random numbers


@part
def _next(state):
    x = state[0]
    x ^= x << np.uint64(13)
    x ^= x >> np.uint64(7)
    x ^= x << np.uint64(17)
    state[0] = x
    return x


@part
def _uniform(state):
    return (_next(state) >> np.uint64(40)) * (1.0 / 16777216.0)


@part
def _normal(state):
    """Close to a standard normal: the sum of four uniforms of 16 bits."""
    x = _next(state)
    m = np.uint64(0xFFFF)
    t = (x & m) + ((x >> np.uint64(16)) & m) + ((x >> np.uint64(32)) & m) + (x >> np.uint64(48))
    return (t * (1.0 / 65535.0) - 2.0) * 1.7320508


# ------------------------------------------------------------------------------------------------ surface of the head


@part
def smoothstep(a, b, x):
    """0 below a, 1 above b, a cubic between."""
    t = min(1.0, max(0.0, (x - a) / (b - a)))
    return t * t * (3 - 2 * t)


@part
def _octahedral(x, y, z):
    """Direction to map coordinates in [0, HEAD_MAP), without trigonometry."""
    s = 1.0 / (abs(x) + abs(y) + abs(z) + 1e-9)
    u, v = x * s, z * s
    if y < 0:
        a = (1 - abs(v)) * (1.0 if u >= 0 else -1.0)
        v = (1 - abs(u)) * (1.0 if v >= 0 else -1.0)
        u = a
    return (u * 0.5 + 0.5) * (HEAD_MAP - 0.01), (v * 0.5 + 0.5) * (HEAD_MAP - 0.01)


@kernel
def head_map(points, chosen, radii, scratch):  # noqa: C901, one kernel: calls of closures are not inlined
    """radii (HEAD_MAP, HEAD_MAP) = largest radius of points[chosen] by direction, holes filled, slightly blurred."""
    radii[:] = 0
    for q in range(chosen.shape[0]):
        i = chosen[q]
        x, y, z = np.float64(points[i, 0]), points[i, 1] - CENTRE_Y, np.float64(points[i, 2])
        u, v = _octahedral(x, y, z)
        r = np.sqrt(x * x + y * y + z * z)
        if r > radii[int(v), int(u)]:
            radii[int(v), int(u)] = r
    for step in range(5):  # four fill holes, the last one blurs
        for i in range(HEAD_MAP):
            for j in range(HEAD_MAP):
                r = radii[i, j]
                if step < 4 and r == 0:
                    for a in range(max(0, i - 1), min(HEAD_MAP, i + 2)):
                        for b in range(max(0, j - 1), min(HEAD_MAP, j + 2)):
                            r = max(r, radii[a, b])
                if step == 4:
                    r = 0.0
                    for a in range(i - 1, i + 2):
                        for b in range(j - 1, j + 2):
                            r += radii[min(HEAD_MAP - 1, max(0, a)), min(HEAD_MAP - 1, max(0, b))]
                    r = max(3.0, r / 9)
                scratch[i, j] = r
        for i in range(HEAD_MAP):
            for j in range(HEAD_MAP):
                radii[i, j] = scratch[i, j]


@part
def _push_out(radii, x, y, z, distance):
    """Move a point out of the head so that it keeps a distance (cm) from the surface."""
    y -= CENTRE_Y
    u, v = _octahedral(x, y, z)
    u = min(HEAD_MAP - 1.001, max(0.0, u - 0.5))
    v = min(HEAD_MAP - 1.001, max(0.0, v - 0.5))
    i, j = int(v), int(u)
    tv, tu = v - i, u - j
    above = radii[i, j] * (1 - tu) + radii[i, j + 1] * tu
    below = radii[i + 1, j] * (1 - tu) + radii[i + 1, j + 1] * tu
    least = above * (1 - tv) + below * tv + distance
    r = np.sqrt(x * x + y * y + z * z) + 1e-9
    if r < least:
        k = least / r
        x *= k
        y *= k
        z *= k
    return x, y + CENTRE_Y, z


class Roots(NamedTuple):
    """Where strands begin."""

    position: np.ndarray  # (n, 3)
    normal: np.ndarray  # (n, 3)
    triangle: np.ndarray  # (n,) int32


@kernel
def scatter_roots(points, normals, triangles, areas, weight, state, roots):
    """Fill roots with stratified points on the triangles, by a density of area times mean vertex weight (V,).

    Returns False where there is no weight anywhere.
    """
    root, normal, triangle = roots
    count = root.shape[0]
    total = 0.0
    for t in range(triangles.shape[0]):
        total += areas[t] * (weight[triangles[t, 0]] + weight[triangles[t, 1]] + weight[triangles[t, 2]])
    if total < 1e-6:
        return False
    so_far = 0.0
    i = 0
    limit = _uniform(state) / count * total
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        so_far += areas[t] * (weight[a] + weight[b] + weight[c])
        while so_far > limit and i < count:
            u, v = _uniform(state), _uniform(state)
            if u + v > 1:
                u, v = 1 - u, 1 - v
            square = 0.0
            for k in range(3):
                root[i, k] = points[a, k] * (1 - u - v) + points[b, k] * u + points[c, k] * v
                normal[i, k] = normals[a, k] * (1 - u - v) + normals[b, k] * u + normals[c, k] * v
                square += normal[i, k] ** 2
            s = 1 / (np.sqrt(square) + 1e-9)
            for k in range(3):
                normal[i, k] *= s
            triangle[i] = t
            i += 1
            limit = (i + _uniform(state)) / count * total
    for j in range(i, count):  # rounding at the end of the table
        for k in range(3):
            root[j, k], normal[j, k] = root[j - 1, k], normal[j - 1, k]
        triangle[j] = triangle[j - 1]
    return True


# ---------------------------------------------------------------------------------------------------- scalp hair


class Guides(NamedTuple):
    """Strands that others follow."""

    roots: np.ndarray  # (n, 3)
    points: np.ndarray  # (n, K, 3)
    lengths: np.ndarray  # (n,) cm
    distances: np.ndarray  # (n,) from the head, cm


@part
def _first_direction(kind, x, y, z, style, state):
    """The first direction of a strand of scalp hair from its root (x, y, z)."""
    side = np.tanh((x - style[col.H_PARTING]) / 1.2)
    front, top = smoothstep(1.0, 8.0, z), smoothstep(7.0, 12.0, y)
    if kind == col.H_FALLING:
        return (
            side * (0.5 + 0.8 * top),
            -0.3 * (1 - top),
            style[col.H_SWEEP] * (0.4 + 0.6 * front) - 0.5 * (1 - front),
        )
    if kind == col.H_SHORT:
        return (
            style[col.H_DX] + 0.5 * side * (1 - top),
            -0.5 * (1 - top) + style[col.H_DY],
            style[col.H_DZ] - 0.7 * (1 - front) * (1 - top),
        )
    if kind == col.H_TIED:
        return (
            np.float64(style[col.H_BUN_X] - x),
            np.float64(style[col.H_BUN_Y] - y),
            np.float64(style[col.H_BUN_Z] - z),
        )
    return 0.2 * _normal(state), 0.2 * _normal(state), 0.2 * _normal(state)


@part
def _out_of_face(x, y, z, radii, distance, style):
    """Turn a point of falling hair about the head until the face is free, as far as the style requires."""
    azimuth = np.degrees(np.arctan2(x, z - 0.5))
    limit = (style[col.H_AZIMUTH_LEFT] if azimuth < 0 else style[col.H_AZIMUTH_RIGHT]) * smoothstep(10.5, 7.0, y)
    if abs(azimuth) < limit:
        turned = np.radians(limit if azimuth >= 0 else -limit)
        r = np.sqrt(x * x + (z - 0.5) ** 2)
        x, y, z = _push_out(radii, r * np.sin(turned), y, r * np.cos(turned) + 0.5, distance)
    return x, y, z


@kernel
def grow_guides(guide, normals, radii, style, state):
    """Grow guides from their roots, with normals (n, 3), on a head of these radii, in the style (N_HAIR,)."""
    roots, guides, lengths, distances = guide
    kind = int(style[col.H_KIND])
    count = guides.shape[1]
    for i in range(roots.shape[0]):
        x, y, z = roots[i, 0], roots[i, 1], roots[i, 2]
        lengths[i] = style[col.H_LENGTH] * np.exp(style[col.H_LENGTH_SPREAD] * _normal(state))
        wx, wy, wz = _first_direction(kind, x, y, z, style, state)
        fringe = style[col.H_FRINGE] > 0 and z > 5.0 and y > 8.6 and abs(x) < style[col.H_FRINGE_WIDTH]
        if fringe and _uniform(state) < 0.9:
            wx, wy, wz = style[col.H_FRINGE_SIDE] + 0.12 * _normal(state), -0.3, 1.0
            lengths[i] = style[col.H_FRINGE] * (1 + 0.15 * _normal(state))
        else:
            fringe = False
        s = 1 / (np.sqrt(wx * wx + wy * wy + wz * wz) + 1e-9)
        dx = wx * s + normals[i, 0] * style[col.H_LIFT] + style[col.H_NOISE] * _normal(state)
        dy = wy * s + normals[i, 1] * style[col.H_LIFT] + style[col.H_NOISE] * _normal(state)
        dz = wz * s + normals[i, 2] * style[col.H_LIFT] + style[col.H_NOISE] * _normal(state)
        distances[i] = style[col.H_THICKNESS] * _uniform(state) + 0.12
        step = lengths[i] / (count - 1)
        guides[i, 0, 0], guides[i, 0, 1], guides[i, 0, 2] = x, y, z
        for k in range(1, count):
            s = step / (np.sqrt(dx * dx + dy * dy + dz * dz) + 1e-9)
            distance = distances[i] * min(1.0, k / 3.0)
            nx, ny, nz = _push_out(radii, x + dx * s, y + dy * s, z + dz * s, distance)
            if kind == col.H_FALLING and not fringe and ny < 10.5:
                nx, ny, nz = _out_of_face(nx, ny, nz, radii, distance, style)
            ax, ay, az = nx - x, ny - y, nz - z
            s = 1 / (np.sqrt(ax * ax + ay * ay + az * az) + 1e-9)
            dx, dy, dz = ax * s, ay * s - style[col.H_GRAVITY] * step, az * s
            if kind == col.H_TIED:
                bx, by, bz = style[col.H_BUN_X] - nx, style[col.H_BUN_Y] - ny, style[col.H_BUN_Z] - nz
                b = np.sqrt(bx * bx + by * by + bz * bz) + 1e-9
                if b > 1.5:
                    dx += 0.5 * bx / b
                    dy += 0.5 * by / b
                    dz += 0.5 * bz / b
            elif kind == col.H_RADIAL:
                dx += 0.25 * normals[i, 0]
                dy += 0.25 * normals[i, 1]
                dz += 0.25 * normals[i, 2]
            s = 0.35 * style[col.H_NOISE]
            dx += s * _normal(state)
            dy += s * _normal(state)
            dz += s * _normal(state)
            x, y, z = nx, ny, nz
            guides[i, k, 0], guides[i, k, 1], guides[i, k, 2] = x, y, z


@part
def _two_nearest(gx, gy, gz, x, y, z, square):
    """Indices of the two points nearest to (x, y, z); square is scratch of their number."""
    for j in range(gx.shape[0]):
        square[j] = (gx[j] - x) * (gx[j] - x) + (gy[j] - y) * (gy[j] - y) + (gz[j] - z) * (gz[j] - z)
    first = second = 0
    m1 = m2 = np.float32(1e9)
    for j in range(gx.shape[0]):
        if square[j] < m2:
            if square[j] < m1:
                second, m2 = first, m1
                first, m1 = j, square[j]
            else:
                second, m2 = j, square[j]
    return first, second


@kernel
def spawn(guide, roots, normals, radii, style, state, noise, strands, guide_of):
    """Strands (n, K, 3) from roots with normals (n, 3), each after one of its two nearest guides, guide_of (n,).

    noise: a flat table of 2^k standard normal numbers.
    """
    guide_roots, guides, lengths, distances = guide
    n, count = roots.shape[0], strands.shape[1]
    phase0 = _uniform(state) * 6.28
    square = np.empty(guide_roots.shape[0], np.float32)
    gx, gy, gz = guide_roots[:, 0].copy(), guide_roots[:, 1].copy(), guide_roots[:, 2].copy()
    clump = np.empty(count, np.float32)
    for k in range(count):
        clump[k] = 1 - style[col.H_CLUMP] * (k / (count - 1.0)) ** 0.7
    last = noise.shape[0] - 1
    at = int(_uniform(state) * last)
    for i in range(n):
        x, y, z = roots[i, 0], roots[i, 1], roots[i, 2]
        first, second = _two_nearest(gx, gy, gz, x, y, z, square)
        g = second if _uniform(state) < 0.25 else first
        guide_of[i] = g
        ox, oy, oz = x - guide_roots[g, 0], y - guide_roots[g, 1], z - guide_roots[g, 2]
        shorter = 1 - 0.25 * _uniform(state)
        # two directions across the strand, for curls
        nx, ny, nz = normals[i, 0], normals[i, 1], normals[i, 2]
        a0, a1, a2 = ny * 0.93 - nz * 0.2, nz * 0.31 - nx * 0.93, nx * 0.2 - ny * 0.31
        s = 1 / (np.sqrt(a0 * a0 + a1 * a1 + a2 * a2) + 1e-9)
        a0 *= s
        a1 *= s
        a2 *= s
        e0, e1, e2 = ny * a2 - nz * a1, nz * a0 - nx * a2, nx * a1 - ny * a0
        phase = phase0 + g * 2.4 + 0.5 * _normal(state)
        curl = style[col.H_CURL] * np.exp(0.3 * _normal(state))
        frizz = np.float32(style[col.H_FRIZZ] * np.sqrt(lengths[g] / count))
        f0 = f1 = f2 = 0.0
        distance = 0.1 + 0.5 * distances[g]
        strands[i, 0, 0], strands[i, 0, 1], strands[i, 0, 2] = x, y, z
        for k in range(1, count):
            t = k / (count - 1.0)
            along = k * shorter
            j = min(int(along), count - 2)
            f = along - j
            f0 += frizz * noise[at & last]
            f1 += frizz * noise[(at + 1) & last]
            f2 += frizz * noise[(at + 2) & last]
            at += 3
            px = guides[g, j, 0] * (1 - f) + guides[g, j + 1, 0] * f + ox * clump[k] + f0
            py = guides[g, j, 1] * (1 - f) + guides[g, j + 1, 1] * f + oy * clump[k] + f1
            pz = guides[g, j, 2] * (1 - f) + guides[g, j + 1, 2] * f + oz * clump[k] + f2
            if curl > 0:
                w = style[col.H_FREQUENCY] * lengths[g] * t + phase
                q = curl * min(1.0, 4 * t)
                s1, s2 = q * np.sin(w), q * np.cos(w * 0.93)
                px += s1 * a0 + s2 * e0
                py += s1 * a1 + s2 * e1
                pz += s1 * a2 + s2 * e2
            px, py, pz = _push_out(radii, px, py, pz, distance * min(1.0, 3 * t))
            strands[i, k, 0], strands[i, k, 1], strands[i, k, 2] = px, py, pz


@kernel
def short_hairs(roots, normals, along, shape, state, strands):
    """Brow and beard hairs (n, K, 3) from roots with normals (n, 3) along directions (n, 3).

    shape: length in cm, lift off the skin, spread of the directions, droop.
    """
    length, lift, noise, droop = shape
    count = strands.shape[1]
    for i in range(strands.shape[0]):
        nx, ny, nz = normals[i, 0], normals[i, 1], normals[i, 2]
        dx, dy, dz = along[i, 0], along[i, 1], along[i, 2]
        s = dx * nx + dy * ny + dz * nz
        dx, dy, dz = dx - s * nx, dy - s * ny, dz - s * nz
        s = 1 / (np.sqrt(dx * dx + dy * dy + dz * dz) + 1e-9)
        dx = dx * s + lift * nx + noise * _normal(state)
        dy = dy * s + lift * ny + noise * _normal(state)
        dz = dz * s + lift * nz + noise * _normal(state)
        step = length * np.exp(0.25 * _normal(state)) / (count - 1)
        strands[i, 0, 0] = roots[i, 0] + nx * 0.02
        strands[i, 0, 1] = roots[i, 1] + ny * 0.02
        strands[i, 0, 2] = roots[i, 2] + nz * 0.02
        for k in range(1, count):
            s = 1 / (np.sqrt(dx * dx + dy * dy + dz * dz) + 1e-9)
            dx *= s
            dy *= s
            dz *= s
            strands[i, k, 0] = strands[i, k - 1, 0] + dx * step
            strands[i, k, 1] = strands[i, k - 1, 1] + dy * step
            strands[i, k, 2] = strands[i, k - 1, 2] + dz * step
            dx += 0.25 * noise * _normal(state)
            dy += 0.25 * noise * _normal(state) - droop / count
            dz += 0.25 * noise * _normal(state)
