"""Errors by hand, and head poses that were put there."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill import metrics
from distill.errors import UserError
from distill.headpose import estimate, mean_face, rotation
from distill.landmarks import IBUG68


def faces(count: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(50, 300, (count, 68, 2))


def shifted(target: np.ndarray, lengths: list[float]) -> np.ndarray:
    """Each image moved along a 3-4-5 triangle, so that every point is off by the given length."""
    return target + np.array(lengths)[:, None, None] * [0.6, 0.8]


# ---------------------------------------------------------------------------------------------------- NME


def test_the_three_normalisers_by_hand():
    face = np.full((1, 68, 2), 50.0)
    face[0, 0], face[0, 1] = (10, 20), (110, 45)  # box 100 x 25
    face[0, 36], face[0, 45] = (40, 30), (70, 70)  # 30, 40 -> 50; makes the box 100 x 50
    sizes = np.array([[200, 50]])
    assert metrics.normalizer("image", face, sizes) == pytest.approx([100])
    assert metrics.normalizer("bbox", face, sizes) == pytest.approx([math.sqrt(100 * 50)])
    assert metrics.normalizer("interocular", face, sizes) == pytest.approx([50])


def test_nme_is_percent_of_384_for_the_challenge():
    target = faces(2)
    pred = shifted(target, [3.84, 7.68])
    norm = metrics.normalizer("image", target, np.array([384, 384]))
    assert metrics.point_errors(pred, target, norm).shape == (2, 68)
    assert metrics.image_errors(pred, target, norm) == pytest.approx([1.0, 2.0])
    assert metrics.nme(pred, target, norm) == pytest.approx(1.5)


def test_nme_does_not_change_when_pictures_are_resized():
    target = faces(3)
    pred = target + np.random.default_rng(1).normal(0, 5, target.shape)
    for kind in metrics.NORMALIZERS:
        full = metrics.evaluate(pred, target, np.array([384, 384]), kind).nme
        assert metrics.evaluate(pred / 3, target / 3, np.array([128, 128]), kind).nme == pytest.approx(full)


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("head", lambda face: face, ["'head'", "image, bbox, interocular"]),
        ("bbox", lambda face: face * 0, ["image 1", "bbox"]),
        ("interocular", lambda face: face * 0, ["image 1", "interocular"]),
    ],
)
def test_a_normaliser_that_cannot_divide_is_refused(kind, change, words):
    face = faces(2)
    face[1] = change(face[1])
    with pytest.raises(UserError) as error:
        metrics.normalizer(kind, face, np.array([384, 384]))
    assert all(word in str(error.value) for word in words)


def test_an_image_without_size_is_refused():
    with pytest.raises(UserError, match="image 0"):
        metrics.normalizer("image", faces(), np.array([[0, 384]]))
    with pytest.raises(UserError, match="sizes"):
        metrics.normalizer("image", faces(3), np.zeros((2, 2)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_prediction_that_is_not_finite_is_never_averaged(value):
    target, pred = faces(3), faces(3)
    pred[2, 5, 1] = value
    with pytest.raises(UserError, match=r"image 2\b.* point 5\b"):
        metrics.evaluate(pred, target, np.array([384, 384]))


@pytest.mark.parametrize("shape", [(2, 67, 2), (2, 136), (0, 68, 2), (3, 68, 2)])
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(UserError, match="expected"):
        metrics.evaluate(np.ones(shape), faces(2), np.array([384, 384]))


# ---------------------------------------------------------------------------------------------------- report


def test_report_by_hand():
    """Four images with NME 1, 2, 4 and 12 %."""
    target = faces(4)
    report = metrics.evaluate(
        shifted(target, [1, 2, 4, 12]),
        target,
        np.array([100, 100]),
        yaw=np.array([0, -29.9, 60, -75]),
        roll=[-15, 44, 5, 180],
    )
    assert report.nme == pytest.approx(4.75)
    assert report.per_image == pytest.approx([1, 2, 4, 12])
    assert report.median == pytest.approx(3)
    assert report.p95 == pytest.approx(4 + 0.85 * 8)  # position 0.95 * 3 = 2.85 between the 3rd and the 4th
    assert report.failure_rate == 0.25
    assert report.auc == pytest.approx((7 / 8 + 6 / 8 + 4 / 8 + 0) / 4)
    assert report.by_yaw["below_30"] == {"nme": pytest.approx(1.5), "count": 2}
    assert report.by_yaw["30_to_60"] is None
    assert report.by_yaw["above_60"] == {"nme": pytest.approx(8), "count": 2}
    assert report.by_roll["below_15"] == {"nme": pytest.approx(4), "count": 1}
    assert report.by_roll["15_to_45"] == {"nme": pytest.approx(1.5), "count": 2}
    assert report.by_roll["above_45"] == {"nme": pytest.approx(12), "count": 1}
    assert report.ced_thresholds == pytest.approx([0, 1, 2, 4, 8])
    assert report.ced_fractions == pytest.approx([0, 0.25, 0.5, 0.75, 0.75])


def test_regions_and_points_get_their_own_error():
    target = faces(2)
    pred = target.copy()
    pred[:, list(IBUG68.regions["eyes"]), 0] += 5
    pred[0, 8, 1] -= 34
    report = metrics.evaluate(pred, target, np.array([100, 100]))
    assert report.by_region == pytest.approx({"jaw": 1, "brows": 0, "nose": 0, "eyes": 5, "mouth": 0})
    assert report.per_point[8] == pytest.approx(17) and report.per_point[36:48] == pytest.approx(5)
    weights = {name: len(points) for name, points in IBUG68.regions.items()}
    assert sum(report.by_region[k] * n for k, n in weights.items()) / 68 == pytest.approx(report.nme)
    assert set(report.by_yaw.values()) == {None}


def test_shifts_towards_the_middle_by_hand():
    """Four points 30 px from the middle of 100 px squares, each bin's shifts with known mean and standard error."""
    target = np.array([[[20.0, 50], [50, 80], [50, 20], [50, 50]]] * 3)
    move = np.array([[[3.0, 4], [0, -1], [0, 0], [5, 0]], [[1, 0], [0, 5], [2, 0], [5, 0]], [[0] * 2] * 4])
    sizes, norm = np.array([100, 100]), np.full(3, 100.0)
    inwards = metrics.inward_shifts(target + move, target, sizes, norm)
    assert inwards == pytest.approx(np.array([[3, 1, 0, 0], [1, -5, 0, 0], [0, 0, 0, 0]]))
    sure = np.array([[0.5, 0.899, 1, 1.00001], [0.9, 0.5, 1, 1], [0.95, 0.98, 1, 1]])
    found = metrics.by_confidence(metrics.point_errors(target + move, target, norm), inwards, sure)
    # around the mean of -1/3, the first image's two points are off by 14/3 together, the second's one by -14/3
    error = math.sqrt(2 * (14 / 3) ** 2 * 2) / 3
    expected = {"count": 3, "error": 11 / 3, "inwards": -1 / 3, "inwards_se": error}
    assert found["below_0.9"] == pytest.approx(expected)
    assert found["0.9_to_0.97"] == pytest.approx({"count": 2, "error": 0.5, "inwards": 0.5, "inwards_se": 0.5})
    assert found["0.97_to_0.99"] == {"count": 1, "error": 0, "inwards": 0, "inwards_se": None}
    assert found["0.99_to_0.999"] is None and found["above_0.999"]["count"] == 6
    for bad in (sure[:2], np.where(sure == 0.95, np.nan, sure)):
        with pytest.raises(UserError):
            metrics.by_confidence(inwards, inwards, bad)


def test_auc_is_the_area_under_the_drawn_curve():
    errors = np.random.default_rng(3).gamma(2, 2, 500)
    thresholds, fractions = metrics.ced(errors)
    assert metrics.auc(errors) == pytest.approx((np.diff(thresholds) * fractions[:-1]).sum() / 8)
    assert metrics.auc(np.zeros(3)) == 1 and metrics.auc(np.full(3, 8.0)) == 0
    assert metrics.failure_rate(np.array([8.0, 8.0001])) == 0.5


def test_report_becomes_plain_json():
    target = faces(2)
    report = metrics.evaluate(shifted(target, [1, 2]), target, np.array([100, 100]), yaw=np.array([0, 80]))
    back = json.loads(json.dumps(report.to_dict()))
    assert back["per_image"] == pytest.approx([1, 2]) and len(back["per_point"]) == 68
    assert back["by_yaw"]["30_to_60"] is None and back["normalizer"] == "image" and back["count"] == 2
    assert metrics.Report.from_dict(back | {"model": "more"}).to_dict() == back
    old = {key: value for key, value in back.items() if key not in ("layout", "by_roll", "by_confidence")}
    assert metrics.Report.from_dict(old).by_roll == metrics.Report.from_dict(old).by_confidence == {}


# ---------------------------------------------------------------------------------------------------- properties

few = settings(max_examples=25, deadline=None, derandomize=True)
shifts = st.tuples(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))


@few
@given(st.integers(0, 2**32 - 1), st.sampled_from(metrics.NORMALIZERS), st.floats(0.01, 100), shifts)
def test_errors_do_not_change_with_place_scale_or_mirror(seed, kind, scale, shift):
    rng, flip = np.random.default_rng(seed), list(IBUG68.flip_permutation)
    target = faces(3, seed)
    pred, sizes, sure = target + rng.normal(0, 9, target.shape), np.array([384, 300]), rng.uniform(0.8, 1, (3, 68))

    def mirrored(points):
        return (points * [-1, 1] + [384, 0])[:, flip]

    plain = metrics.evaluate(pred, target, sizes, kind, confidence=sure)
    moved = metrics.evaluate(pred + shift, target + shift, sizes, kind)
    scaled = metrics.evaluate(pred * scale, target * scale, sizes * scale, kind, confidence=sure)
    mirror = metrics.evaluate(mirrored(pred), mirrored(target), sizes, kind, confidence=sure[:, flip])
    for other, order in ((moved, slice(None)), (scaled, slice(None)), (mirror, flip)):
        assert other.per_image == pytest.approx(plain.per_image) and other.by_region == pytest.approx(plain.by_region)
        assert other.per_point == pytest.approx(plain.per_point[order])
    for name, cell in plain.by_confidence.items():
        assert scaled.by_confidence[name] == pytest.approx(cell) == mirror.by_confidence[name]


@few
@given(st.lists(st.floats(0, 50), min_size=1, max_size=20), st.floats(0.1, 20), st.floats(0.1, 20), st.floats(0, 5))
def test_rates_and_areas_are_fractions_that_grow_with_what_is_allowed(errors, one, other, worse):
    errors, low, high = np.array(errors), min(one, other), max(one, other)
    assert 1 >= metrics.failure_rate(errors, low) >= metrics.failure_rate(errors, high) >= 0
    assert 0 <= metrics.auc(errors + worse, low) <= metrics.auc(errors, low) <= metrics.auc(errors, high) <= 1
    thresholds, fractions = metrics.ced(errors, high)
    assert (thresholds[0], thresholds[-1]) == (0, high) and (np.diff(thresholds) > 0).all()
    assert (np.diff(fractions) >= 0).all() and fractions[-1] == pytest.approx(1 - metrics.failure_rate(errors, high))


# ---------------------------------------------------------------------------------------------------- bootstrap


def test_the_interval_of_a_mean_matches_the_normal_one():
    errors = np.random.default_rng(5).normal(2.0, 1.0, 400)
    half = 1.96 * errors.std() / 20
    assert metrics.mean_interval(errors) == pytest.approx((errors.mean() - half, errors.mean() + half), abs=0.01)
    assert metrics.mean_interval(np.full(3, 0.5)) == (0.5, 0.5)


# ---------------------------------------------------------------------------------------------------- head pose


def picture(yaw: float, pitch: float, roll: float, scale: float = 14.0) -> np.ndarray:
    """The mean face as a camera far away sees it, in pixels of a 384 px picture."""
    turned = mean_face() @ rotation(yaw, pitch, roll).T
    return turned[:, :2] * [scale, -scale] + 192


@pytest.mark.parametrize("yaw", [-85, -60, -20, 0, 35, 90])
@pytest.mark.parametrize(("pitch", "roll"), [(0, 0), (25, -40), (-30, 120)])
def test_known_rotations_are_found(yaw, pitch, roll):
    found = estimate(picture(yaw, pitch, roll)[None])[0]
    assert found == pytest.approx([yaw, pitch, roll], abs=1e-6)


@pytest.mark.parametrize("yaw", [-75, -30, 10, 60])
def test_another_face_seen_from_near_is_still_within_some_degrees(yaw):
    """A wider face, an open mouth, label noise, and a camera at 80 cm with its perspective."""
    rng = np.random.default_rng(7)
    face = mean_face() * [1.08, 0.96, 1.0]
    face[55:60, 1] -= 1.5
    turned = face @ rotation(yaw, 10, -15).T
    seen = turned[:, :2] / (1 - turned[:, 2:] / 80) * [14, -14] + 192 + rng.normal(0, 2, (68, 2))
    assert estimate(seen[None])[0] == pytest.approx([yaw, 10, -15], abs=6)


def test_signs_are_those_of_the_picture():
    nose = 30
    right_of_picture = picture(40, 0, 0)
    assert right_of_picture[nose, 0] > right_of_picture[:, 0].mean()
    upward = picture(0, 30, 0)
    assert upward[nose, 1] < picture(0, 0, 0)[nose, 1]
    clockwise = picture(0, 0, 20)
    assert clockwise[36, 1] < clockwise[45, 1]  # the eye at the left of the picture rises


def test_mirror_turns_yaw_and_roll_around():
    points = picture(50, 12, -25)[None] + np.random.default_rng(2).normal(0, 1, (1, 68, 2))
    mirrored = points.copy()
    mirrored[..., 0] = 384 - mirrored[..., 0]
    assert estimate(mirrored[:, list(IBUG68.flip_permutation)]) == pytest.approx(
        estimate(points) * [-1, 1, -1], abs=0.05
    )


def test_pose_does_not_depend_on_size_place_or_company():
    points = picture(-33, 5, 8)
    together = estimate(np.stack([points, points * 0.1 + 1000, picture(80, 0, 0)]))
    assert together[1] == pytest.approx(together[0])
    assert together[0] == pytest.approx(estimate(points[None])[0])


def test_points_that_are_no_face_are_refused():
    line = np.stack([np.arange(68.0), np.arange(68.0)], axis=1)
    for bad in (np.zeros((1, 68, 2)), line[None], np.full((1, 68, 2), np.nan), np.zeros((68, 2))):
        with pytest.raises(UserError):
            estimate(bad)
