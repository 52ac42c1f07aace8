"""Taps: the places inside a model whose feature maps a term compares.

    stride:16            the backbone's features at that stride, input pixels per cell; of several levels the deepest
    level:2              the backbone's third feature level; some backbones begin at stride 2, others at 4
    backbone.stages_1    the output of a module

Where a method compares several maps, their taps are separated by commas, fine to coarse. All maps are recorded in one
way, by a forward hook on the module that gives them, and handed on as (B, C, h, w).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from distill.errors import UserError
from distill.models.landmarker import Landmarker, to_input


class Tap(NamedTuple):
    """A tap, found in a model."""

    name: str  # as a config writes it
    path: str  # of the module whose output is recorded
    level: int | None  # which feature level, where the module is the backbone; None: its output is the map
    channels: int
    side: int  # of the map in cells, at the model's input size
    channels_last: bool  # the module gives (B, h, w, C)

    def map_of(self, output: Any) -> Tensor:
        """(B, C, h, w) from the module's output."""
        found = output if self.level is None else output[self.level]
        return found.permute(0, 3, 1, 2) if self.channels_last else found


def split(taps: str) -> list[str]:
    """ "stride:8, stride:16" as a list."""
    return [tap.strip() for tap in taps.split(",")] if taps else []


@contextmanager
def recording(model: nn.Module, taps: Iterable[Tap]) -> Iterator[dict[str, Tensor]]:
    """The maps at `taps`, by name, of the forward passes inside the block; of several passes, those of the last."""
    maps: dict[str, Tensor] = {}
    by_path: dict[str, list[Tap]] = {}
    for tap in taps:
        by_path.setdefault(tap.path, []).append(tap)

    def keep(wanted: list[Tap]):
        return lambda _module, _inputs, output: maps.update((tap.name, tap.map_of(output)) for tap in wanted)

    handles = [model.get_submodule(path).register_forward_hook(keep(wanted)) for path, wanted in by_path.items()]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def find(field: str, name: str, model: Landmarker) -> Tap:
    """Look a tap up in a model. Raises UserError, beginning with `field`, where it leads to no feature map."""
    kind, colon, number = name.partition(":")
    if kind not in ("level", "stride") or not colon:
        return _module_tap(field, name, model)
    levels, what = model.levels, f"{model.config.backbone} has"
    if kind == "level":
        if not (number.isdecimal() and int(number) < len(levels)):
            raise UserError(f"{field} is '{name}'; {what} level:0 to level:{len(levels) - 1}.")
        index = int(number)
    else:
        strides = [str(level.stride) for level in levels]
        if number not in strides:
            raise UserError(f"{field} is '{name}'; {what} features at strides {', '.join(dict.fromkeys(strides))}.")
        index = max(i for i, stride in enumerate(strides) if stride == number)
    return Tap(name, "backbone", index, levels[index].channels, levels[index].side, model.channels_last_features)


def _module_tap(field: str, path: str, model: Landmarker) -> Tap:
    modules = dict(model.named_modules())
    if path not in modules:
        close = ", ".join(difflib.get_close_matches(path, modules, n=3, cutoff=0.3)) or "backbone"
        raise UserError(
            f"{field} '{path}' is no module of {model.config.backbone}; expected stride:N, level:N, or a module path "
            f"such as {close}."
        )
    outputs = _probe(model, modules[path])
    if not outputs:
        raise UserError(f"{field} '{path}' takes no part in a forward pass; expected a module that is called.")
    (found,) = outputs[-1:]
    shape = tuple(found.shape) if isinstance(found, Tensor) else ()
    if len(shape) != 4 or shape[2] not in (shape[1], shape[3]):
        what = str(shape) if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise UserError(f"{field} '{path}' gives {what}; expected a square feature map (B, C, h, w) or (B, h, w, C).")
    last = _is_channels_last(shape, path, model)
    return Tap(path, path, None, shape[3] if last else shape[1], shape[2], last)


def _is_channels_last(shape: tuple[int, ...], path: str, model: Landmarker) -> bool:
    """Inputs are square, and so are feature maps: the axis that differs is that of the channels."""
    if shape[1] == shape[2] == shape[3]:
        return model.channels_last_features and path.startswith("backbone.")
    return shape[1] == shape[2]


@torch.no_grad()
def _probe(model: Landmarker, module: nn.Module) -> list[object]:
    """Outputs of a module in a forward pass of one black image, which leaves no trace in the model."""
    outputs: list[object] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    training = {part: part.training for part in model.modules()}
    try:
        blank = torch.zeros(1, model.size, model.size, 3, dtype=torch.uint8, device=next(model.parameters()).device)
        model.eval()(to_input(blank, model.size))
    finally:
        handle.remove()
        for part, mode in training.items():
            part.training = mode
    return outputs
