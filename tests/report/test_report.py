"""What a report says, and that both files say it: from made-up findings, without MLflow."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import reporting as made

from distill import metrics
from distill.config import AugmentConfig, Config, StepConfig, TermConfig, TrainConfig
from distill.errors import UserError
from distill.figures import report as drawing
from distill.report import (
    approach,
    comparing,
    html,
    pdf,
    wording,
)
from distill.report.composing import compose
from distill.report.document import PAGE, Passage, Table
from distill.report.facts import Findings


def composed(**changes):
    return compose(made.findings(**changes), "", "today")


@pytest.fixture(scope="module")
def document():
    return composed()


@pytest.fixture(scope="module")
def page(document) -> str:
    return html.render(document)


@pytest.fixture(scope="module")
def paper(document, tmp_path_factory):
    """(what `write` gave back, the text of each page)"""
    written = pdf.write(document, tmp_path_factory.mktemp("paper") / "report.pdf")
    return written, page_texts(written.path)


def page_texts(path) -> list[str]:
    pdfium = pytest.importorskip("pypdfium2")
    document = pdfium.PdfDocument(path)
    return [" ".join(page.get_textpage().get_text_range().split()) for page in document]


# ---------------------------------------------------------------------------------------------------- the answer


def test_the_statement_has_the_paired_bootstrap_of_student_and_control(document):
    _, control, student = made.trio()
    found = metrics.paired_bootstrap(student.report.per_image, control.report.per_image)
    statement = document.statement.replace("\u00a0", " ").replace("−", "-")
    assert f"{abs(100 * found.relative):.1f} % less error than the same student without a teacher" in statement
    assert f"{student.report.nme:.3f} % NME against {control.report.nme:.3f} %" in statement
    assert f"[{found.low:.3f}, {found.high:.3f}]" in statement
    assert "40 images, one seed each" in statement


def test_a_student_that_is_worse_or_no_different_is_said_to_be():
    worse = compose(Findings((made.run("control", 10.0), made.run("distilled", 12.0))), "", "").statement
    assert "more error than" in worse and "less" not in worse
    equal = compose(Findings((made.run("control", 10.0), made.run("distilled", 10.0))), "", "").statement
    assert equal.startswith("No difference that could not be luck")


def test_errors_are_averaged_over_the_seeds_that_both_have():
    runs = [made.run("control", 12 + s, seed=s) for s in (0, 1, 2)] + [
        made.run("distilled", 11, seed=s) for s in (0, 1)
    ]
    models = comparing.models(runs)
    assert [(m.label, len(m.runs)) for m in models] == [("control", 3), ("distilled", 2)]
    found = comparing.compare(models[1], models[0])
    assert found.seeds == (2, 2)
    expected = np.mean([r.report.nme for r in runs[3:]]) - np.mean([r.report.nme for r in runs[:2]])
    assert found.result.mean == pytest.approx(expected)


def test_the_best_student_meets_the_control_that_is_nearest_and_has_its_seed():
    longer = TrainConfig(epochs=60)
    runs = [
        made.run("control", 9.0, seed=1, config=Config(seed=1, train=longer)),  # better, but another training
        made.run("control", 12.0, seed=0),
        made.run("control", 12.5, seed=1),
        made.run("distilled", 11.0, seed=1),
    ]
    chosen = comparing.choose(runs)
    assert {run.id for run in chosen} == {runs[1].id, runs[2].id, runs[3].id}
    cast = comparing.Cast(tuple(comparing.models(chosen)))
    assert cast.control.lead is runs[2], "shown with the student's seed"


def test_a_control_that_was_trained_otherwise_is_not_called_the_same():
    control = made.run("control", 12.0, config=Config(train=TrainConfig(epochs=60)))
    document = compose(Findings((control, made.run("distilled", 11.0))), "", "")
    assert "the nearest control" in document.statement
    assert any("train.epochs (30 against 60)" in text for text in document.cautions)


def test_runs_on_other_images_are_not_compared():
    elsewhere = made.run("control", 12.0)
    elsewhere = dataclasses.replace(elsewhere, tags={**elsewhere.tags, "data.val": "another"})
    document = compose(Findings((elsewhere, made.run("distilled", 11.0))), "", "")
    assert "cannot be told" in document.statement
    assert any("Not all runs were validated on the same images" in text for text in document.cautions)


@pytest.mark.parametrize("roles", [("control",), ("teacher",), ("averaged",), ("teacher", "control")])
def test_a_report_of_few_runs_is_written_all_the_same(roles, tmp_path):
    runs = tuple(made.run(role, 10.0) for role in roles)
    document = compose(Findings(runs, no_photos="No photographs are here."), "", "")
    assert all(run.id in html.render(document) for run in runs)
    assert pdf.write(document, tmp_path / "report.pdf").pages <= 4


def test_runs_without_an_error_to_report_are_refused_in_a_sentence():
    empty = dataclasses.replace(made.run("control", 10.0), metrics={})
    with pytest.raises(UserError, match="best/val/nme"):
        compose(Findings((empty,)), "", "")


def test_a_run_without_report_histories_or_photographs_still_has_its_row():
    bare = made.run("control", 10.0, report=None, history={}, datasets=())
    page = html.render(compose(Findings((bare,)), "", ""))
    assert bare.id in page and f"{bare.nme:.3f}" in page


# ---------------------------------------------------------------------------------------------------- in words


def test_augmentation_is_told_from_the_config():
    steps = {"noise": StepConfig("GaussNoise", 0.2), "gray": StepConfig("ToGray", 0.15)}
    config = AugmentConfig(
        flip=0.5, rotate=30, rotate_wide=150, rotate_wide_p=0.08, scale=0.25, shift=0.06, photometric=steps
    )
    geometry, colour = (text.replace("\u00a0", " ") for text in approach.augmentation_words(config))
    for words in ("probability 0.5", "±30° (±150° in 8 % of samples)", "0.80 to 1.25", "±6 %"):
        assert words in geometry
    assert "sheared" not in geometry
    assert "GaussNoise (0.2) and ToGray (0.15)" in colour
    assert approach.augmentation_words(AugmentConfig(flip=0, rotate=0, scale=0, shift=0))[0] == "no geometric change"


def test_a_term_is_told_with_method_taps_weight_and_schedule():
    term = TermConfig(loss="fitnet", weight=0.5, schedule="cosine", student="level:2", teacher="level:3")
    words = approach.term_words(term)
    for part in ("FitNets", "level:2 of the student", "level:3 of the teacher", "weight 0.5", "cosine to 0"):
        assert part in words
    assert "a_new_method".replace("_", " ") in approach.term_words(TermConfig(loss="a_new_method"))


def test_hyper_parameters_list_what_differs_and_mark_what_differs_between_models():
    control = made.run("control", 12.0, config=Config(train=TrainConfig(epochs=60, batch_size=8)))
    student = made.run("distilled", 11.0, config=Config(train=TrainConfig(epochs=50, batch_size=8)))
    document = compose(Findings((control, student)), "", "")
    table = next(
        b for _, s in document.parts for x in s for b in x.blocks if getattr(b, "key", "") == "hyper-parameters"
    )
    rows = {row.cells[0]: row for row in table.rows}
    assert rows["train.epochs"].cells[1:] == ("30", "60", "50") and rows["train.epochs"].marked
    assert rows["train.batch_size"].cells[1:] == ("32", "8", "8") and not rows["train.batch_size"].marked
    assert "train.lr" not in rows and "seed" not in rows
    assert "distill.terms.kl" in rows


def test_an_ablation_says_plainly_what_helps(document):
    words = " ".join(
        t for _, s in document.parts for x in s for b in x.blocks if isinstance(b, Passage) for t in b.text
    )
    assert "Better than 'control': variant 3" in words


def test_the_ablation_that_holds_the_student_comes_first():
    others = (made.ablation(2, "A question"), dataclasses.replace(made.ablation(2, "B question"), rows=()))
    about = dataclasses.replace(made.ablation(2, "Z question"), seeds=1)
    rows = (about.rows[0], dataclasses.replace(about.rows[1], run_ids=(made.run_id("distilled", 0),)))
    about = dataclasses.replace(about, rows=rows)
    document = compose(Findings(made.trio(), ablations=(*others, about)), "", "")
    titles = [section.title for _, sections in document.parts for section in sections if "question" in section.title]
    assert titles == ["Ablation: Z question", "Ablation: A question", "Ablation: B question"]


@pytest.mark.parametrize(
    ("words", "told"),
    [([], ""), (["a"], "a"), (["a", "b", "c"], "a, b and c"), (["a, b", "c", "d"], "a, b; c; and d")],
)
def test_lists_are_told_so_that_commas_are_clear(words, told):
    assert wording.listed(words) == told


# ---------------------------------------------------------------------------------------------------- the page


class Reader(HTMLParser):
    """Collects what a page asks for, its ids, and its words."""

    def __init__(self, text: str):
        super().__init__()
        self.wanted, self.ids, self.tags, self.words = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "action"):
                self.wanted.append(value)
            if name == "id":
                self.ids.append(value)

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_is_one_file_that_asks_for_nothing(page):
    wanted = Reader(page).wanted
    assert wanted and all(value.startswith(("#", "data:")) for value in wanted)
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    assert "@import" not in style and "url(" not in style
    assert not re.search(r"(fetch|XMLHttpRequest|import)\s*\(", page)


def test_every_anchor_and_clip_in_the_page_has_its_target_and_no_id_stands_twice(page):
    reader = Reader(page)
    assert len(reader.ids) == len(set(reader.ids))
    targets = {value[1:] for value in reader.wanted if value.startswith("#")} | set(
        re.findall(r"url\(#([^)]+)\)", page)
    )
    assert targets <= set(reader.ids)


def test_the_page_names_all_runs_and_their_errors(page):
    words = " ".join(Reader(page).words)
    for run in made.trio():
        assert run.id in words and f"{run.nme:.3f}" in words
    assert made.ablation().run_id in words and "variant 1 seed 2" in words


def test_a_photograph_is_in_the_page_once_however_many_tiles_show_it(page):
    photographs = re.findall(r"data:image/jpeg;base64,([^\"]+)", page)
    assert photographs and len(photographs) == len(set(photographs))


def test_charts_take_their_colours_from_the_page(page):
    charts = re.findall(r'<div class="drawing".*?</svg>', page, re.DOTALL)
    assert len(charts) >= 8
    assert all("var(--ink)" in chart or "var(--muted)" in chart for chart in charts)
    assert not any("#22272e" in chart for chart in charts)


def test_names_are_text_and_never_markup(tmp_path):
    name = "<script>alert('&')</script>"
    stranger = dataclasses.replace(made.run("distilled", 11.5, seed=4), name=name)
    document = compose(Findings((made.run("control", 12.0),), others=(stranger,)), name, "")
    page = html.render(document)
    assert Reader(page).tags.count("script") == 1, "the page's own"
    assert name in " ".join(Reader(page).words)
    assert name in " ".join(page_texts(pdf.write(document, tmp_path / "report.pdf").path))


def test_columns_sort_by_the_number_in_a_cell():
    assert [html.sort_key(cell) for cell in ("−0.348", "3.2 ± 0.1", "[−0.5, 0.1]", "3,000", "–", "< 0.001")] == [
        "-0.348", "3.2", "-0.5", "3000", "", "0.001",
    ]  # fmt: skip


def test_without_photographs_the_logged_pictures_are_shown_and_the_reason_said():
    runs = (made.run("control", 12.0, pictures={"overlays": b"\x89PNG picture", "worst": b"\x89PNG another"}),)
    page = html.render(compose(Findings(runs, no_photos="The set is on another machine."), "", ""))
    assert "The set is on another machine." in page
    assert page.count("data:image/png") == 2


def test_models_without_heatmaps_have_no_heatmap_section(page):
    assert 'id="heatmaps"' in page and 'id="attention"' in page
    runs = made.trio()
    flat = compose(Findings(runs[-1:], photos=made.photos(runs[-1:], heat=False)), "", "")
    assert 'id="heatmaps"' not in html.render(flat)


def test_another_set_is_named_as_such():
    run = made.run("control", 12.0)
    photos = dataclasses.replace(made.photos((run,)), recorded=False, set_name="rendered_faces")
    assert "From rendered_faces (a set named for this report" in html.render(
        compose(Findings((run,), photos=photos), "", "")
    )


# ---------------------------------------------------------------------------------------------------- the paper


def test_the_paper_is_in_the_challenges_shape_and_names_runs_and_numbers(paper):
    written, texts = paper
    whole = " ".join(texts)
    assert 1 <= len(texts) == written.pages <= 4 and all(len(text) > 100 for text in texts)
    order = [
        whole.index(part)
        for part in ("1 Approach", "Preprocessing", "Architecture", "Hyper-parameters", "2 Experiments")
    ]
    assert order == sorted(order)
    for run in made.trio():
        assert run.id in whole and f"{run.nme:.3f}" in whole
    assert made.ablation().run_id in whole and "variant 3" in whole


def test_pages_have_ink_to_their_edges_but_not_over_them(paper):
    pdfium = pytest.importorskip("pypdfium2")
    for page in pdfium.PdfDocument(paper[0].path):
        grey = page.render(scale=1).to_numpy().mean(axis=2)
        assert grey.min() < 100, "something is printed"
        margins = (grey[:20], grey[-12:], grey[:, :30], grey[:, -30:])
        assert all(margin.min() > 240 for margin in margins)


def test_what_has_no_room_in_four_pages_goes_by_rank_and_is_named(tmp_path):
    document = composed(ablations=tuple(made.ablation(17, f"Question {i}") for i in range(6)), photos=None)
    written = pdf.write(document, tmp_path / "report.pdf")
    texts = page_texts(written.path)
    assert len(texts) == written.pages == 4
    assert written.left_out and "No room here, but in report.html" in texts[-1]
    ranks = {block.title: block.rank for block in pdf.blocks_of(document)}
    assert all(0 < ranks[name] < PAGE for name in written.left_out if name in ranks)
    whole = " ".join(texts)
    for kept in ("Question 0", "Results on the validation set", "What differs from the defaults"):
        assert kept in whole
    assert "more row in report.html" in whole, "a long table is cut, and says so"
    shown = [row.cells[0] for block in pdf.blocks_of(document) if isinstance(block, Table) for row in block.rows]
    assert shown.count("variant 15") == 6, "but the page has all of it"


def test_a_paper_that_cannot_keep_to_its_pages_is_refused(document, tmp_path, monkeypatch):
    monkeypatch.setattr(pdf, "MAX_PAGES", 1)
    with pytest.raises(UserError, match="at most 1"):
        pdf.write(document, tmp_path / "report.pdf")
    assert not list(tmp_path.iterdir())


def test_the_same_document_gives_the_same_files(document, page, paper, tmp_path):
    assert html.render(document) == page
    assert pdf.write(document, tmp_path / "again.pdf").path.read_bytes() == paper[0].path.read_bytes()


# ---------------------------------------------------------------------------------------------------- drawing


def test_heat_lies_where_its_extent_says():
    heat = np.zeros((10, 10))
    heat[2, 7] = 1.0  # its cell is 40 px wide and reaches from x = 280 - 20, y = 80 - 20
    drawn = drawing.over_photo(np.zeros((400, 400, 3), np.uint8), heat, (-20, -20, 380, 380)).sum(axis=2)
    y, x = np.argwhere(drawn == drawn.max()).mean(axis=0)
    assert (x, y) == (pytest.approx(280, abs=2), pytest.approx(80, abs=2))
    assert drawn[300, 100] < drawn.max() / 10


def test_differences_are_filled_only_where_the_interval_leaves_out_zero():
    rows = [drawing.Difference("clear", -0.3, -0.4, -0.2, True), drawing.Difference("unclear", 0.1, -0.1, 0.3, False)]
    axes = drawing.differences(rows).axes[0]
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [dot.get_markerfacecolor() for dot in dots] == [drawing.BETTER, "white"]
    assert [dot.get_xdata()[0] for dot in dots] == [-0.3, 0.1]


def test_a_photograph_is_packed_no_larger_than_asked():
    import cv2

    packed = drawing.to_jpeg(np.zeros((200, 400, 3), np.uint8), side=100)
    assert cv2.imdecode(np.frombuffer(packed, np.uint8), cv2.IMREAD_COLOR).shape == (50, 100, 3)
