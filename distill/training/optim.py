"""What trains and how: frozen parts, parameter groups and optimiser, learning rate, the average of weights."""

from __future__ import annotations

import copy
import difflib
import math
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from distill.config import TrainConfig
from distill.distillation.objective import Objective
from distill.errors import UserError
from distill.models.landmarker import Landmarker

_LAYER = re.compile(r"(?:model\.)?[A-Za-z_]+[._]?\d*")  # of a backbone's parameter: stages_2, model.blocks.7

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
                f"train.freeze: '{path}' is no module of the model ({model.config.backbone}); expected a module path "
                f"such as {', '.join(close) or 'backbone'}."
            )
        modules[path].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(
            f"train.freeze: {', '.join(paths)} leave nothing of the model to train; expected some part of it "
            f"not to be named."
        )


def train_mode(objective: nn.Module, frozen: Iterable[str]) -> None:
    """`objective.train()`, but for the frozen parts of its student: no dropout there, and batch statistics stay."""
    objective.train()
    for path in frozen:  # looked up each time: DDP's synchronised batch norms replace the original ones
        objective.student.get_submodule(path).eval()


# ---------------------------------------------------------------------------------------------------- optimiser


def make_optimizer(objective: Objective, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW or SGD with Nesterov momentum, fused: one pass over all tensors, on CPUs as on GPUs."""
    groups = parameter_groups(objective, config)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9, nesterov=True, fused=True)
    return torch.optim.AdamW(groups, lr=config.lr, fused=True)


def parameter_groups(objective: Objective, config: TrainConfig) -> list[dict[str, Any]]:
    """What trains, by weight decay and by `lr_scale`, a factor on the learning rate.

    Weight decay acts on matrices and kernels: not on biases, norms and other vectors, and not on what the backbone's
    authors exempt, such as position embeddings.
    """
    exempt = {f"student.{name}" for name in objective.student.no_weight_decay()}
    scales = _lr_scales(objective.student, config)
    groups: dict[tuple[float, bool], list[Tensor]] = {(1.0, True): [], (1.0, False): []}
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            decays = parameter.dim() > 1 and name not in exempt
            groups.setdefault((scales.get(name, 1.0), decays), []).append(parameter)
    return [
        {"params": found, "weight_decay": config.weight_decay if decays else 0.0, "lr_scale": scale}
        for (scale, decays), found in groups.items()
    ]


def _lr_scales(student: Landmarker, config: TrainConfig) -> dict[str, float]:
    """Factor of each of the backbone's parameters: train.backbone_lr, times train.layer_decay for each layer between it
    and the head (as in BEiT, https://arxiv.org/abs/2106.08254). A layer is a stage, or a block where the backbone lists
    blocks.
    """
    names = [name for name, _ in student.backbone.named_parameters()]
    layers = [_LAYER.match(name)[0] for name in names]  # in forward order
    order = {layer: number for number, layer in enumerate(dict.fromkeys(layers), start=1)}
    return {
        f"student.backbone.{name}": config.backbone_lr * config.layer_decay ** (len(order) - order[layer])
        for name, layer in zip(names, layers, strict=True)
    }


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any], objective: Objective) -> None:
    """The moments of a checkpoint into the optimiser of the same objective, which keeps its own groups and options."""
    own = optimizer.state_dict()["param_groups"]
    moments, stored = state["state"], state["param_groups"]
    if [len(group["params"]) for group in stored] != [len(group["params"]) for group in own]:
        # of a version that had two groups, matrices before vectors, whatever the backbone's authors exempt
        trainable = [p for p in objective.parameters() if p.requires_grad]
        before = {id(p): i for i, p in enumerate(sorted(trainable, key=lambda p: p.dim() <= 1))}
        now = [before[id(p)] for group in optimizer.param_groups for p in group["params"]]
        moments = {i: moments[j] for i, j in enumerate(now) if j in moments}
    optimizer.load_state_dict({"state": moments, "param_groups": own})


def clip_gradients(student: list[Tensor], adapters: list[Tensor], limit: float) -> dict[str, Tensor]:
    """Scale the gradients of each list of parameters down to the length `limit` (0: leave them as they are).

    Adapters are clipped apart: else what they have to learn would shorten the student's steps, and a student that is
    compared with its control would differ from it by more than its losses. Returns what is logged, as 0-d tensors: the
    lengths before, and 1 where the student's gradient was clipped.
    """
    norm = nn.utils.clip_grad_norm_(student, limit or math.inf)
    values = {"train/grad_norm": norm, "train/clipped": (norm > (limit or math.inf)).float()}
    if adapters:
        values["train/grad_norm_adapters"] = nn.utils.clip_grad_norm_(adapters, limit or math.inf)
    return values


def lr_at(position: float, warmup: float, end: float, config: TrainConfig) -> float:
    """Linear warm-up, then a cosine to min_lr. All three in one unit: steps done, or seconds of a budget by the clock.

    A pure function, so nothing needs to be saved.
    """
    if position < warmup:
        return config.lr * min(1.0, (position + 1) / warmup)
    done = (position - warmup) / max(1, end - warmup)
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
        """Look the tensors up once: training changes them in place; collecting them costs as much as the average."""
        own = self.model.state_dict()
        pairs = [(own[name], value) for name, value in model.state_dict().items()]
        floats = [pair for pair in pairs if pair[1].dtype.is_floating_point]
        self._others = [pair for pair in pairs if not pair[1].dtype.is_floating_point]
        self._floats = [mine for mine, _ in floats], [theirs for _, theirs in floats]
