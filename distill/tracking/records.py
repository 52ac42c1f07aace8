"""What is written to a store, one function each. All of them may be repeated: what is there already is not doubled.

They raise whatever MLflow raises; `client.attempt` and `client.patiently` sort that out.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.config import TrackingConfig
from distill.tracking.client import connect, experiment_id

if TYPE_CHECKING:
    from mlflow.entities import Metric

MAX_KEY, MAX_PARAM, MAX_TAG, MAX_DIGEST = 250, 6000, 8000, 36  # MLflow's limits, in characters
BATCH = {"params": 100, "tags": 100, "metrics": 1000}  # ... and in entries a call
DIGITS = 7  # significant digits of a metric: those of a float32


def now_ms() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)


def key_text(name: str) -> str:
    """A metric, parameter or tag name in the letters MLflow admits."""
    return re.sub(r"[^\w\-. :/]", "_", name)[:MAX_KEY]


def value_text(value: Any, limit: int) -> str:
    """A value as text of at most `limit` characters."""
    text = str(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def tag_texts(tags: Mapping[str, Any]) -> dict[str, str]:
    """Tags in the form that MLflow admits."""
    return {key_text(key): value_text(value, MAX_TAG) for key, value in tags.items()}


def rounded(value: float) -> float:
    """A metric as it is stored: whole numbers as they are, others with DIGITS significant digits; nan and inf stay."""
    return value if value % 1 == 0 else float(f"{value:.{DIGITS}g}")


def create(place: TrackingConfig, *, key: str, name: str, tags: Mapping[str, str], time: int) -> str:
    """The id of a new run, or of the one that an earlier, half-failed attempt with this `key` made. time: its start, in
    ms.
    """
    client = connect(place)
    experiment = experiment_id(client, place)
    made = client.search_runs([experiment], f"tags.`distill.key` = '{key}'", max_results=1)
    if made:
        return made[0].info.run_id
    run = client.create_run(experiment, start_time=time, tags={**tags, "distill.key": key}, run_name=name)
    return run.info.run_id


def log_metrics(place: TrackingConfig, run_id: str, values: Mapping[str, float], step: int, time: int) -> None:
    """One point of each metric. A point equal in key, step, time and value is there once however often it is sent."""
    from mlflow.entities import Metric

    log_points(place, run_id, [Metric(key, value, time, step) for key, value in values.items()])


def log_points(place: TrackingConfig, run_id: str, points: Sequence[Metric]) -> None:
    """Points of metrics, of any steps and times."""
    _batches(place, run_id, "metrics", points)


def set_tags(place: TrackingConfig, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags, over those that are there."""
    from mlflow.entities import RunTag

    _batches(place, run_id, "tags", [RunTag(key, value) for key, value in tags.items()])


def log_params(place: TrackingConfig, run_id: str, values: Mapping[str, str]) -> None:
    """Log the new ones. MLflow refuses to change a parameter, so what a resumed run changed becomes a tag."""
    from mlflow.entities import Param

    old = connect(place).get_run(run_id).data.params
    _batches(place, run_id, "params", [Param(key, value) for key, value in values.items() if key not in old])
    changed = [
        f"{key}: {old[key]} -> {value}"
        for key, value in values.items()
        if old.get(key, value) != value and key != "resume"  # which always differs and does not matter
    ]
    if changed:
        set_tags(place, run_id, {"distill.changed_params": value_text("; ".join(changed), MAX_TAG)})


def log_artifact(place: TrackingConfig, run_id: str, path: Path, folder: str) -> None:
    """A file, or a folder with all its files, under `folder` of the run's artifacts ("": at their top)."""
    connect(place).log_artifact(run_id, str(path), folder or None)


def log_dataset(place: TrackingConfig, run_id: str, name: str, digest: str, source: str, context: str) -> None:
    """Enter a data set as an input. source: its folder; context: training, validation."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(name=name, digest=digest[:MAX_DIGEST], source_type="local", source=json.dumps({"uri": source}))
    connect(place).log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])])


def reopen(place: TrackingConfig, run_id: str) -> None:
    """Set the run's status to RUNNING."""
    connect(place).update_run(run_id, status="RUNNING")


def finish(place: TrackingConfig, run_id: str, status: str, time: int) -> None:
    """End the run as FINISHED, FAILED or KILLED. time: its end, in ms."""
    connect(place).set_terminated(run_id, status, end_time=time)


def last_steps(place: TrackingConfig, run_id: str) -> dict[str, int]:
    """Largest logged step of each of the run's metrics (those of the machine itself, `system/...`, left out)."""
    client = connect(place)
    keys = [key for key in client.get_run(run_id).data.metrics if not key.startswith("system/")]
    return {key: max(point.step for point in client.get_metric_history(run_id, key)) for key in keys}


def _batches(place: TrackingConfig, run_id: str, kind: str, items: Sequence) -> None:
    for start in range(0, len(items), BATCH[kind]):
        connect(place).log_batch(run_id, **{kind: list(items[start : start + BATCH[kind]])})
