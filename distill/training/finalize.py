"""What every model goes through once its weights are made: measured, shown, exported, registered, in its own run."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distill import metrics as metric
from distill import tracking
from distill.config import Config
from distill.data.annotations import LandmarkSet
from distill.evaluate.job import Predictions, agreement, agreement_metrics, measure, pictures, predict_set, write_json
from distill.export.job import export, images_to_submit, submission_tags
from distill.export.mlflow_model import pack
from distill.export.model_card import about_of, model_card
from distill.models.files import load_model, read_description
from distill.profiling import Cost
from distill.tracking import NullRun, Run, registry
from distill.training import describe
from distill.training.checkpoint import SNAPSHOTS


@dataclass(frozen=True)
class TrainResult:
    """What a finished training or averaging gives to its caller."""

    run_id: str
    run_name: str
    model_file: Path  # the best weights by val/nme, as exported
    report: metric.Report  # on the validation set
    cost: Cost
    pictures: list[Path]  # none where tracking.outputs is light
    submission: Path | None  # solution.zip, where there is a test set (and outputs are full)
    minutes: float  # spent training, over all sessions


@dataclass(frozen=True)
class TrainedModel:
    """A model that is ready, and what is known of it."""

    config: Config
    run_name: str
    job: str  # teacher or student: what it is, and the name of its file
    role: str  # teacher, assistant, control, distilled, tuned, averaged
    file: Path  # the weights
    cost: Cost
    step: int  # at which `best/...` is logged: the epoch of the weights, from 1
    minutes: float  # spent training, over all sessions
    history: Sequence[dict[str, float]] = ()  # one dict of metrics an epoch, `epoch` among them
    snapshots: Sequence[Path] = ()  # weights of late epochs
    description: str = ""  # of the run, as it begins
    last: metric.Report | None = None  # of the last epoch's averaged weights; None: they were not measured


@dataclass(frozen=True)
class TeacherPredictions:
    """A model's teacher on the validation set."""

    predictions: Predictions
    run_id: str  # empty for a file that no run of this store made


@dataclass(frozen=True)
class Measured:
    """A model, and its teacher where it has one, on the validation set."""

    val_set: LandmarkSet
    label: str  # the model's, in `predictions` and `reports`, where it comes last
    predictions: dict[str, Predictions]
    reports: dict[str, metric.Report]

    @property
    def report(self) -> metric.Report:
        """The model's own."""
        return self.reports[self.label]


def finalize(
    run: Run | NullRun, model: TrainedModel, val_set: LandmarkSet, test: Path | None, teacher: TeacherPredictions | None
) -> TrainResult:
    """Measure `model` on the validation set and keep all of it in `run`.

    test: folder of unlabelled images, for students.

    With tracking.outputs light: metrics, report, predictions and the model file, and nothing that takes long.
    """
    out, config = run.work / "artifacts", model.config
    measured = _measure(model, val_set, teacher)
    _log_measured(run, model, measured, teacher, out)
    model_file = out / tracking.MODEL_FOLDER / model.file.name
    model_file.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(model.file, model_file)
    run.log_artifact(model_file, tracking.MODEL_FOLDER)
    for file in model.snapshots:
        run.log_artifact(file, SNAPSHOTS)
    shown, submission = [], None
    if config.tracking.outputs == "full":
        shown = _draw(run, model, measured, out / "pictures")
        if model.job == "student":
            submission = _export(run, model, measured.report, model_file, test)
    if config.tracking.register:
        run.register(registry.model_name(model.job, model.role))
    return TrainResult(
        run.id, model.run_name, model_file, measured.report, model.cost, shown, submission, model.minutes
    )


# ---------------------------------------------------------------------------------------------------- inside


def _measure(model: TrainedModel, val_set: LandmarkSet, teacher: TeacherPredictions | None) -> Measured:
    # whatever is made of assistants (their mean, too) is beside their teacher, and not in its place
    label = "assistant" if model.job == "teacher" and teacher else model.job
    predictions = {"teacher": teacher.predictions} if teacher else {}
    predictions[label] = predict_set(load_model(model.file)[0], val_set)
    return Measured(val_set, label, predictions, {name: measure(found, val_set) for name, found in predictions.items()})


def _log_measured(
    run: Run | NullRun, model: TrainedModel, measured: Measured, teacher: TeacherPredictions | None, out: Path
) -> None:
    """Metrics, description, report and predictions into the run."""
    report, val_set, own = measured.report, measured.val_set, measured.predictions[measured.label]
    values = report.as_metrics("val")
    if teacher:
        near = agreement(own, teacher.predictions, val_set)
        values |= agreement_metrics(near, "val")
        details = {"nme": near.nme, "by_region": near.by_region, "per_point": near.per_point.tolist()}
        file = write_json(out / "agreement.json", details | {"teacher_run_id": teacher.run_id})
        run.log_artifact(file, "evaluation")
    data = read_description(model.file)["about"].get("data", {})
    errors = metric.RunErrors(report.per_image, model.last.per_image if model.last else None)
    comparisons = describe.comparisons(
        model.config, model.job, errors, data, measured.reports.get("teacher"), teacher.run_id if teacher else ""
    )
    best = {f"best/{key}": value for key, value in values.items()}
    if model.last:
        best[tracking.LAST] = model.last.nme
        run.log_artifact(write_json(out / "last_report.json", model.last.to_dict()), "evaluation")
    best |= {"train/minutes": model.minutes, "train/epochs": len(model.history)} | describe.as_metrics(
        comparisons, "val"
    )
    run.log_metrics(best, step=model.step)
    note = describe.note(model, report, val_set.folder.name, comparisons)
    if tracking.NOTE not in model.config.tracking.tags:  # where the user has written one
        run.set_tags({tracking.NOTE: note})
    run.log_artifact(write_json(out / "report.json", report.to_dict()), "evaluation")
    np.savez_compressed(out / "val_predictions.npz", names=val_set.names, **vars(own))
    run.log_artifact(out / "val_predictions.npz", "evaluation")


def _draw(run: Run | NullRun, model: TrainedModel, measured: Measured, folder: Path) -> list[Path]:
    history: dict[str, list[tuple[int, float]]] = {}
    for record in model.history:
        for key, value in record.items():
            history.setdefault(key, []).append((int(record["epoch"]), value))
    shown = pictures(folder, measured.val_set, measured.predictions, measured.reports, history)
    for path in shown:
        run.log_artifact(path, "pictures")
    return shown


def _export(
    run: Run | NullRun, model: TrainedModel, report: metric.Report, model_file: Path, test: Path | None
) -> Path | None:
    """ONNX, what MLflow serves, and, where there are images to predict, the submission."""
    test_set = images_to_submit(test, model.file)
    exported = export(model.file, run.work / "artifacts" / "export", test_set)
    run.log_artifact(exported.onnx, "onnx")
    if exported.submission:
        run.log_artifact(exported.submission, "submission")
        run.set_tags(submission_tags(exported, test_set))
    card = model_card(model.config, model.cost, report, about_of(model.config, model.role, model_file), model.last)
    facts = {"run_id": run.id, "val/nme": round(report.nme, 4)}
    for path in pack(exported.onnx, model_file.parent, card, facts):
        run.log_artifact(path, tracking.MODEL_FOLDER)
    return exported.submission
