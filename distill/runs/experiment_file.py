"""What files of many trainings share (ablations, recipes, searches): known keys, overrides of a base."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill import config as configs
from distill.config import Config
from distill.errors import UserError
from distill.files import read_yaml

# Many short runs: what a single one would keep for looking at is not worth its time, and none is the next champion.
DEFAULTS = {"tracking.outputs": "light", "tracking.register": False}


def known(section: dict, keys: Sequence[str], where: str, prefix: str = "") -> None:
    """Raises UserError, beginning with `where`, for a key that is not one of `keys`; `prefix` stands before it in the
    message.
    """
    for key in section:
        if key not in keys:
            raise UserError(f"{where}'{prefix}{key}' is unknown; expected one of {', '.join(keys)}.")


def opened(path: Path, keys: Sequence[str], expected: str) -> tuple[dict[str, Any], str]:
    """A file's contents, and the experiment file that its `base` names, as written there; `expected` completes the
    message.

    Raises UserError for a file that cannot be read, a key that is not one of `keys`, and one that names no base.
    """
    raw = read_yaml(path)
    known(raw, keys, f"{path}: ")
    if not isinstance(raw.get("base"), str):
        raise UserError(f"{path}: 'base' is {raw.get('base')!r}; expected the experiment file {expected}.")
    return raw, raw["base"]


def configured(base: Path, settings: dict[str, Any], overrides: Sequence[str], where: str) -> Config:
    """The experiment file `base` with dotted settings, then overrides. Raises UserError that begins with `where`."""
    try:
        return configs.load(base, overrides, settings)
    except UserError as error:
        raise UserError(f"{where}{error}") from None
