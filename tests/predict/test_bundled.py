"""The student that ships: it is what its card says, and it obeys the challenge's rules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from distill.config import TrackingConfig
from distill.data import SAMPLE_ROOT
from distill.data.annotations import read_set
from distill.evaluate import job as evaluation
from distill.export import job as exporting
from distill.models.files import load_model
from distill.models.references import BUNDLED, resolve_model

CARD = BUNDLED.with_name("MODEL_CARD.md")


@pytest.fixture(scope="module")
def student():
    reference = resolve_model("bundled", TrackingConfig())
    return load_model(reference.path)


def test_obeys_the_rules():
    exporting.check_rules(BUNDLED)


def test_card_shows_the_run_and_the_number_that_the_file_carries(student):
    about, card = student[1]["about"], CARD.read_text(encoding="utf-8")
    assert about["run_id"] in card
    assert f"{about['val/nme']:.3f}" in card
    for word in ("stand-in", "ICT-FaceKit", "FaceSynthetics"):
        assert word in card


def test_the_onnx_file_is_the_same_student(student):
    from distill.predict.load import TorchNetwork
    from distill.predict.runtime import load_onnx

    onnx = load_onnx(BUNDLED.with_name("student.onnx"))
    assert onnx.about == student[1]["about"]
    assert b"site-packages" not in BUNDLED.with_name("student.onnx").read_bytes(), "no path of a machine"
    crops = exporting.sample_faces(3, onnx.network.size).numpy()
    points, expected = onnx.network(crops)[0], TorchNetwork(student[0])(crops)[0]
    assert points == pytest.approx(expected, abs=exporting.PARITY_PIXELS)


def test_finds_landmarks_on_rendered_faces(student):
    faces = read_set(SAMPLE_ROOT / "synthetics_val")
    report = evaluation.measure(evaluation.predict_set(student[0], faces), faces)
    assert report.nme < 3.0  # unseen faces; a mean shape makes about 12 %


def test_its_number_on_the_real_photographs(student, shared_data: Path):
    photographs = read_set(shared_data / "aflw_val")
    report = evaluation.measure(evaluation.predict_set(student[0], photographs), photographs)
    assert report.nme == pytest.approx(student[1]["about"]["val/nme"], abs=0.005)
    stated = re.search(r"NME on the 199 validation photographs \| ([\d.]+) %", CARD.read_text(encoding="utf-8"))
    assert stated and float(stated[1]) == pytest.approx(report.nme, abs=0.005)
