"""What a search varies: a tree of parameters (a config key and its range) and forks (named branches, each with its own).

Nothing here knows configs' values or Optuna; `search.space` reads files, `search.sampling` draws.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

KINDS = ("float", "int", "choice")
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


class Missing:
    """Stands where a value might have been; None is a value."""


MISSING = Missing()


@dataclass(frozen=True)
class Parameter:
    """A config key and the values that it may take. `name` is what Optuna calls it."""

    name: str
    key: str
    kind: str  # of KINDS
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    choices: tuple[Any, ...] = ()
    unset: Any = MISSING  # the value that a config means by leaving this key out

    @property
    def probes(self) -> tuple[Any, ...]:
        """The values that are tried before any trial: the ends, or all choices."""
        return self.choices or (self.low, self.high)

    def expected(self) -> str:
        if self.kind == "choice":
            return f"one of {', '.join(str(choice) for choice in self.choices)}"
        steps = f" in steps of {self.step:g}" if self.step is not None else ""
        return f"a{' whole' * (self.kind == 'int')} number from {self.low:g} to {self.high:g}{steps}"

    def match(self, value: Any) -> Any:
        """The value as Optuna is to have it. Raises ValueError where it is not in the range."""
        if self.kind == "choice":
            value = number(value) if isinstance(value, str) and value not in self.choices else value
            for choice in self.choices:
                if choice == value and isinstance(choice, bool) == isinstance(value, bool):
                    return choice
            raise ValueError(self.expected())
        value = number(value)
        if not is_number(value) or (self.kind == "int" and value != int(value)) or not self.low <= value <= self.high:
            raise ValueError(self.expected())
        if self.step is not None and not reaches(value - self.low, self.step):
            raise ValueError(self.expected())
        return int(value) if self.kind == "int" else float(value)

    def described(self) -> dict[str, Any]:
        """Plain values, as in the file."""
        if self.kind == "choice":
            told: dict[str, Any] = {"choice": list(self.choices)}
        else:
            told = {self.kind: [self.low, self.high]}
            told |= {"log": True} if self.log else {}
            told |= {"step": self.step} if self.step is not None else {}
        return told | ({} if self.unset is MISSING else {"unset": self.unset})


@dataclass(frozen=True)
class Branch:
    """One way of a fork: the overrides that it brings, and what is searched on it."""

    set: dict[str, Any]
    space: tuple[Parameter | Fork, ...]


@dataclass(frozen=True)
class Fork:
    """A named choice between branches. `recipe` is the branch that the base recipe is on."""

    name: str
    label: str  # the name without those of the forks above it
    recipe: str
    branches: dict[str, Branch]

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that its branches set."""
        return tuple(dict.fromkeys(key for branch in self.branches.values() for key in branch.set))

    def match(self, value: Any) -> str:
        """The branch. Raises ValueError where there is none of that name."""
        if str(value) not in self.branches:
            raise ValueError(f"one of {', '.join(self.branches)}")
        return str(value)

    def described(self) -> dict[str, Any]:
        parts = {name: {"set": branch.set, "space": describe(branch.space)} for name, branch in self.branches.items()}
        return {"recipe": self.recipe, "branches": parts}


Node = Parameter | Fork


def describe(space: tuple[Node, ...]) -> dict[str, Any]:
    return {node.key if isinstance(node, Parameter) else node.label: node.described() for node in space}


def every(space: tuple[Node, ...]) -> Iterator[Node]:
    """All nodes, on whichever branch."""
    for node in space:
        yield node
        if isinstance(node, Fork):
            for branch in node.branches.values():
                yield from every(branch.space)


def touches(one: str, other: str) -> bool:
    """Whether two dotted keys are the same, or one lies inside the other."""
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")


def number(value: Any) -> Any:
    """A word such as 3e-4, which YAML takes for no number, as the number that it says; anything else as it is."""
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


def is_number(value: Any) -> bool:
    """Of finite size; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def reaches(distance: float, step: float) -> bool:
    """Whether whole steps make up the distance, to within rounding."""
    return math.isclose(distance / step, round(distance / step), abs_tol=1e-9)
