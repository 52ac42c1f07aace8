"""Which folders a config means: the data root and the sets in it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from distill.config import DataConfig
from distill.data import SAMPLE_ROOT
from distill.errors import UserError

DATA_VARIABLE = "DISTILL_DATA"


@dataclass(frozen=True)
class SetPaths:
    """Where the sets of a data root lie."""

    root: Path
    train: Path
    val: Path
    test: Path | None
    is_sample: bool  # root is the bundled sample


def resolve(data: DataConfig) -> SetPaths:
    """The set folders a config means: under data.root, else $DISTILL_DATA, else the bundled sample.

    val "auto" is aflw_val where that exists, else synthetics_val; test "auto" is aflw_test, else synthetics_test, else
    none. Raises UserError for a root or set folder that is not there.
    """
    named = os.environ.get(DATA_VARIABLE, "")
    if data.root:
        root, source = Path(data.root).expanduser(), "data.root"
    elif named:
        root, source = Path(named).expanduser(), f"the environment variable {DATA_VARIABLE}"
    else:
        root, source = SAMPLE_ROOT, "the bundled sample"
    if not root.is_dir():
        raise UserError(f"Data root '{root}' (from {source}) is not a folder.")

    def existing(key: str, name: str) -> Path:
        if not (root / name).is_dir():
            there = sorted(path.name for path in root.iterdir() if path.is_dir())
            shown = ", ".join(there[:8]) + (", ..." if len(there) > 8 else "") or "no folder"
            raise UserError(
                f"data.{key}: folder '{name}' is not in the data root '{root}' (from {source}), which has {shown}; "
                f"expected a root that holds it, or another folder's name in data.{key}."
            )
        return root / name

    def first(*names: str) -> Path | None:
        return next((root / name for name in names if (root / name).is_dir()), None)

    train = existing("train", data.train)
    val = first("aflw_val", "synthetics_val") if data.val == "auto" else existing("val", data.val)
    if val is None:
        raise UserError(
            f"data.val: neither 'aflw_val' nor 'synthetics_val' is in the data root '{root}' (from {source}); "
            "name the validation folder with data.val=."
        )
    test = first("aflw_test", "synthetics_test") if data.test == "auto" else existing("test", data.test)
    return SetPaths(root, train, val, test, root.resolve() == SAMPLE_ROOT)
