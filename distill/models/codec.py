"""Landmarks <-> heatmaps, in two and in one dimension, with sub-pixel decoding. The only owner of the grids.

A grid covers the square input frame and reaches beyond it, so that points outside the frame are represented and not
clamped: every point within `margin` of the frame survives encode -> decode. Points further out are not `representable`;
neither heatmap nor coordinate loss counts them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from distill.config import HeadConfig

REACH = 3.0  # standard deviations of the target that must fit on the grid beyond the last representable point


class Decoded(NamedTuple):
    """What a codec reads from a head."""

    points: Tensor  # (B, P, 2) pixels of the model's input
    confidence: Tensor  # (B, P) in 0..1: share of probability within REACH standard deviations of the point


class AxisGrid(nn.Module):
    """Cell centres along one axis (the frame is square, so x and y share it), in pixels of the input."""

    def __init__(self, size: int, step: float, margin: float, sigma: float):
        """size: side of the frame, pixels. step: pixels a cell. margin, sigma: fractions of the side."""
        super().__init__()
        self.size, self.step = size, step
        self.sigma = sigma * size
        self.margin = margin * size
        self.pad = math.ceil((self.margin + REACH * self.sigma) / step)
        self.inner = round(size / step)
        centres = (torch.arange(self.inner + 2 * self.pad, dtype=torch.float64) - self.pad + 0.5) * step
        self.register_buffer("centres", centres.float(), persistent=False)

    @property
    def cells(self) -> int:
        return self.inner + 2 * self.pad

    def representable(self, points: Tensor) -> Tensor:
        """(B, P, 2) pixels -> (B, P) bool: within `margin` of the frame on both axes."""
        return ((points >= -self.margin) & (points <= self.size + self.margin)).all(-1)

    def gaussian(self, values: Tensor) -> Tensor:
        """(...) pixels -> (..., cells): a Gaussian about each value, sampled at the cells, summing to 1.

        Not narrower than 0.3 cells, below which float32 loses its flanks. DARK, which fits a parabola to its
        logarithm, gives the value back; the mean is beside it where it is narrow: by up to 0.8 % of 96 px at 0.42
        cells of 8 px.
        """
        distance = (self.centres - values.unsqueeze(-1)) / max(self.sigma, 0.3 * self.step)
        return torch.softmax(-0.5 * distance.square(), dim=-1)

    def centred(self, values: Tensor) -> Tensor:
        """(...) pixels -> (..., cells): a distribution about each value whose mean is the value, summing to 1.

        A Gaussian, each point of which is shared out between the two cells beside it by linear weights. That adds a
        variance of step^2 / 6, so the Gaussian has as much less; where nothing is left of it, the two weights remain.
        From one cell on the sampled Gaussian has the same mean to 1e-8 cells.
        """
        if self.sigma >= self.step:
            return self.gaussian(values)
        sigma = math.sqrt(max((self.sigma / self.step) ** 2 - 1 / 6, 1e-6))  # cells
        away = (self.centres - values.unsqueeze(-1).clamp(self.centres[0], self.centres[-1])) / self.step

        def smoothing(shift: int) -> Tensor:
            """The twofold integral of the Gaussian, less that of a point in its place, at `away + shift`."""
            z = ((away + shift) / sigma).abs()
            return sigma * (torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi) - z * torch.special.ndtr(-z))

        linear = (1 - away.abs()).clamp_min(0)
        shares = (linear + smoothing(1) - 2 * smoothing(0) + smoothing(-1)).clamp_min(0)
        return shares / shares.sum(-1, keepdim=True)

    def near(self, values: Tensor) -> Tensor:
        """(...) pixels -> (..., cells): 1 where the cell lies within REACH standard deviations of the value."""
        return ((self.centres - values.unsqueeze(-1)).abs() <= REACH * self.sigma + 0.5 * self.step).float()


class Codec(nn.Module):
    """Points <-> distributions on one grid, the same for x and y."""

    dims: tuple[int, ...]  # the axes of the logits that span one distribution
    grid: AxisGrid

    def representable(self, points: Tensor) -> Tensor:
        """(B, P, 2) pixels -> (B, P) bool: whether the grid reaches the point."""
        return self.grid.representable(points)

    def resampled(self, logits: Tensor, source: Codec) -> Tensor:
        """Logits on the grid of `source`, which sees the same face -> logits on this grid."""
        return resample(logits, source.grid, self.grid, self.dims)


class HeatmapCodec(Codec):
    """Two-dimensional heatmaps: logits (B, P, H, W); their spatial softmax is the distribution of the point."""

    dims = (-2, -1)

    def __init__(self, size: int, head: HeadConfig):
        super().__init__()
        self.grid = AxisGrid(size, head.stride, head.margin, head.sigma)
        self.decoding = head.decode

    def encode(self, points: Tensor) -> Tensor:
        """(B, P, 2) pixels -> (B, P, H, W) probabilities, each map summing to 1."""
        target = self.grid.gaussian(points) if self.decoding == "dark" else self.grid.centred(points)
        return target[..., 1, :].unsqueeze(-1) * target[..., 0, :].unsqueeze(-2)

    def decode(self, logits: Tensor) -> Decoded:
        """(B, P, H, W) logits -> sub-pixel points and confidences, in float32. Trains through the soft-argmax."""
        probability = torch.softmax(logits.float().flatten(2), dim=-1).view(logits.shape)
        px, py = probability.sum(-2), probability.sum(-1)
        if self.training or self.decoding == "softargmax":
            x, y = (px * self.grid.centres).sum(-1), (py * self.grid.centres).sum(-1)
        else:
            x, y = dark_2d(probability, self.grid)
        confidence = torch.einsum("bphw,bph,bpw->bp", probability, self.grid.near(y), self.grid.near(x))
        return Decoded(torch.stack((x, y), dim=-1), confidence)


class SimCCCodec(Codec):
    """One-dimensional heatmaps (SimCC, https://arxiv.org/abs/2107.03332): logits (B, P, 2, bins), x first."""

    dims = (-1,)

    def __init__(self, size: int, head: HeadConfig):
        super().__init__()
        self.grid = AxisGrid(size, 1.0 / head.bins, head.margin, head.sigma)
        self.decoding = head.decode

    def encode(self, points: Tensor) -> Tensor:
        """(B, P, 2) pixels -> (B, P, 2, bins) probabilities, each row summing to 1."""
        return self.grid.gaussian(points) if self.decoding == "dark" else self.grid.centred(points)

    def decode(self, logits: Tensor) -> Decoded:
        """(B, P, 2, bins) logits -> sub-pixel points and confidences, in float32. Trains through the soft-argmax."""
        probability = torch.softmax(logits.float(), dim=-1)
        if self.training or self.decoding == "softargmax":
            points = (probability * self.grid.centres).sum(-1)
        else:
            points = dark_1d(probability, self.grid)
        mass = (probability * self.grid.near(points)).sum(-1)
        return Decoded(points, mass.prod(-1))


# ------------------------------------------------------------------- distribution-aware decoding (DARK)
# Zhang et al., "Distribution-Aware Coordinate Representation for Human Pose Estimation", CVPR 2020,
# https://arxiv.org/abs/1910.06278: smooth, take the highest cell, and step to the top of the parabola that the
# logarithm of a Gaussian is.


def _smooth(values: Tensor, sigma_cells: float) -> Tensor:
    """Blur the last axis by a Gaussian of half the target's width; (N, cells) -> (N, cells)."""
    sigma = max(0.5 * sigma_cells, 1e-3)
    radius = max(1, math.ceil(2 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=values.dtype, device=values.device)
    kernel = torch.softmax(-0.5 * (offsets / sigma).square(), dim=0)
    return nn.functional.conv1d(values.unsqueeze(1), kernel.view(1, 1, -1), padding=radius).squeeze(1)


def _parabola_top(left: Tensor, middle: Tensor, right: Tensor) -> Tensor:
    """Offset in cells, within +-1, of the top of the parabola through three neighbouring log-values."""
    curvature = left - 2 * middle + right
    offset = 0.5 * (left - right) / torch.where(curvature.abs() < 1e-6, -torch.ones_like(curvature), curvature)
    return offset.clamp(-1.0, 1.0)


def dark_1d(probability: Tensor, grid: AxisGrid) -> Tensor:
    """(..., cells) probabilities -> (...) pixels."""
    flat = probability.reshape(-1, probability.shape[-1])
    return _peak(_smooth(flat, grid.sigma / grid.step), grid).view(probability.shape[:-1])


def dark_2d(probability: Tensor, grid: AxisGrid) -> tuple[Tensor, Tensor]:
    """(B, P, H, W) probabilities -> x, y (B, P) pixels.

    Targets are isotropic, so the mixed second derivative is zero and the two axes refine on their own: along the row
    and the column of the highest cell.
    """
    batch, points, height, width = probability.shape
    flat = probability.reshape(batch * points, height, width)
    rows = _smooth(flat.reshape(-1, width), grid.sigma / grid.step).view(-1, height, width)
    smooth = _smooth(rows.transpose(1, 2).reshape(-1, height), grid.sigma / grid.step).view(-1, width, height)
    smooth = smooth.transpose(1, 2)
    top = smooth.flatten(1).argmax(-1)
    row = top.div(width, rounding_mode="floor").view(-1, 1, 1)
    column = (top % width).view(-1, 1, 1)
    along_x = smooth.gather(1, row.expand(-1, 1, width)).squeeze(1)
    along_y = smooth.gather(2, column.expand(-1, height, 1)).squeeze(2)
    x, y = _peak(along_x, grid), _peak(along_y, grid)
    return x.view(batch, points), y.view(batch, points)


def _peak(values: Tensor, grid: AxisGrid) -> Tensor:
    """(N, cells) smoothed values -> (N,) pixels."""
    log = values.clamp_min(1e-10).log()
    # the two outermost cells have no neighbour beyond; grids are wide enough that no representable point peaks there
    top = log[:, 1:-1].argmax(-1, keepdim=True) + 1
    left, middle, right = (log.gather(1, top + shift) for shift in (-1, 0, 1))
    cells = top.to(log.dtype) + _parabola_top(left, middle, right)
    return ((cells - grid.pad + 0.5) * grid.step).squeeze(1)


def resample(logits: Tensor, source: AxisGrid, target: AxisGrid, dims: tuple[int, ...]) -> Tensor:
    """Bring logits from one grid to another that sees the same face, so that they decode to the same point.

    Used when teacher and student differ in input size, stride or margin. Probabilities are moved, not logits: each
    cell's is spread over its area and shared out between the target's neighbouring cells by linear weights, which
    keeps the mean. What lies beyond the target's grid goes to its edge; cells that the source does not see are as
    unlikely as its least likely one.
    """
    if source.cells == target.cells and source.step / source.size == target.step / target.size:
        return logits
    probability = torch.softmax(logits.flatten(-len(dims)), dim=-1).view(logits.shape)
    least = probability.amin(dims, keepdim=True).clamp_min(1e-12)
    shares = _shares(source, target).to(logits.dtype)
    for dim in dims:
        probability = (probability.transpose(dim, -1) @ shares).transpose(dim, -1)
    return torch.maximum(probability, least).log()


def _shares(source: AxisGrid, target: AxisGrid, parts: int = 16) -> Tensor:
    """(source's cells, target's cells): which fraction of each cell's probability goes where. parts: points a cell."""
    within = (torch.arange(parts, dtype=torch.float64, device=source.centres.device) + 0.5) / parts - 0.5
    places = (source.centres.double().unsqueeze(-1) + within * source.step) / source.size  # fractions of the side
    places = (places * target.size / target.step + target.pad - 0.5).clamp(0, target.cells - 1)  # the target's cells
    cells = torch.arange(target.cells, dtype=torch.float64, device=places.device)
    return (1 - (places.unsqueeze(-1) - cells).abs()).clamp_min(0).mean(1)
