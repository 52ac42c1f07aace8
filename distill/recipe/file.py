"""A recipe file: trainings in stages, in which a later one starts from the models of earlier ones.

    base: ../cpu/student.yaml              # any experiment file: what all stages share
    set: {train.epochs: 16}                # optional: dotted overrides of all stages
    stages:
      - name: distill                      # job: student (default), teacher or average
        set: {distill.terms.kl: {loss: heatmap_kl, weight: 2}}     # dotted overrides of this stage
      - name: head
        set: {train.epochs: 4, train.snapshots: 3, train.freeze: [backbone], distill.terms.self: {loss: heatmap_kl}}
        init: distill                      # start from the weights of an earlier stage's model
        teacher: distill                   # an earlier stage's model as the teacher
      - name: final
        job: average                       # the mean of the snapshots of one stage, or of several stages' models
        of: head                           # ... or [first, second]
        method: greedy                     # or uniform
      - {name: small, base: ../cpu/small.yaml, teacher: distill, set: {...}}       # a stage with a base of its own

A stage of the job `teacher` that has distillation terms is an assistant (https://arxiv.org/abs/1902.03393): a model
above the student's byte budget, distilled from the teacher, that is a teacher in turn. Everything is refused here, by
file, stage and key, before torch or MLflow is imported.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from distill import config as configs
from distill.average import Method
from distill.config import Config, TermConfig
from distill.errors import UserError
from distill.files import read_yaml
from distill.runs import configured
from distill.schema import Keys, Section, validated

OURS = ("name", "resume", "base")  # keys that a recipe gives its stages itself
SAME = ("model.backbone", "model.head.kind", "model.head.width", "model.head.norm")  # these shape any model's weights

# ---------------------------------------------------------------------------------------------------- the file's schema


def _settable(key: str) -> str:
    if key in OURS:
        raise ValueError(f"another key, as a recipe gives its stages their '{key}' itself")
    return key


Settings = Annotated[dict[Annotated[str, AfterValidator(_settable)], Any], Keys]
Job = Literal["student", "teacher", "average"]
Name = Annotated[str, Field(pattern=r"\S")]


class Training(Section):
    """A stage that trains. init and teacher: names of earlier stages."""

    name: Name
    job: Job = "student"
    base: str | None = None
    set: Settings = {}
    init: str | None = None
    teacher: str | None = None


class Average(Section):
    """A stage that averages the snapshots of one earlier stage, or the models of several."""

    name: Name
    job: Literal["average"]
    of: Annotated[list[str], BeforeValidator(lambda of: [of] if isinstance(of, str) else of), Field(min_length=1)]
    method: Method = "greedy"


class File(Section):
    """A recipe file; its stages are read one by one, as their keys go with their jobs."""

    base: str
    name: Annotated[str, Field(pattern=r"^[^/]+$")] | None = None
    set: Settings = {}
    stages: Annotated[list[dict[str, Any]], Field(min_length=1)]


# ---------------------------------------------------------------------------------------------------- the recipe


@dataclass(frozen=True)
class Stage:
    """One training, or one average. References are names of earlier stages; empty: none."""

    name: str
    job: Job
    config: Config  # of an average: that of its first member
    init: str = ""
    teacher: str = ""
    of: tuple[str, ...] = ()
    method: str = ""  # uniform or greedy, for an average

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the earlier stages that this one starts from."""
        return tuple(name for name in (self.init, self.teacher, *self.of) if name)


@dataclass(frozen=True)
class Recipe:
    """A checked recipe file."""

    path: Path
    name: str
    base: Config
    stages: tuple[Stage, ...]

    @property
    def digest(self) -> str:
        """16 hex digits of what the recipe computes: its stages and how they hang together."""
        what = [
            [stage.name, stage.job, configs.digest(stage.config), stage.init, stage.teacher, stage.of, stage.method]
            for stage in self.stages
        ]
        return hashlib.sha256(json.dumps([self.name, what]).encode()).hexdigest()[:16]


def load(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a file; `key=value` overrides are of all its stages, `stages.NAME.key=value` of one of them.

    Raises UserError naming file, stage and key.
    """
    path = Path(path)
    file = validated(File, read_yaml(path), path)
    name = file.name or path.stem
    every = [part.get("name") for part in file.stages]
    split = _split(overrides, every, path)
    stages: dict[str, Stage] = {}
    for number, part in enumerate(file.stages, 1):
        where = f"{path}, stage {part['name']!r}" if isinstance(part.get("name"), str) else f"{path}, stage {number}"
        kind = Average if "of" in part or part.get("job") == "average" else Training
        checked: Any = validated(kind, part, where)
        where = f"{where}: "
        if checked.name in stages:
            raise UserError(f"{where}another stage has this name; expected different ones.")
        for key in ("init", "teacher", "of"):
            _check_earlier(getattr(checked, key, None), key, where, stages, every)
        if kind is Average:
            stage = _average(checked, where, stages)
        else:
            base = path.parent / (checked.base or file.base)
            config = configured(base, {**file.set, **checked.set}, split[checked.name], where)
            stage = _training(checked, config, where, stages)
        stages[stage.name] = replace(stage, config=replace(stage.config, name=f"{name}-{stage.name}"))
    return Recipe(path, name, configs.load(path.parent / file.base), tuple(stages.values()))


def describe(recipe: Recipe) -> str:
    """The stages, and in which keys each differs from the recipe's base, as text."""
    lines = [f"{recipe.name} ({recipe.path})"]
    base = _values_of(recipe.base)
    for number, stage in enumerate(recipe.stages, 1):
        role = "assistant" if stage.job == "teacher" and stage.config.distill.terms else stage.job
        parts = [f"{key}: {value}" for key, value in (("init", stage.init), ("teacher", stage.teacher)) if value]
        parts += [f"{stage.method}, of {', '.join(stage.of)}"] if stage.of else []
        lines.append(f"\n{number}  {stage.name}  ({'; '.join([role, *parts])})")
        if stage.job != "average":
            own = _values_of(replace(stage.config, name=recipe.base.name))
            changed = [key for key in {**own, **base} if own.get(key) != base.get(key)]
            lines += [f"   {key}: {configs.flow(own.get(key, {}))}" for key in changed]
    return "\n".join(lines)


def _values_of(config: Config) -> dict[str, Any]:
    """The config's values under the keys that one would set; of a term, what is not its default."""
    terms = {
        f"distill.terms.{name}": {
            key: value for key, value in vars(term).items() if value != getattr(TermConfig(), key)
        }
        for name, term in config.distill.terms.items()
    }
    rest = configs.flatten(replace(config, distill=replace(config.distill, terms={})))
    return {key: value for key, value in rest.items() if value != {}} | terms


# ---------------------------------------------------------------------------------------------------- the parts


def _split(overrides: Sequence[str], names: list, path: Path) -> dict[str, list[str]]:
    """The overrides of each stage, in their order."""
    each: dict[str, list[str]] = {name: [] for name in names if isinstance(name, str)}
    for item in overrides:
        own, key = item.strip(), item.partition("=")[0].strip()
        to = list(each)
        if key.startswith("stages."):
            to = [name for name in each if key.startswith(f"stages.{name}.")]
            if not to:
                raise UserError(f"Override '{item}': {path} has no such stage; it has {', '.join(each)}.")
            to = [max(to, key=len)]  # names may have dots
            own = own.removeprefix(f"stages.{to[0]}.")
        if (key := own.partition("=")[0].strip()) in OURS:
            raise UserError(f"Override '{item}': a recipe gives its stages their '{key}' itself.")
        for name in to:
            each[name].append(own)
    return each


def _check_earlier(names: Any, key: str, where: str, earlier: dict[str, Stage], every: list) -> None:
    """Raises UserError where a stage's `init`, `teacher` or `of` names what is no earlier stage."""
    for name in names if isinstance(names, list) else [] if names is None else [names]:
        if name in earlier:
            continue
        if name in every:
            raise UserError(f"{where}'{key}' is '{name}', which comes no earlier; expected a stage before this one.")
        known = ", ".join(earlier) or "none, as this is the first stage"
        more = " (a run or a file is named in 'set')" if key != "of" else ""
        raise UserError(f"{where}'{key}' is '{name}'; expected an earlier stage: {known}{more}.")


def _training(part: Training, config: Config, where: str, earlier: dict[str, Stage]) -> Stage:
    if part.teacher and not config.distill.terms:
        raise UserError(
            f"{where}'teacher' is '{part.teacher}', but there are no 'distill.terms'; expected a term to learn it by."
        )
    if part.init:
        _same_architecture(earlier[part.init], config, where, config.init_part)
    # the run of an earlier stage is known once that stage is done
    config = replace(config, init="" if part.init else config.init, teacher="" if part.teacher else config.teacher)
    return Stage(part.name, part.job, config, part.init or "", part.teacher or "")


def _average(part: Average, where: str, earlier: dict[str, Stage]) -> Stage:
    first = earlier[part.of[0]]
    if len(part.of) == 1:
        if first.job == "average" or first.config.train.snapshots < 2:
            found = "an average" if first.job == "average" else f"train.snapshots {first.config.train.snapshots}"
            raise UserError(
                f"{where}'of' is '{first.name}', which has {found}; expected a stage with at least 2 snapshots."
            )
    elif len(set(part.of)) < len(part.of):
        raise UserError(f"{where}'of' is {part.of!r}; expected different stages.")
    for name in part.of[1:]:
        _same_architecture(first, earlier[name].config, where)
    return Stage(part.name, "average", first.config, of=tuple(part.of), method=part.method)


def _same_architecture(source: Stage, config: Config, where: str, part: str = "all") -> None:
    """As far as configs show, without building the models."""
    was, now = (
        configs.flatten(replace(c, model=replace(c.model, backbone=c.model.backbone.split(".")[0])))
        for c in (source.config, config)
    )
    for key in SAME:
        if part == "backbone" and key.startswith("model.head."):
            continue
        if was[key] != now[key]:
            raise UserError(
                f"{where}{key} is {now[key]!r}, but stage '{source.name}' has {was[key]!r}; expected the "
                f"same architecture, for weights to go from one to the other."
            )
