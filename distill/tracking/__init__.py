"""The only package that uses MLflow, and it imports MLflow only when a store is first used.

`Run` records one training or evaluation and never lets a tracking failure reach it: a server that goes away is retried
for a few seconds, then the run is logged to a local store under `<store>/offline/` and copied later, by the run itself
or by `python -m distill.tracking upload`. The lookups answer "which run, which file, which registered model" and raise
UserError with one sentence when there is no answer; they make nothing.

    database.py     the sqlite file of a local store: made whole, recognised when broken, moved
    client.py       where the store is; connecting; which failures mean "away" and which "refused"
    records.py      what is written to a run, one function each
    run.py          Run, NullRun: the same for a job that must not be stopped by it
    offline.py      the local store of a run whose server is away, and its copying
    lookup.py       finding runs, artifacts, data sets, registered models
    registry.py     versions of registered models, and which is champion
    amend.py        what is written to a run from outside
    ui.py           what MLflow's pages show of an experiment; serving them
    locks.py        which process works on what
    environment.py  code revision, package versions, hardware
"""

from __future__ import annotations

from distill.tracking.amend import add_artifacts, end_run, tag_run, write_entry
from distill.tracking.client import exists, redact, retried, store_root, tracking_uri, work_dir
from distill.tracking.database import sqlite_file, sqlite_uri
from distill.tracking.locks import Held, exclusive, hold, is_held
from distill.tracking.lookup import (
    LAST,
    MODEL_FOLDER,
    DatasetInput,
    NotFound,
    RunInfo,
    artifact_path,
    datasets,
    find_run,
    list_runs,
    metric_history,
    newest_run,
    read_errors,
    read_report,
    resolve_registry,
    runs_tagged,
)
from distill.tracking.offline import send_waiting, upload
from distill.tracking.run import NullRun, Run
from distill.tracking.ui import NOTE
