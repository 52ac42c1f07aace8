"""`from distill import load_student`: any reference, any kind of picture, with torch and without the same points."""

from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from conftest import draw_face
from PIL import Image

import distill
from distill import load_student
from distill.data.annotations import read_set
from distill.errors import UserError
from distill.evaluate.job import predict_set
from distill.models.files import load_model


@pytest.fixture(scope="module")
def with_onnx(exported):
    return load_student(exported.onnx)


@pytest.fixture(scope="module")
def with_torch(exported):
    return load_student(str(exported.weights))


def face(size: int = 100, seed: int = 5) -> np.ndarray:
    return draw_face(np.random.default_rng(seed), size)[0]


@pytest.mark.parametrize("box", [None, (20, 10, 60, 70), (-5, -5, 100, 90)])
@pytest.mark.parametrize("shape", [(64, 64), (100, 100), (90, 160), (200, 120)])
def test_both_ways_give_the_same_points(with_onnx, with_torch, shape, box):
    image = cv2.resize(face(), shape[::-1])
    points, confidence = with_onnx(image, box)
    expected = with_torch(image, box)
    assert points.shape == (68, 2) and confidence.shape == (68,)
    assert points.dtype == confidence.dtype == np.float32
    assert np.abs(points - expected.points).max() < 0.01
    assert np.abs(confidence - expected.confidence).max() < 1e-3
    assert np.ptp(points) > 1 and 0 <= confidence.min() <= confidence.max() <= 1


def test_a_path_an_array_and_a_pil_image_are_one_picture(with_onnx, tmp_path):
    image = face()
    Image.fromarray(image).save(tmp_path / "face.png")
    expected = with_onnx(image).points
    for picture in (tmp_path / "face.png", str(tmp_path / "face.png"), Image.fromarray(image)):
        assert (with_onnx(picture).points == expected).all()
    assert not (with_onnx(image[..., ::-1].copy()).points == expected).all(), "red and blue are not the same"


def test_a_view_of_an_array_is_as_good_as_a_copy(with_onnx):
    image = face(64)
    assert (with_onnx(image[:, ::-1]).points == with_onnx(image[:, ::-1].copy()).points).all()


def test_square_pictures_have_the_points_of_evaluation_and_submission(with_onnx, exported, tiny_root):
    images = read_set(tiny_root / "synthetics_test", need_labels=False)
    expected = predict_set(load_model(exported.weights)[0], images)
    for i, name in enumerate(images.names):
        found = with_onnx(images.folder / name)
        assert np.abs(found.points - expected.points[i]).max() < 0.01


def test_a_student_names_its_origin(with_onnx, with_torch):
    assert with_onnx.about == with_torch.about and with_onnx.about["role"] == "distilled"
    assert with_onnx.label == with_torch.label == "student"


def test_asking_leaves_no_gradient_and_changes_no_weight(with_torch):
    before = {name: tensor.clone() for name, tensor in with_torch.network.model.state_dict().items()}
    with_torch(face())
    after = with_torch.network.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for p in with_torch.network.model.parameters())


def test_runs_and_registered_models_are_found_in_their_store(tiny):
    expected = load_student(tiny.control.model_file)(face())
    for reference in (tiny.control.run_id, "models:/distill-student@newest"):
        found = load_student(reference, store=tiny.store)(face())
        if reference == tiny.control.run_id:
            assert (found.points == expected.points).all()
        assert found.points.shape == (68, 2)
    for reference in ("nobody", "models:/distill-student@nobody"):
        with pytest.raises(UserError, match="nobody"):
            load_student(reference, store=tiny.store)


def test_the_bundled_student_finds_a_rendered_face():
    from distill.data import SAMPLE_ROOT

    labelled = read_set(SAMPLE_ROOT / "synthetics_val", limit=3)
    student = load_student("bundled")
    for i, name in enumerate(labelled.names):
        error = np.linalg.norm(student(labelled.folder / name).points - labelled.landmarks[i], axis=1).mean()
        assert error / labelled.sizes[i, 0] < 0.06


@pytest.mark.parametrize("reference", ["absent.onnx", "absent.safetensors"])
def test_a_file_that_is_not_there_is_named(reference):
    with pytest.raises(UserError, match=f"'{reference}'"):
        load_student(reference)


def test_the_package_itself_is_light_and_lists_its_names():
    code = (
        "import sys, distill; "
        "print(sorted({'numpy', 'cv2', 'torch', 'onnxruntime'} & set(sys.modules)), distill.__version__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"[] {distill.__version__}"
    assert "load_student" in dir(distill)
    with pytest.raises(AttributeError, match="'load_teacher'"):
        _ = distill.load_teacher
