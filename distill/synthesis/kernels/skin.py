"""Colours and surface of the face, vertex by vertex."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from distill.synthesis import array_columns as col
from distill.synthesis.kernels import kernel, part
from distill.synthesis.kernels.hair_growth import smoothstep


class Face(NamedTuple):
    """What is known of each vertex of the face, whoever's it is."""

    masks: np.ndarray  # (V, N_MASKS)
    fields: np.ndarray  # (V, N_FIELDS) random fields of unit deviation
    classes: np.ndarray  # (V,) uint8, C_SKIN to C_LASH


class Person(NamedTuple):
    """What is one person's."""

    look: np.ndarray  # (N_LOOK,)
    redness: np.ndarray  # (N_FIELDS,) mixes the fields into how red the skin is
    pigment: np.ndarray  # (N_FIELDS,) and into how dark
    moles: np.ndarray  # (n, 4) x, y, z, radius on the neutral face, cm


@part
def _over(under, over, share):
    return (
        under[0] * (1 - share) + over[0] * share,
        under[1] * (1 - share) + over[1] * share,
        under[2] * (1 - share) + over[2] * share,
    )


@part
def _skin_colour(mask, look, red, pig, scalp, moles):
    """Albedo of skin with blood, pigment, moles, make-up, scalp and brows."""
    q = look
    blood = (
        q[col.L_BLOOD_CHEEK] * mask[col.K_CHEEK]
        + q[col.L_BLOOD_NOSE] * mask[col.K_NOSE]
        + q[col.L_BLOOD_EAR] * mask[col.K_EAR]
    )
    blood = blood + q[col.L_BLOOD_CHIN] * mask[col.K_CHIN] + q[col.L_MOTTLE] * red
    dark = q[col.L_PIGMENT] * pig
    # blood absorbs green and blue, pigment blue the most
    r = q[col.L_TONE] * np.exp(np.float32(-0.25 * dark))
    g = q[col.L_TONE + 1] * np.exp(np.float32(-0.48 * blood - 0.40 * dark))
    b = q[col.L_TONE + 2] * np.exp(np.float32(-0.42 * blood - 0.55 * dark))
    f = 1 - q[col.L_UNDER_EYE] * mask[col.K_UNDER_EYE]
    r, g, b = r * f, g * (f * (1 - 0.03 * mask[col.K_UNDER_EYE])), b * f
    for k in range(moles.shape[0]):
        square = (
            (mask[col.K_X] - moles[k, 0]) ** 2 + (mask[col.K_Y] - moles[k, 1]) ** 2 + (mask[col.K_Z] - moles[k, 2]) ** 2
        )
        if square < moles[k, 3] ** 2:
            r, g, b = r * 0.55, g * 0.45, b * 0.42
    f = mask[col.K_LID] * q[col.L_LID]
    r = r * (1 - f) + q[col.L_SHADOW] * q[col.L_TONE] * f
    g = g * (1 - f) + q[col.L_SHADOW + 1] * q[col.L_TONE + 1] * f
    b = b * (1 - f) + q[col.L_SHADOW + 2] * q[col.L_TONE + 2] * f
    f = (1 - q[col.L_EYELINE] * mask[col.K_EYELINE]) * (1 - q[col.L_FOLD] * mask[col.K_FOLD])
    r, g, b = _over((r * f, g * f, b * f), q[col.L_LIP : col.L_LIP + 3], mask[col.K_LIPS] * q[col.L_LIPS])
    f = scalp * q[col.L_SCALP]
    r = r * (1 - f) + 0.6 * q[col.L_HAIR] * f
    g = g * (1 - f) + 0.6 * q[col.L_HAIR + 1] * f
    b = b * (1 - f) + 0.6 * q[col.L_HAIR + 2] * f
    return _over(
        (r, g, b), q[col.L_BROW : col.L_BROW + 3], smoothstep(0.55, 0.15, mask[col.K_BROW_DISTANCE]) * q[col.L_BROWS]
    )


@part
def _skin_surface(mask, look, pig, scalp, beard, phase, out):
    """Surface of skin, out (N_SURFACE,)."""
    q = look
    lips, nose, cheek, forehead = mask[col.K_LIPS], mask[col.K_NOSE], mask[col.K_CHEEK], mask[col.K_FOREHEAD]
    oil = q[col.L_OIL] * (0.7 + 0.8 * nose + 0.7 * forehead + 0.3 * cheek)
    out[col.S_AO] = 0.15 + 0.85 * mask[col.K_AO] ** q[col.L_AO_POWER]
    out[col.S_SPECULAR] = (oil + lips * q[col.L_LIP_GLOSS]) * max(0.3, 1 + 0.25 * pig)
    out[col.S_GLOSS] = q[col.L_GLOSS] + 18 * lips
    out[col.S_SCATTER] = q[col.L_SCATTER]
    out[col.S_FRECKLES] = q[col.L_FRECKLES] * (0.3 + cheek + nose)
    out[col.S_BUMP] = q[col.L_BUMP] * (1 - 0.7 * lips)
    out[col.S_WRINKLES] = q[col.L_WRINKLES] * (forehead + 0.8 * mask[col.K_CROW]) * (1 - scalp)
    out[col.S_PHASE] = phase
    out[col.S_STUBBLE] = beard * q[col.L_STUBBLE]


@part
def _inside(kind, mask, look, albedo, out):
    """Eyeballs, teeth, gums and mouth: albedo (3,) and surface (N_SURFACE,)."""
    q = look
    if kind == col.C_SOCKET:
        albedo[0], albedo[1], albedo[2] = 0.25 * q[col.L_TONE], 0.15 * q[col.L_TONE + 1], 0.14 * q[col.L_TONE + 2]
        out[col.S_GLOSS], out[col.S_AO] = 10, 0.3
    elif kind == col.C_SCLERA:
        s = q[col.L_SCLERA]
        albedo[0], albedo[1], albedo[2] = 0.776 * s, 0.716 * s, 0.672 * s
        out[col.S_SPECULAR], out[col.S_GLOSS], out[col.S_AO], out[col.S_SCATTER] = 1.2, 180, 0.85, 0.3
    else:
        depth = mask[col.K_DEPTH]
        out[col.S_GLOSS], out[col.S_SCATTER] = 30, 0.2
        if kind == col.C_TEETH:
            s = q[col.L_TEETH] * (0.25 + 0.75 * mask[col.K_TEETH])
            albedo[0], albedo[1], albedo[2] = 0.807 * s, 0.730 * s, 0.578 * s
            out[col.S_SPECULAR], out[col.S_AO] = 0.5, (0.04 + 0.75 * depth**1.5) * q[col.L_MOUTH_OPEN]
        else:
            out[col.S_AO] = (0.04 + 0.75 * depth**3.5) * q[col.L_MOUTH_OPEN]
            if kind == col.C_MOUTH:
                s = 0.08 + 0.5 * depth**4
                albedo[0], albedo[1], albedo[2], out[col.S_SPECULAR] = 0.156 * s, 0.026 * s, 0.023 * s, 0.1
            else:
                albedo[0], albedo[1], albedo[2], out[col.S_SPECULAR] = 0.429, 0.091, 0.091, 0.4


@kernel
def face_look(face, person, normals, albedo, surface, scalp, beard):
    """Fill albedo (V, 3) linear, surface (V, N_SURFACE), scalp and beard (V,): density of hair roots.

    normals (V, 3) world: what clearly looks away from the camera gets a plain look.
    """
    masks, fields, classes = face
    q, redness, mix, moles = person
    for i in range(masks.shape[0]):
        mask, out = masks[i], surface[i]
        scalp[i] = beard[i] = 0
        for k in range(col.N_SURFACE):
            out[k] = 0
        out[col.S_NECKLINE] = 9
        if classes[i] != col.C_SKIN:
            _inside(classes[i], mask, q, albedo[i], out)
            continue
        red = pig = np.float32(0.0)
        for k in range(col.N_FIELDS):
            red += redness[k] * fields[i, k]
            pig += mix[k] * fields[i, k]
        height = mask[col.K_HAIR_HEIGHT] - q[col.L_RECEDE] * mask[col.K_RECEDE] + q[col.L_HAIR_UP] + 0.25 * pig
        hair = smoothstep(-0.25, 0.5, height)
        scalp[i] = hair
        density = max(q[col.L_BEARD] * mask[col.K_BEARD], q[col.L_MOUSTACHE] * mask[col.K_MOUSTACHE])
        if mask[col.K_CHIN] > 0.25:
            density = max(density, q[col.L_GOATEE] * mask[col.K_CHIN])
        density *= min(1.0, max(0.3, 1 + 0.25 * pig))
        beard[i] = density
        out[col.S_NECKLINE] = mask[col.K_Y] + q[col.L_NECK_SLOPE] * abs(mask[col.K_X]) - q[col.L_NECK]
        if normals[i, 2] < -0.35:  # a pixel at the rim may still touch it
            f = hair * q[col.L_SCALP]
            for j in range(3):
                albedo[i, j] = q[col.L_TONE + j] * (1 - f) + 0.6 * q[col.L_HAIR + j] * f
            out[col.S_AO] = 0.6
            continue
        albedo[i, 0], albedo[i, 1], albedo[i, 2] = _skin_colour(mask, q, red, pig, hair, moles)
        phase = fields[i, 0] + 0.5 * fields[i, 1]
        _skin_surface(mask, q, pig, hair, density, phase, out)
