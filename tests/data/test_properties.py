"""What holds for whatever input hypothesis draws: geometry, views, the codec, the annotation file."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.config import AugmentConfig, HeadConfig
from distill.data import geometry
from distill.data.augment import Augmenter, from_view, to_view
from distill.data.labels import parse_annot
from distill.data.labels import points_of as label_of
from distill.landmarks import IBUG68
from distill.models.codec import HeatmapCodec, SimCCCodec

few = settings(max_examples=20, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)
sides = st.integers(8, 400)


def points_of(seed: int, low: float, high: float) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low, high, (68, 2))


@few
@given(seeds, sides, sides, st.integers(16, 256))
def test_a_view_maps_back_whatever_the_pictures_shape(seed, width, height, size):
    picture = np.array([width, height])
    points = points_of(seed, -0.5, 1.5) * picture
    view = to_view(points, picture, size)
    assert np.allclose(from_view(view, picture, size), points, atol=1e-2)
    inside = ((points >= 0) & (points <= picture)).all(1)
    assert ((view[inside] >= 0) & (view[inside] <= size)).all()


@few
@given(seeds, st.integers(48, 400), st.integers(48, 400))
def test_a_warp_moves_pixels_where_it_moves_points(seed, width, height):
    """A bright disc in the picture lies where the matrix takes its centre, and the inverse matrix takes that back."""
    rng = np.random.default_rng(seed)
    augment = AugmentConfig(rotate=30, scale=0.2, shift=0.05, shear=5, perspective=0.02, flip=0.5)
    matrix, _ = geometry.sample_matrix(rng, augment, width, height, 96)
    centre = rng.uniform(0.35, 0.65, 2) * (width, height)
    moved = geometry.apply(matrix, centre)
    assert np.allclose(geometry.apply(np.linalg.inv(matrix), moved), centre, atol=1e-6 * max(width, height))
    grid = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), -1)
    disc = np.exp(-((grid - centre) ** 2).sum(-1) / (2 * (max(width, height) / 16) ** 2))
    seen = geometry.warp(np.repeat((250 * disc)[..., None], 3, axis=2).astype(np.uint8), matrix, 96)[..., 0]
    weight = np.clip(seen.astype(float) - 40, 0, None)
    where = (weight[..., None] * (np.stack(np.meshgrid(np.arange(96), np.arange(96)), -1) + 0.5)).sum((0, 1))
    if ((moved > 20) & (moved < 76)).all() and min(width, height) > max(width, height) / 2:
        assert np.abs(where / weight.sum() - moved).max() < 1.5


@few
@given(seeds)
def test_a_flip_is_undone_by_a_flip(seed):
    flip = Augmenter(
        AugmentConfig(flip=1.0, rotate=0, rotate_wide_p=0, scale=0, shift=0, pad_p=0, photometric={}), 64, 0
    )
    image = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)
    points = points_of(seed, -10, 74).astype(np.float32)
    mirrored = flip(image, points, 0, 0)
    assert not np.array_equal(mirrored[0], image)
    twice = flip(*mirrored, 0, 0)
    assert np.array_equal(twice[0], image) and np.allclose(twice[1], points, atol=1e-4)
    assert np.allclose(mirrored[1][:, 0], 64 - points[list(IBUG68.flip_permutation), 0], atol=1e-4)


@few
@given(seeds, st.sampled_from(["softargmax", "dark"]), st.sampled_from([HeatmapCodec, SimCCCodec]))
def test_every_representable_point_survives_the_codec(seed, decode, kind):
    codec = kind(64, HeadConfig(decode=decode)).eval()
    margin = codec.grid.margin
    points = torch.from_numpy(points_of(seed, -1.5 * margin, 64 + 1.5 * margin)).float()[None]
    target = codec.encode(points)
    assert torch.allclose(target.sum(codec.dims), torch.ones(()), atol=1e-4)
    found = codec.decode(target.clamp_min(1e-30).log())
    kept = codec.representable(points)
    assert (found.points - points)[kept].abs().max() < 0.05
    assert ((found.confidence >= 0) & (found.confidence <= 1 + 1e-5)).all()


names = st.lists(
    st.text(st.characters(exclude_characters="/\\\0", exclude_categories=["Cs"]), min_size=1, max_size=20),
    min_size=1,
    max_size=4,
    unique=True,
)


@few
@given(names, seeds, st.integers(0, 5), st.sampled_from([np.asarray, np.asfortranarray, list, np.ndarray.tolist]))
def test_an_annotation_file_gives_back_what_was_written(names, seed, protocol, form):
    names = [name for name in names if name not in (".", "..")]
    labels = np.random.default_rng(seed).normal(192, 90, (len(names), 68, 2)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "annot.pkl"
        path.write_bytes(pickle.dumps((names, form(labels)), protocol))
        found_names, rows = parse_annot(path)
    assert found_names == names
    assert all(np.array_equal(label_of(row, IBUG68), label) for row, label in zip(rows, labels, strict=True))
