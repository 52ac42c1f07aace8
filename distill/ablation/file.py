"""An ablation file: many configs that differ in what is asked about, and nothing else.

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
      grid:                              # optional: key -> values; their product, crossed with every cell but the control
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
from dataclasses import dataclass
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

TEACHER_MARK = "@"  # `teacher: "@small"` is the teacher that this file trains under the name `small`
FILE_KEYS = ("base", "ablation")
KEYS = ("title", "seeds", "control", "set", "teachers", "cells", "grid", "pareto")
TEACHER_KEYS = ("base", "set")
# Overrides that say where and how something is trained; these reach the file's teachers as well.
FOR_TEACHERS = ("data.", "tracking.", "train.device", "train.threads", "train.amp", "train.compile", "train.checkpoint")


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
    axes: dict[str, list[Any]]  # the grid's keys and their values
    points: dict[str, dict[str, Any]]  # cell -> its value at each axis; {} for cells that are not in the grid

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def trainings(self) -> list[Planned]:
        """Every cell with every seed; all cells of the first seed come first, so that a cut grid still compares them."""
        return [
            Planned(name, seed, dataclasses.replace(config, seed=seed))
            for seed in self.seeds
            for name, config in self.cells.items()
        ]

    @property
    def digest(self) -> str:
        """16 hex digits of what the cells and teachers compute. Seeds do not count: more of them continue the same grid."""
        what = [
            self.control,
            [[name, configs.digest(config)] for name, config in self.teachers.items()],
            [[name, configs.digest(dataclasses.replace(config, seed=0))] for name, config in self.cells.items()],
        ]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]


def load(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Grid:
    """Read and check an ablation file; `key=value` overrides hold for all its cells, `teachers.NAME.key=value` for a teacher.

    Raises UserError naming file, cell and key.
    """
    path = Path(path)
    raw, base_file = opened(path, FILE_KEYS, "that all cells share")
    about = section(raw, "ablation", path)
    known(about, KEYS, f"{path}: ", "ablation.")
    seeds = _seeds(about.get("seeds", [0]), path)
    overrides, for_teachers = _split(overrides, about.get("teachers") or {}, path)
    shared = {**DEFAULTS, **section(about, "set", path, "ablation.set")}
    teachers = {
        name: _teacher(path, base_file, name, part, for_teachers[name])
        for name, part in section(about, "teachers", path, "ablation.teachers").items()
    }
    axes = _axes(about, path)
    control = str(about.get("control", ""))
    variants, points = _variants(section(about, "cells", path, "ablation.cells"), axes, control, path)
    if control not in variants:
        raise UserError(
            f"{path}: 'ablation.control' is '{control}'; expected the cell that the others are compared with, one of "
            f"{', '.join(variants)}."
        )
    base = path.parent / base_file
    cells = {
        name: dataclasses.replace(_config(base, {**shared, **own}, overrides, f"{path}, cell '{name}'"), seed=seeds[0])
        for name, own in variants.items()
    }
    _check_teachers(cells, teachers, path)
    _check_one_store(cells | {f"teacher {name}": config for name, config in teachers.items()}, cells[control], path)
    _check_different(cells, path)
    title = about.get("title", path.stem)
    pareto = about.get("pareto", False)
    if not isinstance(title, str) or not isinstance(pareto, bool):
        raise UserError(f"{path}: 'ablation.title' must be words and 'ablation.pareto' true or false.")
    return Grid(path, title, seeds, control, pareto, teachers, cells, axes, points)


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


def _seeds(value: Any, path: Path) -> tuple[int, ...]:
    numbers = value if isinstance(value, list) else [value]
    right = all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in numbers)
    if not numbers or not right or len(set(numbers)) < len(numbers):
        raise UserError(f"{path}: 'ablation.seeds' is {value!r}; expected different whole numbers, as in [0, 1, 2].")
    return tuple(numbers)


def _split(
    overrides: list[str] | tuple[str, ...], teachers: dict, path: Path
) -> tuple[list[str], dict[str, list[str]]]:
    """The overrides of cells, and those of each teacher."""
    for_cells: list[str] = []
    for_teachers: dict[str, list[str]] = {str(name): [] for name in teachers}
    for item in overrides:
        key = item.partition("=")[0].strip()
        _, _, rest = key.partition(".")
        owner = rest.partition(".")[0]
        if key.startswith("teachers."):
            if owner not in for_teachers:
                raise UserError(f"Override '{item}': {path} has no teacher '{owner}'.")
            for_teachers[owner].append(item.strip().removeprefix(f"teachers.{owner}."))
            continue
        _refuse_seed(key, f"Override '{item}'")
        for_cells.append(item)
        if key.startswith(FOR_TEACHERS):
            for own in for_teachers.values():
                own.append(item)
    return for_cells, for_teachers


def _refuse_seed(key: str, where: str) -> None:
    if key in ("seed", "resume", "base"):
        raise UserError(f"{where}: an ablation's cells cannot set '{key}'; seeds are in 'ablation.seeds'.")


def _teacher(path: Path, shared_base: str, name: str, part: Any, overrides: list[str]) -> Config:
    where = f"ablation.teachers.{name}"
    if not isinstance(part, dict):
        raise UserError(f"{path}: '{where}' is {part!r}; expected 'base' and 'set'.")
    known(part, TEACHER_KEYS, f"{path}: ", f"{where}.")
    base = path.parent / str(part.get("base", shared_base))
    own = section(part, "set", path, f"{where}.set")
    config = _config(base, {**DEFAULTS, **own}, overrides, f"{path}, teacher '{name}'", may_seed=True)
    if config.distill.terms:
        raise UserError(
            f"{path}, teacher '{name}': 'distill.terms' is set; expected none: a grid's teachers have no teacher."
        )
    return config


def _axes(about: dict, path: Path) -> dict[str, list[Any]]:
    axes = section(about, "grid", path, "ablation.grid")
    if "grid" in about and not axes:
        raise UserError(f"{path}: 'ablation.grid' is empty; expected dotted keys, each with a list of values.")
    for key, values in axes.items():
        if not isinstance(values, list) or not values:
            raise UserError(f"{path}: 'ablation.grid.{key}' is {values!r}; expected a list of values.")
        _refuse_seed(key, f"{path}, 'ablation.grid'")
    return axes


def _variants(
    cells: dict[str, Any], axes: dict[str, list[Any]], control: str, path: Path
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Name -> overrides, and name -> place in the grid, of every cell."""
    for name, own in cells.items():
        if own is not None and not isinstance(own, dict):
            raise UserError(f"{path}, cell '{name}': is {own!r}; expected dotted keys and their values.")
        if not re.search(r"\w", name):
            raise UserError(f"{path}, cell '{name}': expected a name of letters or digits.")
        for key in own or {}:
            _refuse_seed(str(key), f"{path}, cell '{name}'")
    if not cells and not axes:
        raise UserError(f"{path}: neither 'ablation.cells' nor 'ablation.grid' names anything to compare.")
    variants: dict[str, dict[str, Any]] = {}
    points: dict[str, dict[str, Any]] = {}
    names = short_names(list(axes))
    alone = len(cells.keys() - {control}) == 1  # a grid of a single cell need not say whose it is
    for cell, own in cells.items() if cells else [("", {})]:
        fixed = not axes or (cell == control != "")  # the control is one cell, not a whole grid
        for values in [()] if fixed else itertools.product(*axes.values()):
            point = dict(zip(axes, values, strict=bool(values)))
            at = " ".join(f"{names[key]}={_word(value)}" for key, value in point.items())
            name = cell if fixed else " ".join(part for part in ("" if alone else cell, at) if part)
            if any(file_name(name) == file_name(other) for other in variants):
                raise UserError(f"{path}, cell '{name}': another cell has this name; expected different ones.")
            variants[name] = {**(own or {}), **point}
            points[name] = point
    return variants, points


def _word(value: Any) -> str:
    return str(value) if isinstance(value, str | int | float) else configs.flow(value)


def _config(base: Path, settings: dict, overrides: list[str], where: str, may_seed: bool = False) -> Config:
    for key in settings:
        if not may_seed:
            _refuse_seed(str(key), where)
    return configured(base, settings, overrides, f"{where}: ")


def _check_teachers(cells: dict[str, Config], teachers: dict[str, Config], path: Path) -> None:
    for name, config in cells.items():
        if config.teacher.startswith(TEACHER_MARK) and config.teacher[1:] not in teachers:
            known = ", ".join(TEACHER_MARK + key for key in teachers) or "none"
            raise UserError(
                f"{path}, cell '{name}': 'teacher' is '{config.teacher}'; expected a teacher of this file ({known}), a run "
                f"id, models:/NAME@ALIAS or a file."
            )


def _check_one_store(configs_by_name: dict[str, Config], control: Config, path: Path) -> None:
    for name, config in configs_by_name.items():
        for key in ("uri", "store"):
            found, expected = getattr(config.tracking, key), getattr(control.tracking, key)
            if found != expected:
                raise UserError(
                    f"{path}, cell '{name}': 'tracking.{key}' is '{found}', the control's is '{expected}'; expected one store."
                )


def _check_different(cells: dict[str, Config], path: Path) -> None:
    seen: dict[str, str] = {}
    for name, config in cells.items():
        other = seen.setdefault(configs.digest(config), name)
        if other != name:
            raise UserError(
                f"{path}: the cells '{other}' and '{name}' compute the same; expected cells that differ from each other."
            )
