"""Heads: backbone features -> logits or coordinates -> points. A head is chosen by `model.head.kind` from HEADS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.config import HeadConfig
from distill.errors import UserError
from distill.models.codec import Codec, HeatmapCodec, SimCCCodec

CONFIDENCE_SCALE = 0.03  # regression: an expected error of 3 % of the side means a confidence of 1/e


class Level(NamedTuple):
    """One level of a backbone's features."""

    channels: int
    side: int  # cells
    stride: int  # input pixels a cell


class Prediction(NamedTuple):
    """What a head gives for a batch."""

    points: Tensor  # (B, P, 2) pixels of the model's input
    confidence: Tensor  # (B, P) in 0..1
    logits: Tensor | None = None  # heatmap (B, P, H, W), simcc (B, P, 2, bins), regression: None
    error: Tensor | None = None  # regression: (B, P) expected error, fraction of the side; else None


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

    def __init__(self, levels: Sequence[Level], side: int, width: int, norm: str, lateral: bool = True):
        """levels: fine to coarse. side: cells of the fused map."""
        super().__init__()
        usable = [i for i, level in enumerate(levels) if level.side <= side]
        self.levels = usable if lateral else usable[-1:]
        current = levels[self.levels[-1]].side
        self.sides = [current]
        while current < side:
            coarser = [levels[i].side for i in self.levels if current < levels[i].side <= 2 * current]
            current = min([2 * current, side, *coarser])
            self.sides.append(current)
        self.lateral = nn.ModuleList(_pointwise(levels[i].channels, width, norm) for i in self.levels)
        self.joins = [[k for k, i in enumerate(self.levels) if levels[i].side == s] for s in self.sides]
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


class Head(nn.Module):
    """Turns a backbone's features, fine to coarse, into raw output, and raw output into a Prediction."""

    def __init__(self, levels: Sequence[Level], size: int, points: int, config: HeadConfig, codec: Codec | None):
        """size: side of the model's input, pixels. codec: what `make_codec` gave. Raises UserError for what cannot
        be."""
        super().__init__()

    @staticmethod
    def make_codec(size: int, config: HeadConfig) -> Codec | None:
        """What gives the raw output its meaning as distributions; None: it is none. It belongs to the model, because a
        frozen head is in eval mode, and its codec must still decode in the way that trains."""
        return None

    def forward(self, features: list[Tensor]) -> Tensor:
        """(B, C_i, h_i, h_i) for each level -> raw output."""
        raise NotImplementedError

    @staticmethod
    def predict(out: Tensor, size: int, codec: Codec | None) -> Prediction:
        """Raw output, float32 -> points in pixels of the model's input, whose side is `size`."""
        decoded = codec.decode(out)
        return Prediction(decoded.points, decoded.confidence, logits=out)


class HeatmapHead(Head):
    """Features -> heatmap logits (B, P, inner + 2 pad, inner + 2 pad)."""

    @staticmethod
    def make_codec(size: int, config: HeadConfig) -> HeatmapCodec:
        return HeatmapCodec(size, config)

    def __init__(self, levels: Sequence[Level], size: int, points: int, config: HeadConfig, codec: HeatmapCodec):
        super().__init__(levels, size, points, config, codec)
        inner, self.pad = codec.grid.inner, codec.grid.pad
        if levels[-1].side > inner:
            raise UserError(
                f"model.head.stride {config.stride} gives {inner} cells a side, but the backbone's coarsest features "
                f"have {levels[-1].side}; expected a smaller stride."
            )
        self.pyramid = Pyramid(levels, inner, config.width, config.norm, lateral=config.upsample == "pyramid")
        # looks five cells wide after padding, so that cells beyond the frame see what lies inside it
        self.mix = _separable(config.width, config.norm, kernel=5)
        self.out = nn.Conv2d(config.width, points, 1)
        nn.init.normal_(self.out.weight, std=0.01)
        nn.init.zeros_(self.out.bias)

    def forward(self, features: list[Tensor]) -> Tensor:
        fused = F.pad(self.pyramid(features), (self.pad,) * 4)
        return self.out(self.mix(fused))


class SimCCHead(Head):
    """Features -> one-dimensional logits (B, P, 2, bins), x first (SimCC, https://arxiv.org/abs/2107.03332)."""

    @staticmethod
    def make_codec(size: int, config: HeadConfig) -> SimCCCodec:
        return SimCCCodec(size, config)

    def __init__(self, levels: Sequence[Level], size: int, points: int, config: HeadConfig, codec: SimCCCodec):
        super().__init__(levels, size, points, config, codec)
        side = max(min(size // 16, levels[0].side), levels[-1].side)
        self.pyramid = Pyramid(levels, side, config.width, config.norm)
        self.per_point = nn.Conv2d(config.width, points, 1)
        hidden = 2 * config.width
        self.embed = nn.Sequential(nn.Linear(side * side, hidden), nn.LayerNorm(hidden), nn.ReLU(inplace=True))
        self.to_x = nn.Linear(hidden, codec.grid.cells)
        self.to_y = nn.Linear(hidden, codec.grid.cells)

    def forward(self, features: list[Tensor]) -> Tensor:
        embedded = self.embed(self.per_point(self.pyramid(features)).flatten(2))
        return torch.stack((self.to_x(embedded), self.to_y(embedded)), dim=2)


class RegressionHead(Head):
    """Coarsest features -> coordinates and an expected error, (B, P, 3), as fractions of the input side.

    The first two columns are unbounded, so points outside the frame need nothing special. The third, after softplus, is
    the point's expected distance from the truth; it is trained beside the coordinates and does not steer them.
    """

    def __init__(self, levels: Sequence[Level], size: int, points: int, config: HeadConfig, codec: None = None):
        super().__init__(levels, size, points, config, codec)
        channels, side, _ = levels[-1]
        self.points = points
        self.reduce = _pointwise(channels, config.width, config.norm)
        self.out = nn.Linear(config.width * side * side, points * 3)
        nn.init.normal_(self.out.weight, std=0.01)
        with torch.no_grad():
            self.out.bias.copy_(torch.tensor([0.5, 0.5, -3.0]).repeat(points))

    def forward(self, features: list[Tensor]) -> Tensor:
        return self.out(self.reduce(features[-1]).flatten(1)).view(-1, self.points, 3)

    @staticmethod
    def predict(out: Tensor, size: int, codec: Codec | None = None) -> Prediction:
        error = F.softplus(out[..., 2])
        return Prediction(out[..., :2] * size, torch.exp(-error / CONFIDENCE_SCALE), error=error)


HEADS: dict[str, type[Head]] = {"heatmap": HeatmapHead, "simcc": SimCCHead, "regression": RegressionHead}
