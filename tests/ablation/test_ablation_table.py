"""The table's numbers, against numpy by hand; the same in every form it is written in."""

from __future__ import annotations

import csv
import io
import json

import cv2
import numpy as np
import pytest

from distill import figures
from distill.ablation import table
from distill.ablation.table import Result, Table
from distill.errors import UserError

IMAGES = 50
DATA = {"train": "aaaa", "val": "bbbb"}


def errors(cell: str, seed: int) -> np.ndarray:
    """(IMAGES,) made up: a common difficulty, and 0.3 less for cell a, a hair for b."""
    rng = np.random.default_rng([seed, *cell.encode()])
    common = np.random.default_rng(7).gamma(4, 0.8, IMAGES)
    return common + {"control": 0.0, "a": -0.3, "b": -0.002}[cell] + 0.1 * rng.normal(size=IMAGES)


def result(cell: str, seed: int, **more) -> Result:
    return Result(cell, seed, f"{cell}{seed}".ljust(32, "0"), errors(cell, seed), **more)


def tabulate(*results: Result, cells=("control", "a", "b"), seeds=(0, 1, 2), **more) -> Table:
    return table.tabulate("name", "Title", dict.fromkeys(cells, {}), "control", seeds, DATA, results, **more)


@pytest.fixture(scope="module")
def full() -> Table:
    return tabulate(*(result(cell, seed, minutes=seed + 1.0) for cell in ("control", "a", "b") for seed in range(3)))


def test_mean_and_spread_are_over_seeds(full):
    for row in full.rows:
        by_seed = [errors(row.cell, seed).mean() for seed in range(3)]
        assert list(row.nme.values()) == pytest.approx(by_seed)
        assert row.mean == pytest.approx(np.mean(by_seed)) and row.spread == pytest.approx(np.std(by_seed, ddof=1))
        assert row.minutes == 2.0


def test_the_difference_is_that_of_seed_averaged_images(full):
    control = np.mean([errors("control", seed) for seed in range(3)], axis=0)
    for row in full.rows[1:]:
        own = np.mean([errors(row.cell, seed) for seed in range(3)], axis=0)
        d = row.difference
        assert d.mean == pytest.approx((own - control).mean()) and d.relative == pytest.approx(d.mean / control.mean())
        rng = np.random.default_rng(1)  # another generator: the same to the resampling's own accuracy
        means = [(own - control)[rng.integers(0, IMAGES, IMAGES)].mean() for _ in range(4000)]
        assert (d.low, d.high) == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.002)
        assert d.by_seed == pytest.approx(
            {s: errors(row.cell, s).mean() - errors("control", s).mean() for s in range(3)}
        )
    assert full.rows[0].difference is None


def test_clear_is_what_images_and_seeds_agree_on(full):
    _, a, b = (row.difference for row in full.rows)
    assert a.clear and a.better == 3 and a.p < 0.001 and a.high < 0
    assert not b.clear
    split = table.Difference(-0.1, -0.2, -0.05, 0.001, -0.03, {0: -0.3, 1: 0.1})
    assert not split.clear and split.better == 1


def test_only_seeds_that_both_have_are_compared():
    made = tabulate(result("control", 0), result("control", 1), result("a", 1), result("a", 2))
    row = made.rows[1]
    assert list(row.difference.by_seed) == [1]
    assert row.difference.mean == pytest.approx((errors("a", 1) - errors("control", 1)).mean())
    assert row.mean == pytest.approx((errors("a", 1).mean() + errors("a", 2).mean()) / 2)
    assert made.missing == [("a", 0), ("b", 0), ("b", 1), ("control", 2), ("b", 2)]


def test_nothing_in_common_is_no_difference():
    made = tabulate(result("control", 0), result("a", 1))
    assert made.rows[1].difference is None and made.rows[2].nme == {}
    assert "Missing, 7 of 9: a s0, b s0, control s1, b s1" in table.to_text(made)
    assert "nan" not in table.to_text(made) + table.to_markdown(made) + table.to_csv(made)


def test_an_empty_table_can_be_written():
    made = tabulate()
    assert made.images == 0 and len(made.missing) == 9
    assert table.to_text(made) and table.to_markdown(made) and table.to_csv(made) and table.pictures(made) == {}


def test_few_seeds_make_no_standard_deviation():
    two = tabulate(result("control", 0), result("control", 1)).rows[0]
    low, high = sorted(two.nme.values())
    assert two.spread is None and table.nme_words(two) == f"{two.mean:.3f} ({low:.3f} to {high:.3f})"
    one = tabulate(result("control", 0)).rows[0]
    assert table.nme_words(one) == f"{one.mean:.3f}"


def test_other_images_are_refused():
    short = Result("a", 0, "x", errors("a", 0)[:-1])
    with pytest.raises(UserError, match="50 images for control, seed 0 and 49 for a, seed 0; expected one set"):
        tabulate(result("control", 0), short)


def test_costs_are_the_size_and_the_fastest_latency():
    row = tabulate(*(result("a", s, megabytes=9.3, latency_ms=7.0 - s, agreement=1.0 + s) for s in (0, 1))).rows[1]
    assert (row.megabytes, row.latency_ms, row.agreement) == (9.3, 6.0, 1.5)


def test_json_brings_the_whole_table_back(full):
    again = Table.from_dict(json.loads(json.dumps(full.to_dict())))
    assert again == full
    assert list(table.pictures(again)) == ["ablation.png"]


def test_markdown_and_csv_have_the_table_s_numbers(full):
    text = table.to_markdown(full)
    a = full.rows[1]
    (line,) = [line for line in text.splitlines() if line.startswith("| a |")]
    assert f"**{a.difference.mean:+.3f}**" in line and f"{a.mean:.3f} ± {a.spread:.3f}" in line and "3 of 3" in line
    assert f"[{a.difference.low:+.3f}, {a.difference.high:+.3f}]" in line and "`a0000000` `a1000000` `a2000000`" in line
    assert {line.count("|") for line in text.splitlines() if line.startswith("|")} == {len(table.HEAD) + 1}
    rows = list(csv.DictReader(io.StringIO(table.to_csv(full))))
    assert [row["cell"] for row in rows] == ["control", "a", "b"]
    assert float(rows[1]["difference_mean"]) == a.difference.mean and float(rows[1]["nme_sd"]) == a.spread
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
    assert dots == [list(d.by_seed.values()) for d in differences]
    assert cv2.imread(str(figures.to_png(figure, tmp_path / "a.png"))).std() > 5


def test_the_front_is_what_nothing_beats_in_both():
    cost, error = [1, 2, 3, 4, 2], [5, 4, 4.5, 3, 4.2]
    assert figures.ablation.front(cost, error) == [0, 1, 3]


def test_pareto_and_grid_pictures_come_where_they_are_asked_for():
    points = {"control": {}, "a": {"x.w": 1, "y.t": 0.5}, "b": {"x.w": 2, "y.t": 0.5}}
    results = [result(cell, 0, megabytes=9.0 + i, latency_ms=5.0 + i) for i, cell in enumerate(points)]
    made = table.tabulate("n", "T", points, "control", [0], DATA, results, ("x.w", "y.t"), True)
    pictures = table.pictures(made)
    assert list(pictures) == ["ablation.png", "pareto.png", "grid.png"]
    labels = {text.get_text() for axes in pictures["pareto.png"].axes for text in axes.texts}
    assert labels == {"control", "a", "b"}
    said = [text.get_text() for text in pictures["grid.png"].axes[0].texts]
    assert said == [f"{made.rows[1].mean:.3f}", f"{made.rows[2].mean:.3f}"]
    words = table.tabulate(
        "n", "T", {**points, "b": {"x.w": "two", "y.t": 0.5}}, "control", [0], DATA, results, ("x.w", "y.t")
    )
    assert list(table.pictures(words)) == ["ablation.png"]  # a grid of words is no map
