"""How far a student's points lie from its teacher's: a metric beside val/nme, for every epoch and for what is kept."""

from __future__ import annotations

import json

import numpy as np
import pytest

from distill import tracking
from distill.data.annotations import LandmarkSet, read_set
from distill.evaluate import job as evaluation
from distill.landmarks import IBUG68
from distill.training import finalize
from distill.training import job as training


def test_agreement_is_the_distance_between_two_predictions_in_percent_of_the_side():
    """One point of one of two images lies (3, 4) px off: 5 px of 100 in 68 points, or in the 17 of the jaw, twice."""
    teacher = np.random.default_rng(0).uniform(0, 100, (2, 68, 2)).astype(np.float32)
    student = teacher.copy()
    student[1, 0] += (3, 4)
    images = LandmarkSet(None, ("a", "b"), None, np.full((2, 2), 100), None)  # the labels play no part
    sure = np.ones((2, 68), np.float32)
    report = evaluation.agreement(evaluation.Predictions(student, sure), evaluation.Predictions(teacher, sure), images)
    values = evaluation.agreement_metrics(report, "val")
    assert values["val/agreement/nme"] == pytest.approx(5 / 68 / 2, rel=1e-4)
    assert values["val/agreement/region/jaw"] == pytest.approx(5 / 17 / 2, rel=1e-4)
    assert values["val/agreement/region/mouth"] == 0
    assert report.per_point[0] == pytest.approx(2.5, rel=1e-4) and report.per_point[1:].max() == 0


def test_it_is_measured_at_every_validation_and_kept_by_point(tiny, bare, monkeypatch):
    real, asked = evaluation.predict_set, []
    for module in (training, finalize):
        monkeypatch.setattr(
            module, "predict_set", lambda model, *a, **k: asked.append(model.size) or real(model, *a, **k)
        )
    teacher = training.train_teacher(tiny.short("train.epochs=1", "model.input_size=96", "name=teacher"))
    asked.clear()
    result = training.train_student(tiny.short(f"teacher={teacher.run_id}", distilled=True))
    assert asked.count(96) == 1 and asked.count(64) == 3  # the teacher does not change, so it is asked once

    labelled = read_set(tiny.data / "synthetics_val")
    points = [
        np.load(tracking.artifact_path(tiny.tracking, run, "evaluation/val_predictions.npz"))["points"]
        for run in (result.run_id, teacher.run_id)
    ]
    away = 100 * np.linalg.norm(points[0] - points[1], axis=2) / np.sqrt(labelled.sizes.prod(axis=1))[:, None]
    info = tiny.info(result)
    assert info.metrics["best/val/agreement/nme"] == pytest.approx(away.mean(), rel=1e-5)
    for region, indices in IBUG68.regions.items():
        assert info.metrics[f"best/val/agreement/region/{region}"] == pytest.approx(
            away[:, list(indices)].mean(), rel=1e-5
        )
        assert len(tiny.curve(result.run_id, f"val/agreement/region/{region}")) == 2
    file = tracking.artifact_path(tiny.tracking, result.run_id, "evaluation/agreement.json")
    kept = json.loads(file.read_text())
    assert kept["per_point"] == pytest.approx(away.mean(axis=0).tolist(), rel=1e-5) and len(kept["per_point"]) == 68
    assert kept["teacher_run_id"] == teacher.run_id and kept["nme"] == pytest.approx(away.mean(), rel=1e-5)
    epoch = np.argmin(tiny.curve(result.run_id, "val/nme"))
    assert tiny.curve(result.run_id, "val/agreement/nme")[epoch] == pytest.approx(kept["nme"], rel=1e-5)
    assert not [key for key in tiny.info(teacher).metrics if "agreement" in key]  # nobody to agree with
