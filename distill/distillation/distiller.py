"""What the student learns from: labels, and a teacher through named terms."""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.config import LossConfig, TermConfig
from distill.distillation import methods, taps
from distill.distillation.balance import GradientBalance
from distill.distillation.losses import coordinate as landmark_losses
from distill.distillation.losses import heatmap as heatmap_losses
from distill.distillation.losses import relation
from distill.distillation.methods import METHODS, Method
from distill.distillation.taps import recording
from distill.errors import UserError
from distill.landmarks import IBUG68, Markup
from distill.models.codec import resample
from distill.models.landmarker import Landmarker, Prediction, to_input
from distill.models.teacher import FrozenTeacher

DIMS = {"heatmap": (-2, -1), "simcc": (-1,)}  # axes of one distribution
SIDES = ("student", "teacher")


class Term(NamedTuple):
    raw: Tensor  # scalar
    weight: float  # at this moment of training


def weight_at(term: TermConfig, progress: float) -> float:
    """The term's weight when `progress` (0..1) of training is done."""
    if term.schedule == "linear":
        return term.weight * (1 + (term.final - 1) * progress)
    if term.schedule == "cosine":
        return term.weight * (term.final + (1 - term.final) * 0.5 * (1 + math.cos(math.pi * progress)))
    if term.schedule == "warmup":
        return term.weight * min(1.0, progress / term.warmup)
    return term.weight


# ------------------------------------------------------------------------------------------------- supervised terms


class Supervision(nn.Module):
    """Terms against the labels: coordinates; the heatmap where the head has one; the expected error where it predicts one."""

    def __init__(self, config: LossConfig, markup: Markup = IBUG68):
        super().__init__()
        self.config = config
        weights = torch.ones(markup.count)
        for region, weight in config.region_weights.items():
            weights[list(markup.regions[region])] = weight
        self.register_buffer("point_weights", weights / weights.mean(), persistent=False)

    def forward(self, student: Landmarker, prediction: Prediction, target: Tensor) -> tuple[dict[str, Term], Tensor]:
        """target: (B, P, 2) fractions of the side -> named terms, and the share of points beyond the codec's grid (0-d)."""
        codec, config = student.codec, self.config
        pixels = target * student.size
        inside = _representable(student, target)
        weight = inside * self.point_weights
        points = prediction.points / student.size
        coordinate = landmark_losses.LOSSES[config.coordinate](points, target, weight)
        terms = {"coordinate": Term(coordinate, config.coordinate_weight)}
        if codec is not None:
            loss = heatmap_losses.LABEL_LOSSES[config.heatmap]
            value = loss(prediction.logits, codec.encode(pixels), weight, DIMS[codec.kind])
            terms["heatmap"] = Term(value, config.heatmap_weight)
        else:
            value = landmark_losses.expected_error(prediction.error, points, target, weight)
            # it steers only its own output, so its weight is a matter of scale
            terms["expected_error"] = Term(value, 0.01)
        return terms, 1.0 - inside.mean()


def _representable(student: Landmarker, points: Tensor) -> Tensor:
    """(B, P, 2) fractions of the side -> (B, P): 1 where the student's head can place the point, else 0."""
    if student.codec is None:
        return torch.ones_like(points[..., 0])
    return student.codec.representable(points * student.size).float()


# ------------------------------------------------------------------------------------------------- teacher's terms


class Distiller(nn.Module):
    """Turns a student's and a teacher's view of one batch into named terms.

    Its parameters (adapters) train with the student and stay outside it. The teacher is deliberately not a submodule: it is
    neither trained, moved, saved nor wrapped with the rest.
    """

    def __init__(self, terms: dict[str, TermConfig], student: Landmarker, teacher: FrozenTeacher):
        """Checks every term and probes adapter sizes by a dry forward. Raises UserError naming the term that cannot be, and
        where the teacher has another landmark set."""
        super().__init__()
        if not teacher.model.markup.fits(student.markup):
            raise UserError(
                f"The teacher's landmark set is {teacher.model.markup} and the student's {student.markup} (data.landmarks); "
                "expected the same set for both."
            )
        self.terms = terms
        self._teacher = [teacher]
        found = {name: methods.find(f"distill.terms.{name}", term.loss) for name, term in terms.items()}
        self.taps = {name: _taps(f"distill.terms.{name}", term, found[name]) for name, term in terms.items()}
        self.student_paths = self._paths(0, student)
        self.teacher_paths = self._paths(1, teacher.model)
        self.adapters = nn.ModuleDict()
        with torch.no_grad():
            device = next(teacher.parameters()).device
            blank = torch.zeros(1, student.size, student.size, 3, dtype=torch.uint8)
            was_training = student.training
            with recording(student.eval(), self.student_paths) as seen_s:
                pred_s = student(to_input(blank, student.size))
            student.train(was_training)
            with recording(teacher.model, self.teacher_paths) as seen_t:
                pred_t = teacher(blank.to(device))
        for name, term in terms.items():
            field, method = f"distill.terms.{name}", found[name]
            if method.sees == "heatmaps":
                _check_heads(field, student, teacher.model)
            methods.check_args(field, term.loss, term.args)
            mine, theirs = (
                taps.probe(f"{field}.{side}", tapped, side, prediction, seen)
                for side, tapped, prediction, seen in zip(
                    SIDES, self.taps[name], (pred_s, pred_t), (seen_s, seen_t), strict=True
                )
            )
            if method.adapter is not None:
                channels = (mine, theirs) if method.sees == "levels" else (mine[0], theirs[0])
                self.adapters[name] = method.adapter(*channels, **method.own(method.adapter, term.args))

    @property
    def teacher(self) -> FrozenTeacher:
        return self._teacher[0]

    def look(self, images: Tensor) -> tuple[Prediction, dict[str, Tensor]]:
        """The teacher's prediction and taps for a batch (B, s, s, 3) uint8."""
        with recording(self.teacher.model, self.teacher_paths) as seen:
            prediction = self.teacher(images)
        return prediction, seen

    def forward(
        self,
        student: Landmarker,
        prediction: Prediction,
        seen: dict[str, Tensor],
        teacher_prediction: Prediction,
        teacher_seen: dict[str, Tensor],
        progress: float,
    ) -> dict[str, Term]:
        """Named terms of one batch. All losses are computed in float32."""
        terms = {}
        for name, term in self.terms.items():
            method = METHODS[term.loss]
            loss = partial(method.loss, **method.own(method.loss, term.args))
            if method.sees == "points":
                target = teacher_prediction.points.float() / self.teacher.model.size
                weight = teacher_prediction.confidence.float() * _representable(student, target)
                raw = loss(prediction.points / student.size, target, weight)
            elif method.sees == "heatmaps":
                dims = DIMS[student.codec.kind]
                target = resample(
                    teacher_prediction.logits.float(), self.teacher.model.codec.grid, student.codec.grid, dims
                )
                raw = loss(prediction.logits.float(), target, dims)
            else:
                mine = [m.float() for m in taps.pick(self.taps[name][0], prediction, seen)]
                theirs = [m.float() for m in taps.pick(self.taps[name][1], teacher_prediction, teacher_seen)]
                raw = loss(*self._compared(name, term, method, mine, theirs))
            terms[name] = Term(raw, weight_at(term, progress))
        return terms

    def _compared(self, name: str, term: TermConfig, method: Method, mine: list[Tensor], theirs: list[Tensor]):
        """The tapped maps of both sides -> what the method's loss takes of each."""
        if method.sees == "vectors":
            vectors = partial(relation.vectors, **method.own(relation.vectors, term.args))
            return relation.gathered(vectors(mine[0])), relation.gathered(vectors(theirs[0]))
        theirs = [_as_large(t, m) for m, t in zip(mine, theirs, strict=True)]
        adapter = self.adapters[name] if name in self.adapters else nn.Identity()
        return (adapter(mine), theirs) if method.sees == "levels" else (adapter(mine[0]), theirs[0])

    def _paths(self, side: int, model: nn.Module) -> set[str]:
        """Module paths tapped on one side, checked to exist."""
        for name, both in self.taps.items():
            for tap in both[side]:
                taps.check_module(f"distill.terms.{name}.{SIDES[side]}", tap, SIDES[side], model)
        return set().union(*(taps.module_paths(both[side]) for both in self.taps.values()))


def _taps(field: str, term: TermConfig, method: Method) -> tuple[list[str], list[str]]:
    """The term's taps on both sides: as many as its method compares, and as many of the teacher as of the student."""
    mine, theirs = taps.split(term.student), taps.split(term.teacher)
    for side, found in zip(SIDES, (mine, theirs), strict=True):
        text = getattr(term, side)
        if found and not method.taps:
            raise UserError(
                f"{field}.{side} is '{text}', but {term.loss} compares the heads' outputs; expected no tap."
            )
        if method.taps and not all(found or [""]):
            raise UserError(
                f"{field}.{side} {f'{text!r} has an empty tap' if text else 'is empty'}; a feature term needs a tap: level:N "
                f"or a module path."
            )
        if len(found) > 1 and method.sees != "levels":
            raise UserError(f"{field}.{side} names {len(found)} taps, '{text}'; {term.loss} compares one.")
    if len(mine) != len(theirs):
        raise UserError(f"{field}.teacher names {len(theirs)} taps, {field}.student {len(mine)}; expected as many.")
    return mine, theirs


def _check_heads(field: str, student: Landmarker, teacher: Landmarker) -> None:
    kinds = [m.codec.kind if m.codec else "regression" for m in (student, teacher)]
    if kinds[0] != kinds[1] or kinds[0] == "regression":
        raise UserError(
            f"{field} compares heatmaps, but the student's head is {kinds[0]} and the teacher's {kinds[1]}; expected "
            f"both to be heatmap, or both simcc."
        )


def _as_large(maps: Tensor, other: Tensor) -> Tensor:
    """The teacher's map at the h and w of the student's: averaged where it shrinks, else interpolated."""
    if maps.shape[-2:] == other.shape[-2:]:
        return maps
    if maps.shape[-1] > other.shape[-1]:
        return F.adaptive_avg_pool2d(maps, other.shape[-2:])
    return F.interpolate(maps, other.shape[-2:], mode="bilinear")


# ------------------------------------------------------------------------------------------------- all of it


class Objective(nn.Module):
    """Student + everything it is trained against, as one module: what DDP wraps and the optimiser sees."""

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
        self, images: Tensor, landmarks: Tensor, progress: float
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, float], Tensor]:
        """images (B, s, s, 3) uint8, landmarks (B, P, 2) in their pixels -> total, raw terms, weights, share outside.

        The weights are those of this moment, with their scales: total = sum of raw * weight.
        """
        device_type = images.device.type
        target = landmarks / images.shape[1]
        paths = self.distiller.student_paths if self.distiller else set()
        with recording(self.student, paths) as seen:
            prediction = self.student(to_input(images, self.student.size))
        taught = self.distiller.look(images) if self.distiller else None
        # adapters are small and losses want the digits: float32 from here on
        with torch.autocast(device_type, enabled=False):
            terms, outside = self.supervision(self.student, prediction, target)
            if taught is not None:
                seen = {path: tensor.float() for path, tensor in seen.items()}
                prediction = prediction._replace(features=tuple(f.float() for f in prediction.features))
                taught_terms = self.distiller(self.student, prediction, seen, *taught, progress)
                terms |= self._balanced(terms, taught_terms)
            total = _total(terms)
        raw = {name: term.raw for name, term in terms.items()}
        return total, raw, {name: float(term.weight) for name, term in terms.items()}, outside

    def _balanced(self, supervised: dict[str, Term], taught: dict[str, Term]) -> dict[str, Term]:
        if self.balance is None:
            return taught
        scales = self.balance(self.student, _total(supervised), {name: term.raw for name, term in taught.items()})
        return {name: term._replace(weight=term.weight * scales[name]) for name, term in taught.items()}


def _total(terms: dict[str, Term]) -> Tensor:
    return sum(term.raw * term.weight for term in terms.values())
