"""Finding runs, their files, and registered models. Nothing found: NotFound, one sentence. Looking makes nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote, urlsplit

from distill.config import TrackingConfig
from distill.errors import UserError
from distill.metrics import Report, RunErrors
from distill.tracking.client import (
    Missing,
    Refused,
    ServerAway,
    attempt,
    connect,
    exists,
    patiently,
    redact,
    store_root,
    tracking_uri,
)
from distill.tracking.database import sqlite_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun
    from mlflow.entities.model_registry import ModelVersion

T = TypeVar("T")

MODEL_FOLDER = "model"  # the artifact folder of a run that holds its one model file
LAST = "val/nme_last"  # metric: of the last epoch's averaged weights, which no validation image chose


class NotFound(UserError):
    """The store has no such thing."""


@dataclass(frozen=True)
class RunInfo:
    """A run as the store has it."""

    id: str
    name: str
    job: str  # teacher, student, evaluate; "" for a run that this package did not make
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]  # the last logged value of each
    status: str  # RUNNING, FINISHED, FAILED, KILLED; OFFLINE: not on the server yet


@dataclass(frozen=True)
class DatasetInput:
    """A data set that a run was given."""

    name: str
    digest: str
    folder: str  # as it was given when the run was made: it may be relative, and on another machine
    context: str  # training, validation


def find_run(tracking: TrackingConfig, ref: str) -> RunInfo:
    """The run with this id, this beginning of an id (6 characters or more), or this name, in any experiment.

    A run that is not on its server yet is found by its `offline-...` name. Raises NotFound if none fits, UserError if
    several do.
    """
    if ref.startswith("offline-"):
        for folder in offline_folders(store_root(tracking), ref):
            run = only_run(offline_place(folder))
            if run is not None:
                return replace(info_of(run), id=ref, status="OFFLINE")
    found = reach(tracking, lambda client: _candidates(client, ref)) if exists(tracking) else []
    if not found:
        raise NotFound(
            f"There is no run '{ref}' in {_place(tracking)}; expected a run id, the first 6 or more characters of one, "
            "or a run's name."
        )
    if len(found) > 1:
        ids = ", ".join(run.info.run_id for run in found[:5])
        raise UserError(f"'{ref}' fits {len(found)} runs ({ids}); give one id.")
    return info_of(found[0])


def newest_run(tracking: TrackingConfig, job: str, tags: dict[str, str]) -> RunInfo | None:
    """The FINISHED run of this job and with these tags that ended last, in any experiment."""
    where = f"{_wanted(job, tags)} and attributes.status = 'FINISHED'"
    return next(iter(_runs(tracking, where, "attributes.end_time DESC", limit=1)), None)


def runs_tagged(tracking: TrackingConfig, job: str, tags: dict[str, str]) -> list[RunInfo]:
    """All runs of this job with these tags, in whatever state and experiment, newest first."""
    return _runs(tracking, _wanted(job, tags))


def list_runs(tracking: TrackingConfig, job: str | None = None) -> list[RunInfo]:
    """All runs of the configured experiment, newest first."""
    where = f"tags.`distill.job` = {_quote(job)}" if job else ""

    def search(client: MlflowClient) -> list[MlflowRun]:
        experiment = client.get_experiment_by_name(tracking.experiment)
        return _search(client, where, experiments=[experiment.experiment_id]) if experiment else []

    return [info_of(run) for run in reach(tracking, search)] if exists(tracking) else []


def metric_history(tracking: TrackingConfig, run_id: str, key: str) -> list[tuple[int, float]]:
    """(step, value) of every logged point, by step. Raises NotFound if the run has no such metric."""
    points = reach(tracking, lambda client: client.get_metric_history(run_id, key), f"There is no run '{run_id}'")
    if not points:
        raise NotFound(f"Run {run_id} has no metric '{key}' in {_place(tracking)}.")
    return [(point.step, point.value) for point in sorted(points, key=lambda point: (point.step, point.timestamp))]


def artifact_path(tracking: TrackingConfig, run_id: str, path: str) -> Path:
    """Local path of a run's artifact, file or folder; fetched into `<store>/downloads/` if the server keeps it. Raises
    NotFound.
    """
    run = reach(tracking, lambda client: client.get_run(run_id), f"There is no run '{run_id}'")
    nothing = f"Run {run_id} has no artifact '{path}' in {_place(tracking)}."
    place = urlsplit(run.info.artifact_uri)
    if place.scheme in ("", "file"):
        # The second place: the store was moved since, and MLflow's database has its old place.
        moved = sorted(store_root(tracking).glob(f"artifacts/*/{run_id}/artifacts"))
        for root in [Path(unquote(place.path)), *moved]:
            if (root / path).exists():
                return root / path
        raise NotFound(nothing)
    target = store_root(tracking) / "downloads" / run_id

    def fetch(client: MlflowClient) -> Path | None:
        parent = "" if "/" not in path else path.rpartition("/")[0]
        if path not in [entry.path for entry in client.list_artifacts(run_id, parent or None)]:
            return None
        target.mkdir(parents=True, exist_ok=True)
        return Path(client.download_artifacts(run_id, path, str(target)))

    found = reach(tracking, fetch)
    if found is None:
        raise NotFound(nothing)
    return found


def datasets(tracking: TrackingConfig, run_id: str) -> list[DatasetInput]:
    """The data sets that the run has as inputs. Raises NotFound where there is no such run."""
    run = reach(tracking, lambda client: client.get_run(run_id), f"There is no run '{run_id}'")
    found = []
    for given in run.inputs.dataset_inputs:
        context = next((tag.value for tag in given.tags if tag.key == "mlflow.data.context"), "")
        try:
            folder = str(json.loads(given.dataset.source)["uri"])
        except (ValueError, KeyError, TypeError):  # not logged by this package
            folder = ""
        found.append(DatasetInput(given.dataset.name, given.dataset.digest, folder, context))
    return found


def read_report(tracking: TrackingConfig, run_id: str) -> Report:
    """The errors on the validation set that a run logged. Raises UserError where it has none that can be read."""
    return _report(tracking, run_id, "evaluation/report.json")


def read_errors(tracking: TrackingConfig, run_id: str) -> RunErrors:
    """The errors on the validation images that a run logged, for `metrics.compare_runs`. Raises UserError as above."""
    chosen = read_report(tracking, run_id).per_image
    try:
        last = _report(tracking, run_id, "evaluation/last_report.json").per_image
    except NotFound:
        last = None  # a run of an earlier version, or an average of several models
    return RunErrors(chosen, last)


def _report(tracking: TrackingConfig, run_id: str, name: str) -> Report:
    path = artifact_path(tracking, run_id, name)
    try:
        return Report.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, KeyError, TypeError, ValueError) as error:
        what = f"{type(error).__name__} {error}"
        raise UserError(f"Run {run_id}: its artifact '{name}' is not a report of this package ({what}).") from None


def resolve_registry(tracking: TrackingConfig, ref: str) -> tuple[str, Path]:
    """(run id, local folder) of `models:/NAME@ALIAS` or `models:/NAME/VERSION`."""
    match = re.fullmatch(r"models:/([^@/]+)(?:@([\w-]+)|/(\d+))", ref)
    if not match:
        raise UserError(f"'{ref}' is not a registry reference; expected models:/NAME@ALIAS or models:/NAME/VERSION.")
    name, alias, version = match.groups()

    def get(client: MlflowClient) -> ModelVersion:
        if alias:
            return client.get_model_version_by_alias(name, alias)
        return client.get_model_version(name, version)

    found = reach(tracking, get, f"There is no registered model '{ref}'")
    source = re.fullmatch(r"runs:/([^/]+)/?(.*)", found.source)
    if not source:
        raise UserError(f"'{ref}' was not registered by this package (its source is '{found.source}').")
    return source[1], artifact_path(tracking, source[1], source[2])


def version_by_alias(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    """The model version that an alias points to; None where there is no such model or alias."""
    try:
        return attempt(lambda: client.get_model_version_by_alias(name, alias))
    except Refused:  # no such model, or no such alias
        return None


def by_key(client: MlflowClient, key: str) -> str | None:
    """Id of the run that was `offline-<key>` before its upload."""
    found = _search(client, f"tags.`distill.key` = {_quote(key)}", limit=1)
    return found[0].info.run_id if found else None


# ---------------------------------------------------------------------------------------------------- offline


def offline_folders(root: Path, name: str | None = None) -> list[Path]:
    """The little stores, one an outage, in which the run `name` (an id, or `offline-...`; None: every run) waits for
    its server, oldest first. offline.py makes, fills and copies them.
    """
    found = [file.parent for file in root.glob("offline/*.*/mlflow.db")]
    return sorted((folder for folder in found if name in (None, folder.stem)), key=lambda folder: folder.suffix)


def offline_place(folder: Path) -> TrackingConfig:
    """The store in such a folder."""
    return TrackingConfig(uri=sqlite_uri(folder.resolve() / "mlflow.db"), store=str(folder.resolve()))


def only_run(place: TrackingConfig) -> MlflowRun | None:
    """The one run of such a store; None where a kill came before it was made."""
    return next(iter(_search(connect(place), "", limit=1)), None)


# ---------------------------------------------------------------------------------------------------- inside


def reach(
    tracking: TrackingConfig,
    question: Callable[[MlflowClient], T],
    nothing: str = "There is no such entry",
    make: bool = False,
) -> T:
    """`question(client)`. Raises UserError where the store is away, and NotFound where it has nothing of the kind or is
    not there itself (`nothing` names what was looked for). make: a store that is not there is made.
    """
    if not make and not exists(tracking):
        raise NotFound(f"{nothing} in {_place(tracking)}, which does not exist.")
    try:
        return patiently(lambda: question(connect(tracking)))
    except ServerAway as away:
        raise UserError(f"The tracking store {_place(tracking)} cannot be reached: {away}.") from None
    except Refused:
        raise NotFound(f"{nothing} in {_place(tracking)}.") from None


def _runs(
    tracking: TrackingConfig, where: str, order: str = "attributes.start_time DESC", limit: int | None = None
) -> list[RunInfo]:
    if not exists(tracking):
        return []
    return [info_of(run) for run in reach(tracking, lambda client: _search(client, where, order, limit))]


def _place(tracking: TrackingConfig) -> str:
    return redact(tracking_uri(tracking))


def _quote(value: str) -> str:
    return f'"{value}"' if "'" in value else f"'{value}'"


def _wanted(job: str, tags: dict[str, str]) -> str:
    wanted = {"distill.job": job, **tags}
    return " and ".join(f"tags.`{key}` = {_quote(str(value))}" for key, value in wanted.items())


def _candidates(client: MlflowClient, ref: str) -> list[MlflowRun]:
    if ref.startswith("offline-"):
        return _search(client, f"tags.`distill.key` = {_quote(ref.removeprefix('offline-'))}")
    if re.fullmatch(r"[0-9a-f]{32}", ref):
        try:
            run = attempt(lambda: client.get_run(ref))
        except Missing:
            return []
        return [run] if run.info.lifecycle_stage == "active" else []
    found = _search(client, f"attributes.run_name = {_quote(ref)}")
    if not found and re.fullmatch(r"[0-9a-f]{6,31}", ref):
        found = _search(client, f"attributes.run_id LIKE '{ref}%'")
    return found


def _search(
    client: MlflowClient,
    where: str,
    order: str = "attributes.start_time DESC",
    limit: int | None = None,
    experiments: list[str] | None = None,
) -> list[MlflowRun]:
    if experiments is None:
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs, token = [], None
    while True:
        page = client.search_runs(experiments, where, max_results=limit or 1000, order_by=[order], page_token=token)
        runs.extend(page)
        token = page.token
        if not token or limit:
            return runs


def info_of(run: MlflowRun) -> RunInfo:
    """A run of MLflow's as plain values."""
    tags = dict(run.data.tags)
    return RunInfo(
        id=run.info.run_id,
        name=run.info.run_name,
        job=tags.get("distill.job", ""),
        tags=tags,
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        status=run.info.status,
    )
