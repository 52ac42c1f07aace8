"""Losses between two feature maps (B, C, h, w) of equal h and w. Pure functions, a mean over images; no gradient flows
to the teacher's map.

All but `at` compare channel by channel, so the student's map must have come to the teacher's number of channels. They
divide by the teacher's mean square where its scale would matter: a backbone's features may be of any size, and a
weight should mean the same at every tap. That square is taken per image, so that the mean over processes is the global
mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.distillation.methods import Count, Method, Outputs, Positive, Share, Weight, own


class FeatureMethod(Method):
    """The loss is given one map of each side, (B, C, h, w) of equal C, h and w: the student's from the adapter."""

    most_taps = 1

    def inputs(self, student: Outputs, teacher: Outputs, adapter: nn.Module) -> tuple[Any, Any]:
        (mine,), (theirs,) = student.maps.values(), teacher.maps.values()
        return adapter(mine), as_large(theirs, mine)


class MultiLevelMethod(Method):
    """The loss is given lists of maps, fine to coarse, each pair of equal C, h and w: the student's from the
    adapter."""

    most_taps = 99

    def inputs(self, student: Outputs, teacher: Outputs, adapter: nn.Module) -> tuple[Any, Any]:
        mine, theirs = list(student.maps.values()), teacher.maps.values()
        return adapter(mine), [as_large(t, m) for t, m in zip(theirs, mine, strict=True)]

    def build_adapter(self, student: list[int], teacher: list[int], args: dict[str, Any]) -> nn.Module | None:
        return self.adapter(student, teacher, **own(self.adapter, args)) if self.adapter else None


class Projection(nn.Conv2d):
    """(B, student, h, w) -> (B, teacher, h, w): a 1x1 convolution."""

    def __init__(self, student: int, teacher: int):
        super().__init__(student, teacher, 1)


# ---------------------------------------------------------------------------- maps of one size


def as_large(maps: Tensor, other: Tensor) -> Tensor:
    """The teacher's map at the h and w of the student's: averaged where it shrinks, else interpolated."""
    if maps.shape[-2:] == other.shape[-2:]:
        return maps
    if maps.shape[-1] > other.shape[-1]:
        return F.adaptive_avg_pool2d(maps, other.shape[-2:])
    return F.interpolate(maps, other.shape[-2:], mode="bilinear")


def _power(teacher: Tensor) -> Tensor:
    """(B, C, h, w) -> (B,): mean square of each image's map, to divide by; infinite where the map is dead, so that
    nothing is learned from it."""
    power = teacher.square().mean((1, 2, 3))
    return torch.where(power > 1e-8, power, torch.inf)


def pooled(maps: Tensor, cells: int) -> Tensor:
    """(B, C, h, w) -> (B, C, min(h, cells), min(w, cells)): what F.adaptive_avg_pool2d gives.

    As two matrix products, because the backward pass of the adaptive pooling is not deterministic on CUDA.
    """

    def averaging(side: int) -> Tensor:
        bins = min(side, cells)
        index, position = torch.arange(bins, device=maps.device), torch.arange(side, device=maps.device)
        start, end = index * side // bins, ((index + 1) * side + bins - 1) // bins
        inside = ((position >= start[:, None]) & (position < end[:, None])).to(maps.dtype)
        return inside / inside.sum(1, keepdim=True)

    return averaging(maps.shape[-2]) @ maps @ averaging(maps.shape[-1]).T


# ---------------------------------------------------------------------------- value by value


@FeatureMethod.register("fitnet", "FitNets regression", adapter=Projection)
def fitnet(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference (FitNets, https://arxiv.org/abs/1412.6550), relative to the teacher's mean square.

    About 1 for a student's map of zeros.
    """
    teacher = teacher.detach()
    return ((student - teacher).square().mean((1, 2, 3)) / _power(teacher)).mean()


class MGDAdapter(nn.Module):
    """The student's map (B, C, h, w), its cells hidden at random, -> the whole map of the teacher."""

    def __init__(self, student: int, teacher: int, mask: Share = 0.65):
        """mask: share of cells hidden, all channels of a cell together (while training; the paper's 0.65 for dense
        tasks)."""
        super().__init__()
        self.mask = mask
        self.align = Projection(student, teacher)
        self.generate = nn.Sequential(
            nn.Conv2d(teacher, teacher, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(teacher, teacher, 3, padding=1)
        )

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.align(maps)
        if self.training:
            maps = maps * (torch.rand_like(maps[:, :1]) >= self.mask)
        return self.generate(maps)


@FeatureMethod.register("mgd", "masked generation (MGD)", adapter=MGDAdapter)
def mgd(student: Tensor, teacher: Tensor) -> Tensor:
    """Masked generative distillation (MGD, https://arxiv.org/abs/2205.01529): `fitnet` of a map generated from what a
    random mask left of the student's. Masking and generation are the adapter's."""
    return fitnet(student, teacher)


VID_VARIANCE, VID_FLOOR = 5.0, 1e-5  # of the authors: where a variance begins, and what it cannot fall below


class Gaussian(NamedTuple):
    """A distribution of the teacher's map, made from the student's."""

    mean: Tensor  # (B, C, h, w)
    variance: Tensor  # (C,), relative to the teacher's mean square


class VIDAdapter(nn.Module):
    """The student's map -> a Gaussian over the teacher's, as in the authors' code (in RepDistiller,
    distiller_zoo/VID.py): a mean by three 1x1 convolutions without bias, ReLU between them, and a variance
    softplus(a) + 1e-5 per channel, which begins at 5. The variance is relative to the teacher's mean square here
    (`vid`).
    """

    def __init__(self, student: int, teacher: int):
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(student, teacher, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(teacher, teacher, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(teacher, teacher, 1, bias=False),
        )
        self.spread = nn.Parameter(torch.full((teacher,), math.log(math.expm1(VID_VARIANCE - VID_FLOOR))))

    def forward(self, maps: Tensor) -> Gaussian:
        return Gaussian(self.mean(maps), F.softplus(self.spread) + VID_FLOOR)


@FeatureMethod.register("vid", "variational information (VID)", adapter=VIDAdapter)
def vid(student: Gaussian, teacher: Tensor) -> Tensor:
    """Variational information distillation (VID, https://arxiv.org/abs/1904.05835): negative log-likelihood of the
    teacher's map under a Gaussian with a mean made from the student's map and a learned variance per channel, less
    ln(2 pi) / 2.

    Variances are relative to the teacher's mean square. 1/2 for a mean of zeros and variance 1; below 0 where the mean
    is close and the variance small.
    """
    teacher = teacher.detach()
    variance = student.variance.reshape(1, -1, 1, 1)
    distance = (student.mean - teacher).square() / _power(teacher).reshape(-1, 1, 1, 1)
    return 0.5 * (variance.log() + distance / variance).mean()


class ReviewKDAdapter(nn.Module):
    """The student's maps, fine to coarse -> the teacher's, each level reviewing what the coarser ones saw (ReviewKD's
    ABF).

    Group norms instead of the paper's batch norms: no image's value depends on the others, one may be alone in its
    batch.
    """

    def __init__(self, student: list[int], teacher: list[int], width: Count = 128):
        """student, teacher: channels of each level. width: channels in which levels are fused."""
        super().__init__()
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.GroupNorm(1, width)) for channels in student
        )
        self.attention = nn.ModuleList(nn.Conv2d(2 * width, 2, 1) for _ in pairwise(student))
        self.out = nn.ModuleList(nn.Conv2d(width, channels, 3, padding=1) for channels in teacher)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        found: list[Tensor] = []
        coarser: Tensor | None = None
        for level in reversed(range(len(maps))):
            own = self.lateral[level](maps[level])
            if coarser is not None:
                # nearest, because the backward pass of the bilinear one is not deterministic on CUDA
                above = F.interpolate(coarser, own.shape[-2:], mode="nearest")
                share = torch.sigmoid(self.attention[level](torch.cat((own, above), dim=1)))
                own = own * share[:, :1] + above * share[:, 1:]
            coarser = own
            found.insert(0, self.out[level](own))
        return found


@MultiLevelMethod.register("reviewkd", "knowledge review (ReviewKD)", adapter=ReviewKDAdapter)
def hcl(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Hierarchical context loss of knowledge review (ReviewKD, https://arxiv.org/abs/2104.09044), a mean over levels.

    Lists of maps, one pair a level. Squared difference of the maps and, with weights 1/2, 1/4 and 1/8, of their
    averages over 4 x 4, 2 x 2 and 1 cells (those that are coarser than the map), over the sum of the weights and, as
    in `fitnet`, the teacher's mean square.
    """
    total = torch.zeros((), device=student[0].device)
    for s, t in zip(student, teacher, strict=True):
        t = t.detach()
        sides = [s.shape[-1], *(cells for cells in (4, 2, 1) if cells < s.shape[-1])]
        weights = [0.5**k for k in range(len(sides))]
        distances = [(pooled(s, cells) - pooled(t, cells)).square().mean((1, 2, 3)) for cells in sides]
        level = sum(w * d for w, d in zip(weights, distances, strict=True)) / sum(weights)
        total = total + (level / _power(t)).mean()
    return total / len(student)


# ---------------------------------------------------------------------------- distributions and correlations


@FeatureMethod.register("at", "attention transfer (AT)")
def at(student: Tensor, teacher: Tensor, power: Positive = 2.0) -> Tensor:
    """Attention transfer (AT, https://arxiv.org/abs/1612.03928): squared distance of unit-length maps of mean
    |F|^power."""

    def unit_map(features: Tensor) -> Tensor:
        return F.normalize(features.abs().pow(power).mean(1).flatten(1), dim=1)

    return (unit_map(student) - unit_map(teacher.detach())).square().sum(1).mean()


@FeatureMethod.register("cwd", "channel-wise distillation (CWD)", adapter=Projection)
def cwd(student: Tensor, teacher: Tensor, temperature: Positive = 4.0) -> Tensor:
    """Channel-wise distillation (CWD, https://arxiv.org/abs/2011.13256): T^2 KL of each channel's spatial softmax."""
    log_s = torch.log_softmax(student.flatten(2) / temperature, dim=-1)
    log_t = torch.log_softmax(teacher.detach().flatten(2) / temperature, dim=-1)
    return temperature**2 * (log_t.exp() * (log_t - log_s)).sum(-1).mean()


def _uncorrelated(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """1 - Pearson's correlation along `dim`, which goes; 1 where one of the two is constant."""
    a, b = a - a.mean(dim, keepdim=True), b - b.mean(dim, keepdim=True)
    return 1 - F.cosine_similarity(a, b, dim=dim, eps=1e-6)


@FeatureMethod.register("dist", "relations by correlation (DIST)", adapter=Projection)
def dist(
    student: Tensor, teacher: Tensor, inter: Weight = 1.0, intra: Weight = 1.0, temperature: Weight = 0.0
) -> Tensor:
    """DIST (https://arxiv.org/abs/2205.10536): correlations instead of differences, so scale and offset are the
    student's own.

    Its paper correlates class probabilities: within an image over classes (inter-class) and, per class, over images
    (intra-class). For maps, channels take the place of classes and positions that of images: `inter` weighs 1 -
    correlation over channels, mean over positions; `intra` 1 - correlation over positions, mean over channels.
    inter + intra for maps that do not correlate.

    At temperature 0, the default, maps are compared as they are and `intra` within each image: features are no logits,
    a softmax of them would be as sharp as their scale makes it, and what counts for landmarks is where in its image a
    channel answers. A map of one cell then has no correlation over positions. Above 0 it is what the authors' code for
    segmentation does with logits: softmax over channels of the maps / temperature first, `intra` over the positions of
    all images of the batch (in this process) at once, and a factor temperature^2; the gradients of the two differ.
    """
    s, t = student.flatten(2), teacher.detach().flatten(2)
    if temperature > 0:
        s, t = (x.transpose(0, 1).flatten(1).div(temperature).softmax(0).unsqueeze(0) for x in (s, t))
        inter, intra = temperature**2 * inter, temperature**2 * intra
    return inter * _uncorrelated(s, t, 1).mean() + intra * _uncorrelated(s, t, 2).mean()
