"""A recipe file: trainings in stages, in which a later one goes on from the models of earlier ones.

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
from typing import Any

from distill import config as configs
from distill.average import AVERAGES
from distill.config import Config, TermConfig
from distill.errors import UserError
from distill.runs.experiment_file import configured, known, opened

JOBS = ("student", "teacher", "average")
FILE_KEYS = ("base", "name", "set", "stages")
TRAIN_KEYS = ("name", "job", "base", "set", "init", "teacher")
AVERAGE_KEYS = ("name", "job", "of", "method")
OURS = ("name", "resume", "base")  # keys that a recipe gives its stages itself
SAME = ("model.backbone", "model.head.kind", "model.head.width", "model.head.norm")  # these shape any model's weights


@dataclass(frozen=True)
class Stage:
    """One training, or one average. References are names of earlier stages; empty: none."""

    name: str
    job: str  # of JOBS
    config: Config  # of an average: that of its first member
    init: str = ""
    teacher: str = ""
    of: tuple[str, ...] = ()
    method: str = ""  # of AVERAGES, for an average

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the earlier stages that this one goes on from."""
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
    """Read and check a recipe file.

    `key=value` overrides hold for all its stages, after their own `set`; `stages.NAME.key=value` for one of them.
    Raises UserError naming file, stage and key.
    """
    path = Path(path)
    raw, base_file = opened(path, FILE_KEYS, "that all stages share")
    name = raw.get("name", path.stem)
    if not isinstance(name, str) or not name or "/" in name:
        raise UserError(f"{path}: 'name' is {name!r}; expected a short name without '/'.")
    parts = raw.get("stages")
    if not isinstance(parts, list) or not parts:
        raise UserError(f"{path}: 'stages' is {parts!r}; expected a list of stages.")
    shared = _settings(raw, f"{path}: ")
    stages: dict[str, Stage] = {}
    every = [part.get("name") if isinstance(part, dict) else None for part in parts]
    split = _split(overrides, every, path)
    for number, part in enumerate(parts, 1):
        if not isinstance(part, dict) or not isinstance(part.get("name"), str) or not part["name"].strip():
            raise UserError(f"{path}: stage {number} has no 'name'; expected keys and values, a name among them.")
        where = f"{path}, stage '{part['name']}': "
        if part["name"] in stages:
            raise UserError(f"{where}another stage has this name; expected different ones.")
        job = part.get("job", "student")
        if job not in JOBS:
            raise UserError(f"{where}'job' is {job!r}; expected one of {', '.join(JOBS)}.")
        if job == "average":
            stage = _average(part, where, stages, every)
        else:
            base = path.parent / _base(part, base_file, where)
            stage = _training(part, job, base, shared, split[part["name"]], where, stages, every)
        stages[stage.name] = replace(stage, config=replace(stage.config, name=f"{name}-{stage.name}"))
    return Recipe(path, name, configs.load(path.parent / base_file), tuple(stages.values()))


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
        _refuse_ours(own.partition("=")[0].strip(), f"Override '{item}'")
        for name in to:
            each[name].append(own)
    return each


def _base(part: dict, shared: str, where: str) -> str:
    base = part.get("base", shared)
    if not isinstance(base, str):
        raise UserError(f"{where}'base' is {base!r}; expected an experiment file.")
    return base


def _training(part, job, base, shared, overrides, where, earlier, every) -> Stage:
    known(part, TRAIN_KEYS, where)
    config = configured(base, {**shared, **_settings(part, where)}, overrides, where)
    init, teacher = (_reference(part, key, where, earlier, every) for key in ("init", "teacher"))
    if teacher and not config.distill.terms:
        raise UserError(
            f"{where}'teacher' is '{teacher}', but there are no 'distill.terms'; expected a term to learn it by."
        )
    if init:
        _same_architecture(earlier[init], config, where, config.init_part)
    # the run of an earlier stage is known once that stage is done
    config = replace(config, init="" if init else config.init, teacher="" if teacher else config.teacher)
    return Stage(part["name"], job, config, init, teacher)


def _average(part, where, earlier, every) -> Stage:
    known(part, AVERAGE_KEYS, where)
    names = part.get("of")
    names = names if isinstance(names, list) else [names]
    for name in names:
        _earlier(name, "of", where, earlier, every)
    method = part.get("method", "greedy")
    if method not in AVERAGES:
        raise UserError(f"{where}'method' is {method!r}; expected one of {', '.join(AVERAGES)}.")
    first = earlier[names[0]]
    if len(names) == 1:
        if first.job == "average" or first.config.train.snapshots < 2:
            found = "an average" if first.job == "average" else f"train.snapshots {first.config.train.snapshots}"
            raise UserError(
                f"{where}'of' is '{names[0]}', which has {found}; expected a stage with at least 2 snapshots."
            )
    elif len(set(names)) < len(names):
        raise UserError(f"{where}'of' is {names!r}; expected different stages.")
    for name in names[1:]:
        _same_architecture(first, earlier[name].config, where)
    return Stage(part["name"], "average", first.config, of=tuple(names), method=method)


def _reference(part: dict, key: str, where: str, earlier: dict[str, Stage], every: list) -> str:
    if key not in part:
        return ""
    _earlier(part[key], key, where, earlier, every)
    return part[key]


def _earlier(name: Any, key: str, where: str, earlier: dict[str, Stage], every: list) -> None:
    if isinstance(name, str) and name in earlier:
        return
    if name in every:
        raise UserError(f"{where}'{key}' is '{name}', which comes no earlier; expected a stage before this one.")
    known = ", ".join(earlier) or "none, as this is the first stage"
    more = " (a run or a file is named in 'set')" if key != "of" else ""
    raise UserError(f"{where}'{key}' is {name!r}; expected an earlier stage: {known}{more}.")


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


def _settings(part: dict, where: str) -> dict[str, Any]:
    value = part.get("set") or {}
    if not isinstance(value, dict):
        raise UserError(f"{where}'set' is {value!r}; expected dotted keys and their values.")
    for key in value:
        _refuse_ours(str(key), f"{where}'set'")
    return value


def _refuse_ours(key: str, where: str) -> None:
    if key in OURS:
        raise UserError(f"{where}: a recipe gives its stages their '{key}' itself.")
