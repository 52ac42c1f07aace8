"""MLflow's pages: what they show of an experiment by default, and the command that serves them.

What they show (description, kind, measure, saved views) is tags of the experiment. The views are those of the "Views"
menu above the run list (seen with MLflow 3.17; an MLflow that does not know them ignores the tags).
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import sys
from typing import TYPE_CHECKING, Any

from distill.errors import UserError
from distill.tracking.database import sqlite_file

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

NOTE = "mlflow.note.content"  # the description of a run or an experiment, in Markdown
RESULT = "best/val/nme"
_VIEW = "mlflow.sharedViewState."
_ALL, _STUDENTS = "distill-runs", "distill-students"  # names of the views in links
_NEWEST, _BEST = ("attributes.start_time", False), (f"metrics.`{RESULT}`", True)
# column -> width in pixels, in this order
_COLUMNS = {
    "tags.`distill.role`": 85,
    f"metrics.`{RESULT}`": 105,
    "metrics.`control/val/nme`": 120,
    "metrics.`control/val/difference`": 150,
    "metrics.`teacher/val/nme`": 120,
    "metrics.`model/file_bytes`": 120,
    "metrics.`model/latency_ms`": 130,
    "metrics.`train/minutes`": 110,
}
_FIRST = {"attributes.`Run Name`": 245, "runDateAndNestInfo": 130}  # always there


def arrange(client: MlflowClient, experiment: Experiment) -> None:
    """Give the experiment what it lacks of the tags below; what is there stays."""
    for key, value in _tags(experiment.experiment_id).items():
        if key not in experiment.tags:
            client.set_experiment_tag(experiment.experiment_id, key, value)


def model_note(name: str) -> str:
    """The description of a registered model."""
    words = (
        "`champion`: better on its validation images than every champion before, by more than the choice of images "
        "explains; `previous`: the champion before; `champion-...`: the same for other validation images, by the "
        "first 8 digits of their fingerprint `data.val`; `newest`: registered last. A version's description is its "
        "run's; its model card is the file `README.md` among the run's artifacts, in `model`."
    )
    load = f"\n\n```python\nmodel = mlflow.pyfunc.load_model('models:/{name}@champion')\n```"
    return words + (load if name.endswith("student") else "")  # only students are kept as MLflow models


def _tags(experiment_id: str) -> dict[str, str]:
    return {
        "mlflow.experimentKind": "custom_model_development",  # else its pages open as those of a language model
        "mlflow.experiment.primaryMetric.name": RESULT,
        "mlflow.experiment.primaryMetric.greaterIsBetter": "False",
        # MLflow folds children below their parents in the order of time only
        _VIEW + _ALL: _view("All runs, newest first", "", _NEWEST),
        _VIEW + _STUDENTS: _view("Students, best first", "tags.`distill.job` = 'student'", _BEST),
        NOTE: _note(experiment_id),
    }


def _view(name: str, where: str, order: tuple[str, bool]) -> str:
    widths = _FIRST | _COLUMNS
    state: dict[str, Any] = {
        "searchFilter": where,
        "orderByKey": order[0],
        "orderByAsc": order[1],
        "selectedColumns": list(_COLUMNS),
        "columnOrder": list(widths),
        "columnWidths": widths,
    }
    return json.dumps({"name": name, "createdAt": 0, "updatedAt": 0, "state": json.dumps(state)})


def _note(experiment_id: str) -> str:
    page = f"#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey="
    return f"""Teachers and students of facial landmarks, and comparisons of them. Tables: \
[all runs, newest first]({page}{_ALL}) · [students, best first]({page}{_STUDENTS})

- `{RESULT}`: a run's result, the error on the validation images in percent of the image's side, lower is better; \
`val/nme` is its course over the epochs.
- `control/val/difference`: the result less that of the same training without a teacher; `teacher/val/nme`: the \
teacher's own result.
- A filter: ``tags.`distill.job` = 'student' and metrics.`{RESULT}` < 4``. Jobs: `teacher`, `student`, and parents of \
other runs: `ablation`, `study`, `recipe`. Roles (`distill.role`): `teacher`, `control`, `distilled`, `assistant`, \
`tuned`, `averaged`.
"""


# ---------------------------------------------------------------------------------------------------- the server


def serve(uri: str, experiment: str, host: str, port: int) -> None:
    """Become a server of MLflow's pages for the store at `uri`; for a tracking server, print its address and return.

    Raises UserError where host or port cannot be had, or there is no store.
    """
    page = f"#/experiments{_runs_page(uri, experiment)}"
    if uri.startswith("http"):
        print(f"The runs are on a server that runs already: {uri.rstrip('/')}/{page}")
        return
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: not refused after its own end
        try:
            probe.bind((host, port))
        except (OSError, UnicodeError) as error:  # the latter: of a host whose name is none
            reason = getattr(error, "strerror", None) or error
            raise UserError(
                f"Port {port} of '{host}' cannot be served ({reason}); choose another with --port, or --host."
            ) from None
    print(f"The runs: http://{host}:{port}/{page}", flush=True)
    # a third of the memory and start-up time of the defaults; the URI is not for the list of processes, it may hold a
    # password
    os.environ.update(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false", MLFLOW_BACKEND_STORE_URI=uri)
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", host, "--port", str(port)]
    os.execv(sys.executable, command)


def _runs_page(uri: str, experiment: str) -> str:
    """The path of the experiment's run list, below that of all experiments; "" where the store is not a local file."""
    file = sqlite_file(uri)
    if file is None:
        return ""
    if not file.is_file():
        raise UserError(f"There are no runs to show: '{file}' does not exist.")
    with contextlib.closing(sqlite3.connect(file)) as base, contextlib.suppress(sqlite3.Error):
        for (number,) in base.execute("SELECT experiment_id FROM experiments WHERE name = ?", (experiment,)):
            return f"/{number}/runs?workflowType=machine_learning&viewStateShareKey={_ALL}"
    return ""
