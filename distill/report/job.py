"""Gather what MLflow knows of runs, and have it written as a page and a PDF."""

from __future__ import annotations

import datetime
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import distill
from distill import config as configs
from distill import metrics
from distill import tracking as track
from distill.ablation.job import TABLE_FILE
from distill.ablation.table import Table
from distill.config import Config, TrackingConfig
from distill.errors import UserError
from distill.report import comparing, html, pdf, photos
from distill.report.composing import cast_of, compose
from distill.report.facts import (
    ROLES,
    Ablation,
    AblationRow,
    Dataset,
    Effect,
    Findings,
    RunFacts,
)
from distill.report.wording import counted, listed, sentence
from distill.tracking import RunInfo
from distill.tracking.client import redact
from distill.tracking.datasets import datasets

HISTORIES = ("val/nme", "train/epoch_seconds", "train/weighted/")  # beginnings of the metrics whose course is shown
PICTURES = ("overlays", "teacher_against_student", "worst")
ARTIFACT_FOLDER = "report"


@dataclass(frozen=True)
class Written:
    html: Path
    pdf: Path
    pages: int
    statement: str
    left_out: tuple[str, ...]  # what had no room in the PDF
    run_id: str  # of the run that keeps both; empty: nobody was asked to


def report(
    refs: Sequence[str],
    tracking: TrackingConfig,
    out: Path,
    *,
    experiment: str = "",
    data: Path | None = None,
    title: str = "",
    keep: bool = True,
) -> Written:
    """Write `out`/report.html and `out`/report.pdf about the named runs, or the best of an experiment.

    data: another labelled set, whose photographs are shown in place of the validation set's. keep: log both files to the
    student's run. Raises UserError where there is nothing to report, a run has not finished, or `out` cannot be written.
    """
    _check_writable(out)
    findings = of_experiment(experiment, tracking) if experiment else of_runs(refs, tracking)
    cast = cast_of(findings)
    taken, reason = photos.photographs(cast, tracking, data)
    findings = replace(findings, photos=taken, no_photos=reason)
    now = datetime.datetime.now().astimezone()
    document = compose(findings, title, f"{now:%d %B %Y, %H:%M}, distill {distill.__version__}")
    page = html.write(document, out / "report.html")
    paper = pdf.write(document, out / "report.pdf")
    run_id = cast.main.lead.id if keep else ""
    if run_id:
        track.add_artifacts(tracking, run_id, (page, paper.path), ARTIFACT_FOLDER)
    return Written(page, paper.path, paper.pages, document.statement, paper.left_out, run_id)


# ---------------------------------------------------------------------------------------------------- choosing


def of_runs(refs: Sequence[str], tracking: TrackingConfig) -> Findings:
    """The named runs, and the teachers of the students among them where the store has these."""
    infos = [track.find_run(tracking, ref) for ref in dict.fromkeys(refs)]
    parents = [info for info in infos if info.job == "ablation"]
    plain: dict[str, RunInfo] = {info.id: info for info in infos if info.job != "ablation"}
    for info in infos:
        _check_finished(info)
        if info.job not in ("ablation", "teacher", "student"):
            what = f"of the job '{info.job}'" if info.job else "not one of this package"
            raise UserError(
                f"Run '{info.id}' ({info.name}) is {what}; a report tells of teachers, students and ablations."
            )
    runs = [_light(info, tracking) for info in plain.values()]
    if not runs:  # ablations alone: their best cells are what there is to see
        runs = comparing.choose(_children(parents, tracking))
    runs = [_whole(run, tracking) for run in _with_teachers(runs, tracking)]
    return Findings(tuple(runs), ablations=_ablations(parents, tracking), source=sentence(f"from {_place(tracking)}"))


def of_experiment(name: str, tracking: TrackingConfig) -> Findings:
    """The best distilled student of an experiment, its control and teacher, its ablations, and a list of the rest."""
    infos = track.list_runs(replace(tracking, experiment=name))
    finished = [info for info in infos if info.status == "FINISHED"]
    if not finished:
        there = f"{counted(len(infos), 'run')}, none of them finished" if infos else "no runs"
        raise UserError(
            f"Experiment '{name}' has {there} in {_place(tracking)}; expected a finished teacher or student."
        )
    parents = _newest_each(info for info in infos if info.job == "ablation")
    light, broken = [], 0
    for info in finished:
        if info.job in ("teacher", "student"):
            try:
                light.append(_light(info, tracking))
            except UserError:  # an old run among many need not stop the report of the others
                broken += 1
    chosen = _with_teachers(comparing.choose(light), tracking)
    if not chosen:
        raise UserError(
            f"Experiment '{name}' has no finished teacher or student with best/val/nme in {_place(tracking)}."
        )
    shown = {run.id for run in chosen} | {run_id for table in parents for run_id in _cells(table, tracking)}
    others = [run for run in light if run.id not in shown and math.isfinite(run.nme)]
    remarks = []
    if broken:
        remarks.append(f"{counted(broken, 'run')} could not be read: made by another version, or without files.")
    if unfinished := len(infos) - len(finished):
        remarks.append(
            f"{counted(unfinished, 'run of the experiment has', 'runs of the experiment have')} not finished."
        )
    return Findings(
        tuple(_whole(run, tracking) for run in chosen), tuple(others), _ablations(parents, tracking),
        source=f"Experiment '{name}' in {_place(tracking)}.", remarks=tuple(remarks),
    )  # fmt: skip


def _with_teachers(runs: Sequence[RunFacts], tracking: TrackingConfig) -> list[RunFacts]:
    there = {run.id: run for run in runs}
    for run in runs:
        if run.teacher_id and run.teacher_id not in there:
            try:
                info = track.find_run(tracking, run.teacher_id)
            except UserError:  # deleted since, or in another store: the report does without
                continue
            if info.status == "FINISHED":
                there[info.id] = _light(info, tracking)
    return list(there.values())


def _check_finished(info: RunInfo) -> None:
    if info.status != "FINISHED":
        raise UserError(f"Run '{info.id}' ({info.name}) is {info.status}; expected a FINISHED run.")


def _check_writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".report-{os.getpid()}.tmp"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"--out '{out}' cannot be written: {error.strerror or error}.") from None


def _place(tracking: TrackingConfig) -> str:
    """The store, for readers on other machines: no local path."""
    uri = redact(track.tracking_uri(tracking))
    return f"the MLflow store '{track.store_root(tracking).name}'" if uri.startswith("sqlite") else f"MLflow at {uri}"


# ---------------------------------------------------------------------------------------------------- reading


def _light(info: RunInfo, tracking: TrackingConfig) -> RunFacts:
    """What listing and choosing need."""
    role = info.tags.get("distill.role", "")
    if role not in ROLES:
        role = "teacher" if info.job == "teacher" else "distilled" if info.tags.get("teacher.run_id") else "control"
    return RunFacts(info.id, info.name, role, _config(info, tracking), info.metrics, info.tags)


def _config(info: RunInfo, tracking: TrackingConfig) -> Config:
    path = track.artifact_path(tracking, info.id, "config.yaml")
    try:
        return configs.load(path)
    except UserError as error:
        raise UserError(f"Run '{info.id}' ({info.name}) was made by another version: {error}") from None


def _whole(run: RunFacts, tracking: TrackingConfig) -> RunFacts:
    """With report, histories, data sets and logged pictures, as far as the run has them."""
    stored = _json(run.id, "evaluation/report.json", tracking)
    found = {}
    for name in PICTURES:
        path = _artifact(run.id, f"pictures/{name}.png", tracking)
        if path:
            found[name] = path.read_bytes()
    return replace(
        run,
        report=_report(stored) if stored else None,
        agreement=_json(run.id, "evaluation/agreement.json", tracking),
        history={k: track.metric_history(tracking, run.id, k) for k in run.metrics if k.startswith(HISTORIES)},
        datasets=tuple(Dataset(d.name, d.context, d.digest) for d in datasets(tracking, run.id)),
        pictures=found,
    )


def _report(stored: dict) -> metrics.Report:
    arrays = ("per_image", "per_point", "ced_thresholds", "ced_fractions", "layout")
    return metrics.Report(
        **{k: np.asarray(v, dtype=np.float64) if k in arrays and v is not None else v for k, v in stored.items()}
    )


def _artifact(run_id: str, path: str, tracking: TrackingConfig) -> Path | None:
    try:
        return track.artifact_path(tracking, run_id, path)
    except UserError:
        return None


def _json(run_id: str, path: str, tracking: TrackingConfig) -> dict | None:
    found = _artifact(run_id, path, tracking)
    try:
        return json.loads(found.read_text(encoding="utf-8")) if found else None
    except ValueError:
        raise UserError(f"Run '{run_id}': its artifact '{path}' is not valid JSON.") from None


# ---------------------------------------------------------------------------------------------------- ablations


def _ablations(parents: Sequence[RunInfo], tracking: TrackingConfig) -> tuple[Ablation, ...]:
    found = [(parent, _table(parent, tracking)) for parent in sorted(parents, key=lambda info: info.name)]
    return tuple(_ablation(parent.id, table) for parent, table in found if table)


def _newest_each(parents: Iterable[RunInfo]) -> list[RunInfo]:
    """Of several runs of one ablation the newest, whatever its state: a table tells what is missing in it."""
    newest: dict[str, RunInfo] = {}
    for info in parents:  # which come newest first
        newest.setdefault(info.tags.get("distill.ablation", info.name), info)
    return list(newest.values())


def _table(parent: RunInfo, tracking: TrackingConfig) -> Table | None:
    """None: the ablation was never tabulated."""
    stored = _json(parent.id, TABLE_FILE, tracking)
    try:
        return Table.from_dict(stored) if stored else None
    except (KeyError, TypeError, ValueError):
        raise UserError(f"Ablation run '{parent.id}': its {TABLE_FILE} was made by another version.") from None


def _ablation(run_id: str, table: Table) -> Ablation:
    rows = []
    for row in table.rows:
        d = row.difference
        effect = Effect(d.mean, d.low, d.high, d.p, d.relative, d.better, len(d.differences)) if d else None
        rows.append(AblationRow(
            row.cell, tuple(row.nme.values()), tuple(row.runs.values()), effect, row.agreement, row.megabytes,
            row.latency_ms,
        ))  # fmt: skip
    missing = tuple(f"{cell} seed {seed}" for cell, seed in table.missing)
    return Ablation(
        run_id, table.title, table.control, len(table.seeds), table.images, table.data.get("val", ""), tuple(rows), missing,
        table.pareto,
    )  # fmt: skip


def _cells(parent: RunInfo, tracking: TrackingConfig) -> list[str]:
    table = _table(parent, tracking)
    return [run_id for row in table.rows for run_id in row.runs.values()] if table else []


def _children(parents: Sequence[RunInfo], tracking: TrackingConfig) -> list[RunFacts]:
    ids = dict.fromkeys(run_id for parent in parents for run_id in _cells(parent, tracking))
    runs = [_light(track.find_run(tracking, run_id), tracking) for run_id in ids]
    if not runs:
        raise UserError(f"The ablation {listed([p.id for p in parents])} has no finished cell to report.")
    return runs
