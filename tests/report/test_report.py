"""The report's choices, words and files, from made-up findings, without MLflow."""

from __future__ import annotations

import dataclasses
import html
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import reporting as made
from running import refusal

from distill import figures, metrics
from distill.config import AugmentConfig, Config, StepConfig, TrainConfig
from distill.errors import UserError
from distill.landmarks import IBUG68
from distill.report import compare, document, job
from distill.report.facts import Findings


@pytest.fixture(scope="module")
def whole():
    """The report of a teacher, a control and a student, with all figures."""
    return made.document()


@pytest.fixture(scope="module")
def page(whole) -> str:
    return whole.html()


def words(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<(style|script)>.*?</\1>|<[^>]*>", " ", page, flags=re.DOTALL)).split())


def in_words(*runs, **changes) -> tuple[document.Document, str]:
    """A document without figures, and its page."""
    report = made.document(*runs, **changes)
    report.__dict__["figures"] = {}
    return report, words(report.html())


# ---------------------------------------------------------------------------------------------------- comparing


@pytest.mark.parametrize(
    ("seeds", "distilled", "claims"), [(5, 10.6, "less"), (5, 14, "more"), (5, 12, ""), (1, 10.6, "")]
)
def test_the_headline_claims_a_gain_only_where_the_recipes_clearly_differ(seeds, distilled, claims):
    report, page = in_words(*made.trio(seeds, distilled))
    result = report.cast.headline.result
    errors = {
        role: [run.errors for run in report.findings.runs if run.role == role] for role in ("distilled", "control")
    }
    assert result == metrics.compare_runs(errors["distilled"], errors["control"], range(seeds), range(seeds))
    assert (result.of_recipes, result.clear) == (seeds > 1, bool(claims))
    assert str(result) in report.headline and report.headline in page
    claim = re.match(r"([\d.]+) % (less|more)", report.headline)
    assert (claim[2] if claim else "") == claims
    if claim:
        assert float(claim[1]) == round(abs(100 * result.relative), 1)


def test_only_what_is_clear_stands_in_bold():
    for found in (
        made.document(*made.trio(5, 10.6)),
        made.document(*made.trio(1, 10.6)),
        made.document(ablations=(made.ablation(5),)),
    ):
        found.__dict__["figures"] = {}
        clear = [versus.result.clear for versus in found.cast.comparisons]
        clear += [found.cast.headline.result.clear]  # the student's own row
        rows = [row for ablation in found.findings.ablations for row in ablation.table.rows]
        clear += [row.difference.clear for row in rows if row.difference]
        assert found.html().count('class="strong"') == sum(clear)


def test_only_what_is_clear_has_a_colour_in_the_report_s_differences(monkeypatch):
    found = made.document(ablations=(made.ablation(5),))
    drawn = []
    monkeypatch.setattr(figures, "forest", lambda effects, *_, **__: drawn.extend(effects))
    list(document._figures(found.findings, found.cast))
    rows = [row for ablation in found.findings.ablations for row in ablation.table.rows if row.difference]
    assert drawn and [effect.clear for effect in drawn] == [row.difference.clear for row in rows]


def test_the_best_student_meets_the_control_that_is_nearest_and_has_its_seed():
    longer = TrainConfig(epochs=60)
    runs = [
        made.run("control", 9.0, seed=1, config=Config(seed=1, train=longer)),  # better, but another training
        made.run("control", 12.0, seed=0),
        made.run("control", 12.5, seed=1),
        made.run("distilled", 11.0, seed=1),
    ]
    chosen = compare.choose(runs)
    assert {run.id for run in chosen} == {runs[1].id, runs[2].id, runs[3].id}
    cast = compare.Cast(tuple(compare.models(chosen)))
    assert cast.control.lead is runs[2], "shown with the student's seed"


def test_a_control_that_was_trained_otherwise_is_named_with_the_difference():
    control = made.run("control", 12.0, config=Config(train=TrainConfig(epochs=60)))
    report, page = in_words(control, made.run("distilled", 11.0))
    assert report.cast.headline.differing == ("train.epochs (30 against 60)",)
    assert "train.epochs (30 against 60)" in page


def test_runs_on_other_images_are_not_compared():
    elsewhere = made.run("control", 12.0)
    elsewhere = dataclasses.replace(elsewhere, tags={**elsewhere.tags, "data.val": "another"})
    report, page = in_words(elsewhere, made.run("distilled", 11.0))
    assert report.cast.comparisons == [] and elsewhere.id in page


def test_the_ablation_that_holds_the_student_comes_first():
    about = made.ablation(2, "Z")
    about.table.rows[1].runs[0] = made.run_id("distilled", 0)
    found = [made.ablation(2, "B"), made.ablation(2, "A"), about]
    order = document.numbered(found, (made.run_id("distilled", 0),))
    assert [(key, ablation.table.title) for key, ablation in order.items()] == [
        ("ablation-1", "Z"),
        ("ablation-2", "A"),
        ("ablation-3", "B"),
    ]


# ---------------------------------------------------------------------------------------------------- the page


@pytest.mark.parametrize("roles", [("control",), ("teacher",), ("averaged",), ("teacher", "control")])
def test_a_report_of_few_runs_is_written_all_the_same(roles):
    runs = tuple(made.run(role, 10.0) for role in roles)
    _, page = in_words(*runs, no_pictures="No images are here.")
    assert all(run.id in page and f"{run.nme:.3f}" in page for run in runs) and "No images are here." in page


def test_runs_without_an_error_to_report_are_refused():
    assert "best/val/nme" in refusal(
        lambda: job.cast_of(Findings((dataclasses.replace(made.run("control", 10.0), metrics={}),)))
    )


def test_a_run_without_report_histories_or_sizes_still_has_its_row():
    bare = made.run("control", 10.0, report=None, history={}, datasets=())
    bare = dataclasses.replace(bare, metrics={"best/val/nme": bare.nme})
    assert bare.id in made.document(bare).html(), "with all figures that can be drawn"


def test_the_page_names_all_runs_and_their_errors(page):
    text = words(page)
    for run in made.trio():
        assert run.id in text and f"{run.nme:.3f}" in text
    assert made.ablation().run_id in text and "variant 1 seed 2" in text


def test_equal_networks_have_one_latency():
    """Seeds of one network were measured at 6.5, 7.5 and 8.5 ms."""
    _, page = in_words(*made.trio(3))
    assert " 7.5 " not in page and " 8.5 " not in page and page.count(" 6.5 ") >= 7


def test_regions_stand_in_the_order_of_the_landmark_set(page):
    own = {"by_region": {name: 1.0 for name in sorted(IBUG68.regions)}, "nme": 1.0}
    _, text = in_words(made.run("teacher", 10.0), made.run("distilled", 11.0, agreement=own))
    table = text[text.index("Agreement of student and teacher") :]
    assert sorted(IBUG68.regions, key=table.index) == list(IBUG68.regions)
    chart = page[page.index('id="pose"') :]
    assert sorted(IBUG68.regions, key=lambda name: chart.index(f">{name}<")) == list(IBUG68.regions)


def test_shifts_towards_the_middle_stand_by_confidence():
    runs = made.trio()
    report, _ = in_words(*runs)
    table = report.html().partition('<table id="confidence">')[2].partition("</tbody>")[0].partition("<tbody>")[2]
    rows = [words(row).split() for row in table.split("</tr>")[:-1]]
    expected = [
        [run.role, *name.split("_"), str(cell["count"])]
        + [document.number(cell["error"], 2), document.number(cell["inwards"], 2, True)]
        + [document.number(cell["inwards_se"], 2)]
        for run in runs
        for name, cell in run.report.by_confidence.items()
        if cell
    ]
    assert rows == expected and len(rows) > 6
    older = [dataclasses.replace(run, report=dataclasses.replace(run.report, by_confidence={})) for run in runs]
    assert 'id="confidence"' not in in_words(*older)[0].html(), "reports stored before there was such a table"


def test_hyper_parameters_list_what_differs_and_mark_what_differs_between_models():
    control = made.run("control", 12.0, config=Config(train=TrainConfig(epochs=60, batch_size=8)))
    student = made.run("distilled", 11.0, config=Config(train=TrainConfig(epochs=50, batch_size=8)))
    cast = compare.Cast(tuple(compare.models((control, student))))
    rows = {line.name: (default, line.cells, line.differ) for default, line in document._hyperparameters(cast)}
    assert rows["train.epochs"] == ("30", ["60", "50"], True)
    assert rows["train.batch_size"] == ("32", ["8", "8"], False)
    assert "train.lr" not in rows and "seed" not in rows and "distill.terms.kl" in rows


def test_augmentation_and_terms_are_described_from_the_config():
    steps = {"noise": StepConfig("GaussNoise", 0.2), "gray": StepConfig("ToGray", 0.15)}
    augment = AugmentConfig(rotate=30, rotate_wide=150, rotate_wide_p=0.08, shear=0, photometric=steps)
    config = Config(augment=augment)
    _, page = in_words(made.run("distilled", 11.0, config=config))
    for part in ("±30° (±150° in 8 % of samples)", "GaussNoise (0.2) and ToGray (0.15)", "kl: 2 × "):
        assert part in page
    assert "sheared" not in page


@pytest.mark.parametrize(
    ("items", "text"), [([], ""), (["a"], "a"), (["a", "b", "c"], "a, b and c"), (["a, b", "c", "d"], "a, b; c; and d")]
)
def test_lists_keep_commas_clear(items, text):
    assert document.listed(items) == text


class Reader(HTMLParser):
    """Collects what a page refers to, its ids, and its tags."""

    def __init__(self, text: str):
        super().__init__()
        self.wanted, self.ids, self.tags = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "action"):
                self.wanted.append(value)
            if name == "id":
                self.ids.append(value)


def test_the_page_is_one_file_whose_references_lead_into_itself(page):
    reader = Reader(page)
    assert all(value.startswith(("#", "data:")) for value in reader.wanted)
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    assert "@import" not in style and "url(" not in style
    assert not re.search(r"(fetch|XMLHttpRequest|import)\s*\(", page)
    assert len(reader.ids) == len(set(reader.ids))
    targets = {value[1:] for value in reader.wanted if value.startswith("#")} | set(
        re.findall(r"url\(#([^)]+)\)", page)
    )
    assert targets <= set(reader.ids)


def test_charts_take_their_colours_from_the_page(page):
    charts = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(charts) >= 8
    assert all("var(--ink)" in chart or "var(--muted)" in chart for chart in charts)
    assert not any("#22272e" in chart for chart in charts)


def test_names_are_text_and_never_markup():
    name = "<script>alert('&')</script>"
    stranger = dataclasses.replace(made.run("distilled", 11.5, seed=4), name=name)
    report = made.document(made.run("control", 12.0), title=name, others=(stranger,))
    report.__dict__["figures"] = {}
    page = report.html()
    assert Reader(page).tags.count("script") == 1, "the page's own"
    assert page.count("&lt;script&gt;") >= 3


def test_without_images_the_logged_pictures_are_shown_with_the_reason():
    logged = {"overlays": b"\x89PNG picture", "worst": b"\x89PNG another"}
    report = made.document(made.run("control", 12.0, logged=logged), no_pictures="The set is on another machine.")
    report.__dict__["figures"] = {}
    assert "The set is on another machine." in report.html() and report.html().count("data:image/png") == 2


def test_models_without_heatmaps_have_no_heatmap_section(page):
    assert 'id="heatmaps"' in page and 'id="attention"' in page
    runs = made.trio()[-1:]
    cast = made.document(*runs).cast
    assert [key for key, _ in document._pictures(made.pictures(runs, heat=False), cast)] == ["pictures", "attention"]


# ---------------------------------------------------------------------------------------------------- the PDF


def page_texts(path) -> list[str]:
    pdfium = pytest.importorskip("pypdfium2")
    return [" ".join(page.get_textpage().get_text_range().split()) for page in pdfium.PdfDocument(path)]


@pytest.fixture(scope="module")
def paper(whole, tmp_path_factory):
    """(what `write_pdf` gave back, the text of each page)"""
    pytest.importorskip("plutoprint")
    written = whole.write_pdf(tmp_path_factory.mktemp("paper") / "report.pdf")
    return written, page_texts(written.path)


def test_the_pdf_is_in_the_challenges_shape_and_names_runs_and_numbers(paper):
    written, texts = paper
    whole = " ".join(texts)
    assert 1 <= len(texts) == written.pages <= 4 and all(len(text) > 100 for text in texts)
    order = [
        whole.index(part) for part in ("Approach", "preprocessing", "Architecture", "Hyper-parameters", "Experiments")
    ]
    assert order == sorted(order)
    for run in made.trio():
        assert run.id in whole.replace(" ", "") and f"{run.nme:.3f}" in whole
    assert "variant 3" in whole


def test_pages_are_printed_within_their_margins_and_the_last_is_not_almost_empty(paper):
    pdfium = pytest.importorskip("pypdfium2")
    for page in pdfium.PdfDocument(paper[0].path):
        grey = page.render(scale=1).to_numpy().mean(axis=2)
        for margin in (grey[:20], grey[-12:], grey[:, :30], grey[:, -30:]):
            assert margin.min() > 240
    inked = np.flatnonzero((grey[: int(0.94 * len(grey))] < 200).any(axis=1))
    assert inked.max() > document.SHORTEST * len(grey)


def test_what_has_no_room_in_four_pages_is_left_out_and_named(tmp_path):
    pytest.importorskip("plutoprint")
    report = made.document(ablations=tuple(made.ablation(17, f"Question {i}") for i in range(12)), pictures=None)
    report.__dict__["figures"] = {}
    written = report.write_pdf(tmp_path / "report.pdf")
    text = " ".join(page_texts(written.path))
    assert written.pages == 4 and written.left_out
    assert "Question 0" in text and all(title in text for title in written.left_out)
    assert "variant 16</td>" not in report.html(True), "a long table is cut"
    assert report.html().count("variant 16</td>") == 12, "but the page has all of it"


def test_a_pdf_that_cannot_keep_to_its_pages_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("plutoprint")
    monkeypatch.setattr(document, "MAX_PAGES", 0)
    with pytest.raises(UserError, match="pages"):
        in_words(made.run("control", 12.0))[0].write_pdf(tmp_path / "report.pdf")
    assert not list(tmp_path.iterdir())


def test_a_platform_without_plutoprint_gets_no_pdf(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "plutoprint", None)
    assert made.document(made.run("control", 12.0)).write_pdf(tmp_path / "report.pdf") is None


def test_nothing_outside_the_page_is_fetched_for_the_pdf(tmp_path):
    pytest.importorskip("plutoprint")
    (tmp_path / "outside.css").write_text("body { display: none; }")
    link = f'<link rel="stylesheet" href="{(tmp_path / "outside.css").as_uri()}">'
    report, _ = in_words(made.run("control", 12.0))
    plain = report.html(True)
    report.__dict__["html"] = lambda *_: plain.replace("</head>", f"{link}</head>")
    with_link = report._book((), 1.0)
    with_link.write_to_pdf(str(tmp_path / "report.pdf"))
    assert "Approach" in page_texts(tmp_path / "report.pdf")[0]
