"""The model registry: which name a model gets, what its versions show, and which version `champion` means.

Errors on different images cannot be compared, so each validation set has a champion of its own, `champion-<first 8 of
the set's fingerprint>`, which moves only to a model whose errors on that set are smaller by more than the choice of
images explains. Plain `champion` moves with that of one set: the first that is not the bundled sample's, or the one to
whose model somebody has moved it by hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from distill import metrics
from distill.config import TrackingConfig
from distill.errors import UserError
from distill.metrics import Comparison
from distill.tracking import ui
from distill.tracking.client import Missing, attempt, connect, make_store
from distill.tracking.locks import exclusive
from distill.tracking.lookup import (
    MODEL_FOLDER,
    NotFound,
    RunInfo,
    find_run,
    info_of,
    reach,
    read_errors,
    version_by_alias,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

NEWEST, CHAMPION, PREVIOUS = "newest", "champion", "previous"  # aliases
METRIC = "best/val/nme"
VAL, SAMPLE = (
    "data.val",
    "data.is_sample",
)  # tags of runs and versions: the validation set's fingerprint, the bundled sample
_SHOWN = ("distill.role", VAL, SAMPLE)  # tags of a run that its version has too


@dataclass(frozen=True)
class Verdict:
    """Whether the champion of the run's validation set moves to it, and why, as half a sentence."""

    moves: bool
    why: str
    difference: Comparison | None = None  # challenger - holder, percent points


def model_name(job: str, role: str) -> str:
    """The name under which a model is registered. role: as `distill.role`."""
    # an assistant is of the teachers' job, but no student means it by "the newest teacher"
    return f"distill-{role if role == 'assistant' else job}"


def register(tracking: TrackingConfig, name: str, run_id: str) -> tuple[str, Verdict]:
    """Enter a run's model as a version of `name`, or update the run's version; (version, what became of the champion).

    Raises UserError where the store is away, and NotFound where it has no such run.
    """
    return reach(tracking, lambda client: enter(tracking, run_id, name), f"There is no run '{run_id}'")


def enter(tracking: TrackingConfig, run_id: str, name: str) -> tuple[str, Verdict]:
    """As `register`; raises what MLflow raises."""
    client = connect(tracking)
    run = info_of(client.get_run(run_id))
    with exclusive(make_store(tracking) / "work" / "locks" / "registry.lock", "", seconds=-1):
        version = _version(client, name, run)
        client.set_registered_model_alias(name, NEWEST, version)
        verdict = challenge(tracking, client, name, run)
        if verdict.moves:
            _move(client, name, run, version)
        client.set_model_version_tag(name, version, CHAMPION, verdict.why)
    return version, verdict


def challenge(tracking: TrackingConfig, client: MlflowClient, name: str, run: RunInfo) -> Verdict:
    """Whether the champion of the run's validation set moves to it: where its errors on the same images are smaller, by
    an interval (95 %, over images) that lies below 0.
    """
    if VAL not in run.tags:
        return Verdict(False, "its validation images are not known")
    holder = version_by_alias(client, name, _own_alias(run))
    if holder is None:  # a store from before each set had its own
        main = version_by_alias(client, name, CHAMPION)
        holder = main if main and main.tags.get(VAL) == run.tags[VAL] else None
    if holder is None:
        return Verdict(True, "there was none")
    if holder.run_id == run.id:
        return Verdict(False, "this run holds it already")
    try:
        find_run(tracking, holder.run_id)
    except NotFound:
        return Verdict(True, f"the run of the holder, {holder.run_id}, was deleted")
    try:
        difference = metrics.compare_runs([read_errors(tracking, run.id)], [read_errors(tracking, holder.run_id)])
    except UserError as error:
        return Verdict(False, f"it cannot be compared with the holder, run {holder.run_id}: {str(error).rstrip('.')}")
    return Verdict(difference.high < 0, f"val/nme {difference} against the holder, run {holder.run_id}", difference)


def _own_alias(run: RunInfo) -> str:
    return f"{CHAMPION}-{run.tags[VAL][:8]}"


def _version(client: MlflowClient, name: str, run: RunInfo) -> str:
    """The version of the run's model, made if need be, with the run's description, result, role and data."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description=ui.model_note(name))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"runs:/{run.id}/{MODEL_FOLDER}"
    made = client.search_model_versions(f"name = '{name}' and run_id = '{run.id}'")
    version = next((str(found.version) for found in made if found.source == source), None)
    if version is None:
        version = str(client.create_model_version(name, source, run.id, await_creation_for=0).version)
    client.update_model_version(name, version, run.tags.get(ui.NOTE, ""))
    shown = {key: run.tags[key] for key in _SHOWN if run.tags.get(key)}
    if METRIC in run.metrics:
        shown["val/nme"] = f"{run.metrics[METRIC]:.4f}"
    for key, value in shown.items():
        client.set_model_version_tag(name, version, key, value)
    return version


def _move(client: MlflowClient, name: str, run: RunInfo, version: str) -> None:
    client.set_registered_model_alias(name, _own_alias(run), version)
    main = version_by_alias(client, name, CHAMPION)
    real_at_last = main is not None and _of_sample(client, main) and run.tags.get(SAMPLE) != "true"
    if main is None or main.tags.get(VAL) == run.tags[VAL] or real_at_last:
        client.set_registered_model_alias(name, CHAMPION, version)
        if main is not None and str(main.version) != version:
            client.set_registered_model_alias(name, PREVIOUS, str(main.version))


def _of_sample(client: MlflowClient, version: ModelVersion) -> bool:
    try:
        return attempt(lambda: client.get_run(version.run_id)).data.tags.get(SAMPLE) == "true"
    except Missing:  # the run was deleted for good
        return False
