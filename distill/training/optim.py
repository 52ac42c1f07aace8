"""Parameters, optimiser, learning rate as a function of the step, and the weight average that is evaluated."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from distill.config import TrainConfig


def make_optimizer(module: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Weight decay on matrices and kernels only: not on biases, norms and other vectors."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=config.lr)


def lr_at(step: int, steps: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """Linear warm-up, then a cosine to min_lr. `step` counts from 0; a pure function, so nothing needs to be saved."""
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return config.min_lr + 0.5 * (config.lr - config.min_lr) * (1 + math.cos(math.pi * min(1.0, done)))


class WeightAverage:
    """Exponential moving average of a model's state, batch statistics included (decay 0: always the model itself).

    The decay warms up as (1 + t) / (10 + t), so that short runs do not drag their first weights along.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False) if decay else model

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        if not self.decay:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        own = self.model.state_dict()
        floats, targets = [], []
        for name, value in model.state_dict().items():
            if value.dtype.is_floating_point:
                floats.append(own[name])
                targets.append(value)
            else:
                own[name].copy_(value)
        torch._foreach_lerp_(floats, targets, 1 - decay)
