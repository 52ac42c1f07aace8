"""Frames: what smoothing gains and costs, videos in and out, what the puppet shows."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_face
from films import TIMES, damaged, uneven_film
from running import REPO

from distill import headpose
from distill.errors import UserError
from distill.predict import job, smoothing, video

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


def frames_of(path: Path) -> list[video.Frame | video.Lost]:
    with video.opened(str(path)) as opened:
        return list(opened.frames)


@pytest.mark.parametrize("size", [(64, 48), (65, 47)])
def test_frames_written_are_frames_read(tmp_path, size):
    path = tmp_path / "deep" / "a.mp4"
    with video.writer(path) as write:
        for index, shade in enumerate(range(0, 200, 20)):
            write(np.full((size[1], size[0], 3), (shade, 30, 10), np.uint8), index / 12.5)
        assert not path.exists(), "a video appears when it is whole"
    frames = frames_of(path)
    assert frames[0].image.shape == (48, 64 + 2 * (size[0] > 64), 3)
    assert [frame.index for frame in frames] == list(range(10)) and frames[5].seconds == pytest.approx(0.4)
    assert [frame.image[20, 20, 0] for frame in frames] == pytest.approx(list(range(0, 200, 20)), abs=12)
    assert frames[9].image[20, 20, 2] < 60, "red first"
    assert [path.name for path in path.parent.iterdir()] == ["a.mp4"]


def test_a_video_that_fails_leaves_nothing_behind(tmp_path):
    with pytest.raises(RuntimeError), video.writer(tmp_path / "a.mp4") as write:
        write(np.zeros((8, 8, 3), np.uint8), 0.0)
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_each_frame_has_the_containers_own_time(tmp_path):
    frames = frames_of(uneven_film(tmp_path / "film.mp4"))
    assert [frame.seconds for frame in frames] == pytest.approx(TIMES, abs=1e-4)


def test_frames_that_rest_on_a_lost_one_are_lost_too_and_all_others_are_what_was_filmed(tmp_path):
    film = uneven_film(tmp_path / "film.mp4")
    whole, found = frames_of(film), frames_of(damaged(film, tmp_path / "hole.mp4"))
    assert [frame.index for frame in found] == list(range(len(TIMES)))
    assert [frame.seconds for frame in found] == pytest.approx(TIMES, abs=1e-4)
    kept = [frame for frame in found if isinstance(frame, video.Frame)]
    assert len(TIMES) / 2 < len(kept) < len(TIMES) - 3 and kept[-1].index == len(TIMES) - 1
    off = [float(np.abs(frame.image.astype(int) - whole[frame.index].image).mean()) for frame in kept]
    assert sum(value > 1 for value in off) <= 1, "the frame in which the damage begins may be decoded in part"


def test_a_film_that_is_cut_off_is_read_to_the_cut_and_what_is_missing_is_named(tmp_path, shared_inputs):
    found = frames_of(shared_inputs / "videos" / "cut_fast.mp4")
    assert [frame.index for frame in found if isinstance(frame, video.Frame)] == list(range(41))
    assert [type(frame) for frame in found[41:]] == [video.Lost, video.Lost] and "4.000 s" in found[-1].reason


@pytest.mark.parametrize(
    ("name", "kept", "last"),
    [("hole_fast.mp4", 72, 3.96), ("hole_whole.mkv", 80, 3.96), ("vfr.mkv", 24, 3.133), ("dense.mkv", 100, 0.99)],
)
def test_films_that_are_not_whole_or_even(shared_inputs, name, kept, last):
    found = [frame for frame in frames_of(shared_inputs / "videos" / name) if isinstance(frame, video.Frame)]
    assert len(found) == kept and found[-1].seconds == pytest.approx(last, abs=1e-3)


def test_what_is_no_video_is_reported_once(tmp_path, capfd):
    (tmp_path / "text.mp4").write_text("no video")
    for source, camera, named in (("text.mp4", None, "text.mp4"), ("absent.mp4", None, "absent.mp4"), ("", 97, "97")):
        with pytest.raises(UserError) as error, video.opened(str(tmp_path / source), camera):
            pass
        assert named in str(error.value)
    assert capfd.readouterr().err == ""


def test_lag_is_of_true_times():
    """A point that moves evenly, seen at uneven times, 0.1 s late: one frame of the usual 0.1 s."""
    seconds = np.cumsum(np.where(np.arange(60) % 10 == 9, 0.9, 0.1))
    tracks = [np.sin(0.7 * (seconds - late))[:, None, None] * np.full((1, 68, 2), 50.0) for late in (0.0, 0.1)]
    assert smoothing.compare(*tracks, 100, seconds).lag_frames == pytest.approx(1.0, abs=0.3)


def test_cameras_have_numbers_and_an_existing_path_comes_first(tmp_path, monkeypatch):
    assert [job.camera_index(s) for s in ("camera", "camera:2", "camera:", "camera.mp4")] == [0, 2, None, None]
    monkeypatch.chdir(tmp_path)
    assert job.kind_of("camera") == "camera"
    (tmp_path / "camera").mkdir()
    assert job.kind_of("camera") == "folder"


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
