"""From a point's confidence to its expected error in percent of the crop's side, and how well that holds.

A heatmap's confidence ranks points well but lies between 0.97 and 1, so hard to read by itself. The expected error
of point p with confidence c is level_p * (1 - c + FLOOR) ** slope: a line in logarithms, one slope for all points and
one level for each, fitted to held-out renders by Poisson quasi-likelihood (McCullagh & Nelder, Generalized Linear
Models, 1989, ch. 9), under which the mean expected error of each point equals its mean error there. Never fitted to
photographs: what photographs add to the error shows in `reliability` and is not corrected.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from distill.errors import UserError

FLOOR = 1e-4  # added to 1 - confidence, of which float32 keeps few digits below
NEWTON_STEPS = 50


@dataclass(frozen=True)
class Calibration:
    """What a model file's description holds under `calibration`; plain JSON."""

    levels: tuple[float, ...]  # (P,) percent of the crop's side, above 0
    slope: float
    images: int  # fitted on
    fingerprint: str  # of the set that they are

    def expected_error(self, confidence: np.ndarray) -> np.ndarray:
        """(..., P) confidences in 0..1 -> (..., P) expected errors in percent of the crop's side."""
        return np.asarray(self.levels) * _unsure(confidence) ** self.slope

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self) | {"levels": list(self.levels)}

    @classmethod
    def from_dict(cls, values: Any, points: int, source: str) -> Calibration | None:
        """Of a model file's description; None where it has none. Raises UserError, which begins with `source`."""
        if values is None:
            return None
        try:
            levels, slope = tuple(map(float, values["levels"])), float(values["slope"])
            made = cls(levels, slope, int(values["images"]), str(values["fingerprint"]))
            fine = len(levels) == points and np.isfinite([*levels, slope]).all() and min(levels) > 0
        except (KeyError, TypeError, ValueError):
            fine = False
        if not fine:
            raise UserError(
                f"{source}: its 'calibration' is not one; expected {points} levels above 0, slope, images and "
                "fingerprint."
            )
        return made


def fit(confidence: np.ndarray, errors: np.ndarray, fingerprint: str) -> Calibration:
    """Calibrate on N held-out images: confidence (N, P) in 0..1, errors (N, P) in percent of the crop's side.

    Raises UserError for fewer than 2 images, and where a point is never wrong or always equally sure.
    """
    z, errors = np.log(_unsure(confidence)), np.asarray(errors, dtype=np.float64)
    centred = z - z.mean(axis=0)
    if len(z) < 2 or not (centred.std(axis=0) > 0).all() or not (errors.mean(axis=0) > 0).all():
        raise UserError(
            "A calibration needs at least 2 images, on which every point varies in confidence and has an error."
        )
    slope, levels = 0.0, errors.mean(axis=0)
    for _ in range(NEWTON_STEPS):
        shape = np.exp(slope * centred)
        levels = errors.mean(axis=0) / shape.mean(axis=0)  # the best for this slope
        expected = levels * shape
        middle = (expected * centred).sum(axis=0) / expected.sum(axis=0)
        step = (centred * (errors - expected)).sum() / (expected * (centred - middle) ** 2).sum()
        slope += float(np.clip(step, -0.5, 0.5))
        if abs(step) < 1e-10:
            break
    return Calibration(tuple((levels * np.exp(-slope * z.mean(axis=0))).tolist()), slope, len(z), fingerprint)


@dataclass(frozen=True)
class Bins:
    """Values in order of the expected error, cut into bins of equal numbers."""

    expected: tuple[float, ...]  # mean of each bin, percent
    true: tuple[float, ...]
    rank_correlation: float  # of all values, Spearman's


@dataclass(frozen=True)
class Reliability:
    """How expected errors hold on a labelled set."""

    expected: float  # mean over points and images, percent
    true: float
    by_point: Bins  # each point of each image is a value
    by_image: Bins  # each image's means over its points

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def reliability(expected: np.ndarray, errors: np.ndarray, bins: int = 10) -> Reliability:
    """Expected against true errors, both (N, P) in percent of the same side; at most `bins` bins, the surest first."""
    expected, errors = np.asarray(expected, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    by_image = _bins(expected.mean(axis=1), errors.mean(axis=1), bins)
    return Reliability(
        float(expected.mean()), float(errors.mean()), _bins(expected.ravel(), errors.ravel(), bins), by_image
    )


def _unsure(confidence: np.ndarray) -> np.ndarray:
    return np.clip(1.0 - np.asarray(confidence, dtype=np.float64), 0.0, 1.0) + FLOOR


def _bins(expected: np.ndarray, true: np.ndarray, bins: int) -> Bins:
    parts = np.array_split(np.argsort(expected, kind="stable"), min(bins, len(expected)))
    ranks = np.stack([np.argsort(np.argsort(values, kind="stable")) for values in (expected, true)])
    correlation = float(np.asarray(np.corrcoef(ranks))[0, 1]) if len(expected) > 1 else 0.0
    means, truths = (tuple(float(values[part].mean()) for part in parts) for values in (expected, true))
    return Bins(means, truths, correlation)
