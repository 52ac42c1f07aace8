"""What the student learns from its teacher: the named terms of `distill.terms`."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from torch import Tensor, nn

from distill.config import TermConfig
from distill.distillation import methods, taps
from distill.distillation.methods import Method, Outputs
from distill.distillation.taps import Tap
from distill.errors import UserError
from distill.models.landmarker import Landmarker
from distill.models.teacher import FrozenTeacher


class Term(NamedTuple):
    """The value of one distillation term."""

    raw: Tensor  # scalar
    weight: float  # at this moment of training


class TapPair(NamedTuple):
    """Where a term looks in both models; as many taps on either side, fine to coarse."""

    student: tuple[Tap, ...]
    teacher: tuple[Tap, ...]


def weight_at(term: TermConfig, progress: float) -> float:
    """The term's weight when `progress` (0..1) of training is done."""
    if term.schedule == "linear":
        return term.weight * (1 + (term.final - 1) * progress)
    if term.schedule == "cosine":
        return term.weight * (term.final + (1 - term.final) * 0.5 * (1 + math.cos(math.pi * progress)))
    if term.schedule == "warmup":
        return term.weight * min(1.0, progress / term.warmup)
    return term.weight


def check_terms(terms: dict[str, TermConfig], student: Landmarker) -> None:
    """What can be checked before there is a teacher: methods, their arguments, and the student's taps. Raises
    UserError."""
    for name, term in terms.items():
        field = f"distill.terms.{name}"
        method = methods.find(f"{field}.loss", term.loss)
        method.checked_args(f"{field}.args", term.args)
        _taps_of(f"{field}.student", term.student, method, student)


class Distiller(nn.Module):
    """Turns what a student and a teacher give for one batch into named terms.

    Its parameters (adapters) train with the student and stay outside it. The teacher is deliberately not a submodule:
    it is neither trained, moved, saved nor wrapped with the rest.
    """

    def __init__(self, terms: dict[str, TermConfig], student: Landmarker, teacher: FrozenTeacher):
        """Raises UserError naming a term that this pair of models cannot have, and for two landmark sets."""
        super().__init__()
        if not teacher.model.markup.fits(student.markup):
            raise UserError(
                f"The teacher's landmark set is {teacher.model.markup} and the student's {student.markup} "
                "(data.landmarks); expected the same set for both."
            )
        self.terms = terms
        self._teacher = [teacher]
        self._methods: dict[str, Method] = {}
        self._args: dict[str, dict[str, Any]] = {}
        self._taps: dict[str, TapPair] = {}
        self.adapters = nn.ModuleDict()
        for name, term in terms.items():
            field = f"distill.terms.{name}"
            method = self._methods[name] = methods.find(f"{field}.loss", term.loss)
            method.check(field, student, teacher.model)
            args = self._args[name] = method.checked_args(f"{field}.args", term.args)
            pair = self._taps[name] = _tap_pair(field, term, method, student, teacher.model)
            mine, theirs = ([tap.channels for tap in side] for side in pair)
            adapter = method.build_adapter(mine, theirs, args)
            if adapter is not None:
                self.adapters[name] = adapter

    @property
    def teacher(self) -> FrozenTeacher:
        return self._teacher[0]

    @property
    def student_taps(self) -> set[Tap]:
        """The student's taps of all terms; what `forward` needs of the student beside its prediction."""
        return {tap for pair in self._taps.values() for tap in pair.student}

    @property
    def teacher_taps(self) -> set[Tap]:
        return {tap for pair in self._taps.values() for tap in pair.teacher}

    @property
    def needs_logits(self) -> bool:
        """Whether a term compares heatmaps."""
        return any(method.needs_logits for method in self._methods.values())

    def teacher_outputs(self, images: Tensor) -> Outputs:
        """What the teacher gives for a batch (B, s, s, 3) uint8, without gradients.

        In contiguous memory, as it comes from a file of kept targets: the order of a sum decides its last digit.
        """
        with taps.recording(self.teacher.model, self.teacher_taps) as maps:
            prediction = self.teacher(images)
        if prediction.logits is not None:
            prediction = prediction._replace(logits=prediction.logits.contiguous())
        return Outputs(self.teacher.model, prediction, {tap: found.contiguous() for tap, found in maps.items()})

    def forward(self, student: Outputs, teacher: Outputs, progress: float) -> dict[str, Term]:
        """Named terms of one batch. All losses are computed in float32."""
        found = {}
        for name, term in self.terms.items():
            pair = self._taps[name]
            adapter = self.adapters[name] if name in self.adapters else nn.Identity()
            sides = student.at(pair.student), teacher.at(pair.teacher)
            raw = self._methods[name](*sides, adapter, self._args[name])
            found[name] = Term(raw, weight_at(term, progress))
        return found


def _tap_pair(field: str, term: TermConfig, method: Method, student: Landmarker, teacher: Landmarker) -> TapPair:
    """The taps that a term names, found in both models. Raises UserError where the method cannot compare them."""
    pair = TapPair(
        _taps_of(f"{field}.student", term.student, method, student),
        _taps_of(f"{field}.teacher", term.teacher, method, teacher),
    )
    if len(pair.student) != len(pair.teacher):
        raise UserError(
            f"{field}.teacher names {len(pair.teacher)} taps, {field}.student {len(pair.student)}; expected as many."
        )
    return pair


def _taps_of(field: str, text: str, method: Method, model: Landmarker) -> tuple[Tap, ...]:
    names = taps.split(text)
    if not method.most_taps:
        if names:
            raise UserError(f"{field} is '{text}', but {method.name} compares the heads' outputs; expected no tap.")
        return ()
    if not all(names or [""]):
        problem = f"{text!r} has an empty tap" if text else "is empty"
        raise UserError(f"{field} {problem}; a feature term needs a tap: stride:N, level:N or a module path.")
    if len(names) > method.most_taps:
        raise UserError(f"{field} names {len(names)} taps, '{text}'; {method.name} compares one.")
    if len(set(names)) < len(names):
        raise UserError(f"{field} is '{text}'; expected taps that differ.")
    found = tuple(taps.find(field, name, model) for name in names)
    sides = [tap.side for tap in found]
    if sides != sorted(sides, reverse=True):
        raise UserError(f"{field} is '{text}', of {sides} cells a side; expected fine to coarse.")
    return found
