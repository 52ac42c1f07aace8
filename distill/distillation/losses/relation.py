"""Losses between the relations that student and teacher see among the images of a batch. Pure functions of vectors
(N, D) and (N, E), one an image; D and E may differ, so no adapter is needed. No gradient flows to the teacher's
vectors.

The value depends on which images share a batch: several processes first gather the global batch (`gathered`). A batch
of one image has no relations: its value is 0, its gradient too. `pkd` compares maps; its statistics are the batch's.
"""

from __future__ import annotations

import torch
import torch.distributed as processes
from torch import Tensor, nn
from torch.nn import functional as F

from distill.distillation.losses.feature import FeatureMethod, Projection, pooled
from distill.distillation.methods import Count, Method, Outputs, Weight


class RelationMethod(Method):
    """The loss is given one tapped map of each side as a vector an image, over the global batch: (N, D) and (N, E)."""

    most_taps = 1

    def inputs(self, student: Outputs, teacher: Outputs, adapter: nn.Module, cells: Count = 4) -> tuple[Tensor, Tensor]:
        (mine,), (theirs,) = student.maps.values(), teacher.maps.values()
        return gathered(vectors(mine, cells)), gathered(vectors(theirs, cells))


class BatchMethod(FeatureMethod):
    """As FeatureMethod, with the maps of the global batch."""

    def inputs(self, student: Outputs, teacher: Outputs, adapter: nn.Module) -> tuple[Tensor, Tensor]:
        mine, theirs = super().inputs(student, teacher, adapter)
        return gathered(mine), gathered(theirs)


def vectors(maps: Tensor, cells: int = 4) -> Tensor:
    """(B, C, h, w) -> (B, C * n * n), with n = min(h, cells): the map averaged down to at most cells x cells, then
    flattened.

    The papers flatten whole maps (SP) or take globally averaged embeddings (PKT, RKD; `cells: 1`). Landmarks ask where
    things are, which a global average loses; four cells a side keep it and bound the size.
    """
    return pooled(maps, cells).flatten(1)


class _Gather(torch.autograd.Function):
    """all_gather whose gradient returns to the process that each part came from."""

    @staticmethod
    def forward(ctx, own: Tensor) -> Tensor:
        parts = [torch.empty_like(own) for _ in range(processes.get_world_size())]
        processes.all_gather(parts, own)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous().clone()  # autograd's own tensor is not to be written to
        processes.all_reduce(gradient)
        return gradient.chunk(processes.get_world_size())[processes.get_rank()]


@torch.compiler.disable
def gathered(own: Tensor) -> Tensor:
    """(B, ...) of this process -> (B * processes, ...) of the global batch; every process must call it with the same
    shape.

    When all processes compute the same loss of the result and DDP averages their gradients, that is the gradient which
    one process would have with the global batch.
    """
    several = processes.is_available() and processes.is_initialized() and processes.get_world_size() > 1
    return _Gather.apply(own.contiguous()) if several else own


@BatchMethod.register("pkd", "Pearson correlation of the channels (PKD)", adapter=Projection)
def pkd(student: Tensor, teacher: Tensor) -> Tensor:
    """PKD (https://arxiv.org/abs/2207.02039): half the mean squared difference of maps (N, C, h, w) whose channels have
    mean 0 and variance 1 over images and positions, which is 1 - Pearson's correlation, a mean over channels.

    Neither magnitudes nor dominant channels count. With the statistics of each image alone it would be `dist` with
    `inter: 0`.
    """

    def standardised(maps: Tensor) -> Tensor:
        channels = maps.transpose(0, 1).flatten(1)
        channels = channels - channels.mean(1, keepdim=True)
        return channels / (channels.square().mean(1, keepdim=True) + 1e-12).sqrt()

    return 0.5 * (standardised(student) - standardised(teacher.detach())).square().mean()


@RelationMethod.register("pkt", "probabilistic transfer (PKT)")
def pkt(student: Tensor, teacher: Tensor) -> Tensor:
    """Probabilistic knowledge transfer (PKT, https://arxiv.org/abs/1803.10837): KL of the neighbour distributions.

    Each image has a distribution over all images, in proportion to (cosine similarity + 1) / 2; KL(teacher || student)
    of these, a mean over images. The official code divides by N once more.
    """

    def neighbours(x: Tensor) -> Tensor:
        x = F.normalize(x, dim=1)
        similarity = (x @ x.T + 1) / 2
        return (similarity / similarity.sum(1, keepdim=True)).clamp_min(1e-7)

    s, t = neighbours(student), neighbours(teacher.detach())
    return (t * (t.log() - s.log())).sum(1).mean()


@RelationMethod.register("sp", "similarity preserving (SP)")
def sp(student: Tensor, teacher: Tensor) -> Tensor:
    """Similarity-preserving distillation (SP, https://arxiv.org/abs/1907.09682): squared distance of the rows of the
    matrix of dot products, each row of unit length; a mean over images. The paper divides by N once more.
    """

    def rows(x: Tensor) -> Tensor:
        return F.normalize(x @ x.T, dim=1)

    return (rows(student) - rows(teacher.detach())).square().sum(1).mean()


@RelationMethod.register("rkd", "relational distillation (RKD)")
def rkd(student: Tensor, teacher: Tensor, distance_weight: Weight = 25.0, angle_weight: Weight = 50.0) -> Tensor:
    """Relational distillation (RKD, https://arxiv.org/abs/1904.05068): Huber loss of pairwise distances, in units of
    their mean, and of the cosines of the angles in all triplets. The weights are those of the paper; memory grows with
    N^3.
    """
    (s_distance, s_angle), (t_distance, t_angle) = _geometry(student), _geometry(teacher.detach())
    distances = F.smooth_l1_loss(s_distance, t_distance)
    return distance_weight * distances + angle_weight * F.smooth_l1_loss(s_angle, t_angle)


def _geometry(x: Tensor) -> tuple[Tensor, Tensor]:
    """(N, D) -> distances (N, N), their mean over pairs being 1, and cosines (N, N, N) of the angle at the first image.

    Both come from dot products about the mean vector, which need N^3 numbers where the differences themselves would
    need N^2 D. A pair of equal vectors has distance 0 and cosines 0.
    """
    x = x - x.mean(0)
    dots = x @ x.T
    own = dots.diagonal()
    squared = own[:, None] + own[None, :] - 2 * dots
    # rounding leaves a distance to itself of about 1e-7 of the lengths; a root has no gradient at 0
    apart = squared > 1e-6 * own.mean() + 1e-12
    apart = apart & ~torch.eye(len(x), dtype=torch.bool, device=x.device)
    distance = torch.where(apart, squared, 1.0).sqrt()
    mean = (distance * apart).sum() / apart.sum().clamp_min(1)
    inverse = apart / distance
    cosine = (dots[None] - dots[:, :, None] - dots[:, None, :] + own[:, None, None]) * inverse[:, :, None]
    cosine = cosine * inverse[:, None, :]
    return distance * apart / mean.clamp_min(1e-12), cosine
