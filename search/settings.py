"""The sections of a search file that say how its trials are drawn, pruned and judged; each refused by file and key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.errors import UserError
from distill.runs.experiment_file import known
from search.parameters import is_number, number

OBJECTIVE = "val/nme"
COSTS = ("model/parameters", "model/file_bytes", "model/mmacs", "model/latency_ms")  # of distill.profiling.Cost
SAMPLERS = {"tpe": ("seed", "startup"), "gp": ("seed", "startup"), "random": ("seed",)}
PRUNERS = {"hyperband": ("min_epochs", "factor"), "median": ("startup", "min_epochs"), "none": ()}


@dataclass(frozen=True)
class Sampler:
    kind: str = "tpe"  # of SAMPLERS
    seed: int = 0
    startup: int = 10  # trials drawn at random before it learns from them


@dataclass(frozen=True)
class Pruner:
    kind: str = "hyperband"  # of PRUNERS
    min_epochs: int = 1  # no trial is pruned before it has trained these
    factor: int = 3  # hyperband: about one of so many trials goes on at each rung
    startup: int = 5  # median: no trial is pruned before so many are complete


def sampler(path: Path, found: dict[str, Any]) -> Sampler:
    """Raises UserError for an unknown kind or key, or a value that cannot be."""
    kind = _kind(path, "sampler", found, SAMPLERS, "tpe")
    least = {"seed": 0, "startup": 1}
    return Sampler(kind, **_numbers(path, "sampler", found, least))


def pruner(path: Path, found: dict[str, Any], objectives: int) -> Pruner:
    """Raises UserError as `sampler` does, and for one where there are several objectives."""
    kind = _kind(path, "pruner", found, PRUNERS, "hyperband" if objectives == 1 else "none")
    if kind != "none" and objectives > 1:
        raise UserError(f"{path}: 'search.pruner.kind' is '{kind}'; expected none, as there are several objectives.")
    return Pruner(kind, **_numbers(path, "pruner", found, {"min_epochs": 1, "factor": 2, "startup": 1}))


def objectives(path: Path, found: Any) -> tuple[str, ...]:
    """Raises UserError unless it is val/nme, alone or with one of COSTS."""
    right = isinstance(found, list) and found[:1] == [OBJECTIVE] and found[1:] in ([], *([cost] for cost in COSTS))
    if not right:
        raise UserError(
            f"{path}: 'search.objectives' is {found!r}; expected [{OBJECTIVE}], or that and one of {', '.join(COSTS)}."
        )
    return tuple(found)


def constraints(path: Path, found: dict[str, Any]) -> dict[str, float]:
    """Raises UserError for a cost that is not one of COSTS, or a bound that is no number above 0."""
    known(found, COSTS, f"{path}: ", "search.constraints.")
    bounds = {key: number(value) for key, value in found.items()}
    for key, value in bounds.items():
        if not is_number(value) or value <= 0:
            raise UserError(f"{path}: 'search.constraints.{key}' is {value!r}; expected an upper bound above 0.")
    return bounds


def words(path: Path, key: str, found: Any) -> str:
    if not isinstance(found, str) or not found.strip():
        raise UserError(f"{path}: 'search.{key}' is {found!r}; expected words.")
    return found


def whole(path: Path, key: str, found: Any, least: int) -> int:
    """Raises UserError for anything but a whole number of `least` or more."""
    if not isinstance(found, int) or isinstance(found, bool) or found < least:
        raise UserError(f"{path}: 'search.{key}' is {found!r}; expected a whole number, {least} or more.")
    return found


def _kind(path: Path, part: str, found: dict[str, Any], kinds: dict[str, tuple[str, ...]], default: str) -> str:
    kind = found.get("kind", default)
    if kind not in kinds:
        raise UserError(f"{path}: 'search.{part}.kind' is {kind!r}; expected one of {', '.join(kinds)}.")
    known(found, ("kind", *kinds[kind]), f"{path}: ", f"search.{part}.")
    return kind


def _numbers(path: Path, part: str, found: dict[str, Any], least: dict[str, int]) -> dict[str, int]:
    return {key: whole(path, f"{part}.{key}", value, least[key]) for key, value in found.items() if key != "kind"}
