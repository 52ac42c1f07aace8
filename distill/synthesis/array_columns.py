"""Columns of the arrays that Python and the compiled kernels share. Numba takes them as constants."""

from __future__ import annotations

# Masks of a vertex of the face, (V, N_MASKS) float32: 0..1 where no unit is given.
(
    K_CHEEK, K_NOSE, K_EAR, K_CHIN, K_UNDER_EYE, K_LID, K_EYELINE, K_LIPS, K_FOREHEAD, K_CROW, K_BEARD, K_MOUSTACHE,
    K_HAIR_HEIGHT,  # above the hairline, cm
    K_RECEDE,  # where a receding hairline rises
    K_BROW_DISTANCE,  # from the brow line, cm; 9: nowhere near
    K_BROW_ALONG,  # 0 at the outer end of the brow, 1 at the inner one
    K_AO,  # share of the sky that is seen
    K_FOLD, K_DEPTH, K_TEETH,
    K_X, K_Y, K_Z,  # position on the neutral face, cm
) = range(23)  # fmt: skip
N_MASKS = 23
N_FIELDS = 24  # random fields of a vertex; the first half varies slowly

# Classes of vertices and triangles of the face.
C_SKIN, C_MOUTH, C_GUMS, C_TEETH, C_SOCKET, C_SCLERA, C_LASH = range(7)

# Materials of triangles.
M_SKIN, M_EYE, M_PLAIN, M_CLOTH, M_KNIT = range(5)

# Surface of a vertex, (V, N_SURFACE) float32.
(
    S_SPECULAR, S_GLOSS, S_AO, S_SCATTER, S_FRECKLES, S_STUBBLE,
    S_NECKLINE,  # cm above the line under which the bust wears cloth
    S_WRINKLES, S_PHASE, S_BUMP,
) = range(10)  # fmt: skip
N_SURFACE = 10

# What is constant over one picture, (N_PICTURE,) float32.
(
    P_NOISE_LOW, P_NOISE_HIGH, P_OFFSET,  # amplitudes of skin noise, and where in the noise volume it starts
    P_IRIS, P_PUPIL,  # radii, in units of the eyeball's
    P_IRIS_R, P_IRIS_G, P_IRIS_B, P_STUBBLE_R, P_STUBBLE_G, P_STUBBLE_B, P_CLOTH_R, P_CLOTH_G, P_CLOTH_B,
    P_PATTERN_R, P_PATTERN_G, P_PATTERN_B, P_FREQUENCY, P_COS, P_SIN,
    P_PATTERN,  # of the cloth: 0 none, 1 stripes, 2 checks, 3 spots
    P_KEY_X, P_KEY_Y, P_KEY_Z,  # direction to the key light in head space
    P_FOLDS,
) = range(25)  # fmt: skip
N_PICTURE = 25

# A person's look, (N_LOOK,) float32. Colours take three columns, linear RGB.
(L_TONE, L_LIP, L_HAIR, L_BROW, L_SHADOW) = (0, 3, 6, 9, 12)
(
    L_LIPS, L_BLOOD_CHEEK, L_BLOOD_NOSE, L_BLOOD_EAR, L_BLOOD_CHIN, L_UNDER_EYE, L_LID, L_EYELINE, L_RECEDE, L_HAIR_UP,
    L_SCALP, L_BROWS, L_AO_POWER, L_OIL, L_LIP_GLOSS, L_GLOSS, L_SCATTER, L_FRECKLES, L_BUMP, L_WRINKLES, L_FOLD,
    L_MOTTLE, L_PIGMENT, L_STUBBLE, L_BEARD, L_MOUSTACHE, L_GOATEE, L_TEETH, L_MOUTH_OPEN, L_SCLERA, L_NECK,
    L_NECK_SLOPE,
) = range(15, 47)  # fmt: skip
N_LOOK = 47

# Kinds of scalp hair, and its parameters, (N_HAIR,) float32; lengths in cm.
H_FALLING, H_SHORT, H_TIED, H_RADIAL = range(4)
(
    H_KIND, H_LENGTH, H_LENGTH_SPREAD, H_PARTING, H_GRAVITY, H_SWEEP, H_LIFT, H_NOISE, H_THICKNESS, H_CLUMP, H_CURL,
    H_FREQUENCY, H_FRIZZ, H_FRINGE, H_FRINGE_WIDTH, H_FRINGE_SIDE, H_AZIMUTH_LEFT, H_AZIMUTH_RIGHT, H_DX, H_DY, H_DZ,
    H_BUN_X, H_BUN_Y, H_BUN_Z,
) = range(24)  # fmt: skip
N_HAIR = 24

# Varyings, (V, N_VARYINGS) float32: what a vertex hands to the pixels between it and its neighbours.
V_FILL, V_KEY, V_ALBEDO = 0, 3, 6  # three columns each: light of fill and sky, key light, albedo
V_KEY_SPECULAR, V_FILL_SPECULAR = 9, 10
V_SHADOW = 11  # position in the shadow map (u, v, distance from the light)
V_TEXTURE = 14  # position on the neutral face, cm; on the eyeballs in units of their radius
V_FRECKLES, V_STUBBLE, V_NECKLINE, V_WRINKLES, V_SCATTER, V_PHASE, V_BUMP = range(17, 24)
N_VARYINGS = 24

VOLUME = 32  # side of the noise volume: a power of two, small enough for the second-level cache
