"""The report of real (tiny) runs: gathered from MLflow alone, equal to what MLflow says, stored with the student."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from distill import metrics, tracking
from distill.ablation.table import Result, tabulate
from distill.config import TrackingConfig
from distill.errors import UserError
from distill.report import __main__ as report
from distill.report import job as reporting


def words(page: str) -> str:
    return " ".join(re.sub(r"<(style|script)>.*?</\1>|<[^>]*>", " ", page, flags=re.DOTALL).split()).replace(
        "\u00a0", " "
    )


def paper(path) -> str:
    pdfium = pytest.importorskip("pypdfium2")
    document = pdfium.PdfDocument(path)
    assert 1 <= len(document) <= 4
    return " ".join(" ".join(page.get_textpage().get_text_range() for page in document).split())


@pytest.fixture(scope="module")
def runs(tiny):
    return [tiny.info(result) for result in (tiny.teacher, tiny.control, tiny.distilled)]


@pytest.fixture(scope="module")
def written(tiny, runs, tmp_path_factory):
    """A report of control and student, named in two ways; the teacher is found by the student's tag."""
    return reporting.report(
        [runs[1].id, runs[2].id[:10]], tiny.tracking, tmp_path_factory.mktemp("out") / "new" / "folder"
    )


@contextlib.contextmanager
def another_run(tiny, status: str, experiment: str, job: str = "student"):
    """A run in `experiment` that is open inside the block and ends with `status`."""
    store = dataclasses.replace(tiny.tracking, experiment=experiment)
    run = tracking.Run.start(
        store, job=job, run_name=f"{experiment}-{job}", params={}, config_yaml="name: x\n", tags={"distill.role": "control"}
    )  # fmt: skip
    try:
        yield run
    finally:
        run.finish(status)


def test_both_files_say_what_mlflow_says(written, runs):
    page, text = words(written.html.read_text(encoding="utf-8")), paper(written.pdf)
    for run in runs:
        shown = [
            run.id, f"{run.metrics['best/val/nme']:.3f}", f"{run.metrics['best/val/median']:.3f}",
            f"{run.metrics['best/val/auc']:.3f}", f"{run.metrics['model/file_bytes'] / 1e6:.2f}",
        ]  # fmt: skip
        for value in shown:
            assert value in page and value in text
        assert run.tags["mlflow.source.git.commit"][:12] in page
    assert runs[2].tags["data.val"] in page and runs[2].tags["data.train"] in page


def test_the_headline_is_the_bootstrap_of_the_logged_errors(written, tiny):
    found = metrics.paired_bootstrap(tiny.distilled.report.per_image, tiny.control.report.per_image)
    statement = written.statement.replace("−", "-").replace("\u00a0", " ")
    assert f"[{found.low:.3f}, {found.high:.3f}]" in statement and f"{found.mean:+.3f} points" in statement


def test_pictures_show_the_validation_set_with_all_three_models(written, runs):
    page = written.html.read_text(encoding="utf-8")
    text = words(page)
    assert f"From synthetics_val (the validation set; 8 images, fingerprint {runs[2].tags['data.val']})" in text
    for key in ("photos-gallery", "heatmaps-gallery", "points-heat-gallery", "attention-gallery"):
        assert f'id="{key}"' in page
    assert "distilled level:2" in text and "teacher backbone.blocks.2" in text, "each side at its own taps"


def test_both_files_are_among_the_artifacts_of_the_students_run(written, tiny, runs):
    assert written.run_id == runs[2].id
    for path in (written.html, written.pdf):
        stored = tracking.artifact_path(tiny.tracking, runs[2].id, f"report/{path.name}")
        assert stored.read_bytes() == path.read_bytes()
    assert tiny.info(tiny.distilled).status == "FINISHED"


def test_an_experiment_gives_its_best_student_and_lists_the_rest(tiny, runs):
    store = tiny.tracking
    found = reporting.of_experiment(store.experiment, store)
    trained = [run for run in tracking.list_runs(store) if run.job in ("teacher", "student")]
    finished = [run for run in trained if run.status == "FINISHED" and "best/val/nme" in run.metrics]
    taught = [run.metrics["best/val/nme"] for run in finished if run.tags["distill.role"] == "distilled"]
    student = min((run for run in found.runs if run.role == "distilled"), key=lambda run: run.nme)
    assert student.nme == min(taught)
    assert {run.role for run in found.runs} == {"teacher", "control", "distilled"}
    assert student.teacher_id in {run.id for run in found.runs}
    shown, rest = {run.id for run in found.runs}, {run.id for run in found.others}
    compared = {run_id for table in found.ablations for row in table.rows for run_id in row.run_ids}
    assert not (shown | compared) & rest and shown | compared | rest >= {run.id for run in finished}


def test_a_set_that_moved_leaves_the_logged_pictures_and_says_so(tiny, runs, tmp_path):
    moved = tiny.data / "synthetics_val"
    hidden = tiny.data / "elsewhere"
    moved.rename(hidden)
    try:
        result = reporting.report([runs[1].id], tiny.tracking, tmp_path, keep=False)
    finally:
        hidden.rename(moved)
    page = result.html.read_text(encoding="utf-8")
    assert "is not on the machine that wrote this report" in words(page)
    assert "data:image/png" in page and "data:image/jpeg" not in page
    assert runs[1].id in paper(result.pdf)


def test_a_set_that_changed_is_not_taken_for_the_runs_own(tiny, runs):
    folder = tiny.data / "synthetics_val"
    kept = (folder / "010003.jpg").read_bytes()
    (folder / "010003.jpg").write_bytes((folder / "010002.jpg").read_bytes() + b"\0")
    try:
        cast = reporting.cast_of(reporting.of_runs([runs[1].id], tiny.tracking))
        photos, reason = reporting.picturing.photographs(cast, tiny.tracking, None)
    finally:
        (folder / "010003.jpg").write_bytes(kept)
    assert photos is None and runs[1].tags["data.val"] in reason


def test_another_set_is_predicted_and_labelled_as_such(tiny, runs):
    cast = reporting.cast_of(reporting.of_runs([runs[1].id], tiny.tracking))
    folder = tiny.data / "synthetics_train"
    photos, _ = reporting.picturing.photographs(cast, tiny.tracking, folder)
    assert (photos.set_name, photos.recorded, photos.count) == ("synthetics_train", False, 24)
    shown = photos.photos[0]
    look = shown.looks[runs[1].id]
    expected = 100 * np.linalg.norm(look.points - shown.truth, axis=1).mean() / 64
    assert look.nme == pytest.approx(expected, rel=1e-4)


def test_stored_predictions_are_shown_even_where_the_model_file_is_gone(tiny, runs, monkeypatch):
    cast = reporting.cast_of(reporting.of_runs([runs[1].id], tiny.tracking))

    def gone(*_):
        raise UserError("deleted")

    monkeypatch.setattr(reporting.picturing, "resolve_model", gone)
    photos, _ = reporting.picturing.photographs(cast, tiny.tracking, None)
    look = photos.photos[0].looks[runs[1].id]
    assert look.heat is None and look.attention == ()
    assert look.nme == pytest.approx(tiny.control.report.per_image.min())


def test_an_ablations_table_is_shown_with_what_is_missing(tiny, runs):
    store = dataclasses.replace(tiny.tracking, experiment="questions")
    results = [
        Result("control", 0, runs[1].id, tiny.control.report.per_image),
        Result("both", 0, runs[2].id, tiny.distilled.report.per_image),
    ]
    cells = {"control": {}, "both": {}, "never": {}}
    table = tabulate("terms", "Which terms help", cells, "control", [0], {"val": "v", "train": "t"}, results)
    with another_run(tiny, "FINISHED", "questions", job="ablation") as run:
        run.log_dict(table.to_dict(), "table.json")
    found = reporting.of_runs([run.id], store)
    (ablation,) = found.ablations
    expected = metrics.paired_bootstrap(results[1].per_image, results[0].per_image)
    row = ablation.rows[1]
    assert (row.name, row.run_ids, row.effect.mean, row.effect.p) == ("both", (runs[2].id,), expected.mean, expected.p)
    assert ablation.missing == ("never seed 0",)
    assert {run.id for run in found.runs} == {run.id for run in runs}, "the table's best cell, its control, its teacher"


def test_a_run_that_is_not_finished_is_refused(tiny):
    with another_run(tiny, "FAILED", "halves") as run:
        with pytest.raises(UserError, match="RUNNING; expected a FINISHED run"):
            reporting.of_runs([run.id], tiny.tracking)
    with pytest.raises(UserError, match="FAILED; expected a FINISHED run"):
        reporting.of_runs([run.id], tiny.tracking)
    with pytest.raises(UserError, match="1 run, none of them finished"):
        reporting.of_experiment("halves", tiny.tracking)


def test_one_broken_run_does_not_stop_the_report_of_an_experiment(tiny, runs, monkeypatch):
    broken = runs[0].id

    def read(info, store):
        if info.id == broken:
            raise UserError("made by another version")
        return original(info, store)

    original = reporting._light
    monkeypatch.setattr(reporting, "_light", read)
    monkeypatch.setattr(reporting, "_with_teachers", lambda runs, _: list(runs))
    found = reporting.of_experiment(tiny.tracking.experiment, tiny.tracking)
    assert any(remark.startswith("1 run could not be read") for remark in found.remarks)
    assert broken not in {run.id for run in (*found.runs, *found.others)}


def test_runs_of_other_jobs_and_empty_experiments_are_refused(tiny):
    with another_run(tiny, "FINISHED", "measured", job="evaluate") as run:
        pass
    with pytest.raises(UserError, match="job 'evaluate'"):
        reporting.of_runs([run.id], tiny.tracking)
    with pytest.raises(UserError, match="'never made' has no runs"):
        reporting.of_experiment("never made", tiny.tracking)
    with pytest.raises(UserError, match="no finished teacher or student"):
        reporting.of_experiment("measured", tiny.tracking)


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--out .* cannot be written"):
        reporting.report(["no such run"], TrackingConfig(store=str(tmp_path / "store")), tmp_path / "file")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "either runs or --experiment"),
        (["a", "--experiment", "b"], "either runs or --experiment"),
        (["a", "--data", "nowhere"], "'nowhere' is not a folder"),
    ],
)
def test_the_door_refuses_what_makes_no_sense(argv, message):
    with pytest.raises(UserError, match=message):
        report.main(argv)


def test_the_door_tells_where_the_files_are(tiny, runs, tmp_path, capsys, monkeypatch):
    asked = {}

    def fake(refs, store, out, **options):
        asked.update(options, refs=refs, store=store.store, out=out)
        page = Path(shutil.copy(__file__, tmp_path / "report.html"))
        return reporting.Written(page, tmp_path / "report.pdf", 4, "The answer.", ("A chart",), "")

    monkeypatch.setattr(reporting, "report", fake)
    report.main([runs[1].id, "--store", str(tiny.store), "--out", str(tmp_path), "--no-log", "--title", "T"])
    assert asked == {
        "refs": [runs[1].id], "store": str(tiny.store), "out": tmp_path, "experiment": "", "data": None, "title": "T",
        "keep": False,
    }  # fmt: skip
    told = capsys.readouterr().out
    assert "The answer." in told and "4 pages" in told and "A chart" in told
