"""The submission command, as a person meets it: what is wrong is listed and counted, and the exit code says which
kind it is."""

from __future__ import annotations

import sys
import zipfile

import numpy as np
import pytest

from distill import cli
from distill.submission import file as submission
from distill.submission.__main__ import SHOWN, main

NAMES = [f"{i:02d}.jpg" for i in range(5)]


def points(count: int = 5) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 384, (count, 68, 2))


@pytest.fixture
def good(tmp_path):
    return submission.write(tmp_path / "good.zip", NAMES, points())


def pack(path, text: str):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("solution.txt", text)
    return path


def text_of(path) -> str:
    with zipfile.ZipFile(path) as archive:
        return archive.read("solution.txt").decode()


def call(monkeypatch, capsys, *args: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command in this process."""
    monkeypatch.setattr(sys, "argv", ["submission", *map(str, args)])
    code = 0
    try:
        cli.run(main)
    except SystemExit as stopped:
        code = stopped.code
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_a_good_file_is_summed_up_with_what_was_not_checked(good, monkeypatch, capsys):
    code, out, err = call(monkeypatch, capsys, "check", good)
    assert (code, err) == (0, "")
    assert "valid, 5 rows of 137 fields" in out and submission.sha256(good) in out and "only the form" in out


def test_with_names_it_is_checked_whole(good, tmp_path, monkeypatch, capsys):
    names = tmp_path / "names.txt"
    names.write_text("\n".join(reversed(NAMES)) + "\n")
    code, out, _ = call(monkeypatch, capsys, "check", good, "--names", names)
    assert code == 0 and "each of the 5 images is there once" in out and "form alone" not in out
    names.write_text("\n".join([*NAMES[1:], "99.jpg"]))
    code, out, _ = call(monkeypatch, capsys, "check", good, "--names", names)
    assert code == 1 and "1 of the images are missing: 99.jpg" in out and "not in the set: 00.jpg" in out


def test_the_images_of_a_folder_are_what_must_be_there(tiny_root, tmp_path, monkeypatch, capsys):
    folder = tiny_root / "synthetics_test"
    names = sorted(path.name for path in folder.iterdir())
    path = submission.write(tmp_path / "s.zip", names, points(len(names)))
    assert call(monkeypatch, capsys, "check", path, "--images", folder)[0] == 0
    path = submission.write(tmp_path / "s.zip", names[:-1], points(len(names) - 1))
    code, out, _ = call(monkeypatch, capsys, "check", path, "--images", folder)
    assert code == 1 and names[-1] in out


def test_the_first_twenty_problems_are_listed_with_line_and_field_and_the_rest_counted(tmp_path, monkeypatch, capsys):
    lines = [" ".join([f"{i}.jpg", *["1.5"] * 135, "nan"]) for i in range(SHOWN + 3)]
    code, out, err = call(monkeypatch, capsys, "check", pack(tmp_path / "bad.zip", "\n".join(lines)))
    told = out.splitlines()
    assert (code, err) == (1, "")
    assert told[0] == "line 1, field 137: 'nan' is not finite" and told[SHOWN - 1].startswith(f"line {SHOWN}, ")
    assert told[SHOWN] == "... and 3 more" and f"invalid, {SHOWN + 3} problems" in told[SHOWN + 1]
    assert len(told) == SHOWN + 2


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace(" ", "  ", 1),
        lambda text: text.replace(" ", "\t", 1),
        lambda text: text.replace("\n", " \n", 1),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text + "\n",
        lambda text: text + text.splitlines()[0] + "\n",
        lambda text: text.replace("00.jpg ", "00.jpg 1.0 ", 1),
        lambda text: text.replace("\n", "", 1),
        lambda text: "name" + " x y" * 68 + "\n" + text,
    ],
    ids=["two spaces", "tab", "space at the end", "Windows", "empty line", "twice", "138", "joined", "header"],
)
def test_nothing_is_forgiven(good, tmp_path, monkeypatch, capsys, spoil):
    spoilt = spoil(text_of(good))
    assert spoilt != text_of(good)
    code, out, _ = call(monkeypatch, capsys, "check", pack(tmp_path / "bad.zip", spoilt))
    assert code == 1 and "line " in out.splitlines()[0] and "invalid" in out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], ["COMMAND"]),
        (["chek", "good.zip"], ["chek"]),
        (["check", "absent.zip"], ["absent.zip", "not a file"]),
        (["check", "good.zip", "--images", "absent"], ["--images", "'absent' is not a folder"]),
        (["check", "good.zip", "--names", "absent"], ["--names 'absent'", "cannot be read"]),
        (["check", "good.zip", "--names", "twice.txt"], ["twice.txt", "'a.jpg'", "more than once"]),
        (["check", "good.zip", "--names", "void.txt"], ["void.txt", "empty"]),
        (["check", "good.zip", "--names", "twice.txt", "--images", "."], ["not allowed"]),
        (["make", "bundled", "--images", "absent"], ["--images", "'absent'"]),
        (["make", "bundled"], ["--images"]),
        (["make", "absent.safetensors", "--images", "."], ["absent.safetensors", "does not exist"]),
        (["score", "good.zip"], ["--data"]),
        (["score", "good.zip", "--data", "absent"], ["--data", "'absent'"]),
        (["log", "good.zip"], ["--public"]),
        (["log", "good.zip", "--public", "much"], ["much"]),
        (["log", "good.zip", "--public", "nan"], ["nan", "percent"]),
        (["log", "good.zip", "--public", "2.31", "--date", "22.11.2026"], ["22.11.2026", "2026-11-22"]),
        (["log", "absent.zip", "--public", "2.31"], ["absent.zip"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_call_is_one_line_and_another_exit_code(good, tmp_path, monkeypatch, capsys, args, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "twice.txt").write_text("a.jpg\nb.jpg\na.jpg\n")
    (tmp_path / "void.txt").write_text("\n")
    code, out, err = call(monkeypatch, capsys, *args)
    (line,) = err.splitlines()
    assert (code, out) == (2, "") and line.startswith("error: ") and all(word in line for word in words), line
    assert not (tmp_path / "mlruns").exists()
