"""Losses between two feature maps (B, C, h, w) of equal h and w. Pure functions, a mean over images; no gradient flows to
the teacher's map.

All but `attention` compare channel by channel, so the student's map must have come to the teacher's number of channels. They
divide by the teacher's mean square where its scale would matter: a backbone's features may be of any size, and a weight should
mean the same at every tap. That square is taken per image, so that the mean over processes is the global mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


def _power(teacher: Tensor) -> Tensor:
    """(B, C, h, w) -> (B,): mean square of each image's map, never 0."""
    return teacher.square().mean((1, 2, 3)).clamp_min(1e-8)


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


def fitnet(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference (FitNets, https://arxiv.org/abs/1412.6550), relative to the teacher's mean square.

    About 1 for a student that says nothing.
    """
    teacher = teacher.detach()
    return ((student - teacher).square().mean((1, 2, 3)) / _power(teacher)).mean()


def mgd(student: Tensor, teacher: Tensor) -> Tensor:
    """Masked generative distillation (MGD, https://arxiv.org/abs/2205.01529): `fitnet` of a map generated from what a random
    mask left of the student's. Masking and generation are the adapter's (distill.distillation.methods.Generation)."""
    return fitnet(student, teacher)


class Gaussian(NamedTuple):
    """What the student's map says about the teacher's."""

    mean: Tensor  # (B, C, h, w)
    variance: Tensor  # (C,), relative to the teacher's mean square


def vid(student: Gaussian, teacher: Tensor) -> Tensor:
    """Variational information distillation (VID, https://arxiv.org/abs/1904.05835): negative log-likelihood of the teacher's map
    under a Gaussian with a mean made from the student's map and a learned variance per channel, less ln(2 pi) / 2.

    Variances are relative to the teacher's mean square. 1/2 for a student that says nothing at variance 1; it goes below 0 as
    the student becomes sure.
    """
    teacher = teacher.detach()
    variance = student.variance.reshape(1, -1, 1, 1)
    distance = (student.mean - teacher).square() / _power(teacher).reshape(-1, 1, 1, 1)
    return 0.5 * (variance.log() + distance / variance).mean()


def hcl(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Hierarchical context loss of knowledge review (ReviewKD, https://arxiv.org/abs/2104.09044), a mean over levels.

    Lists of maps, one pair a level. Squared difference of the maps and, with weights 1/2, 1/4 and 1/8, of their averages over
    4 x 4, 2 x 2 and 1 cells (those that are coarser than the map), over the sum of the weights and, as in `fitnet`, the
    teacher's mean square.
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


def attention(student: Tensor, teacher: Tensor, power: float = 2.0) -> Tensor:
    """Attention transfer (AT, https://arxiv.org/abs/1612.03928): squared distance of unit-length maps of mean |F|^power."""

    def unit_map(features: Tensor) -> Tensor:
        return F.normalize(features.abs().pow(power).mean(1).flatten(1), dim=1)

    return (unit_map(student) - unit_map(teacher.detach())).square().sum(1).mean()


def channel(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """Channel-wise distillation (CWD, https://arxiv.org/abs/2011.13256): T^2 KL of each channel's spatial softmax."""
    log_s = torch.log_softmax(student.flatten(2) / temperature, dim=-1)
    log_t = torch.log_softmax(teacher.detach().flatten(2) / temperature, dim=-1)
    return temperature**2 * (log_t.exp() * (log_t - log_s)).sum(-1).mean()


def _uncorrelated(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """1 - Pearson's correlation along `dim`, which goes; 1 where one of the two is constant."""
    a, b = a - a.mean(dim, keepdim=True), b - b.mean(dim, keepdim=True)
    return 1 - F.cosine_similarity(a, b, dim=dim, eps=1e-6)


def dist(student: Tensor, teacher: Tensor, inter: float = 1.0, intra: float = 1.0) -> Tensor:
    """DIST (https://arxiv.org/abs/2205.10536): correlations instead of differences, so scale and offset are the student's own.

    Its paper correlates class probabilities: within an image over classes (inter-class) and, per class, over images
    (intra-class). Here positions take the place of images and channels that of classes, without softmax or temperature:
    `inter` weighs 1 - correlation over channels, mean over positions; `intra` 1 - correlation over positions, mean over channels.
    inter + intra for a student that says nothing. A map of one cell has no correlation over positions.
    """
    s, t = student.flatten(2), teacher.detach().flatten(2)
    return inter * _uncorrelated(s, t, 1).mean() + intra * _uncorrelated(s, t, 2).mean()
