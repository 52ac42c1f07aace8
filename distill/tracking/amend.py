"""What is written to a run from outside: its process has ended, or there was none. Raises UserError where that is
impossible.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from distill.config import TrackingConfig
from distill.tracking import records
from distill.tracking.lookup import reach

if TYPE_CHECKING:
    from mlflow import MlflowClient


def end_run(tracking: TrackingConfig, run_id: str, status: str) -> None:
    """Set the status (FINISHED, FAILED, KILLED) of a run whose process is gone."""
    reach(tracking, lambda client: client.set_terminated(run_id, status), f"There is no run '{run_id}'")


def tag_run(tracking: TrackingConfig, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of a run, over those that it has."""
    texts = records.tag_texts(tags)
    reach(tracking, lambda _: records.set_tags(tracking, run_id, texts), f"There is no run '{run_id}'")


def add_artifacts(tracking: TrackingConfig, run_id: str, files: Iterable[Path], folder: str = "") -> None:
    """Store files under `folder` of the run's artifacts, over those of the same name."""
    paths = [str(file) for file in files]

    def add(client: MlflowClient) -> None:
        for path in paths:
            client.log_artifact(run_id, path, folder or None)

    reach(tracking, add, f"There is no run '{run_id}'")


def write_entry(
    tracking: TrackingConfig,
    experiment: str,
    *,
    job: str,
    key: str,
    name: str,
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
    files: Sequence[Path] = (),
    time: int = 0,
) -> str:
    """Write a run in which nothing was computed, an entry of a ledger, as a whole or not at all; its id.

    key: 12 characters or more that identify it. An entry that is there already gets the new tags and metrics and keeps
    the others; its time and files stay. time: milliseconds since 1970 at which it began (0: now).
    """
    place = replace(tracking, experiment=experiment)
    began = time or records.now_ms()

    def write(client) -> str:
        run_id = records.create(place, key=key, name=name, tags={"distill.job": job}, time=began)
        records.set_tags(place, run_id, records.tag_texts(tags))
        records.log_metrics(place, run_id, metrics, 0, records.now_ms())
        held = {entry.path for entry in client.list_artifacts(run_id)}
        for file in files:
            if file.name not in held:
                records.log_artifact(place, run_id, file, "")
        records.finish(place, run_id, "FINISHED", max(began, records.now_ms()))
        return run_id

    return reach(place, write, f"The ledger '{experiment}' has no such entry", make=True)
