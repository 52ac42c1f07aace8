"""Ablations: a table each, with intervals, the plain words of which rows help, and pictures of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from distill.figures import report as charts
from distill.report.document import (
    COULD,
    MAY,
    MUST,
    SHOULD,
    Chart,
    Column,
    Passage,
    Row,
    Section,
    Table,
)
from distill.report.facts import Ablation, AblationRow
from distill.report.wording import (
    NONE,
    counted,
    interval,
    listed,
    number,
    over_seeds,
    p_value,
    percent,
    short_ids,
)


def sections(found: Sequence[Ablation], shown: Collection[str]) -> list[Section]:
    """A section each: first those that hold one of the `shown` run ids, then those of more seeds, then by title."""

    def order(ablation: Ablation) -> tuple[bool, int, str]:
        ids = {run_id for row in ablation.rows if row.effect for run_id in row.run_ids}
        return ids.isdisjoint(shown), -ablation.seeds, ablation.title

    return [_section(ablation, index) for index, ablation in enumerate(sorted(found, key=order))]


def _section(found: Ablation, index: int) -> Section:
    columns = (
        Column("variant"), Column("seeds", numeric=True), Column("NME, %", numeric=True), Column("difference", numeric=True),
        Column("95 % interval", numeric=True), Column("p", numeric=True), Column("relative", numeric=True),
        Column("better seeds", numeric=True), Column("agreement, %", numeric=True, page_only=True), Column("runs", mono=True),
    )  # fmt: skip
    key = f"ablation-{index + 1}"
    compared = [row for row in found.rows if row.effect]
    missing = f" Missing so far: {listed(found.missing)}." if found.missing else ""
    several = any(len(row.nme) > 1 for row in found.rows)
    how = (
        "means over seeds ± standard deviation"
        if several
        else "one seed a variant, so the luck of training is not known"
    )
    if index == 0:
        how += "; intervals and p by paired bootstrap over images, errors averaged over seeds first"
    table = Table(
        key, f"{found.title} (table)", columns, tuple(_row(row, found.control) for row in found.rows), wide=True,
        rank=MUST if index == 0 else SHOULD, pdf_rows=16, headed=False,
        caption=f"Against '{found.control}' on {counted(found.images, 'image')} ({found.data}): {how}. Ablation run "
        f"{found.run_id}.{missing}",
    )  # fmt: skip
    blocks: list = [Passage((words(found),), wide=True)]
    if compared:
        drawn = [
            charts.Difference(r.name, r.effect.mean, r.effect.low, r.effect.high, r.effect.clear) for r in compared
        ]
        blocks.append(Chart(
            f"{key}-differences", f"{found.title}: difference from '{found.control}'", charts.differences(drawn),
            f"Mean and 95 % interval; filled where it leaves out zero. Ablation run {found.run_id[:8]}.", MAY,
            describes=", ".join(f"{d.label} {number(d.mean, sign=True)}" for d in drawn),
        ))  # fmt: skip
    blocks.append(table)
    costly = [row for row in found.rows if row.nme and row.megabytes and row.milliseconds]
    if found.by_cost and costly:
        for unit, values in (("MB", [r.megabytes for r in costly]), ("ms", [r.milliseconds for r in costly])):
            name = {"MB": "model file, MB", "ms": "an image on one CPU thread, ms"}[unit]
            blocks.append(Chart(
                f"{key}-{unit.lower()}", f"{found.title}: error against {'size' if unit == 'MB' else 'time'}",
                charts.frontier([r.name for r in costly], values, [r.mean for r in costly], name),
                f"The line joins the variants that no other beats in both. Ablation run {found.run_id[:8]}.", COULD,
            ))  # fmt: skip
    return Section(key, f"Ablation: {found.title}", tuple(blocks), nav=found.title)


def _row(row: AblationRow, control: str) -> Row:
    effect = row.effect
    compared = ("control" if row.name == control else NONE, *[NONE] * 4)
    if effect:
        compared = (
            number(effect.mean, sign=True), interval(effect.low, effect.high), p_value(effect.p),
            percent(effect.relative, sign=True), f"{effect.better} of {effect.seeds}",
        )  # fmt: skip
    helps = effect is not None and effect.clear and effect.mean < 0
    role = "control" if row.name == control else "distilled" if helps else ""
    cells = (row.name, str(len(row.nme)), over_seeds(row.nme), *compared, number(row.agreement), short_ids(row.run_ids))
    return Row(cells, role)


def words(found: Ablation) -> str:
    """Which rows help and which do not, in a few sentences."""
    others = [row for row in found.rows if row.effect]
    better = sorted((r for r in others if r.effect.clear and r.effect.mean < 0), key=lambda r: r.effect.mean)
    worse = sorted((r for r in others if r.effect.clear and r.effect.mean > 0), key=lambda r: -r.effect.mean)
    unclear = [row for row in others if not row.effect.clear]

    def names(rows: list[AblationRow]) -> str:
        told = [f"{row.name} ({percent(row.effect.relative, sign=True)})" for row in rows[:5]]
        return listed([*told, f"{len(rows) - 5} more"] if len(rows) > 5 else told)

    parts = []
    if better:
        parts.append(f"Better than '{found.control}': {names(better)}.")
    if worse:
        parts.append(f"Worse: {names(worse)}.")
    if unclear:
        parts.append(f"Not to be told apart from it: {names(unclear)}.")
    return " ".join(parts) or f"There is nothing yet to compare with '{found.control}'."
