"""A store that was moved or copied: MLflow keeps absolute paths of all artifacts, and would go on writing to the old ones."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from distill.errors import UserError


def relocate(store: Path) -> dict[str, int]:
    """Old store folder -> how many runs of it now have their artifacts in `store`.

    Only paths of the shape that this package makes, FOLDER/artifacts/EXPERIMENT, are changed, and only in the sqlite file of
    the store; all in one transaction. Raises UserError where there is no such file, or another program writes to it.
    """
    root = store.expanduser().resolve()
    file = root / "mlflow.db"
    if not file.is_file():
        raise UserError(f"--store '{store}' holds no mlflow.db; expected the folder of a store.")
    counts: dict[str, int] = {}
    try:
        with FileLock(f"{file}.lock", timeout=120), contextlib.closing(sqlite3.connect(file)) as base, base:
            for number, location in base.execute("SELECT experiment_id, artifact_location FROM experiments").fetchall():
                old = _folder(location)
                if old is None or old.parent.name != "artifacts" or old.parent.parent == root:
                    continue
                new = (root / "artifacts" / old.name).as_uri()
                base.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (new, number))
                changed = base.execute(
                    "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) "
                    "WHERE experiment_id = ? AND substr(artifact_uri, 1, ?) = ?",
                    (new, len(location) + 1, number, len(location) + 1, f"{location}/"),
                )
                was = str(old.parent.parent)
                counts[was] = counts.get(was, 0) + changed.rowcount
    except sqlite3.Error as error:
        raise UserError(f"'{file}' cannot be changed: {error}.") from None
    return counts


def _folder(location: str) -> Path | None:
    """None: not a folder of this machine."""
    place = urlsplit(location)
    return Path(unquote(place.path)) if place.scheme in ("", "file") else None
