"""What a study leaves: its best configuration as a file, its trials as a table, its pictures, its result in words."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from distill import config as configs
from distill import figures
from distill import tracking as track
from distill.ablation.file import file_name
from distill.config import Config, TrackingConfig
from distill.errors import UserError
from distill.files import write_text
from search import pictures, summary
from search.summary import TrialRow

if TYPE_CHECKING:
    import optuna

    from search.space import Space

BEST_FILE, CSV_FILE, FRONT, PICTURES = "best.yaml", "trials.csv", "front", "pictures"
NME = "val/nme"


def write(
    space: Space, study: optuna.Study, rows: Sequence[TrialRow], tracking: TrackingConfig, parent_id: str, out: Path
) -> list[Path]:
    """Write best.yaml, trials.csv and the pictures to `out`/STUDY and to the artifacts of the study's run; their paths.

    Of several objectives, best.yaml has the smallest first one, and front/ every one of the front; without a trial that
    is done there is no best.yaml. parent_id: empty for none. Raises UserError, after writing, where the run is away.
    """
    folder = out / file_name(study.study_name)
    found = {"": [write_text(folder / CSV_FILE, summary.to_csv(rows, space.search.objectives))]}
    if best := summary.best(rows):
        found[""].insert(0, write_text(folder / BEST_FILE, recipe(study, rows, best, space, tracking)))
        if len(space.search.objectives) > 1:
            found[FRONT] = [
                write_text(folder / FRONT / f"trial-{row.number:03d}.yaml", recipe(study, rows, row, space, tracking))
                for row in summary.front(rows)
            ]
    curves = {row.number: _curve(row, tracking) for row in rows}
    drawn = pictures.draw(space, study, rows, curves)
    found[PICTURES] = [figures.to_png(figure, folder / f"{name}.png") for name, figure in drawn.items()]
    if parent_id:
        for place, files in found.items():
            track.add_artifacts(tracking, parent_id, files, place)
    return [file for files in found.values() for file in files]


def to_text(space: Space, study: optuna.Study, rows: Sequence[TrialRow]) -> str:
    """How a study stands, in a few lines for a terminal."""
    best, name = summary.best(rows), study.study_name
    if best is None:
        why = next((f"; trial {row.number}: {row.note}" for row in rows if row.state == "failed"), "")
        return f"Study '{name}': {summary.counted(rows)}. No trial is done, so there is no {BEST_FILE}{why}"
    lines = [f"Study '{name}': {summary.counted(rows)}."]
    several = len(space.search.objectives) > 1
    for row in summary.front(rows) if several else [best]:
        lines.append(
            f"  {'on the front' if several else 'best'}: trial {row.number}, {_values(space, row)}, run {row.run_id}"
        )
    known = summary.with_params(rows, space.enqueue[0])
    if known and known.number != best.number:
        lines.append(
            f"  the recipe (trial {known.number}) has {space.search.objectives[0]} {known.value:.6g} at this scale; "
            f"each is one training with one seed, so python -m search.best compares them at full length over seeds"
        )
    scores, done = pictures.importances(study, rows), sum(row.state == "done" for row in rows)
    if scores:
        names = summary.labels(scores)
        shares = ", ".join(f"{names[key]} {share:.0%}" for key, share in list(scores.items())[:5])
        lines.append(f"  importance ({pictures.EVALUATOR}, {pictures.trust(done)}): {shares}")
    else:
        lines.append(
            f"  importance: not shown; it takes {pictures.FEW} trials that are done and differ, of {done} here"
        )
    return "\n".join(lines)


def recipe(study: optuna.Study, rows: Sequence[TrialRow], row: TrialRow, space: Space, tracking: TrackingConfig) -> str:
    """A trial's configuration as a file that distill.student takes, with a comment on where it is from."""
    config = _full_config(row, space)
    shorter = configs.flow(space.search.trial) if space.search.trial else "full length"
    lines = [
        f"{space.search.title}: trial {row.number} of study '{study.study_name}' ({summary.counted(rows)}), "
        f"run {row.run_id or '-'}.",
        f"As a trial ({shorter}, one seed) it has {_values(space, row)}; this file trains it at full length.",
    ]
    known = summary.with_params(rows, space.enqueue[0])
    if known:
        own = f"The hand-written recipe, trial {known.number}, has {space.search.objectives[0]} {known.value:.6g}."
        lines.append("This is the hand-written recipe itself." if known.number == row.number else own)
    teacher = _teacher(study, row, tracking) if config.distill.terms else ""
    if teacher:
        lines.append(f"Its teacher was run {teacher}: teacher={teacher}, or any of the same data.")
    return "".join(f"# {line}\n" for line in lines) + configs.to_recipe(config)


# ---------------------------------------------------------------------------------------------------- inside


def _full_config(row: TrialRow, space: Space) -> Config:
    """A trial's configuration at full length: what it has stored, or what its values mean."""
    if row.config is None:
        return space.config(row.params, full=True)
    return configs.from_dict(row.config, f"trial {row.number}")


def _values(space: Space, row: TrialRow) -> str:
    return ", ".join(f"{name} {value:,.6g}" for name, value in zip(space.search.objectives, row.values, strict=True))


def _curve(row: TrialRow, tracking: TrackingConfig) -> dict[int, float]:
    """Epoch, from 1 -> val/nme. A trial of several objectives reports to MLflow alone."""
    if row.trial.intermediate_values or not row.run_id or row.state not in ("done", "pruned"):
        return row.trial.intermediate_values
    with suppress(UserError):
        return dict(track.metric_history(tracking, row.run_id, NME))
    return {}


def _teacher(study: optuna.Study, row: TrialRow, tracking: TrackingConfig) -> str:
    if row.run_id:
        with suppress(UserError):
            return track.find_run(tracking, row.run_id).tags.get("teacher.run_id", "")
    return str(study.user_attrs.get("teacher") or "")
