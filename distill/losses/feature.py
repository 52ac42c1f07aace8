"""Feature distillation losses. Pure functions of two maps (B, C, h, w) of equal h and w; mean-reduced over images. No
gradient flows to the teacher's map.

`NEEDS_ADAPTER` names those that compare channel by channel: for them the distiller puts a 1x1 convolution, trained with the
student and never part of it, behind the student's tap.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def fitnet(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference (FitNets, https://arxiv.org/abs/1412.6550) of maps scaled by the teacher's RMS.

    Dividing by the mean square of the teacher's map makes the value comparable between taps: about 1 for a student that
    says nothing. It is taken per image, so that the mean over processes is the global mean.
    """
    teacher = teacher.detach()
    power = teacher.square().mean((1, 2, 3)).clamp_min(1e-8)
    return ((student - teacher).square().mean((1, 2, 3)) / power).mean()


def attention(student: Tensor, teacher: Tensor, power: float = 2.0) -> Tensor:
    """Attention transfer (https://arxiv.org/abs/1612.03928): squared distance of unit-length maps of mean |F|^power."""

    def unit_map(features: Tensor) -> Tensor:
        return F.normalize(features.abs().pow(power).mean(1).flatten(1), dim=1)

    return (unit_map(student) - unit_map(teacher.detach())).square().sum(1).mean()


def channel(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """Channel-wise distillation (CWD, https://arxiv.org/abs/2011.13256): T^2 KL of each channel's spatial softmax."""
    log_s = torch.log_softmax(student.flatten(2) / temperature, dim=-1)
    log_t = torch.log_softmax(teacher.detach().flatten(2) / temperature, dim=-1)
    return temperature**2 * (log_t.exp() * (log_t - log_s)).sum(-1).mean()


LOSSES: dict[str, Callable[..., Tensor]] = {"fitnet": fitnet, "attention": attention, "channel": channel}
NEEDS_ADAPTER = frozenset({"fitnet", "channel"})
