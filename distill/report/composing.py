"""Findings -> the document."""

from __future__ import annotations

import math

from distill.errors import UserError
from distill.report import approach, experiments, galleries
from distill.report.comparing import Cast, models
from distill.report.document import Document, Number
from distill.report.facts import Findings
from distill.report.wording import (
    counted,
    listed,
    number,
    percent,
    sentence,
)


def compose(findings: Findings, title: str, made: str) -> Document:
    """Everything the report says. Raises UserError where no run has a validation error to report."""
    cast = cast_of(findings)
    main = cast.main.lead
    val = next((d.name for d in main.datasets if d.use == "validation"), main.config.data.val)
    subtitle = f"{counted(sum(len(m.runs) for m in cast.models), 'run')}"
    subtitle += f", {counted(len(findings.ablations), 'ablation')}" if findings.ablations else ""
    images = main.report.count if main.report else int(main.metrics.get("data/val_images", 0))
    subtitle += f", validated on {counted(images, 'image')} of {val}" if images else f", validated on {val}"
    parts = (
        ("Experiments", (*experiments.sections(findings, cast), *galleries.sections(findings, cast))),
        ("Approach", (*approach.sections(cast), approach.environment(cast))),
    )
    return Document(
        title or _title(cast), f"{subtitle}. {findings.source}".strip(), statement(cast), numbers(cast),
        cautions(findings, cast), parts, made, tuple(run_id for m in cast.models for run_id in m.ids),
    )  # fmt: skip


def cast_of(findings: Findings) -> Cast:
    """The runs as models, and which of them plays which part. Raises UserError as `compose` does."""
    measured = [run for run in findings.runs if math.isfinite(run.nme)]
    if not measured:
        raise UserError("None of the runs has the metric best/val/nme; expected runs of the teacher or student job.")
    return Cast(tuple(models(measured)))


def _title(cast: Cast) -> str:
    if cast.student and cast.control:
        return "Does the teacher help?"
    return {"teacher": "A teacher for facial landmarks", "control": "A landmark student without a teacher"}.get(
        cast.main.role, "A distilled landmark student"
    )


def statement(cast: Cast) -> str:
    """The answer, in one or two sentences."""
    found = experiments.comparisons(cast)
    if cast.student and found and found[0].reference is cast.control:
        return experiments.headline_words(found[0])
    main = cast.main
    text = f"The {main.title} reaches {experiments.spread_words(main)} % NME on its validation images"
    if cast.student and cast.control is None:
        return f"{text}; without a control in this report, what its teacher gave it cannot be told."
    if cast.student:
        return f"{text}; its control was measured on other images, so the two cannot be paired."
    return sentence(text)


def numbers(cast: Cast) -> tuple[Number, ...]:
    """The few large numbers, with the roles that colour them."""
    found = []
    if cast.teacher:
        found.append(Number(number(cast.teacher.nme), "teacher, NME %", cast.teacher.role))
    if cast.control:
        found.append(Number(number(cast.control.nme), "control, NME %", "control"))
    if cast.student:
        found.append(Number(number(cast.student.nme), f"{cast.student.title}, NME %", "distilled"))
        compared = next((c for c in experiments.comparisons(cast) if c.reference is cast.control), None)
        if compared:
            found.append(Number(percent(compared.result.relative, sign=True), "error, student against control"))
    metrics = cast.main.lead.metrics
    if "model/file_bytes" in metrics:
        found.append(Number(f"{metrics['model/file_bytes'] / 1e6:.2f} MB", f"{cast.main.label}, float32"))
    if latency := cast.milliseconds(cast.main):
        found.append(Number(f"{latency:.1f} ms", "an image, one CPU thread"))
    return tuple(found)


def cautions(findings: Findings, cast: Cast) -> tuple[str, ...]:
    """What a reader must know before believing the headline."""
    found = []
    comparison = next((c for c in experiments.comparisons(cast) if c.reference is cast.control), None)
    if comparison:
        if comparison.differing:
            found.append(f"Student and control differ beyond the teacher: {listed(comparison.differing)}.")
        if min(len(comparison.model.runs), len(comparison.reference.runs)) == 1:
            found.append("With one seed on a side, how much a seed moves these numbers is not known.")
    if len({run.validated_on for m in cast.models for run in m.runs}) > 1:
        found.append(
            "Not all runs were validated on the same images; their errors stand side by side but are not compared."
        )
    if cast.main.lead.tags.get("data.is_sample") == "true":
        found.append("Trained on the package's small sample: the numbers show that it works, and nothing more.")
    if any(run.tags.get("code.dirty") == "true" for m in cast.models for run in m.runs):
        found.append("Some runs were made with code that was changed after the revision that is named.")
    return (*found, *findings.remarks)
