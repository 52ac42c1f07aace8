"""Entries of a ledger: runs in which nothing was computed, told in full or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from distill.config import TrackingConfig
from distill.tracking.events import apply, create, now_ms
from distill.tracking.lookup import RunInfo, list_runs, reach


def entries(tracking: TrackingConfig, experiment: str, job: str) -> list[RunInfo]:
    """All entries of a ledger, newest first; none where it was never written to. Raises UserError where the store is away."""
    return list_runs(replace(tracking, experiment=experiment), job)


def enter(
    tracking: TrackingConfig,
    experiment: str,
    *,
    job: str,
    key: str,
    name: str,
    tags: dict[str, str],
    metrics: dict[str, float],
    files: Sequence[Path] = (),
    time: int = 0,
) -> str:
    """Write the entry with this `key` (12 characters or more that identify it), and return its run id.

    An entry that is there already gets the new tags and metrics and keeps the others; its time and files stay. `time`:
    milliseconds since 1970 at which it began (0: now). Raises UserError where the store cannot be written to: what a ledger
    has not taken must not pass for logged.
    """
    place = replace(tracking, experiment=experiment)
    began = time or now_ms()
    start = {"op": "start", "name": name, "tags": {"distill.job": job}, "time": began, "key": key}

    def tell(client) -> str:
        run_id = create(client, place, start)
        apply(client, run_id, {"op": "tags", "values": tags})
        apply(client, run_id, {"op": "metrics", "values": metrics, "step": 0, "time": now_ms()})
        held = {entry.path for entry in client.list_artifacts(run_id)}
        for file in files:
            if file.name not in held:
                apply(client, run_id, {"op": "artifact", "file": str(file), "folder": ""})
        apply(client, run_id, {"op": "finish", "status": "FINISHED", "time": max(began, now_ms())})
        return run_id

    return reach(tracking, tell, f"The ledger '{experiment}' has no such entry")
