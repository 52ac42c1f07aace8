"""A recipe's stages, one after the other, under one parent run; what is done already is not done again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from distill import config as configs
from distill import tracking as track
from distill.average import job as averaging
from distill.config import Config
from distill.errors import UserError
from distill.models.files import check_budget
from distill.models.landmarker import Landmarker, skeleton
from distill.models.references import resolve_model
from distill.recipe.file import Recipe, Stage, describe
from distill.runs import find_or_train
from distill.runs.find_or_train import Outcome
from distill.training.distributed import check_device
from distill.training.init_weights import difference
from distill.training.optim import freeze


@dataclass(frozen=True)
class Done:
    """A finished stage."""

    stage: Stage
    run_id: str
    how: str  # found, continued or trained
    nme: float  # best/val/nme


@dataclass(frozen=True)
class Finished:
    """The result of `run`."""

    parent_id: str
    stages: list[Done]


def run(recipe: Recipe, on_stage: Callable[[Stage], None] = lambda _: None) -> Finished:
    """Have every stage done, in order, in one parent run; on_stage is called with each before it begins. The same call
    after a cut finds the stages that are finished and continues the one that was under way.

    Raises UserError for what is wrong before the first stage trains, and as training does.
    """
    check_models(recipe)
    tracking = recipe.stages[0].config.tracking
    for stage in recipe.stages:
        teacher = stage.config.teacher if stage.config.distill.terms and not stage.teacher else ""
        for reference in filter(None, (teacher, "" if stage.init else stage.config.init)):
            resolve_model(reference, tracking)  # before anything is made
    lock = track.store_root(tracking) / "work" / "locks" / f"recipe-{recipe.digest}.lock"
    with track.exclusive(lock, f"Another process is at work on the recipe '{recipe.name}' right now."):
        with _parent(recipe) as parent:
            parent.log_text(describe(recipe) + "\n", "stages.txt")
            done: dict[str, Done] = {}
            for number, stage in enumerate(recipe.stages, 1):
                on_stage(stage)
                done[stage.name] = _do(stage, parent.id, {name: done[name].run_id for name in stage.needs})
                parent.set_tags({f"recipe.run.{stage.name}": done[stage.name].run_id})
                parent.log_metrics({f"stage/{stage.name}/nme": done[stage.name].nme}, step=number)
            if track.NOTE not in recipe.stages[0].config.tracking.tags:
                parent.set_tags({track.NOTE: _note(recipe, done.values())})
    return Finished(parent.id, list(done.values()))


def check_models(recipe: Recipe) -> None:
    """Build every stage's model once. Raises UserError where one cannot be, breaks the budget, or does not fit its
    `init`."""
    models: dict[str, Landmarker] = {}
    for stage in recipe.stages:
        where = f"{recipe.path}, stage '{stage.name}': "
        sources, part = stage.of, "all"
        if stage.job != "average":
            try:
                models[stage.name] = skeleton(stage.config.model, configs.markup_of(stage.config))
                freeze(models[stage.name], stage.config.train.freeze)
                check_device(stage.config.train.device)
                if stage.job == "student":
                    check_budget(models[stage.name])
            except UserError as error:
                raise UserError(f"{where}{error}") from None
            sources, part = ((stage.init,) if stage.init else ()), stage.config.init_part
        else:
            models[stage.name] = models[stage.of[0]]
        for source in sources:
            if different := difference(models[source], models[stage.name], part):
                key, was, now = different
                raise UserError(
                    f"{where}{key} is {now}, but stage '{source}' has {was}; expected the same "
                    f"architecture, for weights to go from one to the other."
                )


def _parent(recipe: Recipe) -> track.Run:
    """The recipe's parent run: the one that it had before, or a new one."""
    config = recipe.stages[0].config
    data = find_or_train.fingerprints(config.data)
    tags = {"recipe.digest": recipe.digest, "data.train": data.train, "data.val": data.val}
    known = track.runs_tagged(config.tracking, "recipe", tags)
    return track.Run.start(
        config.tracking,
        job="recipe",
        run_name=config.tracking.run_name or recipe.name,
        params={"name": recipe.name, "seed": config.seed, "stages": ", ".join(stage.name for stage in recipe.stages)},
        config_yaml=recipe.path.read_text(encoding="utf-8"),
        tags={**tags, track.NOTE: _note(recipe), **config.tracking.tags},
        resume_id=known[0].id if known else None,
    )


def _note(recipe: Recipe, done: Iterable[Done] = ()) -> str:
    results = [f"- {one.stage.name}: val/nme {one.nme:.3f} %, run `{one.run_id}`" for one in done]
    stages = ", ".join(stage.name for stage in recipe.stages)
    return "\n".join((f"Recipe `{recipe.name}`: {stages}. Its stages are this run's children.\n", *results)).strip()


def _do(stage: Stage, parent_id: str, runs: dict[str, str]) -> Done:
    """runs: name -> run id of the stages that this one needs."""
    tags = {"mlflow.parentRunId": parent_id, "recipe.stage": stage.name}
    config = replace(stage.config, tracking=replace(stage.config.tracking, run_name=""))
    if stage.job == "average":
        outcome = _average(stage, _tagged(config, tags), [runs[name] for name in stage.of])
    else:
        config = replace(
            config, init=runs.get(stage.init, config.init), teacher=runs.get(stage.teacher, config.teacher)
        )
        outcome = find_or_train.settle(find_or_train.Cell(stage.name, stage.job, config), tags)
    info = track.find_run(config.tracking, outcome.run_id)
    return Done(stage, info.id, outcome.how, info.metrics[find_or_train.METRIC])


def _average(stage: Stage, config: Config, members: list[str]) -> Outcome:
    found = averaging.earlier_run(members, stage.method, config)
    if found and found.status == "FINISHED":
        return Outcome(found.id, "found")
    made = averaging.average(members, stage.method, config, resume_id=found.id if found else None)
    return Outcome(made.result.run_id, "continued" if found else "trained")


def _tagged(config: Config, tags: dict[str, str]) -> Config:
    return replace(config, tracking=replace(config.tracking, tags={**config.tracking.tags, **tags}))
