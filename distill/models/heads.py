"""Heads: backbone features -> logits or coordinates. Each is given the shapes of the features, fine to coarse."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.config import HeadConfig


def _norm(kind: str, channels: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    groups = next(g for g in (8, 4, 2, 1) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


def _pointwise(inputs: int, outputs: int, norm: str) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), _norm(norm, outputs), nn.ReLU(inplace=True))


def _separable(channels: int, norm: str, kernel: int = 3) -> nn.Sequential:
    """Depthwise then pointwise convolution, the light way to look at neighbours."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False),
        _norm(norm, channels),
        *_pointwise(channels, channels, norm),
    )


class Pyramid(nn.Module):
    """Top-down fusion (FPN, https://arxiv.org/abs/1612.03144) of all levels that are not finer than `side` cells.

    Starts at the coarsest level and doubles until `side`; each level joins where its resolution is reached, so it also
    serves backbones whose levels all have one resolution (ViT). Nearest-neighbour upsampling, because the backward
    pass of the bilinear one is not deterministic on CUDA. With `lateral=False` only the coarsest level is used and
    transposed convolutions enlarge it (SimpleBaseline, https://arxiv.org/abs/1804.06208).
    """

    def __init__(self, shapes: list[tuple[int, int]], side: int, width: int, norm: str, lateral: bool = True):
        """shapes: (channels, side in cells) of each level, fine to coarse."""
        super().__init__()
        usable = [i for i, (_, cells) in enumerate(shapes) if cells <= side]
        self.levels = usable if lateral else usable[-1:]
        current = shapes[self.levels[-1]][1]
        self.sides = [current]
        while current < side:
            coarser = [shapes[i][1] for i in self.levels if current < shapes[i][1] <= 2 * current]
            current = min([2 * current, side, *coarser])
            self.sides.append(current)
        self.lateral = nn.ModuleList(_pointwise(shapes[i][0], width, norm) for i in self.levels)
        self.joins = [[k for k, i in enumerate(self.levels) if shapes[i][1] == s] for s in self.sides]
        grow = []
        for before, after in zip(self.sides, self.sides[1:], strict=False):
            if not lateral and after == 2 * before:
                up = nn.ConvTranspose2d(width, width, 4, stride=2, padding=1, groups=width, bias=False)
            else:
                up = nn.Upsample(size=(after, after), mode="nearest")
            grow.append(up)
        self.grow = nn.ModuleList(grow)
        self.mix = nn.ModuleList(_separable(width, norm) for _ in self.sides)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Features (B, C_i, h_i, h_i), fine to coarse -> (B, width, side, side)."""
        fused = None
        for step, joins in enumerate(self.joins):
            if fused is not None:
                fused = self.grow[step - 1](fused)
            for k in joins:
                level = self.lateral[k](features[self.levels[k]])
                fused = level if fused is None else fused + level
            fused = self.mix[step](fused)
        return fused


class HeatmapHead(nn.Module):
    """Features -> heatmap logits (B, P, inner + 2 pad, inner + 2 pad)."""

    def __init__(self, shapes: list[tuple[int, int]], inner: int, pad: int, points: int, head: HeadConfig):
        super().__init__()
        self.pad = pad
        self.pyramid = Pyramid(shapes, inner, head.width, head.norm, lateral=head.upsample == "pyramid")
        # looks five cells wide after padding, so that cells beyond the frame see what lies inside it
        self.mix = _separable(head.width, head.norm, kernel=5)
        self.out = nn.Conv2d(head.width, points, 1)
        nn.init.normal_(self.out.weight, std=0.01)
        nn.init.zeros_(self.out.bias)

    def forward(self, features: list[Tensor]) -> Tensor:
        fused = F.pad(self.pyramid(features), (self.pad,) * 4)
        return self.out(self.mix(fused))


class SimCCHead(nn.Module):
    """Features -> one-dimensional logits (B, P, 2, bins), x first (SimCC, https://arxiv.org/abs/2107.03332)."""

    def __init__(self, shapes: list[tuple[int, int]], size: int, cells: int, points: int, head: HeadConfig):
        super().__init__()
        side = min(size // 16, shapes[0][1])
        side = max(side, shapes[-1][1])
        self.pyramid = Pyramid(shapes, side, head.width, head.norm)
        self.per_point = nn.Conv2d(head.width, points, 1)
        hidden = 2 * head.width
        self.embed = nn.Sequential(nn.Linear(side * side, hidden), nn.LayerNorm(hidden), nn.ReLU(inplace=True))
        self.to_x = nn.Linear(hidden, cells)
        self.to_y = nn.Linear(hidden, cells)

    def forward(self, features: list[Tensor]) -> Tensor:
        embedded = self.embed(self.per_point(self.pyramid(features)).flatten(2))
        return torch.stack((self.to_x(embedded), self.to_y(embedded)), dim=2)


class RegressionHead(nn.Module):
    """Coarsest features -> coordinates and an expected error, (B, P, 3), as fractions of the input side.

    The first two columns are unbounded, so points outside the frame need nothing special. The third, after softplus, is
    the point's expected distance from the truth; it is trained beside the coordinates and does not steer them.
    """

    def __init__(self, shapes: list[tuple[int, int]], points: int, head: HeadConfig):
        super().__init__()
        channels, side = shapes[-1]
        self.points = points
        self.reduce = _pointwise(channels, head.width, head.norm)
        self.out = nn.Linear(head.width * side * side, points * 3)
        nn.init.normal_(self.out.weight, std=0.01)
        with torch.no_grad():
            self.out.bias.copy_(torch.tensor([0.5, 0.5, -3.0]).repeat(points))

    def forward(self, features: list[Tensor]) -> Tensor:
        return self.out(self.reduce(features[-1]).flatten(1)).view(-1, self.points, 3)
