"""What MLflow's pages show of an experiment before anybody has arranged them: its description, kind, measure, saved views.

All of it is tags of the experiment. The views are those of the "Views" menu above the run list (seen with MLflow 3.17; an
MLflow that does not know them ignores the tags).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

NOTE = "mlflow.note.content"  # the description of a run or an experiment, in Markdown
RESULT = "best/val/nme"
OLD_NOTES = (
    "Facial-landmark distillation. Filter by `tags.distill.job` (teacher, student, evaluate) and `tags.distill.recipe`; "
    "compare runs by `val/nme` (percent, lower is better).",
)
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
    """Give the experiment what it lacks of the tags below; a description that a person wrote stays."""
    for key, value in _tags(experiment.experiment_id).items():
        found = experiment.tags.get(key)
        if found is None or (key == NOTE and found in OLD_NOTES):
            client.set_experiment_tag(experiment.experiment_id, key, value)


def model_note(name: str) -> str:
    """The description of a registered model."""
    words = (
        "`champion`: the smallest `val/nme` on its validation images; `previous`: the champion before; `newest`: the last one "
        "that was registered. A version's description tells of its run; its model card is the file `README.md` among the run's "
        "artifacts, in `model`."
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
    return f"""Landmark teachers, students and what is asked about them. Tables: \
[all runs, newest first]({page}{_ALL}) · [students, best first]({page}{_STUDENTS})

- `{RESULT}`: a run's result, the error on the validation images in percent of the image's side, lower is better; `val/nme` is its \
course over the epochs.
- `control/val/difference`: the result less that of the same training without a teacher; `teacher/val/nme`: the teacher's own result.
- A filter: ``tags.`distill.job` = 'student' and metrics.`{RESULT}` < 4``. Jobs: `teacher`, `student`, and parents of other runs: \
`ablation`, `study`, `recipe`. Roles (`distill.role`): `teacher`, `control`, `distilled`, `assistant`, `tuned`, `averaged`.
"""
