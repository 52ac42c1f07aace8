"""The `space` section of a search file, read into parameters and forks. What configs say to it, `search.space` asks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from distill.errors import UserError
from distill.runs.experiment_file import known, section
from search.parameters import KINDS, MISSING, Branch, Fork, Node, Parameter, is_number, number, reaches, touches

FORK_KEYS = ("recipe", "branches")
BRANCH_KEYS = ("set", "space")
KIND_KEYS = {"float": ("log", "step"), "int": ("log", "step"), "choice": ()}
# the same in all trials: they start alike, are as long as each other, and are measured on the same images
FIXED = ("base", "seed", "resume", "train.epochs", "data.val", "data.root")
_NAME = re.compile(r"[A-Za-z][\w ,+-]*")


def read(path: Path, found: dict[str, Any]) -> tuple[Node, ...]:
    """The nodes of `search.space`. Raises UserError naming file, key, what was found and what is expected."""
    nodes = _nodes(path, found, "search.space", "")
    if not nodes:
        raise UserError(f"{path}: 'search.space' is empty; expected config keys, each with its range.")
    _check_apart(path, nodes)
    return nodes


def _nodes(path: Path, found: dict[str, Any], where: str, inside: str) -> tuple[Node, ...]:
    def node(key: str, part: Any) -> Node:
        read = _fork if isinstance(part, dict) and "branches" in part else _parameter
        return read(path, key, part, f"{where}.{key}", inside)

    return tuple(node(key, part) for key, part in found.items())


def _fork(path: Path, label: str, found: dict[str, Any], where: str, inside: str) -> Fork:
    known(found, FORK_KEYS, f"{path}: ", f"{where}.")
    if not _NAME.fullmatch(label):
        raise UserError(f"{path}: '{where}' is a choice between branches; expected a plain name instead of '{label}'.")
    branches = section(found, "branches", path, f"{where}.branches")
    if len(branches) < 2:
        raise UserError(f"{path}: '{where}.branches' has {len(branches)}; expected at least two named branches.")
    recipe = found.get("recipe", MISSING)
    if str(recipe) not in branches or recipe is MISSING:
        told = "missing" if recipe is MISSING else repr(recipe)
        raise UserError(
            f"{path}: '{where}.recipe' is {told}; expected the branch that the base recipe is on, one of "
            f"{', '.join(branches)}."
        )
    name = inside + label
    return Fork(
        name,
        label,
        str(recipe),
        {key: _branch(path, key, branches, f"{where}.branches.{key}", f"{name}[{key}].") for key in branches},
    )


def _branch(path: Path, name: str, branches: dict[str, Any], where: str, inside: str) -> Branch:
    if not _NAME.fullmatch(name):
        raise UserError(f"{path}: '{where}' has the name '{name}'; expected letters and digits, a letter first.")
    found = section(branches, name, path, where)
    known(found, BRANCH_KEYS, f"{path}: ", f"{where}.")
    settings = section(found, "set", path, f"{where}.set")
    for key in settings:
        _refuse_fixed(path, key, f"{where}.set")
    return Branch(settings, _nodes(path, section(found, "space", path, f"{where}.space"), f"{where}.space", inside))


def _parameter(path: Path, key: str, found: Any, where: str, inside: str) -> Parameter:
    _refuse_fixed(path, key, where)
    kinds = [kind for kind in KINDS if kind in found] if isinstance(found, dict) else []
    if len(kinds) != 1:
        raise UserError(
            f"{path}: '{where}' is {found!r}; expected one of float: [LOW, HIGH], int: [LOW, HIGH], choice: [...], or "
            f"'recipe' and 'branches'."
        )
    kind = kinds[0]
    known(found, (kind, *KIND_KEYS[kind], "unset"), f"{path}: ", f"{where}.")
    unset = number(found.get("unset", MISSING))
    if kind == "choice":
        own = Parameter(inside + key, key, kind, choices=_choices(path, found[kind], where), unset=unset)
    else:
        own = _range(path, key, kind, found, where, inside, unset)
    if unset is not MISSING:
        try:
            own.match(unset)
        except ValueError as expected:
            raise UserError(f"{path}: '{where}.unset' is {unset!r}; expected {expected}.") from None
    return own


def _choices(path: Path, found: Any, where: str) -> tuple[Any, ...]:
    choices = [number(value) for value in found] if isinstance(found, list) else []
    plain = all(isinstance(value, str | bool) or is_number(value) for value in choices)
    if len(choices) < 2 or not plain:
        raise UserError(
            f"{path}: '{where}.choice' is {found!r}; expected a list of two or more words, numbers or true and false (for "
            f"sections and lists, branches)."
        )
    if len({str(value) for value in choices}) < len(choices) or len(set(choices)) < len(choices):
        raise UserError(f"{path}: '{where}.choice' is {found!r}; expected different values.")
    return tuple(choices)


def _range(path: Path, key: str, kind: str, found: dict, where: str, inside: str, unset: Any) -> Parameter:
    ends = [number(end) for end in found[kind]] if isinstance(found[kind], list) else []
    what = "whole" if kind == "int" else "finite"
    right = len(ends) == 2 and all(is_number(end) and (kind == "float" or isinstance(end, int)) for end in ends)
    if not right or not ends[0] < ends[1]:
        raise UserError(
            f"{path}: '{where}.{kind}' is {found[kind]!r}; expected two {what} numbers, the lower one first."
        )
    log, step = found.get("log", False), number(found.get("step"))
    if not isinstance(log, bool):
        raise UserError(f"{path}: '{where}.log' is {log!r}; expected true or false.")
    if log and ends[0] <= 0:
        raise UserError(f"{path}: '{where}.{kind}' begins at {ends[0]}; expected more than 0 for a logarithmic range.")
    if log and step is not None:
        raise UserError(f"{path}: '{where}' has both 'log' and 'step'; expected one of them.")
    if step is not None and not (
        is_number(step) and step > 0 and (kind == "float" or isinstance(step, int)) and reaches(ends[1] - ends[0], step)
    ):
        raise UserError(
            f"{path}: '{where}.step' is {found['step']!r}; expected a {what} number above 0 that leads from {ends[0]:g} to "
            f"{ends[1]:g}."
        )
    low, high = (float(end) if kind == "float" else end for end in ends)
    return Parameter(inside + key, key, kind, low, high, log, step, unset=unset)


def _refuse_fixed(path: Path, key: str, where: str) -> None:
    for fixed in FIXED:
        if touches(key, fixed):
            raise UserError(
                f"{path}: '{where}' varies '{fixed}'; expected a key that may differ between the trials of a study."
            )


def _check_apart(path: Path, nodes: tuple[Node, ...]) -> None:
    """Two parts of a space that a trial may have at once do not change the same key."""
    taken: list[tuple[str, str]] = []
    for node in nodes:
        own = _keys(node)
        for key in own:
            for other, name in taken:
                if touches(key, other):
                    raise UserError(
                        f"{path}: '{name}' and '{node.name}' of 'search.space' both change '{max(key, other, key=len)}'; "
                        f"expected only one of them to."
                    )
        taken += [(key, node.name) for key in own]
        if isinstance(node, Fork):
            for branch in node.branches.values():
                _check_apart(path, branch.space)


def _keys(node: Node) -> tuple[str, ...]:
    """All keys that a node may change."""
    if isinstance(node, Parameter):
        return (node.key,)
    inner = [key for branch in node.branches.values() for part in branch.space for key in _keys(part)]
    return tuple(dict.fromkeys([*node.keys, *inner]))
