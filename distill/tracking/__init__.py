"""The only package that knows MLflow, and it imports MLflow only when a store is first used.

`Run` records one training or evaluation and never lets a tracking failure reach it: a server that goes away is retried
for a few seconds, then everything is spooled under `<store>/offline/` and sent later, by the run itself or by
`python -m distill.tracking upload`. The lookups answer "which run, which file, which registered model" and raise
UserError with one sentence when there is no answer.

    store.py        where the store is; connecting; which failures mean "away" and which "refused"
    events.py       one logged thing as plain data, and how MLflow is told about it (now, or from the spool)
    spool.py        the local queue of such events, and its upload
    run.py          Run, NullRun
    lookup.py       finding runs, artifacts, registered models
    moving.py       a store that is in another folder than it was
    pages.py        what MLflow's pages show of an experiment
    after.py        what is said about a run from outside
    locks.py        which process is at work on what
    environment.py  code revision, package versions, hardware
"""

from __future__ import annotations

from distill.tracking.amend import add_artifacts, end_run, register_run, tag_run
from distill.tracking.client import store_root, tracking_uri, work_dir
from distill.tracking.locks import Held, exclusive, hold, is_held
from distill.tracking.lookup import (
    MODEL_FOLDER,
    RunInfo,
    alias_holder,
    artifact_path,
    best_run,
    find_run,
    list_runs,
    metric_history,
    newest_run,
    read_report,
    resolve_registry,
    runs_tagged,
)
from distill.tracking.offline import send_spooled, upload
from distill.tracking.run import NullRun, Run
from distill.tracking.ui import NOTE

__all__ = [
    "MODEL_FOLDER",
    "NOTE",
    "Held",
    "NullRun",
    "Run",
    "RunInfo",
    "add_artifacts",
    "alias_holder",
    "artifact_path",
    "best_run",
    "end_run",
    "exclusive",
    "find_run",
    "hold",
    "is_held",
    "list_runs",
    "metric_history",
    "newest_run",
    "read_report",
    "register_run",
    "resolve_registry",
    "runs_tagged",
    "send_spooled",
    "store_root",
    "tag_run",
    "tracking_uri",
    "upload",
    "work_dir",
]
