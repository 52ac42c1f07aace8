"""The sqlite file of a local store: its URI, made whole or not at all, refused when broken, moved with its folder."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from filelock import FileLock

from distill.errors import UserError
from distill.files import atomic

if TYPE_CHECKING:
    from mlflow import MlflowClient

# parts of the errors of SQLite, Alembic and MLflow for a database that opening it again does not fix
_DAMAGED = ("malformed", "not a database", "already exists", "duplicate column", "no such table", "no such column")
_OTHER_VERSION = ("out-of-date database schema", "Can't locate revision")
_connected: set[Path] = set()  # database files that this process has opened


def sqlite_uri(file: Path) -> str:
    """The SQLAlchemy URI of a database file (absolute path), for MLflow and Optuna; special characters are escaped."""
    path = re.sub(r"[%?#{}]", lambda found: f"%{ord(found[0]):02X}", str(file))  # Optuna formats braces
    # to SQLAlchemy the longer scheme is the same; with the short one MLflow makes a folder named as the escaped path
    return f"sqlite{'+pysqlite' if '%' in path else ''}:///{path}"


def sqlite_file(uri: str) -> Path | None:
    """The file of a URI made by `sqlite_uri`; None for other databases and for servers."""
    scheme, _, path = uri.partition(":///")
    return Path(unquote(path)) if scheme.startswith("sqlite") else None


def opened(file: Path, client: Callable[[str], MlflowClient]) -> MlflowClient:
    """`client(uri)` of the file: made first if need be, by one process at a time, and read-only where its folder is.

    Raises UserError naming the file where it is damaged, of another MLflow version, or left half made by a kill of
    MLflow itself (this function makes it whole or not at all): nothing of the user's is repaired without a command.
    """
    if file.exists() and not (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)):
        return client(_read_only_uri(file))
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock", timeout=120):
        if not file.exists() or not file.stat().st_size:
            _make(file)
        # Only before this process has a connection: closing a file of our own would release the locks of SQLite's
        # (https://www.sqlite.org/howtocorrupt.html, 2.2), and another process would delete the log that they write to.
        if file not in _connected:
            _check_header(file)
        _connected.add(file)
        try:
            return client(sqlite_uri(file))
        except Exception as error:  # sqlalchemy's, Alembic's or MLflow's
            _refuse(file, str(error))
            raise


def _make(file: Path) -> None:
    """Beside its place first: MLflow makes its tables in hundreds of steps, and cannot resume after a kill."""
    for left in file.parent.glob(f".{file.stem}.*.tmp{file.suffix}"):  # by a process that was killed here
        left.unlink(missing_ok=True)
    with atomic(file) as temporary:
        temporary.write_bytes(_empty())
        with contextlib.closing(sqlite3.connect(temporary)) as base:
            base.execute("PRAGMA journal_mode=WAL")  # kept in the file; writers no longer block readers


@functools.cache
def _empty() -> bytes:
    """The bytes of a database without runs, built in memory: on disk each of the steps would wait for the disk."""
    from mlflow import MlflowClient

    with contextlib.closing(
        sqlite3.connect("file:/distill-empty?vfs=memdb", uri=True)
    ) as base:  # lives as long as this
        uri = "sqlite+pysqlite:///file:/distill-empty?vfs=memdb&uri=true"
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_registered_models(max_results=1)  # the registry checks and makes its tables on first use
        return base.serialize()


def _check_header(file: Path) -> None:
    with file.open("rb") as start:
        if start.read(15) != b"SQLite format 3":
            raise UserError(f"'{file}' is not an sqlite database; move it away to begin a new store.")


def _refuse(file: Path, error: str) -> None:
    """UserError where the failure is one of the file itself."""
    if any(sign in error for sign in _OTHER_VERSION):
        raise UserError(
            f"'{file}' was made by another version of MLflow; copy it, then bring it up to date with: "
            f"mlflow db upgrade '{sqlite_uri(file)}'"
        ) from None
    if any(sign in error for sign in _DAMAGED):
        raise UserError(
            f"'{file}' is damaged or half made; restore it from a copy, or move it away to begin a new store."
        ) from None


def _read_only_uri(file: Path) -> str:
    # a log of changes beside the file is read too, and only then SQLite writes beside it
    whole = "" if Path(f"{file}-wal").exists() else "&immutable=1"
    return (
        f"sqlite+pysqlite:///file:{quote(quote(str(file)))}?mode=ro{whole}&uri=true"  # read as a URI, and as one in it
    )


def relocate(store: Path) -> dict[str, int]:
    """After a store was moved or copied: old store folder -> how many runs of it now have their artifacts in `store`.

    MLflow keeps absolute paths of all artifacts and would go on writing to the old ones. Only paths of the shape that
    this package makes, FOLDER/artifacts/EXPERIMENT, are changed, and only in the sqlite file of the store; all in one
    transaction. Raises UserError where there is no such file, or another program writes to it.
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
