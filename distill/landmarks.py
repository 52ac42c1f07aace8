"""The 68 facial landmarks as data: flip permutation, regions, drawing order (iBUG / Multi-PIE order, counted from 0).

Coordinates everywhere in this package are continuous pixels: (0, 0) is the outer corner of the top-left pixel, pixel
centres lie at .5, x grows right and y grows down. So resizing an image is a plain multiplication of its landmarks and
a mirror image has x' = W - x.
"""

from __future__ import annotations

NUM_POINTS = 68

# Regions partition the points; every point belongs to exactly one (tested).
REGIONS: dict[str, tuple[int, ...]] = {
    "jaw": tuple(range(0, 17)),
    "brows": tuple(range(17, 27)),
    "nose": tuple(range(27, 36)),
    "eyes": tuple(range(36, 48)),
    "mouth": tuple(range(48, 68)),
}

# Polylines to draw, as (points, closed).
OUTLINES: tuple[tuple[tuple[int, ...], bool], ...] = (
    (tuple(range(0, 17)), False),
    (tuple(range(17, 22)), False),
    (tuple(range(22, 27)), False),
    (tuple(range(27, 31)), False),
    (tuple(range(31, 36)), False),
    (tuple(range(36, 42)), True),
    (tuple(range(42, 48)), True),
    (tuple(range(48, 60)), True),
    (tuple(range(60, 68)), True),
)

# Pairs that change places in a mirror image; points that are in no pair lie on the axis.
FLIP_PAIRS: tuple[tuple[int, int], ...] = (
    *((i, 16 - i) for i in range(8)),  # jaw
    *((17 + i, 26 - i) for i in range(5)),  # brows
    (31, 35), (32, 34),  # nostrils
    (36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46),  # eyes
    (48, 54), (49, 53), (50, 52), (55, 59), (56, 58),  # outer lip
    (60, 64), (61, 63), (65, 67),  # inner lip
)  # fmt: skip

# Outer eye corners, the distance that the "interocular" normaliser divides by (300W protocol).
OUTER_EYE_CORNERS = (36, 45)


def _flip_permutation() -> tuple[int, ...]:
    perm = list(range(NUM_POINTS))
    for a, b in FLIP_PAIRS:
        perm[a], perm[b] = b, a
    return tuple(perm)


# points_of_mirror_image = mirrored_coordinates[FLIP_PERMUTATION]
FLIP_PERMUTATION: tuple[int, ...] = _flip_permutation()
