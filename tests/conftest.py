"""Tiny data sets, drawn on the spot: every face is a simple cartoon whose 68 points a model could learn from the
pixels."""

from __future__ import annotations

import functools
import gc
import os
import pickle
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from distill.landmarks import IBUG68

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read once in a process, at its first video

_COLOURS = (
    (250, 250, 250),
    (220, 120, 40),
    (220, 180, 40),
    (60, 220, 60),
    (40, 220, 180),
    (60, 90, 250),
    (160, 90, 250),
    (250, 60, 60),
    (250, 60, 180),
)


def _ellipse(count: int, x: float, y: float, rx: float, ry: float, start: float, end: float) -> np.ndarray:
    angles = np.radians(np.linspace(start, end, count))
    return np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], axis=1)


def _template() -> np.ndarray:
    """(68, 2) points of an upright face in a unit frame, symmetric about x = 0.5."""
    closed = 360 * (1 - 1 / 12)
    return np.concatenate(
        [
            _ellipse(17, 0.5, 0.46, 0.27, 0.34, 170, 10),
            _ellipse(5, 0.38, 0.42, 0.09, 0.06, 190, 330),
            _ellipse(5, 0.62, 0.42, 0.09, 0.06, 210, 350),
            np.stack([np.full(4, 0.5), np.linspace(0.45, 0.57, 4)], axis=1),
            _ellipse(5, 0.5, 0.58, 0.06, 0.03, 160, 20),
            _ellipse(6, 0.38, 0.47, 0.06, 0.03, 180, 480),
            _ellipse(6, 0.62, 0.47, 0.06, 0.03, 180, 480),
            _ellipse(12, 0.5, 0.68, 0.11, 0.05, 180, 180 + closed),
            _ellipse(8, 0.5, 0.68, 0.07, 0.02, 180, 180 + 360 * (1 - 1 / 8)),
        ]
    )


def draw_face(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(size, size, 3) uint8 RGB and its (68, 2) float32 landmarks in continuous pixels."""
    angle, scale, shift = rng.uniform(-0.3, 0.3), rng.uniform(0.85, 1.15), rng.uniform(-0.05, 0.05, 2)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = ((_template() - 0.5) @ turn.T + 0.5 + shift) * size
    image = np.full((size, size, 3), rng.integers(0, 60, 3), np.uint8)
    on_grid = np.rint((points - 0.5) * 16).astype(np.int32)  # cv2 counts from pixel centres, in sixteenths here
    cv2.fillPoly(image, [on_grid[:27]], tuple(int(c) for c in rng.integers(90, 140, 3)), cv2.LINE_AA, 4)
    for (indices, closed), colour in zip(IBUG68.outlines, _COLOURS, strict=True):
        cv2.polylines(image, [on_grid[list(indices)]], closed, colour, 1, cv2.LINE_AA, 4)
    return image, points.astype(np.float32)


def write_challenge(folder: Path, count: int, size: int = 64, seed: int = 0, labelled: bool = True) -> np.ndarray:
    """A set in the challenge's layout; gives back its (count, 68, 2) landmarks."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    names, labels = [f"{seed:02d}{i:04d}.jpg" for i in range(count)], []
    for name in names:
        image, points = draw_face(rng, size)
        cv2.imwrite(str(folder / name), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        labels.append(points)
    if labelled:
        with open(folder / "annot.pkl", "wb") as file:
            pickle.dump([names, [[(x, y) for x, y in points] for points in labels]], file)
    return np.stack(labels)


TRAINED, TRAINING, LIGHT = range(3)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Where several workers share the tests, those of a file stay together, as its fixtures are made once; so do all
    that look at the session's trained runs (running.Tiny). Files that train come first: what is left for the end,
    when one worker may wait for the other, is short."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFixtures(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return "trained runs" if _kind(config.rootpath / file) == TRAINED else file

        def _assign_work_unit(self, node) -> None:
            def order(scope: str) -> tuple[int, int]:
                kind = TRAINED if scope == "trained runs" else _kind(config.rootpath / scope)
                return kind, -len(self.workqueue[scope])

            self.workqueue.move_to_end(min(self.workqueue, key=order), last=False)
            super()._assign_work_unit(node)

    return ByFixtures(config, log)


def pytest_collection_finish():
    gc.freeze()  # what was imported stays: the collector need not look through it again and again
    gc.set_threshold(50_000, 20, 50)


@functools.cache
def _kind(file: Path) -> int:
    text = file.read_text()
    if re.search(r"\btiny\.(teacher|control|distilled)\b", text):
        return TRAINED
    return TRAINING if re.search(r"\b(tiny|bare|Popen|train_(student|teacher))\b", text) else LIGHT


@pytest.fixture(scope="session", autouse=True)
def quick_runs():
    """A run of a test need not measure how fast its model is, nor draw as finely as for a reader."""
    from distill import profiling
    from distill.figures import style

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profiling, "settled", lambda _measure: 1.0)
        patch.setattr(style, "DPI", 50)
        yield


@pytest.fixture
def tiny_root(tmp_path: Path) -> Path:
    """A data root: synthetics_train (24 images of 64 px), synthetics_val (8), synthetics_test (4, images only)."""
    root = tmp_path / "tiny"
    write_challenge(root / "synthetics_train", 24, seed=0)
    write_challenge(root / "synthetics_val", 8, seed=1)
    write_challenge(root / "synthetics_test", 4, seed=2, labelled=False)
    return root


def _shared(name: str) -> Path:
    folder = Path(__file__).resolve().parents[2] / "shared" / name
    if not folder.is_dir():
        pytest.skip(f"no shared/{name} beside the repository")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The shared data folder beside the repository; tests that need it skip where it is absent."""
    return _shared("data")


@pytest.fixture(scope="session")
def shared_inputs() -> Path:
    """Damaged and odd inputs beside the repository; tests that need them skip where they are absent."""
    return _shared("inputs")


from running import bare, tiny  # noqa: E402, F401
from students import exported  # noqa: E402, F401
