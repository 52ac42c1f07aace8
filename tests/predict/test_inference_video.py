"""Frames: what smoothing gains and costs, videos in and out, what the puppet shows."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from conftest import draw_face
from running import REPO

from distill import headpose
from distill.errors import UserError
from distill.predict import smoothing, video

# ---------------------------------------------------------------------------------------------------- smoothing


def still(frames: int = 200, noise: float = 0.5) -> np.ndarray:
    rng = np.random.default_rng(0)
    return draw_face(rng, 200)[1] + rng.normal(0, noise, (frames, 68, 2))


def smoothed(track: np.ndarray, fps: float = 30.0, **settings: float) -> np.ndarray:
    calm = smoothing.OneEuro(**settings)
    return np.stack([calm(points, index / fps) for index, points in enumerate(track)])


def test_the_filter_is_the_papers():
    square = np.array([[0.0, 0], [10, 0], [10, 10], [0, 10]])  # a face of size 10
    calm = smoothing.OneEuro(min_cutoff=1.0, beta=0.5, speed_cutoff=2.0)
    assert calm(square, 0.0) == pytest.approx(square)
    found = calm(square + [1.0, 0.0], 0.1)
    alpha = lambda cutoff: 1 / (1 + 1 / (2 * np.pi * cutoff * 0.1))  # noqa: E731 - equation 3 of the paper
    speed = alpha(2.0) * 1.0 / 0.1 / 10  # face sizes a second
    assert found[:, 0] - square[:, 0] == pytest.approx(np.full(4, alpha(1.0 + 0.5 * speed)), rel=1e-5)
    assert found[:, 1] == pytest.approx(square[:, 1])


def test_a_face_at_rest_is_calmed_to_a_third_and_a_moving_one_followed_within_a_frame():
    rest = still()
    assert smoothing.jitter(smoothed(rest), 200) < smoothing.jitter(rest, 200) / 3
    way = 60 * np.sin(np.arange(200) / 30 * 2 * np.pi * 0.7)
    moving = rest + np.stack([way, 0 * way], axis=1)[:, None]
    assert smoothing.lag(moving, smoothed(moving)) < 1.0
    assert smoothing.lag(moving, smoothed(moving, beta=0.0)) > 2.0, "the speed matters"


def test_smoothing_depends_neither_on_resolution_nor_on_the_pictures_axes():
    track = still(40) + np.linspace(0, 50, 40)[:, None, None]
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    assert smoothed(7 * track) == pytest.approx(7 * smoothed(track), abs=1e-2)
    found, expected = smoothed(track @ turn.T), smoothed(track) @ turn.T
    assert np.abs(found - expected).max() < 0.5, "only the box around the face differs"


def test_time_must_go_on():
    calm = smoothing.OneEuro()
    calm(still(1)[0], 1.0)
    with pytest.raises(ValueError, match="time must go on"):
        calm(still(1)[0], 1.0)
    with pytest.raises(ValueError, match="above 0"):
        smoothing.OneEuro(min_cutoff=0)


def test_jitter_is_the_mean_step_of_a_point():
    track = np.array([[[0.0, 0], [5, 5]], [[3, 4], [5, 5]], [[3, 4], [5, 6]]])
    assert smoothing.jitter(track, 50) == pytest.approx(100 * (5 + 0 + 0 + 1) / 4 / 50)
    assert smoothing.jitter(track[:1], 50) == 0


@pytest.mark.parametrize("late", [0.0, 1.0, 1.5, 4.0])
def test_lag_is_measured_in_frames(late):
    def track(at):
        return (40 * np.sin(at / 7) + 10 * np.sin(at / 3))[:, None, None] * np.ones((1, 68, 2))

    at = np.arange(120.0)
    assert smoothing.lag(track(at), track(at - late)) == pytest.approx(late, abs=0.05)


# ---------------------------------------------------------------------------------------------------- video


@pytest.mark.parametrize("size", [(64, 48), (65, 47)])
def test_frames_written_are_frames_read(tmp_path, size):
    path = tmp_path / "deep" / "a.mp4"
    with video.Writer(path, 12.5) as writer:
        for shade in range(0, 200, 20):
            writer.write(np.full((size[1], size[0], 3), (shade, 30, 10), np.uint8))
        assert not path.exists(), "a video appears when it is whole"
    with video.opened(str(path)) as opened:
        assert (opened.width, opened.height, opened.fps, opened.count) == (64 + 2 * (size[0] > 64), 48, 12.5, 10)
        frames = list(opened.frames())
    assert [frame.index for frame in frames] == list(range(10)) and frames[5].seconds == pytest.approx(0.4)
    assert [frame.image[20, 20, 0] for frame in frames] == pytest.approx(list(range(0, 200, 20)), abs=12)
    assert frames[9].image[20, 20, 2] < 60, "red first"
    assert [path.name for path in path.parent.iterdir()] == ["a.mp4"]


def test_a_video_that_fails_leaves_nothing_behind(tmp_path):
    with pytest.raises(RuntimeError), video.Writer(tmp_path / "a.mp4", 25) as writer:
        writer.write(np.zeros((8, 8, 3), np.uint8))
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_what_is_no_video_is_said_once(tmp_path, capfd):
    (tmp_path / "text.mp4").write_text("no video")
    for source, words in ((tmp_path / "text.mp4", "cannot be decoded"), (tmp_path / "absent.mp4", "does not exist"),
                          ("camera:97", "Camera 97 cannot be opened")):  # fmt: skip
        with pytest.raises(UserError, match=words), video.opened(str(source)):
            pass
    assert capfd.readouterr().err == ""


def test_cameras_have_numbers():
    assert [video.camera_index(s) for s in ("camera", "camera:2", "camera:", "camera.mp4")] == [0, 2, None, None]


def test_the_example_puppet_follows_a_face(tmp_path):
    spec = importlib.util.spec_from_file_location("puppet", REPO / "examples" / "puppet.py")
    puppet = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(puppet)
    straight = (headpose.mean_face()[:, :2] * [1.0, -1.0]).astype(np.float32)
    rest = puppet.measure(straight)
    assert abs(rest["yaw"]) < 5 and puppet.draw(rest).shape == (puppet.SIDE, puppet.SIDE, 3)
    open_mouth = rest | {"mouth": 0.3}
    inside = [(puppet.draw(face) == puppet.INSIDE).all(axis=2).sum() for face in (rest, open_mouth)]
    assert inside[1] > 2 * inside[0]
