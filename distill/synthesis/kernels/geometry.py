"""Shape, normals, placement and projection of vertices."""

from __future__ import annotations

import numpy as np

from distill.synthesis.kernels import kernel


@kernel
def blend(neutral, modes, scale, weights, out):
    """out (3V,) = neutral + sum over k of weights[k] * scale[k] * modes[k]; modes (K, 3V) int16 halve the traffic."""
    block = 4096  # stays in the first-level cache
    for low in range(0, neutral.shape[0], block):
        part = out[low : low + block]
        for i in range(part.shape[0]):
            part[i] = neutral[low + i]
        for k in range(modes.shape[0]):
            weight = np.float32(weights[k] * scale[k])
            if weight != 0:
                mode = modes[k, low : low + block]
                for i in range(part.shape[0]):
                    part[i] += weight * np.float32(mode[i])


@kernel
def vertex_normals(points, triangles, normals):
    """Unit normals (V, 3) of the vertices, weighted by the areas of the triangles (T, 3) around them."""
    normals[:] = 0
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ux, uy, uz = points[b, 0] - points[a, 0], points[b, 1] - points[a, 1], points[b, 2] - points[a, 2]
        vx, vy, vz = points[c, 0] - points[a, 0], points[c, 1] - points[a, 1], points[c, 2] - points[a, 2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for k in (a, b, c):
            normals[k, 0] += nx
            normals[k, 1] += ny
            normals[k, 2] += nz
    for i in range(points.shape[0]):
        square = normals[i, 0] ** 2 + normals[i, 1] ** 2 + normals[i, 2] ** 2
        s = np.float32(1.0) / (np.sqrt(square) + np.float32(1e-12))
        normals[i, 0] *= s
        normals[i, 1] *= s
        normals[i, 2] *= s


@kernel
def place(points, head, torso, pivot, out, is_direction, reference):
    """Head-space points (n, 3), or directions, to the world: heads turn with `head`, torsos with `torso`, (3, 3) each.

    The one goes over into the other along the neck, from -9 to -15.5 cm of the reference points' height (n, 3).
    """
    for i in range(points.shape[0]):
        w = (reference[i, 1] + 15.5) / 6.5
        w = min(1.0, max(0.0, w))
        w = w * w * (3 - 2 * w)
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        if not is_direction:
            x -= pivot[0]
            y -= pivot[1]
            z -= pivot[2]
        for j in range(3):
            value = x * head[j, 0] + y * head[j, 1] + z * head[j, 2]
            if w < 1:
                value = w * value + (1 - w) * (x * torso[j, 0] + y * torso[j, 1] + z * torso[j, 2])
            out[i, j] = value if is_direction else value + pivot[j]
        if is_direction and w < 1:
            s = 1.0 / (np.sqrt(out[i, 0] ** 2 + out[i, 1] ** 2 + out[i, 2] ** 2) + 1e-9)
            for j in range(3):
                out[i, j] *= s


@kernel
def project(points, camera, focal, shift_x, shift_y, out):
    """World points (n, 3) to the screen, (n, 3) = x px, y px, depth cm. focal in px; the camera looks along -z."""
    for i in range(points.shape[0]):
        depth = camera[2] - points[i, 2]
        s = focal / depth
        out[i, 0] = (points[i, 0] - camera[0]) * s + shift_x
        out[i, 1] = (camera[1] - points[i, 1]) * s + shift_y
        out[i, 2] = depth
