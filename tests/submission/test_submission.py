"""The challenge's file: what is written reads back, and every way to spoil it is found."""

import tracemalloc
import unicodedata
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from distill.errors import UserError
from distill.submission import file
from distill.submission import file as submission

NAMES = ["image00002.jpg", "image00004.jpg", "bild-ä.jpg"]
ROW = " ".join(["a.jpg", *["1.5"] * 136])


def points(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).uniform(-20, 400, (count, 68, 2))


def pack(tmp_path, text, name="solution.txt"):
    path = tmp_path / "made.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, text)
    return path


def test_round_trip(tmp_path):
    path = submission.write(tmp_path / "deep" / "solution.zip", NAMES, points())
    names, found = submission.read(path)
    assert names == NAMES
    np.testing.assert_allclose(found, points(), atol=0.5e-4 + 1e-9)
    assert submission.check(path, NAMES) == submission.check(path) == []


any_name = st.text(st.characters(blacklist_categories=("C", "Z")), min_size=1, max_size=12)
any_points = st.integers(1, 3).flatmap(
    lambda count: arrays(np.float64, (count, 68, 2), elements=st.floats(-1e6, 1e6), fill=st.floats(-1e6, 1e6))
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(any_name, min_size=3, max_size=3, unique=True), any_points)
def test_whatever_is_written_reads_back_to_four_decimals(tmp_path, names, found):
    names = names[: len(found)]
    path = submission.write(tmp_path / "any.zip", names, found)
    read_names, read = submission.read(path)
    assert read_names == names and np.abs(read - found).max() <= 0.5e-4 + 1e-9
    assert submission.check(path, names[::-1]) == []


def test_the_text_is_exactly_the_challenges(tmp_path):
    values = np.arange(136, dtype=float).reshape(1, 68, 2)
    values[0, 0] = (-0.00001, 1.23456)
    path = submission.write(tmp_path / "s.zip", ["a.jpg"], values)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["solution.txt"]
        text = archive.read("solution.txt").decode()
    assert text.endswith(" 134.0000 135.0000\n") and text.count("\n") == 1
    assert text.startswith("a.jpg 0.0000 1.2346 2.0000 3.0000 ")  # no "-0.0000"; x before y; point after point
    assert len(text.rstrip("\n").split(" ")) == 137


def test_same_input_same_bytes_and_no_litter(tmp_path):
    first = submission.write(tmp_path / "a.zip", NAMES, points()).read_bytes()
    assert submission.write(tmp_path / "b.zip", NAMES, points()).read_bytes() == first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip", "b.zip"]


@pytest.mark.parametrize(
    ("names", "count", "word"),
    [
        (["a b.jpg", "b", "c"], 3, "white space"),
        (["a\tb.jpg", "b", "c"], 3, "white space"),
        (["", "b", "c"], 3, "white space"),
        (["a", "b", "a"], 3, "twice"),
        (["a", "b"], 3, "2 "),
        ([], 0, "one"),
    ],
)
def test_names_that_cannot_stand_there_are_refused(tmp_path, names, count, word):
    with pytest.raises(UserError, match=word):
        submission.write(tmp_path / "s.zip", names, points(3)[:count])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_points_that_are_not_finite_are_refused(tmp_path, value):
    bad = points()
    bad[1, 7, 1] = value
    with pytest.raises(UserError, match="image00004.jpg', point 7"):
        submission.write(tmp_path / "s.zip", NAMES, bad)
    with pytest.raises(UserError, match=r"\(3, 136\)"):
        submission.write(tmp_path / "s.zip", NAMES, points().reshape(3, 136))


def test_a_refused_write_leaves_the_old_file(tmp_path):
    path = submission.write(tmp_path / "s.zip", NAMES, points())
    before = path.read_bytes()
    with pytest.raises(UserError):
        submission.write(path, ["a", "a", "b"], points())
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=str(tmp_path / "file")):
        submission.write(tmp_path / "file" / "s.zip", NAMES, points())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "empty"),
        ("\n\n", "empty"),
        (ROW + "\n\n" + ROW.replace("a.", "b."), "line 2: empty"),
        (ROW + " 2", "line 1: 138 fields; expected 137"),
        (ROW.removesuffix(" 1.5"), "line 1: 136 fields; expected 137"),
        (ROW.replace("a.jpg ", "a.jpg  "), "line 1, field 2: an extra space"),
        (ROW + " \n", "line 1, field 138: an extra space"),
        (" " + ROW, "line 1, field 1: an extra space"),
        (ROW.replace("a.jpg ", "a.jpg\t"), "line 1, field 1: a tab"),
        (ROW + "\n" + ROW, "line 2, field 1: image 'a.jpg' stands on line 1 already"),
        (ROW.replace("1.5", "nan", 1), "line 1, field 2: 'nan' is not finite"),
        (ROW.replace("1.5", "-Infinity", 1), "line 1, field 2: '-Infinity' is not finite"),
        (ROW.replace("1.5", "1e999", 1), "line 1, field 2: '1e999' is not finite"),
        (ROW.replace("1.5", "1,5", 1), "line 1, field 2: '1,5' is not a number"),
        (ROW.replace("1.5", "1_5", 1), "line 1, field 2: '1_5' is not a number"),
        (ROW.replace("1.5", "1" * 20_000 + "x", 1), "line 1: 20,547 characters"),
        (ROW + "\r\n", "line 1: ends in a carriage return"),
        (b"\xff\xfe" + ROW.encode(), "not UTF-8"),
        ("\ufeff" + ROW, "byte order mark"),
    ],
)
def test_each_fault_is_named_with_line_and_field(tmp_path, text, problem):
    path = pack(tmp_path, text)
    problems = submission.check(path)
    assert len(problems) == 1 and problem in problems[0]
    with pytest.raises(UserError, match="made.zip"):
        submission.read(path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x\n" * 400_000, "the file was read to here only"),
        ("x " * 400_000, "line 1: 800,000 characters"),
        (" " * 1_000_001, "larger than 1,000,000 bytes"),
    ],
    ids=["many lines", "one line", "a zip bomb"],
)
def test_a_small_zip_of_much_text_costs_little_and_has_few_problems(tmp_path, monkeypatch, text, problem):
    monkeypatch.setattr(file, "LARGEST", 1_000_000)
    with zipfile.ZipFile(tmp_path / "made.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(submission.MEMBER, text)
    tracemalloc.start()
    problems = submission.check(tmp_path / "made.zip", ["a.jpg"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(problems) <= file.MOST_PROBLEMS + 2 and any(problem in found for found in problems)
    assert peak < 5 * file.LARGEST


def test_one_row_without_a_last_line_feed_is_fine(tmp_path):
    assert submission.check(pack(tmp_path, ROW), ["a.jpg"]) == []


def test_faults_of_the_zip_are_named(tmp_path):
    assert "folder/solution.txt" in submission.check(pack(tmp_path, ROW, "folder/solution.txt"))[0]
    assert "Solution.txt" in submission.check(pack(tmp_path, ROW, "Solution.txt"))[0]
    path = pack(tmp_path, ROW)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("notes.txt", "")
    assert "exactly one file" in submission.check(path)[0]
    zipfile.ZipFile(tmp_path / "void.zip", "w").close()
    assert "nothing" in submission.check(tmp_path / "void.zip")[0]
    (tmp_path / "text.zip").write_text(ROW)
    assert "not an intact zip" in submission.check(tmp_path / "text.zip")[0]
    assert "cannot be read" in submission.check(tmp_path / "absent.zip")[0]


def test_a_damaged_zip_is_named(tmp_path):
    path = submission.write(tmp_path / "s.zip", NAMES, points())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    assert len(submission.check(path)) == 1


def test_missing_and_unknown_images_are_named(tmp_path):
    path = submission.write(tmp_path / "s.zip", ["a.jpg", "b.jpg", "x.jpg"], points())
    assert submission.check(path, ["b.jpg", "a.jpg", "x.jpg"]) == []  # any order of rows
    missing, unknown = submission.check(path, ["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    assert missing == "2 of the images are missing: c.jpg, d.jpg"
    assert unknown == "1 of the images are not in the set: x.jpg"


def test_a_name_with_its_accent_stored_in_another_way_is_pointed_out(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "José.jpg") for form in ("NFC", "NFD"))
    path = submission.write(tmp_path / "s.zip", [decomposed, "a.jpg"], np.ones((2, 68, 2)))
    assert submission.check(path, [decomposed, "a.jpg"]) == []
    problems = submission.check(path, [composed, "b.jpg"])
    assert len(problems) == 3 and "NFD" in problems[0] and decomposed in problems[0] and "a.jpg" not in problems[0]
