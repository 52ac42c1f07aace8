"""Where the store is, how to reach it, and what its failures mean."""

from __future__ import annotations

import functools
import logging
import os
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote, urlsplit

from distill.config import TrackingConfig
from distill.errors import UserError
from distill.tracking import database, ui
from distill.tracking.database import sqlite_file, sqlite_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")

log = logging.getLogger("distill.tracking")

PATIENCE = 4.0  # seconds for which a failing call is repeated before the server counts as away
SCHEMES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql", "databricks")

# MLflow would otherwise retry an absent server for minutes, and draw its own bars. (distill/__init__.py stops its
# telemetry.)
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class ServerAway(Exception):
    """The store cannot take a call now; it may take the same call later."""


class Refused(Exception):
    """The store understood the call and will never take it."""


class Missing(Refused):
    """The store has no such run, model or version."""


# ---------------------------------------------------------------------------------------------------- places


def store_root(tracking: TrackingConfig) -> Path:
    """Absolute path of the local store folder, which need not exist. Raises UserError where a file is in its place."""
    root = Path(tracking.store).expanduser().resolve()
    standing = next(place for place in (root, *root.parents) if place.exists())
    if not standing.is_dir():
        raise UserError(f"tracking.store: folder '{root}' cannot be made: '{standing}' is not a folder.")
    return root


def make_store(tracking: TrackingConfig) -> Path:
    """`store_root`, created. Raises UserError where it cannot be written to."""
    root = store_root(tracking)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"tracking.store: folder '{root}' cannot be made: {error.strerror or error}.") from None
    if not os.access(root, os.W_OK | os.X_OK):
        raise UserError(f"tracking.store: folder '{root}' cannot be written to.")
    return root


def work_dir(tracking: TrackingConfig, run_id: str) -> Path:
    """`<store>/work/<run_id>/`, created: checkpoints and other files of the run that are not in MLflow."""
    path = make_store(tracking) / "work" / run_id
    path.mkdir(parents=True, exist_ok=True)
    return path


def tracking_uri(tracking: TrackingConfig) -> str:
    """`tracking.uri`, else $MLFLOW_TRACKING_URI, else the sqlite file in the store; sqlite paths made absolute.

    The answer is handed to MLflow explicitly each time and never set globally, so it depends on nothing else.
    Raises UserError for a URI that MLflow cannot work with, whatever the network does.
    """
    source, uri = "tracking.uri", tracking.uri
    if not uri:
        source, uri = "MLFLOW_TRACKING_URI", os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        return sqlite_uri(store_root(tracking) / "mlflow.db")
    if uri == "databricks":
        return uri
    expected = "expected sqlite:///FILE, http(s)://HOST:PORT, a postgresql, mysql or mssql URI, or databricks"
    scheme, colon, rest = uri.partition("://")
    if not colon or scheme.split("+")[0] not in SCHEMES:
        raise UserError(f"{source} is '{redact(uri)}'; {expected} (MLflow takes no plain folder any more).")
    if scheme.startswith("sqlite"):
        if not rest.startswith("/") or len(rest) < 2 or "?" in rest:
            raise UserError(f"{source} is '{uri}'; {expected} (with '?' written as %3F, '%' as %25).")
        return sqlite_uri(
            Path(unquote(rest[1:])).expanduser().resolve()
        )  # a relative file would follow the working folder
    try:
        parts = urlsplit(uri)
        valid = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid:
        raise UserError(f"{source} is '{redact(uri)}'; {expected}.")
    return uri


def exists(tracking: TrackingConfig) -> bool:
    """Whether there is a store to look into: of a sqlite file its presence; a server counts as there."""
    file = sqlite_file(tracking_uri(tracking))
    return file is None or file.is_file()


def redact(text: str) -> str:
    """The text with every password in a URL, `scheme://user:password@host` or `?password=...`, replaced by `***`."""
    return re.sub(r"(\w+://[^\s:/@]*:)[^\s/@]+(?=@)|([?&]\w*password\w*=)[^\s&]+", r"\1\2***", text)


# ---------------------------------------------------------------------------------------------------- connecting


def connect(tracking: TrackingConfig) -> MlflowClient:
    """A client of the configured store; a sqlite store is created on first use, by one process at a time.

    Raises UserError where its database is damaged, and whatever MLflow raises where the store is away.
    """
    return _client(tracking_uri(tracking), os.getpid())


@functools.cache
def _client(uri: str, pid: int) -> MlflowClient:  # pid: a forked child must not share database connections
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    logging.getLogger("alembic").setLevel(logging.WARNING)
    for name in ("mlflow.store.db.utils", "mlflow.system_metrics", "sqlalchemy.pool"):
        logging.getLogger(name).setLevel(
            logging.CRITICAL
        )  # each failure as a traceback; callers get it as an exception
    registry = os.environ.get("MLFLOW_REGISTRY_URI")
    file = sqlite_file(uri)
    if file is None:
        return MlflowClient(tracking_uri=uri, registry_uri=registry or uri)
    return database.opened(file, lambda place: MlflowClient(tracking_uri=place, registry_uri=registry or place))


def experiment_id(client: MlflowClient, tracking: TrackingConfig) -> str:
    """Id of the configured experiment, made if need be. Raises UserError if it was deleted in the store."""
    from mlflow.exceptions import MlflowException

    name = tracking.experiment
    found = client.get_experiment_by_name(name)
    if found is None:
        # Only a server places artifacts by itself; with a bare database MLflow would use the working folder.
        local = not tracking_uri(tracking).startswith(("http", "databricks"))
        folder = store_root(tracking) / "artifacts" / re.sub(r"[^\w.-]", "_", name)
        try:
            client.create_experiment(name, artifact_location=folder.as_uri() if local else None)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise  # else another process was faster
        found = client.get_experiment_by_name(name)
    if found.lifecycle_stage != "active":
        raise UserError(f"tracking.experiment: '{name}' was deleted in the store; restore it or choose another name.")
    ui.arrange(client, found)
    return found.experiment_id


# ---------------------------------------------------------------------------------------------------- failures


def attempt(call: Callable[[], T]) -> T:
    """`call()`, with MLflow's many kinds of failure reduced to ServerAway, Refused and Missing."""
    try:
        return call()
    except (UserError, ServerAway, Refused):
        raise
    except Exception as error:  # requests, sqlalchemy, OSError, MlflowException: whatever the store's kind raises
        code = getattr(error, "error_code", "")
        if code == "RESOURCE_DOES_NOT_EXIST":
            raise Missing(_reason(error)) from error
        if code in ("INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS"):
            raise Refused(_reason(error)) from error
        raise ServerAway(_reason(error)) from error


def patiently(call: Callable[[], T]) -> T:
    """`attempt(call)`, repeated with growing pauses for about PATIENCE seconds while the store is away."""
    return retried(lambda: attempt(call), ServerAway, PATIENCE)


def retried(call: Callable[[], T], errors: type[Exception] | tuple[type[Exception], ...], seconds: float) -> T:
    """`call()`, repeated with growing pauses for about `seconds` while it raises one of these errors."""
    end, pause = time.monotonic() + seconds, 0.25
    while True:
        try:
            return call()
        except errors:
            if time.monotonic() + pause > end:
                raise
        time.sleep(pause)
        pause = min(2 * pause, 5.0)


def listening(uri: str, seconds: float = 3.0) -> bool:
    """Whether anything answers at the URI's host, known after `seconds`; True for stores without a host.

    MLflow's own calls wait longer, and more than once, for a server that accepts connections but hangs.
    """
    parts = urlsplit(uri)
    if parts.scheme.startswith("http"):
        import requests  # not a plain socket: there may be a proxy between

        try:
            requests.get(f"{uri.rstrip('/')}/health", timeout=seconds).close()
        except requests.exceptions.SSLError:
            return True  # a certificate that MLflow may be configured to accept
        except requests.exceptions.RequestException:
            return False
        return True
    port = parts.port or {"postgresql": 5432, "mysql": 3306, "mssql": 1433}.get(parts.scheme.split("+")[0])
    if not parts.hostname or not port:
        return True
    try:
        socket.create_connection((parts.hostname, port), timeout=seconds).close()
    except OSError:
        return False
    return True


def arrive(tracking: TrackingConfig) -> MlflowClient:
    """`connect`, after checking that a server answers there. Raises ServerAway if not."""
    uri = tracking_uri(tracking)
    if not listening(uri):
        raise ServerAway(f"nothing answers at {redact(uri)}")
    return connect(tracking)


def _reason(error: Exception) -> str:
    text = str(error)
    for sign in (
        "Connection refused",
        "timed out",
        "Name or service not known",
        "Temporary failure in name resolution",
    ):
        if sign in text:
            return sign.lower()
    first = redact(text.strip().split("\n")[0]).rstrip(".")
    return f"{type(error).__name__}: {first[:300]}" if first else type(error).__name__
