"""A study's best configuration at full length, beside the recipe that it came from, as an ablation file over seeds.

The file and those that it names hold all that is needed; python -m distill.ablation takes it as it is.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from distill import config as configs
from distill.ablation.file import file_name
from distill.config import Config
from distill.errors import UserError
from distill.files import write_text
from search import summary
from search.changes import value_at
from search.outputs import BEST_FILE

if TYPE_CHECKING:
    import optuna

    from search.summary import TrialRow

RECIPE, BEST = "recipe", "best"  # the cells
RECIPE_FILE = "recipe.yaml"
# Where and how the recipe was to be trained; the files themselves say only what is computed.
PLACES = (
    "data.root", "data.test", "data.cache", "data.workers", "train.device", "train.threads", "train.checkpoint_seconds",
    "tracking.uri", "tracking.experiment",
)  # fmt: skip


@dataclass(frozen=True)
class Order:
    """What is to be trained at full length."""

    study: str
    trial: TrialRow
    recipe: Config
    best: Config
    teacher: str  # that the study's trials had where their config names none for good

    @property
    def cell(self) -> str:
        """The one to be handed out: the recipe itself where nothing beat it."""
        return BEST if differences(self.recipe, self.best) else RECIPE


def order(study: optuna.Study) -> Order:
    """The study's best trial (of several objectives: the best in the first) and the recipe that it is compared with.

    Raises UserError for a study of another maker, and for one of which no trial came to its end.
    """
    name, about = study.study_name, study.user_attrs
    if "recipe" not in about:
        raise UserError(f"The study '{name}' has no recipe; expected one that python -m search.study made.")
    recipe = configs.from_dict(about["recipe"], f"study '{name}', the recipe")
    trial = summary.best(study)
    if trial is None:
        ended = sum(row.state in summary.ENDED for row in summary.rows(study))
        raise UserError(
            f"The study '{name}' has no best configuration: of its {ended} trials none came to its end; expected at least one."
        )
    if trial.config is None:
        raise UserError(f"The study '{name}': trial {trial.number} has no config; expected one that search.study made.")
    best = configs.from_dict(trial.config, f"study '{name}', trial {trial.number}")
    return Order(name, trial, recipe, best, str(about.get("teacher") or ""))


def write_files(asked: Order, seeds: int, store: str, out: Path) -> Path:
    """Write recipe.yaml, best.yaml and the ablation file under `out`/STUDY; the path of the last."""
    folder = out / file_name(asked.study)
    recipe, best = asked.recipe, asked.best
    own = differences(recipe, best)
    came = f"trial {asked.trial.number} of study '{asked.study}', which came to {asked.trial.value:.6g} as a trial"
    write_text(
        folder / RECIPE_FILE, f"# The recipe that study '{asked.study}' began with.\n{configs.to_recipe(recipe)}"
    )
    if not (folder / BEST_FILE).exists():  # the study's own says more
        write_text(folder / BEST_FILE, f"# {came[0].upper()}{came[1:]}.\n{configs.to_recipe(best)}")
    settings = {key: value for key in PLACES if (value := value_at(recipe, key)) != value_at(Config(), key)}
    settings |= {"tracking.store": store}
    if teacher := asked.teacher or recipe.teacher:
        settings["teacher"] = teacher
    cells: dict[str, Any] = {RECIPE: {}}
    if own:
        cells[BEST] = own
    about = {
        "title": f"The best of study '{asked.study}' against its recipe" if own else f"The recipe of '{asked.study}'",
        "seeds": list(range(seeds)), "control": RECIPE, "set": settings, "cells": cells,
    }  # fmt: skip
    said = f"# {BEST}: {came}.\n" if own else f"# The recipe itself is {came}.\n"
    text = said + yaml.safe_dump({"base": RECIPE_FILE, "ablation": about}, sort_keys=False, width=120)
    return write_text(folder / f"{file_name(asked.study)}-best.yaml", text)


def differences(recipe: Config, best: Config) -> dict[str, Any]:
    """Dotted key -> the best one's value, of all that they do not compute alike; whole sections where entries are named
    freely (terms, photometric steps), as an entry may be missing in either, and their order counts."""
    found = _differences(
        *(dataclasses.replace(configs.computing(config), name="x", teacher="") for config in (recipe, best))
    )
    if best.distill.terms and best.teacher != recipe.teacher:
        found["teacher"] = best.teacher
    return found


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
