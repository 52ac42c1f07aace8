"""Atomic checkpoints that hold only plain values and tensors, so that loading one runs no code."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from distill.errors import UserError

VERSION = 1


def save(path: Path, state: dict[str, Any]) -> None:
    """Write, flush to disk, then put in place: a kill at any moment leaves the old file or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save({"version": VERSION, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any]:
    """Raises UserError where the file is absent, damaged, or of another version."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"There is no checkpoint '{path}' to resume from.") from None
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"Checkpoint '{path}' cannot be read: {reason}") from None
    if not isinstance(state, dict) or state.get("version") != VERSION:
        raise UserError(f"Checkpoint '{path}' is not of version {VERSION}; it belongs to another version of distill.")
    return state
