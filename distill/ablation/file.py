"""An ablation file: many configs that differ in the keys under study, and nothing else.

    base: ../cpu/student.yaml            # any experiment file: what all cells share
    ablation:
      title: Which terms help
      seeds: [0, 1, 2]
      control: control                   # the cell that the others are compared with
      set: {train.epochs: 16}            # dotted overrides of all cells
      teachers:                          # optional: trained first; a cell names one as `teacher: "@small"`
        small: {base: ../cpu/teacher.yaml, set: {model.backbone: fasternet_t0}}
      cells:                             # named variants, each with its overrides
        control: {distill.terms: {}}
        heatmap: {distill.terms.kl: {loss: heatmap_kl, weight: 2}}
      grid:                              # optional: key -> values; their product, for every cell but the control
        distill.terms.kl.weight: [0.5, 2, 8]
      pareto: false                      # also draw accuracy against size and latency

Everything is refused here, by file, cell and key, before torch or MLflow is imported.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from distill import config as configs
from distill.config import Config
from distill.errors import UserError
from distill.files import read_yaml
from distill.runs import DEFAULTS, configured
from distill.schema import Keys, Section, validated

TEACHER_MARK = "@"  # `teacher: "@small"` is the teacher that this file trains under the name `small`
NOT_FOR_CELLS = ("seed", "resume", "base")
# Overrides of where and how something is trained; these reach the file's teachers as well.
FOR_TEACHERS = ("data.", "tracking.", "train.device", "train.threads", "train.amp", "train.compile", "train.checkpoint")


def _settable(key: str) -> str:
    if key in NOT_FOR_CELLS:
        raise ValueError("a key that cells may set; seeds are in 'ablation.seeds'")
    return key


def _different(seeds: list[int]) -> list[int]:
    if len(set(seeds)) < len(seeds):
        raise ValueError("different whole numbers, as in [0, 1, 2]")
    return seeds


Key = Annotated[str, AfterValidator(_settable)]
Settings = Annotated[dict[Key, Any], Keys]


class Teacher(Section):
    """A teacher that the file trains itself; its base is the file's where it names none."""

    base: str | None = None
    set: Annotated[dict[str, Any], Keys] = {}


class Ablation(Section):
    """The `ablation` section of a file."""

    title: str | None = None
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), AfterValidator(_different)] = [0]
    control: str
    set: Settings = {}
    teachers: Annotated[dict[str, Teacher], Keys] = {}
    cells: Annotated[dict[Annotated[str, Field(pattern=r"\w")], Settings], Keys] = {}
    grid: Annotated[dict[Key, Annotated[list, Field(min_length=1)]], Field(min_length=1)] | None = None
    pareto: bool = False

    @model_validator(mode="after")
    def _compares(self) -> Ablation:
        if not self.cells and not self.grid:
            raise ValueError("'cells' or a 'grid' to compare")
        return self


class File(Section):
    """An ablation file."""

    base: str
    ablation: Ablation


@dataclass(frozen=True)
class Planned:
    """One training of the grid."""

    cell: str
    seed: int
    config: Config  # with this seed; `teacher` may still be "@name"


@dataclass(frozen=True)
class Grid:
    """A checked ablation file."""

    path: Path
    title: str
    seeds: tuple[int, ...]
    control: str
    pareto: bool
    teachers: dict[str, Config]
    cells: dict[str, Config]  # by name, in the order of the table; each with the first seed

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem

    @property
    def trainings(self) -> list[Planned]:
        """Every cell with every seed; those of the first seed come first, so that a cut grid still compares them."""
        return [
            Planned(name, seed, dataclasses.replace(config, seed=seed))
            for seed in self.seeds
            for name, config in self.cells.items()
        ]

    @property
    def digest(self) -> str:
        """16 hex digits of what cells and teachers compute; not of the seeds, as more of them continue the same
        grid."""
        what = [
            self.control,
            [[name, configs.digest(config)] for name, config in self.teachers.items()],
            [[name, configs.digest(dataclasses.replace(config, seed=0))] for name, config in self.cells.items()],
        ]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]


def load(path: str | Path, overrides: Sequence[str] = ()) -> Grid:
    """Read and check a file; `key=value` overrides are of all its cells, `teachers.NAME.key=value` of a teacher.

    Raises UserError naming file, cell and key.
    """
    path = Path(path)
    file = validated(File, read_yaml(path), path)
    about = file.ablation
    for_cells, for_teachers = _split(overrides, about.teachers, path)
    teachers = {
        name: _teacher(path, path.parent / (part.base or file.base), name, part.set, for_teachers[name])
        for name, part in about.teachers.items()
    }
    variants = _variants(about, path)
    if about.control not in variants:
        raise UserError(
            f"{path}: 'ablation.control' is '{about.control}'; expected the cell that the others are compared with, "
            f"one of {', '.join(variants)}."
        )
    shared = {**DEFAULTS, **about.set}
    cells = {}
    for name, own in variants.items():
        config = configured(path.parent / file.base, {**shared, **own}, for_cells, f"{path}, cell '{name}': ")
        cells[name] = dataclasses.replace(config, seed=about.seeds[0])
    _check_teachers(cells, teachers, path)
    _check_one_store(
        cells | {f"teacher {name}": config for name, config in teachers.items()}, cells[about.control], path
    )
    _check_different(cells, path)
    title, seeds = about.title or path.stem, tuple(about.seeds)
    return Grid(path, title, seeds, about.control, about.pareto, teachers, cells)


def file_name(cell: str) -> str:
    """A cell's name in letters that files and run names may have."""
    return re.sub(r"[^\w.=+-]+", "_", cell)


def short_names(keys: list[str]) -> dict[str, str]:
    """Dotted keys -> their shortest unambiguous last parts: `distill.terms.kl.weight` -> `weight`."""
    for length in range(1, max((key.count(".") + 1 for key in keys), default=0) + 1):
        names = {key: ".".join(key.split(".")[-length:]) for key in keys}
        if len(set(names.values())) == len(keys):
            break
    return names if keys else {}


# ---------------------------------------------------------------------------------------------------- the parts


def _split(
    overrides: Sequence[str], teachers: Mapping[str, Teacher], path: Path
) -> tuple[list[str], dict[str, list[str]]]:
    """The overrides of cells, and those of each teacher."""
    for_cells: list[str] = []
    for_teachers: dict[str, list[str]] = {name: [] for name in teachers}
    for item in map(str.strip, overrides):
        key = item.partition("=")[0].strip()
        if key.startswith("teachers."):
            _, owner, own = (*item.split(".", 2), "")[:3]
            if owner not in for_teachers:
                raise UserError(f"Override '{item}': {path} has no teacher '{owner}'.")
            for_teachers[owner].append(own)
            continue
        if key in NOT_FOR_CELLS:
            raise UserError(
                f"Override '{item}': an ablation's cells cannot set '{key}'; seeds are in 'ablation.seeds'."
            )
        for_cells.append(item)
        if key.startswith(FOR_TEACHERS):
            for own_items in for_teachers.values():
                own_items.append(item)
    return for_cells, for_teachers


def _teacher(path: Path, base: Path, name: str, settings: dict[str, Any], overrides: list[str]) -> Config:
    where = f"{path}, teacher '{name}'"
    config = configured(base, {**DEFAULTS, **settings}, overrides, f"{where}: ")
    if config.distill.terms:
        raise UserError(f"{where}: 'distill.terms' is set; expected none: a grid's teachers have no teacher.")
    return config


def _variants(about: Ablation, path: Path) -> dict[str, dict[str, Any]]:
    """Name -> overrides of every cell."""
    axes, control = about.grid or {}, about.control
    variants: dict[str, dict[str, Any]] = {}
    names = short_names(list(axes))
    alone = len(about.cells.keys() - {control}) == 1  # a grid of a single cell need not name it
    for cell, own in (about.cells or {"": {}}).items():
        fixed = not axes or (cell == control != "")  # the control is one cell, not a whole grid
        for values in [()] if fixed else itertools.product(*axes.values()):
            point = dict(zip(axes, values, strict=bool(values)))
            at = " ".join(f"{names[key]}={_word(value)}" for key, value in point.items())
            name = cell if fixed else " ".join(part for part in ("" if alone else cell, at) if part)
            if any(file_name(name) == file_name(other) for other in variants):
                raise UserError(f"{path}, cell '{name}': another cell has this name; expected different ones.")
            variants[name] = {**own, **point}
    return variants


def _word(value: Any) -> str:
    return str(value) if isinstance(value, str | int | float) else configs.flow(value)


def _check_teachers(cells: dict[str, Config], teachers: dict[str, Config], path: Path) -> None:
    for name, config in cells.items():
        if config.teacher.startswith(TEACHER_MARK) and config.teacher[1:] not in teachers:
            known = ", ".join(TEACHER_MARK + key for key in teachers) or "none"
            raise UserError(
                f"{path}, cell '{name}': 'teacher' is '{config.teacher}'; expected a teacher of this file "
                f"({known}), a run id, models:/NAME@ALIAS or a file."
            )


def _check_one_store(configs_by_name: dict[str, Config], control: Config, path: Path) -> None:
    for name, config in configs_by_name.items():
        for key in ("uri", "store"):
            found, expected = getattr(config.tracking, key), getattr(control.tracking, key)
            if found != expected:
                raise UserError(
                    f"{path}, cell '{name}': 'tracking.{key}' is '{found}', the control's is '{expected}'; expected "
                    "one store."
                )


def _check_different(cells: dict[str, Config], path: Path) -> None:
    seen: dict[str, str] = {}
    for name, config in cells.items():
        other = seen.setdefault(configs.digest(config), name)
        if other != name:
            raise UserError(f"{path}: the cells '{other}' and '{name}' compute the same; expected cells that differ.")
