"""What trains and how: frozen parts, parameter groups and optimiser, learning rate, the weight average that is evaluated."""

from __future__ import annotations

import copy
import difflib
import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from distill.config import TrainConfig
from distill.errors import UserError
from distill.models.landmarker import Landmarker

# ---------------------------------------------------------------------------------------------------- frozen parts


def freeze(model: Landmarker, paths: Iterable[str]) -> None:
    """Take the modules at these paths out of training: without gradients, their parameters reach no optimiser.

    Raises UserError for a path that leads to no module, and where nothing is left to train.
    """
    modules = {path: module for path, module in model.named_modules() if path}
    for path in paths:
        if path not in modules:
            close = difflib.get_close_matches(path, modules, n=3, cutoff=0.3)
            raise UserError(
                f"train.freeze: '{path}' is no module of the model ({model.config.backbone}); expected a module path such as "
                f"{', '.join(close) or 'backbone'}."
            )
        modules[path].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(
            f"train.freeze: {', '.join(paths)} leave nothing of the model to train; expected some part of it not to be named."
        )


def train_mode(objective: nn.Module, frozen: Iterable[str]) -> None:
    """`objective.train()`, but for the frozen parts of its student: no dropout there, and batch statistics stay."""
    objective.train()
    for path in frozen:  # looked up each time: DDP's synchronised batch norms replace the original ones
        objective.student.get_submodule(path).eval()


# ---------------------------------------------------------------------------------------------------- optimiser


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


# ---------------------------------------------------------------------------------------------------- average


class WeightAverage:
    """Exponential moving average of a model's state, batch statistics included (decay 0: always the model itself).

    The decay warms up as (1 + t) / (10 + t), so that short runs do not drag their first weights along.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False) if decay else model
        self._floats: tuple[list[Tensor], list[Tensor]] | None = None  # of the average, of the model
        self._others: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards `model`, which must be the same one at every call, after its `step`-th step (from 1)."""
        if not self.decay:
            return
        if self._floats is None:
            self._pair(model)
        for own, value in self._others:
            own.copy_(value)
        torch._foreach_lerp_(*self._floats, 1 - min(self.decay, (1 + step) / (10 + step)))

    def _pair(self, model: nn.Module) -> None:
        """Look the tensors up once: training changes them in place, and collecting them anew costs as much as the average."""
        own = self.model.state_dict()
        pairs = [(own[name], value) for name, value in model.state_dict().items()]
        floats = [pair for pair in pairs if pair[1].dtype.is_floating_point]
        self._others = [pair for pair in pairs if not pair[1].dtype.is_floating_point]
        self._floats = [mine for mine, _ in floats], [theirs for _, theirs in floats]
