"""Taps: the places inside a model whose outputs a feature term compares.

`level:2` is the backbone's third feature level, anything else a module path (`backbone.stages_1`). Where a method compares
several, they are separated by commas, fine to coarse.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from distill.errors import UserError
from distill.models.landmarker import Prediction


def split(taps: str) -> list[str]:
    return [tap.strip() for tap in taps.split(",")] if taps else []


def module_paths(taps: list[str]) -> set[str]:
    return {tap for tap in taps if not _is_level(tap)}


@contextmanager
def recording(model: nn.Module, paths: set[str]) -> Iterator[dict[str, Tensor]]:
    """The outputs of the named modules during the forward passes inside the block."""
    seen: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(path).register_forward_hook(lambda _m, _i, out, path=path: seen.__setitem__(path, out))
        for path in paths
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def pick(taps: list[str], prediction: Prediction, seen: dict[str, Tensor]) -> list[Tensor]:
    """What the taps gave in one forward pass, in their order."""
    return [prediction.features[int(tap[6:])] if _is_level(tap) else seen[tap] for tap in taps]


def check_module(field: str, tap: str, side: str, model: nn.Module) -> None:
    """Raises UserError, with close paths, where the tap is a module path that the model has not."""
    modules = dict(model.named_modules())
    if not _is_level(tap) and tap not in modules:
        close = difflib.get_close_matches(tap, modules, n=3, cutoff=0.3)
        raise UserError(
            f"{field} '{tap}' is no module of the {side} ({model.config.backbone}); expected level:N or a module path such "
            f"as {', '.join(close) or 'backbone'}."
        )


def probe(field: str, taps: list[str], side: str, prediction: Prediction, seen: dict[str, Tensor]) -> list[int]:
    """Channels of the taps' maps in a dry forward pass. Raises UserError where one gives none, or they grow finer."""
    maps = [_map(field, tap, side, prediction, seen) for tap in taps]
    sides = [m.shape[-1] for m in maps]
    if sides != sorted(sides, reverse=True):
        raise UserError(f"{field} is '{', '.join(taps)}', of {sides} cells a side; expected fine to coarse.")
    return [m.shape[1] for m in maps]


def _map(field: str, tap: str, side: str, prediction: Prediction, seen: dict[str, Tensor]) -> Tensor:
    levels = len(prediction.features)
    if _is_level(tap) and not (tap[6:].isdigit() and int(tap[6:]) < levels):
        raise UserError(f"{field} is '{tap}'; the {side}'s levels are level:0 to level:{levels - 1}.")
    if not _is_level(tap) and tap not in seen:
        raise UserError(f"{field} '{tap}' takes no part in a forward pass; expected a module that is called.")
    (value,) = pick([tap], prediction, seen)
    # inputs are square, so a map that is not is a channels-last one, (B, h, w, C)
    if not isinstance(value, Tensor) or value.dim() != 4 or value.shape[2] != value.shape[3]:
        shape = tuple(value.shape) if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise UserError(f"{field} '{tap}' gives {shape}; expected a square feature map (B, C, h, w).")
    return value


def _is_level(tap: str) -> bool:
    return tap.startswith("level:")
