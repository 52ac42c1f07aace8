"""The registered student as people who know MLflow, and not us, use it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from distill import tracking
from distill.models.references import resolve_model
from distill.training import job as training

STRANGER = """
import sys, json
sys.modules["distill"] = sys.modules["torch"] = sys.modules["timm"] = None  # importing one of them now fails
import mlflow, numpy as np
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
found = model.predict({"image": np.load(sys.argv[3])})
np.savez(sys.argv[4], **found)
print(json.dumps(str(model.metadata.signature)))
"""


@pytest.fixture(scope="module")
def student(tiny):
    return training.train_student(tiny.config("train.epochs=1", "seed=81", "name=packed"))


@pytest.mark.slow
def test_a_process_without_this_package_gets_the_same_points_from_the_registry(tiny, student, tmp_path):
    import torch

    from distill.export.job import sample_faces
    from distill.models.files import load_model

    faces = sample_faces(3, 64)
    np.save(tmp_path / "faces.npy", faces.numpy())
    uri = tracking.tracking_uri(tiny.tracking)
    out = subprocess.run(
        [
            sys.executable,
            "-c",
            STRANGER,
            uri,
            "models:/distill-student@newest",
            tmp_path / "faces.npy",
            tmp_path / "out.npz",
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
    )
    assert out.returncode == 0, out.stderr[-2000:]
    assert "points" in out.stdout and "uint8" in out.stdout, "the signature names inputs and outputs"
    found = np.load(tmp_path / "out.npz")
    with torch.no_grad():
        expected = load_model(student.model_file)[0](faces.permute(0, 3, 1, 2).float())
    assert np.abs(found["points"] - expected.points.numpy()).max() < 0.01
    assert np.abs(found["confidence"] - expected.confidence.numpy()).max() < 1e-3


def test_the_model_folder_has_an_input_example_and_still_one_model_file(tiny, student):
    folder = tracking.artifact_path(tiny.tracking, student.run_id, "model")
    example = json.loads((folder / "serving_input_example.json").read_text())
    assert np.asarray(example["inputs"]["image"]).shape == (1, 64, 64, 3)
    assert resolve_model("models:/distill-student@newest", tiny.tracking).path == folder / "student.safetensors"


def test_the_card_shows_what_it_is_how_good_and_where_it_is_worst(tiny, student):
    card = (tracking.artifact_path(tiny.tracking, student.run_id, "model") / "README.md").read_text()
    report = student.report
    worst = max(report.by_region, key=report.by_region.get)
    for said in (
        f"{report.nme:.3f} %",
        student.run_id,
        f"Worst region: {worst}",
        "lcnet_050",
        "licence",
        "| teacher | none |",
    ):
        assert said in card, said
    low, high = (float(part) for part in card.partition("over images [")[2].partition("]")[0].split(", "))
    assert low < report.nme < high
