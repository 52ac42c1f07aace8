"""A search file: a hand-written recipe, and the space around it in which trials look for a better one.

    base: ../cpu/distill.yaml              # the recipe at full length
    search:
      title: What to listen to
      objectives: [val/nme]                # all minimised; a second one may be a cost of the model, e.g. model/latency_ms
      set: {train.amp: bf16}               # dotted overrides of every training, the recipe's too
      trial: {train.epochs: 6, data.limit: 1000}           # ... of trials only: shorter, smaller
      sampler: {kind: tpe, seed: 0, startup: 10}           # tpe, gp or random; startup: drawn at random first
      pruner: {kind: hyperband, min_epochs: 1, factor: 3}  # hyperband, median (startup, min_epochs) or none
      constraints: {model/file_bytes: 15000000}            # upper bounds, known before a trial trains
      retries: 2                           # of a trial whose worker was killed
      heartbeat: 30                        # seconds; a worker silent for three of these is taken for dead
      enqueue: [{train.lr: 3e-3}]          # tried right after the recipe; what is left out is as in the recipe
      space:
        train.lr: {float: [3e-4, 6e-3], log: true}
        model.head.width: {int: [64, 128], step: 32}
        train.batch_size: {choice: [16, 32]}
        distill.terms.kl.args.temperature: {choice: [1, 2], unset: 1}   # unset: what leaving the key out means
        features:                          # no config key: a fork, with parameters that only its branches have
          recipe: coarse                   # the branch that the recipe is on
          branches:
            none: {}
            coarse:
              set: {distill.terms.features: {loss: fitnet, student: "level:2", teacher: "level:2"}}
              space: {distill.terms.features.weight: {float: [0.1, 8], log: true}}

On a branch, entries (a term, an argument) that only other branches set are absent; fields keep the recipe's value. Everything
is refused here, by file and key, before torch or Optuna is imported.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from distill import config as configs
from distill.config import Config
from distill.errors import UserError
from distill.runs.experiment_file import (
    DEFAULTS,
    configured,
    known,
    opened,
    section,
)
from search import settings, tree
from search.changes import changed, expected_at, is_entry, of_branch, value_at, with_fields_of
from search.parameters import MISSING, Branch, Fork, Node, Parameter, describe, every, touches
from search.settings import Pruner, Sampler

FILE_KEYS = ("base", "search")
KEYS = (
    "title",
    "objectives",
    "set",
    "trial",
    "sampler",
    "pruner",
    "constraints",
    "retries",
    "heartbeat",
    "enqueue",
    "space",
)


@dataclass(frozen=True)
class Space:
    """A checked search file."""

    path: Path
    title: str
    base: Config  # the recipe at full length, with `set` and the command line's overrides
    trial: dict[str, Any]  # dotted overrides of trials
    objectives: tuple[str, ...]
    sampler: Sampler
    pruner: Pruner
    constraints: dict[str, float]  # name of a cost -> its upper bound
    retries: int
    heartbeat: int  # seconds
    parameters: tuple[Node, ...]
    enqueue: tuple[dict[str, Any], ...] = ()  # complete values of the first trials; the recipe's come first

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def names(self) -> tuple[str, ...]:
        """Those of all parameters and forks, on whichever branch."""
        return tuple(node.name for node in every(self.parameters))

    @cached_property
    def epochs(self) -> int:
        """Of a trial that is not pruned."""
        return self.built({}, str(self.path)).train.epochs

    @property
    def digest(self) -> str:
        """16 hex digits of all that makes trials comparable: not how they are sampled, pruned, stored and watched."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    @property
    def text(self) -> str:
        """`described()` as JSON."""
        return json.dumps(self.described())

    def described(self) -> dict[str, Any]:
        """What makes trials comparable, as plain values that JSON keeps; of the base, what is not its default."""
        default, base = (configs.flatten(configs.computing(config)) for config in (Config(), self.base))
        return {
            "objectives": list(self.objectives),
            "constraints": dict(self.constraints),
            "base": {key: value for key, value in base.items() if key not in default or value != default[key]},
            "trial": dict(self.trial),
            "space": describe(self.parameters),
        }

    def config(self, values: dict[str, Any], full: bool = False) -> Config:
        """The config of a point: as a trial trains it, or at full length.

        Raises UserError where `values` lack a name or have one too many, and for what distill.config refuses.
        """
        asked = [node.name for node in self.active(values)]
        for name in dict.fromkeys([*asked, *values]):
            if name not in values or name not in asked:
                raise UserError(f"{self.path}: a point {'lacks' if name in asked else 'has a value of'} '{name}'.")
        return self.built(self.changes(values), str(self.path), full)

    def active(self, values: dict[str, Any]) -> Iterator[Node]:
        """The nodes that a point has, on the branches that its values name, or else on the recipe's."""

        def walk(nodes: tuple[Node, ...]) -> Iterator[Node]:
            for node in nodes:
                yield node
                if isinstance(node, Fork):
                    yield from walk(self.branch(node, values).space)

        return walk(self.parameters)

    def branch(self, fork: Fork, values: dict[str, Any]) -> Branch:
        """The one that a point is on; the recipe's, if its values do not say. Raises UserError for one that there is not."""
        name = values.get(fork.name, fork.recipe)
        if name not in fork.branches:
            raise UserError(f"{self.path}: '{fork.name}' is {name!r}; expected one of {', '.join(fork.branches)}.")
        return fork.branches[name]

    def changes(self, values: dict[str, Any]) -> dict[str, Any]:
        """What leads from the base to a point, by dotted key (MISSING: left out), by all forks and the values given."""
        found: dict[str, Any] = {}
        for node in self.active(values):
            if isinstance(node, Fork):
                found |= of_branch(self.branch(node, values).set, node.keys)
            elif node.name in values:
                found[node.key] = MISSING if values[node.name] == node.unset else values[node.name]
        return found

    def built(self, changes: dict[str, Any], where: str, full: bool = False) -> Config:
        """The base with `changes`, and unless `full` with a trial's settings. Raises UserError that begins with `where`."""
        return changed(self.base, changes if full else {**self.trial, **changes}, where)


def load(path: str | Path, overrides: Sequence[str] = ()) -> Space:
    """Read and check a search file.

    `key=value` overrides hold for the base, and so for all that its `trial` does not set; `trial.key=value` for trials;
    `sampler.key=value` and `pruner.key=value` for these, which begin anew where their kind is given. Raises UserError naming
    file and key.
    """
    path = Path(path)
    raw, base_file = opened(path, FILE_KEYS, "to start from")
    about = section(raw, "search", path)
    known(about, KEYS, f"{path}: ", "search.")
    shared = {**DEFAULTS, **section(about, "set", path, "search.set")}
    about, overrides = _override_own(about, overrides, path)
    for_trials = [item.strip() for item in overrides if item.strip().startswith("trial.")]

    def based(overrides: list[str]) -> Config:
        return configured(path.parent / base_file, shared, overrides, f"{path}: ")

    base = based([item for item in overrides if item.strip() not in for_trials])
    trial = section(about, "trial", path, "search.objective")
    for item in [item.removeprefix("trial.") for item in for_trials]:
        key = item.partition("=")[0].strip()
        trial[key] = value_at(based([item]), key)
    nodes = tree.read(path, section(about, "space", path, "search.space"))
    objectives = settings.objectives(path, about.get("objectives", [settings.OBJECTIVE]))
    space = Space(
        path=path,
        title=settings.words(path, "title", about.get("title", path.stem)),
        base=base,
        trial=trial,
        objectives=objectives,
        sampler=settings.sampler(path, section(about, "sampler", path, "search.sampler")),
        pruner=settings.pruner(path, section(about, "pruner", path, "search.pruner"), len(objectives)),
        constraints=settings.constraints(path, section(about, "constraints", path, "search.constraints")),
        retries=settings.whole(path, "retries", about.get("retries", 2), 0),
        heartbeat=settings.whole(path, "heartbeat", about.get("heartbeat", 30), 1),
        parameters=nodes,
    )
    _check_trial(space)
    _check_values(space, nodes, {}, "search.space")
    return replace(space, enqueue=_enqueued(space, _recipe(space), about.get("enqueue") or []))


def _override_own(about: dict[str, Any], overrides: Sequence[str], path: Path) -> tuple[dict[str, Any], list[str]]:
    """The file's `search` section with the overrides of its sampler and pruner in it, and the other overrides."""
    about, others = dict(about), []
    for item in overrides:
        key, _, text = item.strip().partition("=")
        part, _, name = key.partition(".")
        if part not in ("sampler", "pruner") or not name:
            others.append(item)
            continue
        value = int(text) if text.isdigit() else text
        before = {} if name == "kind" else section(about, part, path, f"search.{part}")
        about[part] = {**before, name: value}
    return about, others


# ---------------------------------------------------------------------------------------------------- checks


def _check_trial(space: Space) -> None:
    where = f"{space.path}, 'search.objective'"
    for key in space.trial:
        for node in every(space.parameters):
            for own in (node.key,) if isinstance(node, Parameter) else node.keys:
                if touches(key, own):
                    raise UserError(
                        f"{where}: '{key}' is searched, in '{node.name}'; expected it in one of the two places."
                    )
    config = space.built({}, where)
    if config.resume:
        raise UserError(
            f"{where}: 'resume' is '{config.resume}'; expected none, as every trial is a training of its own."
        )
    epochs, least = config.train.epochs, space.pruner.min_epochs
    if space.pruner.kind != "none" and least >= epochs:
        raise UserError(
            f"{space.path}: 'search.pruner.min_epochs' is {least}; expected fewer than a trial's epochs, {epochs}."
        )


def _check_values(space: Space, nodes: tuple[Node, ...], on: dict[str, str], where: str) -> None:
    """Every value that decides (ends of a range, choices, branches) makes a config, in a trial and at full length."""
    for node in nodes:
        if isinstance(node, Parameter):
            _check_parameter(space, node, on, f"{where}.{node.key}")
            continue
        for name, branch in node.branches.items():
            there, way = f"{where}.{node.label}.branches.{name}", {**on, node.name: name}
            if not any(isinstance(inner, Parameter) for inner in branch.space):  # else these try the branch as well
                _both(space, way, f"{space.path}, '{there}'")
            _check_values(space, branch.space, way, f"{there}.space")


def _both(space: Space, values: dict[str, Any], where: str) -> Config:
    """The config of some values at full length, which is only checked, and as a trial trains it."""
    changes = space.changes(values)
    config = space.built(changes, where)
    if any(is_entry(key) for key in space.trial):
        space.built(changes, where, full=True)
    else:  # the same, ten times as fast
        configs.check(with_fields_of(space.base, config, space.trial), where)
    return config


def _check_parameter(space: Space, node: Parameter, on: dict[str, str], where: str) -> None:
    digests = set()
    for value in node.probes:
        if expected := expected_at(node.key, value):
            raise UserError(f"{space.path}: '{where}' has {value!r}; expected {expected}, as the key takes.")
        config = _both(space, {**on, node.name: value}, f"{space.path}, '{where}' at {value}")
        digests.add(configs.digest(config))
    if len(digests) < len(node.probes):
        raise UserError(f"{space.path}: '{where}' does not change what is computed; expected a key that does.")
    if node.unset is not MISSING and not is_entry(node.key):
        raise UserError(f"{space.path}: '{where}.unset' is given; expected it only for a key that a config may lack.")


def _recipe(space: Space) -> dict[str, Any]:
    """The values that the base has. Raises UserError where they are not in the space, or do not make the base again."""
    values = _completed(space, {}, f"{space.path}: the recipe")
    config = space.config(values, full=True)
    if configs.digest(config) != configs.digest(space.base):
        key, found, expected = configs.first_difference(config, space.base, MISSING)
        raise UserError(
            f"{space.path}: on the branches of the recipe '{key}' is {_told(found)}, in the base it is {_told(expected)}; "
            f"expected the same, for the recipe to be in the space."
        )
    return values


def _told(value: Any) -> str:
    return "missing" if value is MISSING else repr(value)


def _completed(space: Space, given: dict[str, Any], where: str) -> dict[str, Any]:
    """The values of a point of which those are given, by name or by config key; the others are as the base or a branch has
    them. Raises UserError that begins with `where`."""
    values: dict[str, Any] = {}
    while fork := next(
        (node for node in space.active(values) if isinstance(node, Fork) and node.name not in values), None
    ):
        values[fork.name] = _matched(fork, given.get(fork.name, fork.recipe), where)
    start = space.built(space.changes(values), where, full=True)
    names = {node.key: node.name for node in space.active(values) if isinstance(node, Parameter)}
    asked = {names.get(key, key): value for key, value in given.items()}
    for name in asked:
        if name not in (there := [node.name for node in space.active(values)]):
            raise UserError(f"{where} has '{name}'; expected one of {', '.join(there)}.")
    for node in space.active(values):
        if isinstance(node, Parameter):
            found = value_at(start, node.key)
            value = asked.get(node.name, node.unset if found is MISSING else found)
            if value is MISSING:
                raise UserError(f"{where} has no '{node.key}'; expected 'unset' with the value that it means by that.")
            values[node.name] = _matched(node, value, where)
    return {node.name: values[node.name] for node in space.active(values)}


def _matched(node: Node, value: Any, where: str) -> Any:
    try:
        return node.match(value)
    except ValueError as expected:
        raise UserError(f"{where} has {value!r} as '{node.name}'; expected {expected}, as in the space.") from None


def _enqueued(space: Space, recipe: dict[str, Any], points: Any) -> tuple[dict[str, Any], ...]:
    if not isinstance(points, list):
        raise UserError(f"{space.path}: 'search.enqueue' is {points!r}; expected a list of points.")
    found = [recipe]
    for number, point in enumerate(points, 1):
        where = f"{space.path}: point {number} of 'search.enqueue'"
        if not isinstance(point, dict):
            raise UserError(f"{where} is {point!r}; expected keys of the space and their values.")
        values = _completed(space, {str(key): value for key, value in point.items()}, where)
        _both(space, values, where)
        if values not in found:
            found.append(values)
    return tuple(found)
