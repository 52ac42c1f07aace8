"""Other landmark sets: described in YAML, carried by config, model and ONNX file, used from the labels to the
pictures."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from running import REPO

from distill import config as configs
from distill import landmarks, metrics
from distill.config import Config, ModelConfig
from distill.data.annotations import read_set
from distill.errors import UserError
from distill.landmarks import IBUG68, find, from_dict

PAGE = (REPO / "docs" / "landmarks.md").read_text(encoding="utf-8")
FIVE = re.search(r"^## Describing a set\n.*?```yaml\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)[1]
WFLW = find("wflw98")


def to_98(points: np.ndarray) -> np.ndarray:
    """(68, 2) -> (98, 2): what corresponds, and between it what lies between it."""
    made = np.full((98, 2), np.nan)
    for own, there in WFLW.as_68:
        made[own] = points[there]
    made[1:32:2] = (made[0:31:2] + made[2:33:2]) / 2  # jaw
    made[[62, 66, 70, 74]] = (made[[61, 65, 69, 73]] + made[[63, 67, 71, 75]]) / 2  # middles of the lids
    made[96], made[97] = made[60:68].mean(0), made[68:76].mean(0)
    made[38:42] = 0.8 * made[[37, 36, 35, 34]] + 0.2 * made[96]  # brows, below
    made[47:51] = 0.8 * made[[45, 44, 43, 42]] + 0.2 * made[97]
    assert np.isfinite(made).all()
    return made


def to_5(points: np.ndarray) -> np.ndarray:
    return np.stack([points[36:42].mean(0), points[42:48].mean(0), points[30], points[48], points[54]])


def relabel(source: Path, target: Path, change) -> Path:
    """A copy of a data root whose labels are changed."""
    shutil.copytree(source, target)
    for file in target.glob("*/annot.pkl"):
        names, labels = pickle.loads(file.read_bytes())
        file.write_bytes(pickle.dumps((names, [change(np.array(label)).tolist() for label in labels])))
    return target


@pytest.fixture
def five_yaml(tmp_path) -> Path:
    (tmp_path / "five.yaml").write_text(FIVE, encoding="utf-8")
    return tmp_path / "five.yaml"


def sentence(error) -> str:
    text = str(error.value)
    assert "\n" not in text and text.endswith(".")
    return text


# ---------------------------------------------------------------------------------------------------- descriptions

GOOD = {
    "name": "four",
    "points": 4,
    "regions": {"top": "0-1", "rest": "2, 3"},
    "outlines": ["0-1"],
    "flip_pairs": [[0, 1]],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, "'colour' is unknown"),
        ({"name": None}, "'name' is missing"),
        ({"flip_pairs": None}, "'flip_pairs' is missing"),
        ({"name": "a b"}, "'name' is 'a b'"),
        ({"points": "four"}, "'points' is 'four'"),
        ({"points": 1}, "'points' is 1"),
        ({"points": 5}, "leaves out the point 4"),
        ({"points": 3}, "'regions.rest' names the point 3; expected 0 to 2"),
        ({"regions": {"top": "0-1", "rest": "1-3"}}, "the point 1 in 'top' and 'rest'"),
        ({"regions": {"top": "0-1, 1", "rest": "2-3"}}, "the point 1 in 'top' twice"),
        ({"regions": {"top": "0-1"}}, "leaves out the point 2"),
        ({"regions": {"to p": "0-3"}}, "'regions' names 'to p'"),
        ({"regions": {"all": "x"}}, "'regions.all' is 'x'"),
        ({"regions": []}, "'regions' is []"),
        ({"names": ["a", "b"]}, "'names' has 2 names; expected 4"),
        ({"names": ["a", "b", "a", "c"]}, "'names' has 'a' 2 times"),
        ({"outlines": ["0"]}, "'outlines.0' is one point"),
        ({"outlines": ["0-1", "2-4"]}, "'outlines.1' names the point 4"),
        ({"outlines": [{"open": "0-1"}]}, "'outlines.0' has the keys ['open']"),
        ({"flip_pairs": [[0, 1], [1, 2]]}, "pairs the point 1 with 0 and 2"),
        ({"flip_pairs": [[0, 1], [1, 0]]}, "has the pair [0, 1] 2 times"),
        ({"flip_pairs": [[2, 2]]}, "pairs the point 2 with itself"),
        ({"flip_pairs": [["0-1", 2]]}, "pairs 2 points with 1"),
        ({"flip_pairs": [[0, 4]]}, "'flip_pairs.0' names the point 4"),
        ({"flip_pairs": [[0, 1, 2]]}, "'flip_pairs.0' is [0, 1, 2]"),
        ({"flip_pairs": [[-1, 2]]}, "'flip_pairs.0' is -1"),
        ({"outer_eye_corners": [0]}, "expected two points"),
        ({"outer_eye_corners": [0, 0]}, "expected two points"),
        ({"as_68": [[0, 68]]}, "'as_68.0' names the point 68; expected 0 to 67"),
        ({"as_68": [[0, 36], [1, 36]]}, "'as_68' has the iBUG point 36 2 times"),
        ({"as_68": [["0, 0", "1-2"]]}, "'as_68' has the own point 0 2 times"),
    ],
)
def test_a_mistake_is_reported_in_one_sentence(change, message):
    assert from_dict(GOOD, "here").count == 4
    values = {key: value for key, value in (GOOD | change).items() if value is not None}
    with pytest.raises(UserError) as error:
        from_dict(values, "here")
    assert sentence(error).startswith("here: ") and message in sentence(error)


def test_what_cannot_be_found_or_read_is_refused(tmp_path):
    with pytest.raises(UserError, match="'wflw99'.*ibug68, lapa106, wflw98"):
        find("wflw99")
    (tmp_path / "broken.yaml").write_text("name: [")
    with pytest.raises(UserError, match="broken.yaml', line 1"):
        find(str(tmp_path / "broken.yaml"))
    (tmp_path / "twice.yaml").write_text("name: a\nname: b\n")
    with pytest.raises(UserError, match="'name'"):
        find(str(tmp_path / "twice.yaml"))
    with pytest.raises(UserError, match="JSON"):
        find("{name: [")


def test_the_example_of_the_page_is_read_as_described(five_yaml):
    five = find(str(five_yaml))
    assert len(FIVE.splitlines()) <= 20
    assert five.flip_permutation == (1, 0, 2, 4, 3) and five.names[2] == "nose_tip"
    assert five.outlines == (((0, 2, 1), False), ((2, 3, 4), True))
    assert five.regions == {"eyes": (0, 1), "nose": (2,), "mouth": (3, 4)}
    assert five.as_68 == ((2, 30), (3, 48), (4, 54)) and five.outer_eye_corners == (0, 1)
    assert find(five.reference()) == five


def test_a_made_up_98_point_face_is_its_own_mirror_image():
    from distill.headpose import mean_face

    face = to_98(mean_face()[:, :2])
    np.testing.assert_allclose((face * [-1, 1])[list(WFLW.flip_permutation)], face, atol=0.02)


# ---------------------------------------------------------------------------------------------------- config


def write_config(folder: Path, text: str) -> Path:
    (folder / "run.yaml").write_text(text)
    return folder / "run.yaml"


def test_a_config_keeps_the_content_of_a_file_and_not_its_place(five_yaml, tmp_path, monkeypatch):
    path = write_config(tmp_path, "data: {landmarks: five.yaml}\n")  # beside the experiment file
    config = configs.load(path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move(five_yaml, elsewhere / "other.yaml")
    stored = configs.from_dict(configs.to_dict(config))
    assert configs.markup_of(stored).count == 5, "the file is not needed again"
    again = configs.load(path, [f"data.landmarks={elsewhere / 'other.yaml'}"])
    assert again == config and configs.digest(again) == configs.digest(config) != configs.digest(Config())
    changed = (elsewhere / "other.yaml").read_text().replace("  - [3, 4]\n", "", 1)
    (elsewhere / "other.yaml").write_text(changed)
    assert configs.digest(configs.load(path, [f"data.landmarks={elsewhere / 'other.yaml'}"])) != configs.digest(config)
    (tmp_path / "whole.yaml").write_text(configs.to_yaml(config))
    assert configs.load(tmp_path / "whole.yaml") == config
    with pytest.raises(UserError, match="run.yaml: 'data.landmarks': .*'five.yaml'"):
        configs.load(path)


def test_regions_are_weighted_by_the_names_of_the_set(five_yaml, tmp_path):
    path = write_config(tmp_path, "data: {landmarks: five.yaml}\nloss: {region_weights: {nose: 2}}\n")
    assert configs.load(path).loss.region_weights == {"nose": 2}
    with pytest.raises(UserError, match="loss.region_weights.jaw.* eyes, nose, mouth"):
        configs.load(path, ["loss.region_weights={jaw: 2}"])


# ------------------------------------------------------------------------------------------ labels and measures


def test_labels_have_as_many_points_as_the_set(tiny_root, tmp_path, five_yaml):
    five = find(str(five_yaml))
    root = relabel(tiny_root, tmp_path / "five", to_5)
    found = read_set(root / "synthetics_val", markup=five)
    assert found.landmarks.shape == (8, 5, 2) and found.markup == five
    with pytest.raises(UserError, match="5 .* 68, .*ibug68"):
        read_set(root / "synthetics_val")
    other = replace(five, name="other")
    assert read_set(root / "synthetics_val", markup=other).fingerprint != found.fingerprint, "no two sets are mixed"


def test_of_a_text_label_the_first_lines_count(tmp_path, five_yaml):
    cv2.imwrite(str(tmp_path / "000001.png"), np.zeros((64, 64, 3), np.uint8))
    points = [(20, 25), (44, 25), (32, 38), (24, 48), (40, 48), (1, 1), (2, 2)]
    (tmp_path / "000001_ldmks.txt").write_text("".join(f"{x} {y}\n" for x, y in points))
    found = read_set(tmp_path, markup=find(str(five_yaml)))
    assert found.landmarks.shape == (1, 5, 2)
    assert found.landmarks[0, 1, 0] - found.landmarks[0, 0, 0] == pytest.approx(24 * 384 / (1.9 * 24))
    with pytest.raises(UserError, match="7 .* 98 "):
        read_set(tmp_path, markup=WFLW)


def test_measures_follow_the_set(five_yaml):
    five = find(str(five_yaml))
    target = np.array([[[20, 20], [40, 20], [30, 30], [24, 40], [36, 40]]], float)
    pred = target + np.array([[0, 1], [0, 1], [0, 2], [0, 0], [0, 0]])
    report = metrics.evaluate(pred, target, np.array([100, 100]), markup=five)
    assert report.by_region == pytest.approx({"eyes": 1, "nose": 2, "mouth": 0}) and report.nme == pytest.approx(0.8)
    assert metrics.evaluate(pred, target, np.array([100, 100]), "interocular", markup=five).nme == pytest.approx(4)
    blind = replace(five, outer_eye_corners=None)
    with pytest.raises(UserError, match="interocular.* five"):
        metrics.evaluate(pred, target, np.array([100, 100]), "interocular", markup=blind)
    with pytest.raises(UserError, match=r"\(N, 5, 2\)"):
        metrics.evaluate(target[:, :4], target, np.array([100, 100]), markup=five)
    flipped = report.layout[list(five.flip_permutation)] * [-1, 1]
    assert report.layout[0] == pytest.approx([-0.5, 0.5]) and flipped == pytest.approx(report.layout)


def test_yaw_is_absent_where_too_few_points_tell_it(five_yaml):
    from distill import headpose

    assert headpose.can_estimate(WFLW) and not headpose.can_estimate(find(str(five_yaml)))
    flat = from_dict(
        {"name": "flat", "points": 6, "regions": {"a": "0-5"}, "flip_pairs": [], "as_68": [["0-5", "36-41"]]}, "here"
    )
    assert not headpose.can_estimate(flat), "six points of one eye lie in a plane"


# ---------------------------------------------------------------------------------------------------- models


def test_teacher_and_student_must_have_one_set(five_yaml):
    from distill.config import HeadConfig, TermConfig
    from distill.distillation.distiller import Distiller
    from distill.models.landmarker import Landmarker
    from distill.models.teacher import FrozenTeacher

    config = ModelConfig(backbone="lcnet_050", input_size=32, head=HeadConfig(stride=8, width=16))
    teacher, student = FrozenTeacher(Landmarker(config)), Landmarker(config, find(str(five_yaml)))
    terms = {"points": TermConfig(loss="coordinate")}
    assert Distiller(terms, Landmarker(config), teacher)
    with pytest.raises(UserError, match=r"teacher.* ibug68 .*student.* five "):
        Distiller(terms, student, teacher)


def test_models_of_two_sets_do_not_share_weights():
    from distill.config import HeadConfig
    from distill.models.landmarker import Landmarker
    from distill.training.init_weights import difference

    config = ModelConfig(backbone="lcnet_050", input_size=32, head=HeadConfig(stride=8, width=16))
    renamed = replace(IBUG68, name="mine")
    assert difference(Landmarker(config), Landmarker(config)) is None
    found_difference = difference(Landmarker(config), Landmarker(config, renamed))
    assert found_difference == ("data.landmarks", "ibug68 (68 points)", "mine (68 points)")


def test_the_bundled_student_and_other_old_files_are_of_the_68_points():
    from distill.models.files import load_model, markup_of, read_description
    from distill.models.references import BUNDLED

    described = read_description(BUNDLED)
    assert markup_of(BUNDLED, {key: described[key] for key in described if key != "landmarks"}) == IBUG68
    assert load_model(BUNDLED)[0].markup == IBUG68


# ---------------------------------------------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """A teacher and the student that it taught, on 98 points; the YAML that described them is gone."""
    from distill.training import job as training

    folder = tmp_path_factory.mktemp("points98")
    root = relabel(tiny.data, folder / "data", to_98)
    described = folder / "mine.yaml"
    described.write_text(replace(WFLW, name="mine", names=tuple(f"p{i}" for i in range(98))).to_yaml())
    common = [
        f"data.root={root}",
        f"data.landmarks={described}",
        f"tracking.store={folder / 'mlruns'}",
        "train.epochs=1",
    ]
    teacher = training.train_teacher(tiny.config(*common, "name=teacher", "tracking.outputs=light"))
    config = tiny.config(*common, f"teacher={teacher.run_id}", "loss.region_weights={jaw: 2}", distilled=True)
    described.unlink()
    return folder, config, training.train_student(config)


@pytest.mark.slow
def test_a_run_on_98_points_goes_from_labels_to_pictures_without_a_submission(whole, capsys):
    from distill import tracking
    from distill.models.files import load_model

    folder, config, result = whole
    assert result.submission is None and len(result.pictures) > 4
    assert result.report.per_point.shape == (98,) and result.report.by_yaw["below_30"]
    info = tracking.find_run(config.tracking, result.run_id)
    assert info.status == "FINISHED" and info.metrics["best/val/nme"] == pytest.approx(result.report.nme)
    assert {f"best/val/region/{name}" for name in WFLW.regions} <= info.metrics.keys()
    kept = tracking.artifact_path(config.tracking, result.run_id, "landmarks.yaml")
    assert find(str(kept)) == configs.markup_of(config) == load_model(result.model_file)[0].markup
    assert "mine" in info.params["data.landmarks"]


@pytest.mark.slow
@pytest.mark.slow
def test_commands_need_no_yaml_for_a_model_of_98_points(whole, tmp_path, capsys):
    from distill.evaluate import __main__ as evaluate
    from distill.export import __main__ as export
    from distill.predict import __main__ as predict
    from distill.submission.__main__ import main as submission

    folder, config, result = whole
    model, val = str(result.model_file), folder / "data" / "synthetics_val"
    evaluate.main([model, "--data", str(val), "--out", str(tmp_path / "evaluation"), "--flip"])
    written = json.loads((tmp_path / "evaluation" / "report.json").read_text())
    assert len(written["per_point"]) == 98 and "jaw" in capsys.readouterr().out
    with pytest.raises(UserError, match="98, .*mine"):
        evaluate.main([model, "--out", str(tmp_path / "evaluation")])  # the bundled sample has 68

    test = str(folder / "data" / "synthetics_test")
    with pytest.raises(UserError, match="mine .*98 .*68 .*ibug68"):
        export.main([model, "--out", str(tmp_path / "refused"), "--images", test])
    with pytest.raises(UserError, match="mine .*98 .*68 .*ibug68"):
        submission(["make", model, "--images", test, "--out", str(tmp_path / "solution.zip")])
    export.main([model, "--out", str(tmp_path / "export")])
    capsys.readouterr()

    onnx = str(tmp_path / "export" / "student.onnx")
    for out, source in (("from onnx", onnx), ("from torch", model)):
        predict.main([source, test, "--out", str(tmp_path / out), "--format", "csv"])
        assert "98 landmarks of mine" in capsys.readouterr().out
        header = (tmp_path / out / "landmarks.csv").read_text().splitlines()[0].split(",")
        assert header[:5] == ["image", "face", "x_p0", "y_p0", "c_p0"] and len(header) == 2 + 3 * 98
        assert len(list((tmp_path / out).glob("*.jpg"))) == 4


@pytest.mark.slow
def test_the_report_is_about_98_points(whole, tmp_path):
    from distill.report import job

    _, config, result = whole
    written = job.report([result.run_id], config.tracking, tmp_path, keep=False)
    page = written.html.read_text(encoding="utf-8")
    assert "98 points" in page and 'id="heatmaps"' in page and 'id="face-1"' in page


def write_video(path: Path) -> Path:
    from distill.predict.video import writer

    with writer(path) as write:
        for index in range(3):
            write(np.zeros((64, 64, 3), np.uint8), index / 10)
    return path


def test_a_run_on_five_points_ends_without_yaw_and_is_continued_without_its_yaml(
    tiny, five_yaml, tmp_path, monkeypatch
):
    from distill import tracking
    from distill.training import checkpoint
    from distill.training import job as training

    root = relabel(tiny.data, tmp_path / "data", to_5)
    options = [f"data.root={root}", f"data.landmarks={five_yaml}", f"tracking.store={tmp_path / 'mlruns'}"]
    config = tiny.short(*options, "tracking.outputs=light", "model.head.kind=simcc", "train.epochs=3")
    five_yaml.unlink()

    def stop(epoch, _values):
        if epoch == 2:  # the first epoch's checkpoint is there
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.train_student(config, training.Callbacks(on_epoch=stop))
    stored = checkpoint.stored_config([f"tracking.store={tmp_path / 'mlruns'}", "resume=last"])
    result = training.train_student(stored)
    assert result.report.per_point.shape == (5,) and not any(result.report.by_yaw.values())
    info = tracking.find_run(config.tracking, result.run_id)
    assert not [key for key in info.metrics if "/yaw/" in key] and "best/val/region/nose" in info.metrics


# ---------------------------------------------------------------------------------------------------- WFLW


def test_the_converter_of_the_page_cuts_faces_out_of_a_list_file(tmp_path):
    code = re.search(r"^## Labels\n.*?```python\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)[1]
    (tmp_path / "wflw.py").write_text(code, encoding="utf-8")
    (tmp_path / "images" / "0--Parade").mkdir(parents=True)
    from conftest import draw_face

    lines, faces = [], []
    for i in range(3):
        image, points = draw_face(np.random.default_rng(i), 200)
        cv2.imwrite(str(tmp_path / "images" / "0--Parade" / f"{i}.png"), image[..., ::-1])
        faces.append(to_98(points) - 0.5)  # as WFLW counts
        box = [*faces[-1].min(0), *faces[-1].max(0)]
        lines.append(" ".join([*(f"{v:.6f}" for v in (*faces[-1].ravel(), *box)), *"000000", f"0--Parade/{i}.png"]))
    (tmp_path / "list.txt").write_text("\n".join(lines) + "\n")
    command = [sys.executable, "wflw.py", "list.txt", "images", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "3 faces\n", done.stderr
    found = read_set(tmp_path / "out", markup=WFLW)
    assert found.landmarks.shape == (3, 98, 2) and (found.sizes == 256).all()
    side = 1.5 * np.ptp(faces[0], axis=0).max()
    assert np.ptp(found.landmarks[0], axis=0) == pytest.approx(np.ptp(faces[0], axis=0) * 256 / side, abs=1e-3)
    # the corner of the drawn mouth is where its label says: bright within a pixel or two
    x, y = np.floor(found.landmarks[0, 76]).astype(int)
    patch = found.image(0)[y - 2 : y + 3, x - 2 : x + 3].max()
    assert patch > 150


def test_the_page_names_every_shipped_set():
    assert all(f"`{name}` | {find(name).count} |" in PAGE for name in landmarks.shipped())
