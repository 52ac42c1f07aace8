"""Pixels and landmarks move together; what a sample looks like depends on (seed, epoch, index) and nothing else."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import draw_face

from distill.config import AugmentConfig, load
from distill.data import geometry
from distill.data.augment import Augmenter, plain
from distill.landmarks import IBUG68

BASE = Path(__file__).resolve().parents[2] / "experiments" / "base.yaml"
STILL = AugmentConfig(flip=0, rotate=0, scale=0, shift=0)
KINDS = {
    "resize": {},
    "flip": {"flip": 1.0},
    "rotate": {"rotate": 40.0},
    "rotate_wide": {"rotate_wide": 180.0, "rotate_wide_p": 1.0},
    "scale": {"scale": 0.3},
    "shift": {"shift": 0.15},
    "shear": {"shear": 15.0},
    "perspective": {"perspective": 0.1},
    "all": {
        "flip": 0.5,
        "rotate": 30.0,
        "rotate_wide": 90.0,
        "rotate_wide_p": 0.3,
        "scale": 0.2,
        "shift": 0.08,
        "shear": 8.0,
        "perspective": 0.06,
    },
}


def _grid(width: int, height: int) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), -1)


def _spot(point: np.ndarray, width: int, height: int, sigma: float) -> np.ndarray:
    """A blurred dot at a sub-pixel position, (height, width, 3) uint8."""
    value = 255 * np.exp(-((_grid(width, height) - point) ** 2).sum(-1) / (2 * sigma**2))
    return np.repeat(np.rint(value)[..., None], 3, axis=2).astype(np.uint8)


def _find(image: np.ndarray) -> np.ndarray:
    """Where the one dot of an image is: its centre of mass."""
    weight = image[..., 0].astype(float)
    return (weight[..., None] * _grid(image.shape[1], image.shape[0])).sum((0, 1)) / weight.sum()


@pytest.mark.parametrize(
    ("width", "height", "size"), [(384, 384, 128), (191, 191, 90), (100, 100, 160), (300, 200, 128)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_warped_dot_is_found_where_its_landmark_went(kind, width, height, size):
    augment = dataclasses.replace(STILL, **KINDS[kind])
    rng = np.random.default_rng(5)
    sigma = 2.5 * max(width, height) / size
    misses = []
    for _ in range(3):
        matrix, _ = geometry.sample_matrix(rng, augment, width, height, size)
        for point in rng.uniform(0.25, 0.75, (4, 2)) * [width, height]:
            expected = geometry.apply(matrix, point)
            if 12 < expected.min() and expected.max() < size - 12:  # the whole dot is in the frame
                misses.append(_find(geometry.warp(_spot(point, width, height, sigma), matrix, size)) - expected)
    assert len(misses) >= 6
    assert np.abs(misses).max() < 0.5
    assert np.abs(np.mean(misses, axis=0)).max() < 0.12  # and no common shift, as from a half-pixel slip


def test_flip_renames_left_and_right():
    """The dot that landmark 36 sits on is called 45 in the mirror image."""
    points = draw_face(np.random.default_rng(0), 256)[1]
    for i in (36, 3, 30, 60):
        image = _spot(points[i], 256, 256, 4.0)
        pixels, moved = Augmenter(dataclasses.replace(STILL, flip=1.0), 128, 0)(image, points, 0, 0)
        assert np.abs(_find(pixels) - moved[IBUG68.flip_permutation[i]]).max() < 0.5
    assert np.allclose(moved, (points * [-1, 1] + [256, 0])[list(IBUG68.flip_permutation)] / 2, atol=1e-3)


def test_ranges_are_the_configs():
    rng = np.random.default_rng(0)
    augment = dataclasses.replace(
        STILL, flip=0.3, rotate=20.0, rotate_wide=90.0, rotate_wide_p=0.25, scale=0.5, shift=0.1
    )
    angles, scales, shifts, flips = [], [], [], []
    for _ in range(2000):
        matrix, flipped = geometry.sample_matrix(rng, augment, 200, 200, 100)
        linear = matrix[:2, :2] * 2 @ np.diag([-1 if flipped else 1, 1])
        scales.append(np.sqrt(np.linalg.det(linear)))
        angles.append(np.degrees(np.arctan2(linear[1, 0], linear[0, 0])))
        shifts.append(geometry.apply(matrix, [100.0, 100.0]) / 100 - 0.5)
        flips.append(flipped)
    assert 0.25 < np.mean(flips) < 0.35
    assert 1 / 1.5 - 1e-6 < min(scales) < 0.7 and 1.4 < max(scales) < 1.5 + 1e-6
    assert abs(np.mean(np.log(scales))) < 0.02
    assert 0.09 < np.abs(shifts).max() < 0.1 + 1e-9
    assert max(np.abs(angles)) <= 90 + 1e-6
    assert abs(np.mean(np.abs(angles) > 20) - 0.25 * 70 / 90) < 0.04


def test_strong_perspective_stays_sane():
    rng = np.random.default_rng(0)
    augment = dataclasses.replace(STILL, perspective=0.25)
    frame = np.array([[0, 0], [200, 0], [200, 200], [0, 200], [-50, -50], [250, -50], [250, 250], [-50, 250]], float)
    moved = np.stack(
        [geometry.apply(geometry.sample_matrix(rng, augment, 200, 200, 100)[0], frame) for _ in range(500)]
    )
    assert np.isfinite(moved).all() and np.abs(moved - 50).max() < 250


@pytest.mark.parametrize(("width", "most"), [(384, 12), (256, 60)])
def test_shrinking_averages_and_aliases_little(width, most):
    """Stripes of one pixel shrink to grey; sampling single pixels would turn them into coarse ones (a spread of 73)."""
    stripes = np.zeros((width, width, 3), np.uint8)
    stripes[:, ::2] = 255
    matrix, _ = geometry.sample_matrix(np.random.default_rng(0), STILL, width, width, 120)
    assert geometry.warp(stripes, matrix, 120).std() < most


@pytest.mark.parametrize("width", [384, 256, 192])
def test_training_views_are_as_sharp_as_validation_views(width):
    """Power at each spatial frequency, of turned and shifted views, against plain resizing of the same noise."""
    noise = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(width, width)), (0, 0), 1.0)
    image = np.repeat(np.clip(128 + 200 * noise, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    augmenter = Augmenter(dataclasses.replace(STILL, rotate=10, shift=0.03), 128, 0)
    views = [augmenter(image, np.zeros((68, 2)), 0, i)[0] for i in range(6)]
    ratios = np.mean([_power(view) for view in views], axis=0) / _power(plain(image, None, 128)[0])
    assert ratios.min() > 0.7 and ratios.max() < 1.3, ratios  # plain bilinear sampling, or of whole blocks: 0.3 to 2


def _power(view: np.ndarray) -> np.ndarray:
    """Power of the middle 64 px in three bands of spatial frequency."""
    middle = view[32:96, 32:96, 0].astype(float)
    spectrum = np.abs(np.fft.fft2((middle - middle.mean()) * np.outer(np.hanning(64), np.hanning(64)))) ** 2
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64)))
    return np.array([spectrum[(frequency >= low) & (frequency < low + 0.12)].sum() for low in (0.05, 0.17, 0.29)])


def test_outside_is_black_and_landmarks_are_not_clamped():
    white = np.full((100, 100, 3), 255, np.uint8)
    pixels, points = Augmenter(dataclasses.replace(STILL, shift=0.5), 100, 2)(white, np.full((68, 2), 95.0), 0, 0)
    covered = (pixels[..., 0] == 255).mean()
    assert 0.2 < covered < 0.99 and (pixels[..., 0] == 0).mean() > 0.9 - covered
    outside = [
        Augmenter(dataclasses.replace(STILL, shift=0.5), 100, 2)(white, np.full((68, 2), 95.0), 0, i)[1]
        for i in range(20)
    ]
    assert np.max(outside) > 110


def test_padding_blackens_sides_and_moves_nothing():
    white = np.full((64, 64, 3), 255, np.uint8)
    points = np.full((68, 2), 3.0)
    augmenter = Augmenter(dataclasses.replace(STILL, pad_p=0.6, pad=0.25), 64, 0)
    black = []
    for i in range(300):
        pixels, moved = augmenter(white, points, 0, i)
        assert np.allclose(moved, 3.0) and (pixels[16:48, 16:48] == 255).all()
        black.append([(side == 0).all() for side in (pixels[:, 0], pixels[0], pixels[:, -1], pixels[-1])])
    black = np.array(black)
    assert abs(black.any(1).mean() - 0.6) < 0.1 and (black.mean(0) > 0.15).all() and (black.sum(1) >= 2).any()


def test_plain_keeps_proportions_and_takes_the_points_along():
    image, points = draw_face(np.random.default_rng(0), 64)
    same, kept = plain(image, points, 64)
    assert same is image and np.array_equal(kept, points)
    small, scaled = plain(image, points, 32)
    assert small.shape == (32, 32, 3) and scaled.dtype == np.float32 and np.allclose(scaled, points / 2)
    wide = _spot(np.array([150.0, 60.0]), 300, 200, 9.0)
    resized, moved = plain(wide, np.array([[150.0, 60.0]]), 100)
    assert np.abs(_find(resized) - moved[0]).max() < 0.05 and np.allclose(moved, [[50, 36.6667]])
    assert plain(image, None, 32)[1] is None


# ---------------------------------------------------------------------------------------------------- seeds

FULL = AugmentConfig(perspective=0.05, shear=5, pad_p=0.3, photometric=load(BASE).augment.photometric)


@pytest.fixture(scope="module")
def face():
    return draw_face(np.random.default_rng(0), 64)


def test_a_view_depends_on_seed_epoch_and_index_only(face):
    first, again, other = Augmenter(FULL, 32, 7), Augmenter(FULL, 32, 7), Augmenter(FULL, 32, 8)
    keys = [(epoch, index) for epoch in range(2) for index in range(20)]
    views = {key: first(*face, *key) for key in keys}
    seen = set()
    for key in reversed(keys):  # another order, so nothing is left over from the call before
        pixels, points = again(*face, *key)
        assert np.array_equal(pixels, views[key][0]) and np.array_equal(points, views[key][1])
        assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8 and points.dtype == np.float32
        seen |= {points.tobytes(), other(*face, *key)[1].tobytes()}
    assert len(seen) == 80  # no view twice: not in another epoch, for another sample, or by another seed


def test_photometric_steps_move_no_landmark(face):
    bare, full = Augmenter(dataclasses.replace(FULL, photometric={}), 32, 3), Augmenter(FULL, 32, 3)
    changed = 0
    for index in range(20):
        (plain_pixels, plain_points), (pixels, points) = bare(*face, 0, index), full(*face, 0, index)
        assert np.array_equal(plain_points, points)
        changed += not np.array_equal(plain_pixels, pixels)
    assert changed > 15


def test_an_augmenter_travels_to_another_process(face):
    augmenter = Augmenter(FULL, 32, 3)
    copy = pickle.loads(pickle.dumps(augmenter))
    assert all(np.array_equal(augmenter(*face, 1, i)[0], copy(*face, 1, i)[0]) for i in range(10))
