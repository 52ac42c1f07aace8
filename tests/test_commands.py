"""The commands, as a person meets them: quick answers, one-line errors, and files whose numbers agree with each
other."""

from __future__ import annotations

import errno
import json
import pickle
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from running import REPO, same_weights

from distill import cli, demo, student
from distill.config import load
from distill.errors import UserError
from distill.evaluate import __main__ as evaluate
from distill.evaluate import job as evaluation
from distill.export import __main__ as export
from distill.landmarks import IBUG68
from distill.models.references import BUNDLED
from distill.predict import __main__ as predict

# ---------------------------------------------------------------------------------------------------- quick answers

# runs commands as `python -m` does, one after the other, and lists the heavy packages that are loaded after each
RUNNER = """
import contextlib, io, json, runpy, sys
answers = []
for name, *args in json.load(sys.stdin):
    sys.argv = [name, *args]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            runpy.run_module("distill." + name, run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as stopped:
            code = stopped.code or 0
    heavy = {"torch", "timm", "mlflow", "albumentations", "matplotlib", "numba"} & set(sys.modules)
    answers.append([code, out.getvalue(), err.getvalue(), sorted(heavy)])
print(json.dumps(answers))
"""
COMMANDS = ("teacher", "student", "evaluate", "export", "predict", "demo", "ablation", "average", "recipe", "synthesis")


class Answer(NamedTuple):
    code: int
    out: str
    err: str


def answers(calls: list[tuple[str, ...]]) -> list[Answer]:
    """What the commands print, in one process of their own; checked that none has imported anything heavy for it."""
    done = subprocess.run(
        [sys.executable, "-c", RUNNER], cwd=REPO, input=json.dumps(calls), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for call, (*_, heavy) in zip(calls, found, strict=True):
        assert not heavy, f"{' '.join(call)} has imported {heavy}"
    return [Answer(*parts) for *parts, _ in found]


WRONG_CALLS = [
    ("student", ["train.lr=-1"], ["train.lr", "-1", "above 0"]),
    ("student", ["train.epochs=many"], ["train.epochs", "many"]),
    ("student", ["distill.terms.kl.wieght=2"], ["wieght"]),
    ("student", ["--config", "absent.yaml"], ["absent.yaml", "cannot be read"]),
    ("student", ["resume"], ["resume", "key=value"]),
    ("teacher", ["data.train=aflw_val"], ["data.train", "aflw_val"]),
    ("teacher", ["data.root=absent"], ["'absent' (from data.root)", "not a folder"]),
    ("teacher", ["--frobnicate"], ["--frobnicate", "--help"]),
    ("evaluate", [], ["MODEL", "--help"]),
    ("evaluate", ["absent.safetensors"], ["absent.safetensors", "does not exist"]),
    ("evaluate", ["bundled", "--data", "absent"], ["--data: 'absent'"]),
    ("evaluate", ["bundled", "--normalizer", "nose"], ["nose", "interocular"]),
    ("export", ["bundled"], ["--out"]),
    ("export", ["bundled", "--out", "x", "--images", "absent"], ["--images: 'absent'"]),
    ("predict", ["bundled", "absent"], ["absent", "not a folder"]),
    ("demo", ["train.lr=-1"], ["train.lr"]),
    ("average", [], ["RUN|FILE", "--help"]),
    ("average", ["bundled", "--data", "absent"], ["--data: 'absent'"]),
    ("recipe", ["train.lr=1"], ["--config"]),
    ("recipe", ["--config", "experiments/recipes/dwpose.yaml", "train.lr=-1"], ["stage 'distill'", "train.lr"]),
    ("recipe", ["--config", "experiments/recipes/dwpose.yaml", "data.root=absent"], ["'absent' (from data.root)"]),
]


def test_help_and_wrong_calls_are_answered_before_anything_heavy_is_imported(tmp_path):
    helps, wrong = [(name, "--help") for name in COMMANDS], [(name, *args) for name, args, _ in WRONG_CALLS]
    printed = [("student", "--print-config", "train.epochs=3", "seed=7")]
    found = answers([*helps, *wrong, *printed])
    for name, answer in zip(COMMANDS, found, strict=False):
        assert answer.code == 0 and answer.err == ""
        assert answer.out.startswith(f"usage: python -m distill.{name} ")
    for (name, args, words), answer in zip(WRONG_CALLS, found[len(helps) :], strict=False):
        (line,) = answer.err.splitlines()
        assert answer.code == 2 and line.startswith("error: "), (name, args, line)
        assert all(word in line for word in words), (name, args, line)
    (tmp_path / "printed.yaml").write_text(found[-1].out)
    assert load(tmp_path / "printed.yaml") == load(REPO / "experiments/distill.yaml", ["train.epochs=3", "seed=7"])


def test_overrides_stand_anywhere_among_the_options_and_nothing_else_is_taken_for_one():
    parser = cli.Parser()
    parser.add_argument("study")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("overrides", nargs="*")
    found = parser.parse_args(["terms", "seed=1", "--seeds", "3", "data.root=DIR", "teacher=x=y"])
    assert (found.study, found.seeds, found.overrides) == ("terms", 3, ["seed=1", "data.root=DIR", "teacher=x=y"])
    for wrong in (["terms", "--seeds", "3", "word"], ["terms", "--sedes=3"]):
        with pytest.raises(UserError, match=wrong[-1]):
            parser.parse_args(wrong)


def failure(monkeypatch, capsys, command, *args: str) -> str:
    """The one line of error that a command prints, run in this process."""
    monkeypatch.setattr(sys, "argv", [command.__name__, *args])
    with pytest.raises(SystemExit) as stopped:
        cli.run(command.main)
    (line,) = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2
    return line


def test_a_place_that_cannot_be_written_to_is_refused_before_any_work(monkeypatch, capsys, tmp_path):
    file = tmp_path / "file"
    file.write_text("no folder")
    line = failure(monkeypatch, capsys, evaluate, "absent.safetensors", "--out", str(file / "deeper"))
    assert line == f"error: --out '{file}/deeper': '{file}' is not a folder."
    shut = "/proc" if Path("/proc/self").exists() else "/"  # where root may not make files either
    for place, named in ((f"{shut}/new/newer", shut), (tmp_path / "deeper" / ("x" * 300), str(tmp_path))):
        line = failure(monkeypatch, capsys, export, "absent.safetensors", "--out", str(place))
        assert line.startswith(f"error: --out '{place}': the folder '{named}' cannot be written to: ")
    for place in (tmp_path, tmp_path / "new", tmp_path / "new" / ".." / "newer"):
        assert cli.check_out(place) == place
    assert list(tmp_path.iterdir()) == [file]


def test_an_error_of_the_disk_is_one_line_and_a_bug_is_a_traceback(monkeypatch, capsys, tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "x"))
    monkeypatch.setattr(export, "main", lambda argv: (_ for _ in ()).throw(full))
    assert f"'{tmp_path / 'x'}' cannot be read or written: No space left" in failure(monkeypatch, capsys, export)
    monkeypatch.setattr(export, "main", lambda argv: open(tmp_path / "forgotten"))
    with pytest.raises(FileNotFoundError):
        cli.run(export.main)


@pytest.mark.parametrize("command", [student, demo])
def test_away_from_a_clone_the_missing_experiment_file_is_named(monkeypatch, capsys, tmp_path, command):
    monkeypatch.chdir(tmp_path)
    line = failure(monkeypatch, capsys, command)
    assert "There is no 'experiments/" in line and "clone" in line


def test_a_model_that_cannot_be_had_is_one_line(tiny, monkeypatch, capsys, tmp_path):
    store = ("--store", str(tiny.store))
    assert tiny.teacher  # so that there is a store
    capsys.readouterr()
    assert "no run 'nobody'" in failure(monkeypatch, capsys, evaluate, "nobody", *store)
    assert "models:/distill-student@nobody" in failure(
        monkeypatch, capsys, predict, "models:/distill-student@nobody", str(tmp_path), *store
    )
    text = tmp_path / "text.safetensors"
    text.write_text("not a model")
    out = ("--out", str(tmp_path / "out"))
    assert "not a readable safetensors" in failure(monkeypatch, capsys, export, str(text), *out)
    assert "is a teacher" in failure(monkeypatch, capsys, export, tiny.teacher.run_id, *out, *store)
    assert not (tmp_path / "out").exists()
    (tmp_path / "empty").mkdir()
    line = failure(monkeypatch, capsys, evaluate, str(tiny.teacher.model_file), "--data", str(tmp_path / "empty"))
    assert "no labels" in line


# ---------------------------------------------------------------------------------------------------- numbers


def predicted(model: str, folder, out, *more: str) -> dict[str, np.ndarray]:
    predict.main([model, str(folder), "--out", str(out), "--no-pictures", *more])
    rows = json.loads((out / "landmarks.json").read_text())
    assert all(0 <= c <= 1 for row in rows.values() for c in row["confidence"])
    return {name: np.array(row["points"]) for name, row in rows.items()}


def without_pictures(monkeypatch) -> None:
    monkeypatch.setattr(evaluation, "pictures", lambda *_, **__: [])


@pytest.fixture
def plain(monkeypatch) -> None:
    """For tests that do not look at pictures."""
    without_pictures(monkeypatch)


def report(model: str, folder, out, *more: str) -> dict:
    evaluate.main([model, "--data", str(folder), "--out", str(out), *more])
    return json.loads((out / "report.json").read_text())


@pytest.fixture(scope="module")
def labels(tiny) -> dict[str, np.ndarray]:
    names, points = pickle.loads((tiny.data / "synthetics_val" / "annot.pkl").read_bytes())
    return dict(zip(names, np.array(points, np.float64), strict=True))


def test_evaluate_agrees_with_predictions_measured_by_hand(tiny, labels, tmp_path, capsys, monkeypatch):
    val, store = tiny.data / "synthetics_val", ("--store", str(tiny.store))
    found = predicted(tiny.distilled.run_id, val, tmp_path, *store)
    assert found.keys() == labels.keys()
    names = list(labels)
    truth, points = np.stack([labels[n] for n in names]), np.stack([found[n] for n in names])
    distance = np.linalg.norm(points - truth, axis=2)
    box = truth.max(1) - truth.min(1)
    norms = {
        "image": np.full(8, 64.0),
        "bbox": np.sqrt(box[:, 0] * box[:, 1]),
        "interocular": np.linalg.norm(truth[:, 36] - truth[:, 45], axis=1),
    }
    for kind, norm in norms.items():
        if kind != "image":
            without_pictures(monkeypatch)
        measured = report(tiny.distilled.run_id, val, tmp_path / kind, "--normalizer", kind, *store)
        error = 100 * distance / norm[:, None]
        each = error.mean(1)
        order = [measured["names"].index(n) for n in names]
        near = {"abs": 5e-3}  # landmarks.json is rounded to 0.001 px
        assert (
            measured["normalizer"] == kind
            and measured["count"] == measured["images"] == 8
            and measured["flip"] is False
        )
        assert measured["nme"] == pytest.approx(each.mean(), **near)
        assert np.array(measured["per_image"])[order] == pytest.approx(each, **near)
        assert measured["per_point"] == pytest.approx(error.mean(0), **near)
        assert measured["median"] == pytest.approx(np.median(each), **near)
        assert measured["p95"] == pytest.approx(np.percentile(each, 95), **near)
        assert measured["failure_rate"] == (each > 8).mean()
        assert measured["auc"] == pytest.approx(np.clip(1 - each / 8, 0, None).mean(), **near)
        assert measured["by_region"]["jaw"] == pytest.approx(error[:, :17].mean(), **near)
        assert measured["by_region"]["mouth"] == pytest.approx(error[:, 48:].mean(), **near)
        assert sum(cell["count"] for cell in measured["by_yaw"].values() if cell) == 8
        sure = [cell for cell in measured["by_confidence"].values() if cell]
        assert sum(cell["count"] for cell in sure) == 8 * 68
        assert sum(cell["count"] * cell["error"] for cell in sure) / (8 * 68) == pytest.approx(each.mean(), **near)
    measured = json.loads((tmp_path / "image" / "report.json").read_text())
    assert measured["nme"] == pytest.approx(tiny.distilled.report.nme, abs=1e-4)
    assert f"NME {measured['nme']:.3f}" in capsys.readouterr().out
    assert {"ced", "worst", "overlays"} <= {path.stem for path in (tmp_path / "image" / "pictures").glob("*.png")}


def test_flip_is_the_average_with_the_mirror_image_and_is_reported(tiny, plain, labels, tmp_path, capsys):
    val, store = tiny.data / "synthetics_val", ("--store", str(tiny.store))
    mirrored = tmp_path / "mirrored"
    mirrored.mkdir()
    for name in labels:
        cv2.imwrite(str(mirrored / f"{name}.png"), cv2.imread(str(val / name))[:, ::-1])
    model = str(tiny.control.model_file)
    straight, turned = predicted(model, val, tmp_path / "a"), predicted(model, mirrored, tmp_path / "b")
    errors = []
    for name, truth in labels.items():
        back = turned[f"{name}.png"][list(IBUG68.flip_permutation)]
        back[:, 0] = 64 - back[:, 0]
        errors.append(np.linalg.norm((straight[name] + back) / 2 - truth, axis=1).mean() / 64 * 100)
    capsys.readouterr()
    plain = report(model, val, tmp_path / "plain", *store)
    measured = report(model, val, tmp_path / "flip", "--flip", *store)
    assert measured["flip"] is True and "(flip)" in capsys.readouterr().out
    assert measured["nme"] == pytest.approx(np.mean(errors), abs=1e-3)
    assert measured["nme"] != pytest.approx(plain["nme"], abs=1e-3)


@pytest.mark.parametrize("kind", ["run id", "its beginning", "registry", "file"])
def test_every_reference_is_the_same_model(tiny, plain, tmp_path, kind):
    result = tiny.distilled
    reference = {
        "run id": result.run_id,
        "its beginning": result.run_id[:8],
        "registry": "models:/distill-student@newest",
        "file": str(result.model_file),
    }[kind]
    measured = report(reference, tiny.data / "synthetics_val", tmp_path, "--store", str(tiny.store))
    assert (
        measured["nme"] == pytest.approx(result.report.nme, abs=1e-6) and measured["about"]["run_id"] == result.run_id
    )


def test_predict_draws(tiny, tmp_path):
    predict.main([str(tiny.control.model_file), str(tiny.data / "synthetics_test"), "--out", str(tmp_path)])
    drawn = sorted(path.stem for path in tmp_path.glob("*.jpg"))
    assert drawn == sorted(path.stem for path in (tiny.data / "synthetics_test").glob("*.jpg"))


def test_export_hands_out_the_trained_student(tiny, tmp_path, capsys):
    import onnxruntime

    images = tiny.data / "synthetics_test"
    export.main([tiny.distilled.run_id, "--out", str(tmp_path), "--images", str(images), "--store", str(tiny.store)])
    assert same_weights(tmp_path / "student.safetensors", tiny.distilled.model_file)
    assert (tmp_path / "student.safetensors").stat().st_size < 15_000_000
    found = predicted(str(tmp_path / "student.safetensors"), images, tmp_path / "landmarks")
    with zipfile.ZipFile(tmp_path / "solution.zip") as archive:
        rows = [row.split(" ") for row in archive.read("solution.txt").decode().splitlines()]
    assert sorted(row[0] for row in rows) == sorted(found)
    session = onnxruntime.InferenceSession(str(tmp_path / "student.onnx"), providers=["CPUExecutionProvider"])
    for name, *numbers in rows:
        assert np.array(numbers, float).reshape(68, 2) == pytest.approx(found[name], abs=2e-3)
        pixels = cv2.imread(str(images / name))[None, ..., ::-1]
        assert session.run(["points"], {"image": pixels})[0][0] == pytest.approx(found[name], abs=0.01)
    printed = capsys.readouterr().out
    assert "float32" in printed and "4 rows of 137 fields, read back and checked" in printed


@pytest.mark.skipif(not BUNDLED.is_file(), reason="no student is bundled yet")
def test_the_bundled_student_works_from_a_clone(tmp_path):
    from distill.data import SAMPLE_ROOT

    assert report("bundled", SAMPLE_ROOT / "synthetics_val", tmp_path / "e")["nme"] < 5
    export.main(["bundled", "--out", str(tmp_path), "--images", str(SAMPLE_ROOT / "synthetics_test")])
    assert (tmp_path / "solution.zip").is_file() and (tmp_path / "student.onnx").is_file()
    assert predicted("bundled", SAMPLE_ROOT / "synthetics_test", tmp_path / "p")


def test_ctrl_c_that_a_library_makes_an_error_of_while_it_is_imported_is_no_traceback(capsys):
    """As numpy does when torch imports it again."""

    def main(_argv):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("cannot load module more than once per process") from None

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit) as stopped:
            cli.run(main)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert stopped.value.code == 130 and "interrupted" in capsys.readouterr().err
