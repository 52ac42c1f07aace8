"""What a study leaves: its best configuration as a file, its trials as a table, its course as pictures, kept in MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from distill import config as configs
from distill import figures
from distill import tracking as track
from distill.ablation.file import file_name
from distill.config import Config, TrackingConfig
from distill.errors import UserError
from distill.figures import parameters as varied
from distill.figures import search as drawn
from distill.files import write_text
from search import summary
from search.summary import TrialRow

if TYPE_CHECKING:
    import optuna
    from matplotlib.figure import Figure

    from search.space import Space

BEST_FILE, CSV_FILE, FRONT, PICTURES = "best.yaml", "trials.csv", "front", "pictures"
NME = "val/nme"


def finish(space: Space, study: optuna.Study, tracking: TrackingConfig, parent_id: str, out: Path) -> list[Path]:
    """Write best.yaml, trials.csv and the pictures to `out`/STUDY and to the artifacts of the study's run; their paths.

    Of several objectives, best.yaml is the configuration with the smallest first one, and every one of the front is in
    front/. A study of which no trial came to an end has no best.yaml. parent_id: empty for none. Raises UserError where the
    run cannot be reached; the files are there then.
    """
    folder = out / file_name(study.study_name)
    rows = [_with_curve(row, tracking) for row in summary.rows(study, space)]
    found = {"": [write_text(folder / CSV_FILE, summary.to_csv(rows, space.objectives))]}
    if best := summary.best_of(rows):
        found[""].insert(0, write_text(folder / BEST_FILE, recipe(study, rows, best, space, tracking)))
        if len(space.objectives) > 1:
            found[FRONT] = [
                write_text(folder / FRONT / f"trial-{row.number:03d}.yaml", recipe(study, rows, row, space, tracking))
                for row in summary.front_of(rows)
            ]
    shown = pictures(space, study, rows)
    found[PICTURES] = [figures.to_png(figure, folder / f"{name}.png") for name, figure in shown.items()]
    if parent_id:
        for place, files in found.items():
            track.add_artifacts(tracking, parent_id, files, place)
    return [file for files in found.values() for file in files]


def to_text(space: Space, study: optuna.Study) -> str:
    """How a study stands, in a few lines for a terminal."""
    rows = summary.rows(study, space)
    best, name = summary.best_of(rows), study.study_name
    if best is None:
        why = next((f"; trial {row.number}: {row.note}" for row in rows if row.state == "failed"), "")
        return f"Study '{name}': {counted(rows)}. No trial came to its end, so there is no {BEST_FILE}{why}"
    lines = [f"Study '{name}': {counted(rows)}."]
    for row in summary.front_of(rows) if len(space.objectives) > 1 else [best]:
        values = ", ".join(f"{key} {value:,.6g}" for key, value in zip(space.objectives, row.values, strict=True))
        lines.append(
            f"  {'on the front' if len(space.objectives) > 1 else 'best'}: trial {row.number}, {values}, run {row.run_id}"
        )
    known = summary.with_params(rows, space.enqueue[0])
    if known and known.number != best.number:
        lines.append(
            f"  the recipe (trial {known.number}) came to {space.objectives[0]} {known.value:.6g} at this scale"
        )
    scores = summary.importances(study)
    if scores:
        names = summary.labels(list(scores))
        told = ", ".join(f"{names[key]} {share:.0%}" for key, share in list(scores.items())[:5])
        lines.append(f"  importance ({summary.EVALUATOR}): {told}")
    else:
        lines.append(f"  importance: not told, as too few trials came to different ends for {summary.EVALUATOR}")
    return "\n".join(lines)


def counted(rows: Sequence[TrialRow]) -> str:
    """`30 trials: 12 done, 17 pruned, 1 failed`; the refused and retried beside them, as they are none of the study's."""
    ended = sum(row.state in summary.ENDED for row in rows)
    counts = {state: sum(row.state == state for row in rows) for state in summary.STATES}
    return f"{ended} trials: " + (", ".join(f"{n} {state}" for state, n in counts.items() if n) or "none")


def full_config(row: TrialRow, space: Space | None) -> Config:
    """A trial's configuration at full length: what it has stored, or what its values mean."""
    if row.config is None and space is not None:
        return space.config(row.params, full=True)
    return configs.from_dict(row.config or {}, f"trial {row.number}")


def recipe(study: optuna.Study, rows: Sequence[TrialRow], row: TrialRow, space: Space, tracking: TrackingConfig) -> str:
    """A trial's configuration as a file that distill.student takes, with a comment that says where it is from."""
    config = full_config(row, space)
    values = ", ".join(f"{name} {value:,.6g}" for name, value in zip(space.objectives, row.values, strict=True))
    shorter = configs.flow(space.trial) if space.trial else "full length"
    said = [
        f"{space.title}: trial {row.number} of study '{study.study_name}' ({counted(rows)}), run {row.run_id or '-'}.",
        f"It came to {values} as a trial ({shorter}); this file trains it at full length.",
    ]
    known = summary.with_params(rows, space.enqueue[0])
    if known:
        own = "This is the hand-written recipe itself." if known.number == row.number else (
            f"The hand-written recipe, trial {known.number}, came to {space.objectives[0]} {known.value:.6g}."
        )  # fmt: skip
        said.append(own)
    teacher = _teacher(study, row, tracking) if config.distill.terms else ""
    if teacher:
        said.append(f"Its teacher was run {teacher}: teacher={teacher}, or any of the same data.")
    return "".join(f"# {line}\n" for line in said) + configs.to_recipe(config)


def pictures(space: Space, study: optuna.Study, rows: Sequence[TrialRow]) -> dict[str, Figure]:
    """File name without its ending -> figure. Trials that were refused or failed have no value to draw."""
    trials, axes = summary.trials(rows), summary.axes(study)
    if not trials:
        return {}
    title, caption, objective = space.title, f"study {study.study_name}, {counted(rows)}", space.objectives[0]
    recipe_row = summary.with_params(rows, space.enqueue[0])
    recipe_number = recipe_row.number if recipe_row else None
    failed = [row.number for row in rows if row.state == "failed"]
    made: dict[str, Figure] = {}
    if len(space.objectives) > 1:
        if any(not trial.pruned for trial in trials):
            made["front"] = drawn.front(trials, space.objectives, title, recipe=recipe_number)
    else:
        made["history"] = drawn.history(trials, objective, title, caption, failed, recipe_number)
    scores = summary.importances(study)
    if scores:
        names, done = {axis.name: axis.label for axis in axes}, sum(row.state == "done" for row in rows)
        about = f"{summary.EVALUATOR} for {objective}, over the {done} trials trained to their end"
        made["importance"] = varied.importance(
            {names[key]: share for key, share in scores.items()}, f"{title}: what mattered", about
        )
    if axes:
        made["slices"] = varied.slices(trials, axes, objective, f"{title}: each parameter by itself")
        made["parallel"] = varied.parallel(trials, axes, objective, f"{title}: all parameters together")
    if any(trial.curve for trial in trials):
        made["curves"] = drawn.curves(trials, objective, space.epochs, f"{title}: learning curves")
    return made


# ---------------------------------------------------------------------------------------------------- inside


def _with_curve(row: TrialRow, tracking: TrackingConfig) -> TrialRow:
    """A trial that nothing prunes reports to MLflow alone."""
    if row.curve or not row.run_id or row.state not in ("done", "pruned"):
        return row
    with suppress(UserError):
        return replace(row, curve=tuple(track.metric_history(tracking, row.run_id, NME)))
    return row


def _teacher(study: optuna.Study, row: TrialRow, tracking: TrackingConfig) -> str:
    if row.run_id:
        with suppress(UserError):
            return track.find_run(tracking, row.run_id).tags.get("teacher.run_id", "")
    return str(study.user_attrs.get("teacher") or "")
