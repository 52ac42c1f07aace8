"""The hand-in: all that belongs in it and no data, the same bytes twice, and a submission that it makes again by
itself."""

from __future__ import annotations

import datetime
import json
import shlex
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from distill import cli, tracking
from distill import config as configs
from distill.errors import UserError
from distill.handin import __main__ as handin
from distill.handin import job, reproduce
from distill.handin.job import CODE, MODEL, PINS, README, REPORT, SOLUTION
from distill.handin.sources import Sources
from distill.landmarks import IBUG68
from distill.report import job as reporting
from distill.report.document import Pdf
from distill.submission import file as submission
from distill.submission import job as submitting

OWNER = "R07654321"


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("report") / "mine.pdf"
    path.write_bytes(b"%PDF-1.4 a report written by hand")
    return path


@pytest.fixture(scope="module")
def built(tiny, report, tmp_path_factory) -> job.HandIn:
    return job.build(OWNER, tiny.distilled.run_id, tmp_path_factory.mktemp("built"), tiny.tracking, report=report)


@pytest.fixture(scope="module")
def files(built) -> dict[str, bytes]:
    """Path within the one folder -> contents."""
    with zipfile.ZipFile(built.path) as archive:
        assert {name.split("/")[0] for name in archive.namelist()} == {OWNER}
        return {name.removeprefix(f"{OWNER}/"): archive.read(name) for name in archive.namelist()}


def repack(folder: Path, files: dict[str, bytes]) -> Path:
    return job._write(folder / f"{OWNER}.zip", OWNER, files, set())


# ---------------------------------------------------------------------------------------------------- what is in it


def test_it_holds_the_runs_own_model_submission_and_report(tiny, files, report):
    assert files[MODEL] == tiny.distilled.model_file.read_bytes()
    assert files[SOLUTION] == tiny.distilled.submission.read_bytes()
    assert files[REPORT] == report.read_bytes()
    for name in ("distill/__init__.py", "distill/handin/job.py", "distill/training/job.py", "pyproject.toml"):
        assert files[f"{CODE}/{name}"], name


def test_no_data_set_no_store_and_no_output_is_in_it(tiny, files):
    sample = f"{CODE}/distill/data/sample/"
    rest = [name for name in files if not name.startswith(sample)]
    assert len(rest) < len(files), "the rendered sample is the project's own, and stays"
    assert not [name for name in rest if name.endswith(("annot.pkl", "_ldmks.txt"))]
    assert not [name for name in rest if name.startswith((f"{CODE}/mlruns", f"{CODE}/outputs"))]
    images = {path.read_bytes() for path in tiny.data.rglob("*.jpg")}
    assert images and not images & set(files.values())


def test_it_holds_nothing_of_the_machine_it_came_from(tiny, files):

    own = [
        data.decode()
        for name, data in files.items()
        if not name.startswith(f"{CODE}/") and name.endswith((".md", ".yaml", ".json", ".txt"))
    ]
    assert len(own) == 5 and not [text for text in own if str(tiny.folder) in text or str(Path.home()) + "/" in text]


def test_the_environment_is_pinned_as_it_ran(tiny, files):
    path = tracking.artifact_path(tiny.tracking, tiny.distilled.run_id, "environment.json")
    ran = json.loads(path.read_text())["packages"]
    pins = dict(line.split("==") for line in files[PINS].decode().splitlines() if "==" in line)
    assert {"torch", "timm", "mlflow", "numpy", "safetensors"} <= pins.keys() and "distill" not in pins
    assert pins["torch"] == ran["torch"] and pins["numpy"] == ran["numpy"]
    assert json.loads(files["environment.json"])["packages"] == ran


def test_the_trainings_are_commands_that_parse(tiny, files, tmp_path):
    lines = files[README].decode().splitlines()
    teacher, student = [
        shlex.split(line) for line in lines if line.startswith("python -m distill.") and "--config" in line
    ]
    assert teacher[2:5] == ["distill.teacher", "--config", "train/1-teacher.yaml"]
    assert student[2:5] == ["distill.student", "--config", "train/2-distilled.yaml"] and "teacher=1-teacher" in student
    for words, result in ((teacher, tiny.teacher), (student, tiny.distilled)):
        file = tmp_path / words[4]
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(files[words[4]])
        config = configs.load(file, words[5:])
        ran = configs.load(tracking.artifact_path(tiny.tracking, result.run_id, "config.yaml"))
        assert config.data.root == "DATA" and config.tracking.run_name == Path(words[4]).stem
        assert configs.digest(replace(config, teacher=ran.teacher)) == configs.digest(ran)


def test_the_readme_names_run_and_code_and_the_score_that_was_logged(tiny, built, files, report, tmp_path, monkeypatch):
    text = files[README].decode()
    assert tiny.distilled.run_id in text and tiny.teacher.run_id in text and built.statement in text
    assert "public score" not in text
    digest = submission.sha256(tiny.distilled.submission)
    entry = submitting.Entry("", datetime.date(2026, 11, 22), 2.31, digest, "", "", "", 0.0, "", "")
    monkeypatch.setattr(job.submitting, "entries", lambda _: [replace(entry, sha256="another", public=9.9), entry])
    again = job.build(OWNER, tiny.distilled.run_id, tmp_path, tiny.tracking, report=report)
    with zipfile.ZipFile(again.path) as archive:
        assert "Its public score was 2.31 % (2026-11-22)" in archive.read(f"{OWNER}/{README}").decode()


def test_the_same_run_gives_the_same_bytes_and_no_litter(tiny, report, tmp_path, monkeypatch):
    code = Sources({"distill/__init__.py": b"", "run": b"#!/bin/sh"}, frozenset({"run"}), "Code.")
    monkeypatch.setattr(job.sources, "collect", lambda *_: code)
    paths = []
    for name in ("a", "b"):
        paths.append(job.build(OWNER, tiny.distilled.run_id, tmp_path / name, tiny.tracking, report=report).path)
        assert [path.name for path in paths[-1].parent.iterdir()] == [f"{OWNER}.zip"]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with zipfile.ZipFile(paths[0]) as archive:
        modes = {entry.filename: entry.external_attr >> 16 & 0o777 for entry in archive.infolist()}
        text = archive.read(f"{OWNER}/{README}").decode()
        assert "\nOMP_NUM_THREADS=1 python -m distill.export student.safetensors" in text, (
            "this code has no other command"
        )
    assert modes[f"{OWNER}/{CODE}/run"] == 0o755 and modes[f"{OWNER}/{README}"] == 0o644


def test_without_a_report_the_runs_own_is_taken_and_else_one_is_written_and_kept(tiny, tmp_path, monkeypatch, report):
    asked = []

    def write(refs, store, out):
        asked.append(refs)
        out.mkdir()
        made = out / "report.pdf"
        made.write_bytes(b"%PDF made")
        return reporting.Written(made, Pdf(made, 1, ()), "", "")

    monkeypatch.setattr(reporting, "report", write)
    info = tiny.info(tiny.distilled)
    stored = {"report/report.pdf": report}
    monkeypatch.setattr(job.track, "artifact_path", lambda _, run, path: stored[path])
    assert job._report(info, tiny.tracking, None, tmp_path) == report and not asked

    def nothing(*_):
        raise UserError("no such artifact")

    monkeypatch.setattr(job.track, "artifact_path", nothing)
    assert job._report(info, tiny.tracking, None, tmp_path).read_bytes() == b"%PDF made" and asked == [[info.id]]


# ---------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("owner", ["R07654321", "r07654321", "AB123"])
def test_an_id_is_letters_and_digits(owner):
    assert job.check_id(owner) == owner


@pytest.mark.parametrize("owner", ["", "07654321", "R", "R0765-4321", "../R1", "R1 ", "R1\n", "R076X"])
def test_anything_else_is_no_id(owner, tmp_path, tiny):
    with pytest.raises(UserError, match="--id"):
        job.build(owner, "nobody", tmp_path, tiny.tracking)


def test_only_a_finished_student_with_a_submission_is_handed_in(tiny, tmp_path, report, monkeypatch):
    def build(run: str, **kwargs) -> job.HandIn:
        return job.build(OWNER, run, tmp_path, tiny.tracking, report=report, **kwargs)

    with pytest.raises(UserError, match="FINISHED student"):
        build(tiny.teacher.run_id)
    with pytest.raises(UserError, match="'nobody'"):
        build("nobody")
    run_id, found = tiny.distilled.run_id, tracking.find_run
    with monkeypatch.context() as patch:
        patch.setattr(job.track, "find_run", lambda *args: replace(found(*args), status="KILLED"))
        with pytest.raises(UserError, match="KILLED student"):
            build(run_id)
    (tmp_path / "text.pdf").write_text("text")
    with pytest.raises(UserError, match="text.pdf"):
        job.build(OWNER, run_id, tmp_path, tiny.tracking, report=tmp_path / "text.pdf")
    artifact = tracking.artifact_path

    def light(store, run, path):
        if path.startswith("submission"):
            raise UserError("not there")
        return artifact(store, run, path)

    monkeypatch.setattr(job.track, "artifact_path", light)
    with pytest.raises(UserError, match="--images"):
        build(run_id)
    assert not list(tmp_path.glob(f"*{OWNER}*"))
    made = build(run_id, images=tiny.data / "synthetics_test")
    with zipfile.ZipFile(made.path) as archive:
        assert archive.read(f"{OWNER}/{SOLUTION}") == tiny.distilled.submission.read_bytes()


# ---------------------------------------------------------------------------------------------------- reproducing


@pytest.mark.slow
def test_the_readmes_command_makes_the_stored_submission_again(tiny, built, monkeypatch, capsys):
    images = str(tiny.data / "synthetics_test")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # the last digits must not hang on this
    handin.main(["--check", str(built.path), "--images", images, "--no-install"])
    printed = capsys.readouterr().out
    assert "reproduced, 4 rows, 544 numbers the same to the last digit" in printed
    assert "distill.submission make student.safetensors" in printed


def test_it_is_the_code_in_the_zip_that_runs(tiny, files, tmp_path):
    broken = files | {f"{CODE}/distill/submission/file.py": b"raise SystemExit('broken on purpose')\n"}
    found = reproduce.check(repack(tmp_path, broken), tiny.data / "synthetics_test", install=False)
    assert len(found.problems) == 1 and "broken on purpose" in found.problems[0]


def test_one_last_digit_is_enough_to_fail(tmp_path):
    names, points = ["a.jpg", "b.jpg"], np.full((2, IBUG68.count, 2), 10.0)
    stored = submission.write(tmp_path / "stored.zip", names, points)
    same = submission.write(tmp_path / "same.zip", names[::-1], points)
    assert reproduce.compare(stored, same) == reproduce.Reproduction((), 2, 272)
    points[1, 7, 1] += 1e-4
    (problem,) = reproduce.compare(stored, submission.write(tmp_path / "new.zip", names, points)).problems
    assert problem == "1 of 272 numbers differ, by at most 0.0001 px, in 1 of 2 images, 'b.jpg' first"
    (problem,) = reproduce.compare(stored, submission.write(tmp_path / "new.zip", ["a.jpg", "c.jpg"], points)).problems
    assert "images differ" in problem and "'b.jpg' first" in problem


def test_a_check_that_fails_is_exit_code_1(tiny, files, tmp_path, capsys):
    path = repack(tmp_path, {name: data for name, data in files.items() if name != MODEL})
    with pytest.raises(SystemExit) as stopped:
        handin.main(["--check", str(path), "--images", str(tiny.data), "--no-install"])
    assert stopped.value.code == 1 and capsys.readouterr().out == f"{path}: 'student.safetensors' is missing\n"


def test_what_is_wrong_with_the_zip_itself_is_named(files, tmp_path):
    files = {name: data for name, data in files.items() if "/" not in name} | {f"{CODE}/distill/__init__.py": b""}

    def problems(name: str = OWNER, folder: str = OWNER, **changes: bytes | None) -> str:
        kept = {key: data for key, data in (files | changes).items() if data is not None}
        return "; ".join(reproduce.inspect(job._write(tmp_path / f"{name}.zip", folder, kept, set())))

    assert problems() == ""
    assert problems("mine", "mine") == "the file's name 'mine.zip' is not a student's id and .zip"
    assert f"outside the one folder '{OWNER}/'" in problems(OWNER, "R1")
    assert f"outside the one folder '{OWNER}/'" in problems(**{"../escape": b""})
    assert problems(**{REPORT: None}) == "'report.pdf' is missing"
    assert "has 15,000,001 bytes" in problems(**{MODEL: bytes(15_000_001)})
    (tmp_path / "text.zip").write_text("text")
    with pytest.raises(UserError, match="text.zip"):
        reproduce.inspect(tmp_path / "text.zip")


@pytest.mark.slow  # downloads some gigabytes
def test_a_fresh_environment_makes_the_stored_submission_again(tiny, built):
    found = reproduce.check(built.path, tiny.data / "synthetics_test", progress=print)
    assert found == reproduce.Reproduction((), 4, 544)


# ---------------------------------------------------------------------------------------------------- the command


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], ["--id ID", "--check ZIP"]),
        (["--id", "R1"], ["both", "--run"]),
        (["--run", "x"], ["both", "--id"]),
        (["--id", "7", "--run", "x"], ["--id '7'"]),
        (["--id", "R1", "--run", "x", "--check"], ["--check needs --images"]),
        (["--id", "R1", "--run", "x", "--check", "R1.zip", "--images", "."], ["either"]),
        (["--check", "absent.zip", "--images", "."], ["absent.zip", "not a file"]),
        (["--check", "absent.zip"], ["--images"]),
        (["--check", "x.zip", "--images", "absent"], ["--images", "'absent'"]),
        (["--id", "R1", "--run", "x", "--no-install"], ["--no-install goes with --check"]),
        (["--id", "R1", "--run", "x", "--report", "absent.pdf"], ["absent.pdf", "not a file"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_call_is_one_line(args, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["handin", *args])
    with pytest.raises(SystemExit) as stopped:
        cli.run(handin.main)
    (line,) = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and all(word in line for word in words), line
    assert not list(tmp_path.iterdir())
