"""Parts of a model that do not train: `train.freeze`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from torch import nn

from distill.errors import UserError
from distill.models.landmarker import Landmarker


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


def train_mode(objective: nn.Module, paths: Iterable[str]) -> None:
    """`objective.train()`, but for the frozen parts of its student: their batch statistics stay, they drop nothing out."""
    objective.train()
    for path in paths:  # looked up each time: DDP's synchronised batch norms replace the original ones
        objective.student.get_submodule(path).eval()
