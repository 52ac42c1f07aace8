"""Gather runs from MLflow, and write them as a page and a PDF."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import distill
from distill import config as configs
from distill import tracking as track
from distill.ablation.job import TABLE_FILE
from distill.ablation.table import Table, latencies
from distill.config import Config, TrackingConfig
from distill.data.annotations import read_labelled
from distill.errors import UserError
from distill.report import document
from distill.report import pictures as seen
from distill.report.compare import Cast, choose, models
from distill.report.facts import ROLES, Ablation, Dataset, Findings, RunFacts
from distill.tracking import RunInfo, datasets
from distill.tracking.client import redact

HISTORIES = ("val/nme", "train/epoch_seconds", "train/weighted/")  # beginnings of the metrics whose course is shown
LOGGED = ("overlays", "teacher_against_student", "worst")
ARTIFACT_FOLDER = "report"


@dataclass(frozen=True)
class Written:
    """The files of a report."""

    html: Path
    pdf: document.Pdf | None  # None: this platform has no build of the library that makes it
    headline: str
    run_id: str  # of the run that keeps both; empty: none


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

    data: another labelled set, whose images are shown in place of the validation set's. keep: log both files to the
    student's run. Raises UserError where there is nothing to report or a run has not finished.
    """
    findings = of_experiment(experiment, tracking) if experiment else of_runs(refs, tracking)
    findings = with_pictures(findings, tracking, data)
    made = f"{datetime.datetime.now().astimezone():%d %B %Y, %H:%M}, distill {distill.__version__}"
    pages = document.Document(findings, cast_of(findings), title, made)
    html = pages.write_html(out / "report.html")
    pdf = pages.write_pdf(out / "report.pdf")
    run_id = pages.cast.main.lead.id if keep else ""
    if run_id:
        track.add_artifacts(tracking, run_id, (html, *([pdf.path] if pdf else ())), ARTIFACT_FOLDER)
    return Written(html, pdf, pages.headline, run_id)


def cast_of(findings: Findings) -> Cast:
    """The runs as models, and which of them plays which part. Raises UserError where none has a validation error."""
    measured = [run for run in findings.runs if math.isfinite(run.nme)]
    if not measured:
        raise UserError("None of the runs has the metric best/val/nme; expected runs of the teacher or student job.")
    return Cast(tuple(models(measured)))


def with_pictures(findings: Findings, tracking: TrackingConfig, data: Path | None) -> Findings:
    """Add images of `data`, or of the validation set where this machine has it, and what can be measured with its
    labels.
    """
    cast = cast_of(findings)
    main = cast.main.lead
    labelled, reason = seen.validation_set(main, tracking)
    if data is not None:
        labelled = read_labelled(data, main.config)
    pictures = None if labelled is None else seen.pictures(cast, tracking, labelled)
    if labelled is not None and pictures is None:
        reason = f"Run {main.id} has neither a model file nor predictions, so no images are shown."
    return replace(findings, pictures=pictures, no_pictures=reason)


# ---------------------------------------------------------------------------------------------------- choosing


def of_runs(refs: Sequence[str], tracking: TrackingConfig) -> Findings:
    """The named runs, and the teachers of the students among them where the store has these."""
    infos = [track.find_run(tracking, ref) for ref in dict.fromkeys(refs)]
    for info in infos:
        if info.status != "FINISHED":
            raise UserError(f"Run '{info.id}' ({info.name}) is {info.status}; expected a FINISHED run.")
        if info.job not in ("ablation", "teacher", "student"):
            what = f"of the job '{info.job}'" if info.job else "not one of this package"
            raise UserError(f"Run '{info.id}' ({info.name}) is {what}; expected teachers, students and ablations.")
    parents = [info for info in infos if info.job == "ablation"]
    plain = {info.id: info for info in infos if info.job != "ablation"}
    cells = _cells(parents, tracking)
    runs = [_light(info, tracking) for info in plain.values()]
    if not runs:  # ablations alone: their best cells are what there is to see
        if not cells:
            raise UserError(f"Ablation {', '.join(p.id for p in parents)} has no finished cell to report.")
        runs = choose([_light(info, tracking) for info in cells.values()])
    runs = _with_teachers(runs, tracking)
    return _findings(runs, (), parents, cells, tracking, f"From {_place(tracking)}.", ())


def of_experiment(name: str, tracking: TrackingConfig) -> Findings:
    """The best distilled student of an experiment, its control and teacher, its ablations, and a list of the rest."""
    infos = track.list_runs(replace(tracking, experiment=name))
    finished = [info for info in infos if info.status == "FINISHED"]
    if not finished:
        there = f"{len(infos)} runs, none of them finished" if infos else "no runs"
        place = track.redact(track.tracking_uri(tracking))  # as other look-ups name it; a page would not show its path
        raise UserError(f"Experiment '{name}' has {there} in {place}; expected a finished teacher or student.")
    parents = _newest_each(info for info in infos if info.job == "ablation")
    light, broken = [], 0
    for info in finished:
        if info.job in ("teacher", "student"):
            try:
                light.append(_light(info, tracking))
            except UserError:  # an old run among many need not stop the report of the others
                broken += 1
    chosen = _with_teachers(choose(light), tracking)
    if not chosen:
        raise UserError(
            f"Experiment '{name}' has no finished teacher or student with best/val/nme in {_place(tracking)}."
        )
    cells = _cells(parents, tracking)
    shown = {run.id for run in chosen} | cells.keys()
    others = [run for run in light if run.id not in shown and math.isfinite(run.nme)]
    remarks = [
        f"{what}: {count}."
        for what, count in (
            ("Runs of the experiment that have not finished", len(infos) - len(finished)),
            ("Runs that could not be read, made by another version or without files", broken),
        )
        if count
    ]
    source = f"Experiment '{name}' in {_place(tracking)}."
    return _findings(chosen, others, parents, cells, tracking, source, remarks)


def _findings(
    runs: Sequence[RunFacts],
    others: Sequence[RunFacts],
    parents: Sequence[RunInfo],
    cells: dict[str, RunInfo],
    tracking: TrackingConfig,
    source: str,
    remarks: Sequence[str],
) -> Findings:
    measured: list[RunFacts | RunInfo] = [*runs, *others, *cells.values()]
    tables = [(parent, _table(parent, tracking)) for parent in sorted(parents, key=lambda info: info.name)]
    return Findings(
        tuple(_whole(run, tracking) for run in runs),
        tuple(others),
        tuple(Ablation(parent.id, table) for parent, table in tables if table),
        source=source,
        remarks=tuple(remarks),
        latencies=latencies({run.id: run.metrics for run in measured}),
    )


def _with_teachers(runs: Sequence[RunFacts], tracking: TrackingConfig) -> list[RunFacts]:
    there = {run.id: run for run in runs}
    for run in runs:
        if run.teacher_id and run.teacher_id not in there:
            with suppress(UserError):  # deleted since, or in another store: the report does without
                info = track.find_run(tracking, run.teacher_id)
                if info.status == "FINISHED":
                    there[info.id] = _light(info, tracking)
    return list(there.values())


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
    report, errors, logged = None, None, {}
    with suppress(UserError):
        report, errors = track.read_report(tracking, run.id), track.read_errors(tracking, run.id)
        order = [name for name in run.markup.regions if name in report.by_region]  # JSON may have sorted them
        report = replace(report, by_region={name: report.by_region[name] for name in order})
    for name in LOGGED:
        with suppress(UserError):
            logged[name] = track.artifact_path(tracking, run.id, f"pictures/{name}.png").read_bytes()
    return replace(
        run,
        report=report,
        errors=errors,
        agreement=_json(run.id, "evaluation/agreement.json", tracking),
        history={k: track.metric_history(tracking, run.id, k) for k in run.metrics if k.startswith(HISTORIES)},
        datasets=tuple(Dataset(d.name, d.context, d.digest) for d in datasets(tracking, run.id)),
        logged=logged,
    )


def _json(run_id: str, path: str, tracking: TrackingConfig) -> dict | None:
    """None: the run has no such artifact."""
    try:
        found = track.artifact_path(tracking, run_id, path)
    except UserError:
        return None
    try:
        return json.loads(found.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"Run '{run_id}': its artifact '{path}' is not valid JSON.") from None


# ---------------------------------------------------------------------------------------------------- ablations


def _newest_each(parents: Iterable[RunInfo]) -> list[RunInfo]:
    """Of several runs of one ablation the newest, whatever its state: a table shows what is missing in it."""
    newest: dict[str, RunInfo] = {}
    for info in parents:  # which come newest first
        newest.setdefault(info.tags.get("distill.ablation", info.name), info)
    return list(newest.values())


def _table(parent: RunInfo, tracking: TrackingConfig) -> Table | None:
    """None: the ablation was never tabulated."""
    stored = _json(parent.id, TABLE_FILE, tracking)
    try:
        return Table.from_dict(stored) if stored else None
    except ValueError:
        raise UserError(f"Ablation run '{parent.id}': its {TABLE_FILE} was made by another version.") from None


def _cells(parents: Sequence[RunInfo], tracking: TrackingConfig) -> dict[str, RunInfo]:
    """The runs of all cells by id, those that are still there."""
    found: dict[str, RunInfo] = {}
    for table in filter(None, (_table(parent, tracking) for parent in parents)):
        for run_id in (run_id for row in table.rows for run_id in row.runs.values()):
            with suppress(UserError):
                found[run_id] = track.find_run(tracking, run_id)
    return found
