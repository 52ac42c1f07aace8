"""Losses on heatmaps, against labels and against a teacher. Pure functions, mean-reduced over B * P.

Logits are (B, P, H, W), or (B, P, 2, bins) for one-dimensional heads: `dims` are the axes of one distribution,
(-2, -1) or (-1,). A map's distribution is the softmax of its logits over those axes. No gradient flows to the teacher.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from distill.distillation.methods import Method, Outputs, Positive
from distill.errors import UserError
from distill.models.landmarker import Landmarker


def _flat(values: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Put the axes of one distribution into one last axis."""
    return values.flatten(-2) if len(dims) == 2 else values


def _per_point(values: Tensor) -> Tensor:
    """(B, P) or (B, P, 2) -> (B, P): the two axes of a one-dimensional head count as one point."""
    return values.sum(-1) if values.dim() == 3 else values


# ---------------------------------------------------------------------------- against labels


def cross_entropy(logits: Tensor, target: Tensor, weight: Tensor, dims: tuple[int, ...]) -> Tensor:
    """-sum target log softmax(logits), less the target's own entropy, so that a perfect student reaches 0 (a KL).

    target: probabilities shaped like logits. weight: (B, P).
    """
    target = _flat(target, dims)
    log_p = torch.log_softmax(_flat(logits, dims), dim=-1)
    divergence = (torch.xlogy(target, target) - target * log_p).sum(-1)
    return (_per_point(divergence) * weight).mean()


def mse(logits: Tensor, target: Tensor, weight: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Squared difference of distributions, relative to the target's own power (0 at equality, about 1 for a flat
    map)."""
    target = _flat(target, dims)
    p = torch.softmax(_flat(logits, dims), dim=-1)
    value = (p - target).square().sum(-1) / target.square().sum(-1)
    return (_per_point(value) * weight).mean()


LABEL_LOSSES: dict[str, Callable[..., Tensor]] = {"cross_entropy": cross_entropy, "mse": mse}


# ---------------------------------------------------------------------------- against a teacher


class HeatmapMethod(Method):
    """The loss is given both heads' logits on the student's grid, and the axes of one distribution."""

    def inputs(self, student: Outputs, teacher: Outputs, adapter: nn.Module) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        codec = student.model.codec
        target = codec.resampled(teacher.prediction.logits.float(), teacher.model.codec)
        return student.prediction.logits.float(), target, codec.dims

    def check(self, field: str, student: Landmarker, teacher: Landmarker) -> None:
        kinds = [model.config.head.kind for model in (student, teacher)]
        if student.codec is None or kinds[0] != kinds[1]:
            raise UserError(
                f"{field} compares heatmaps, but the student's head is {kinds[0]} and the teacher's {kinds[1]}; "
                f"expected both to be heatmap, or both simcc."
            )


@HeatmapMethod.register("heatmap_mse", "squared difference of the heatmaps")
def heatmap_mse(student: Tensor, teacher: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Squared difference of the two distributions, relative to the teacher's own power; on one-dimensional heads
    summed over the two axes, each relative to its own."""
    ones = torch.ones(student.shape[:2], dtype=student.dtype, device=student.device)
    return mse(student, torch.softmax(_flat(teacher.detach(), dims), dim=-1).reshape(teacher.shape), ones, dims)


@HeatmapMethod.register("heatmap_kl", "KL divergence of the heatmaps' spatial softmax")
def heatmap_kl(student: Tensor, teacher: Tensor, dims: tuple[int, ...], temperature: Positive = 1.0) -> Tensor:
    """T^2 KL(teacher || student) of the softmax of logits / T (Hinton et al., https://arxiv.org/abs/1503.02531).

    On one-dimensional heads (SimCC, https://arxiv.org/abs/2107.03332) it is the logit loss of DWPose
    (https://arxiv.org/abs/2307.15880): summed over the two axes, every point counts, its beta being 1 / T; only T^2 is
    ours.
    """
    log_s = torch.log_softmax(_flat(student, dims) / temperature, dim=-1)
    log_t = torch.log_softmax(_flat(teacher.detach(), dims) / temperature, dim=-1)
    divergence = (log_t.exp() * (log_t - log_s)).sum(-1)
    return temperature**2 * _per_point(divergence).mean()


@HeatmapMethod.register("heatmap_cwd", "channel-wise distillation (CWD) of the heatmaps")
def heatmap_cwd(student: Tensor, teacher: Tensor, dims: tuple[int, ...], temperature: Positive = 4.0) -> Tensor:
    """Channel-wise distillation (CWD, https://arxiv.org/abs/2011.13256) of standardised maps.

    Each map is divided by temperature / 4 times the teacher map's own standard deviation before the softmax, so that
    one temperature suits sharp and flat maps (4, the default, leaves a unit deviation; no T^2 factor, the scale being
    free). What is transferred is the shape of the whole map, tails included, where `heatmap_kl` sees mostly the peak.
    """
    s, t = _flat(student, dims), _flat(teacher.detach(), dims)
    scale = t.std(dim=-1, keepdim=True).clamp_min(1e-4) * temperature / 4.0
    log_s, log_t = torch.log_softmax(s / scale, dim=-1), torch.log_softmax(t / scale, dim=-1)
    return _per_point((log_t.exp() * (log_t - log_s)).sum(-1)).mean()
