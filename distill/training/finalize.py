"""What every model goes through once its weights are made: measured, shown, exported, registered, in its own run."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distill import metrics as metric
from distill import tracking as track
from distill.config import Config
from distill.data.annotations import LandmarkSet
from distill.evaluate import job as evaluation
from distill.export import job as exporting
from distill.export.mlflow_model import pack
from distill.export.model_card import about_of, model_card
from distill.models.files import load_model, read_description
from distill.profiling import Cost
from distill.tracking import registry
from distill.training import describe
from distill.training.snapshots import FOLDER as SNAPSHOTS


@dataclass(frozen=True)
class TrainResult:
    run_id: str
    run_name: str
    model_file: Path  # the best weights by val/nme, as exported
    report: metric.Report  # on the validation set
    cost: Cost
    pictures: list[Path]  # none where tracking.outputs is light
    submission: Path | None  # solution.zip, where there is a test set (and outputs are full)
    minutes: float  # spent training, over all sessions


@dataclass(frozen=True)
class Made:
    """A model that is ready, and what is known of it."""

    job: str  # teacher or student: what it is, and the name of its file
    role: str  # teacher, assistant, control, distilled, tuned, averaged
    file: Path  # the weights
    cost: Cost
    step: int  # at which `best/...` is logged: the epoch of the weights, from 1
    minutes: float  # spent training, over all sessions
    history: Sequence[dict[str, float]] = ()  # one dict of metrics an epoch, `epoch` among them
    snapshots: Sequence[Path] = ()  # weights of late epochs
    about: str = ""  # what the run is, as its description begins


@dataclass(frozen=True)
class Taught:
    """A model's teacher as the validation set shows it."""

    predictions: evaluation.Predictions
    run_id: str  # empty for a file that no run of this store made


def finish(
    config: Config, run, run_name: str, made: Made, val_set: LandmarkSet, test: Path | None, taught: Taught | None
) -> TrainResult:
    """Measure `made` on the validation set and keep all of it in `run`. test: folder of unlabelled images, for students.

    With tracking.outputs light: metrics, report, predictions and the model file, and nothing that takes long.
    """
    out = run.work / "artifacts"
    label = "assistant" if made.role == "assistant" else made.job
    predictions = {"teacher": taught.predictions} if taught else {}
    predictions[label] = evaluation.predict_set(load_model(made.file)[0], val_set)
    reports = {name: evaluation.measure(found, val_set) for name, found in predictions.items()}
    report = reports[label]
    values = evaluation.as_metrics(report, "val")
    if taught:
        agreement = evaluation.agreement(predictions[label], taught.predictions, val_set)
        values |= evaluation.agreement_metrics(agreement, "val")
        details = {"nme": agreement.nme, "by_region": agreement.by_region, "per_point": agreement.per_point.tolist()}
        file = evaluation.write_json(out / "agreement.json", details | {"teacher_run_id": taught.run_id})
        run.log_artifact(file, "evaluation")
    best = {f"best/{key}": value for key, value in values.items()}
    data = read_description(made.file)["about"].get("data", {})
    others = describe.rivals(
        config, made.job, report, data, reports.get("teacher") if taught else None, taught.run_id if taught else ""
    )
    run.log_metrics(best | {"train/minutes": made.minutes} | describe.as_metrics(others, "val"), step=made.step)
    note = describe.note(made.about, made.role, report, val_set.folder.name, made.cost, made.step, others, config)
    if track.NOTE not in config.tracking.tags:  # where somebody has written his own
        run.set_tags({track.NOTE: note})
    run.log_artifact(evaluation.write_json(out / "report.json", report.to_dict()), "evaluation")
    np.savez_compressed(out / "val_predictions.npz", names=val_set.names, **vars(predictions[label]))
    run.log_artifact(out / "val_predictions.npz", "evaluation")
    model_file = out / track.MODEL_FOLDER / made.file.name
    model_file.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(made.file, model_file)
    run.log_artifact(model_file, track.MODEL_FOLDER)
    for file in made.snapshots:
        run.log_artifact(file, SNAPSHOTS)
    shown, submission = [], None
    if config.tracking.outputs == "full":
        history: dict[str, list[tuple[int, float]]] = {}
        for record in made.history:
            for key, value in record.items():
                history.setdefault(key, []).append((int(record["epoch"]), value))
        shown = evaluation.pictures(out / "pictures", val_set, predictions, reports, history)
        for path in shown:
            run.log_artifact(path, "pictures")
        if made.job == "student":
            exported = _export(run, made.file, out / "export", test)
            submission = exported.submission
            card = model_card(config, made.cost, report, about_of(config, made.role, model_file))
            for path in pack(
                exported.onnx, model_file.parent, card, {"run_id": run.id, "val/nme": round(report.nme, 4)}
            ):
                run.log_artifact(path, track.MODEL_FOLDER)
    if config.tracking.register:
        name = registry.model_name(made.job, made.role)
        marks = registry.aliases(config.tracking, name, report.nme, val_set.fingerprint)
        run.register(name, track.MODEL_FOLDER, marks, *registry.entry(report.nme, val_set.fingerprint, note))
    return TrainResult(run.id, run_name, model_file, report, made.cost, shown, submission, made.minutes)


def _export(run, model_file: Path, out: Path, test: Path | None) -> exporting.Export:
    """ONNX and, where there are images to predict, the submission."""
    test_set = exporting.images_to_submit(test, model_file)
    exported = exporting.export(model_file, out, test_set)
    run.log_artifact(exported.onnx, "onnx")
    if exported.submission:
        run.log_artifact(exported.submission, "submission")
        run.set_tags(exporting.submission_tags(exported, test_set))
    return exported
