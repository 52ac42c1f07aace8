"""Loops over vertices, triangles, pixels and strands, compiled by numba. Arrays are float32; lengths are centimetres.

    geometry.py     blended shapes, normals, placement, projection
    raster.py       z-buffer, depth maps, thin layers
    shadow.py       the shadow map of the key light
    shading.py      light, skin, eyes and cloth, pixel by pixel
    hair_growth.py  strands of hair, brows and beards
    strands.py      drawing of strands
    skin.py         colours and surface of the face, vertex by vertex
    picture.py      supersampled light to a picture, tone, noise

Space: x to the subject's left, y up, z towards the viewer. Screen: pixels, x right, y down, (0, 0) at the outer corner
of the top-left pixel; the third column is the depth from the camera in cm.

Compiled code is kept beside the source, in the user's cache where that cannot be written, or under NUMBA_CACHE_DIR.
Numba looks at the file of a kernel alone: after a change to one that a kernel in another file calls, delete
`__pycache__`.
"""

from __future__ import annotations

from collections.abc import Callable

from numba import njit

OPTIONS = {"fastmath": True, "error_model": "numpy"}


def kernel(function: Callable, **options) -> Callable:
    """Compile `function` at its first call, and keep what was compiled where some folder takes it."""
    try:
        return njit(function, cache=True, **OPTIONS, **options)
    except RuntimeError:  # no folder can be written to: compiled again in every process
        return njit(function, **OPTIONS, **options)


def part(function: Callable) -> Callable:
    """Compile a part of other kernels, into which it is put: a call costs nothing."""
    return kernel(function, forceinline=True)
