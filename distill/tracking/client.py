"""Where the store is, how to reach it, and what its failures mean."""

from __future__ import annotations

import functools
import logging
import os
import re
import socket
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from filelock import FileLock

from distill.config import TrackingConfig
from distill.errors import UserError
from distill.tracking import ui

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")

log = logging.getLogger("distill.tracking")

PATIENCE = 4.0  # seconds for which a failing call is repeated before the server counts as away
SCHEMES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql", "databricks")

# MLflow would otherwise retry an absent server for minutes, report usage to its makers, and draw its own bars.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
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
    """The store knows no such run, model or version."""


# ---------------------------------------------------------------------------------------------------- places


def store_root(tracking: TrackingConfig) -> Path:
    """Absolute path of the local store folder, created. Raises UserError where that is impossible."""
    root = Path(tracking.store).expanduser().resolve()
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"tracking.store: folder '{root}' cannot be made: {error.strerror or error}.") from None
    return root


def work_dir(tracking: TrackingConfig, run_id: str) -> Path:
    """`<store>/work/<run_id>/`, created: checkpoints and other files that live beside the run, not in MLflow."""
    path = store_root(tracking) / "work" / run_id
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
        return f"sqlite:///{store_root(tracking) / 'mlflow.db'}"
    if uri == "databricks":
        return uri
    expected = "expected sqlite:///FILE, http(s)://HOST:PORT, a postgresql, mysql or mssql URI, or databricks"
    scheme, colon, rest = uri.partition("://")
    if not colon or scheme.split("+")[0] not in SCHEMES:
        raise UserError(f"{source} is '{redact(uri)}'; {expected} (MLflow takes no plain folder any more).")
    if scheme.startswith("sqlite"):
        if not rest.startswith("/") or len(rest) < 2:
            raise UserError(f"{source} is '{uri}'; {expected}.")
        return f"sqlite:///{Path(rest[1:]).expanduser().resolve()}"  # a relative file would follow the working folder
    try:
        parts = urlsplit(uri)
        valid = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid:
        raise UserError(f"{source} is '{redact(uri)}'; {expected}.")
    return uri


def redact(text: str) -> str:
    """The text with the password of every `scheme://user:password@host` in it replaced by `***`."""
    return re.sub(r"(\w+://[^\s:/@]*):[^\s/@]+@", r"\1:***@", text)


# ---------------------------------------------------------------------------------------------------- connecting


def connect(tracking: TrackingConfig) -> MlflowClient:
    """A client of the configured store; a sqlite store is created on first use, by one process at a time."""
    return _client(tracking_uri(tracking), os.getpid())


@functools.cache
def _client(uri: str, pid: int) -> MlflowClient:  # pid: a forked child must not share database connections
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.system_metrics").setLevel(logging.CRITICAL)  # its failures follow ours, which are told
    registry = os.environ.get("MLFLOW_REGISTRY_URI") or uri
    if not uri.startswith("sqlite:///"):
        return MlflowClient(tracking_uri=uri, registry_uri=registry)
    file = Path(uri.removeprefix("sqlite:///"))
    file.parent.mkdir(parents=True, exist_ok=True)
    # Two processes that build the tables of one new file at once break it for good (seen with MLflow 3.17).
    with FileLock(f"{file}.lock", timeout=120):
        fresh = not file.exists()
        client = MlflowClient(tracking_uri=uri, registry_uri=registry)
        if fresh:
            client.search_registered_models(max_results=1)  # the registry checks and makes its tables on first use
            connection = sqlite3.connect(file)
            connection.execute("PRAGMA journal_mode=WAL")  # kept in the file; writers no longer block readers
            connection.close()
    return client


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


def ask(call: Callable[[], T]) -> T:
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
    """`ask(call)`, repeated with growing pauses for about PATIENCE seconds while the store is away."""
    end, pause = time.monotonic() + PATIENCE, 0.5
    while True:
        try:
            return ask(call)
        except ServerAway:
            if time.monotonic() + pause > end:
                raise
        time.sleep(pause)
        pause *= 2


def listening(uri: str, seconds: float = 3.0) -> bool:
    """Whether anything answers at the URI's host, known after `seconds`; True for stores without a host.

    MLflow's own calls wait longer, and more than once, for a server that accepts connections but hangs.
    """
    parts = urlsplit(uri)
    if parts.scheme.startswith("http"):
        import requests  # not a plain socket: the way may lead through a proxy

        try:
            requests.get(f"{uri.rstrip('/')}/health", timeout=seconds).close()
        except requests.exceptions.SSLError:
            return True  # a certificate that MLflow may have been told to accept
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
    """`connect`, after making sure that somebody answers there. Raises ServerAway if not."""
    uri = tracking_uri(tracking)
    if not listening(uri):
        raise ServerAway(f"nobody answers at {redact(uri)}")
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
