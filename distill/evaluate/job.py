"""Predict a set with a model, measure it, show it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from distill import headpose, metrics
from distill.config import Config
from distill.data.annotations import LandmarkSet, OnBad, read_labelled
from distill.data.augment import from_view
from distill.data.folders import resolve
from distill.data.loading import eval_batches
from distill.errors import UserError
from distill.files import write_text
from distill.landmarks import Markup
from distill.metrics.calibration import Calibration, Reliability, reliability
from distill.models.landmarker import Landmarker, to_input


@dataclass(frozen=True)
class Predictions:
    """Of N images, P points each."""

    points: np.ndarray  # (N, P, 2) float32, pixels of each source image
    confidence: np.ndarray  # (N, P) in 0..1


def read_for(markup: Markup, config: Config, folder: Path | None, on_bad: OnBad = "stop") -> LandmarkSet:
    """A labelled set, read as the training of a model with this markup read its own; None: its validation set.

    Raises UserError where that is not here, or the set is broken.
    """
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, landmarks=markup.reference()))
    try:
        folder = folder or resolve(config.data).val
    except UserError as error:
        raise UserError(
            f"The model's own validation set is not here; name a labelled set with --data. ({error})"
        ) from None
    return read_labelled(folder, config, on_bad, decode=True)


@torch.no_grad()
def predict_set(model: Landmarker, images: LandmarkSet, flip: bool = False, batch_size: int = 64) -> Predictions:
    """Run a model, in eval mode and in float32, over a whole set.

    flip: also predict the mirror image and average (test-time augmentation: twice the work, reported as such).
    """
    device = next(model.parameters()).device
    permutation = list(model.markup.flip_permutation)
    model.eval()
    points, confidence = [], []
    for batch in eval_batches(images, model.size, batch_size):
        x = to_input(batch.images.to(device), model.size)
        out = model(x)
        p, c = out.points.float(), out.confidence.float()
        if flip:
            mirrored = model(x.flip(-1))
            q = mirrored.points.float()[:, permutation]
            q = torch.stack((model.size - q[..., 0], q[..., 1]), dim=-1)
            p, c = (p + q) / 2, (c + mirrored.confidence.float()[:, permutation]) / 2
        points.append(p.cpu().numpy())
        confidence.append(c.cpu().numpy())
    return Predictions(from_view(np.concatenate(points), images.sizes, model.size), np.concatenate(confidence))


def measure(predictions: Predictions, labelled: LandmarkSet, normalizer: str = "image") -> metrics.Report:
    """Errors against the labels, by confidence too; by yaw and roll where the landmark set allows an estimate."""
    truth, markup = labelled.landmarks, labelled.markup
    yaw, roll = None, None
    if headpose.can_estimate(markup):
        yaw, _, roll = headpose.estimate(truth, markup).T
    points, confidence = predictions.points, predictions.confidence
    return metrics.evaluate(points, truth, labelled.sizes, normalizer, yaw, markup, roll, confidence)


def side_errors(predictions: Predictions, labelled: LandmarkSet) -> np.ndarray:
    """(N, P) error of each point in percent of sqrt(W * H), the side of a square image."""
    side = metrics.normalizer("image", labelled.landmarks, labelled.sizes, labelled.markup)
    return metrics.point_errors(predictions.points, labelled.landmarks, side)


def expected_errors(
    described: dict[str, Any], predictions: Predictions, labelled: LandmarkSet, source: str
) -> Reliability | None:
    """How the expected errors of a model file's description hold on a set; None where it is not calibrated.

    source: how a UserError about a broken description begins.
    """
    calibration = Calibration.from_dict(described.get("calibration"), labelled.markup.count, source)
    if calibration is None:
        return None
    return reliability(calibration.expected_error(predictions.confidence), side_errors(predictions, labelled))


def confidence_lines(report: metrics.Report) -> list[str]:
    """`below 0.9: error 5.21, inwards +4.60 ± 0.51 (64 points)`, for each bin of confidence that has points."""
    lines = []
    for name, cell in report.by_confidence.items():
        if cell:
            spread = "" if cell["inwards_se"] is None else f" ± {cell['inwards_se']:.2f}"
            shift = f"error {cell['error']:.2f}, inwards {cell['inwards']:+.2f}{spread}"
            lines.append(f"{name.replace('_', ' ')}: {shift} ({cell['count']} points)")
    return lines


def agreement(student: Predictions, teacher: Predictions, images: LandmarkSet) -> metrics.Report:
    """How far a student's points lie from its teacher's, in percent of the image's side: the labels play no part."""
    return metrics.evaluate(student.points, teacher.points, images.sizes, markup=images.markup)


def agreement_metrics(report: metrics.Report, split: str) -> dict[str, float]:
    """`val/agreement/nme` and `val/agreement/region/NAME`: lower is closer."""
    regions = {f"{split}/agreement/region/{name}": value for name, value in report.by_region.items()}
    return {f"{split}/agreement/nme": report.nme} | regions


def pictures(
    folder: Path,
    labelled: LandmarkSet,
    predictions: dict[str, Predictions],
    reports: dict[str, metrics.Report],
    history: dict[str, list[tuple[int, float]]] | None = None,
    expected: Reliability | None = None,
) -> list[Path]:
    """Write the figures of the last-named model, beside the others where a figure compares; return their paths."""
    from distill import figures

    label = list(predictions)[-1]
    report, own, markup = reports[label], predictions[label], labelled.markup
    made = [
        (
            "overlays",
            figures.best_median_worst(
                cast(Sequence[np.ndarray], _Images(labelled)),
                own.points,
                labelled.landmarks,
                report.per_image,
                names=labelled.names,
                markup=markup,
            ),
        ),
        ("worst", _worst(labelled, own, report)),
        ("ced", figures.ced({name: r.per_image for name, r in reports.items()})),
        (
            "error_by_point",
            figures.error_by_point(
                report.per_point,
                f"{label}: error by point",
                f"mean over {report.count} images, %",
                markup,
                report.layout,
            ),
        ),
        ("error_by_region_and_pose", figures.error_by_region_and_pose(reports)),
    ]
    if len(predictions) > 1:
        chosen = np.concatenate([which[:2] for which in figures.choose(report.per_image).values()])
        made.append(
            (
                "teacher_against_student",
                figures.teacher_against_student(
                    [labelled.image(int(i)) for i in chosen],
                    labelled.landmarks[chosen],
                    {name: p.points[chosen] for name, p in predictions.items()},
                    {name: r.per_image[chosen] for name, r in reports.items()},
                    titles=[labelled.names[i] for i in chosen],
                    markup=markup,
                ),
            )
        )
    if history:
        made.append(("learning_curves", figures.learning_curves(history, label)))
    if expected:
        made.append(("reliability", figures.reliability(expected, f"{label}: expected against true error")))
    folder.mkdir(parents=True, exist_ok=True)
    return [figures.to_png(figure, folder / f"{name}.png") for name, figure in made]


def write_json(path: Path, value: Any) -> Path:
    """Atomically, indented, in the order of the keys: regions keep that of their landmark set."""
    return write_text(path, json.dumps(value, indent=1) + "\n")


class _Images:
    """A LandmarkSet as a sequence of images, read one at a time."""

    def __init__(self, images: LandmarkSet):
        self.set = images

    def __len__(self) -> int:
        return len(self.set)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.set.image(int(index))


def _worst(labelled: LandmarkSet, predictions: Predictions, report: metrics.Report, count: int = 16):
    from distill import figures

    order = np.argsort(-report.per_image)[:count]
    return figures.overlay_sheet(
        [labelled.image(int(i)) for i in order],
        predictions.points[order],
        labelled.landmarks[order],
        titles=[f"{labelled.names[i]}  {report.per_image[i]:.2f} %" for i in order],
        title="Worst images",
        markup=labelled.markup,
    )
