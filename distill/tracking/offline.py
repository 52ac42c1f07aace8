"""What a run logs while its server is away: an ordinary MLflow store of its own, copied to the server when that is
back.

<store>/offline/<run id, or offline-<12 hex> for a run that its server has never seen>.<milliseconds since 1970>/
    mlflow.db, artifacts/    one run; its tag `distill.offline` names the server and run
    lock                     held by the process that logs to it or copies it

A folder is of one outage of one process. Copying may be cut off and repeated: everything that is sent is sent so that
the server has it once (records.py), and the folder is deleted when all of it is there.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from distill.config import TrackingConfig
from distill.errors import UserError
from distill.tracking import records, registry
from distill.tracking.client import (
    Missing,
    Refused,
    ServerAway,
    arrive,
    attempt,
    connect,
    log,
    redact,
    store_root,
    tracking_uri,
)
from distill.tracking.locks import Held, exclusive
from distill.tracking.lookup import datasets, offline_folders, offline_place, only_run

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun

BELONGS = "distill.offline"  # tag of the local run: {"uri": ..., "run_id": ..., "resumed": ...}, never with a password
LOCAL_TAGS = (BELONGS, "distill.key", "mlflow.runName")  # not to be copied as tags


@dataclass(frozen=True)
class Local:
    """The local store that a running process logs to."""

    folder: Path
    place: TrackingConfig
    run_id: str  # in that store
    lock: FileLock


def begin(tracking: TrackingConfig, name: str, run_id: str, start: Mapping[str, Any], resumed: bool = False) -> Local:
    """Open a local store for the run `name`; raises what the disk and MLflow raise.

    run_id: its id on the server, "" if that has never seen it; it is then created there with `start`, the arguments of
    records.create. resumed: the last steps that the server has are not known, so points up to them are left out when
    copied.
    """
    folder = store_root(tracking) / "offline" / f"{name}.{records.now_ms()}"
    folder.mkdir(parents=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
        place = replace(offline_place(folder), experiment=tracking.experiment)
        uri = tracking_uri(tracking)
        belongs = {"uri": uri if redact(uri) == uri else "", "run_id": run_id, "resumed": resumed}
        made = records.create(place, **{**start, "tags": {**start["tags"], BELONGS: json.dumps(belongs)}})
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Local(folder, place, made, lock)


def copy(folder: Path, uri: str = "", held: bool = False) -> tuple[str, dict[str, int]]:
    """Send the run in `folder` to its server and delete the folder.

    Returns the run's id there, and for a resumed run the last step of each metric that the server had before. uri:
    another server than the one it was meant for. held: this process has the lock. Raises ServerAway (try again later;
    nothing is lost or sent twice), and UserError where no URI is known, or the server does not have a run that was
    begun there.
    """
    with contextlib.nullcontext() if held else _alone(folder):
        place = offline_place(folder)
        run = only_run(place) if (folder / "mlflow.db").is_file() else None
        if run is None:  # a kill came before the run was made, or another process has copied it
            shutil.rmtree(folder, ignore_errors=True)
            return "", {}
        belongs = json.loads(run.data.tags[BELONGS])
        experiment = connect(place).get_experiment(run.info.experiment_id).name
        target = TrackingConfig(
            uri=_known_uri(uri or belongs["uri"], folder), store=_store(folder), experiment=experiment
        )
        run_id = _there(target, belongs["run_id"]) if belongs["run_id"] else _create(target, run, folder)
        floor = attempt(lambda: records.last_steps(target, run_id)) if belongs["resumed"] else {}
        for write, *args in _contents(place, run, folder, floor):
            try:
                attempt(partial(write, target, run_id, *args))
            except Refused as refusal:  # it would be refused for ever
                log.warning("The tracking server refused '%s' of run %s: %s.", write.__name__, run_id, refusal)
        shutil.rmtree(folder, ignore_errors=True)
    return run_id, floor


def _contents(place: TrackingConfig, run: MlflowRun, folder: Path, floor: dict[str, int]) -> Iterator[tuple]:
    """What there is to send: functions of records.py and their arguments after the run's id; its end comes last."""
    client = connect(place)
    yield records.log_params, run.data.params
    yield records.set_tags, {key: value for key, value in run.data.tags.items() if key not in LOCAL_TAGS}
    for key in run.data.metrics:
        points = client.get_metric_history(run.info.run_id, key)
        points = [point for point in points if key not in floor or point.step > floor[key]]
        yield records.log_points, sorted(points, key=lambda point: (point.step, point.timestamp))
    for given in datasets(place, run.info.run_id):
        yield records.log_dataset, given.name, given.digest, given.folder, given.context
    for path in sorted(
        folder.glob(f"artifacts/*/{run.info.run_id}/artifacts/*")
    ):  # wherever the folder was when it was filled
        yield records.log_artifact, path, ""
    for version in client.search_model_versions(f"run_id = '{run.info.run_id}'"):
        yield registry.enter, version.name
    if run.info.status == "RUNNING":
        yield (records.reopen,)
    else:
        yield records.finish, run.info.status, run.info.end_time


def copy_all(root: Path, name: str, uri: str = "", held: Path | None = None) -> tuple[str, dict[str, int]]:
    """`copy` of everything that waits of the run `name`, in order; the answer of the last one ("": nothing waits)."""
    last: tuple[str, dict[str, int]] = ("", {})
    for folder in offline_folders(root, name):
        found = copy(folder, uri, held=folder == held)
        last = found if found[0] else last
    return last


def sent_as(root: Path, name: str) -> str:
    """The id on the server of a run that began here as `offline-...` and is all there; "" if it is not."""
    if offline_folders(root, name):
        return ""
    links = (path for path in root.glob("work/*") if path.is_symlink() and os.readlink(path) == name)
    return next((path.name for path in links), "")


def upload(root: Path, names: list[str], uri: str = "") -> bool:
    """Copy what waits in the store at `root` to its servers (names: only of these runs), and print what happened to
    each; True if nothing is left to send. Raises UserError for a store that is not there, and for a name of which
    nothing waits.
    """
    if not root.is_dir():
        raise UserError(f"There is no store '{root}', so nothing waits in it.")
    for name in names:
        if not offline_folders(root, name):
            raise UserError(f"Nothing of a run '{name}' waits in '{root / 'offline'}'.")
    folders = [folder for folder in offline_folders(root) if not names or folder.stem in names]
    if not folders:
        print(f"Nothing waits in '{root / 'offline'}'.")
    left = set()
    for folder in folders:
        try:
            if folder.stem in left:
                raise ServerAway("what was logged before it is not sent yet")
            run_id, _ = copy(folder, uri)
            print(f"{folder.name}: all of it is in run {run_id} now." if run_id else f"{folder.name}: was empty.")
        except (ServerAway, UserError) as error:
            left.add(folder.stem)
            print(f"{folder.name}: not sent ({str(error).rstrip('.')}).")
    return not left


def send_waiting(root: Path, uri: str) -> None:
    """Copy what earlier runs of the store at `root` could not send to the server at `uri`; the rest stays."""
    for folder in offline_folders(root):
        with contextlib.suppress(ServerAway, UserError, FileNotFoundError):
            run = only_run(offline_place(folder))
            if run is not None and json.loads(run.data.tags[BELONGS])["uri"] in ("", uri):
                copy_all(root, folder.stem, uri)


# ---------------------------------------------------------------------------------------------------- inside


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    try:
        with exclusive(folder / "lock", ""):
            yield
    except Held:
        raise ServerAway("another process is logging to it or sending it now") from None


def _store(folder: Path) -> str:
    return str(folder.resolve().parents[1])


def _known_uri(uri: str, folder: Path) -> str:
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        raise UserError(
            f"The tracking URI of '{folder.name}' holds a password and was not stored; give it as --uri or in "
            "MLFLOW_TRACKING_URI."
        )
    return uri


def _there(target: TrackingConfig, run_id: str) -> str:
    try:
        attempt(lambda: arrive(target).get_run(run_id))
    except Missing:
        raise UserError(
            f"Run {run_id} was begun on another tracking server: {redact(tracking_uri(target))} does not have it."
        ) from None
    return run_id


def _create(target: TrackingConfig, run: MlflowRun, folder: Path) -> str:
    tags = {key: value for key, value in run.data.tags.items() if key != BELONGS}
    key, name = tags["distill.key"], run.info.run_name
    try:
        attempt(lambda: arrive(target))
        run_id = attempt(lambda: records.create(target, key=key, name=name, tags=tags, time=run.info.start_time))
    except Refused as refusal:
        raise ServerAway(f"the server refuses the run: {refusal}") from refusal
    _link_work(folder, run_id)
    return run_id


def _link_work(folder: Path, run_id: str) -> None:
    """Let the work folder of a run that began offline be found under its id on the server too."""
    link = Path(_store(folder)) / "work" / run_id
    if (link.parent / folder.stem).is_dir():
        with contextlib.suppress(OSError):  # there already, or a file system without links
            link.symlink_to(folder.stem, target_is_directory=True)
