"""A study's best configuration at full length, beside its recipe, over seeds; the best seed exported and registered.

Both are cells of an ablation file. It and the files that it names hold all that is needed; `python -m distill.ablation`
takes them as they are.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from distill import config as configs
from distill import metrics
from distill import tracking as track
from distill.ablation.file import file_name
from distill.ablation.table import Row, Table
from distill.config import Config
from distill.data.folders import resolve
from distill.errors import UserError
from distill.export.job import Export, export, images_to_submit, submission_tags
from distill.export.mlflow_model import pack
from distill.export.model_card import about_of, model_card
from distill.files import write_text
from distill.models.references import resolve_model
from distill.profiling import Cost
from distill.tracking import RunInfo, registry
from distill.tracking.registry import CHAMPION, Verdict
from search import summary
from search.outputs import BEST_FILE
from search.space import value_at

if TYPE_CHECKING:
    import optuna

    from search.summary import TrialRow

RECIPE, BEST = "recipe", "best"  # the cells
RECIPE_FILE = "recipe.yaml"
NAME = "distill-student"
# Where and how the recipe was to be trained; the files themselves hold only what is computed.
PLACES = (
    "data.root data.test data.cache data.workers train.device train.threads train.checkpoint_seconds tracking.uri "
    "tracking.experiment"
).split()


@dataclass(frozen=True)
class Candidate:
    """A study's best trial and the recipe that it is compared with."""

    study: str
    trial: TrialRow
    recipe: Config
    best: Config
    teacher: str  # that the study's trials had where their config names none for good

    @property
    def cell(self) -> str:
        """The one to be released: the recipe itself where no other trial was better."""
        return BEST if differences(self.recipe, self.best) else RECIPE


@dataclass(frozen=True)
class Release:
    """What was exported and registered."""

    run: RunInfo  # of the best seed
    seed: int
    exported: Export
    version: str  # of distill-student
    verdict: Verdict  # whether `champion` moved to it


# ---------------------------------------------------------------------------------------------------- what is trained


def candidate(study: optuna.Study) -> Candidate:
    """The study's best trial; of several objectives the best in the first.

    Raises UserError for a study that search.study did not make, and for one without a trial that is done.
    """
    name, about = study.study_name, study.user_attrs
    if "recipe" not in about:
        raise UserError(f"The study '{name}' has no recipe; expected one that python -m search.study made.")
    rows = summary.rows(study)
    trial = summary.best(rows)
    if trial is None or trial.config is None:
        ended = summary.tally(rows).ended
        raise UserError(f"The study '{name}' has no best configuration: none of its {ended} trials is done.")
    return Candidate(
        study=name,
        trial=trial,
        recipe=configs.from_dict(about["recipe"], f"study '{name}', the recipe"),
        best=configs.from_dict(trial.config, f"study '{name}', trial {trial.number}"),
        teacher=str(about.get("teacher") or ""),
    )


def write_ablation(chosen: Candidate, seeds: int, store: str, out: Path) -> Path:
    """Write recipe.yaml, best.yaml and the ablation file under `out`/STUDY; the path of the last."""
    folder = out / file_name(chosen.study)
    recipe, own = chosen.recipe, differences(chosen.recipe, chosen.best)
    source = f"trial {chosen.trial.number} of study '{chosen.study}', with {chosen.trial.value:.6g} as a trial"
    write_text(folder / RECIPE_FILE, f"# The recipe of study '{chosen.study}'.\n{configs.to_recipe(recipe)}")
    if not (folder / BEST_FILE).exists():  # the study's own has a longer comment
        write_text(folder / BEST_FILE, f"# {source[0].upper()}{source[1:]}.\n{configs.to_recipe(chosen.best)}")
    settings = {key: value for key in PLACES if (value := value_at(recipe, key)) != value_at(Config(), key)}
    settings |= {"tracking.store": store}
    if teacher := chosen.teacher or recipe.teacher:
        settings["teacher"] = teacher
    about = {
        "title": f"The best of study '{chosen.study}' against its recipe" if own else f"The recipe of '{chosen.study}'",
        "seeds": list(range(seeds)),
        "control": RECIPE,
        "set": settings,
        "cells": {RECIPE: {}} | ({BEST: own} if own else {}),
    }
    comment = f"# {BEST}: {source}.\n" if own else f"# The recipe itself is {source}.\n"
    text = comment + yaml.safe_dump({"base": RECIPE_FILE, "ablation": about}, sort_keys=False, width=120)
    return write_text(folder / f"{file_name(chosen.study)}-best.yaml", text)


def differences(recipe: Config, best: Config) -> dict[str, Any]:
    """Dotted key -> the best one's value, where they do not compute the same; whole sections where entries are named
    freely (terms, photometric steps), as an entry may be missing in either, and their order counts."""
    one, other = (replace(configs.computing(config), name="x", teacher="") for config in (recipe, best))
    found = _differences(one, other)
    if best.distill.terms and best.teacher != recipe.teacher:
        found["teacher"] = best.teacher
    return found


# ---------------------------------------------------------------------------------------------------- what comes of it


def release(made: Table, cell: str, config: Config, folder: Path) -> Release:
    """Export the seed of `cell` with the smallest val/nme to `folder`, add that to its run, and register the run.

    config: the cell's, for the places of data and store. `champion` moves only on the evidence of
    `metrics.compare_runs`. Raises UserError where a challenge rule is broken, and where the store cannot be reached.
    """
    tracking, row = config.tracking, next(row for row in made.rows if row.cell == cell)
    seed = min(row.nme, key=lambda seed: (row.nme[seed], seed))
    run = track.find_run(tracking, row.runs[seed])
    exported = _export(replace(config, seed=seed), run, folder)
    version, verdict = registry.register(tracking, NAME, run.id)
    return Release(run, seed, exported, version, verdict)


def beats(made: Table, cell: str) -> str:
    """Whether the best configuration is better than the recipe, in a sentence with its evidence."""
    rows = {row.cell: row for row in made.rows}
    if cell == RECIPE:
        return f"No trial of the study was better than the recipe: val/nme {_mean(rows[RECIPE])}."
    d = rows[BEST].difference
    if d is None:
        return "The best configuration and the recipe have no finished seed in common, so they cannot be compared."
    figures = f"val/nme {_mean(rows[BEST])} against {_mean(rows[RECIPE])}, {d}"
    if not d.of_recipes:
        return (
            f"The best configuration is {'better' if d.mean < 0 else 'worse'} than the recipe with one seed: {figures}."
        )
    verb = ("beats" if d.mean < 0 else "does NOT beat") if d.clear else "does NOT clearly beat"
    return f"The best configuration {verb} the recipe: {figures}."


def to_text(done: Release) -> str:
    """What was released, for a terminal."""
    nme, exported = done.run.metrics[registry.METRIC], done.exported
    moved = "moved to it" if done.verdict.moves else "did NOT move to it"
    lines = [
        f"chosen      seed {done.seed}, run {done.run.id}: val/nme {nme:.3f} %",
        f"weights     {exported.weights}: {exported.weights.stat().st_size:,} bytes, float32",
        f"onnx        {exported.onnx}: within {exported.parity:.6f} px of the weights",
        f"submission  {exported.submission or 'none: the data has no test set, or the model other points'}",
        f"registry    {NAME} version {done.version}; '{CHAMPION}' {moved}: {done.verdict.why}",
    ]
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------------- inside


def _differences(one: Any, other: Any, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in dataclasses.fields(one):
        a, b, key = getattr(one, field.name), getattr(other, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(a):
            found |= _differences(a, b, f"{key}.")
        elif json.dumps(configs.set_values(a)) != json.dumps(configs.set_values(b)):
            found[key] = configs.set_values(b)
    return found


def _export(config: Config, run: RunInfo, folder: Path) -> Export:
    """What a training with light outputs leaves out, added to its run."""
    tracking = config.tracking
    model_file = resolve_model(run.id, tracking).path
    test_set = images_to_submit(resolve(config.data).test, model_file)
    exported = export(model_file, folder, test_set)
    track.add_artifacts(tracking, run.id, [exported.onnx], "onnx")
    if exported.submission:
        track.add_artifacts(tracking, run.id, [exported.submission], "submission")
        track.tag_run(tracking, run.id, submission_tags(exported, test_set))
    packed = folder / track.MODEL_FOLDER
    packed.mkdir(exist_ok=True)
    weights = shutil.copyfile(exported.weights, packed / exported.weights.name)
    about = about_of(config, run.tags.get("distill.role", "student"), weights)
    card = model_card(config, _cost(run), track.read_report(tracking, run.id), about)
    facts = {"run_id": run.id, "val/nme": round(run.metrics[registry.METRIC], 4)}
    added = [file for file in pack(exported.onnx, packed, card, facts) if file != weights]
    track.add_artifacts(tracking, run.id, added, track.MODEL_FOLDER)
    return exported


def _cost(run: RunInfo) -> Cost:
    get = run.metrics.__getitem__
    return Cost(
        parameters=int(get("model/parameters")),
        file_bytes=int(get("model/file_bytes")),
        mmacs=get("model/mmacs"),
        latency_ms=get("model/latency_ms"),
    )


def _mean(row: Row) -> str:
    return f"{metrics.format_mean(list(row.nme.values()))} %"
