"""The landmark tables agree with each other and with a face."""

import numpy as np

from distill.headpose import mean_face
from distill.landmarks import (
    FLIP_PAIRS,
    FLIP_PERMUTATION,
    NUM_POINTS,
    OUTER_EYE_CORNERS,
    OUTLINES,
    REGIONS,
)

ALL = list(range(NUM_POINTS))


def test_regions_partition_the_points():
    assert sorted(point for points in REGIONS.values() for point in points) == ALL


def test_outlines_draw_every_point_once_and_stay_in_one_region():
    assert sorted(point for points, _ in OUTLINES for point in points) == ALL
    for points, _ in OUTLINES:
        assert any(set(points) <= set(region) for region in REGIONS.values())


def test_flip_is_an_involution_that_keeps_regions():
    flip = np.array(FLIP_PERMUTATION)
    assert flip[flip].tolist() == ALL
    assert len({point for pair in FLIP_PAIRS for point in pair}) == 2 * len(FLIP_PAIRS)
    for points in REGIONS.values():
        assert sorted(flip[list(points)]) == sorted(points)


def test_flip_agrees_with_a_mirrored_face():
    face = mean_face()
    np.testing.assert_allclose((face * [-1, 1, 1])[list(FLIP_PERMUTATION)], face, atol=0.011)
    axis = {point for point in ALL if FLIP_PERMUTATION[point] == point}
    assert axis == {point for point in ALL if abs(face[point, 0]) < 0.05}


def test_flip_agrees_with_the_picture_convention():
    """x' = W - x: a frontal face in the middle of a picture is its own mirror image."""
    width = 384
    points = mean_face()[:, :2] * [15, -15] + width / 2
    mirrored = points.copy()
    mirrored[:, 0] = width - mirrored[:, 0]
    np.testing.assert_allclose(mirrored[list(FLIP_PERMUTATION)], points, atol=0.2)


def test_regions_lie_where_their_names_say():
    height = {name: mean_face()[list(points), 1].mean() for name, points in REGIONS.items()}
    assert height["brows"] > height["eyes"] > height["nose"] > height["mouth"] > mean_face()[8, 1]
    eyes = mean_face()[list(REGIONS["eyes"]), 0]
    right, left = OUTER_EYE_CORNERS  # point 36 is the subject's right: the left of the picture
    assert mean_face()[right, 0] == eyes.min() and mean_face()[left, 0] == eyes.max()


def test_region_and_outline_order_is_multi_pie():
    x, y, _ = mean_face().T
    assert (np.diff(x[0:17]) > 0).all() and y.argmin() == 8  # jaw from picture left to right, the chin in the middle
    assert (np.diff(x[17:27]) > 0).all()
    assert (np.diff(y[27:31]) < 0).all() and (np.diff(x[31:36]) > 0).all()
    for loop in (range(36, 42), range(42, 48), range(48, 60), range(60, 68)):  # clockwise in the picture
        a, b = x[list(loop)], y[list(loop)]
        assert (a * np.roll(b, -1) - np.roll(a, -1) * b).sum() < 0
