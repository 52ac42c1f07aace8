"""The table's numbers, against numpy by hand; the same in every form it is written in."""

from __future__ import annotations

import csv
import dataclasses
import io
import json

import cv2
import numpy as np
import pytest
from running import refusal

from distill import figures, metrics
from distill.ablation import table
from distill.ablation.table import Result, Table
from distill.figures import style
from distill.metrics import RunErrors

IMAGES = 50
DATA = {"train": "aaaa", "val": "bbbb"}


def errors(cell: str, seed: int) -> np.ndarray:
    """(IMAGES,) made up: a common difficulty, and 0.3 less for cell a, a hair for b."""
    rng = np.random.default_rng([seed, *cell.encode()])
    common = np.random.default_rng(7).gamma(4, 0.8, IMAGES)
    return common + {"control": 0.0, "a": -0.3, "b": -0.002}[cell] + 0.1 * rng.normal(size=IMAGES)


def result(cell: str, seed: int, **more) -> Result:
    return Result(
        cell, seed, f"{cell}{seed}".ljust(32, "0"), RunErrors(errors(cell, seed) - 0.1, errors(cell, seed)), **more
    )


def tabulate(*results: Result, cells=("control", "a", "b"), seeds=(0, 1, 2), **more) -> Table:
    return table.tabulate("name", "Title", cells, "control", seeds, DATA, results, **more)


@pytest.fixture(scope="module")
def full() -> Table:
    return tabulate(*(result(cell, seed, minutes=seed + 1.0) for cell in ("control", "a", "b") for seed in range(3)))


def test_mean_and_spread_are_over_seeds(full):
    for row in full.rows:
        last = np.array([errors(row.cell, seed).mean() for seed in range(3)])
        assert list(row.nme.values()) == pytest.approx(last - 0.1) and list(row.last.values()) == pytest.approx(last)
        assert row.mean == pytest.approx(np.mean(last) - 0.1)
        assert row.minutes == 2.0


def stacked(cell: str) -> np.ndarray:
    return np.stack([errors(cell, seed) for seed in range(3)])


def test_the_difference_is_that_of_metrics_compare_corrected_for_the_rows(full):
    _, *rows = full.rows
    plain = [metrics.compare(stacked(row.cell), stacked("control"), range(3), range(3)) for row in rows]
    plain = [dataclasses.replace(found, chosen=False) for found in plain]
    assert [row.difference for row in rows] == metrics.holm_corrected(plain)
    assert full.rows[0].difference is None


def test_only_what_recipes_differ_in_is_clear(full):
    _, a, b = (row.difference for row in full.rows)
    assert a.clear and a.better == 3 and a.high < 0 and not b.clear
    one_seed = tabulate(result("control", 0), result("a", 0)).rows[1].difference
    assert one_seed.p < 0.001 and one_seed.p_holm is None and not one_seed.clear


def test_only_what_is_clear_is_bold_and_coloured(full):
    bold = [line for line in table.to_markdown(full).splitlines() if "**" in line]
    assert len(bold) == 1 and bold[0].startswith("| a |")
    axes = table.pictures(full)["ablation.png"].axes[0]
    colours = [line.get_color() for line in axes.lines if line.get_marker() == "s"]
    assert colours == [style.BETTER, style.UNSURE]


def test_all_seeds_are_compared_and_pairs_are_those_that_both_have():
    made = tabulate(result("control", 0), result("control", 1), result("a", 1), result("a", 2))
    difference = made.rows[1].difference
    assert (difference.seeds_a, difference.seeds_b, len(difference.differences)) == (2, 2, 1)
    assert difference.mean == pytest.approx(made.rows[1].mean - made.rows[0].mean)
    assert made.missing == [("a", 0), ("b", 0), ("b", 1), ("control", 2), ("b", 2)]


def test_nothing_to_compare_is_no_difference():
    made = tabulate(result("control", 0), result("control", 1))
    assert made.rows[1].difference is None and made.rows[2].nme == {}
    assert "nan" not in table.to_text(made) + table.to_markdown(made) + table.to_csv(made)


def test_a_run_without_its_last_epoch_brings_its_row_to_chosen_epochs_and_the_table_names_it():
    old = Result("a", 0, "x", RunErrors(errors("a", 0)))
    made = tabulate(result("control", 0), old, result("b", 0))
    assert [row.difference and row.difference.chosen for row in made.rows] == [None, True, False]
    assert table.notes(made)[1].endswith(": a.") and made.rows[1].last == {}


def test_an_empty_table_can_be_written():
    made = tabulate()
    assert made.images == 0 and len(made.missing) == 9
    assert table.to_text(made) and table.to_markdown(made) and table.to_csv(made) and table.pictures(made) == {}


def test_other_images_are_refused():
    short = Result("a", 0, "x", RunErrors(errors("a", 0)[:-1]))
    assert "49 for a, seed 0" in refusal(lambda: tabulate(result("control", 0), short))


def test_costs_are_the_size_and_the_fastest_latency():
    row = tabulate(*(result("a", s, megabytes=9.3, latency_ms=7.0 - s, agreement=1.0 + s) for s in (0, 1))).rows[1]
    assert (row.megabytes, row.latency_ms, row.agreement) == (9.3, 6.0, 1.5)


def test_json_brings_the_whole_table_back(full):
    again = Table.from_dict(json.loads(json.dumps(full.to_dict())))
    assert again == full
    with pytest.raises(ValueError, match="of_recipes"):  # a table from before recipes were compared
        stored = full.to_dict()
        del stored["rows"][1]["difference"]["of_recipes"]
        Table.from_dict(stored)
    assert list(table.pictures(again)) == ["ablation.png"]


def test_markdown_and_csv_have_the_table_s_numbers(full):
    text = table.to_markdown(full)
    a = full.rows[1]
    (line,) = [line for line in text.splitlines() if line.startswith("| a |")]
    assert f"**{a.difference.mean:+.3f}**" in line and metrics.format_mean(a.nme.values()) in line and "3 of 3" in line
    assert f"[{a.difference.low:+.3f}, {a.difference.high:+.3f}]" in line and "`a0000000` `a1000000` `a2000000`" in line
    assert {line.count("|") for line in text.splitlines() if line.startswith("|")} == {len(table.lines(full)[0]) + 1}
    rows = list(csv.DictReader(io.StringIO(table.to_csv(full))))
    assert [row["cell"] for row in rows] == ["control", "a", "b"]
    assert (
        float(rows[1]["difference_mean"]) == a.difference.mean
        and float(rows[1]["difference_p_holm"]) == a.difference.p_holm
    )
    assert rows[1]["run_ids"].split() == list(a.runs.values()) and rows[0]["difference_mean"] == ""


# ---------------------------------------------------------------------------------------------------- pictures


def test_the_forest_shows_every_difference_at_its_place(full, tmp_path):
    figure = table.pictures(full)["ablation.png"]
    (axes,) = figure.axes
    squares = [line.get_xdata()[0] for line in axes.get_lines() if line.get_marker() == "s"]
    bars = [tuple(line.get_xdata()) for line in axes.get_lines() if line.get_linewidth() == 2.4]
    dots = [list(line.get_xdata()) for line in axes.get_lines() if line.get_marker() == "o"]
    differences = [row.difference for row in full.rows[1:]]
    assert squares == [d.mean for d in differences] and bars == [(d.low, d.high) for d in differences]
    assert dots == [list(d.differences) for d in differences]
    assert cv2.imread(str(figures.to_png(figure, tmp_path / "a.png"))).std() > 5


def test_the_front_is_what_nothing_beats_in_both():
    cost, error = [1, 2, 3, 4, 2], [5, 4, 4.5, 3, 4.2]
    assert figures.compare.front(cost, error) == [0, 1, 3]


def test_the_pareto_picture_is_drawn_where_requested():
    results = [result(cell, 0, megabytes=9.0, latency_ms=5.0) for cell in ("control", "a", "b")]
    for pareto in (True, False):
        pictures = table.pictures(tabulate(*results, pareto=pareto))
        assert list(pictures) == ["ablation.png", "pareto.png"][: 1 + pareto]


def test_equal_networks_have_one_latency():
    measured = {run: {"model/latency_ms": float(run[1]), "model/mmacs": run[0] == "a"} for run in ("a1", "b2", "a3")}
    assert table.latencies(measured) == {"a1": 1, "b2": 2, "a3": 1}
