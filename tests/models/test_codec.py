"""Landmarks <-> heatmaps: what is encoded comes back within half a pixel, on every grid, frame's edge included."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from distill.config import HeadConfig
from distill.models.codec import HeatmapCodec, SimCCCodec, resample

SIZE = 256
HEADS = [
    HeadConfig(kind="heatmap", stride=4, decode="softargmax"),
    HeadConfig(kind="heatmap", stride=4, decode="dark"),
    HeadConfig(kind="heatmap", stride=8, decode="softargmax"),
    HeadConfig(kind="heatmap", stride=8, decode="dark"),
    HeadConfig(kind="simcc", bins=2.0, decode="softargmax"),
    HeadConfig(kind="simcc", bins=2.0, decode="dark"),
    HeadConfig(kind="simcc", bins=1.0, decode="softargmax"),
    HeadConfig(kind="simcc", bins=1.0, decode="dark"),
]
IDS = [f"{h.kind}-{h.stride if h.kind == 'heatmap' else h.bins}-{h.decode}" for h in HEADS]


def codec(head: HeadConfig, size: int = SIZE) -> HeatmapCodec | SimCCCodec:
    return (HeatmapCodec if head.kind == "heatmap" else SimCCCodec)(
        size, head
    ).eval()  # in training DARK gives way to soft-argmax


def logits_of(probability: torch.Tensor) -> torch.Tensor:
    """What a perfect model would put out; the floor keeps empty cells finite."""
    return probability.clamp_min(1e-12).log()


def everywhere(margin: float, count: int = 400, size: int = SIZE) -> torch.Tensor:
    """(4, count / 4, 2) points all over the frame and its margin, the very corners of both included."""
    generator = torch.Generator().manual_seed(0)
    points = (torch.rand(count, 2, generator=generator) * (1 + 2 * margin) - margin) * size
    low, high = -margin * size, (1 + margin) * size
    points[:8] = torch.tensor(
        [[low, low], [high, low], [low, high], [high, high], [0, 0], [size, 0], [0, size], [size, size]]
    )
    return points.reshape(4, -1, 2)


@pytest.mark.parametrize("head", HEADS, ids=IDS)
def test_encode_decode_within_half_a_pixel_frame_and_margin(head):
    points = everywhere(head.margin)
    decoded = codec(head).decode(logits_of(codec(head).encode(points)))
    assert decoded.points.shape == points.shape and decoded.confidence.shape == points.shape[:2]
    assert (decoded.points - points).abs().max() < 0.5


@pytest.mark.parametrize("margin", [0.0625, 0.25])
@pytest.mark.parametrize("sigma", [0.02, 0.035])
@pytest.mark.parametrize("decode", ["softargmax", "dark"])
@pytest.mark.parametrize("stride", [4, 8])
def test_the_settings_that_the_experiments_use(stride, decode, sigma, margin):
    head = HeadConfig(stride=stride, decode=decode, sigma=sigma, margin=margin)
    points = everywhere(margin)
    found = codec(head).decode(logits_of(codec(head).encode(points))).points
    assert (found - points).abs().max() < 0.5


@pytest.mark.parametrize("decode", ["softargmax", "dark"])
def test_a_small_input_keeps_the_same_precision_relative_to_its_side(decode):
    head = HeadConfig(stride=8, decode=decode, sigma=0.035, margin=0.0625)
    points = everywhere(head.margin, size=128)
    found = codec(head, 128).decode(logits_of(codec(head, 128).encode(points))).points
    assert (found - points).abs().max() < 0.25  # half a pixel of 256 px


@pytest.mark.parametrize("head", HEADS, ids=IDS)
def test_points_out_of_the_frame_are_not_clamped(head):
    reach = head.margin * SIZE
    points = torch.tensor([[[-0.9 * reach, 100.0], [SIZE + 0.9 * reach, 100.0], [100.0, -0.9 * reach]]])
    found = codec(head).decode(logits_of(codec(head).encode(points))).points
    assert found[0, 0, 0] < -0.9 * reach + 0.5
    assert found[0, 1, 0] > SIZE + 0.9 * reach - 0.5
    assert found[0, 2, 1] < -0.9 * reach + 0.5


@pytest.mark.parametrize("head", HEADS, ids=IDS)
def test_representable_marks_the_points_that_the_grid_holds(head):
    reach = head.margin * SIZE
    inside = everywhere(head.margin)
    assert codec(head).representable(inside).all()
    beyond = torch.tensor(
        [[[-reach - 1, 50.0], [50.0, -reach - 1], [SIZE + reach + 1, 50.0], [50.0, SIZE + reach + 1], [-1e4, -1e4]]]
    )
    assert not codec(head).representable(beyond).any()


@pytest.mark.parametrize("head", HEADS, ids=IDS)
def test_targets_are_distributions_even_for_points_beyond_the_grid(head):
    grid = codec(head)
    points = torch.cat([everywhere(head.margin)[0], torch.tensor([[-5000.0, 9000.0], [float(SIZE) * 2, -300.0]])])
    target = grid.encode(points[None])
    axes = (-2, -1) if head.kind == "heatmap" else (-1,)
    assert torch.isfinite(target).all() and (target >= 0).all()
    torch.testing.assert_close(target.sum(axes), torch.ones_like(target.sum(axes)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("head", HEADS, ids=IDS)
def test_a_peaked_map_is_confident_and_a_flat_one_is_not(head):
    grid = codec(head)
    peaked = logits_of(grid.encode(torch.tensor([[[100.0, 60.0]]])))
    blurred = peaked * 0.05
    sure, unsure, lost = (float(grid.decode(x).confidence) for x in (peaked, blurred, torch.zeros_like(peaked)))
    assert 0 <= lost < unsure < sure <= 1
    assert sure > 0.9 and lost < 0.2


@pytest.mark.parametrize("head", HEADS, ids=IDS)
def test_probability_spread_over_the_picture_draws_soft_argmax_to_the_middle_and_not_dark(head):
    grid = codec(head)
    points = torch.tensor([[[200.0, 60.0], [30.0, 128.0]]])
    target = grid.encode(points)
    cells = target[0, 0].numel() if head.kind == "heatmap" else target.shape[-1]
    found = grid.decode(logits_of(0.95 * target + 0.05 / cells)).points
    expected = 0.05 * (SIZE / 2 - points) if head.decode == "softargmax" else torch.zeros_like(points)
    torch.testing.assert_close(found - points, expected, atol=0.02, rtol=0.01)


@pytest.mark.parametrize("head", HEADS, ids=IDS)
def test_two_equal_peaks_are_less_confident_than_one(head):
    grid = codec(head)
    one, other = grid.encode(torch.tensor([[[80.0, 80.0]]])), grid.encode(torch.tensor([[[180.0, 180.0]]]))
    assert grid.decode(logits_of((one + other) / 2)).confidence < 0.7 * grid.decode(logits_of(one)).confidence


@pytest.mark.parametrize("head", HEADS, ids=IDS)
def test_decoding_gives_float32_and_finite_numbers_from_half_precision(head):
    grid = codec(head)
    logits = 200 * torch.randn(grid.encode(torch.zeros(1, 3, 2)).shape, generator=torch.Generator().manual_seed(1))
    decoded = grid.decode(logits.bfloat16())
    assert decoded.points.dtype == torch.float32 and torch.isfinite(decoded.points).all()
    assert decoded.confidence.dtype == torch.float32 and torch.isfinite(decoded.confidence).all()
    flat = grid.decode(torch.zeros_like(logits))
    assert torch.isfinite(flat.points).all()


@pytest.mark.parametrize("head", [h for h in HEADS if h.decode == "softargmax"], ids=lambda h: f"{h.kind}-{h.stride}")
def test_softargmax_trains_towards_the_target(head):
    grid = codec(head)
    target = torch.tensor([[[100.0, 60.0], [30.0, 200.0]]])
    logits = torch.zeros_like(grid.encode(target), requires_grad=True)
    before = (grid.decode(logits).points - target).square().sum()
    before.backward()
    assert torch.isfinite(logits.grad).all() and logits.grad.abs().sum() > 0
    with torch.no_grad():
        after = (grid.decode(logits - logits.grad / logits.grad.abs().max()).points - target).square().sum()
    assert after < before


# (side, stride, sigma) of the heads in use: teacher and student recipes, CPU recipes, short trials of them, the tests'
# own
GRIDS = [(256, 4, 0.02), (192, 4, 0.02), (128, 8, 0.035), (96, 8, 0.035), (64, 8, 0.02)]


@pytest.mark.parametrize("decode", ["softargmax", "dark"])
@pytest.mark.parametrize(("size", "stride", "sigma"), [*GRIDS, (64, 16, 0.035), (64, 8, 0.002)])
def test_a_perfect_target_decodes_to_its_point_however_narrow_it_is(size, stride, sigma, decode):
    grid = codec(HeadConfig(stride=stride, sigma=sigma, margin=0.0625, decode=decode), size)
    points = everywhere(0.0625, size=size)
    inner = points.clamp(0, size)
    assert (grid.decode(logits_of(grid.encode(inner))).points - inner).abs().max() < 1e-4 * size
    assert (grid.decode(logits_of(grid.encode(points))).points - points).abs().max() < 5e-4 * size


def test_a_target_is_as_wide_as_its_sigma_where_the_grid_allows_it():
    for sigma in (0.035, 0.05, 0.1):
        grid = codec(HeadConfig(stride=8, sigma=sigma, margin=0.25), 128).grid
        values = torch.linspace(60, 68, 33)
        variance = (grid.centred(values) * (grid.centres - values.unsqueeze(-1)).square()).sum(-1).mean()
        assert variance.sqrt() == pytest.approx(sigma * 128, rel=1e-3)


@pytest.mark.parametrize("kind", ["heatmap", "simcc"])
@pytest.mark.parametrize(("source", "target"), list(permutations(GRIDS, 2)))
def test_resampled_maps_say_the_same_point(kind, source, target):
    """Within 0.05 % of the side, between any two grids in use."""

    def build(size: int, stride: int, sigma: float, margin: float):
        return codec(HeadConfig(kind=kind, stride=stride, bins=8.0 / stride, margin=margin, sigma=sigma), size)

    ours, theirs = build(*target, 0.125), build(*source, 0.0625)
    inner = torch.rand(1, 60, 2, generator=torch.Generator().manual_seed(2))  # fractions of the side
    dims = (-2, -1) if kind == "heatmap" else (-1,)
    logits = resample(logits_of(theirs.encode(inner * source[0])), theirs.grid, ours.grid, dims)
    assert logits.shape == ours.encode(inner).shape
    assert (ours.decode(logits).points / target[0] - inner).abs().max() < 5e-4


def test_what_lies_beyond_a_grid_is_resampled_to_its_edge():
    wide, narrow = codec(HeadConfig(margin=0.25)), codec(HeadConfig(margin=0.0))
    logits = logits_of(wide.encode(torch.tensor([[[-60.0, 128.0]]])))
    x, y = narrow.decode(resample(logits, wide.grid, narrow.grid, (-2, -1))).points[0, 0]
    assert x == pytest.approx(float(narrow.grid.centres[0]), abs=0.1) and y == pytest.approx(128, abs=0.1)


@pytest.mark.parametrize("kind", ["heatmap", "simcc"])
def test_resampling_to_the_same_grid_changes_nothing(kind):
    grid = codec(HeadConfig(kind=kind))
    logits = torch.randn(grid.encode(torch.zeros(2, 3, 2)).shape, generator=torch.Generator().manual_seed(3))
    dims = (-2, -1) if kind == "heatmap" else (-1,)
    torch.testing.assert_close(resample(logits, grid.grid, grid.grid, dims), logits, atol=1e-5, rtol=1e-5)
