"""What is said about a run from outside: its process is gone, or knows nothing of it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from distill.config import TrackingConfig
from distill.tracking.events import MAX_TAG, apply, value_text
from distill.tracking.lookup import reach

if TYPE_CHECKING:
    from mlflow import MlflowClient


def end_run(tracking: TrackingConfig, run_id: str, status: str) -> None:
    """Set the status (FINISHED, FAILED, KILLED) of a run whose process is gone."""
    reach(tracking, lambda client: client.set_terminated(run_id, status), f"There is no run '{run_id}'")


def tag_run(tracking: TrackingConfig, run_id: str, tags: dict[str, str]) -> None:
    """Set tags of a run, over those that it has. Raises UserError where that is impossible."""

    def tell(client: MlflowClient) -> None:
        for key, value in tags.items():
            client.set_tag(run_id, key, value_text(value, MAX_TAG))

    reach(tracking, tell, f"There is no run '{run_id}'")


def add_artifacts(tracking: TrackingConfig, run_id: str, files: Iterable[Path], folder: str = "") -> None:
    """Store files under `folder` of the run's artifacts, over those of the same name. Raises UserError where that is impossible."""
    for file in files:
        reach(
            tracking,
            lambda client, file=file: client.log_artifact(run_id, str(file), folder or None),
            f"There is no run '{run_id}'",
        )


def register_run(
    tracking: TrackingConfig,
    run_id: str,
    name: str,
    folder: str,
    aliases: list[str],
    description: str,
    tags: dict[str, str],
) -> str:
    """Run.register for a run that has ended: the version. Raises UserError where that is impossible."""
    event = {
        "op": "register", "name": name, "folder": folder, "aliases": aliases, "description": description, "tags": tags,
    }  # fmt: skip
    return reach(tracking, lambda client: apply(client, run_id, event), f"There is no run '{run_id}'")
