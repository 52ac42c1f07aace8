"""Drawing points of a space: Optuna's samplers and pruners, as a search file asks for them.

TPE: https://papers.nips.cc/paper/4443-algorithms-for-hyper-parameter-optimization; Hyperband: https://arxiv.org/abs/1603.06560.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from distill import config as configs
from search.parameters import Fork, Parameter
from search.settings import Pruner
from search.space import Space


def suggest(trial: optuna.trial.BaseTrial, space: Space) -> dict[str, Any]:
    """The trial's values by Optuna's names, those of the branches taken; `space.config` takes them."""
    values: dict[str, Any] = {}
    while waiting := [node for node in space.active(values) if node.name not in values]:
        for node in waiting:
            values[node.name] = _suggest(trial, node)
            if isinstance(node, Fork):
                break  # what comes after may be on another branch than thought
    return values


def _suggest(trial: optuna.trial.BaseTrial, node: Parameter | Fork) -> Any:
    if isinstance(node, Fork):
        return trial.suggest_categorical(node.name, list(node.branches))
    if node.kind == "choice":
        return trial.suggest_categorical(node.name, node.choices)
    if node.kind == "int":
        return trial.suggest_int(node.name, int(node.low), int(node.high), step=int(node.step or 1), log=node.log)
    return trial.suggest_float(node.name, node.low, node.high, step=node.step, log=node.log)


def make_sampler(space: Space, worker: int = 0, begun: int = 0) -> BaseSampler:
    """The sampler that the space names. Each worker draws another stream of its seed.

    begun: trials that the study had when this worker came, so that one that comes again does not draw the same again.
    """
    seed = int(np.random.SeedSequence([space.sampler.seed, worker, begun]).generate_state(1)[0])
    if space.sampler.kind == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if space.sampler.kind == "gp":
        # of a branch's parameters it knows nothing and draws them at random, which is no news in every trial
        return optuna.samplers.GPSampler(
            seed=seed, n_startup_trials=space.sampler.startup, warn_independent_sampling=False
        )
    with warnings.catch_warnings():
        # `group` learns what goes together on each branch apart; without it all branches' parameters are drawn alone
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=space.sampler.startup, multivariate=True, group=True, constant_liar=True
        )


def make_pruner(pruner: Pruner, epochs: int) -> BasePruner:
    """The pruner that a search file names; steps are epochs, from 1. epochs: of a trial that is not pruned."""
    if pruner.kind == "hyperband":
        return optuna.pruners.HyperbandPruner(pruner.min_epochs, epochs, pruner.factor)
    if pruner.kind == "median":
        return optuna.pruners.MedianPruner(pruner.startup, pruner.min_epochs)
    return optuna.pruners.NopPruner()


def draw(space: Space, count: int) -> list[dict[str, Any]]:
    """The first `count` points that a study would try if it learnt nothing: those enqueued, then random ones.

    Nothing is trained and no cost is measured, so some may be refused by the constraints.
    """
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(sampler=make_sampler(space))
        for values in space.enqueue:
            study.enqueue_trial(values)
        return [_drawn(study, space) for _ in range(count)]
    finally:
        optuna.logging.set_verbosity(level)


def _drawn(study: optuna.Study, space: Space) -> dict[str, Any]:
    trial = study.ask()
    values = suggest(trial, space)
    study.tell(trial, state=TrialState.FAIL)  # nothing to learn from
    return values


def to_text(space: Space, draws: list[dict[str, Any]]) -> str:
    """The points for people, each with its number; what differs from the recipe is marked with *."""
    recipe = space.enqueue[0]
    blocks = []
    for number, values in enumerate(draws):
        what = "the recipe" if values == recipe else "enqueued" if number < len(space.enqueue) else "drawn"
        lines = [f"{number}  {what}  (config {configs.digest(space.config(values))})"]
        lines += [
            f"  {'*' if name not in recipe or value != recipe[name] else ' '} {name}: {_word(value)}"
            for name, value in values.items()
        ]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _word(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
