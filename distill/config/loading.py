"""From a YAML file and `key=value` overrides, or from stored values, to a checked Config."""

from __future__ import annotations

import dataclasses
import functools
import os
import typing
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from distill import landmarks
from distill.config.checking import check
from distill.config.fields import Config, DataConfig, ModelConfig
from distill.errors import UserError
from distill.files import Loader, read_yaml


def load(path: str | os.PathLike, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Read an experiment file, apply `key=value` overrides, check everything.

    Raises UserError (one sentence) for a missing or malformed file, an unknown key, a wrong type, an impossible value.
    """
    raw = _read(Path(path), seen=())
    for item in overrides:
        key, eq, text = item.partition("=")
        if not eq or not key.strip():
            raise UserError(f"Override '{item}' is not of the form key=value, for instance train.lr=0.001.")
        try:
            value = yaml.load(text, Loader) if text else ""
        except yaml.YAMLError:
            raise UserError(f"Override '{item}': the value is not valid YAML.") from None
        try:
            OmegaConf.update(raw, key.strip(), value, merge=False, force_add=True)
        except Exception:  # OmegaConf raises many kinds here; all mean that the path runs through a plain value
            raise UserError(f"Override '{item}': '{key}' does not name a config field.") from None
    return _structure(raw, str(path), Path(path).parent)


def from_dict(values: dict, source: str = "the stored config") -> Config:
    """Rebuild a Config from `to_dict` (a checkpoint's, a run's). Raises UserError as `load` does."""
    return _structure(_create(values, source), source)


def model_from_dict(values: dict, source: str) -> ModelConfig:
    """Rebuild a ModelConfig that a model file carries. Raises UserError as `load` does."""
    return from_dict({"model": values}, source).model


def _create(values: dict, source: str):
    try:
        return OmegaConf.create(values)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "a section"
        raise UserError(f"{source}: '{key}' holds a broken ${{...}} reference.") from None


def _read(path: Path, seen: tuple[Path, ...]):
    """The file's contents merged over those of the file that its `base:` names (relative to it)."""
    values = read_yaml(path)
    base = values.pop("base", None)
    own = _create(values, str(path))
    if base is None:
        return own
    base_path = (path.parent / str(base)).resolve()
    if base_path in seen or base_path == path.resolve():
        raise UserError(f"Config file '{path}': its base '{base}' leads back to itself.")
    if not base_path.is_file():
        raise UserError(
            f"Config file '{path}': its base '{base}' is no file; expected one, relative to this file's folder."
        )
    return OmegaConf.merge(_read(base_path, (*seen, path.resolve())), own)


def _check_sections(cls: type, values: Any, source: str, prefix: str = "") -> None:
    """Refuse a plain value where the config has keys of its own; OmegaConf's words for it do not name the place."""
    plain = OmegaConf.to_container(values)
    for name, kind in typing.get_type_hints(cls).items():
        if name not in plain:
            continue
        key, value = prefix + name, plain[name]
        inner = typing.get_args(kind)[1] if typing.get_origin(kind) is dict else kind
        if (dataclasses.is_dataclass(inner) or inner is not kind) and not isinstance(value, dict):
            raise UserError(f"{source}: '{key}' is {value!r}; expected keys and values.")
        if inner is kind and dataclasses.is_dataclass(kind):
            _check_sections(kind, values[name], source, f"{key}.")
        elif dataclasses.is_dataclass(inner):
            for part, item in value.items():
                if not isinstance(item, dict):
                    raise UserError(f"{source}: '{key}.{part}' is {item!r}; expected keys and values.")


@functools.cache
def _schema():
    return OmegaConf.structured(Config)  # some 10 ms; merging leaves it as it is


def _structure(raw, source: str, folder: Path | None = None) -> Config:
    _check_sections(Config, raw, source)
    try:
        config = OmegaConf.to_object(OmegaConf.merge(_schema(), raw))
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "a section"
        message = str(getattr(error, "msg", None) or error).split("\n")[0].rstrip(".")
        raise UserError(f"{source}: '{key}': {message}{'' if message.endswith('?') else '.'}") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{source}: a section has the wrong shape (list where keys are expected?): {error}.") from None
    config = dataclasses.replace(config, data=_with_landmarks(config.data, source, folder))
    check(config, source)
    return config


def _with_landmarks(data: DataConfig, source: str, folder: Path | None) -> DataConfig:
    """With a landmark set's file replaced by what it says: a run must go on, and be the same, without the file."""
    try:
        return dataclasses.replace(data, landmarks=landmarks.find(data.landmarks, folder).reference())
    except UserError as error:
        raise UserError(f"{source}: 'data.landmarks': {error}") from None
