"""Recipes are compared with seeds and images both drawn at random: by hand, and by simulation of what happens by luck.

`python -m pytest tests/test_compare.py -m slow -s` prints the table of docs/results.md.
"""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest
from scipy import stats

from distill import metrics
from distill.errors import UserError

# ---------------------------------------------------------------------------------------------------- by hand

A, B = np.array([[1.0, 3.0], [5.0, 8.0]]), np.array([[5.0, 5.0], [7.0, 7.0]])


def test_a_small_case_by_hand():
    found = metrics.compare(A, B)
    # seeds: var(2, 6.5) / 2 + var(5, 7) / 2; images: var(3 - 6, 5.5 - 6) / 2; residual of a: 4 * 0.25**2 / 1 / 4, of
    # b: 0
    variance = 5.0625 + 1 + 1.5625 - 0.0625
    df = variance**2 / (5.0625**2 + 1**2 + 1.5625**2 + 0.0625**2)
    half = stats.t.ppf(0.975, df) * 2.75
    assert variance == 2.75**2 and df < 2
    assert found.mean == pytest.approx(-1.75)
    assert (found.low, found.high) == pytest.approx((-1.75 - half, -1.75 + half))
    assert found.p == pytest.approx(2 * stats.t.sf(1.75 / 2.75, df))
    assert found.relative == pytest.approx(4.25 / 6 - 1)
    for bound in (found.relative_low, found.relative_high):  # a - ratio * b is just as far from 0 as luck may bring it
        ratio = 1 + bound
        assert abs(4.25 - ratio * 6) == pytest.approx(stats.t.ppf(0.975, df) * (6.5625 + ratio**2) ** 0.5)
    assert (found.of_recipes, found.images, found.seeds_a, found.seeds_b) == (True, 2, 2, 2)
    assert (found.differences, found.better) == ((-3.0, -0.5), 2)


def test_never_less_variance_than_seeds_or_images_alone_and_no_more_degrees_of_freedom_than_seeds():
    level = np.array([1.0, 2.0, 3.0, 4.0, 9.0])
    alike = level + np.array([[1, -1, 0, 0, 0], [-1, 1, 0, 0, 0]])  # seeds of equal mean: no spread, all residual
    found = metrics.compare(alike, np.stack([level**2 / 4, level**2 / 4]))
    images = (level - level**2 / 4).var(ddof=1) / 5
    assert found.high - found.low == pytest.approx(2 * stats.t.ppf(0.975, 2) * images**0.5)


@pytest.mark.parametrize("seeds", [(1, 1), (1, 3), (3, 3), (2, 5)])
def test_exchange_turns_the_sign_and_nothing_else(seeds):
    a, b = simulate(*seeds, (0.14, 0.05), effect=-0.05, seed=3)
    one, other = metrics.compare(a, b), metrics.compare(b, a)
    assert (one.mean, one.low, one.high, one.p) == pytest.approx((-other.mean, -other.high, -other.low, other.p))
    assert one.of_recipes == other.of_recipes
    assert 1 / (1 + other.relative_high) - 1 == pytest.approx(one.relative_low, abs=2e-3)


@pytest.mark.parametrize("seeds", [(1, 1), (1, 3), (3, 3), (5, 5)])
def test_p_and_both_intervals_agree(seeds):
    said = set()
    for trial in range(6 if 1 in seeds else 60):
        found = metrics.compare(*simulate(*seeds, (0.14, 0.06), effect=-0.05 * (trial % 3), seed=trial))
        significant = found.p < metrics.ALPHA
        assert significant == (not found.low <= 0 <= found.high)
        assert significant == (not found.relative_low <= 0 <= found.relative_high)
        assert found.low < found.mean < found.high
        assert found.relative_low < found.relative < found.relative_high
        said.add(significant)
    assert said == {True, False}


def test_one_seed_is_no_evidence_about_a_recipe():
    a, b = simulate(1, 3, (0.1, 0.1), effect=-0.5, seed=1)
    found, flat = metrics.compare(a, b), metrics.compare(a[0], b)
    assert found == flat
    assert not found.of_recipes and not found.clear and found.p < 0.001
    assert "these models" in str(found) and "no evidence about a recipe" in str(found)
    difference = a[0] - b.mean(axis=0)
    assert (found.mean, found.low, found.high) == pytest.approx((difference.mean(), *metrics.mean_interval(difference)))


def test_rows_pair_by_seed_where_both_have_it():
    a, b = np.array([[1.0, 2.0], [3.0, 5.0], [4.0, 4.5]]), np.array([[2.0, 4.0], [1.0, 1.5]])
    assert metrics.compare(a, b).differences == ()
    found = metrics.compare(a, b, seeds_a=[0, 1, 7], seeds_b=[7, 0])
    assert found.differences == (1.5 - 1.25, 4.25 - 3.0) and found.better == 0
    assert metrics.compare(a, b, [0, 1, 2], [3, 4]).differences == ()
    assert metrics.compare(a, a + 1).differences == (-1.0,) * 3


def test_equal_recipes_and_constant_ones():
    same = metrics.compare(A, A)
    assert (same.mean, same.p) == (0, 1) and not same.clear
    ones = np.ones((3, 4))
    assert (metrics.compare(ones, ones).p, metrics.compare(ones, ones).relative) == (1, 0)
    assert (metrics.compare(ones, 2 * ones).p, metrics.compare(ones, 2 * ones).relative_high) == (0, -0.5)
    assert metrics.compare(ones, 0 * ones).relative is None
    assert metrics.compare(ones[0], 0 * ones[0]).relative is None


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (np.ones((3, 4)), np.ones((3, 5)), r"\b4 .*\b5 "),
        (np.ones((2, 3, 4)), np.ones((3, 4)), r"first .*\(2, 3, 4\)"),
        (np.ones((0, 4)), np.ones((3, 4)), "first"),
        (np.ones((3, 1)), np.ones((3, 1)), "images"),
        ([[1.0, 2.0], [1.0]], np.ones((2, 2)), "rows"),
        (np.ones((2, 2)), [[1.0, 2.0], [1.0, np.nan]], "second .*nan.*row 1, image 1"),
        (np.ones((2, 2)), [[np.inf, 2.0], [1.0, 1.0]], "second .*inf.*row 0, image 0"),
    ],
)
def test_refuses_what_cannot_be_compared(a, b, words):
    with pytest.raises(UserError, match=words):
        metrics.compare(a, b)


@pytest.mark.parametrize("seeds", [([0, 1], None), ([0, 1, 2], [0, 1]), ([0, 0], [0, 1])])
def test_refuses_seeds_that_do_not_fit_the_rows(seeds):
    with pytest.raises(UserError, match="[Ss]eeds"):
        metrics.compare(A, B, *seeds)


# ---------------------------------------------------------------------------------------------------- chosen epochs


def test_runs_are_compared_by_their_last_epochs_where_all_have_them_and_else_by_chosen_ones():
    last, flattered = simulate(3, 3, (0.05, 0.05), effect=0.0, seed=4)
    a = [metrics.RunErrors(errors - 0.5, errors) for errors in last]  # its epochs were chosen by luck
    b = [metrics.RunErrors(errors, errors) for errors in flattered]
    free = metrics.compare_runs(a, b, range(3), range(3))
    assert free == dataclasses.replace(metrics.compare(last, flattered, range(3), range(3)), chosen=False)
    assert not free.clear and str(free).endswith("last epochs")
    old = [*b[:2], metrics.RunErrors(b[2].chosen)]
    fallback = metrics.compare_runs(a, old)
    assert fallback.chosen and fallback.mean == pytest.approx(free.mean - 0.5)
    assert str(fallback).endswith("epochs chosen on these images")


# ---------------------------------------------------------------------------------------------------- several rows


def test_holm_by_hand():
    # Holm's procedure on 0.01, 0.03, 0.04: times 3, 2, 1, and never below what came before
    assert metrics.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert metrics.holm([0.6, None, 0.9]) == [1.0, None, 1.0]
    assert metrics.holm([]) == []
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(UserError, match="row 1"):
            metrics.holm([0.5, bad])


def test_clear_is_judged_after_the_correction():
    a, b = simulate(3, 3, (0.06, 0.06), effect=-0.06, seed=2)
    row = metrics.compare(a, b)
    assert row.clear and row.p * 10 > 0.05
    single = metrics.compare(a[0], b[0])
    corrected = metrics.holm_corrected([row, None, single])
    assert corrected == [dataclasses.replace(row, p_holm=row.p), None, single] and corrected[0].clear
    many = metrics.holm_corrected([row] * 10)
    assert many[0].p_holm == pytest.approx(10 * row.p) and not many[0].clear


def test_a_comparison_survives_json():
    found = metrics.compare(*simulate(3, 3, (0.1, 0.1), seed=1))
    again = metrics.Comparison(**json.loads(json.dumps(dataclasses.asdict(found))))
    assert str(again) == str(found) and again.better == found.better


def test_numbers_are_stated_in_one_way():
    assert [metrics.format_p(p) for p in (None, 0.0004, 0.012, 1)] == ["", "< 0.001", "0.012", "1.000"]
    assert [metrics.format_p(p, named=True) for p in (0.0004, 0.012)] == ["p < 0.001", "p = 0.012"]
    assert metrics.format_interval(-0.5312, 0.0721) == "[-0.531, +0.072]"
    assert metrics.format_interval(2.8, 3.04, digits=1, sign=False) == "[2.8, 3.0]"
    assert metrics.format_interval(None, None) == ""
    assert [metrics.format_mean(v) for v in ([], [3.7], [3.7, 3.5])] == ["-", "3.700", "3.600 (3.500 to 3.700)"]
    assert metrics.format_mean([1.0, 2.0, 3.0]) == "2.000 ± 1.000"
    found = metrics.Comparison(-0.45, -0.7, -0.2, 0.004, -0.121, -0.18, -0.05, True, 199, 3, 3, (-0.4, -0.5, 0.1), 0.02)
    assert str(found) == (
        "-0.450 [-0.700, -0.200] (-12.1 % [-18.0, -5.0]), p = 0.004 (0.020 after Holm), 3 against 3 seeds, 199 images; "
        "better in 2 of 3 seeds"
    )


# ---------------------------------------------------------------------------------------------------- by simulation

LEVEL, IMAGES = 3.73, 199  # mean NME in percent of the short trainings, and the photographs, that the claims are about


def simulate(
    seeds_a: int,
    seeds_b: int,
    spreads: tuple[float, float],
    effect: float = 0.0,
    heavy: bool = False,
    recipe: float = 0.05,
    shared: float = 0.0,
    seed: int | np.random.Generator = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Errors of two recipes that look like ours: lognormal over images (mean 3.7, sd 2.6), 0.9 correlated between
    trainings.

    spreads: standard deviation over seeds of each recipe's val/nme, as tables show it; effect: a is better by this
    fraction; heavy: noise with three degrees of freedom and a longer tail of images; recipe: how much of each image's
    error is special to the recipe, a fraction; shared: correlation of the luck of two trainings with one seed.
    """
    rng = np.random.default_rng(seed)
    tail = 0.85 if heavy else 0.6
    level = LEVEL * np.exp(tail * rng.standard_normal(IMAGES) - tail**2 / 2)
    common = rng.standard_normal(max(seeds_a, seeds_b))
    sides = []
    for count, spread in ((seeds_a, spreads[0]), (seeds_b, spreads[1])):
        # as wide as the bootstrap's intervals of our ablations say; its own part of the spread stays below all of it
        residual = min(0.6, 0.9 * spread * IMAGES**0.5)
        noise = rng.standard_t(3, (count, IMAGES)) / 3**0.5 if heavy else rng.standard_normal((count, IMAGES))
        noise = residual * noise * level / (level**2).mean() ** 0.5
        luck = shared**0.5 * common[:count] + (1 - shared) ** 0.5 * rng.standard_normal(count)
        luck = (spread**2 - residual**2 / IMAGES) ** 0.5 * luck
        sides.append(level * (1 + recipe * rng.standard_normal(IMAGES)) + luck[:, None] + noise)
    return (1 + effect) * sides[0], sides[1]


# name -> arguments of `simulate`; "same recipe" is the null in which the bootstrap over images fails worst
WORLDS = {
    "sd 0.03, 0.141": dict(spreads=(0.03, 0.141)),
    "same recipe, sd 0.141": dict(spreads=(0.141, 0.141), recipe=0.0),
    "sd 0.141, 0.141": dict(spreads=(0.141, 0.141)),
    "sd 0.05, 0.141": dict(spreads=(0.05, 0.141)),
    "sd 0.05, 0.05": dict(spreads=(0.05, 0.05)),
    "sd 0.05, 0.141, heavy tails": dict(spreads=(0.05, 0.141), heavy=True),
    "sd 0.141, luck shared by half": dict(spreads=(0.141, 0.141), shared=0.5),
}


@dataclasses.dataclass
class Rates:
    found: float  # fraction of comparisons with p < 0.05
    covered: float  # fraction of 95 % intervals that hold the true difference
    covered_relative: float
    bootstrap: float  # fraction with p < 0.05 by bootstrap over images alone


def rates(seeds: int, times: int, effect: float = 0.0, **world) -> Rates:
    rng = np.random.default_rng(7)
    counts, differences = np.zeros(3), np.empty((times, IMAGES))
    for trial in range(times):
        a, b = simulate(seeds, seeds, effect=effect, seed=rng, **world)
        found = metrics.compare(a, b)
        ratio = (found.relative_low, found.relative_high)
        counts += (
            found.p < metrics.ALPHA,
            found.low <= effect * LEVEL <= found.high,
            None in ratio or ratio[0] <= effect <= ratio[1],
        )
        differences[trial] = (a - b).mean(axis=0)
    resamples = rng.multinomial(IMAGES, np.full(IMAGES, 1 / IMAGES), 1000) / IMAGES  # the same for all
    low, high = np.percentile(differences @ resamples.T, [2.5, 97.5], axis=1)
    return Rates(*counts / times, (low * high > 0).mean())


@pytest.mark.parametrize(("world", "seeds"), list(itertools.product(list(WORLDS)[:3], (3, 5))))
def test_luck_alone_is_seldom_called_a_difference(world, seeds):
    found = rates(seeds, 1000, **WORLDS[world])
    assert found.found <= 0.07
    assert found.covered >= 0.93
    assert found.covered_relative >= 0.93


@pytest.mark.slow
def test_the_simulation_of_the_documentation():
    head = (
        "spread over seeds",
        "seeds",
        "p < 0.05 by luck",
        "interval covers",
        "-8 % found",
        "-12 % found",
        "by luck, bootstrap",
    )
    print(f"\n| {' | '.join(head)} |\n{'|---' * len(head)}|")
    for (name, world), seeds in itertools.product(WORLDS.items(), (3, 5, 8)):
        null, some, more = (rates(seeds, 2000, effect, **world) for effect in (0.0, -0.08, -0.12))
        percents = (null.found, null.covered, some.found, more.found, null.bootstrap)
        print(f"| {name} | {seeds} | {' | '.join(f'{100 * value:.1f} %' for value in percents)} |")
        assert null.found <= 0.07 and some.found <= more.found
        assert min(rate.covered for rate in (null, some, more)) >= 0.93
        assert min(rate.covered_relative for rate in (null, some, more)) >= 0.93
