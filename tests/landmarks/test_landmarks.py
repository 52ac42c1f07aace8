"""The landmark sets that come with the package agree with themselves, with each other, and with a face."""

import numpy as np
import pytest

from distill import headpose
from distill.headpose import mean_face
from distill.landmarks import IBUG68, Markup, find, from_dict, shipped

SETS = pytest.mark.parametrize("markup", [find(name) for name in shipped()], ids=shipped())
ALL = list(range(68))
REGIONS = IBUG68.regions


def same_line(a: tuple[int, ...], b: tuple[int, ...], closed: bool) -> bool:
    """Whether two polylines join the same neighbours."""
    joined = [{frozenset(pair) for pair in zip(line, (*line[1:], line[0]), strict=True)} for line in (a, b)]
    if not closed:
        joined = [pairs - {frozenset((line[0], line[-1]))} for pairs, line in zip(joined, (a, b), strict=True)]
    return joined[0] == joined[1]


@SETS
def test_regions_partition_the_points(markup: Markup):
    assert sorted(point for points in markup.regions.values() for point in points) == list(range(markup.count))


@SETS
def test_outlines_draw_no_point_twice_and_stay_in_one_region(markup: Markup):
    drawn = [point for points, _ in markup.outlines for point in points]
    assert len(drawn) == len(set(drawn)) and len(drawn) > 0.9 * markup.count
    for points, _ in markup.outlines:
        assert any(set(points) <= set(region) for region in markup.regions.values())


@SETS
def test_flip_is_an_involution_that_keeps_regions_and_outlines(markup: Markup):
    flip = np.array(markup.flip_permutation)
    assert flip[flip].tolist() == list(range(markup.count))
    for points in markup.regions.values():
        assert sorted(flip[list(points)]) == sorted(points)
    for points, closed in markup.outlines:  # neighbours on a line are neighbours on its mirror image
        mirrored = tuple(flip[list(points)].tolist())
        assert any(same_line(mirrored, other, closed) for other, kind in markup.outlines if kind == closed), points
    right, left = markup.outer_eye_corners
    assert flip[right] == left


@SETS
def test_flip_agrees_with_that_of_the_68_points(markup: Markup):
    there = dict(markup.as_68)
    assert len(there) > 50
    for own, point in there.items():
        assert there[markup.flip_permutation[own]] == IBUG68.flip_permutation[point], own


@SETS
def test_corresponding_points_lie_in_the_same_region_and_order(markup: Markup):
    for own, point in markup.as_68:
        names = [next(n for n, points in m.regions.items() if p in points) for m, p in ((markup, own), (IBUG68, point))]
        assert names[0] == names[1], (own, point)
    right, left = markup.outer_eye_corners
    assert (right, left) == tuple({there: own for own, there in markup.as_68}[p] for p in IBUG68.outer_eye_corners)


@SETS
def test_head_pose_is_that_of_the_68_points(markup: Markup):
    assert headpose.can_estimate(markup)
    for angles in ((0, 0, 0), (40, -10, 5), (-65, 20, -30)):
        seen = (mean_face() @ headpose.rotation(*angles).T)[:, :2] * [15, -15] + 192
        points = np.zeros((1, markup.count, 2))
        for own, there in markup.as_68:
            points[0, own] = seen[there]
        assert headpose.estimate(points, markup)[0] == pytest.approx(angles, abs=0.01)


@SETS
def test_a_description_reads_back(markup: Markup, tmp_path):
    assert from_dict(markup.to_dict(), "here") == markup
    (tmp_path / "copy.yaml").write_text(markup.to_yaml())
    copy = find(str(tmp_path / "copy.yaml"))
    assert copy == markup and copy.reference() == markup.name, "what is shipped needs no more than its name"


def test_flip_agrees_with_a_mirrored_face():
    face, flip = mean_face(), IBUG68.flip_permutation
    np.testing.assert_allclose((face * [-1, 1, 1])[list(flip)], face, atol=0.011)
    axis = {point for point in ALL if flip[point] == point}
    assert axis == {point for point in ALL if abs(face[point, 0]) < 0.05}


def test_flip_agrees_with_the_picture_convention():
    """x' = W - x: a frontal face in the middle of a picture is its own mirror image."""
    width = 384
    points = mean_face()[:, :2] * [15, -15] + width / 2
    mirrored = points.copy()
    mirrored[:, 0] = width - mirrored[:, 0]
    np.testing.assert_allclose(mirrored[list(IBUG68.flip_permutation)], points, atol=0.2)


def test_regions_lie_where_their_names_say():
    height = {name: mean_face()[list(points), 1].mean() for name, points in REGIONS.items()}
    assert height["brows"] > height["eyes"] > height["nose"] > height["mouth"] > mean_face()[8, 1]
    eyes = mean_face()[list(REGIONS["eyes"]), 0]
    right, left = IBUG68.outer_eye_corners  # point 36 is the subject's right: the left of the picture
    assert mean_face()[right, 0] == eyes.min() and mean_face()[left, 0] == eyes.max()


def test_region_and_outline_order_is_multi_pie():
    x, y, _ = mean_face().T
    assert (np.diff(x[0:17]) > 0).all() and y.argmin() == 8  # jaw from picture left to right, the chin in the middle
    assert (np.diff(x[17:27]) > 0).all()
    assert (np.diff(y[27:31]) < 0).all() and (np.diff(x[31:36]) > 0).all()
    for loop in (range(36, 42), range(42, 48), range(48, 60), range(60, 68)):  # clockwise in the picture
        a, b = x[list(loop)], y[list(loop)]
        assert (a * np.roll(b, -1) - np.roll(a, -1) * b).sum() < 0
