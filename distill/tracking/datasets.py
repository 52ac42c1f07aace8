"""The data sets that a run was given."""

from __future__ import annotations

import json
from dataclasses import dataclass

from distill.config import TrackingConfig
from distill.tracking.lookup import reach


@dataclass(frozen=True)
class DatasetInput:
    name: str
    digest: str
    folder: str  # as it was given when the run was made: it may be relative, and on another machine
    context: str  # training, validation


def datasets(tracking: TrackingConfig, run_id: str) -> list[DatasetInput]:
    """The data sets that the run has as inputs. Raises UserError where there is no such run or no store."""
    run = reach(tracking, lambda client: client.get_run(run_id), f"There is no run '{run_id}'")
    found = []
    for given in run.inputs.dataset_inputs:
        context = next((tag.value for tag in given.tags if tag.key == "mlflow.data.context"), "")
        try:
            folder = str(json.loads(given.dataset.source)["uri"])
        except (ValueError, KeyError, TypeError):  # logged by other code than ours
            folder = ""
        found.append(DatasetInput(given.dataset.name, given.dataset.digest, folder, context))
    return found
