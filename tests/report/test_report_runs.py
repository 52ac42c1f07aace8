"""The report of real (tiny) runs: gathered from MLflow alone, equal to what MLflow says, stored with the student."""

from __future__ import annotations

import contextlib
import dataclasses
import html
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from running import refusal

from distill import metrics, tracking
from distill.ablation.table import Result, tabulate
from distill.errors import UserError
from distill.metrics import RunErrors
from distill.report import __main__ as entry
from distill.report import job, pictures
from distill.report.document import Pdf


def words(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<(style|script)>.*?</\1>|<[^>]*>", " ", page, flags=re.DOTALL)).split())


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
    return job.report([runs[1].id, runs[2].id[:10]], tiny.tracking, tmp_path_factory.mktemp("out") / "new" / "folder")


@contextlib.contextmanager
def another_run(tiny, status: str, experiment: str, job_name: str = "student"):
    """A run in `experiment` that is open inside the block and ends with `status`."""
    store = dataclasses.replace(tiny.tracking, experiment=experiment)
    run = tracking.Run.start(
        store,
        job=job_name,
        run_name=f"{experiment}-{job_name}",
        params={},
        config_yaml="name: x\n",
        tags={"distill.role": "control"},
    )
    try:
        yield run
    finally:
        run.finish(status)


def test_both_files_have_the_numbers_of_mlflow(written, runs):
    page, text = words(written.html.read_text(encoding="utf-8")), paper(written.pdf.path)
    for run in runs:
        shown = [
            run.id,
            f"{run.metrics['best/val/nme']:.3f}",
            f"{run.metrics['best/val/median']:.3f}",
            f"{run.metrics['best/val/auc']:.3f}",
            f"{run.metrics['model/file_bytes'] / 1e6:.2f}",
        ]
        for value in shown:
            assert value in page and value in text.replace(" ", "")
        assert run.tags["mlflow.source.git.commit"][:12] in page
    assert runs[2].tags["data.val"] in page and runs[2].tags["data.train"] in page


def test_the_headline_compares_the_logged_errors(written, tiny):
    found = metrics.compare_runs(
        *([tracking.read_errors(tiny.tracking, run.run_id)] for run in (tiny.distilled, tiny.control))
    )
    assert found.chosen is False and str(found) in written.headline


def test_images_are_of_the_validation_set_with_all_three_models(written, runs):
    page = written.html.read_text(encoding="utf-8")
    assert f"From synthetics_val (the validation set; 8 images, fingerprint {runs[2].tags['data.val']})" in words(page)
    for key in ("pictures", "heatmaps", "attention"):
        assert f'<figure class="" id="{key}">' in page


def test_each_side_is_looked_at_at_its_own_taps(tiny, runs):
    found = job.with_pictures(job.of_runs([runs[2].id], tiny.tracking), tiny.tracking, None).pictures
    looks = found.shown[0].looks
    assert {tap for tap, _ in looks[runs[0].id].attention} == {"level:3", "backbone.blocks.2"}
    assert {tap for tap, _ in looks[runs[2].id].attention} == {"level:3", "level:2"}
    assert all(look.heat is not None for look in looks.values())


def test_both_files_are_among_the_artifacts_of_the_students_run(written, tiny, runs):
    assert written.run_id == runs[2].id
    for path in (written.html, written.pdf.path):
        stored = tracking.artifact_path(tiny.tracking, runs[2].id, f"report/{path.name}")
        assert stored.read_bytes() == path.read_bytes()
    assert tiny.info(tiny.distilled).status == "FINISHED"


def test_an_experiment_gives_its_best_student_and_lists_the_rest(tiny, runs):
    store = tiny.tracking
    found = job.of_experiment(store.experiment, store)
    trained = [run for run in tracking.list_runs(store) if run.job in ("teacher", "student")]
    finished = [run for run in trained if run.status == "FINISHED" and "best/val/nme" in run.metrics]
    distilled = [run.metrics["best/val/nme"] for run in finished if run.tags["distill.role"] == "distilled"]
    student = min((run for run in found.runs if run.role == "distilled"), key=lambda run: run.nme)
    assert student.nme == min(distilled)
    assert {run.role for run in found.runs} == {"teacher", "control", "distilled"}
    assert student.teacher_id in {run.id for run in found.runs}
    shown, rest = {run.id for run in found.runs}, {run.id for run in found.others}
    compared = {run_id for ablation in found.ablations for row in ablation.table.rows for run_id in row.runs.values()}
    assert not (shown | compared) & rest and shown | compared | rest >= {run.id for run in finished}


def test_a_set_that_is_not_here_leaves_the_logged_pictures_and_a_reason(tiny, runs):
    moved = tiny.data / "synthetics_val"
    hidden = tiny.data / "elsewhere"
    moved.rename(hidden)
    try:
        found = job.with_pictures(job.of_runs([runs[1].id], tiny.tracking), tiny.tracking, None)
    finally:
        hidden.rename(moved)
    assert found.pictures is None and "synthetics_val" in found.no_pictures
    assert set(found.runs[0].logged) == {"overlays", "worst"}


def test_a_set_that_changed_is_not_taken_for_the_runs_own(tiny, runs):
    folder = tiny.data / "synthetics_val"
    kept = (folder / "010003.jpg").read_bytes()
    (folder / "010003.jpg").write_bytes((folder / "010002.jpg").read_bytes() + b"\0")
    try:
        labelled, reason = pictures.validation_set(job.of_runs([runs[1].id], tiny.tracking).runs[0], tiny.tracking)
    finally:
        (folder / "010003.jpg").write_bytes(kept)
    assert labelled is None and runs[1].tags["data.val"] in reason


def test_another_set_is_predicted_and_named(tiny, runs):
    folder = tiny.data / "synthetics_train"
    found = job.with_pictures(job.of_runs([runs[1].id], tiny.tracking), tiny.tracking, folder).pictures
    assert (found.set_name, found.recorded, found.count) == ("synthetics_train", False, 24)
    shown = found.shown[0]
    look = shown.looks[runs[1].id]
    expected = 100 * np.linalg.norm(look.points - shown.truth, axis=1).mean() / 64
    assert look.nme == pytest.approx(expected, rel=1e-4)


def test_stored_predictions_are_shown_even_where_the_model_file_is_gone(tiny, runs, monkeypatch):
    def gone(*_):
        raise UserError("deleted")

    monkeypatch.setattr(pictures, "resolve_model", gone)
    found = job.with_pictures(job.of_runs([runs[1].id], tiny.tracking), tiny.tracking, None).pictures
    look = found.shown[0].looks[runs[1].id]
    assert look.heat is None and look.attention == ()
    assert look.nme == pytest.approx(tiny.control.report.per_image.min())


def test_an_ablation_is_its_stored_table(tiny, runs):
    store = dataclasses.replace(tiny.tracking, experiment="questions")
    results = [
        Result("control", 0, runs[1].id, RunErrors(tiny.control.report.per_image)),
        Result("both", 0, runs[2].id, RunErrors(tiny.distilled.report.per_image)),
    ]
    cells = {"control": {}, "both": {}, "never": {}}
    table = tabulate("terms", "Which terms help", cells, "control", [0], {"val": "v", "train": "t"}, results)
    with another_run(tiny, "FINISHED", "questions", job_name="ablation") as run:
        run.log_dict(table.to_dict(), "table.json")
    found = job.of_runs([run.id], store)
    (ablation,) = found.ablations
    assert (ablation.run_id, ablation.table) == (run.id, table)
    assert {run.id for run in found.runs} == {run.id for run in runs}, "the table's best cell, its control, its teacher"


def test_a_run_that_is_not_finished_is_refused(tiny):
    with another_run(tiny, "FAILED", "halves") as run:
        assert "RUNNING" in refusal(lambda: job.of_runs([run.id], tiny.tracking))
    assert "FAILED" in refusal(lambda: job.of_runs([run.id], tiny.tracking))
    assert "'halves'" in refusal(lambda: job.of_experiment("halves", tiny.tracking))


def test_one_broken_run_does_not_stop_the_report_of_an_experiment(tiny, runs, monkeypatch):
    broken = runs[0].id

    def read(info, store):
        if info.id == broken:
            raise UserError("made by another version")
        return original(info, store)

    original = job._light
    monkeypatch.setattr(job, "_light", read)
    monkeypatch.setattr(job, "_with_teachers", lambda runs, _: list(runs))
    found = job.of_experiment(tiny.tracking.experiment, tiny.tracking)
    assert len(found.remarks) >= 1
    assert broken not in {run.id for run in (*found.runs, *found.others)}


def test_runs_of_other_jobs_and_empty_experiments_are_refused(tiny):
    with another_run(tiny, "FINISHED", "measured", job_name="evaluate") as run:
        pass
    assert "'evaluate'" in refusal(lambda: job.of_runs([run.id], tiny.tracking))
    assert "'never made'" in refusal(lambda: job.of_experiment("never made", tiny.tracking))
    assert "'measured'" in refusal(lambda: job.of_experiment("measured", tiny.tracking))


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in refusal(
        lambda: entry.main(["no such run", "--store", str(tmp_path / "store"), "--out", str(tmp_path / "file")])
    )
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("argv", "name"),
    [([], "--experiment"), (["a", "--experiment", "b"], "--experiment"), (["a", "--data", "nowhere"], "'nowhere'")],
)
def test_the_entry_point_refuses_what_makes_no_sense(argv, name):
    assert name in refusal(lambda: entry.main(argv))


def test_the_entry_point_prints_where_the_files_are(tmp_path, capsys, monkeypatch):
    asked = {}

    def fake(refs, store, out, **options):
        asked.update(options, refs=refs, store=store.store, out=out)
        page = Path(shutil.copy(__file__, tmp_path / "report.html"))
        return job.Written(page, Pdf(tmp_path / "report.pdf", 4, ("A chart",)), "The answer.", "")

    monkeypatch.setattr(job, "report", fake)
    entry.main(["run", "--store", str(tmp_path / "store"), "--out", str(tmp_path), "--no-log", "--title", "T"])
    assert asked == {
        "refs": ["run"],
        "store": str(tmp_path / "store"),
        "out": tmp_path,
        "experiment": "",
        "data": None,
        "title": "T",
        "keep": False,
    }
    printed = capsys.readouterr().out
    assert "The answer." in printed and "4 pages" in printed and "A chart" in printed
