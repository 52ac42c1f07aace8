"""What is said about a run from outside: its process is gone, or knows nothing of it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from distill.config import TrackingConfig
from distill.tracking.lookup import reach


def end_run(tracking: TrackingConfig, run_id: str, status: str) -> None:
    """Set the status (FINISHED, FAILED, KILLED) of a run whose process is gone."""
    reach(tracking, lambda client: client.set_terminated(run_id, status), f"There is no run '{run_id}'")


def add_artifacts(tracking: TrackingConfig, run_id: str, files: Iterable[Path], folder: str = "") -> None:
    """Store files under `folder` of the run's artifacts, over those of the same name. Raises UserError where that is impossible."""
    for file in files:
        reach(
            tracking,
            lambda client, file=file: client.log_artifact(run_id, str(file), folder or None),
            f"There is no run '{run_id}'",
        )
