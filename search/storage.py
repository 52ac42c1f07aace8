"""Where a study is kept: one sqlite file that the processes of a machine share, or PostgreSQL for several machines.

Optuna's tables are in a database of their own (optuna-dashboard opens it as it is). What one worker at a time may do,
over all machines, happens inside `turn`: making the tables and the study, recovering trials of dead workers, counting,
drawing.
"""

from __future__ import annotations

import functools
import hashlib
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import optuna
import sqlalchemy
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning, StorageInternalError
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from distill import config as configs
from distill import tracking as track
from distill.config import Config
from distill.errors import UserError
from search.space import Pruner, Space, changed

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")

EXPECTED = "expected sqlite:///FILE or postgresql://USER@HOST/DATABASE"
SILENT_BEATS = 3  # a worker that misses so many heartbeats counts as dead
BUSY_SECONDS = 60  # to wait while another process writes to the sqlite file
CONNECT_SECONDS = 10
PATIENCE = 60.0  # seconds for which a failing call is repeated before the database counts as away
ERRORS = (StorageInternalError, SQLAlchemyError)  # of a database that does not answer
SPACE = "space"  # the study's attribute that holds what it searches

optuna.logging.set_verbosity(optuna.logging.WARNING)


class DatabaseAway(UserError):
    """The study's database does not answer."""


class Storage(RDBStorage):
    """Optuna's, for URLs of `url_of`. Raises SQLAlchemyError and others where the database does not answer."""

    def __init__(self, url: str, heartbeat: int):
        """heartbeat: seconds between signs of life of a worker that is at a trial."""
        super().__init__(
            url, engine_kwargs=_engine_options(url), heartbeat_interval=heartbeat, grace_period=SILENT_BEATS * heartbeat
        )

    def record_heartbeat(self, trial_id: int) -> None:
        """A beat that does not get through is missed; Optuna's own would be the last of its trial."""
        with suppress(*ERRORS):
            super().record_heartbeat(trial_id)


# ---------------------------------------------------------------------------------------------------- the database


def url_of(store: str | Path, given: str = "") -> str:
    """The URL of the studies' database: the `given` one with the driver that we have, else a file in the store folder.

    Makes nothing. Raises UserError for a URL of another kind.
    """
    if not given:
        return track.sqlite_uri(Path(store).expanduser().resolve() / "optuna.db")
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
        return track.sqlite_uri(file)
    if url.drivername in ("postgresql", "postgresql+psycopg") and url.database:
        return url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    raise UserError(f"--storage is '{track.redact(given)}'; {EXPECTED}.")


@contextmanager
def turn(url: str, name: str) -> Iterator[None]:
    """Be the one process, over all machines that share the database, that does what one at a time must do to study
    `name`.

    A process that ends loses its turn at once. Raises SQLAlchemyError where the database does not answer.
    """
    if file := track.sqlite_file(url):
        with track.exclusive(file.with_name(f"{file.name}.lock"), "", seconds=-1):
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
    """`call()`, repeated for so long while the database does not answer. Raises DatabaseAway after that."""
    try:
        return track.retried(call, ERRORS, seconds)
    except ERRORS as error:
        raise DatabaseAway(f"The study's database has not answered for {seconds:.0f} s: {_reason(error)}.") from error


# ---------------------------------------------------------------------------------------------------- the study


def open_study(space: Space, name: str, url: str, worker: int = 0) -> optuna.Study:
    """Join the study of this name, or make it, its first trials enqueued; on several machines at once, too.

    worker: number of the process, which draws from a stream of its own. Raises UserError for a database that cannot be
    used and for a study of another space, whose first differing key is named.
    """
    with _database(url, space.search.heartbeat) as storage:
        directions = ["minimize"] * len(space.search.objectives)
        try:
            study = optuna.create_study(study_name=name, storage=storage, directions=directions)
        except DuplicatedStudyError:
            study = optuna.load_study(study_name=name, storage=storage)
        _begin(study, space, url)
        begun = len(study.get_trials(deepcopy=False))
    study.sampler = make_sampler(space, worker, begun)
    study.pruner = make_pruner(space.search.pruner, space.epochs)
    return study


def open_claims(name: str, url: str, heartbeat: int) -> tuple[optuna.Study, Storage]:
    """Join the study of who is at which training of a grid, or make it. Raises UserError for a database that
    cannot be used."""
    with _database(url, heartbeat) as storage:
        return optuna.create_study(study_name=name, storage=storage, load_if_exists=True), storage


def find_study(name: str, url: str) -> optuna.Study:
    """A study that was made before, to look at. Raises UserError where there is none, and makes nothing then."""
    missing = f"There is no study '{name}' in {track.redact(url)}"
    file = track.sqlite_file(url)
    if file and not file.is_file():
        raise UserError(f"{missing}: no such file.")
    with _database(url) as storage:
        known = optuna.get_all_study_names(storage)
        if name not in known:
            raise UserError(f"{missing}; it has {', '.join(sorted(known)) or 'none'}.")
        return optuna.load_study(study_name=name, storage=storage)


def make_sampler(space: Space, worker: int = 0, begun: int = 0) -> BaseSampler:
    """The sampler of a search file; each worker draws another stream of its seed.

    TPE: https://papers.nips.cc/paper/4443-algorithms-for-hyper-parameter-optimization. begun: trials that the study had
    when this worker came, so that a worker that is started again does not draw the same points again.
    """
    wanted = space.search.sampler
    seed = int(np.random.SeedSequence([wanted.seed, worker, begun]).generate_state(1)[0])
    if wanted.kind == "random":
        return RandomSampler(seed=seed)
    if wanted.kind == "gp":  # draws a branch's parameters at random, and would warn of it in every trial
        return GPSampler(seed=seed, n_startup_trials=wanted.startup, warn_independent_sampling=False)
    with warnings.catch_warnings():
        # `group` models each branch's parameters together; without it all branches' parameters are drawn independently
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(seed=seed, n_startup_trials=wanted.startup, multivariate=True, group=True, constant_liar=True)


def make_pruner(pruner: Pruner, epochs: int) -> BasePruner:
    """The pruner of a search file; steps are epochs, from 1. epochs: of a trial that is not pruned.

    Hyperband: https://arxiv.org/abs/1603.06560.
    """
    if pruner.kind == "hyperband":
        return HyperbandPruner(pruner.min_epochs, epochs, pruner.factor)
    if pruner.kind == "median":
        return MedianPruner(pruner.startup, pruner.min_epochs)
    return NopPruner()


def fail_dead(study: optuna.Study, begun: Callable[[FrozenTrial], bool]) -> None:
    """Fail the trials of dead workers; to be called in one's turn.

    Optuna fails trials without a heartbeat. A trial that is running but was never begun has none: its worker died
    between making it and its first beat, within its turn, so that now, in ours, it is known to be dead.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if not begun(trial):
            study.tell(trial.number, state=TrialState.FAIL)


# ---------------------------------------------------------------------------------------------------- inside


@contextmanager
def _database(url: str, heartbeat: int = 30) -> Iterator[Storage]:
    """The database in one's turn, with Optuna's tables made where there are none.

    Raises DatabaseAway for one that does not answer, UserError for one that cannot be used or is another program's.
    """
    try:
        with turn(url, ""), warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            _refuse_strangers(url)
            storage = Storage(url, heartbeat)
            if url.startswith("sqlite"):
                _use_write_ahead_log(storage.engine)
            yield storage
    except ImportError as error:
        raise UserError(
            f"The database {track.redact(url)} needs the package {error.name}: pip install 'psycopg[binary]'."
        ) from None
    except (*ERRORS, RuntimeError, OSError) as error:
        kind = DatabaseAway if isinstance(error, ERRORS) else UserError
        raise kind(f"The database {track.redact(url)} cannot be used: {_reason(error)}.") from None


def _begin(study: optuna.Study, space: Space, url: str) -> None:
    """Check that the study is one of this space; finish what a killed process had only begun to make."""
    stored = study.user_attrs.get(SPACE)
    if stored is not None:
        _check_same(study.study_name, space, stored)
        return
    if any(trial.state.is_finished() for trial in study.get_trials(deepcopy=False)):
        raise UserError(f"The study '{study.study_name}' in {track.redact(url)} is not one of search.study.")
    study.set_metric_names(list(space.search.objectives))
    for point in space.enqueue:
        study.enqueue_trial(point, skip_if_exists=True)
    study.set_user_attr(SPACE, space.described())


def _check_same(name: str, space: Space, stored: Mapping[str, Any]) -> None:
    """Raises UserError where a space is not the one that the study began with: its trials could not be compared.

    The base is compared by what it computes, so that a name which a later version gives something changes nothing.
    """
    # a base is stored without places; its cache had one, or its size would not have counted
    began = changed(Config(), {"data.cache": "some", **stored["base"]}, f"study '{name}'")
    was, now = ({key: part for key, part in side.items() if key != "base"} for side in (stored, space.described()))
    if configs.digest(began) != configs.digest(space.base):
        was, now = ({"base": configs.to_dict(configs.computing(config))} for config in (began, space.base))
    elif was == now:
        return
    key, was, now = configs.first_difference(was, now)
    raise UserError(
        f"{space.path}: '{key}' is {now!r}, but the study '{name}' began with {was!r}; expected the same, or another "
        "--study."
    )


def _refuse_strangers(url: str) -> None:
    """Optuna's tables beside another program's would ruin both: they share the name of a table."""
    engine = sqlalchemy.create_engine(url, **_engine_options(url))
    try:
        tables = sqlalchemy.inspect(engine).get_table_names()
    finally:
        engine.dispose()
    if "alembic_version" in tables and "studies" not in tables:
        what = "MLflow's" if "experiments" in tables else "another program's"
        raise UserError(f"The database {track.redact(url)} is {what}; expected one for the studies alone.")


def _use_write_ahead_log(engine: sqlalchemy.Engine) -> None:
    """Readers and a writer of one file need not wait for each other, nor a commit for the disk: a kill loses nothing,
    and a power cut at most the last moments (https://www.sqlite.org/wal.html).
    """

    @sqlalchemy.event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    engine.dispose()  # connections from before


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
    lines = str(getattr(error, "orig", None) or error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip().rstrip(".")
