"""From a YAML file and `key=value` overrides, or from stored values, to a checked Config.

A field that takes text takes it as it is written: `data.train=1.10`, `teacher=12e45678` and `data.root=/data/set #2`
are not numbers, dates or comments. So files are read as text first, and each field then parses it by its type.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from pydantic import ValidationError

from distill import landmarks
from distill.config.checking import check
from distill.config.fields import Config, DataConfig, ModelConfig
from distill.errors import UserError
from distill.files import Loader, parse_yaml, read_yaml
from distill.schema import as_number, shown, user_error_from


class Plain(str):
    """Unquoted text of a YAML file: a number, a truth value or text, by the type of its field."""


class Raw(str):
    """The right side of an override: text, or any YAML, by the type of its field."""


QUOTED = re.compile(r"""\s*(".*"|'.*')\s*""", re.DOTALL)  # an override's text that is YAML after all


class TextLoader(Loader):
    """YAML whose unquoted scalars stay `Plain` text."""


def _text(loader: TextLoader, node: yaml.ScalarNode) -> str:
    text = loader.construct_scalar(node)  # which refuses !!str before a list
    return text if node.style else Plain(text)


TextLoader.yaml_implicit_resolvers = {}
TextLoader.add_constructor("tag:yaml.org,2002:str", _text)


def load(
    path: str | os.PathLike | None, overrides: Sequence[str] = (), settings: Mapping[str, Any] = MappingProxyType({})
) -> Config:
    """Read an experiment file (None: take the defaults), put `settings` (dotted key -> value) and then `key=value`
    overrides over it, check everything.

    Raises UserError (one sentence) for a missing or malformed file, an unknown key, a wrong type, an impossible value.
    """
    values = _read(Path(path), seen=()) if path else {}
    for dotted, value in settings.items():
        _place(values, dotted, value, f"Setting '{dotted}'")
    for item in overrides:
        dotted, equals, text = item.partition("=")
        if not equals or not dotted.strip():
            raise UserError(f"Override '{item}' is not of the form key=value, for instance train.lr=0.001.")
        _place(values, dotted.strip(), Raw(text), f"Override '{item}'")
    return _checked(values, str(path), Path(path).parent) if path else _checked(values, "command line")


def from_dict(values: dict, source: str = "the stored config") -> Config:
    """Rebuild a Config from `to_dict` (a checkpoint's, a run's). Raises UserError as `load` does."""
    return _checked(values, source)


def model_from_dict(values: dict, source: str) -> ModelConfig:
    """Rebuild a ModelConfig that a model file carries. Raises UserError as `load` does."""
    return from_dict({"model": values}, source).model


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """The file's contents merged over those of the file that its `base:` names (relative to it)."""
    values = read_yaml(path, loader=TextLoader)
    base = values.pop("base", None)
    if base is None:
        return values
    base_path = (path.parent / str(base)).resolve()
    if base_path in seen or base_path == path.resolve():
        raise UserError(f"Config file '{path}': its base '{base}' leads back to itself.")
    if not os.path.isfile(base_path):  # False for a name that is too long, too
        raise UserError(
            f"Config file '{path}': its base {shown(base)} is no file; expected one, relative to this folder."
        )
    return _merged(_read(base_path, (*seen, path.resolve())), values)


def _merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """`own` over `base`, key by key; a list or a single value replaces what was there."""
    merged = dict(base)
    for key, value in own.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _place(values: dict[str, Any], dotted: str, value: Any, what: str) -> None:
    """Set the value of a dotted key. Raises UserError that begins with `what` where a parent key has a plain value."""
    *parents, last = dotted.split(".")
    for key in parents:
        inner = values.get(key, {})
        if isinstance(inner, Raw):  # overridden as a whole before
            inner = _parsed(inner, what, key)
        if not isinstance(inner, dict):
            raise UserError(f"{what}: '{dotted}' does not name a config field.")
        values[key] = values = dict(inner)
    values[last] = value


def _checked(values: dict[str, Any], source: str, folder: Path | None = None) -> Config:
    config = _section(Config, values, source, "")
    config = dataclasses.replace(config, data=_with_landmarks(config.data, source, folder))
    check(config, source)
    return config


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _section(kind: type, values: Any, source: str, place: str) -> Any:
    """A config dataclass from its keys and values; `place` is its own dotted key."""
    if not isinstance(values, dict):
        raise UserError(f"{source}: '{place}' is {_shown(values)}; expected keys and values.")
    hints, made = _hints(kind), {}
    for key, value in values.items():
        dotted = f"{place}.{key}".lstrip(".")
        if key not in hints:
            close = difflib.get_close_matches(str(key), hints, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"expected one of {', '.join(hints)}."
            raise UserError(f"{source}: '{dotted}' is unknown; {hint}")
        made[key] = _value(hints[key], value, source, dotted)
    try:
        return kind(**made)
    except ValidationError as error:
        raise user_error_from(error, source, place) from None


def _value(kind: Any, value: Any, source: str, place: str) -> Any:
    """What a field of type `kind` is given: sections as dataclasses, text typed unless the field takes text."""
    takes_text = kind is str or all(isinstance(choice, str) for choice in typing.get_args(kind) or (0,))
    if takes_text and not (isinstance(value, Raw) and QUOTED.fullmatch(value)):
        return str(value) if isinstance(value, Plain | Raw) else value
    if isinstance(value, Raw):
        value = _parsed(value, source, place)
    if dataclasses.is_dataclass(kind):
        return _section(typing.cast(type, kind), value, source, place)
    if typing.get_origin(kind) is dict:
        if not isinstance(value, dict):
            raise UserError(f"{source}: '{place}' is {_shown(value)}; expected keys and values.")
        inner = typing.get_args(kind)[1]
        return {str(key): _value(inner, item, source, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        inner = typing.get_args(kind)[0] if typing.get_origin(kind) is list else Any
        return [_value(inner, item, source, f"{place}.{i}") for i, item in enumerate(value)]
    if isinstance(value, dict):
        return {str(key): _value(Any, item, source, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, Plain):
        try:
            value = parse_yaml(value, "", Loader) if value else ""
        except UserError:  # such as a number of thousands of digits
            value = str(value)
    return as_number(value) if kind is Any else value


def _parsed(text: Raw, source: str, place: str) -> Any:
    return parse_yaml(text, f"{source}: '{place}': the override {_shown(text)}", TextLoader) if text else ""


def _shown(value: Any) -> str:
    text = repr(str(value) if isinstance(value, str) else value)
    return text if len(text) <= 160 else f"{text[:160]}..."


def _with_landmarks(data: DataConfig, source: str, folder: Path | None) -> DataConfig:
    """With a landmark set's file replaced by its contents: a run must go on, and be the same, without the file."""
    try:
        return dataclasses.replace(data, landmarks=landmarks.find(data.landmarks, folder).reference())
    except UserError as error:
        raise UserError(f"{source}: 'data.landmarks': {error}") from None
