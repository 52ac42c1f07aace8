"""Photometric steps leave the picture in place, fire independently, and are what albumentations has by that name."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from conftest import draw_face

from distill.config import StepConfig, load
from distill.data import centring, photometric
from distill.data.photometric import Photometric
from distill.errors import UserError

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
BASE_STEPS = load(EXPERIMENTS / "base.yaml").augment.photometric


def _configured() -> dict[str, StepConfig]:
    """Every photometric step of the experiment files, once."""
    found = {}
    for path in sorted(EXPERIMENTS.rglob("*.yaml")):
        steps = ((yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("augment") or {}).get("photometric") or {}
        found |= {
            f"{step['name']} {step.get('args', {})}": StepConfig(**step) for step in steps.values() if "name" in step
        }
    return found


# ---------------------------------------------------------------------------------------------------- in place


@pytest.mark.parametrize("key", [*_configured(), "defaults MotionBlur", "defaults Downscale", "defaults GaussianBlur"])
def test_no_configured_step_moves_the_picture(key):
    step = _configured().get(key) or StepConfig(key.split()[-1])
    assert centring.moved(photometric.build(key, step), draws=8) < centring.MOST_MOVED


@pytest.mark.parametrize("shift", [(0.125, 0.0), (0.0, -0.125), (0.75, 0.75)])
def test_a_shift_is_measured(shift):
    def step(image, rng):
        blurred = cv2.GaussianBlur(image, (3, 3), 0.8)
        return cv2.warpAffine(blurred, np.float32([[1, 0, shift[0]], [0, 1, shift[1]]]), image.shape[1::-1])

    assert centring.moved(step, draws=1) == pytest.approx(np.hypot(*shift), rel=0.15)


def test_a_shift_that_changes_from_draw_to_draw_is_measured():
    def step(image, rng):
        x, y = rng.normal(0, 0.2, 2)
        return cv2.warpAffine(image, np.float32([[1, 0, x], [0, 1, y]]), image.shape[1::-1])

    assert 0.15 < centring.moved(step) < 0.45


def test_stretching_about_the_centre_is_measured():
    def step(image, rng):
        return cv2.warpAffine(image, cv2.getRotationMatrix2D((47.5, 47.5), 0, 1.02), image.shape[1::-1])

    assert 0.3 < centring.moved(step, draws=2) < 1.0  # 2 % of the way from the centre to a quarter's middle


def test_a_step_that_moves_the_picture_is_refused():
    pytest.importorskip("albumentations")
    with pytest.raises(UserError, match=r"augment.photometric.x: Emboss .*1\.\d+ px"):
        Photometric({"x": StepConfig("Emboss")})


# ---------------------------------------------------------------------------------------------------- what they do


@pytest.mark.parametrize("key", BASE_STEPS)
def test_a_step_does_what_albumentations_does(key):
    """Brightness, contrast, colour and detail, in mean and spread over draws, as the transform of that name does."""
    pytest.importorskip("albumentations")
    from distill.data.albumentations_step import AlbumentationsStep

    step = BASE_STEPS[key]
    if step.name in ("Downscale", "MotionBlur"):
        return  # albumentations' moves the picture and is not used
    ours, theirs = (_effect(built) for built in (photometric.build(key, step), AlbumentationsStep(key, step)))
    assert (np.abs(ours - theirs) < 0.15 * np.maximum(theirs, 1)).all(), (ours.round(2), theirs.round(2))


def _effect(step: photometric.Step) -> np.ndarray:
    """Mean and spread, over draws, of each measure of the result over that of the picture."""
    picture = cv2.GaussianBlur(draw_face(np.random.default_rng(3), 64)[0], (3, 3), 1.0)
    picture = np.clip(picture * 0.6 + 40, 0, 255).astype(np.uint8)

    def measures(image):
        grey = image @ photometric.LUMA
        return np.array([grey.mean(), grey.std(), (image - grey[..., None]).std(), np.abs(np.diff(grey)).mean()])

    results = [measures(step(picture, np.random.default_rng([5, draw]))) / measures(picture) for draw in range(150)]
    return np.concatenate([np.mean(results, axis=0), np.std(results, axis=0)])


def test_two_sizes_of_a_view_have_the_same_holes():
    """A teacher at another resolution sees what the student sees."""
    step = photometric.build("x", StepConfig("CoarseDropout", args={"num_holes_range": [2, 2], "fill": 0}))
    for seed in range(5):
        small, large = (step(np.full((n, n, 3), 9, np.uint8), np.random.default_rng(seed))[..., 0] for n in (64, 128))
        assert np.mean((small == 0) != (large[::2, ::2] == 0)) < 0.03


def test_steps_fire_independently():
    """Each of three steps leaves its own mark; all eight combinations turn up about equally often."""
    pytest.importorskip("albumentations")
    shifts = {c: {f"{other}_shift_limit": [40, 40] if other == c else [0, 0] for other in "rgb"} for c in "rgb"}
    steps = Photometric({c: StepConfig("RGBShift", 0.5, args) for c, args in shifts.items()})
    grey = np.full((8, 8, 3), 100, np.uint8)
    fired = np.array([steps(grey, np.random.default_rng([0, i]))[0, 0] > 120 for i in range(400)])
    counts = np.bincount(fired @ np.array([1, 2, 4]), minlength=8)
    assert counts.min() > 25 and counts.max() < 80  # 50 expected


def test_the_steps_of_the_experiments_need_no_albumentations(monkeypatch):
    monkeypatch.setitem(sys.modules, "albumentations", None)  # an import of it fails
    monkeypatch.setattr(photometric, "find_spec", lambda name: None)
    for step in _configured().values():
        photometric.build("x", step)
    with pytest.raises(UserError, match="photometric.x.name .*'CLAHE'.*pip install albumentations"):
        Photometric({"x": StepConfig("CLAHE")})
    with pytest.raises(UserError, match="augment.photometric.x.args.var_limit"):
        Photometric({"x": StepConfig("GaussNoise", args={"var_limit": [1, 2]})})


# ---------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (StepConfig("ColourJitter"), "x.name .*'ColourJitter'"),
        (StepConfig("Compose"), "'Compose'"),
        (StepConfig("Rotate"), "x.name .*'Rotate'.* moves"),
        (StepConfig("HorizontalFlip"), "moves"),
        (StepConfig("ElasticTransform"), "moves"),
        (StepConfig("RandomResizedCrop", args={"size": [8, 8]}), "moves"),
        (StepConfig("CoarseDropout", args={"max_holes": 3}), "augment.photometric.x.args: .*max_holes"),
        (StepConfig("GaussNoise", args={"var_limit": [1, 2]}), "var_limit"),
        (StepConfig("ImageCompression", args={"quality_range": [90, 10]}), "x.args.* ImageCompression"),
        (StepConfig("ImageCompression", args={"quality_range": "high"}), "x.args.* ImageCompression"),
        (StepConfig("Downscale", args={"scale_range": [0.8, 0.4]}), "x.args.scale_range'"),
        (StepConfig("Downscale", args={"scale": 0.5}), "x.args.scale'"),
        (StepConfig("MotionBlur", args={"blur_limit": [1, 3]}), "x.args.blur_limit' .*3 .*99"),
        (StepConfig("MotionBlur", args={"angle_range": "any"}), "x.args.angle_range'"),
        (StepConfig("FDA"), "augment.photometric.x"),
        (StepConfig("MaskDropout"), "augment.photometric.x"),
        (StepConfig("Normalize"), "type or shape"),
        (StepConfig("ToFloat"), "type or shape"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
@pytest.mark.filterwarnings("default")
def test_steps_that_cannot_be_are_refused_at_once(step, words):
    pytest.importorskip("albumentations")
    with pytest.raises(UserError, match=words) as error:
        Photometric({"x": step})
    assert "\n" not in str(error.value) and "augment.photometric.x" in str(error.value)


@pytest.mark.parametrize(
    "step",
    [
        StepConfig("ColorJitter", 1.0, {"brightness": 0.2, "hue": 0}),
        StepConfig("MotionBlur", 1.0, {"blur_limit": 5, "allow_shifted": False}),
        StepConfig("CoarseDropout", 1.0, {"fill": 128}),
        StepConfig("CoarseDropout", 1.0, {"hole_height_range": [4, 8], "hole_width_range": [4, 8]}),  # pixels
        StepConfig("GaussianBlur", 1.0),
        StepConfig("ToGray", 1.0, {"method": "average"}),
    ],
    ids=lambda step: f"{step.name} {step.args}",
)
def test_other_spellings_of_arguments_work(step):
    pytest.importorskip("albumentations")
    picture = draw_face(np.random.default_rng(0), 64)[0]
    result = Photometric({"x": step})(picture, np.random.default_rng(0))
    assert result.shape == picture.shape and result.dtype == np.uint8 and not np.array_equal(result, picture)
