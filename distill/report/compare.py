"""Seeds of one recipe as one model; which control belongs to which student; which models are compared."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from distill import config as configs
from distill import metrics
from distill.config import Config, DistillConfig
from distill.report.facts import ROLES, RunFacts

STUDENTS = ("control", "tuned", "distilled", "averaged")
# keys in which a control may differ from its student without being another experiment
NOT_COMPARED = ("seed", "teacher", "distill.", "init", "train.snapshots", "train.compile")


@dataclass(frozen=True, eq=False)
class Model:
    """One recipe, trained with one or several seeds. The figures of a model are means over its runs."""

    label: str
    role: str
    runs: tuple[RunFacts, ...]
    lead: RunFacts  # the one whose pictures are shown

    @property
    def title(self) -> str:
        """The label as it stands in a sentence."""
        return f"{self.label} student" if self.label in ("tuned", "distilled", "averaged") else self.label

    @property
    def nmes(self) -> list[float]:
        """val/nme of each run, percent."""
        return [run.nme for run in self.runs]

    @property
    def nme(self) -> float:
        """Their mean."""
        return float(np.mean(self.nmes))

    @property
    def ids(self) -> tuple[str, ...]:
        """Run ids, by seed."""
        return tuple(run.id for run in self.runs)

    @cached_property
    def reports(self) -> list[metrics.Report]:
        """Of the runs that have one."""
        return [run.report for run in self.runs if run.report is not None]

    def pooled(self) -> np.ndarray:
        """(seeds * N,) NME of each image with each seed: its distribution is the mean of the seeds' distributions."""
        return np.concatenate([report.per_image for report in self.reports])

    def per_point(self) -> np.ndarray:
        """(P,) percent."""
        return np.mean([report.per_point for report in self.reports], axis=0)


@dataclass(frozen=True, eq=False)
class Versus:
    """`model` compared with `reference` on the same images."""

    model: Model
    reference: Model
    result: metrics.Comparison  # model - reference
    differing: tuple[str, ...]  # config keys, beyond distillation itself, in which the two differ


def is_distilled(run: RunFacts) -> bool:
    """Whether a run had a teacher."""
    return run.role in ("distilled", "averaged") and bool(run.config.distill.terms or run.teacher_id)


def recipe(run: RunFacts) -> tuple[str, ...]:
    """Equal for runs that differ in their seed alone."""
    bare = dataclasses.replace(run.config, seed=0, teacher="")
    return run.role, configs.digest(bare), run.teacher_id, run.tags.get("data.train", ""), run.validated_on


def compared_values(config: Config) -> dict[str, object]:
    """What a student and its control must share: dotted key -> value."""
    bare = dataclasses.replace(configs.computing(config), distill=DistillConfig())
    return {key: value for key, value in configs.flatten(bare).items() if not key.startswith(NOT_COMPARED)}


def differing(a: RunFacts, b: RunFacts) -> tuple[str, ...]:
    """`key (value of a against value of b)` where two runs differ beyond distillation and seed."""
    one, other = compared_values(a.config), compared_values(b.config)
    keys = dict.fromkeys((*one, *other))
    found = [f"{key} ({one.get(key)} against {other.get(key)})" for key in keys if one.get(key) != other.get(key)]
    if a.tags.get("data.train") != b.tags.get("data.train"):
        found.append("the training data")
    return tuple(found)


# ---------------------------------------------------------------------------------------------------- choosing


def nearest_control(student: RunFacts, runs: Sequence[RunFacts]) -> RunFacts | None:
    """The control that differs from the student in the fewest keys; among equals the one with its seed."""
    controls = [run for run in runs if run.role == "control" and run.validated_on == student.validated_on]
    return min(
        controls,
        key=lambda run: (len(differing(student, run)), run.config.seed != student.config.seed, run.config.seed),
        default=None,
    )


def siblings(run: RunFacts, runs: Sequence[RunFacts]) -> list[RunFacts]:
    """The runs of the same recipe, by seed, `run` among them; of runs with one seed the better."""
    by_seed = {run.config.seed: run}
    for other in sorted(runs, key=lambda other: other.nme):
        if recipe(other) == recipe(run):
            by_seed.setdefault(other.config.seed, other)
    return [by_seed[seed] for seed in sorted(by_seed)]


def choose(runs: Sequence[RunFacts]) -> list[RunFacts]:
    """Of an experiment's runs the ones to report: the best distilled student, its control, each with its other seeds.

    Without a distilled student the best control, without any student the best teacher. Only runs that were validated
    on the set that most of them share are comparable; the others do not count.
    """
    sets = Counter(run.validated_on for run in ([run for run in runs if run.role in STUDENTS] or runs))
    usual = sets.most_common(1)[0][0] if sets else ""
    runs = [run for run in runs if run.validated_on == usual and math.isfinite(run.nme)]
    distilled = [run for run in runs if is_distilled(run)]
    pool = distilled or [run for run in runs if run.role == "control"] or runs
    if not pool:
        return []
    best = min(pool, key=lambda run: run.nme)
    control = nearest_control(best, runs) if distilled else None
    return siblings(best, runs) + (siblings(control, runs) if control else [])


def models(runs: Sequence[RunFacts]) -> list[Model]:
    """Runs as models, teachers first. Labels are the roles, with the config's name where a role occurs twice."""
    groups: dict[tuple[str, ...], list[RunFacts]] = {}
    for run in runs:
        groups.setdefault(recipe(run), []).append(run)
    ordered = sorted(groups.values(), key=lambda group: (ROLES.index(group[0].role), -np.mean([r.nme for r in group])))
    roles = [group[0].role for group in ordered]
    labels = [
        role if roles.count(role) == 1 else f"{role} {group[0].config.name.removeprefix(f'{role}-')}"
        for role, group in zip(roles, ordered, strict=True)
    ]
    labels = [
        label if labels.count(label) == 1 else f"{label} {group[0].id[:6]}"
        for label, group in zip(labels, ordered, strict=True)
    ]
    best = [min(group, key=lambda run: run.nme) for group in ordered]
    student = next((run for run in reversed(best) if is_distilled(run)), None)

    def lead(group: list[RunFacts], top: RunFacts) -> RunFacts:
        """A control is shown with the seed of the student beside it."""
        seed = student.config.seed if student and top.role == "control" else None
        return next((run for run in group if run.config.seed == seed), top)

    return [
        Model(label, group[0].role, tuple(sorted(group, key=lambda run: run.config.seed)), lead(group, top))
        for label, group, top in zip(labels, ordered, best, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class Cast:
    """Which model plays which part in a report."""

    models: tuple[Model, ...]

    @cached_property
    def student(self) -> Model | None:
        """The best student with a teacher."""
        return min((m for m in self.models if is_distilled(m.lead)), key=lambda m: m.nme, default=None)

    @cached_property
    def control(self) -> Model | None:
        """The student's own; without a distilled student the best control."""
        controls = [m for m in self.models if m.role == "control"]
        if self.student:
            nearest = nearest_control(self.student.lead, [run for m in controls for run in m.runs])
            return next((m for m in controls if nearest in m.runs), None)
        return min(controls, key=lambda m: m.nme, default=None)

    @cached_property
    def teacher(self) -> Model | None:
        """The student's own; without a distilled student the best teacher."""
        if self.student:
            return next((m for m in self.models if self.student.lead.teacher_id in m.ids), None)
        return min((m for m in self.models if m.role == "teacher"), key=lambda m: m.nme, default=None)

    @cached_property
    def main(self) -> Model:
        """The model that the report is about."""
        return self.student or self.control or self.models[-1]

    @cached_property
    def trio(self) -> list[Model]:
        """Teacher, control and student, as far as they are there; else the main model alone."""
        return [m for m in (self.teacher, self.control, self.student) if m] or [self.main]

    @cached_property
    def shown(self) -> list[Model]:
        """The models that a chart has room for."""
        fitting = [m for m in self.models if m.lead.markup.fits(self.main.lead.markup)]
        return fitting if len(fitting) <= 6 else self.trio

    @cached_property
    def comparisons(self) -> list[Versus]:
        """The student against its control and its teacher; without a student, the control against the teacher."""
        student, control, teacher = self.student, self.control, self.teacher
        pairs = [(student, control), (student, teacher)] if student else [(control, teacher)]
        return [found for a, b in pairs if a and b and a is not b and (found := versus(a, b))]

    @cached_property
    def headline(self) -> Versus | None:
        """The student against its control."""
        return next((found for found in self.comparisons if found.reference is self.control and self.student), None)


def versus(model: Model, reference: Model) -> Versus | None:
    """None where the two were not measured on the same images."""
    ours, theirs = ([run for run in m.runs if run.report and run.errors] for m in (model, reference))
    same = {(run.validated_on, run.report.count, run.report.normalizer) for run in (*ours, *theirs)}
    if not ours or not theirs or len(same) != 1 or ours[0].report.count < 2:
        return None
    rows = [[run.errors for run in runs] for runs in (ours, theirs)]
    seeds: list[Sequence[int]] = [[run.config.seed for run in runs] for runs in (ours, theirs)]
    if reference.role != "control" or any(len(set(some)) < len(some) for some in seeds):
        seeds = [range(len(ours)), range(-len(theirs), 0)]  # no pairs: a teacher's seed is not its student's
    result = metrics.compare_runs(rows[0], rows[1], seeds[0], seeds[1])
    return Versus(model, reference, result, differing(model.lead, reference.lead))
