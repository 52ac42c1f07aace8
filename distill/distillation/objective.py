"""The whole objective of a training: terms against the labels, terms against the teacher, and their weighted sum."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from distill.config import LossConfig
from distill.distillation.balance import GradientBalance
from distill.distillation.distiller import Distiller, Term
from distill.distillation.losses import coordinate, heatmap
from distill.distillation.methods import Outputs
from distill.distillation.taps import recording
from distill.distillation.targets import Targets, unpack
from distill.landmarks import IBUG68, Markup
from distill.models.landmarker import Landmarker, Prediction, to_input

EXPECTED_ERROR_WEIGHT = 0.01  # it trains only its own output, so its weight is a matter of scale


class Losses(NamedTuple):
    """One batch: total = sum of raw * weight."""

    total: Tensor  # scalar
    raw: dict[str, Tensor]  # name of a term -> scalar
    weights: dict[str, float]  # of this moment of training, scales of the balance included
    outside: Tensor  # scalar: share of points beyond what the head can represent


class Supervision(nn.Module):
    """Terms against the labels: coordinates; the heatmap where the head has one; the expected error where it predicts
    one."""

    def __init__(self, config: LossConfig, markup: Markup = IBUG68):
        super().__init__()
        self.config = config
        weights = torch.ones(markup.count)
        for region, weight in config.region_weights.items():
            weights[list(markup.regions[region])] = weight
        self.register_buffer("point_weights", weights / weights.mean(), persistent=False)

    def forward(self, student: Landmarker, prediction: Prediction, target: Tensor) -> tuple[dict[str, Term], Tensor]:
        """target: (B, P, 2) fractions of the side -> named terms, and the share of points beyond the codec's grid
        (0-d)."""
        codec, config = student.codec, self.config
        inside = student.representable(target)
        weight = inside * self.point_weights
        points = prediction.points / student.size
        value = coordinate.LOSSES[config.coordinate](points, target, weight)
        terms = {"coordinate": Term(value, config.coordinate_weight)}
        if codec is not None:
            encoded = codec.encode(target * student.size)
            value = heatmap.LABEL_LOSSES[config.heatmap](prediction.logits, encoded, weight, codec.dims)
            terms["heatmap"] = Term(value, config.heatmap_weight)
        else:
            value = coordinate.expected_error(prediction.error, points, target, weight)
            terms["expected_error"] = Term(value, EXPECTED_ERROR_WEIGHT)
        return terms, 1.0 - inside.mean()


class Objective(nn.Module):
    """Student + everything it is trained against, as one module: what DDP wraps and the optimiser updates."""

    def __init__(
        self,
        student: Landmarker,
        supervision: Supervision,
        distiller: Distiller | None = None,
        balance: GradientBalance | None = None,
    ):
        super().__init__()
        self.student, self.supervision, self.distiller, self.balance = student, supervision, distiller, balance

    def scales(self) -> dict[str, float]:
        """What the balance multiplies each distillation term's weight by; nothing without a balance."""
        return dict(self.balance.scales) if self.balance else {}

    def forward(
        self,
        images: Tensor,
        landmarks: Tensor,
        progress: float,
        teacher_images: Tensor | None = None,
        targets: Targets | None = None,
    ) -> Losses:
        """images (B, s, s, 3) uint8; landmarks (B, P, 2) in their pixels; progress: the share of training done,
        0..1; teacher_images: the same views at the teacher's size, where it does not see the student's, resampled;
        targets: what the teacher gave for them, where that was kept."""
        target = landmarks / images.shape[1]
        student_taps = self.distiller.student_taps if self.distiller else ()
        with recording(self.student, student_taps) as maps:
            prediction = self.student(to_input(images, self.student.size))
        student = Outputs(self.student, prediction, maps)
        teacher = None
        if self.distiller and targets:
            teacher = unpack(self.distiller.teacher.model, targets)
        elif self.distiller:
            teacher = self.distiller.teacher_outputs(images if teacher_images is None else teacher_images)
        # adapters are small and losses want the digits: float32 from here on
        with torch.autocast(images.device.type, enabled=False):
            terms, outside = self.supervision(self.student, prediction, target)
            if teacher is not None:
                terms |= self._balanced(terms, self.distiller(student, teacher, progress))
            total = _total(terms)
        raw = {name: term.raw for name, term in terms.items()}
        return Losses(total, raw, {name: float(term.weight) for name, term in terms.items()}, outside)

    def _balanced(self, supervised: dict[str, Term], distilled: dict[str, Term]) -> dict[str, Term]:
        if self.balance is None:
            return distilled
        scales = self.balance(self.student, _total(supervised), {name: term.raw for name, term in distilled.items()})
        return {name: term._replace(weight=term.weight * scales[name]) for name, term in distilled.items()}


def _total(terms: dict[str, Term]) -> Tensor:
    return sum(term.raw * term.weight for term in terms.values())
