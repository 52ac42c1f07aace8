"""What the student learns from: labels, and a teacher through named terms. Taps, adapters, schedules, nothing else."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.config import LossConfig, TermConfig
from distill.errors import UserError
from distill.landmarks import NUM_POINTS, REGIONS
from distill.losses import feature as feature_losses
from distill.losses import heatmap as heatmap_losses
from distill.losses import landmark as landmark_losses
from distill.models.codec import resample
from distill.models.landmarker import Landmarker, Prediction, to_input
from distill.models.teacher import FrozenTeacher

DIMS = {"heatmap": (-2, -1), "simcc": (-1,)}  # axes of one distribution


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

    def __init__(self, config: LossConfig):
        super().__init__()
        self.config = config
        weights = torch.ones(NUM_POINTS)
        for region, weight in config.region_weights.items():
            weights[list(REGIONS[region])] = weight
        self.register_buffer("point_weights", weights / weights.mean(), persistent=False)

    def forward(self, student: Landmarker, prediction: Prediction, target: Tensor) -> tuple[dict[str, Term], Tensor]:
        """target: (B, P, 2) fractions of the side -> named terms, and the share of points beyond the codec's grid (0-d)."""
        codec, config = student.codec, self.config
        pixels = target * student.size
        inside = codec.representable(pixels) if codec else torch.ones_like(target[..., 0], dtype=torch.bool)
        weight = inside.float() * self.point_weights
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
        return terms, 1.0 - inside.float().mean()


# ------------------------------------------------------------------------------------------------- teacher's terms


@contextmanager
def recording(model: nn.Module, paths: set[str]) -> Iterator[dict[str, Tensor]]:
    """The outputs of the named modules during the forward passes inside the block."""
    seen: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(path).register_forward_hook(lambda _m, _i, out, path=path: seen.__setitem__(path, out))
        for path in paths
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _is_level(tap: str) -> bool:
    return tap.startswith("level:")


def _pick(tap: str, prediction: Prediction, seen: dict[str, Tensor]) -> Tensor:
    return prediction.features[int(tap[6:])] if _is_level(tap) else seen[tap]


class Distiller(nn.Module):
    """Turns a student's and a teacher's view of one batch into named terms.

    Its parameters (adapters) train with the student and stay outside it. The teacher is deliberately not a submodule: it is
    neither trained, moved, saved nor wrapped with the rest.
    """

    def __init__(self, terms: dict[str, TermConfig], student: Landmarker, teacher: FrozenTeacher):
        """Checks every term and probes adapter sizes by a dry forward. Raises UserError naming the term that cannot be."""
        super().__init__()
        self.terms = terms
        self._teacher = [teacher]
        self.student_paths = self._paths("student", student)
        self.teacher_paths = self._paths("teacher", teacher.model)
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
            field = f"distill.terms.{name}"
            if term.loss in heatmap_losses.LOSSES:
                self._check_heatmap(field, term, student, teacher.model)
            elif term.loss in feature_losses.LOSSES:
                s, t = self._probe(field, term, pred_s, seen_s, pred_t, seen_t)
                if term.loss in feature_losses.NEEDS_ADAPTER:
                    self.adapters[name] = nn.Conv2d(s.shape[1], t.shape[1], 1)
            else:
                known = sorted({*heatmap_losses.LOSSES, *feature_losses.LOSSES})
                raise UserError(f"{field}.loss '{term.loss}' is unknown; expected one of {', '.join(known)}.")
            self._check_args(field, term)

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
            if term.loss in heatmap_losses.LOSSES:
                dims = DIMS[student.codec.kind]
                target = resample(
                    teacher_prediction.logits.float(), self.teacher.model.codec.grid, student.codec.grid, dims
                )
                raw = heatmap_losses.LOSSES[term.loss](prediction.logits.float(), target, dims, **term.args)
            else:
                s = _pick(term.student, prediction, seen)
                t = _pick(term.teacher, teacher_prediction, teacher_seen).float()
                if name in self.adapters:
                    s = self.adapters[name](s)
                s = s.float()
                if s.shape[-2:] != t.shape[-2:]:
                    shrink = t.shape[-1] > s.shape[-1]
                    t = (
                        F.adaptive_avg_pool2d(t, s.shape[-2:])
                        if shrink
                        else F.interpolate(t, s.shape[-2:], mode="bilinear")
                    )
                raw = feature_losses.LOSSES[term.loss](s, t, **term.args)
            terms[name] = Term(raw, weight_at(term, progress))
        return terms

    def _paths(self, side: str, model: nn.Module) -> set[str]:
        """Module paths tapped on one side, checked to exist."""
        modules = dict(model.named_modules())
        paths = set()
        for name, term in self.terms.items():
            tap = getattr(term, side)
            if not tap or _is_level(tap):
                continue
            if tap not in modules:
                close = difflib.get_close_matches(tap, modules, n=3, cutoff=0.3)
                raise UserError(
                    f"distill.terms.{name}.{side} '{tap}' is no module of the {side} ({model.config.backbone}); expected "
                    f"level:N or a module path such as {', '.join(close) or 'backbone'}."
                )
            paths.add(tap)
        return paths

    @staticmethod
    def _probe(field, term: TermConfig, pred_s, seen_s, pred_t, seen_t) -> tuple[Tensor, Tensor]:
        found = []
        for side, prediction, seen in (("student", pred_s, seen_s), ("teacher", pred_t, seen_t)):
            tap = getattr(term, side)
            if not tap:
                raise UserError(f"{field}.{side} is empty; a feature term needs a tap: level:N or a module path.")
            levels = len(prediction.features)
            if _is_level(tap) and not (tap[6:].isdigit() and int(tap[6:]) < levels):
                raise UserError(f"{field}.{side} is '{tap}'; the {side}'s levels are level:0 to level:{levels - 1}.")
            if not _is_level(tap) and tap not in seen:
                raise UserError(
                    f"{field}.{side} '{tap}' takes no part in a forward pass; expected a module that is called."
                )
            value = _pick(tap, prediction, seen)
            # inputs are square, so a map that is not is a channels-last one, (B, h, w, C)
            if not isinstance(value, Tensor) or value.dim() != 4 or value.shape[2] != value.shape[3]:
                shape = tuple(value.shape) if isinstance(value, Tensor) else f"a {type(value).__name__}"
                raise UserError(f"{field}.{side} '{tap}' gives {shape}; expected a square feature map (B, C, h, w).")
            found.append(value)
        return found[0], found[1]

    @staticmethod
    def _check_heatmap(field: str, term: TermConfig, student: Landmarker, teacher: Landmarker) -> None:
        for side in ("student", "teacher"):
            if tap := getattr(term, side):
                raise UserError(
                    f"{field}.{side} is '{tap}', but {term.loss} compares the heads' heatmaps; expected no tap."
                )
        kinds = [m.codec.kind if m.codec else "regression" for m in (student, teacher)]
        if kinds[0] != kinds[1] or kinds[0] == "regression":
            raise UserError(
                f"{field} compares heatmaps, but the student's head is {kinds[0]} and the teacher's {kinds[1]}; expected "
                f"both to be heatmap, or both simcc."
            )

    @staticmethod
    def _check_args(field: str, term: TermConfig) -> None:
        loss = {**heatmap_losses.LOSSES, **feature_losses.LOSSES}[term.loss]
        own = [p.name for p in inspect.signature(loss).parameters.values() if p.default is not inspect.Parameter.empty]
        for key, value in term.args.items():
            if key not in own:
                raise UserError(f"{field}.args.{key} is unknown; {term.loss} takes {', '.join(own) or 'no arguments'}.")
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise UserError(f"{field}.args.{key} is {value!r}; expected a number above 0.")


# ------------------------------------------------------------------------------------------------- all of it


class Objective(nn.Module):
    """Student + everything it is trained against, as one module: what DDP wraps and the optimiser sees."""

    def __init__(self, student: Landmarker, supervision: Supervision, distiller: Distiller | None = None):
        super().__init__()
        self.student, self.supervision, self.distiller = student, supervision, distiller

    def forward(
        self, images: Tensor, landmarks: Tensor, progress: float
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, float], Tensor]:
        """images (B, s, s, 3) uint8, landmarks (B, P, 2) in their pixels -> total, raw terms, weights, share outside."""
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
                terms |= self.distiller(self.student, prediction, seen, *taught, progress)
            total = sum(term.raw * term.weight for term in terms.values())
        raw = {name: term.raw for name, term in terms.items()}
        return total, raw, {name: float(term.weight) for name, term in terms.items()}, outside
