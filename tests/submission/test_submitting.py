"""Making, scoring and logging submissions: the export's own bytes, numbers worked out by hand, a ledger that counts."""

from __future__ import annotations

import dataclasses
import datetime
import sys
import zipfile

import cv2
import numpy as np
import pytest
import torch

from distill import cli, tracking
from distill.config import TrackingConfig
from distill.data.annotations import read_set
from distill.errors import UserError
from distill.landmarks import IBUG68
from distill.submission import file as submission
from distill.submission import job as submitting
from distill.submission.__main__ import main

DAY = datetime.date(2026, 11, 22)


@pytest.fixture
def labelled(tiny_root):
    return read_set(tiny_root / "synthetics_val")


@pytest.fixture
def quiet(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")


@pytest.fixture
def store(tmp_path, quiet) -> TrackingConfig:
    return TrackingConfig(store=str(tmp_path / "mlruns"))


def made(path, value: float):
    """A submission of one image whose bytes `value` decides."""
    return submission.write(path, ["a.jpg"], np.full((1, 68, 2), value))


# ---------------------------------------------------------------------------------------------------- making


def test_what_make_writes_is_what_the_run_exported_and_leads_back_to_it(tiny, tmp_path, capsys):
    run_id = tiny.distilled.run_id
    out = tmp_path / "solution.zip"
    main(
        ["make", run_id, "--images", str(tiny.data / "synthetics_test"), "--out", str(out), "--store", str(tiny.store)]
    )
    assert out.read_bytes() == tiny.distilled.submission.read_bytes()
    assert tiny.info(tiny.distilled).tags["submission.sha256"] == submission.sha256(out)
    assert submission.sha256(out) in capsys.readouterr().out
    exported = dataclasses.replace(tiny.tracking, experiment="elsewhere")
    maker = submitting.find_maker(out, exported)  # in one store with others that trained the very same
    assert maker.tags["distill.digest"] == tiny.info(tiny.distilled).tags["distill.digest"]
    assert maker.tags["submission.sha256"] == submission.sha256(out)
    assert submitting.find_maker(made(tmp_path / "other.zip", 1.0), exported) is None


@pytest.mark.slow
def test_the_number_of_threads_changes_no_digit(tiny, tmp_path):
    """It does change those of a plain prediction by the model here, which is why one thread makes every submission."""
    images = read_set(tiny.data / "synthetics_test", need_labels=False)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(submitting.make(tiny.distilled.model_file, images, tmp_path / f"{threads}.zip").read_bytes())
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]


def test_a_teacher_makes_no_submission(tiny, tmp_path):
    images = read_set(tiny.data / "synthetics_test", need_labels=False)
    with pytest.raises(UserError, match="teacher"):
        submitting.make(tiny.teacher.model_file, images, tmp_path / "s.zip")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------------- scoring


def test_a_score_is_the_mean_distance_over_the_images_side_in_percent(labelled, tmp_path):
    """Image i is off by i pixels in x, with twice that at the mouth: in 64 px images a pixel is 100/64 percent."""
    shift = np.zeros((len(labelled), 68, 2))
    shift[..., 0] = np.arange(len(labelled))[:, None]
    shift[:, list(IBUG68.regions["mouth"])] *= 2
    order = np.random.default_rng(0).permutation(len(labelled))  # rows in any order
    names, points = [labelled.names[i] for i in order], (labelled.landmarks + shift)[order]
    found = submitting.score(submission.write(tmp_path / "s.zip", names, points), labelled).report
    of_all = (48 + 2 * 20) / 68
    assert found.nme == pytest.approx(3.5 * of_all * 100 / 64, rel=1e-4)
    assert found.median == pytest.approx(3.5 * of_all * 100 / 64, rel=1e-4)
    assert found.by_region["mouth"] == pytest.approx(7 * 100 / 64, rel=1e-4)
    assert found.by_region["jaw"] == pytest.approx(3.5 * 100 / 64, rel=1e-4)


def test_the_split_is_60_to_40_and_its_spread_is_that_of_the_draw():
    errors = np.random.default_rng(1).gamma(2.0, 1.5, 200)
    split = submitting.simulate(errors)
    assert (split.public, split.private) == (120, 80)
    # drawn without replacement: var(public - private) = s^2 (1/n + 1/m), s^2 of N - 1
    expected = errors.std(ddof=1) * np.sqrt(1 / 120 + 1 / 80)
    assert split.low == pytest.approx(-1.96 * expected, rel=0.15) and split.high == pytest.approx(
        1.96 * expected, rel=0.15
    )
    assert split.gap == pytest.approx(expected * np.sqrt(2 / np.pi), rel=0.1)
    assert split.deviation == pytest.approx(expected * 80 / 200, rel=0.1)
    assert split.widest >= max(-split.low, split.high)
    assert submitting.simulate(errors) == split != submitting.simulate(errors, seed=1)
    alike = submitting.simulate(np.full(7, 2.5))
    assert (alike.public, alike.private, alike.gap) == (4, 3, pytest.approx(0, abs=1e-12))


def test_score_prints_regions_and_both_halves_and_of_one_image_no_split(labelled, tiny_root, tmp_path, capsys):
    path = submission.write(tmp_path / "s.zip", labelled.names, labelled.landmarks + 1)
    main(["score", str(path), "--data", str(tiny_root / "synthetics_val")])
    printed = capsys.readouterr().out
    assert f"NME {np.sqrt(2) * 100 / 64:.4f}" in printed and "public 5, private 3 images, 1000 random splits" in printed
    assert all(region in printed for region in IBUG68.regions)
    one = labelled.subset([0])
    assert submitting.score(submission.write(tmp_path / "o.zip", one.names, one.landmarks), one).split is None


def test_a_score_on_microsofts_layout_is_refused(labelled, tmp_path):
    """Its labels are in a crop, a submission is in whole pictures."""
    (folder := tmp_path / "microsoft").mkdir()
    for i, points in enumerate(labelled.landmarks):
        cv2.imwrite(str(folder / f"{i:06d}.png"), labelled.image(i))
        lines = "\n".join(f"{x:.3f} {y:.3f}" for x, y in [*points, (1, 1), (2, 2)])
        (folder / f"{i:06d}_ldmks.txt").write_text(lines + "\n")
    path = submission.write(tmp_path / "s.zip", read_set(folder).names, labelled.landmarks)
    with pytest.raises(UserError, match="Microsoft"):
        main(["score", str(path), "--data", str(folder)])


def test_names_that_do_not_match_are_one_sentence(labelled, tmp_path):
    names = [*labelled.names[1:], "stranger.jpg"]
    path = submission.write(tmp_path / "s.zip", names, labelled.landmarks)
    with pytest.raises(UserError, match=f"'{labelled.names[0]}'"):
        submitting.score(path, labelled)


# ---------------------------------------------------------------------------------------------------- the ledger


def test_the_same_file_twice_is_one_entry_with_the_newer_score(store, tmp_path):
    path = made(tmp_path / "first.zip", 1.0)
    first = submitting.log(path, 2.5, store, date=DAY, note="hello")
    assert first.before is None and first.warnings == ()
    renamed = path.rename(tmp_path / "renamed.zip")
    again = submitting.log(renamed, 2.31, store)
    assert again.before == 2.5 and again.entry.id == first.entry.id
    (entry,) = submitting.entries(store)
    assert (entry.public, entry.date, entry.note, entry.file) == (2.31, DAY, "hello", "first.zip")
    assert entry.sha256 == submission.sha256(renamed)
    kept = tracking.artifact_path(store, entry.id, "first.zip")
    assert kept.read_bytes() == renamed.read_bytes()
    ledger = dataclasses.replace(store, experiment="submissions")
    (info,) = tracking.list_runs(ledger)
    assert (info.job, info.status, info.metrics["public/nme"]) == ("submission", "FINISHED", 2.31)


def test_the_fifth_of_a_day_and_the_sixtieth_are_warned_of_and_none_is_refused(store, tmp_path, monkeypatch):
    logged = [submitting.log(made(tmp_path / "s.zip", i), 2.0 + i, store, date=DAY) for i in range(6)]
    assert [len(one.warnings) for one in logged] == [0, 0, 0, 0, 1, 1]
    assert "5 submissions on 2026-11-22, as many as the challenge takes (5 a day)" in logged[4].warnings[0]
    assert "6 submissions on 2026-11-22, 1 more than" in logged[5].warnings[0]
    other = submitting.log(made(tmp_path / "s.zip", 99), 2.0, store, date=DAY + datetime.timedelta(1))
    assert other.warnings == () and len(submitting.entries(store)) == 7
    entry = dataclasses.replace(other.entry, date=DAY)
    many = [dataclasses.replace(entry, date=DAY + datetime.timedelta(i)) for i in range(59)]
    assert submitting.warnings(many, DAY) == ()
    (sixty,) = submitting.warnings([*many, dataclasses.replace(entry, date=DAY - datetime.timedelta(9))], DAY)
    assert "60 submissions in all, as many as" in sixty
    assert len(submitting.warnings([entry] * 61, DAY)) == 2


def test_an_invalid_file_an_impossible_score_or_an_unknown_run_is_not_logged(store, tmp_path):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("solution.txt", "a.jpg 1 2\n")
    good = made(tmp_path / "good.zip", 1.0)
    with pytest.raises(UserError, match="line 1: 3 "):
        submitting.log(tmp_path / "bad.zip", 2.3, store)
    for impossible in (-1.0, 231.0, float("inf")):
        with pytest.raises(UserError, match="percent"):
            submitting.log(good, impossible, store)
    with pytest.raises(UserError, match="'nobody'"):
        submitting.log(good, 2.3, store, run="nobody")
    assert submitting.entries(store) == []


def test_the_command_logs_warns_on_stderr_and_shows_the_ledger(tiny, tmp_path, capsys, monkeypatch):
    """The run that exported the file is found by itself, and its validation score stands beside the public one."""
    place = ["--store", str(tiny.store)]

    def call(*args: str) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["submission", *args, *place])
        cli.run(main)
        return capsys.readouterr()

    assert tiny.distilled
    capsys.readouterr()
    assert "Nothing was submitted" in call("ledger")[0]
    out, err = call("log", str(tiny.distilled.submission), "--public", "2.31", "--note", "first")
    assert tiny.distilled.run_id in out and err == ""
    for i in range(4):
        args = ["log", str(made(tmp_path / f"{i}.zip", i)), "--public", f"{3 + i}", "--run", tiny.control.run_id]
        out, err = call(*args)
        assert tiny.control.run_id in out
    assert err.startswith("warning: The ledger has 5 submissions on ") and err.count("\n") == 1
    rows = call("ledger")[0].splitlines()
    assert len(rows) == 7 and rows[-1].startswith("5 of 60 in all, 5 of 5 today")
    assert "2.31 *" in rows[1] and f"{tiny.distilled.report.nme:.3f}" in rows[1] and rows[1].endswith("first")
    assert f"{tiny.control.report.nme:.3f}" in rows[2] and "*" not in rows[2]
