"""How wrong a prediction is, in percent of a named distance. numpy only.

Two teams on this task once called numbers 68 times apart "NME", so the normaliser has a name and it, the distance and
the reduction (mean over the points, then over the images) are defined here and nowhere else. Errors are percent
everywhere; rates and areas are fractions between 0 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from distill.errors import UserError
from distill.landmarks import IBUG68, Markup

NORMALIZERS = ("image", "bbox", "interocular")
FAILURE = 8.0  # percent; an image with a larger NME counts as a failure, and the CED and its area end here
# |yaw| in degrees, [from, to). The names are fit for metric names.
YAW_BINS: dict[str, tuple[float, float]] = {
    "below_30": (0.0, 30.0),
    "30_to_60": (30.0, 60.0),
    "above_60": (60.0, math.inf),
}
ROLL_BINS: dict[str, tuple[float, float]] = {  # |roll|, likewise
    "below_15": (0.0, 15.0),
    "15_to_45": (15.0, 45.0),
    "above_45": (45.0, math.inf),
}
CONFIDENCE_BINS: dict[str, tuple[float, float]] = {  # of points, likewise; most have more than 0.97
    "below_0.9": (0.0, 0.9),
    "0.9_to_0.97": (0.9, 0.97),
    "0.97_to_0.99": (0.97, 0.99),
    "0.99_to_0.999": (0.99, 0.999),
    "above_0.999": (0.999, math.inf),
}


# ---------------------------------------------------------------------------------------------------- errors


def normalizer(kind: str, landmarks: np.ndarray, sizes: np.ndarray, markup: Markup = IBUG68) -> np.ndarray:
    """The distance in pixels that errors are divided by, one an image: (N,).

    `landmarks` (N, P, 2) are the true ones, P the points of `markup`, in pixels; `sizes` (N, 2), or one (2,) for all,
    are width and height of the images that they are in. `kind` is one of
      image        sqrt(W * H), the challenge's (384 for its crops)
      bbox         sqrt(w * h) of the landmarks' bounding box
      interocular  distance of the outer eye corners (300W's)
    Raises UserError for another kind, a set without outer eye corners, a wrong shape, and a distance that is zero or
    not finite.
    """
    landmarks = _points(landmarks, "landmarks", markup.count)
    if kind == "image":
        try:
            sizes = np.broadcast_to(np.asarray(sizes, dtype=np.float64), (len(landmarks), 2))
        except ValueError:
            expected = f"({len(landmarks)}, 2): width and height of each image"
            raise UserError(f"The image sizes have shape {np.shape(sizes)}; expected {expected}.") from None
        distance = np.sqrt(sizes[:, 0] * sizes[:, 1])
    elif kind == "bbox":
        distance = np.sqrt(np.prod(np.ptp(landmarks, axis=1), axis=1))
    elif kind == "interocular":
        if markup.outer_eye_corners is None:
            raise UserError(
                f"The 'interocular' normaliser needs outer eye corners, and the landmark set {markup} names none; "
                "expected image or bbox."
            )
        right, left = markup.outer_eye_corners
        distance = np.linalg.norm(landmarks[:, right] - landmarks[:, left], axis=1)
    else:
        raise UserError(f"'{kind}' is not a normaliser; expected one of {', '.join(NORMALIZERS)}.")
    bad = np.flatnonzero(~(np.isfinite(distance) & (distance > 0)))
    if bad.size:
        raise UserError(
            f"The '{kind}' normaliser of image {bad[0]} (counted from 0) is {distance[bad[0]]:g}; "
            "expected a finite distance above 0."
        )
    return distance


def point_errors(pred: np.ndarray, target: np.ndarray, norm: np.ndarray) -> np.ndarray:
    """Euclidean distance of each point as PERCENT of its image's normaliser: (N, P).

    `pred` and `target` (N, P, 2) in pixels of the same frame, `norm` (N,) from `normalizer`. Raises UserError when
    the shapes differ or a coordinate is not finite (a NaN must not pass for a good or a missing error).
    """
    target = _points(target, "labels")
    pred = _points(pred, "predictions", target.shape[1])
    if len(pred) != len(target):
        raise UserError(f"There are predictions for {len(pred)} images and labels for {len(target)}; expected as many.")
    norm = np.asarray(norm, dtype=np.float64)
    if norm.shape != (len(pred),):
        raise UserError(f"The normaliser has shape {norm.shape}; expected ({len(pred)},), one distance an image.")
    return 100.0 * np.linalg.norm(pred - target, axis=2) / norm[:, None]


def image_errors(pred: np.ndarray, target: np.ndarray, norm: np.ndarray) -> np.ndarray:
    """NME of each image in percent: (N,). Arguments and errors as in `point_errors`."""
    return point_errors(pred, target, norm).mean(axis=1)


def inward_shifts(pred: np.ndarray, target: np.ndarray, sizes: np.ndarray, norm: np.ndarray) -> np.ndarray:
    """How far each point lies towards the middle of its image, as PERCENT of its normaliser: (N, P), outwards below 0.

    The component of prediction minus label along the line from the label to the image's middle. Soft-argmax is the mean
    of a heatmap, so probability that is spread over the image draws points there. `sizes` (N, 2), or one (2,) for all,
    are width and height in the pixels of `pred` and `target` (N, P, 2); `norm` (N,) as in `point_errors`.
    """
    towards = np.broadcast_to(np.asarray(sizes, dtype=np.float64), (len(target), 2))[:, None] / 2 - target
    direction = towards / np.maximum(np.linalg.norm(towards, axis=2, keepdims=True), 1e-9)
    return 100.0 * ((pred - target) * direction).sum(axis=2) / norm[:, None]


def nme(pred: np.ndarray, target: np.ndarray, norm: np.ndarray) -> float:
    """Normalised mean error in percent: mean over images of the mean over points. Arguments as in `point_errors`."""
    return float(image_errors(pred, target, norm).mean())


# ---------------------------------------------------------------------------------------------------- summaries


@dataclass(frozen=True, eq=False)
class Report:
    """What `evaluate` finds. Errors in percent of `normalizer`; rates and areas between 0 and 1."""

    normalizer: str
    count: int  # images
    nme: float
    median: float  # of per_image
    p95: float  # 95th percentile of per_image, linearly interpolated
    failure_rate: float  # fraction of images above FAILURE
    auc: float  # area under the CED from 0 to FAILURE, over FAILURE
    per_image: np.ndarray  # (N,)
    per_point: np.ndarray  # (P,)
    by_region: dict[str, float]  # region of the landmark set -> mean over its points and all images
    by_yaw: dict[str, dict[str, Any] | None]  # bin of YAW_BINS -> {"nme", "count"}; None: no image in it
    ced_thresholds: np.ndarray  # see `ced`
    ced_fractions: np.ndarray
    # (P, 2) the mean labelled face, to draw per_point on: `mean_shape`; None: the known one of the 68 points
    layout: np.ndarray | None = None
    by_roll: dict[str, dict[str, Any] | None] = field(default_factory=dict)  # bins of ROLL_BINS, as by_yaw
    by_confidence: dict[str, dict[str, Any] | None] = field(default_factory=dict)  # see `by_confidence`

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON: numbers, strings, lists and dicts."""
        return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(self).items()}

    def as_metrics(self, split: str) -> dict[str, float]:
        """The names and values that MLflow shows, the split (such as `val`) a word in every name."""
        values = {"nme": self.nme, "median": self.median, "p95": self.p95}
        values |= {"failure_rate": self.failure_rate, "auc": self.auc}
        values |= {f"region/{name}": value for name, value in self.by_region.items()}
        for angle, bins in (("yaw", self.by_yaw), ("roll", self.by_roll)):
            values |= {f"{angle}/{name}": cell["nme"] for name, cell in bins.items() if cell}
        values |= {f"inwards/{name}": cell["inwards"] for name, cell in self.by_confidence.items() if cell}
        return {f"{split}/{name}": value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Report:
        """What `to_dict` gave; other keys are left out. Raises KeyError, TypeError or ValueError for anything else."""
        arrays = ("per_image", "per_point", "ced_thresholds", "ced_fractions", "layout")
        optional = ("layout", "by_roll", "by_confidence")  # younger than the first stored reports
        chosen: dict[str, Any] = {
            f.name: values[f.name] for f in fields(cls) if f.name in values or f.name not in optional
        }
        chosen |= {k: np.asarray(chosen[k], dtype=np.float64) for k in arrays if chosen.get(k) is not None}
        return cls(**chosen)


def evaluate(
    pred: np.ndarray,
    target: np.ndarray,
    sizes: np.ndarray,
    normalizer: str = "image",
    yaw: np.ndarray | None = None,
    markup: Markup = IBUG68,
    roll: np.ndarray | None = None,
    confidence: np.ndarray | None = None,
) -> Report:
    """Measure predictions against labels.

    `pred`, `target` (N, P, 2) in pixels, P the points of `markup`, N at least 1; `sizes` (N, 2) or (2,) width and
    height; `yaw` and `roll` (N,) in degrees, for instance of `headpose.estimate(target)`; `confidence` (N, P) in 0..1.
    Without one of these every bin of it is None. Raises UserError for wrong shapes, non-finite coordinates, an unknown
    or degenerate normaliser.
    """
    distance = _distance(normalizer, target, sizes, markup)
    errors = point_errors(pred, target, distance)
    per_image = errors.mean(axis=1)
    thresholds, fractions = ced(per_image)
    return Report(
        normalizer=normalizer,
        count=len(per_image),
        nme=float(per_image.mean()),
        median=float(np.median(per_image)),
        p95=float(np.percentile(per_image, 95)),
        failure_rate=failure_rate(per_image),
        auc=auc(per_image),
        per_image=per_image,
        per_point=errors.mean(axis=0),
        by_region={name: float(errors[:, list(points)].mean()) for name, points in markup.regions.items()},
        by_yaw=by_angle(per_image, yaw, YAW_BINS, "yaw"),
        ced_thresholds=thresholds,
        ced_fractions=fractions,
        layout=None if markup.fits(IBUG68) else mean_shape(target, markup),
        by_roll=by_angle(per_image, roll, ROLL_BINS, "roll"),
        by_confidence=by_confidence(errors, inward_shifts(pred, target, sizes, distance), confidence),
    )


def by_angle(
    per_image: np.ndarray, angles: np.ndarray | None, bins: Mapping[str, tuple[float, float]], name: str
) -> dict[str, dict[str, Any] | None]:
    """Bin -> {"nme", "count"} of the images (N,) whose |angle| (N,) in degrees lies in it, or None where none does.

    angles: None leaves every bin None. Raises UserError, which calls the angles `name`, where they do not fit the
    images.
    """
    found: dict[str, dict[str, Any] | None] = dict.fromkeys(bins)
    if angles is None:
        return found
    angles = np.abs(np.asarray(angles, dtype=np.float64))
    if angles.shape != per_image.shape or not np.isfinite(angles).all():
        raise UserError(f"The {name} has shape {angles.shape}; expected ({len(per_image)},) finite angles in degrees.")
    for bin_name, (low, high) in bins.items():
        inside = per_image[(angles >= low) & (angles < high)]
        if inside.size:
            found[bin_name] = {"nme": float(inside.mean()), "count": int(inside.size)}
    return found


def by_confidence(
    errors: np.ndarray, inwards: np.ndarray, confidence: np.ndarray | None
) -> dict[str, dict[str, Any] | None]:
    """Bin of CONFIDENCE_BINS -> {"count", "error", "inwards", "inwards_se"} of the points in it; None: no point is.

    `errors` and `inwards` (N, P) in percent, from `point_errors` and `inward_shifts`, of which each bin has the mean;
    `confidence` (N, P) in 0..1; None leaves every bin None. `inwards_se` is the standard error of the mean shift, in
    which the points of an image depend on each other and images do not (clusters; Liang & Zeger, Biometrika 73, 1986);
    None for points of one image. Raises UserError where the confidences do not fit the errors.
    """
    found: dict[str, dict[str, Any] | None] = dict.fromkeys(CONFIDENCE_BINS)
    if confidence is None:
        return found
    confidence = np.asarray(confidence, dtype=np.float64)
    if confidence.shape != errors.shape or not np.isfinite(confidence).all():
        raise UserError(f"The confidences have shape {confidence.shape}; expected {errors.shape} finite numbers.")
    for name, (low, high) in CONFIDENCE_BINS.items():
        inside = (confidence >= low) & (confidence < high)
        count, images = int(inside.sum()), int(inside.any(axis=1).sum())
        if not count:
            continue
        mean = float(inwards[inside].mean())
        sums = np.where(inside, inwards - mean, 0.0).sum(axis=1)
        error = math.sqrt((sums**2).sum() * images / (images - 1)) / count if images > 1 else None
        found[name] = {"count": count, "error": float(errors[inside].mean()), "inwards": mean, "inwards_se": error}
    return found


def mean_shape(landmarks: np.ndarray, markup: Markup) -> np.ndarray:
    """(P, 2) the mean of faces (N, P, 2), each in its own box, and of their mirror images: y up, centre 0, width 1."""
    landmarks = np.asarray(landmarks, dtype=np.float64)
    low, high = landmarks.min(axis=1, keepdims=True), landmarks.max(axis=1, keepdims=True)
    side = np.maximum((high - low).max(axis=2, keepdims=True), 1e-9)
    mean = ((landmarks - (low + high) / 2) / side).mean(axis=0) * [1.0, -1.0]
    return (mean + mean[list(markup.flip_permutation)] * [-1.0, 1.0]) / 2


def failure_rate(per_image: np.ndarray, maximum: float = FAILURE) -> float:
    """Fraction of the images (N,) whose error in percent is above `maximum`."""
    return float((np.asarray(per_image) > maximum).mean())


def auc(per_image: np.ndarray, maximum: float = FAILURE) -> float:
    """Area under the CED between 0 and `maximum` percent, divided by `maximum`: 0 (all fail) to 1 (no error).

    The exact integral of the step function: an image with error e contributes the length above e, so no grid is needed.
    """
    return float(np.clip(1.0 - np.asarray(per_image, dtype=np.float64) / maximum, 0.0, None).mean())


def ced(per_image: np.ndarray, maximum: float = FAILURE) -> tuple[np.ndarray, np.ndarray]:
    """Cumulative error distribution: thresholds (K,) in percent, and the fraction (K,) of images at or below each.

    The corners of the step function, from 0 to `maximum`; between two thresholds the earlier fraction holds.
    """
    errors = np.sort(np.asarray(per_image, dtype=np.float64))
    thresholds = np.unique(np.concatenate([[0.0], errors[errors <= maximum], [maximum]]))
    return thresholds, np.searchsorted(errors, thresholds, side="right") / len(errors)


# ---------------------------------------------------------------------------------------------------- checks

_distance = normalizer  # `evaluate` has an argument of that name


def _points(values: np.ndarray, what: str, count: int | None = None) -> np.ndarray:
    """count: of the points; None: any."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 3 or values.shape[2] != 2 or count not in (None, values.shape[1]) or 0 in values.shape:
        raise UserError(f"The {what} have shape {values.shape}; expected (N, {count or 'P'}, 2) with N at least 1.")
    bad = np.argwhere(~np.isfinite(values))
    if bad.size:
        image, point, _ = bad[0]
        raise UserError(f"The {what} of image {image} (counted from 0) are not finite at point {point}.")
    return values
