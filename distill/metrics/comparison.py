"""Is one recipe better than another, or is the difference chance, of the images and of the trainings?

An error of image i after training with seed s is modelled as

    mean of the recipe + effect of the seed + effect of the image + residual,

with seeds and images both drawn at random (a crossed random-effects design; Searle, Casella & McCulloch, Variance
Components, 1992, ch. 4). The difference of two recipes' means then varies for two reasons. *Seeds*: the variance of the
means of n seeds, over n, of each recipe. *Images*: the variance over images of the difference of both recipes'
seed-averaged errors, over the number of images. Both estimates contain the residual, so it is subtracted once; the sum
is never taken to be less than either part alone. Degrees of freedom: Satterthwaite, Biometrics Bulletin 2 (1946), but
not more than the seeds have (three seeds that happen to lie close together are no reason to trust the images' many).

Seeds of two recipes are treated as independent draws, as in Welch's test: a shared seed fixes initial weights and the
order of the data, and trainings drift apart soon. If they did stay alike, the test would be conservative; pairing by
seed would halve the few degrees of freedom there are. docs/results.md has the simulation that decided this.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from distill.errors import UserError

ALPHA = 0.05
RESAMPLES = 9999  # (RESAMPLES + 1) * ALPHA / 2 is a whole number, so that p and interval agree exactly


# ---------------------------------------------------------------------------------------------------- result


@dataclass(frozen=True)
class Comparison:
    """Recipe a minus recipe b in NME; negative where a is better. `dataclasses.asdict` of it is plain JSON."""

    mean: float  # percent points
    low: float  # 95 % interval; excludes 0 exactly where p < 0.05
    high: float
    p: float  # two-sided
    relative: float | None  # mean / mean error of b, a fraction; None where that error is 0
    relative_low: float | None  # 95 % interval; None where the error of b is not clearly above 0
    relative_high: float | None
    of_recipes: bool  # False: one side has a single seed, so p and intervals are of these models, not of their recipes
    images: int
    seeds_a: int
    seeds_b: int
    differences: tuple[float, ...] = ()  # a - b of each pair of runs with the same seed, percent points
    p_holm: float | None = None  # p corrected for the other rows of its table, where there are any
    # True: each run's epoch was chosen on these very images, which flatters both sides; False: its last epoch's errors
    chosen: bool | None = None

    @property
    def clear(self) -> bool:
        """The one rule for bold type, colour and "better": recipes differ with p < 0.05, by p_holm where it is set."""
        return self.of_recipes and (self.p if self.p_holm is None else self.p_holm) < ALPHA

    @property
    def better(self) -> int:
        """Pairs of the same seed in which a has the smaller error, of `len(differences)`."""
        return sum(difference < 0 for difference in self.differences)

    def __str__(self) -> str:
        """One line: difference, intervals, p, and what they are of."""
        relative = ""
        if self.relative is not None:
            relative = f" ({100 * self.relative:+.1f} %)"
        if self.relative_low is not None and self.relative_high is not None:
            bounds = format_interval(100 * self.relative_low, 100 * self.relative_high, digits=1)
            relative = f"{relative[:-1]} {bounds})"
        p = format_p(self.p, named=True)
        if self.p_holm is not None:
            p += f" ({format_p(self.p_holm)} after Holm)"
        if self.of_recipes:
            scope = f"{self.seeds_a} against {self.seeds_b} seeds, {self.images} images"
        else:
            scope = f"these models on these {self.images} images; one seed is no evidence about a recipe"
        pairs = f"; better in {self.better} of {len(self.differences)} seeds" if len(self.differences) > 1 else ""
        chosen = {True: "; epochs chosen on these images", False: "; last epochs"}.get(self.chosen, "")
        return f"{self.mean:+.3f} {format_interval(self.low, self.high)}{relative}, {p}, {scope}{pairs}{chosen}"


# ---------------------------------------------------------------------------------------------------- comparing


def compare(
    errors_a: ArrayLike, errors_b: ArrayLike, seeds_a: Sequence[int] | None = None, seeds_b: Sequence[int] | None = None
) -> Comparison:
    """Compare recipe a with recipe b on the same images; see the top of this module for the model.

    `errors_a` (S_a, N) and `errors_b` (S_b, N): NME in percent of each image, one row a training; (N,) is one training.
    Images stand in the same order everywhere; N at least 2. `seeds_a`, `seeds_b`: the seed of each row, to find the
    pairs that `differences` lists; without them row i pairs with row i if there are as many rows on both sides. With
    fewer than two rows on a side, p and intervals come from a paired bootstrap over images (Efron & Tibshirani, 1993,
    ch. 13) of the errors averaged over rows, and `of_recipes` is False. Raises UserError for wrong shapes, values that
    are not finite, and seeds that do not fit the rows.
    """
    a, b = _rows(errors_a, "first"), _rows(errors_b, "second")
    if a.shape[1] != b.shape[1]:
        raise UserError(
            f"The recipes to compare have errors of {a.shape[1]} and {b.shape[1]} images; expected the same images."
        )
    means_a, means_b = a.mean(axis=1), b.mean(axis=1)
    differences = tuple(float(means_a[i] - means_b[j]) for i, j in _pairs(len(a), len(b), seeds_a, seeds_b))
    mean_a, mean_b = float(a.mean()), float(b.mean())
    of_recipes = min(len(a), len(b)) > 1
    low, high, p, ratio = (_between_recipes if of_recipes else _between_models)(a, b)
    relative_low, relative_high = ratio or (None, None)
    return Comparison(
        mean=mean_a - mean_b,
        low=low,
        high=high,
        p=p,
        relative=mean_a / mean_b - 1 if mean_b else None,
        relative_low=relative_low,
        relative_high=relative_high,
        of_recipes=of_recipes,
        images=a.shape[1],
        seeds_a=len(a),
        seeds_b=len(b),
        differences=differences,
    )


@dataclass(frozen=True, eq=False)
class RunErrors:
    """NME in percent of each validation image (N,) after one training, all in one order."""

    chosen: np.ndarray  # of the weights that are kept, whose epoch was chosen on these very images
    last: np.ndarray | None = None  # of the last epoch's averaged weights, which no image chose; None: not recorded


def compare_runs(
    a: Sequence[RunErrors],
    b: Sequence[RunErrors],
    seeds_a: Sequence[int] | None = None,
    seeds_b: Sequence[int] | None = None,
) -> Comparison:
    """`compare` of runs by their last epochs' errors, on which nothing was chosen.

    Where a run has not recorded them (of an earlier version, an average of several models), all are compared by their
    chosen epochs, and the result has `chosen` set. Arguments and errors as in `compare`, a run a row.
    """
    chosen = any(run.last is None for run in (*a, *b))
    rows_a, rows_b = ([run.chosen if chosen else run.last for run in side] for side in (a, b))
    return dataclasses.replace(compare(rows_a, rows_b, seeds_a, seeds_b), chosen=chosen)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p values of several rows against one control, corrected for their number, in the order given; None stays None.

    Holm, Scandinavian Journal of Statistics 6 (1979): the chance that any row without effect comes below 0.05 stays at
    5 %. Raises UserError for a value outside 0 to 1.
    """
    known = [i for i, p in enumerate(p_values) if p is not None]
    for i in known:
        if not 0 <= p_values[i] <= 1:
            raise UserError(f"The p value of row {i} (counted from 0) is {p_values[i]}; expected 0 to 1.")
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(sorted(known, key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(known) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def holm_corrected(rows: Sequence[Comparison | None]) -> list[Comparison | None]:
    """The rows of a table against one control with `p_holm` set, where a row compares recipes. None stays None."""
    corrected = holm([row.p if row and row.of_recipes else None for row in rows])
    return [row and dataclasses.replace(row, p_holm=p) for row, p in zip(rows, corrected, strict=True)]


def mean_interval(errors: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean of finite errors (N,): percentile bootstrap over images, as in `compare`."""
    return _percentiles(_resampled_means(np.asarray(errors, dtype=np.float64)[None], RESAMPLES, 0)[0])[:2]


# ---------------------------------------------------------------------------------------------------- as text


def format_p(p: float | None, named: bool = False) -> str:
    """`0.012`, `< 0.001`; named: `p = 0.012`, `p < 0.001`. Empty for None."""
    if p is None:
        return ""
    text = "< 0.001" if p < 0.001 else f"{p:.3f}"
    return text if not named else f"p {text}" if p < 0.001 else f"p = {text}"


def format_interval(low: float | None, high: float | None, digits: int = 3, sign: bool = True) -> str:
    """`[-0.531, +0.072]`; without sign, as of an error: `[2.853, 3.012]`. Empty where there is none."""
    form = f"{'+' if sign else ''}.{digits}f"
    return "" if low is None or high is None else f"[{low:{form}}, {high:{form}}]"


def format_mean(values: Sequence[float], digits: int = 3) -> str:
    """Mean ± sample standard deviation over seeds; of two values the range, of one the value, `-` for none."""
    values = list(values)
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    if len(values) == 2:
        return f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}"


# ---------------------------------------------------------------------------------------------------- inside

Interval = tuple[float, float]


def _between_recipes(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float, Interval | None]:
    """Low, high and p of the difference of the means, and the interval of their ratio - 1."""
    from scipy.special import stdtr, stdtrit  # here: its import takes longer than `--help` may

    seeds, images, residual = _seed_variance(a, b), _image_variance(a, b), _residual_variance(a, b)
    parts = [seeds + images - residual, seeds, images]
    variance = max(parts, key=_of_difference)
    total = _of_difference(variance)
    mean = float(a.mean() - b.mean())
    if total <= 1e-24 * (1 + mean**2):  # rounding alone: every error is the same
        ratio = float(a.mean() / b.mean() - 1) if b.any() else None
        return mean, mean, 1.0 if abs(mean) < 1e-12 else 0.0, None if ratio is None else (ratio, ratio)
    count_a, count_b, free = len(a) - 1, len(b) - 1, a.shape[1] - 1
    spread = seeds[0, 0] ** 2 / count_a + seeds[1, 1] ** 2 / count_b + _of_difference(images) ** 2 / free
    spread += residual[0, 0] ** 2 / (count_a * free) + residual[1, 1] ** 2 / (count_b * free)
    df = min(total**2 / spread, count_a + count_b)
    t, reach = mean / math.sqrt(total), float(stdtrit(df, 1 - ALPHA / 2))
    half = reach * math.sqrt(total)
    return mean - half, mean + half, float(2 * stdtr(df, -abs(t))), _ratio(a.mean(), b.mean(), variance, reach)


# Variances are (2, 2) matrices, of the mean of a, the mean of b, and between them: the difference needs their sum, the
# ratio each.


def _of_difference(variance: np.ndarray) -> float:
    return float(variance[0, 0] + variance[1, 1] - 2 * variance[0, 1])


def _seed_variance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.diag([errors.mean(axis=1).var(ddof=1) / len(errors) for errors in (a, b)])


def _image_variance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.cov(a.mean(axis=0), b.mean(axis=0)) / a.shape[1]


def _residual_variance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """What seed and image together do not explain: it is in both of the above."""
    found = []
    for errors in (a, b):
        rest = errors - errors.mean(axis=0) - errors.mean(axis=1, keepdims=True) + errors.mean()
        count, images = errors.shape
        found.append((rest**2).sum() / ((count - 1) * (images - 1)) / (count * images))
    return np.diag(found)


def _ratio(mean_a: float, mean_b: float, variance: np.ndarray, reach: float) -> Interval | None:
    """Fieller's interval of mean_a / mean_b, less 1: the ratios r for which mean_a - r mean_b is within `reach`
    standard errors of 0. It excludes 0 where the interval of the difference does. None where it has no bounds."""
    square = reach**2 * variance
    first, middle, last = mean_b**2 - square[1, 1], mean_a * mean_b - square[0, 1], mean_a**2 - square[0, 0]
    root = middle**2 - first * last
    if first <= 0 or root < 0:
        return None
    return float((middle - math.sqrt(root)) / first - 1), float((middle + math.sqrt(root)) / first - 1)


def _between_models(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float, Interval | None]:
    """As `_between_recipes`, for these trained models: images alone are resampled."""
    one, other = a.mean(axis=0), b.mean(axis=0)
    means_a, means_b = _resampled_means(np.stack([one, other]), RESAMPLES, 0)
    low, high, p = _percentiles(means_a - means_b)
    return low, high, p, _percentiles(means_a / means_b - 1)[:2] if (means_b > 0).all() else None


def _resampled_means(errors: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """(rows, samples) means of rows (rows, N) over the same images, drawn with replacement."""
    rng = np.random.default_rng(seed)
    count = errors.shape[1]
    at_once = max(1, 200_000 // count)  # stays within the cache
    starts = range(0, samples, at_once)
    drawn = (rng.integers(0, count, (min(at_once, samples - start), count)) for start in starts)
    return np.concatenate([errors[:, indices].mean(axis=2) for indices in drawn], axis=1)


def _percentiles(values: np.ndarray) -> tuple[float, float, float]:
    """95 % interval and two-sided p of resampled values. One is added to count and total, so that p is never 0."""
    ordered, total = np.sort(values), len(values) + 1
    rank = max(math.ceil(total * ALPHA / 2 - 1e-9) - 1, 1)  # the interval reaches 0 where p reaches ALPHA
    beyond = min((values <= 0).sum(), (values >= 0).sum())
    return float(ordered[rank - 1]), float(ordered[-rank]), float(min(1.0, 2 * (1 + beyond) / total))


def _rows(errors: ArrayLike, which: str) -> np.ndarray:
    """(seeds, images), checked."""
    try:
        rows = np.asarray(errors, dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(f"The errors of the {which} recipe are not numbers in rows of one length.") from None
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or len(rows) == 0 or rows.shape[1] < 2:
        raise UserError(
            f"The errors of the {which} recipe have shape {np.shape(errors)}; expected (seeds, images) with at "
            "least 2 images."
        )
    bad = np.argwhere(~np.isfinite(rows))
    if bad.size:
        raise UserError(
            f"The errors of the {which} recipe hold {rows[tuple(bad[0])]} in row {bad[0, 0]}, image {bad[0, 1]} "
            "(counted from 0); expected a number for every image."
        )
    return rows


def _pairs(
    count_a: int, count_b: int, seeds_a: Sequence[int] | None, seeds_b: Sequence[int] | None
) -> list[tuple[int, int]]:
    """Rows of a and b that were trained with the same seed."""
    if seeds_a is None and seeds_b is None:
        return [(i, i) for i in range(count_a)] if count_a == count_b else []
    if seeds_a is None or seeds_b is None:
        raise UserError("Seeds are named for one recipe alone; expected them for both or for none.")
    place = {}
    for which, count, seeds in (("first", count_a, seeds_a), ("second", count_b, seeds_b)):
        if len(seeds) != count or len(set(seeds)) != count:
            raise UserError(
                f"The {which} recipe has {count} rows of errors and the seeds {list(seeds)}; expected one other seed "
                "for each."
            )
        place[which] = {seed: i for i, seed in enumerate(seeds)}
    return [(i, place["second"][seed]) for seed, i in place["first"].items() if seed in place["second"]]
