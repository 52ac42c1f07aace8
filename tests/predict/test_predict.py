"""`python -m distill.predict`: pictures, folders, video; as files; and from the ONNX file alone, where there is no
torch."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import draw_face
from films import TIMES, damaged, uneven_film
from running import REPO
from test_imports import MODULES, imports

from distill import cli
from distill.errors import UserError
from distill.predict import __main__ as predict
from distill.predict import smoothing, video
from distill.predict.job import Options, predict_pictures
from distill.predict.runtime import Student, load_onnx
from distill.predict.video_job import predict_video

FRAMES = 12


@pytest.fixture(scope="module")
def model(exported) -> str:
    return str(exported.onnx)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Four pictures of different sizes and kinds."""
    inside = tmp_path / "pictures"
    inside.mkdir()
    rng = np.random.default_rng(0)
    for name, width, height in (("a.jpg", 100, 100), ("b.png", 160, 90), ("c.bmp", 64, 80), ("d.PNG", 64, 64)):
        image = cv2.resize(draw_face(rng, 128)[0], (width, height))
        cv2.imwrite(str(inside / name), image[..., ::-1])
    (inside / "notes.txt").write_text("no picture")
    return inside


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """A drawn face that trembles, 96x64 pixels, 25 frames a second."""
    path = tmp_path_factory.mktemp("clips") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (96, 64))
    face = draw_face(np.random.default_rng(1), 64)[0]
    rng = np.random.default_rng(2)
    for _ in range(FRAMES):
        frame = np.zeros((64, 96, 3), np.uint8)
        x, y = rng.integers(0, 24), rng.integers(0, 4)
        frame[y:64, x : x + 64] = face[: 64 - y]
        writer.write(frame[..., ::-1])
    writer.release()
    return path


def run(*args) -> None:
    predict.main([str(arg) for arg in args])


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8") as file:
        return list(csv.DictReader(file))


# ---------------------------------------------------------------------------------------------------- pictures


def test_a_folder_becomes_landmarks_and_drawn_pictures(model, folder, tmp_path, capsys):
    out = tmp_path / "out"
    run(model, folder, "--out", out)
    written = json.loads((out / "landmarks.json").read_text())
    assert list(written) == ["a.jpg", "b.png", "c.bmp", "d.PNG"]
    for name, face in written.items():
        assert np.array(face["points"]).shape == (68, 2) and all(0 <= c <= 1 for c in face["confidence"])
        source, drawn = cv2.imread(str(folder / name)), cv2.imread(str(out / f"{Path(name).stem}.jpg"))
        assert drawn.shape == source.shape and (drawn != source).any()
    assert {path.name for path in out.iterdir()} == {"landmarks.json", "a.jpg", "b.jpg", "c.jpg", "d.jpg"}
    assert "4 images -> " in capsys.readouterr().out


def test_csv_and_json_have_the_same_contents(model, folder, tmp_path):
    for kind in ("json", "csv"):
        run(model, folder, "--out", tmp_path / "out", "--format", kind, "--no-pictures")
    written, rows = json.loads((tmp_path / "out/landmarks.json").read_text()), rows_of(tmp_path / "out/landmarks.csv")
    assert [(row["image"], row["face"]) for row in rows] == [(name, "0") for name in written]
    for row, face in zip(rows, written.values(), strict=True):
        points = [[float(row[f"x{i}"]), float(row[f"y{i}"])] for i in range(1, 69)]
        assert np.array(points) == pytest.approx(np.array(face["points"]), abs=2e-3)
        assert [float(row[f"c{i}"]) for i in range(1, 69)] == pytest.approx(face["confidence"], abs=2e-4)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"landmarks.json", "landmarks.csv"}


def test_boxes_choose_the_faces(model, folder, tmp_path, capsys):
    table = tmp_path / "boxes.csv"
    table.write_text(f"image,x,y,w,h\na.jpg,20,20,60,60\na.jpg,0,0,100,100\n{folder / 'b.png'},40,10,70,70\n")
    run(model, folder, "--boxes", table, "--out", tmp_path / "boxed")
    run(model, folder, "--out", tmp_path / "whole", "--no-pictures")
    run(model, folder, "--boxes", table, "--box-scale", "1", "--out", tmp_path / "one", "--no-pictures")
    boxed, whole, one = (json.loads((tmp_path / n / "landmarks.json").read_text()) for n in ("boxed", "whole", "one"))
    assert [len(faces) for faces in boxed.values()] == [2, 1, 1, 1]
    assert [face.get("box") for face in boxed["a.jpg"]] == [[20, 20, 60, 60], [0, 0, 100, 100]]
    assert boxed["c.bmp"] == [whole["c.bmp"]], "no box: the whole picture is the crop"
    assert boxed["a.jpg"][0]["points"] != boxed["a.jpg"][1]["points"] != whole["a.jpg"]["points"]
    # a box that is the whole picture, taken as it is
    assert np.array(one["a.jpg"][1]["points"]) == pytest.approx(np.array(whole["a.jpg"]["points"]), abs=2)
    printed = capsys.readouterr().out
    assert "4 images, 5 faces" in printed and "2 images have no box" in printed


def test_pictures_of_one_name_keep_their_paths(model, folder, tmp_path):
    other = tmp_path / "others"
    other.mkdir()
    shutil.copy(folder / "d.PNG", other / "a.jpg")
    run(model, folder / "a.jpg", other / "a.jpg", folder / "a.jpg", folder / "c.bmp", "--out", tmp_path / "out")
    written = json.loads((tmp_path / "out/landmarks.json").read_text())
    assert written.keys() == {str(folder / "a.jpg"), str(other / "a.jpg"), "c.bmp"}
    assert len(list((tmp_path / "out").glob("*.jpg"))) == 3


def test_a_drawing_never_replaces_a_picture(model, folder):
    before = (folder / "b.png").read_bytes()
    with pytest.raises(UserError, match="b.png|a.jpg|c.bmp"):
        run(model, folder, "--out", folder)
    assert (folder / "b.png").read_bytes() == before
    run(model, folder, "--out", folder, "--no-pictures")


def names_left_out(out: Path) -> list[str]:
    return [line.split("\t")[0] for line in (out / "left_out.txt").read_text().splitlines()]


def test_one_bad_file_is_left_out_and_named_and_the_rest_is_predicted(model, folder, tmp_path, capsys):
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "._a.jpg").write_bytes(b"left behind by another system")
    with pytest.raises(SystemExit) as ended:
        run(model, folder, "--out", tmp_path / "out")
    assert ended.value.code == 1
    assert list(json.loads((tmp_path / "out/landmarks.json").read_text())) == ["a.jpg", "b.png", "c.bmp", "d.PNG"]
    assert names_left_out(tmp_path / "out") == ["broken.jpg", "loop.png", "pipe.png"]
    assert "3 left out" in capsys.readouterr().err
    for name in ("broken.jpg", "loop.png", "pipe.png"):
        (folder / name).unlink()
    run(model, folder, "--out", tmp_path / "out")
    assert not (tmp_path / "out/left_out.txt").exists()


def test_what_was_predicted_before_an_interrupt_is_on_disk(exported, folder, tmp_path, monkeypatch):
    student = load_onnx(exported.onnx)
    seen = []

    def network(images):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(1)
        return student.network(images)

    network.size = student.network.size
    files = {path.name: path for path in sorted(folder.glob("[a-d].*"))}
    with pytest.raises(KeyboardInterrupt):
        predict_pictures(Student(network, "x", {}, student.markup), files, Options(out=tmp_path / "out"))
    assert list(json.loads((tmp_path / "out/landmarks.json").read_text())) == ["a.jpg", "b.png"]


def test_a_model_that_gives_no_numbers_is_an_error_and_no_file(exported, folder, tmp_path):
    student = load_onnx(exported.onnx)

    def network(images):
        points, confidence = student.network(images)
        return points * np.nan, confidence

    network.size = student.network.size
    with pytest.raises(UserError, match="not finite"):
        predict_pictures(
            Student(network, "x", {}, student.markup), {"a.jpg": folder / "a.jpg"}, Options(out=tmp_path / "o")
        )
    assert not (tmp_path / "o/landmarks.json").exists()


def test_boxes_match_names_that_look_alike_and_those_of_no_picture_are_named(model, folder, tmp_path, capsys):
    os.rename(folder / "a.jpg", folder / "Jose\u0301.jpg")
    (tmp_path / "boxes.csv").write_text(
        "image,x,y,w,h\nJos\u00e9.jpg,20,20,60,60\nelsewhere.jpg,0,0,9,9\n", encoding="utf-8"
    )
    run(model, folder, "--boxes", tmp_path / "boxes.csv", "--out", tmp_path / "out", "--no-pictures")
    faces = json.loads((tmp_path / "out/landmarks.json").read_text())
    assert faces["Jose\u0301.jpg"][0]["box"] == [20, 20, 60, 60]
    assert "'elsewhere.jpg'" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------- video


def track(path: Path) -> np.ndarray:
    return np.array([frame["points"] for frame in json.loads(path.read_text())["frames"]])


def test_a_video_becomes_landmarks_a_drawn_video_and_its_jitter(model, clip, tmp_path, capsys):
    run(model, clip, "--out", tmp_path / "raw")
    written = json.loads((tmp_path / "raw/landmarks.json").read_text())
    points = track(tmp_path / "raw/landmarks.json")
    assert points.shape == (FRAMES, 68, 2)
    assert (written["width"], written["height"], written["fps"], written["smoothed"]) == (96, 64, 25, False)
    assert [frame["seconds"] for frame in written["frames"]] == pytest.approx(np.arange(FRAMES) / 25)
    assert written["jitter_percent"]["raw"] == pytest.approx(smoothing.jitter(points, (96 * 64) ** 0.5), rel=1e-3)
    assert 0 < written["jitter_percent"]["smoothed"] < written["jitter_percent"]["raw"]
    line = next(line for line in capsys.readouterr().out.splitlines() if "jitter" in line)
    assert all(f"{written['jitter_percent'][kind]:.3f} %" in line for kind in ("raw", "smoothed")) and "lag" in line
    with video.opened(str(tmp_path / "raw/clip_landmarks.mp4")) as opened:
        drawn = list(opened.frames)
    assert {frame.image.shape for frame in drawn} == {(64, 96, 3)}
    assert [frame.seconds for frame in drawn] == pytest.approx(np.arange(FRAMES) / 25)


def test_smooth_gives_out_the_smoothed_points(model, clip, tmp_path):
    for name, more in (("raw", ()), ("smooth", ("--smooth",))):
        run(model, clip, "--out", tmp_path / name, "--no-pictures", *more)
    raw, smooth = track(tmp_path / "raw/landmarks.json"), track(tmp_path / "smooth/landmarks.json")
    calm = smoothing.OneEuro()
    expected = np.stack([calm(points, index / 25) for index, points in enumerate(raw)])
    assert smooth == pytest.approx(expected, abs=0.01) and not np.allclose(raw, smooth, atol=0.1)
    assert json.loads((tmp_path / "smooth/landmarks.json").read_text())["smoothed"] is True
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["landmarks.json"]


def test_a_box_holds_from_its_frame_on(model, clip, tmp_path):
    (tmp_path / "boxes.json").write_text('{"3": [10, 5, 50, 50], "8": [30, 5, 50, 50]}')
    run(model, clip, "--boxes", tmp_path / "boxes.json", "--out", tmp_path, "--no-pictures")
    written = json.loads((tmp_path / "landmarks.json").read_text())["frames"]
    boxes = [None] * 3 + [[10, 5, 50, 50]] * 5 + [[30, 5, 50, 50]] * (FRAMES - 8)
    assert [frame.get("box") for frame in written] == boxes


def test_a_camera_is_read_until_it_is_stopped_and_then_written(exported, clip, tmp_path, monkeypatch):
    read = []

    class Camera:  # a file that never ends and is stopped by Ctrl-C at its seventh frame
        def __init__(self, _index):
            self.real = cv2_capture(str(clip))

        def __getattr__(self, name):
            return getattr(self.real, name)

        def read(self):
            if len(read) == 7:
                raise KeyboardInterrupt
            read.append(1)
            return self.real.read()

    cv2_capture = cv2.VideoCapture
    monkeypatch.setattr(video.cv2, "VideoCapture", Camera)
    made = predict_video(load_onnx(exported.onnx), "camera:3", Options(out=tmp_path, smooth=True))
    monkeypatch.undo()
    assert made.pictures == 7 and made.drawn == tmp_path / "camera3_landmarks.mp4"
    with video.opened(str(made.drawn)) as opened:
        assert len(list(opened.frames)) == 7
    seconds = [frame["seconds"] for frame in json.loads((tmp_path / "landmarks.json").read_text())["frames"]]
    assert seconds == sorted(seconds)


def test_a_film_with_holes_and_uneven_times_keeps_the_rest_and_its_times(model, tmp_path, capsys):
    film = damaged(uneven_film(tmp_path / "film.mp4"), tmp_path / "hole.mp4")
    (tmp_path / "boxes.csv").write_text("image,x,y,w,h\n39,4,4,50,50\n")
    with pytest.raises(SystemExit) as ended:
        run(model, film, "--smooth", "--boxes", tmp_path / "boxes.csv", "--out", tmp_path / "out")
    assert ended.value.code == 1
    written = json.loads((tmp_path / "out/landmarks.json").read_text())
    lost = (tmp_path / "out/left_out.txt").read_text().splitlines()
    assert len(lost) == written["left_out"] > 0 and len(written["frames"]) + len(lost) == len(TIMES)
    assert lost[0].startswith("frame ") and f"{len(lost)} left out" in capsys.readouterr().err
    indices = [frame["frame"] for frame in written["frames"]]
    assert indices[0] == 0 and indices[-1] == 39 and written["frames"][-1]["box"] == [4, 4, 50, 50]
    assert [frame["seconds"] for frame in written["frames"]] == pytest.approx(TIMES[indices], abs=1e-3)
    with video.opened(str(tmp_path / "out/hole_landmarks.mp4")) as opened:
        assert [frame.seconds for frame in opened.frames] == pytest.approx(TIMES[indices], abs=1e-3)


# ---------------------------------------------------------------------------------------------------- wrong calls


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["absent"], "'absent' is not a folder"),
        (["{clip}", "{folder}"], "expected it alone"),
        (["{folder}", "--smooth"], "--smooth is for video"),
        (["{folder}", "--boxes", "absent.csv"], "'absent.csv' cannot be read"),
        (["{folder}", "--format", "xml"], "xml"),
        (["{folder}", "--boxes", "{boxes}", "--box-scale", "0", "--on-bad", "stop"], "box scale is 0"),
        (["{folder}", "--boxes", "{boxes}", "--box-scale", "1e308", "--on-bad", "stop"], "at most 100 times"),
        (["{folder}", "--box-scale", "2"], "--box-scale is for --boxes"),
        (
            ["{folder}", "--boxes", "{far}", "--on-bad", "stop"],
            "Image '{folder}/a.jpg' cannot be used: The face box 900",
        ),
        (["{folder}", "--boxes", "{none}"], "names none of the 4 pictures"),
        (["{clip}", "--boxes", "{boxes}"], "has the image 'a.jpg'; expected a video's frame number"),
        (["{empty}"], "is empty: no picture"),
        (["{folder}", "{folder}/notes.txt", "{text}"], "expected it alone"),
        (
            ["{text}", "{folder}", "--on-bad", "stop", "--no-pictures"],
            "Image '{text}' cannot be used: it is not a picture",
        ),
        (["{folder}/notes.txt"], "cannot be decoded"),
    ],
)
def test_a_wrong_call_is_one_sentence(model, folder, clip, tmp_path, args, words):
    places = {"folder": folder, "clip": clip, "empty": tmp_path / "empty"}
    (tmp_path / "empty").mkdir()
    places["text"] = tmp_path / "text.jpg"
    places["text"].write_text("no picture")
    for name, row in (("boxes", "a.jpg,20,20,60,60"), ("far", "a.jpg,900,20,60,60"), ("none", "z.jpg,20,20,60,60")):
        places[name] = tmp_path / f"{name}.csv"
        places[name].write_text(f"image,x,y,w,h\n{row}\n")
    with pytest.raises(UserError) as error:
        run(model, *(arg.format(**places) for arg in args), "--out", tmp_path / "out")
    assert words.format(**places) in str(error.value)
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


# ---------------------------------------------------------------------------------------------------- without torch

# what a light install has not; then the command runs as `python -m` does, and prints what it loaded
LIGHT = """
import runpy, sys
HEAVY = {"torch", "torchvision", "timm", "mlflow", "albumentations", "safetensors", "onnx", "matplotlib", "optuna",
         "psutil", "filelock", "scipy", "pandas", *sys.argv[1].split(",")}
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HEAVY:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
sys.argv = sys.argv[2:]
try:
    runpy.run_module("distill." + sys.argv[0], run_name="__main__", alter_sys=True)
finally:
    print("loaded:", *sorted(HEAVY & set(sys.modules)))
"""


def light(where: Path, command: str, *args, absent: str = "") -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")])
    call = [sys.executable, "-c", LIGHT, absent, command, *(str(arg) for arg in args)]
    return subprocess.run(
        call, cwd=where, capture_output=True, text=True, timeout=120, env=os.environ | {"PYTHONPATH": path}
    )


def test_the_onnx_file_numpy_opencv_and_onnxruntime_are_enough_from_anywhere(model, folder, clip, tmp_path):
    where = tmp_path / "elsewhere"
    where.mkdir()
    shutil.copy(model, where / "mine.onnx")
    for source, more in ((folder, ()), (clip, ("--smooth",))):
        done = light(where, "predict", "mine.onnx", source, "--out", "out", *more, absent="pydantic")
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "loaded:"
    assert track(where / "out/landmarks.json").shape == (FRAMES, 68, 2)
    assert {"a.jpg", "clip_landmarks.mp4"} <= {path.name for path in (where / "out").iterdir()}
    assert not (where / "mlruns").exists()


def test_a_light_install_names_what_is_missing_in_one_sentence(folder, tmp_path):
    weights = REPO / "distill" / "assets" / "student.safetensors"
    done = light(tmp_path, "predict", weights, folder)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith(f"error: Model '{weights}' needs the package '")
    assert "pip install 'distill[train]'" in line and f"python -m distill.export {weights} --out DIR" in line
    for command, args in (("evaluate", ["bundled"]), ("export", ["bundled", "--out", "x"])):
        done = light(tmp_path, command, *args)
        (line,) = done.stderr.splitlines()
        assert done.returncode == 2 and line.startswith("error: This needs the package"), done.stderr
        assert line.endswith("pip install 'distill[train]'.")


def test_a_missing_package_of_no_extra_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x"])

    def main(_argv):
        import distill.no_such_module  # noqa: F401

    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        cli.run(main)


def test_every_package_that_is_imported_has_its_place_in_pyproject():
    names = {"cv2": "opencv-python-headless", "PIL": "pillow", "yaml": "pyyaml"}
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    declared = {"distill": project["dependencies"]}
    declared |= {f"distill[{extra}]": needs for extra, needs in project["optional-dependencies"].items()}
    for place, packages in cli.EXTRAS.items():
        bare = {need.partition(">")[0].partition("[")[0] for need in declared[place]}
        assert {names.get(package, package) for package in packages.split()} <= bare, place
    known = {package for packages in cli.EXTRAS.values() for package in packages.split()}
    outside = {name.partition(".")[0] for path in MODULES.values() for name in imports(path)}
    brought_by_others = {"requests", "markupsafe", "pydantic_core"}  # those of mlflow, jinja2 and pydantic
    assert outside - sys.stdlib_module_names - {"distill", "search"} - brought_by_others <= known
