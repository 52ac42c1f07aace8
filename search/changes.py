"""A config with some of its dotted keys changed, or left out."""

from __future__ import annotations

import copy
import dataclasses
import typing
from collections.abc import Iterable
from typing import Any

from distill import config as configs
from distill.config import Config
from distill.errors import UserError
from search.parameters import MISSING, touches


def value_at(config: Config, key: str) -> Any:
    """What stands at a dotted key; MISSING where nothing does."""
    found: Any = configs.to_dict(config)
    for part in key.split("."):
        if not isinstance(found, dict) or part not in found:
            return MISSING
        found = found[part]
    return found


def place(key: str) -> tuple[Any, bool]:
    """The type of what stands at a dotted key (Any where the config does not say), and whether that is an entry, which a
    config may lack (a term, an argument), and not a field."""
    kind, entry = Config, False
    for part in key.split("."):
        entry = not dataclasses.is_dataclass(kind)
        if entry:
            kind = typing.get_args(kind)[1] if typing.get_origin(kind) is dict else Any
        else:
            kind = typing.get_type_hints(kind).get(part, Any)
    return kind, entry


def is_entry(key: str) -> bool:
    """Whether a config may lack what stands at a key."""
    return place(key)[1]


def expected_at(key: str, value: Any) -> str:
    """What the key takes, in words, where that is not the value's type; else nothing."""
    kind = place(key)[0]
    if kind not in (int, float, str, bool):
        return ""  # of no one type, or one that distill.config tells of
    right = isinstance(value, int | float if kind is float else kind) and isinstance(value, bool) == (kind is bool)
    return "" if right else {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}[kind]


def changed(config: Config, changes: dict[str, Any], where: str) -> Config:
    """The config with the value of each dotted key replaced as a whole, or taken out where it is MISSING.

    Raises UserError that begins with `where` for what distill.config refuses.
    """
    values = configs.to_dict(config)
    for key, value in changes.items():
        *path, last = key.split(".")
        section = values
        for part in path:
            section = section.get(part, {}) if value is MISSING else section.setdefault(part, {})
            if not isinstance(section, dict):
                raise UserError(f"{where}: '{key}' does not name a config field.")
        if value is MISSING:
            section.pop(last, None)
        else:
            section[last] = copy.deepcopy(value)  # later changes may lie inside it
    return configs.from_dict(values, where)


def with_fields_of(other: Config, config: Config, keys: Iterable[str]) -> Config:
    """`config`, but with what `other` has at dotted keys, which are fields and not entries."""

    def replaced(section: Any, its: Any, path: list[str]) -> Any:
        name, *rest = path
        value = getattr(its, name)
        return dataclasses.replace(section, **{name: replaced(getattr(section, name), value, rest) if rest else value})

    for key in keys:
        config = replaced(config, other, key.split("."))
    return config


def of_branch(branch: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """The changes that a branch's settings mean: entries that only its sisters set (`keys`: of all) are left out."""
    absent = {key: MISSING for key in keys if is_entry(key) and not any(touches(key, own) for own in branch)}
    return absent | branch
