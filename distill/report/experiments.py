"""Results, comparisons, ablations and pictures: what the runs showed, as sections of the document."""

from __future__ import annotations

import numpy as np

from distill.figures import report as charts
from distill.figures.style import YAW_LABELS
from distill.metrics import FAILURE
from distill.report import ablations
from distill.report.approach import ids_caption, minutes_of
from distill.report.comparing import Cast, Comparison, Model, compare
from distill.report.document import (
    COULD,
    FIRST,
    MAY,
    PAGE,
    Chart,
    Column,
    Passage,
    Row,
    Section,
    Table,
)
from distill.report.facts import Findings, RunFacts
from distill.report.wording import (
    NONE,
    THIN,
    counted,
    interval,
    listed,
    number,
    over_seeds,
    p_value,
    p_words,
    percent,
    short_ids,
)

TERM_COLOURS = ("#2a9d8f", "#b5487e", "#c9a227", "#6a4c93", "#4bb3d1", "#5c7f3a", "#d1495b", "#9c6b4f")


def sections(findings: Findings, cast: Cast) -> tuple[Section, ...]:
    found = (
        results(findings, cast), *ablations.sections(findings.ablations, cast.main.ids), by_point(cast), errors(cast),
        learning(cast), agreement(cast),
    )  # fmt: skip
    return tuple(section for section in found if section and section.blocks)


# ---------------------------------------------------------------------------------------------------- results


def results(findings: Findings, cast: Cast) -> Section:
    columns = (
        Column("model"), Column("seed", numeric=True), Column("NME, %", numeric=True), Column("median", numeric=True),
        Column("fail, %", numeric=True), Column("AUC", numeric=True), Column("MB", numeric=True),
        Column("M params", numeric=True), Column("MMACs", numeric=True), Column("ms", numeric=True), Column("backbone"),
        Column("epochs", numeric=True), Column("minutes", numeric=True, page_only=True), Column("run", mono=True),
    )  # fmt: skip
    rows = []
    for model in cast.models:
        strong = model is cast.student
        if len(model.runs) > 1:
            cells = [""] * len(columns)
            cells[0], cells[2] = f"{model.label}, mean of {len(model.runs)}", spread_words(model)
            rows.append(Row(tuple(cells), model.role, strong))
        rows.extend(Row(_result_cells(model, run), model.role, strong and len(model.runs) == 1) for run in model.runs)
    normaliser = next((r.normalizer for m in cast.models for r in m.reports), "image")
    by = {"image": "the root of the image's area", "bbox": "the root of the face box's area"}.get(
        normaliser, "the eyes' distance"
    )
    table = Table(
        "results", "Results on the validation set", columns, tuple(rows), wide=True, pdf_rows=18,
        caption=f"NME: mean distance of the {cast.main.lead.markup.count} points over {by}. fail: images above {FAILURE:g} %. AUC: area under the "
        f"cumulative error up to {FAILURE:g} %. MB: float32 file. ms: one image, one CPU thread, as measured beside the "
        "training.",
    )  # fmt: skip
    blocks = [table, *_comparisons(cast), *_cost(findings, cast), *_cumulative(cast)]
    if findings.others:
        blocks.append(_others(findings))
    return Section("results", "Results", tuple(blocks))


def _result_cells(model: Model, run: RunFacts) -> tuple[str, ...]:
    m = run.metrics
    epochs = run.history.get("val/nme")
    minutes = minutes_of(run)
    return (
        model.label, str(run.config.seed), number(run.nme), number(m.get("best/val/median")),
        number(100 * m.get("best/val/failure_rate", np.nan), 1), number(m.get("best/val/auc")),
        number(m.get("model/file_bytes", np.nan) / 1e6, 2), number(m.get("model/parameters", np.nan) / 1e6, 2),
        number(m.get("model/mmacs"), 0), number(m.get("model/latency_ms"), 1), run.config.model.backbone,
        str(epochs[-1][0]) if epochs else NONE, number(minutes, 0) if minutes else NONE, run.id,
    )  # fmt: skip


def spread_words(model: Model) -> str:
    return over_seeds([run.nme for run in model.runs])


def comparisons(cast: Cast) -> list[Comparison]:
    """The student against its control and its teacher; without a student, the control against the teacher."""
    pairs = (
        [(cast.student, cast.control), (cast.student, cast.teacher)] if cast.student else [(cast.control, cast.teacher)]
    )
    return [found for a, b in pairs if a and b and a is not b and (found := compare(a, b))]


def _comparisons(cast: Cast) -> list:
    found = comparisons(cast)
    if not found:
        return []
    rows = [
        Row(
            (f"{c.model.label} − {c.reference.label}", number(c.result.mean, sign=True), interval(c.result.low, c.result.high),
             p_value(c.result.p), percent(c.result.relative, sign=True), f"{c.seeds[0]} / {c.seeds[1]}",
             f"{short_ids(c.model.ids)} − {short_ids(c.reference.ids)}"),
            c.model.role,
        )
        for c in found
    ]  # fmt: skip
    return [Table(
        "comparisons", "Is it more than luck?",
        (Column("comparison"), Column("difference", numeric=True), Column("95 % interval", numeric=True),
         Column("p", numeric=True), Column("relative", numeric=True), Column("seeds", numeric=True), Column("runs", mono=True)),
        tuple(rows), wide=True,
        caption=f"Difference in NME, negative where the first is better. Paired bootstrap over {found[0].images} images, "
        "10,000 resamples; errors are averaged over seeds first. It tells the luck of the images, not that of training.",
    )]  # fmt: skip


def _others(findings: Findings) -> Table:
    columns = (
        Column("run"), Column("role"), Column("backbone"), Column("seed", numeric=True), Column("MB", numeric=True),
        Column("ms", numeric=True), Column("NME, %", numeric=True), Column("id", mono=True),
    )  # fmt: skip
    rows = [
        Row((r.name, r.role, r.config.model.backbone, str(r.config.seed), number(r.metrics.get("model/file_bytes", np.nan) / 1e6, 2),
             number(r.metrics.get("model/latency_ms"), 1), number(r.nme), r.id), r.role)
        for r in sorted(findings.others, key=lambda run: run.nme)
    ]  # fmt: skip
    return Table(
        "others", "Other runs of the experiment", columns, tuple(rows), rank=MAY, wide=True, pdf_rows=8,
        caption="Finished runs that no other part of this report compares.",
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------- errors


def _shown(cast: Cast) -> list[Model]:
    """The models that a chart has room for."""
    shown = [m for m in cast.models if m.reports and m.lead.markup.fits(cast.main.lead.markup)]
    return shown if len(shown) <= 6 else [m for m in cast.trio if m.reports]


def _cumulative(cast: Cast) -> list[Chart]:
    shown = _shown(cast)
    if not shown:
        return []
    return [Chart(
        "ced", "How many images are at least this good?", charts.cumulative({m.label: m.pooled() for m in shown}),
        f"Cumulative error distribution. {ids_caption(shown)}", COULD,
        describes="Curves of the share of images at or below an error; further up and left is better.",
    )]  # fmt: skip


def errors(cast: Cast) -> Section | None:
    shown = _shown(cast)
    if not shown:
        return None
    ids = ids_caption(shown)
    regions = [name for name in cast.main.lead.markup.regions if all(name in m.by_region() for m in shown)]
    values = {m.label: [m.nme, *(m.by_region()[r] for r in regions)] for m in shown}
    blocks = [_bars("regions", "Error by region of the face", ["all", *regions], values, ids)]
    by_yaw = {m.label: m.by_yaw() for m in shown}
    bins = [name for name in YAW_LABELS if any(name in found for found in by_yaw.values())]
    if bins:
        counts = {name: next(found[name][1] for found in by_yaw.values() if name in found) for name in bins}
        values = {k: [found[b][0] if b in found else np.nan for b in bins] for k, found in by_yaw.items()}
        names = [f"{YAW_LABELS[name]}\nn = {counts[name]}" for name in bins]
        blocks.append(_bars("yaw", "Error by head yaw", names, values, ids))
    return Section("errors", "Where the error is", tuple(blocks))


def _bars(key: str, title: str, groups: list[str], values: dict[str, list[float]], caption: str) -> Chart:
    words = [f"{label} {', '.join(number(value, 2) for value in found)}" for label, found in values.items()]
    described = f"Bars for {', '.join(name.splitlines()[0] for name in groups)}: {'; '.join(words)}."
    return Chart(key, title, charts.bars(groups, values), caption, COULD, describes=described)


def by_point(cast: Cast) -> Section | None:
    """Errors of the points on the mean face: control, student, and the difference."""
    markup = cast.main.lead.markup
    pair = [m for m in (cast.control, cast.student) if m and m.reports and m.lead.markup.fits(markup)]
    pair = pair or [m for m in [cast.main] if m.reports]
    if not pair:
        return None
    values = [m.per_point() for m in pair]
    drawn = {"markup": markup, "layout": pair[0].reports[0].layout}
    top = float(np.ceil(2 * np.max(values)) / 2)
    blocks = [
        Chart(f"face-{i}", model.label.capitalize(), charts.face(found, top, **drawn), ids_caption([model]), FIRST, small=True,
              describes=f"Mean error of each landmark on a mean face, {model.label}.")
        for i, (model, found) in enumerate(zip(pair, values, strict=True))
    ]  # fmt: skip
    if len(pair) == 2:
        change = values[1] - values[0]
        reach = max(0.1, float(np.ceil(10 * np.abs(change).max()) / 10))
        better = int((change < 0).sum())
        blocks.append(Chart(
            "face-change", f"{pair[1].label.capitalize()} − {pair[0].label}", charts.face(change, reach, True, **drawn),
            f"Green: better with a teacher ({better} of {markup.count} points). {ids_caption(pair)}", FIRST, small=True,
            describes="Difference of the error of each landmark on a mean face.",
        ))  # fmt: skip
    return Section(
        "points", "Error of each landmark", tuple(blocks),
        "Mean error in percent, drawn on the mean face; larger and darker is worse.", "Landmarks",
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------- the rest


def _cost(findings: Findings, cast: Cast) -> list[Chart]:
    main = [
        charts.Bubble(m.label, m.lead.metrics["model/file_bytes"] / 1e6, m.nme, latency)
        for m in cast.models
        if (latency := cast.milliseconds(m)) and "model/file_bytes" in m.lead.metrics
    ]
    if not main:
        return []
    top = 1.25 * max(bubble.nme for bubble in main)
    known = {"model/file_bytes", "model/latency_ms", "best/val/nme"}
    comparable = [
        charts.Bubble(r.name, r.metrics["model/file_bytes"] / 1e6, r.nme, r.metrics["model/latency_ms"], main=False)
        for r in findings.others
        if r.validated_on == cast.main.lead.validated_on and known <= r.metrics.keys()
    ]
    others = [bubble for bubble in comparable if bubble.nme <= top]
    if len(main) + len(others) < 2:
        return []
    beyond = len(comparable) - len(others)
    pale = f"Pale: other runs{f', {beyond} of them beyond the top' if beyond else ''}. " if comparable else ""
    return [Chart(
        "cost", "Size, time and error", charts.bubbles([*main, *others]),
        "The area of a disc is its time for one image on one CPU thread, the least of the runs of one architecture. "
        f"{pale}{ids_caption(list(cast.models))}", COULD,
        describes="; ".join(f"{b.label}: {b.megabytes:.1f} MB, {b.milliseconds:.1f} ms, {b.nme:.2f} %" for b in main),
    )]  # fmt: skip


def learning(cast: Cast) -> Section | None:
    shown = [m for m in cast.models if m.lead.history.get("val/nme")]
    shown = shown if len(shown) <= 6 else [m for m in cast.trio if m.lead.history.get("val/nme")]
    blocks = []
    if shown:
        ids = "; ".join(f"{m.label} {m.lead.id[:8]}" for m in shown)
        blocks.append(Chart(
            "validation", "Validation NME", charts.courses({m.label: m.lead.history["val/nme"] for m in shown}, "NME, %"),
            f"The dot is the epoch that is kept. Runs: {ids}.", COULD, describes="Curves of validation NME by epoch.",
        ))  # fmt: skip
    lead = cast.main.lead
    terms = {
        k.removeprefix("train/weighted/"): v for k, v in lead.history.items() if k.startswith("train/weighted/") and v
    }
    if terms:
        colours = {name: TERM_COLOURS[i % len(TERM_COLOURS)] for i, name in enumerate(terms)}
        blocks.append(Chart(
            "terms", f"Loss terms of the {cast.main.label} model" if cast.main.role != "distilled" else "Loss terms of the distilled student",
            charts.courses(terms, "weighted loss", colours), f"Each term times its weight at that epoch. Run {lead.id[:8]}.",
            MAY, describes=f"Curves of the terms {listed(list(terms))} by epoch.",
        ))  # fmt: skip
    return Section("learning", "Learning curves", tuple(blocks)) if blocks else None


def agreement(cast: Cast) -> Section | None:
    model = cast.student
    if model is None:
        return None
    near = [m for run in model.runs if (m := agreement_nme(run)) is not None]
    if not near:
        return None
    mean = float(np.mean(near))
    text = (
        f"On the validation images the student's points lie {number(mean)} % of the side from its teacher's (student-teacher "
        f"agreement), and {number(model.nme)} % from the labels."
    )
    blocks: list = [Passage((text,), rank=COULD)]
    found = model.lead.agreement
    if found and found.get("by_region"):
        own = model.lead.report.by_region if model.lead.report else {}
        rows = [
            Row((region, number(value), number(own.get(region)))) for region, value in found["by_region"].items()
        ]  # fmt: skip
        blocks.append(Table(
            "agreement", "Agreement by region",
            (Column("region"), Column("from the teacher, %", numeric=True), Column("from the labels, %", numeric=True)),
            tuple(rows), caption=f"Run {model.lead.id[:8]}; teacher {model.lead.teacher_id[:8] or 'from a file'}.", rank=PAGE,
        ))  # fmt: skip
    return Section("agreement", "Does the student do as its teacher does?", tuple(blocks), nav="Agreement")


def agreement_nme(run: RunFacts) -> float | None:
    return run.metrics.get("best/val/agreement/nme")


def headline_words(comparison: Comparison) -> str:
    r, model, other = comparison.result, comparison.model, comparison.reference
    same = "the same student without a teacher" if not comparison.differing else "the nearest control"
    if not comparison.significant:
        start = f"No difference that could not be luck: the distilled student against {same}"
    else:
        start = f"{percent(abs(r.relative))} {'less' if r.mean < 0 else 'more'} error than {same}"
    ours, theirs = comparison.seeds
    seeds = f"{ours} seeds each" if ours == theirs else f"{ours} against {counted(theirs, 'seed')}"
    seeds = "one seed each" if ours == theirs == 1 else seeds
    return (
        f"{start}: {spread_words(model)}{THIN}% NME against {spread_words(other)}{THIN}%, a difference of {number(r.mean, sign=True)} "
        f"points (95{THIN}% interval {interval(r.low, r.high)}, {p_words(r.p)}, paired bootstrap over "
        f"{counted(comparison.images, 'image')}, {seeds})."
    )
