"""Frames: what smoothing gains and costs, videos in and out, what the puppet shows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import draw_face

from distill import headpose
from distill.errors import UserError
from distill.predict import motion, puppet, smoothing, video

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


# ---------------------------------------------------------------------------------------------------- motion and puppet


def seen(yaw: float = 0, pitch: float = 0, roll: float = 0, **moved: tuple[list[int], float]) -> np.ndarray:
    """The mean face as a picture shows it; `moved`: points and by how many cm they are raised."""
    face = headpose.mean_face().copy()
    for points, height in moved.values():
        face[points, 1] += height
    return (face @ headpose.rotation(yaw, pitch, roll).T)[:, :2] * [20, -20] + 300


def test_motion_does_not_depend_on_where_how_large_or_how_tilted_a_face_is():
    plain = motion.measure(seen())
    for points in (5 * seen() + 90, seen(roll=35), seen(roll=-60)):
        found = motion.measure(points)
        for name in ("left_eye", "right_eye", "left_brow", "mouth_open", "mouth_width", "smile", "yaw", "pitch"):
            assert getattr(found, name) == pytest.approx(getattr(plain, name), abs=1e-6), name
    assert motion.measure(seen(roll=35)).roll == pytest.approx(35)


@pytest.mark.parametrize("turn", [{"yaw": 30}, {"yaw": -30}, {"pitch": 20}, {"yaw": 80}])
def test_a_turn_of_the_head_is_no_expression(turn):
    plain, found = motion.measure(seen()), motion.measure(seen(**turn))
    assert (found.yaw, found.pitch) == pytest.approx((turn.get("yaw", 0), turn.get("pitch", 0)), abs=1)
    assert found.left_eye == pytest.approx(plain.left_eye, rel=0.25)
    assert found.mouth_open < 0.05


def test_the_puppet_does_what_the_face_does():
    act = puppet.Retargeter()
    for _ in range(30):
        rest = act(seen())
    assert (rest.left_eye, rest.right_eye, rest.mouth_width) == pytest.approx((1, 1, 1), abs=0.02)
    assert (rest.mouth_open, rest.left_brow, rest.smile) == pytest.approx((0, 0, 0), abs=0.02)
    assert act(seen(yaw=25, roll=-10)).yaw == pytest.approx(25, abs=1)
    lids = seen(upper=([37, 38], -0.5))
    assert act(lids).left_eye < 0.5 < 0.9 < act(lids).right_eye
    assert act(seen(lip=([65, 66, 67, 56, 57, 58, 8], -2.0))).mouth_open > 0.15
    brows = act(seen(brows=([18, 19, 20], 0.6)))
    assert brows.left_brow > 0.04 and abs(brows.right_brow) < 0.02
    assert act(seen(corners=([48, 54], 0.5))).smile > 0.03


def test_the_puppets_rest_is_the_faces_own():
    narrow = seen(upper=([37, 38, 43, 44], -0.3))
    act = puppet.Retargeter()
    first = act(narrow).left_eye
    for _ in range(200):
        last = act(narrow).left_eye
    assert first < 0.7 and last > 0.9


def colour_count(image: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((np.abs(image.astype(int) - colour).max(axis=2) < 12).sum())


def test_the_drawing_shows_the_pose():
    rest = puppet.draw(puppet.Pose(), 200)
    assert rest.shape == (200, 200, 3) and rest.dtype == np.uint8
    assert colour_count(rest, puppet._IRIS) > 40
    assert colour_count(puppet.draw(puppet.Pose(left_eye=0, right_eye=0), 200), puppet._IRIS) == 0
    assert (
        colour_count(puppet.draw(puppet.Pose(mouth_open=0.4), 200), puppet._INSIDE)
        > 100
        > colour_count(rest, puppet._INSIDE)
    )
    lips = [np.nonzero(np.abs(puppet.draw(puppet.Pose(yaw=yaw), 200).astype(int) - puppet._LIP).max(2) < 12)[1].mean()
            for yaw in (-40, 0, 40)]  # fmt: skip
    assert lips[0] < lips[1] - 15 and lips[2] > lips[1] + 15


def test_a_mirrored_pose_is_a_mirrored_drawing():
    pose = puppet.Pose(yaw=25, roll=10, left_eye=0.3, right_brow=0.1, mouth_open=0.2)
    mirrored = replace(pose, yaw=-25, roll=-10, left_eye=1, right_eye=0.3, left_brow=0.1, right_brow=0)
    one, other = puppet.draw(pose, 200).astype(int), puppet.draw(mirrored, 200)[:, ::-1].astype(int)
    assert (np.abs(one - other).max(axis=2) > 60).mean() < 0.01
    assert (np.abs(one - other[:, ::-1]).max(axis=2) > 60).mean() > 0.05


def test_another_number_of_points_drives_no_puppet():
    with pytest.raises(UserError, match="98 points"):
        motion.measure(np.zeros((98, 2)))
