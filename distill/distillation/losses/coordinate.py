"""Losses on coordinates, against labels and against a teacher. Pure functions, mean-reduced.

All take pred and target (B, P, 2) as fractions of the input side and a weight (B, P) that is 0 where a point is not to
be learned from. Those against labels divide by B * P, not by the sum of the weights, so that the mean over processes
is the global mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.distillation.methods import Method, Outputs


def l1(pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean absolute difference over both axes."""
    return ((pred - target).abs().mean(-1) * weight).mean()


def smooth_l1(pred: Tensor, target: Tensor, weight: Tensor, beta: float = 0.01) -> Tensor:
    """Quadratic below `beta` (a fraction of the side), linear above (Huber; https://arxiv.org/abs/1504.08083)."""
    return (F.smooth_l1_loss(pred, target, beta=beta, reduction="none").mean(-1) * weight).mean()


def wing(pred: Tensor, target: Tensor, weight: Tensor, width: float = 0.04, epsilon: float = 0.008) -> Tensor:
    """Wing loss (https://arxiv.org/abs/1711.06753): logarithmic below `width`, linear above; fractions of the side.

    Its own paper works in pixels of a 256 px face with width 10 and epsilon 2; the defaults are those, as fractions.
    """
    distance = (pred - target).abs()
    offset = width - width * math.log(1 + width / epsilon)
    value = torch.where(distance < width, width * torch.log1p(distance / epsilon), distance - offset)
    return (value.mean(-1) * weight).mean()


def smooth_wing(
    pred: Tensor, target: Tensor, weight: Tensor, width: float = 0.04, epsilon: float = 0.008, inner: float = 4e-5
) -> Tensor:
    """Smooth-Wing (LOTR, https://arxiv.org/abs/2109.10057): Wing whose slope jumps neither at 0 nor at `width`.

    Quadratic below `inner`, logarithmic up to `width`, then linear with slope 1; fractions of the side, the paper's
    0.01, 10 and 2 pixels of 256.
    """
    distance = (pred - target).abs()
    factor = width + epsilon
    quadratic = distance.square() * factor / (2 * inner * (epsilon + inner))
    # the three branches meet: what is added to the second and third makes up for what begins below them
    start = inner * factor / (2 * (epsilon + inner)) - factor * math.log1p(inner / epsilon)
    logarithmic = factor * torch.log1p(distance / epsilon) + start
    linear = distance - width + factor * math.log1p(width / epsilon) + start
    value = torch.where(distance < inner, quadratic, torch.where(distance < width, logarithmic, linear))
    return (value.mean(-1) * weight).mean()


def nme(pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """The challenge's metric as a loss: mean Euclidean distance, as a fraction of the side."""
    distance = ((pred - target).square().sum(-1) + 1e-12).sqrt()
    return (distance * weight).mean()


def expected_error(error: Tensor, pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Trains a predicted error (B, P) towards the distance actually made, in logarithms; coordinates get no
    gradient."""
    distance = (pred - target).detach().square().sum(-1).sqrt()
    return ((torch.log(error + 1e-4) - torch.log(distance + 1e-4)).abs() * weight).mean()


LOSSES: dict[str, Callable[..., Tensor]] = {
    "l1": l1,
    "smooth_l1": smooth_l1,
    "wing": wing,
    "smooth_wing": smooth_wing,
    "nme": nme,
}


# ---------------------------------------------------------------------------- against a teacher


class PointMethod(Method):
    """The loss is given both heads' points (B, P, 2) as fractions of the side, and the teacher's confidence (B, P),
    which is 0 where the student's head cannot place the teacher's point."""

    def inputs(self, student: Outputs, teacher: Outputs, adapter: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
        target = teacher.prediction.points.float() / teacher.model.size
        weight = teacher.prediction.confidence.float() * student.model.representable(target)
        return student.prediction.points / student.model.size, target, weight


@PointMethod.register("coordinate", "distance to the teacher's points")
def teacher_distance(pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean distance to the teacher's points, weighted by its confidence.

    target: the teacher's points; weight: its confidence (B, P) in 0..1. Weights are divided by their sum per image:
    they choose among the points of a face, not among faces, so an uncertain teacher has the same strength. No gradient
    flows to either.
    """
    target, weight = target.detach(), weight.detach()
    distance = ((pred - target).square().sum(-1) + 1e-12).sqrt()
    return ((distance * weight).sum(-1) / weight.sum(-1).clamp_min(1e-6)).mean()
