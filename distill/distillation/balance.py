"""Automatic balance of the teacher's terms: `distill.balance: grad_norm`.

Raw values of different methods differ by orders of magnitude, and so do the pulls they exert; finding a weight for
each is a search. Balanced, a term's `weight` means: so many times the pull of the labels. Every `balance_every` steps
the gradient of the labels' terms (their weighted sum) and of each distillation term alone is measured in the student's
backbone, and the term's scale moves to the ratio of the two lengths, so that

    total = labels' terms + sum over terms of weight(t) * scale * raw    with    scale = |grad labels| / |grad raw|

After GradNorm (https://arxiv.org/abs/1711.02257), which learns weights by gradient descent so that tasks train at like
rates, measured in the last shared layer. Here nothing is learned: the ratio is computed, and schedules keep their
meaning. A term that is almost fulfilled grows louder instead of fading; give it a falling schedule where that is not
wanted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as processes
from torch import Tensor, nn

from distill.config import Config
from distill.errors import UserError

KEEP = 0.7  # of a scale's logarithm that a new measurement leaves in place
RANGE = (1e-4, 1e4)  # beyond it a term is fulfilled or broken, and a larger factor helps neither


class GradientBalance(nn.Module):
    """The scales, and when they are measured. Both are saved with the objective, so that a resumed run continues
    exactly."""

    def __init__(self, terms: Iterable[str], every: int):
        """terms: names of the distillation terms. every: passes (forward and backward) from one measurement to the
        next."""
        super().__init__()
        self.every = every
        self.passes = 0
        self.scales = dict.fromkeys(terms, 1.0)
        self.measured: list[str] = []  # terms that have been measured at least once

    @torch.compiler.disable
    def forward(self, student: nn.Module, supervised: Tensor, raw: dict[str, Tensor]) -> dict[str, float]:
        """supervised: the labels' weighted sum; raw: each term's value, both with their graphs, which are kept.

        Gives each term's scale. Raises UserError where nothing of the student trains.
        """
        if self.training and torch.is_grad_enabled():
            if self.passes % self.every == 0:
                self._measure(_where(student), supervised, raw)
            self.passes += 1
        return dict(self.scales)

    def _measure(self, where: list[nn.Parameter], supervised: Tensor, raw: dict[str, Tensor]) -> None:
        wanted = _length(supervised, where)
        for name, value in raw.items():
            found = _length(value, where)
            if not (0 < found < math.inf and 0 < wanted < math.inf):
                continue  # no gradient here, or a broken value, which the training step refuses
            scale = min(max(wanted / found, RANGE[0]), RANGE[1])
            if name in self.measured:
                scale = self.scales[name] ** KEEP * scale ** (1 - KEEP)
            else:
                self.measured.append(name)
            self.scales[name] = scale

    def get_extra_state(self) -> dict[str, Any]:
        # plain numbers and no buffers: the loop logs them as numbers, and reading a buffer waits for the device
        return {"passes": self.passes, "scales": dict(self.scales), "measured": list(self.measured)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.passes, self.scales, self.measured = state["passes"], dict(state["scales"]), list(state["measured"])


def make(config: Config) -> GradientBalance | None:
    """The balance of a config; None without one, or without terms to balance."""
    if config.distill.balance == "none" or not config.distill.terms:
        return None
    return GradientBalance(config.distill.terms, config.distill.balance_every * config.train.accumulate)


def _where(student: nn.Module) -> list[nn.Parameter]:
    """The parameters whose gradients are compared: the backbone's that train, or the head's where all of it is
    frozen."""
    for part in (student.backbone, student.head):
        if found := [p for p in part.parameters() if p.requires_grad]:
            return found
    raise UserError("distill.balance is 'grad_norm', but train.freeze leaves nothing of the student to train.")


def _length(value: Tensor, where: list[nn.Parameter]) -> float:
    """Length of the gradient of `value`; over several processes that of the mean, which is what an optimiser step
    sees."""
    if not value.requires_grad:
        return 0.0
    parts = torch.autograd.grad(value, where, retain_graph=True, allow_unused=True)
    pairs = zip(where, parts, strict=True)
    flat = torch.cat([torch.zeros_like(p).flatten() if part is None else part.flatten() for p, part in pairs])
    if processes.is_available() and processes.is_initialized():
        processes.all_reduce(flat)
        flat /= processes.get_world_size()
    return flat.double().norm().item()
