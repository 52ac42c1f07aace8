"""Expected errors: what the fit promises, what it refuses, and that they reach whoever has the model file."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from distill.data import SAMPLE_ROOT
from distill.data.annotations import read_set
from distill.errors import UserError
from distill.evaluate.job import expected_errors, predict_set
from distill.export import job as exporting
from distill.metrics import calibration
from distill.models.files import load_model, read_description, rewrite
from distill.models.references import BUNDLED
from distill.predict import output
from distill.predict.load import BUNDLED_ONNX, load_student
from distill.predict.runtime import Landmarks


def made_up(images: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidences of two points, their expected errors 10 and 20 times the root of the unsure part, gamma errors."""
    rng = np.random.default_rng(0)
    unsure = np.exp(rng.uniform(-8, -2, (images, 2)))
    expected = np.array([10.0, 20.0]) * (unsure + calibration.FLOOR) ** 0.5
    return 1 - unsure, expected, expected * rng.gamma(4.0, 0.25, expected.shape)


def test_the_fit_finds_the_law_and_its_mean_is_the_mean_error_of_each_point():
    confidence, expected, errors = made_up()
    found = calibration.fit(confidence, errors, "abc")
    assert found.slope == pytest.approx(0.5, abs=0.01) and found.levels == pytest.approx((10, 20), rel=0.05)
    assert found.expected_error(confidence) == pytest.approx(expected, rel=0.1)
    assert found.expected_error(confidence).mean(axis=0) == pytest.approx(errors.mean(axis=0))
    assert (found.images, found.fingerprint) == (4000, "abc")


def test_reliability_by_hand():
    expected = np.array([[1.0, 3.0], [2.0, 4.0]])
    found = calibration.reliability(expected, 2 * expected, bins=2)
    assert (found.expected, found.true) == (2.5, 5.0)
    assert (found.by_point.expected, found.by_point.true) == ((1.5, 3.5), (3.0, 7.0))
    assert (found.by_image.expected, found.by_image.true) == ((2.0, 3.0), (4.0, 6.0))
    assert found.by_point.rank_correlation == pytest.approx(1) == found.by_image.rank_correlation
    assert calibration.reliability(expected, -expected).by_point.rank_correlation == pytest.approx(-1)


def test_what_cannot_be_calibrated_or_read_is_refused():
    confidence, _, errors = made_up(10)
    for bad in ((confidence[:1], errors[:1]), (np.ones_like(confidence), errors), (confidence, 0 * errors)):
        with pytest.raises(UserError):
            calibration.fit(*bad, "")
    stored = calibration.fit(confidence, errors, "abc").to_dict()
    again = calibration.Calibration.from_dict(json.loads(json.dumps(stored)), 2, "x")
    assert again.to_dict() == stored and calibration.Calibration.from_dict(None, 2, "x") is None
    for broken in (stored | {"slope": "steep"}, {}, stored | {"levels": [1.0]}, stored | {"levels": [1.0, -1.0]}, []):
        with pytest.raises(UserError, match="model.onnx"):
            calibration.Calibration.from_dict(broken, 2, "model.onnx")


def test_a_file_is_calibrated_on_held_out_renders_alone(tmp_path):
    model, described = load_model(BUNDLED)
    renders = read_set(SAMPLE_ROOT / "synthetics_val", limit=8)
    described["calibration"] = exporting.calibrate(model, described, renders).to_dict()
    rewrite(BUNDLED, tmp_path / "student.safetensors", described)
    again, carried = load_model(tmp_path / "student.safetensors")
    assert carried == described and carried["calibration"]["fingerprint"] == renders.fingerprint
    predicted = predict_set(again, renders)
    found = expected_errors(carried, predicted, renders, "student")
    assert found.expected == pytest.approx(found.true, rel=1e-3), "on the images of the fit"
    for split in ("train", "val"):
        seen = described | {"about": {"data": {split: renders.fingerprint}}}
        with pytest.raises(UserError, match="synthetics_val"):
            exporting.calibrate(model, seen, renders)
    photographs = dataclasses.replace(renders, folder=tmp_path / "AFLW2000")
    with pytest.raises(UserError, match="AFLW2000"):
        exporting.calibrate(model, described, photographs)


def test_the_bundled_student_states_expected_errors_without_torch(tmp_path):
    student, faces = load_student(BUNDLED_ONNX), np.zeros((1, 64, 64, 3), np.uint8)
    assert student.calibration.to_dict() == read_description(BUNDLED)["calibration"]
    found = student(faces[0])
    expected = student.expected_error(found.confidence)
    assert expected.shape == (68,) and (expected > 0).all()
    face = output.Face(None, found, (), expected)
    assert face.to_dict()["expected_error"] == pytest.approx(expected, abs=0.006)
    output.pictures_csv(tmp_path / "landmarks.csv", {"a": [face]}, False)
    head, row = (line.split(",") for line in (tmp_path / "landmarks.csv").read_text().splitlines())
    assert head[2:7] == ["x1", "y1", "c1", "e1", "x2"] and len(row) == len(head)
    assert float(row[5]) == pytest.approx(expected[0], abs=0.006)


def test_colours_show_expected_errors_where_there_are_any():
    from distill.predict.output import WORST, drawn

    image, points = np.full((64, 64, 3), 128, np.uint8), np.random.default_rng(0).uniform(8, 56, (68, 2))
    sure = Landmarks(points.astype(np.float32), np.ones(68, np.float32))
    plain, good, bad = (
        drawn(image, [output.Face(None, sure, (), errors)]) for errors in (None, np.zeros(68), np.full(68, WORST))
    )
    assert (plain == good).all() and (good != bad).any()
