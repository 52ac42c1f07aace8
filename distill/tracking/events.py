"""One logged thing as a plain dict, and how MLflow is told about it.

A run that is online applies each event at once; one that is offline writes the same dict to its spool, which applies it
later. Times are part of the event, so a curve logged offline looks as if the server had been there, and telling MLflow
twice about one event changes nothing (its stores drop a metric point equal in key, step, time and value).
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.config import TrackingConfig
from distill.tracking import ui
from distill.tracking.client import experiment_id

if TYPE_CHECKING:
    from mlflow import MlflowClient

Event = dict[str, Any]

MAX_KEY, MAX_PARAM, MAX_TAG, MAX_DIGEST = 250, 6000, 8000, 36  # MLflow's limits, in characters
BATCH = {"params": 100, "tags": 100, "metrics": 1000}  # ... and in entries a call


def now_ms() -> int:
    return int(time.time() * 1000)


def key_text(name: str) -> str:
    """A metric, parameter or tag name in the letters MLflow admits."""
    return re.sub(r"[^\w\-. :/]", "_", name)[:MAX_KEY]


def value_text(value: Any, limit: int) -> str:
    text = str(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def create(client: MlflowClient, tracking: TrackingConfig, event: Event) -> str:
    """Apply a `start` event: the new run's id, or that of the run an earlier, half-failed attempt made."""
    experiment = experiment_id(client, tracking)
    made = client.search_runs([experiment], f"tags.`distill.key` = '{event['key']}'", max_results=1)
    if made:
        return made[0].info.run_id
    tags = {**event["tags"], "distill.key": event["key"]}
    return client.create_run(experiment, start_time=event["time"], tags=tags, run_name=event["name"]).info.run_id


def apply(client: MlflowClient, run_id: str, event: Event, base: Path = Path()) -> str | None:
    """Tell MLflow about any other event; `base` is the folder that an artifact's relative path starts from.

    Returns the version for `register`, else None. Raises whatever MLflow raises.
    """
    values = event.get("values", {})
    match event["op"]:
        case "params":
            _log_params(client, run_id, values)
        case "metrics":
            from mlflow.entities import Metric

            points = [Metric(key, value, event["time"], event["step"]) for key, value in values.items()]
            _batches(client, run_id, "metrics", points)
        case "tags":
            from mlflow.entities import RunTag

            _batches(client, run_id, "tags", [RunTag(key, value) for key, value in values.items()])
        case "artifact":
            client.log_artifact(run_id, str(base / event["file"]), event["folder"] or None)
        case "dataset":
            _log_dataset(client, run_id, event)
        case "register":
            return _register(client, run_id, event)
        case "reopen":
            client.update_run(run_id, status="RUNNING")
        case "finish":
            client.set_terminated(run_id, event["status"], end_time=event["time"])
        case unknown:
            raise ValueError(f"unknown event '{unknown}'")
    return None


def last_steps(client: MlflowClient, run_id: str) -> dict[str, int]:
    """Largest logged step of each of the run's metrics (those of the machine itself, `system/...`, left out)."""
    keys = [key for key in client.get_run(run_id).data.metrics if not key.startswith("system/")]
    return {key: max(point.step for point in client.get_metric_history(run_id, key)) for key in keys}


def above(floor: dict[str, int], event: Event) -> Event:
    """The metrics event without the points that were logged before the run was resumed."""
    return {**event, "values": {k: v for k, v in event["values"].items() if event["step"] > floor.get(k, -(2**62))}}


def _batches(client: MlflowClient, run_id: str, kind: str, items: list) -> None:
    for start in range(0, len(items), BATCH[kind]):
        client.log_batch(run_id, **{kind: items[start : start + BATCH[kind]]})


def _log_params(client: MlflowClient, run_id: str, values: dict[str, str]) -> None:
    """Log the new ones. MLflow refuses to change a parameter, so what a resumed run changed becomes a tag."""
    from mlflow.entities import Param

    old = client.get_run(run_id).data.params
    _batches(client, run_id, "params", [Param(key, value) for key, value in values.items() if key not in old])
    changed = [
        f"{key}: {old[key]} -> {value}"
        for key, value in values.items()
        if old.get(key, value) != value and key != "resume"  # which always differs, and says nothing
    ]
    if changed:
        client.set_tag(run_id, "distill.changed_params", value_text("; ".join(changed), MAX_TAG))


def _log_dataset(client: MlflowClient, run_id: str, event: Event) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=event["name"],
        digest=event["digest"][:MAX_DIGEST],
        source_type="local",
        source=json.dumps({"uri": event["source"]}),
    )
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", event["context"])])])


def _keep_previous(client: MlflowClient, name: str, version: str) -> None:
    """The champion that another version is about to follow stays at hand as `previous`."""
    from mlflow.exceptions import MlflowException

    try:
        holder = str(client.get_model_version_by_alias(name, "champion").version)
    except MlflowException:  # there is none yet
        return
    if holder != version:
        client.set_registered_model_alias(name, "previous", holder)


def _register(client: MlflowClient, run_id: str, event: Event) -> str:
    from mlflow.exceptions import MlflowException

    name, source = event["name"], f"runs:/{run_id}/{event['folder']}"
    try:
        client.create_registered_model(name, description=ui.model_note(name))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        if not client.get_registered_model(name).description:
            client.update_registered_model(name, ui.model_note(name))
    versions = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    version = next((str(found.version) for found in versions if found.source == source), None)
    if version is None:
        version = str(client.create_model_version(name, source, run_id, await_creation_for=0).version)
    client.update_model_version(name, version, event["description"])
    for key, value in event["tags"].items():
        client.set_model_version_tag(name, version, key, value)
    for alias in event["aliases"]:
        if alias == "champion":
            _keep_previous(client, name, version)
        client.set_registered_model_alias(name, alias, version)
    return version
