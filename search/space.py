"""A search file: a hand-written recipe, and the space around it in which trials look for a better one.

    base: ../cpu/distill.yaml              # the recipe at full length
    search:
      title: Terms and their weights
      objectives: [val/nme]                # all minimised; a second one: a cost of the model, e.g. model/latency_ms
      set: {train.amp: bf16}               # dotted overrides of every training, the recipe's too
      trial: {train.epochs: 6, data.limit: 1000}           # ... of trials only: shorter, smaller
      sampler: {kind: tpe, seed: 0, startup: 10}           # tpe, gp or random; startup: drawn at random first
      pruner: {kind: hyperband, min_epochs: 1, factor: 3}  # hyperband, median (startup, min_epochs) or none
      constraints: {model/file_bytes: 15000000}            # upper bounds, measured before a trial trains
      retries: 2                           # of a trial whose worker was killed
      heartbeat: 30                        # seconds; a worker silent for three of these counts as dead
      enqueue: [{train.lr: 3e-3}]          # tried right after the recipe; what is left out is as in the recipe
      space:
        train.lr: {float: [3e-4, 6e-3], log: true}
        model.head.width: {int: [64, 128], step: 32}
        train.batch_size: {choice: [16, 32]}
        distill.terms.kl.args.temperature: {choice: [1, 2], unset: 1}   # unset: what leaving the key out means
        features:                          # not a config key: a fork, with parameters that only its branches have
          recipe: coarse                   # the branch that the recipe is on
          branches:
            none: {}
            coarse:
              set: {distill.terms.features: {loss: fitnet, student: "level:2", teacher: "level:2"}}
              space: {distill.terms.features.weight: {float: [0.1, 8], log: true}}

On a branch, entries (a term, an argument) that only other branches set are absent; fields keep the recipe's value. A
point of the space is a dict: a parameter's name -> value, a fork's name -> branch; names are keys, those on a branch
with the branch before them (`features[coarse].distill.terms.features.weight`). A file is checked completely before
torch or Optuna is imported.
"""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from distill import config as configs
from distill.config import Config
from distill.errors import UserError
from distill.files import read_yaml
from distill.runs import DEFAULTS, configured
from distill.schema import Keys, Number, Section, as_number, validated

NME = "val/nme"
Cost = Literal["model/parameters", "model/file_bytes", "model/mmacs", "model/latency_ms"]  # of distill.profiling.Cost
NAME = r"^[A-Za-z][\w ,+-]*$"  # of a fork or branch
# the same in all trials: they start alike, are as long as each other, and are measured on the same images
FIXED = ("base", "seed", "resume", "train.epochs", "data.val", "data.root")


MISSING: Any = object()  # stands where a config has nothing; None is a value

# ---------------------------------------------------------------------------------------------------- the file's schema


def _free(key: str) -> str:
    if any(_overlap(key, fixed) for fixed in FIXED):
        raise ValueError("a key that may differ between the trials of a study")
    return key


def _bounds(ends: list) -> list:
    if len(ends) != 2 or not ends[0] < ends[1]:
        raise ValueError("two numbers, the lower one first")
    return ends


def _choices(values: list) -> list:
    values = [as_number(value) for value in values]
    if len(values) < 2 or not all(isinstance(value, str | int | float) for value in values):
        raise ValueError("two or more words, numbers, or true and false (for sections and lists: branches)")
    if len({str(value) for value in values}) < len(values) or len(set(values)) < len(values):
        raise ValueError("different values")
    return values


Key = Annotated[str, AfterValidator(_free)]
Name = Annotated[str, Field(pattern=NAME)]


class Parameter(Section):
    """A config key and the values that it may take; `unset` is the value that a config means by leaving the key out."""

    unset: Annotated[Any, BeforeValidator(as_number)] = None

    @model_validator(mode="after")
    def _unset_is_possible(self) -> Parameter:
        if self.unset is not None:
            self.match(self.unset)
        return self

    def match(self, value: Any) -> Any:
        """The value as Optuna takes it. Raises ValueError, with what was expected, where it is not in the range."""
        raise NotImplementedError

    @property
    def probes(self) -> list:
        """The values that are tried before any trial: the ends of a range, or all choices."""
        raise NotImplementedError

    def described(self) -> dict[str, Any]:
        """Plain values, as in the file; a study stores them."""
        return self.model_dump(by_alias=True, exclude_defaults=True)


class _Range(Parameter):
    bounds: Any
    step: Any = None
    log: bool = False

    @model_validator(mode="after")
    def _scale_is_possible(self) -> _Range:
        low, high = self.bounds
        if self.log and (low <= 0 or self.step is not None):
            raise ValueError("a range above 0 and no 'step' where 'log' is true")
        if self.step is not None and not _is_whole((high - low) / self.step):
            raise ValueError(f"a 'step' that leads from {low:g} to {high:g}")
        return self

    @property
    def probes(self) -> list:
        return self.bounds

    def match(self, value: Any) -> Any:
        (low, high), value, kind = self.bounds, as_number(value), type(self.bounds[0])
        right = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        if right and (kind is float or value == int(value)) and (not self.step or _is_whole((value - low) / self.step)):
            return kind(value)
        steps = f" in steps of {self.step:g}" if self.step else ""
        raise ValueError(f"a {'whole ' * (kind is int)}number from {low:g} to {high:g}{steps}")


class FloatRange(_Range):
    """Real numbers between two bounds."""

    bounds: Annotated[list[Number], AfterValidator(_bounds)] = Field(alias="float")
    step: Annotated[Number, Field(gt=0)] | None = None


class IntRange(_Range):
    """Whole numbers between two bounds."""

    bounds: Annotated[list[int], AfterValidator(_bounds)] = Field(alias="int")
    step: Annotated[int, Field(gt=0)] | None = None


class Choice(Parameter):
    """One of some values."""

    choices: Annotated[list, AfterValidator(_choices)] = Field(alias="choice")

    @property
    def probes(self) -> list:
        """All choices."""
        return self.choices

    def match(self, value: Any) -> Any:
        """The choice that the value is; True is not 1."""
        value = as_number(value) if value not in self.choices else value
        for choice in self.choices:
            if choice == value and isinstance(choice, bool) == isinstance(value, bool):
                return choice
        raise ValueError(f"one of {', '.join(map(str, self.choices))}")


class Branch(Section):
    """What a fork's branch sets (dotted overrides), and what is searched on it."""

    set: Annotated[dict[Key, Any], Keys] = {}
    space: Annotated[dict[Key, Node], Keys] = {}


class Fork(Section):
    """A choice between named branches; `recipe` is the branch that the base recipe is on."""

    recipe: str
    branches: Annotated[dict[Name, Branch], Field(min_length=2)]

    @model_validator(mode="after")
    def _recipe_is_a_branch(self) -> Fork:
        self.match(self.recipe)
        return self

    @property
    def keys(self) -> list[str]:
        """The keys that its branches set."""
        return list(dict.fromkeys(key for branch in self.branches.values() for key in branch.set))

    def match(self, value: Any) -> str:
        """The branch of this name. Raises ValueError, with what was expected, where there is none."""
        if value not in self.branches:
            raise ValueError(f"one of {', '.join(self.branches)}")
        return value

    def described(self) -> dict[str, Any]:
        """Plain values, as in the file; a study stores them."""
        parts = {name: {"set": own.set, "space": _described(own.space)} for name, own in self.branches.items()}
        return {"recipe": self.recipe, "branches": parts}


def _kind(part: Any) -> str | None:
    keys = part if isinstance(part, dict) else ()
    return next((f"[{kind}]" for kind in ("branches", "float", "int", "choice") if kind in keys), None)


Node = Annotated[
    Annotated[FloatRange, Tag("[float]")]
    | Annotated[IntRange, Tag("[int]")]
    | Annotated[Choice, Tag("[choice]")]
    | Annotated[Fork, Tag("[branches]")],
    Discriminator(
        _kind,
        custom_error_type="node",
        custom_error_message="float: [LOW, HIGH], int: [LOW, HIGH], choice: [...], or 'recipe' and 'branches'",
    ),
]
Branch.model_rebuild()


class Sampler(Section):
    """How points are drawn."""

    kind: Literal["tpe", "gp", "random"] = "tpe"
    seed: int = Field(default=0, ge=0)
    startup: int = Field(default=10, ge=1)  # trials drawn at random before it learns from them


class Pruner(Section):
    """When a trial is stopped early."""

    kind: Literal["hyperband", "median", "none"] = "hyperband"
    min_epochs: int = Field(default=1, ge=1)  # no trial is pruned before it has trained these
    factor: int = Field(default=3, ge=2)  # hyperband: about one of so many trials goes on at each rung
    startup: int = Field(default=5, ge=1)  # median: no trial is pruned before so many are complete


class Search(Section):
    """The `search` section of a file."""

    title: Annotated[str, Field(min_length=1)] | None = None
    objectives: list[Literal["val/nme"] | Cost] = Field(default=["val/nme"], min_length=1, max_length=2)
    set: Annotated[dict[str, Any], Keys] = {}
    trial: Annotated[dict[str, Any], Keys] = {}
    sampler: Sampler = Sampler()
    pruner: Pruner | None = None
    constraints: dict[Cost, Annotated[Number, Field(gt=0)]] = {}
    retries: int = Field(default=2, ge=0)
    heartbeat: int = Field(default=30, ge=1)
    enqueue: list[dict[str, Any]] = []
    space: dict[Key, Node] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits(self) -> Search:
        if self.objectives[0] != NME or self.objectives[1:] == [NME]:
            raise ValueError(f"'objectives' to be [{NME}], or that and a cost of the model")
        if len(self.objectives) > 1 and self.pruner and self.pruner.kind != "none":
            raise ValueError("'pruner.kind' to be none, as there are several objectives")
        return self


class File(Section):
    """A search file."""

    base: str
    search: Search


# ---------------------------------------------------------------------------------------------------- the space


class Named(NamedTuple):
    """A node in its place."""

    name: str  # what Optuna calls it
    key: str  # the config key of a parameter, the label of a fork
    node: Parameter | Fork


@dataclass(frozen=True)
class Space:
    """A checked search file, with the command line's overrides."""

    path: Path
    search: Search
    base: Config  # the recipe at full length
    enqueue: tuple[dict[str, Any], ...] = ()  # complete points of the first trials; the recipe's comes first

    @cached_property
    def epochs(self) -> int:
        """Of a trial that is not pruned."""
        return self.built({}, str(self.path)).train.epochs

    def described(self) -> dict[str, Any]:
        """What makes trials comparable, as plain values that JSON keeps; of the base, what is not its default."""
        default, base = (configs.flatten(configs.computing(config)) for config in (Config(), self.base))
        found = self.search.model_dump(include={"objectives", "constraints", "trial"})
        found["base"] = {key: value for key, value in base.items() if key not in default or value != default[key]}
        return found | {"space": _described(self.search.space)}

    def config(self, point: dict[str, Any], full: bool = False) -> Config:
        """The config of a point: as a trial trains it, or at full length.

        Raises UserError where the point lacks a name or has one too many, and for what distill.config refuses.
        """
        names = [name for name, _, _ in self.active(point)]
        for name in dict.fromkeys([*names, *point]):
            if name not in point or name not in names:
                raise UserError(f"{self.path}: a point {'lacks' if name in names else 'has a value of'} '{name}'.")
        return self.built(self.changes(point), str(self.path), full)

    def active(self, point: dict[str, Any]) -> Iterator[Named]:
        """The nodes on the branches that a point names, or else on the recipe's.

        Lazy: a fork may be added to `point` once it was yielded. Raises UserError for a branch that does not exist.
        """

        def walk(nodes: dict[str, Any], inside: str) -> Iterator[Named]:
            for key, node in nodes.items():
                name = inside + key
                yield Named(name, key, node)
                if isinstance(node, Fork):
                    branch = point.get(name, node.recipe)
                    if branch not in node.branches:
                        raise UserError(
                            f"{self.path}: '{name}' is {branch!r}; expected one of {', '.join(node.branches)}."
                        )
                    yield from walk(node.branches[branch].space, f"{name}[{branch}].")

        return walk(self.search.space, "")

    def changes(self, point: dict[str, Any]) -> dict[str, Any]:
        """What leads from the base to a point, by dotted key (MISSING: left out), by all forks and the values given."""
        found: dict[str, Any] = {}
        for name, key, node in self.active(point):
            if isinstance(node, Fork):
                own = node.branches[point.get(name, node.recipe)].set
                absent = [k for k in node.keys if _is_entry(k) and not any(_overlap(k, other) for other in own)]
                found |= dict.fromkeys(absent, MISSING) | own
            elif name in point:
                found[key] = MISSING if node.unset is not None and point[name] == node.unset else point[name]
        return found

    def built(self, changes: dict[str, Any], where: str, full: bool = False) -> Config:
        """The base with `changes`, and unless `full` the trials' settings. Raises UserError that begins with
        `where`."""
        return changed(self.base, changes if full else {**self.search.trial, **changes}, where)


def load(path: str | Path, overrides: Sequence[str] = ()) -> Space:
    """Read and check a search file. `key=value` overrides are of the base, and so of all that its `trial` does not set;
    `trial.key=value` of trials alone. Raises UserError naming file and key."""
    path = Path(path)
    file = validated(File, read_yaml(path), path)
    overrides = [item.strip() for item in overrides]
    for_trials = [item.removeprefix("trial.") for item in overrides if item.startswith("trial.")]

    def based(own: list[str]) -> Config:
        return configured(path.parent / file.base, {**DEFAULTS, **file.search.set}, own, f"{path}: ")

    keys = {item.partition("=")[0].strip(): item for item in for_trials}
    trial = file.search.trial | {key: value_at(based([item]), key) for key, item in keys.items()}
    pruner = file.search.pruner or Pruner(kind="hyperband" if len(file.search.objectives) == 1 else "none")
    own = {"title": file.search.title or path.stem, "trial": trial, "pruner": pruner}
    base = based([item for item in overrides if not item.startswith("trial.")])
    space = Space(path, file.search.model_copy(update=own), base)
    _check_keys(space, space.search.space)
    _check_trial(space)
    _check_values(space, space.search.space, {}, "search.space", "")
    return replace(space, enqueue=_enqueued(space))


def suggest(trial: Any, space: Space) -> dict[str, Any]:
    """Draw the point of an Optuna trial: the values on the branches that are drawn."""
    point: dict[str, Any] = {}
    for name, _, node in space.active(point):  # a fork's branch is known before what lies on it is reached
        if isinstance(node, Fork):
            point[name] = trial.suggest_categorical(name, list(node.branches))
        elif isinstance(node, Choice):
            point[name] = trial.suggest_categorical(name, node.choices)
        elif isinstance(node, IntRange):
            point[name] = trial.suggest_int(name, *node.bounds, step=node.step or 1, log=node.log)
        elif isinstance(node, FloatRange):
            point[name] = trial.suggest_float(name, *node.bounds, step=node.step, log=node.log)
    return point


def value_at(config: Config, key: str) -> Any:
    """The value at a dotted key; MISSING where there is none."""
    found: Any = configs.to_dict(config)
    for part in key.split("."):
        if not isinstance(found, dict) or part not in found:
            return MISSING
        found = found[part]
    return found


def changed(config: Config, changes: dict[str, Any], where: str) -> Config:
    """The config with the value of each dotted key replaced as a whole, or taken out where it is MISSING.

    Raises UserError that begins with `where` for what distill.config refuses.
    """
    values = configs.to_dict(config)
    for key, value in changes.items():
        *path, last = key.split(".")
        section = values
        for part in path:
            section = section.get(part, {}) if value is MISSING else section.setdefault(part, {})
            if not isinstance(section, dict):
                raise UserError(f"{where}: '{key}' does not name a config field.")
        if value is MISSING:
            section.pop(last, None)
        else:
            section[last] = copy.deepcopy(value)  # later changes may lie inside it
    return configs.from_dict(values, where)


# ---------------------------------------------------------------------------------------------------- checks


def _check_keys(space: Space, nodes: dict[str, Any]) -> None:
    """Two nodes that a trial may have at once change different keys, none of them set by `trial`; forks have names."""
    for label, node in nodes.items():
        if isinstance(node, Fork) and not re.fullmatch(NAME, label):
            raise UserError(f"{space.path}: 'search.space' has a fork '{label}'; expected a name without dots.")
        for branch in node.branches.values() if isinstance(node, Fork) else ():
            _check_keys(space, branch.space)
    named = [(label, _all_keys(label, node)) for label, node in nodes.items()]
    for (one, own), (other, others) in itertools.combinations([("search.trial", list(space.search.trial)), *named], 2):
        for key, second in itertools.product(own, others):
            if _overlap(key, second):
                raise UserError(
                    f"{space.path}: '{one}' and '{other}' both change '{max(key, second, key=len)}'; "
                    "expected only one to."
                )


def _check_trial(space: Space) -> None:
    config = space.built({}, f"{space.path}, 'search.trial'")
    if config.resume:
        raise UserError(f"{space.path}: 'resume' is '{config.resume}'; expected none, as each trial is a new training.")
    pruner, epochs = space.search.pruner, config.train.epochs
    if pruner.kind != "none" and pruner.min_epochs >= epochs:
        raise UserError(
            f"{space.path}: 'search.pruner.min_epochs' is {pruner.min_epochs}; expected fewer than a trial's {epochs}."
        )


def _check_values(space: Space, nodes: dict[str, Any], on: dict[str, str], where: str, inside: str) -> None:
    """Every value that decides (ends of a range, choices, branches) makes a config, in a trial and at full length."""
    for key, node in nodes.items():
        name, place = inside + key, f"{where}.{key}"
        if isinstance(node, Parameter):
            points = {value: {**on, name: value} for value in node.probes}
            digests = {_checked(space, point, f"'{place}' at {value!r}") for value, point in points.items()}
            if len(digests) < len(points):
                raise UserError(f"{space.path}: '{place}' does not change what is computed; expected a key that does.")
            if node.unset is not None and not _is_entry(key):
                raise UserError(
                    f"{space.path}: '{place}.unset' is given; expected it only where a config may lack the key."
                )
            continue
        for label, branch in node.branches.items():
            there, point = f"{place}.branches.{label}", {**on, name: label}
            if not any(isinstance(inner, Parameter) for inner in branch.space.values()):  # else these try the branch
                _checked(space, point, f"'{there}'")
            _check_values(space, branch.space, point, f"{there}.space", f"{name}[{label}].")


def _checked(space: Space, point: dict[str, Any], where: str) -> str:
    """The digest of what a trial of a point trains; that it can be trained at full length is only checked."""
    changes, where = space.changes(point), f"{space.path}, {where}"
    space.built(changes, where, full=True)
    return configs.digest(space.built(changes, where))


def _enqueued(space: Space) -> tuple[dict[str, Any], ...]:
    recipe = _completed(space, {}, f"{space.path}: the recipe")
    config = space.config(recipe, full=True)
    if configs.digest(config) != configs.digest(space.base):
        key, found, expected = configs.first_difference(config, space.base, MISSING)
        found, expected = ("missing" if value is MISSING else repr(value) for value in (found, expected))
        raise UserError(
            f"{space.path}: on the branches of the recipe '{key}' is {found}, in the base it is {expected}; "
            f"expected the same, for the recipe to be in the space."
        )
    found = [recipe]
    for number, given in enumerate(space.search.enqueue, 1):
        where = f"point {number} of 'search.enqueue'"
        point = _completed(space, given, f"{space.path}: {where}")
        _checked(space, point, where)
        if point not in found:
            found.append(point)
    return tuple(found)


def _completed(space: Space, given: dict[str, Any], where: str) -> dict[str, Any]:
    """A point of which some values are given, by name or config key, with the others as the base or a branch has them.

    Raises UserError that begins with `where` for a value that is not in the space.
    """
    point: dict[str, Any] = {}
    for name, _, node in space.active(point):
        if isinstance(node, Fork):
            point[name] = _matched(node, name, given.get(name, node.recipe), where)
    start = space.built(space.changes(point), where, full=True)
    nodes = list(space.active(point))
    names = {named.key: named.name for named in nodes}
    wanted = {names.get(key, key): value for key, value in given.items()}
    for name in wanted:
        if name not in names.values():
            raise UserError(f"{where} has '{name}'; expected one of {', '.join(names.values())}.")
    for name, key, node in nodes:
        if isinstance(node, Parameter):
            there = value_at(start, key)
            value = wanted.get(name, node.unset if there is MISSING else there)
            if value is None:
                raise UserError(f"{where} has no '{key}'; expected 'unset' with the value that it means by that.")
            point[name] = _matched(node, name, value, where)
    return {name: point[name] for name, _, _ in nodes}


# ---------------------------------------------------------------------------------------------------- inside


def _matched(node: Parameter | Fork, name: str, value: Any, where: str) -> Any:
    try:
        return node.match(value)
    except ValueError as expected:
        raise UserError(f"{where} has {value!r} as '{name}'; expected {expected}, as in the space.") from None


def _described(nodes: dict[str, Any]) -> dict[str, Any]:
    return {key: node.described() for key, node in nodes.items()}


def _all_keys(label: str, node: Parameter | Fork) -> list[str]:
    """All config keys that a node may change."""
    if isinstance(node, Parameter):
        return [label]
    inner = [key for branch in node.branches.values() for item in branch.space.items() for key in _all_keys(*item)]
    return list(dict.fromkeys([*node.keys, *inner]))


def _is_entry(key: str) -> bool:
    """Whether a config may lack what is at a key (a term, an argument); fields are always there."""
    return value_at(Config(), key) is MISSING


def _overlap(one: str, other: str) -> bool:
    """Whether two dotted keys are the same, or one lies inside the other."""
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")


def _is_whole(steps: float) -> bool:
    return math.isclose(steps, round(steps), abs_tol=1e-9)
