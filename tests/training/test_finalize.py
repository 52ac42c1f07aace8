"""What a finished run is measured against."""

from __future__ import annotations

import numpy as np
import pytest

from distill import tracking
from distill.data.annotations import read_set
from distill.errors import UserError
from distill.evaluate.job import Predictions
from distill.metrics import RunErrors
from distill.profiling import Cost
from distill.training import describe, finalize
from distill.training.finalize import TeacherPredictions, TrainedModel


def test_a_mean_of_assistants_stands_beside_their_teacher_and_not_in_its_place(tiny):
    """It is of the teachers' job; with a teacher that is never wrong it would seem to be perfect."""
    val_set = read_set(tiny.data / "synthetics_val")
    sure = np.ones(val_set.landmarks.shape[:2], np.float32)
    teacher = TeacherPredictions(Predictions(val_set.landmarks.astype(np.float32), sure), "abc")
    file, cost = tiny.teacher.model_file, Cost(1, 1, 1.0, 1.0)
    model = TrainedModel(tiny.config(), "mean", "teacher", "averaged", file, cost, step=0, minutes=0.0)
    measured = finalize._measure(model, val_set, teacher)
    assert list(measured.reports) == ["teacher", "assistant"] and measured.reports["teacher"].nme < 1e-3
    assert measured.report.nme == pytest.approx(tiny.teacher.report.nme)


def test_a_control_whose_report_cannot_be_read_is_no_control_and_no_error(tiny):
    """One sentence where it is asked for; every other mistake in a comparison is an error of ours, and shows."""
    config = tiny.short("distill.terms={kl: {loss: heatmap_kl}}", "teacher=x", "seed=99")
    tags = {"distill.digest": "", "data.train": "a", "data.val": "b"}
    control = tiny.short("seed=99")
    tags["distill.digest"] = describe.configs.digest(control)
    with tracking.Run.start(config.tracking, job="student", run_name="", params={}, config_yaml="", tags=tags) as run:
        run.log_dict({"nme": 5.0}, "evaluation/report.json")
    with pytest.raises(UserError, match="evaluation/report.json"):
        tracking.read_errors(config.tracking, run.id)
    data, errors = {"train": "a", "val": "b"}, RunErrors(tiny.control.report.per_image)
    assert describe.comparisons(config, "student", errors, data, None, "") == []
    with pytest.raises(AttributeError):
        describe.comparisons(config, "student", None, data, tiny.control.report, "")
