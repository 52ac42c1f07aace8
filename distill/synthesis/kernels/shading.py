"""Light on surfaces. Per vertex: light, highlights and albedo; per pixel: shadow, skin texture, iris, cloth.

The face mesh is about as dense as a picture of 256 px, so vertices carry what is smooth; only those that a visible
pixel needs are lit. Colours are linear RGB.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from distill.synthesis import array_columns as col
from distill.synthesis.kernels import kernel, part
from distill.synthesis.kernels.shadow import arriving, locate

WRAP = col.VOLUME - 1


class Light(NamedTuple):
    """Light 0 is the key light: it alone casts shadows."""

    directions: np.ndarray  # (n, 3) unit vectors towards the lights, world
    colours: np.ndarray  # (n, 3)
    sky: np.ndarray  # (3,)
    ground: np.ndarray  # (3,)


class Mesh(NamedTuple):
    """Buffers of the whole scene: V vertices, T triangles, of which the face's come first."""

    points: np.ndarray  # (V, 3) world
    normals: np.ndarray  # (V, 3)
    texture: np.ndarray  # (V, 3) position on the neutral face, or in the thing's own space
    albedo: np.ndarray  # (V, 3)
    surface: np.ndarray  # (V, N_SURFACE)
    triangles: np.ndarray  # (T, 3) int32
    materials: np.ndarray  # (T,) int8
    face: int  # vertices of the face
    varyings: np.ndarray  # (V, N_VARYINGS) filled where lit
    lit: np.ndarray  # (V,) bool


class Frame(NamedTuple):
    """Buffers of a picture of S x S supersampled pixels."""

    inverse_depth: np.ndarray  # (S, S) 1 / cm, 0: nothing there
    owner: np.ndarray  # (S, S) int32 triangle, -1: none
    weights: np.ndarray  # (S, S, 2) shares of its corners 2 and 3
    image: np.ndarray  # (S, S, 4) colour times coverage, coverage


@part
def _noise(volume, channel, x, y, z):
    """Trilinear lookup in the tileable noise volume (VOLUME, VOLUME, VOLUME, C) int8, 32 a standard deviation."""
    x += 1024
    y += 1024
    z += 1024
    i, j, k = int(x), int(y), int(z)
    tx, ty, tz = x - i, y - j, z - k
    i1, j1, k1 = (i + 1) & WRAP, (j + 1) & WRAP, (k + 1) & WRAP
    i, j, k = i & WRAP, j & WRAP, k & WRAP
    near = (volume[i, j, k, channel] * (1 - tx) + volume[i1, j, k, channel] * tx) * (1 - ty) + (
        volume[i, j1, k, channel] * (1 - tx) + volume[i1, j1, k, channel] * tx
    ) * ty
    far = (volume[i, j, k1, channel] * (1 - tx) + volume[i1, j, k1, channel] * tx) * (1 - ty) + (
        volume[i, j1, k1, channel] * (1 - tx) + volume[i1, j1, k1, channel] * tx
    ) * ty
    return (near * (1 - tz) + far * tz) * (1 / 32.0)


@part
def _highlight(normal_light, nx, ny, nz, lx, ly, lz, vx, vy, vz, specular, gloss):
    """Blinn-Phong highlight with a Fresnel-like rise at grazing angles."""
    hx, hy, hz = lx + vx, ly + vy, lz + vz
    length = 1.0 / np.sqrt(hx * hx + hy * hy + hz * hz + 1e-9)
    facing = (nx * hx + ny * hy + nz * hz) * length
    if facing <= 0:
        return 0.0
    edge = 1 - max(0.0, vx * hx + vy * hy + vz * hz) * length
    return specular * (0.25 + 2.25 * edge * edge) * np.float32(facing) ** gloss * (gloss + 8) / 25.0 * normal_light


@part
def _light_vertex(i, mesh, light, shadow, camera):
    """Fill the varyings of vertex i."""
    nx, ny, nz = mesh.normals[i, 0], mesh.normals[i, 1], mesh.normals[i, 2]
    x, y, z = mesh.points[i, 0], mesh.points[i, 1], mesh.points[i, 2]
    surface, out = mesh.surface, mesh.varyings
    directions, colours, sky, ground = light.directions, light.colours, light.sky, light.ground
    vx, vy, vz = camera[0] - x, camera[1] - y, camera[2] - z
    length = 1.0 / np.sqrt(vx * vx + vy * vy + vz * vz)
    vx *= length
    vy *= length
    vz *= length
    nv = nx * vx + ny * vy + nz * vz
    if nv < 0 and i >= mesh.face:  # things are two sided; on the closed face a flip would spoil the outline
        nx, ny, nz, nv = -nx, -ny, -nz, -nv
    nv = max(0.0, nv)
    ao, scatter = surface[i, col.S_AO], surface[i, col.S_SCATTER]
    specular, gloss = surface[i, col.S_SPECULAR], surface[i, col.S_GLOSS]
    up = 0.5 + 0.5 * ny
    ao_red = ao ** np.float32(1 - 0.4 * scatter)  # red light bleeds into creases
    f0 = (ground[0] * (1 - up) + sky[0] * up) * ao_red
    f1 = (ground[1] * (1 - up) + sky[1] * up) * ao
    f2 = (ground[2] * (1 - up) + sky[2] * up) * ao
    fill_specular = specular * (1 - nv) ** 4 * 0.5 * ao
    key_specular = 0.0
    for n in range(directions.shape[0]):
        lx, ly, lz = directions[n, 0], directions[n, 1], directions[n, 2]
        nl = nx * lx + ny * ly + nz * lz
        # light wraps around the terminator, red the most: what scattering under the skin looks like
        d0 = max(0.0, (nl + 0.38 * scatter) / (1 + 0.38 * scatter))
        d1 = max(0.0, (nl + 0.16 * scatter) / (1 + 0.16 * scatter))
        d2 = max(0.0, (nl + 0.10 * scatter) / (1 + 0.10 * scatter))
        shine = 0.0
        if nl > 0 and specular > 0:
            shine = _highlight(nl, nx, ny, nz, lx, ly, lz, vx, vy, vz, specular, gloss)
        if n == 0:
            out[i, col.V_KEY], out[i, col.V_KEY + 1] = colours[0, 0] * d0, colours[0, 1] * d1
            out[i, col.V_KEY + 2] = colours[0, 2] * d2
            key_specular = shine
        else:
            open_sky = 0.35 + 0.65 * ao
            f0 += colours[n, 0] * d0 * open_sky
            f1 += colours[n, 1] * d1 * open_sky
            f2 += colours[n, 2] * d2 * open_sky
            fill_specular += shine * open_sky * colours[n, 1] / (sky[1] + 0.05)
    out[i, col.V_FILL], out[i, col.V_FILL + 1], out[i, col.V_FILL + 2] = f0, f1, f2
    out[i, col.V_KEY_SPECULAR], out[i, col.V_FILL_SPECULAR] = key_specular, fill_specular
    u, v, distance = locate(shadow, x + nx * 0.15, y + ny * 0.15, z + nz * 0.15)
    out[i, col.V_SHADOW], out[i, col.V_SHADOW + 1], out[i, col.V_SHADOW + 2] = u, v, distance - 0.25  # bias
    for k in range(3):
        out[i, col.V_ALBEDO + k] = mesh.albedo[i, k]
        out[i, col.V_TEXTURE + k] = mesh.texture[i, k]
    out[i, col.V_FRECKLES], out[i, col.V_STUBBLE] = surface[i, col.S_FRECKLES], surface[i, col.S_STUBBLE]
    out[i, col.V_NECKLINE], out[i, col.V_WRINKLES] = surface[i, col.S_NECKLINE], surface[i, col.S_WRINKLES]
    out[i, col.V_SCATTER] = scatter
    out[i, col.V_PHASE], out[i, col.V_BUMP] = surface[i, col.S_PHASE], surface[i, col.S_BUMP]


# The materials take a pixel's texture position (x, y, z) and albedo (r, g, b), and give back the albedo and factors on
# fill light, on key light and, skin alone, on highlights. Channels of the noise volume: 0 fine, 1 medium, 2 freckles, 3
# and 4 slope of a rough surface in x and y.


@part
def _skin(x, y, z, r, g, b, v, picture, volume):
    i = int((x + 60.0) * 9.0 + picture[col.P_OFFSET]) & WRAP
    j = int((y + 60.0) * 9.0) & WRAP
    k = int((z + 60.0) * 9.0) & WRAP
    fine = volume[i, j, k, 0] * (1 / 32.0)
    medium = volume[i, j, k, 1] * (1 / 32.0)
    f = 1 + picture[col.P_NOISE_LOW] * medium + picture[col.P_NOISE_HIGH] * fine
    freckle = min(1.0, max(0.0, volume[i, j, k, 2] * (1 / 32.0) - 0.8) * v[col.V_FRECKLES])
    r = r * (f * (1 - 0.35 * freckle))
    f *= 1 - picture[col.P_NOISE_LOW] * 0.5 * medium
    g = g * (f * (1 - 0.55 * freckle))
    b = b * (f * (1 - 0.65 * freckle))
    if v[col.V_STUBBLE] > 0.01:
        s = min(0.85, v[col.V_STUBBLE] * (0.85 + 0.3 * fine))
        r = r * (1 - s) + picture[col.P_STUBBLE_R] * s
        g = g * (1 - s) + picture[col.P_STUBBLE_G] * s
        b = b * (1 - s) + picture[col.P_STUBBLE_B] * s
    slope = volume[i, j, k, 3] * picture[col.P_KEY_X] + volume[i, j, k, 4] * picture[col.P_KEY_Y]
    bump = max(0.4, 1 - v[col.V_BUMP] * slope * (1 / 32.0))
    on_key = bump
    on_fill = 0.5 + 0.5 * bump
    shine = max(0.2, bump * (1 + 0.5 * medium + 0.3 * fine))
    if v[col.V_WRINKLES] > 0.02:  # wavy lines across the forehead and at the corners of the eyes
        wave = np.sin(y * 7.5 + 1.5 * v[col.V_PHASE])
        wave = max(0.0, wave) ** 3
        on_key *= 1 - 0.5 * min(1.0, v[col.V_WRINKLES]) * wave
        on_fill *= 1 - 0.35 * min(1.0, v[col.V_WRINKLES]) * wave
    return r, g, b, on_fill, on_key, shine


@part
def _eye(x, y, z, r, g, b, picture, volume):
    radius = np.sqrt(x * x + y * y)
    iris, pupil = picture[col.P_IRIS], picture[col.P_PUPIL]
    vein = _noise(volume, 0, x * 25 + 7, y * 25, z * 9)
    s = 1.0 - 0.35 * min(1.0, radius)
    r = r * (s * (1 + 0.03 * vein))
    g = g * (s * (1 - 0.05 * radius + 0.08 * vein))
    b = b * (s * (1 - 0.06 * radius + 0.06 * vein))
    if z > 0 and radius < iris * 1.12:
        fibre = _noise(volume, 0, np.arctan2(y, x) * 9.0 + 31, radius * 6.0, 3.3)
        q = min(1.0, max(0.0, (radius - pupil) / (iris - pupil)))
        bright = (0.65 + 0.5 * (1 - q) + 0.35 * fibre) * (1.0 - 0.6 * max(0.0, q - 0.78) / 0.22)
        bright *= min(1.0, max(0.0, (radius - pupil) / 0.02))
        k = min(1.0, max(0.0, (iris * 1.12 - radius) / (iris * 0.16)))
        r = r * (1 - k) + picture[col.P_IRIS_R] * bright * k
        g = g * (1 - k) + picture[col.P_IRIS_G] * bright * k
        b = b * (1 - k) + picture[col.P_IRIS_B] * bright * k
    lid = min(1.0, max(0.25, 0.95 - 1.5 * max(0.0, y - 0.06) - 0.5 * max(0.0, abs(x) - 0.45)))  # shade of the upper lid
    return r, g, b, lid, 0.5 + 0.5 * lid


@part
def _cloth(x, y, z, r, g, b, knitted, picture, volume):
    offset = picture[col.P_OFFSET]
    slow = _noise(volume, 1, x * 0.9 + offset, y * 0.5 + 9, z * 0.9)
    fine = volume[int((x + 90) * 8) & WRAP, int((y + 90) * 8) & WRAP, int((z + 90) * 8) & WRAP, 0] * (1 / 32.0)
    f = 1 + 0.08 * slow + 0.06 * fine
    if knitted:
        f *= 0.8 + 0.3 * np.sin(y * 9.0 + 0.8 * np.sin(np.arctan2(x, z) * 60.0))
    kind = picture[col.P_PATTERN]
    if kind > 0:
        q = np.sin((x * picture[col.P_COS] + y * picture[col.P_SIN]) * picture[col.P_FREQUENCY])
        if kind > 1.5:
            q = q * np.sin((x * picture[col.P_SIN] - y * picture[col.P_COS]) * picture[col.P_FREQUENCY])
        if kind > 2.5:
            q = slow * 1.5 + 0.4 * q
        q = min(1.0, max(0.0, q * 5 + 0.5))
        r = r * (1 - q) + picture[col.P_PATTERN_R] * q
        g = g * (1 - q) + picture[col.P_PATTERN_G] * q
        b = b * (1 - q) + picture[col.P_PATTERN_B] * q
    # folds: the slope of slow noise towards the light
    dx, dy, dz = 0.35 * picture[col.P_KEY_X], 0.35 * picture[col.P_KEY_Y], 0.35 * picture[col.P_KEY_Z]
    slope = _noise(volume, 1, (x + dx) * 0.9 + offset, (y + dy) * 0.5 + 9, (z + dz) * 0.9) - slow
    fold = min(1.7, max(0.3, 1 - picture[col.P_FOLDS] * slope))
    return r * f, g * f, b * f, 0.6 + 0.4 * fold, fold


@part
def _shade_pixel(v, material, light, maps, picture, volume):
    """Colour of one pixel from its varyings v (N_VARYINGS,)."""
    x, y, z = v[col.V_TEXTURE], v[col.V_TEXTURE + 1], v[col.V_TEXTURE + 2]
    r, g, b = np.float64(v[col.V_ALBEDO]), np.float64(v[col.V_ALBEDO + 1]), np.float64(v[col.V_ALBEDO + 2])
    on_fill = on_key = shine = 1.0  # factors on fill light, on key light, on highlights
    scatter = np.float64(v[col.V_SCATTER])
    if material == col.M_SKIN and v[col.V_NECKLINE] < 0:  # below the neckline the bust wears cloth
        material = col.M_CLOTH
        r, g, b = picture[col.P_CLOTH_R], picture[col.P_CLOTH_G], picture[col.P_CLOTH_B]
        shine = 0.1
        scatter = 0.0
        on_fill = on_key = min(1.0, 0.55 - 2.0 * v[col.V_NECKLINE])
    if material == col.M_SKIN:
        r, g, b, on_fill, on_key, shine = _skin(x, y, z, r, g, b, v, picture, volume)
    elif material == col.M_EYE:
        r, g, b, on_fill, on_key = _eye(x, y, z, r, g, b, picture, volume)
    elif material >= col.M_CLOTH:
        r, g, b, fill, key = _cloth(x, y, z, r, g, b, material == col.M_KNIT, picture, volume)
        on_fill *= fill
        on_key *= key
    arrived = np.float32(0.0)
    if v[col.V_KEY + 1] > 0:
        arrived = arriving(maps, v[col.V_SHADOW], v[col.V_SHADOW + 1], v[col.V_SHADOW + 2], np.float32(6.0))
    key_red = arrived * (1 + 0.35 * scatter * (1 - arrived)) * on_key  # red bleeds a little into the shadow's edge
    key = arrived * on_key
    key_shine = v[col.V_KEY_SPECULAR] * key * shine
    fill_shine = v[col.V_FILL_SPECULAR] * shine
    colour, sky = light.colours, light.sky
    return (
        r * (v[col.V_FILL] * on_fill + v[col.V_KEY] * key_red) + key_shine * colour[0, 0] + fill_shine * sky[0],
        g * (v[col.V_FILL + 1] * on_fill + v[col.V_KEY + 1] * key) + key_shine * colour[0, 1] + fill_shine * sky[1],
        b * (v[col.V_FILL + 2] * on_fill + v[col.V_KEY + 2] * key) + key_shine * colour[0, 2] + fill_shine * sky[2],
    )


@part
def _smooth_between(owner, inverse_depth, materials, y, x):
    """Whether the pixels left and right of this one belong to the same smooth surface."""
    left, right, own = owner[y, x - 1], owner[y, x + 1], owner[y, x]
    if left < 0 or right < 0 or materials[left] != materials[own] or materials[right] != materials[own]:
        return False
    bend = abs(inverse_depth[y, x - 1] + inverse_depth[y, x + 1] - 2 * inverse_depth[y, x])
    return materials[own] != col.M_EYE and bend < 8e-4 * inverse_depth[y, x]


@kernel
def shade(frame, mesh, light, shadow, camera, picture, volume):
    """Shade every covered pixel of the frame's image; camera (3,) world, picture (N_PICTURE,).

    Every second pixel of a checkerboard is shaded; the others are averaged from their neighbours unless material or
    depth change there.
    """
    inverse_depth, owner, weights, image = frame
    triangles, materials, varyings, lit = mesh.triangles, mesh.materials, mesh.varyings, mesh.lit
    maps = shadow.maps
    height, width = owner.shape
    v = np.zeros(col.N_VARYINGS, np.float32)
    for phase in range(2):
        for y in range(height):
            for x in range((y + phase) & 1, width, 2):
                t = owner[y, x]
                if t < 0:
                    continue
                if phase and 0 < x < width - 1 and _smooth_between(owner, inverse_depth, materials, y, x):
                    for k in range(4):
                        image[y, x, k] = np.float32(0.5) * (image[y, x - 1, k] + image[y, x + 1, k])
                    continue
                a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
                for corner in (a, b, c):
                    if not lit[corner]:
                        _light_vertex(corner, mesh, light, shadow, camera)
                        lit[corner] = True
                w1, w2 = weights[y, x, 0], weights[y, x, 1]
                w0 = np.float32(1.0) - w1 - w2
                for k in range(col.N_VARYINGS):
                    v[k] = w0 * varyings[a, k] + w1 * varyings[b, k] + w2 * varyings[c, k]
                red, green, blue = _shade_pixel(v, materials[t], light, maps, picture, volume)
                image[y, x, 0], image[y, x, 1], image[y, x, 2], image[y, x, 3] = red, green, blue, 1.0
