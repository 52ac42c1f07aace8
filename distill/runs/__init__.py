"""What ablations, recipes and searches share: a finished run found or trained, worker processes, settings of a base."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill import config as configs
from distill.config import Config
from distill.errors import UserError

# Many short runs: without the pictures and files of a single one, and without registering a model.
DEFAULTS = {"tracking.outputs": "light", "tracking.register": False}


def configured(base: Path, settings: dict[str, Any], overrides: Sequence[str], where: str) -> Config:
    """The experiment file `base` with dotted settings, then overrides. Raises UserError that begins with `where`."""
    try:
        return configs.load(base, overrides, settings)
    except UserError as error:
        raise UserError(f"{where}{error}") from None
