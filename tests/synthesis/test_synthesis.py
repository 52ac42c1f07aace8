"""Rendered sets: what an image depends on, where its labels lie, and that a set survives cuts, damage and growth."""

from __future__ import annotations

import importlib.util
import json
import pickle
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
from filelock import FileLock
from running import REPO

pytest.importorskip("numba")

from distill import headpose
from distill.data import SAMPLE_ROOT
from distill.data.annotations import read_set
from distill.errors import UserError
from distill.landmarks import IBUG68
from distill.synthesis import __main__ as entry
from distill.synthesis import facemodel, job, preview
from distill.synthesis.renderer import Renderer
from distill.synthesis.view import View

SIZE = 64


@pytest.fixture(scope="module")
def model():
    return facemodel.load()


@pytest.fixture(scope="module")
def renderer(model):
    return Renderer(model)


@pytest.fixture(scope="module", autouse=True)
def quick(model):
    """Shards of two images, and one model for all sets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "SHARD", 2)
        patch.setattr(facemodel, "load", lambda: model)
        yield


@pytest.fixture(scope="module")
def made(quick, tmp_path_factory):
    """The request for a set of five images that is there."""
    folder = tmp_path_factory.mktemp("made") / "synthetics_train"
    request = job.Request(folder, 7, SIZE, 0, 5, jobs=1, elevation=12.0, labels="aflw")
    job.make(request)
    return request


@pytest.fixture
def copy(made, tmp_path):
    """The same request for a copy of that set, to do anything to."""
    shutil.copytree(made.folder, tmp_path / "set")
    return replace(made, folder=tmp_path / "set")


def files(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.*") if path.suffix in (".jpg", ".pkl")}


# ---------------------------------------------------------------------------------------------------- pictures


def test_a_picture_depends_on_seed_index_and_size_alone(model, renderer):
    first = renderer.render(1, 3, SIZE)
    assert first[0].shape == (SIZE, SIZE, 3) and first[0].dtype == np.uint8
    renderer.render(1, 4, 2 * SIZE)
    for again in (renderer.render(1, 3, SIZE), Renderer(model).render(1, 3, SIZE)):
        assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], renderer.render(2, 3, SIZE)[0])


@pytest.mark.parametrize("name", ["train", "val"])
def test_the_bundled_sample_is_made_by_the_commands_of_its_readme(renderer, name):
    faces = read_set(SAMPLE_ROOT / f"synthetics_{name}", limit=1)
    image, landmarks = renderer.render(600, int(faces.names[0][:6]), 256)
    assert landmarks == pytest.approx(faces.landmarks[0], abs=0.01)
    assert np.abs(image - faces.image(0).astype(float)).mean() < 4, "but for the JPEG"


def test_landmarks_scale_with_the_size(renderer):
    small, large = renderer.render(1, 3, SIZE)[1], renderer.render(1, 3, 3 * SIZE)[1]
    assert large == pytest.approx(3 * small, rel=1e-6)


def test_landmarks_lie_where_their_vertices_are_drawn(model):
    """The surface seen at the pixel of a landmark in front is that of its vertex."""
    seen, renderer = 0, Renderer(model, labels="vertices")
    for index in range(12):
        _, points = renderer.render(5, index, 2 * SIZE)
        frame, _ = renderer.frames[2 * SIZE]
        mesh = renderer.scene.mesh
        for point in (30, 33, 8, 27):  # nose and chin
            x, y = (points[point] * 1.25).astype(int)
            corners = mesh.triangles[frame.owner[y, x]]
            vertex = mesh.points[model.landmarks[point]]
            seen += frame.owner[y, x] >= 0 and np.linalg.norm(mesh.points[corners] - vertex, axis=1).min() < 1.0
    assert seen > 30  # of 48; the others are behind hair, hands, scarves or the nose itself


def test_a_picture_does_not_depend_on_the_kind_of_its_labels(model, renderer):
    image, points = renderer.render(1, 3, SIZE)
    same, vertices = Renderer(model, labels="vertices").render(1, 3, SIZE)
    apart = np.linalg.norm(points - vertices, axis=1) / SIZE
    assert np.array_equal(image, same) and 0.002 < apart.mean() < 0.02


def test_label_points_are_symmetric_and_near_the_surface(model):
    assert model.label_weights.sum(1) == pytest.approx(np.ones(68), abs=1e-6)
    points = model.label_points(model.vertices)
    assert points[list(IBUG68.flip_permutation)] * [-1, 1, 1] == pytest.approx(points, abs=0.02)  # cm
    apart = np.linalg.norm(points - model.vertices[model.landmarks], axis=1)
    assert apart[:17].max() < 0.8 and apart[17:].max() < 0.3


def test_a_parallel_projection_is_the_closest_there_is(model):
    view = View(np.random.default_rng(1), model.vertices[model.landmarks])
    points = view.place(model.label_points(model.vertices))
    near, far = view.project(points, 1.0)[:, :2], view.project_parallel(points)
    error = ((far - near) ** 2).sum()
    assert 0 < error < 68 * 0.02**2
    centre = far.mean(0)
    for factor in (0.998, 1.002):
        assert (((far - centre) * factor + centre - near) ** 2).sum() > error
        assert ((far + [factor - 1, 0] - near) ** 2).sum() > error
    flat = points * np.float32([1, 1, 0])  # all at one depth: nothing is nearer than the rest
    assert view.project_parallel(flat) == pytest.approx(view.project(flat, 1.0)[:, :2], abs=1e-5)


def poses(model, elevation: float) -> tuple[np.ndarray, np.ndarray]:
    """(300, 68, 2) landmarks of the first heads of seed 3, and their yaw, pitch and roll."""
    seen = Renderer(model, elevation)
    points = np.stack([seen.subject(3, index).landmarks for index in range(300)])
    return points, headpose.estimate(points)


def test_heads_turned_to_the_side_are_seen_from_above_and_below_too(model):
    (level, _), (raised, turns) = poses(model, 0.0), poses(model, 12.0)
    _, before = poses(model, 0.0)
    yaw = np.abs(before[:, 0])
    assert np.array_equal(level[yaw < 25], raised[yaw < 25])  # up to 30 degrees nothing is added
    side = yaw > 68
    assert before[side, 1].std() < 6 < 9 < turns[side, 1].std() < 16
    assert abs(turns[side, 1].mean()) < 6


def test_a_camera_that_is_raised_looks_down(model):
    view = [View(np.random.default_rng(4), model.vertices[model.landmarks], angle) for angle in (-20.0, 20.0)]
    points = np.stack([v.project(v.place(model.vertices[model.landmarks]), 1.0)[:, :2] for v in view])
    low, high = headpose.estimate(points)
    assert abs(low[0]) > 60 and low[1] > high[1] + 30  # of 40 degrees; positive: the face looks up


def test_faces_are_framed_as_the_validation_crops_are(renderer):
    subjects = [renderer.subject(0, index) for index in range(200)]
    points = np.stack([subject.landmarks for subject in subjects])
    assert np.isfinite(points).all()
    low, high = points.min(1), points.max(1)
    centre, side = np.median((low + high) / 2, axis=0), np.median(np.sqrt((high - low).prod(1)))
    assert centre == pytest.approx([0.5, 0.58], abs=0.01) and side == pytest.approx(0.509, abs=0.015)
    upright = np.array([subject.view.head[1, 1] > 0.9 for subject in subjects])
    assert (points[upright, 8, 1] > points[upright, 27, 1]).all()  # chin below the bridge of the nose
    facing = np.array([subject.view.head[2, 2] > 0.9 for subject in subjects]) & upright
    assert (points[facing, 45, 0] > points[facing, 36, 0]).all()  # the subject's left eye on the right


# ---------------------------------------------------------------------------------------------------- sets


def test_a_set_is_read_as_the_challenges(made, renderer):
    faces = read_set(made.folder)
    assert faces.names == tuple(f"{i:06d}.jpg" for i in range(5)) and (faces.sizes == SIZE).all()
    for i in (0, 4):
        image, landmarks = renderer.render(7, i, SIZE)
        assert np.array_equal(faces.landmarks[i], landmarks)
        assert (made.folder / faces.names[i]).read_bytes() == job.encode(image)
    manifest = json.loads((made.folder / "manifest.json").read_text())
    assert manifest["fingerprint"] == faces.fingerprint and manifest["count"] == 5
    assert (manifest["version"], manifest["seed"], manifest["size"]) == (2, 7, SIZE)


def test_an_image_is_the_same_whatever_count_start_and_jobs_are(made, tmp_path):
    other = replace(made, folder=tmp_path / "set", start=1, count=3, jobs=2)
    assert job.make(other).rendered == 3
    ours, theirs = files(made.folder), files(other.folder)
    assert sorted(theirs) == ["000001.jpg", "000002.jpg", "000003.jpg", "annot.pkl"]
    assert all(theirs[name] == ours[name] for name in theirs if name != "annot.pkl")


def test_a_complete_set_is_left_as_it_is(copy):
    before = files(copy.folder)
    assert job.make(copy).rendered == 0
    assert job.make(replace(copy, count=2)).rendered == 0 and files(copy.folder) == before


def test_a_larger_count_extends_a_set(copy, tmp_path):
    assert job.make(replace(copy, count=7)).rendered == 2
    whole = replace(copy, folder=tmp_path / "whole", count=7)
    job.make(whole)
    assert files(copy.folder) == files(whole.folder)


def damage(folder):
    (folder / "shards" / "000000.npy").unlink()
    (folder / "shards" / "000002.npy").write_bytes(b"no array")
    image = folder / "000004.jpg"
    image.write_bytes(image.read_bytes()[:-20])


def test_what_is_lost_or_broken_is_rendered_again(copy):
    before = files(copy.folder)
    damage(copy.folder)
    assert job.make(copy).rendered == 5 and files(copy.folder) == before
    (copy.folder / "000001.jpg").unlink()
    assert job.make(copy).rendered == 1 and files(copy.folder) == before


def test_a_run_that_was_cut_goes_on(made, tmp_path, monkeypatch):
    cut = replace(made, folder=tmp_path / "set")
    render = Renderer.render

    def interrupted(self, seed, index, size):
        if index == 3:
            raise KeyboardInterrupt
        return render(self, seed, index, size)

    with monkeypatch.context() as patch:
        patch.setattr(Renderer, "render", interrupted)
        with pytest.raises(KeyboardInterrupt):
            job.make(cut)
    assert not (cut.folder / "annot.pkl").exists()
    assert json.loads((cut.folder / "manifest.json").read_text())["fingerprint"] is None
    assert job.make(cut).rendered == 3  # the first shard of two is kept
    assert files(cut.folder) == files(made.folder)


@pytest.mark.parametrize(("key", "before", "now"), [("elevation", "0.0", "12.0"), ("labels", "vertices", "aflw")])
def test_renders_from_before_there_was_a_choice_go_on_as_they_were(copy, key, before, now):
    path = copy.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest[key]
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=f"{key} {before}.*{now}"):
        job.make(copy)
    assert job.make(replace(copy, **{key: job.DEFAULTS[key]})).rendered == 0


@pytest.mark.parametrize(("key", "value"), [("seed", 8), ("size", 32), ("elevation", 0.0), ("labels", "vertices")])
def test_a_folder_of_other_renders_is_refused(copy, key, value):
    before = files(copy.folder)
    with pytest.raises(UserError, match=f"{key} .*{value}"):
        job.make(replace(copy, **{key: value}))
    assert files(copy.folder) == before


def test_a_folder_of_anything_else_is_refused(made, tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    (folder / "000000.jpg").write_bytes(b"mine")
    with pytest.raises(UserError, match="manifest.json"):
        job.make(replace(made, folder=folder))
    assert [path.name for path in folder.iterdir()] == ["000000.jpg"]


def test_two_processes_do_not_render_one_folder(copy):
    with FileLock(copy.folder / "shards" / ".lock"), pytest.raises(UserError, match="by another process"):
        job.make(copy)


def test_labels_are_plain_arrays(made):
    names, labels = pickle.loads((made.folder / "annot.pkl").read_bytes())
    assert all(type(name) is str for name in names)
    assert all(label.shape == (68, 2) and label.dtype == np.float32 for label in labels)


# ---------------------------------------------------------------------------------------------------- the command


def test_the_command_renders_and_previews(tmp_path, capsys):
    entry.main(["--count", "3", "--size", "32", "--out", str(tmp_path), "--jobs", "1", "--preview"])
    printed = capsys.readouterr().out
    assert "3 images of 32 x 32 px, 000000.jpg to 000002.jpg" in printed and "rendered now  3 in" in printed
    assert len(read_set(tmp_path / "synthetics_train")) == 3
    sheet = cv2.imread(str(tmp_path / "synthetics_train.png"))
    assert sheet.shape == (preview.TILE, 3 * preview.TILE, 3)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--size", "66"], "--size .*66"),
        (["--size", "4096"], "--size .*4096"),
        (["--count", "0"], "--count: '0'"),
        (["--jobs", "0"], "--jobs: '0'"),
        (["--seed", "-1"], "--seed: '-1'"),
        (["--elevation", "-1"], "--elevation .*-1"),
        (["--elevation", "nan"], "--elevation .*nan"),
        (["--start", "999999", "--count", "2"], "1000000"),
        (["--set", "a/b"], "--set .*'a/b'"),
        (["--out", __file__], "test_synthesis.py"),
    ],
)
def test_bad_arguments_are_one_sentence(args, words, tmp_path):
    with pytest.raises(UserError, match=words):
        entry.main(["--out", str(tmp_path), *args])
    assert not list(tmp_path.iterdir())


def test_the_pose_of_rendered_heads_is_found_and_few_fall_into_a_wrong_yaw_bin(model):
    spec = importlib.util.spec_from_file_location("mean_face", REPO / "docs" / "mean_face.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    found = script.measure(*script.heads(model, seed=5, count=400))
    assert found["wrong_bin"] <= 0.04 and found["yaw"] < 1.5 and found["pitch"] < 2 and found["roll"] < 1.5, found
