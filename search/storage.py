"""Where a study is kept: one database file that the processes of a machine share, or PostgreSQL for several machines.

Optuna's tables live in a database of their own (optuna-dashboard opens it as it is). Everything that must happen to one
worker at a time, over all machines, happens inside `turn`: making the tables and the study, taking over what dead workers
left, counting, asking for the next trial.
"""

from __future__ import annotations

import functools
import hashlib
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import optuna
import sqlalchemy
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage, get_storage
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from distill import tracking as track
from distill.config import TrackingConfig
from distill.errors import UserError
from search import sampling

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

    from search.space import Space

T = TypeVar("T")

EXPECTED = "expected sqlite:///FILE or postgresql://USER@HOST/DATABASE"
SILENT_BEATS = 3  # a worker that misses so many heartbeats is taken for dead
BUSY_SECONDS = 60  # that a sqlite file may be another process's
CONNECT_SECONDS = 10
PATIENCE = 60.0  # seconds for which a failing call is repeated before the database counts as away
SPACE = "space"  # the study's attribute that says what it searches

optuna.logging.set_verbosity(optuna.logging.WARNING)


class DatabaseAway(UserError):
    """The study's database does not answer, and has not for PATIENCE seconds."""


# ---------------------------------------------------------------------------------------------------- the database


def url_of(tracking: TrackingConfig, given: str = "") -> str:
    """The URL of the studies' database: the `given` one, with the driver that we have, else a file in the store.

    Raises UserError for a URL of another kind.
    """
    if not given:
        return f"sqlite:///{track.store_root(tracking) / 'optuna.db'}"
    if given.startswith("postgres://"):  # an old name of the same scheme
        given = given.replace("postgres", "postgresql", 1)
    try:
        url = sqlalchemy.make_url(given)
    except ArgumentError:
        raise UserError(f"--storage is '{given}'; {EXPECTED}.") from None
    if url.drivername == "sqlite" and url.database and url.database != ":memory:":
        file = Path(url.database).expanduser().resolve()
        if not file.parent.is_dir():
            raise UserError(f"--storage is '{given}'; expected a file in a folder that exists.")
        return f"sqlite:///{file}"
    if url.drivername in ("postgresql", "postgresql+psycopg") and url.database:
        return url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    raise UserError(f"--storage is '{redacted(given)}'; {EXPECTED}.")


def redacted(url: str) -> str:
    """The URL without its password."""
    made = sqlalchemy.make_url(url)
    query = {key: "***" if "password" in key else value for key, value in made.query.items()}
    return made.set(query=query).render_as_string(hide_password=True)


def open_storage(url: str, heartbeat: int = 30) -> BaseStorage:
    """The database, with its tables made where there are none; to be called in one's `turn`.

    heartbeat: seconds between signs of life of a worker. Raises UserError for a database that does not answer, or is
    another program's.
    """
    with _told(url), warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        _refuse_strangers(url)
        made = RDBStorage(
            url.replace("{", "{{").replace("}", "}}"),  # it fills templates
            engine_kwargs=_engine_options(url),
            heartbeat_interval=heartbeat,
            grace_period=SILENT_BEATS * heartbeat,
        )
        if url.startswith("sqlite"):
            _quicken(made.engine)
        return get_storage(made)


@contextmanager
def turn(url: str, name: str) -> Iterator[None]:
    """Be the one process, over all machines that share the database, that does what one at a time must do to study `name`.

    A process that dies loses its turn at once. Raises SQLAlchemyError where the database does not answer.
    """
    if url.startswith("sqlite"):
        with track.exclusive(Path(f"{url.removeprefix('sqlite:///')}.lock"), "", seconds=-1):
            yield
        return
    key = {"key": int.from_bytes(hashlib.sha256(f"search {name}".encode()).digest()[:8], signed=True)}
    with _engine(url, os.getpid()).connect() as connection:
        connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:key)"), key)
        try:
            yield
        finally:
            try:
                connection.execute(sqlalchemy.text("SELECT pg_advisory_unlock(:key)"), key)
            except SQLAlchemyError:  # the connection broke, and the turn ended with it
                connection.invalidate()


def patiently(call: Callable[[], T], seconds: float = PATIENCE) -> T:
    """`call()`, repeated for so long while the database hiccups. Raises DatabaseAway after that."""
    end, pause = time.monotonic() + seconds, 0.2
    while True:
        try:
            return call()
        except (StorageInternalError, SQLAlchemyError) as error:
            if time.monotonic() + pause > end:
                raise DatabaseAway(
                    f"The study's database has not answered for {seconds:.0f} s: {_reason(error)}."
                ) from error
        time.sleep(pause)
        pause = min(2 * pause, 5.0)


# ---------------------------------------------------------------------------------------------------- the study


def open_study(space: Space, name: str, url: str, worker: int = 0) -> optuna.Study:
    """Join the study of this name, or make it, its first trials enqueued; on several machines at once, too.

    worker: number of the process, which draws from a stream of its own. Raises UserError for a database that cannot be used
    and for a study of another space, whose first differing key is named.
    """
    with _told(url), turn(url, ""):
        storage = open_storage(url, space.heartbeat)
        try:
            study = optuna.create_study(
                study_name=name, storage=storage, directions=["minimize"] * len(space.objectives)
            )
        except DuplicatedStudyError:
            study = optuna.load_study(study_name=name, storage=storage)
        _settle(study, space, url)
    study.sampler = sampling.make_sampler(space, worker, begun=len(study.get_trials(deepcopy=False)))
    study.pruner = sampling.make_pruner(space.pruner, space.epochs)
    return study


def find_study(name: str, url: str) -> optuna.Study:
    """A study that was made before, to look at. Raises UserError where there is none."""
    missing = f"There is no study '{name}' in {redacted(url)}"
    if url.startswith("sqlite") and not Path(url.removeprefix("sqlite:///")).is_file():
        raise UserError(f"{missing}, which is no file.")
    with _told(url), turn(url, ""):
        storage = open_storage(url)
        known = optuna.get_all_study_names(storage)
        if name not in known:
            raise UserError(f"{missing}; it has {', '.join(sorted(known)) or 'none'}.")
        return optuna.load_study(study_name=name, storage=storage)


# ---------------------------------------------------------------------------------------------------- inside


def _settle(study: optuna.Study, space: Space, url: str) -> None:
    """See that the study is one of this space; finish what a killed process had only begun to make."""
    described, stored = space.described(), study.user_attrs.get(SPACE)
    if stored is None:
        if any(trial.state.is_finished() for trial in study.get_trials(deepcopy=False)):
            raise UserError(f"The study '{study.study_name}' in {redacted(url)} is not one of search.study.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(list(space.objectives))
        for values in space.enqueue:
            study.enqueue_trial(values, skip_if_exists=True)
        study.set_user_attr(SPACE, described)
    elif stored != described:
        key, was, now = _first_difference(stored, described)
        raise UserError(
            f"{space.path}: '{key}' is {now}, but the study '{study.study_name}' began with {was}; expected the same, or another "
            f"--study name."
        )


def _first_difference(was: Any, now: Any, key: str = "") -> tuple[str, str, str]:
    """(dotted key, value before, value now) of two nested values that are not the same."""
    if isinstance(was, dict) and isinstance(now, dict):
        for name in [*was, *now]:
            old, new = was.get(name, _Absent), now.get(name, _Absent)
            if old != new:
                return _first_difference(old, new, f"{key}.{name}" if key else name)
    if isinstance(was, list) and isinstance(now, list):
        named = [
            {part["name"]: part for part in side if isinstance(part, dict) and "name" in part} for side in (was, now)
        ]
        if [len(side) for side in named] == [len(was), len(now)] and named[0] != named[1]:
            return _first_difference(*named, key)
    return key, *("nothing" if value is _Absent else repr(value) for value in (was, now))


class _Absent:
    """Stands for a key that is not there."""


def _refuse_strangers(url: str) -> None:
    """Optuna's tables beside another program's would ruin both: they share the name of a table."""
    engine = sqlalchemy.create_engine(url, **_engine_options(url))
    try:
        tables = sqlalchemy.inspect(engine).get_table_names()
    finally:
        engine.dispose()
    if "alembic_version" in tables and "studies" not in tables:
        what = "MLflow's" if "experiments" in tables else "another program's"
        raise UserError(f"The database {redacted(url)} is {what}; expected one for the studies alone.")


def _quicken(engine: sqlalchemy.Engine) -> None:
    """Readers and a writer of one file need not wait for each other, nor a commit for the disk: a kill loses nothing, and a
    power cut at most the last moments (https://www.sqlite.org/wal.html)."""

    @sqlalchemy.event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    engine.dispose()  # connections from before


@contextmanager
def _told(url: str) -> Iterator[None]:
    """What a database refuses, in one sentence that names it."""
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        raise UserError(
            f"The database {redacted(url)} needs the package {error.name}: pip install 'psycopg[binary]'."
        ) from None
    except (SQLAlchemyError, StorageInternalError, RuntimeError, OSError) as error:
        raise UserError(f"The database {redacted(url)} cannot be used: {_reason(error)}.") from None


@functools.cache
def _engine(url: str, pid: int) -> sqlalchemy.Engine:  # pid: a forked child must not share connections
    return sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT", **_engine_options(url))


def _engine_options(url: str) -> dict[str, Any]:
    if url.startswith("sqlite"):
        return {"connect_args": {"timeout": BUSY_SECONDS}}
    return {"pool_pre_ping": True, "connect_args": {"connect_timeout": CONNECT_SECONDS}}


def _reason(error: BaseException) -> str:
    """The database's own first line; Optuna and SQLAlchemy wrap it."""
    while error.__cause__ is not None and not isinstance(error, SQLAlchemyError):
        error = error.__cause__
    told = str(getattr(error, "orig", None) or error).strip().splitlines() or [type(error).__name__]
    return told[0].strip().rstrip(".")
