"""Which of an ablation's trainings the store has already: the step before any of them is started."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from distill import config as configs
from distill import tracking as track
from distill.ablation.file import TEACHER_MARK, Grid, Planned
from distill.config import Config, DataConfig, TrackingConfig
from distill.data.augment import Augmenter
from distill.distillation.distiller import Distiller
from distill.errors import UserError
from distill.models.files import check_budget, load_model
from distill.models.landmarker import Landmarker, skeleton
from distill.models.references import ModelReference, resolve_model
from distill.models.teacher import FrozenTeacher
from distill.runs import find_or_train
from distill.runs.find_or_train import Cell, Fingerprints, Found, Identity
from distill.tracking import Held, RunInfo
from distill.training.distributed import check_device

TEACHERS = "distill.teachers"  # tag of the parent: what each mutable reference meant when the grid began


@dataclass(frozen=True)
class Entry:
    """One training of the grid, and what there is of it."""

    planned: Planned
    cell: Cell
    identity: Identity | None  # None: its teacher is one of the grid's, and not trained yet
    found: Found


@dataclass(frozen=True)
class Existing:
    """All trainings of the grid and what the store has of them."""

    data: Fingerprints  # of the control
    parent: RunInfo | None
    meant: dict[str, str]  # teacher reference -> run id, for those that may mean another one tomorrow
    teachers: dict[str, Entry]
    entries: tuple[Entry, ...]


def look_up(grid: Grid) -> Existing:
    """Read the data, resolve the teachers once, and look every training up.

    A reference that may mean another model tomorrow (the newest teacher, a registry alias) keeps the meaning that it
    had when the grid was begun. Raises UserError where data or a teacher cannot be used.
    """
    known: dict[DataConfig, Fingerprints] = {}

    def data_of(config: Config) -> Fingerprints:
        if config.data not in known:
            known[config.data] = find_or_train.fingerprints(config.data)
        return known[config.data]

    tracking = grid.cells[grid.control].tracking
    track.send_waiting(track.store_root(tracking), track.tracking_uri(tracking))
    data = data_of(grid.cells[grid.control])
    parent = next(iter(track.runs_tagged(tracking, "ablation", parent_tags(grid, data))), None)
    meant: dict[str, str] = json.loads(parent.tags.get(TEACHERS, "{}")) if parent else {}
    teachers = {
        name: _entry(Planned(f"teacher {name}", config.seed, config), "teacher", data_of(config), None)
        for name, config in grid.teachers.items()
    }
    references: dict[str, ModelReference | None] = {}
    for config in grid.cells.values():
        reference = config.teacher
        if not config.distill.terms or reference in references:
            continue
        if reference.startswith(TEACHER_MARK):
            run = teachers[reference[1:]].found.run if teachers[reference[1:]].found.state == "finished" else None
            references[reference] = resolve_model(run.id, tracking) if run else None
        else:
            first = replace(config, teacher=meant.get(reference, reference))
            references[reference] = find_or_train.teacher_of(first, data_of(config))
            if (not reference or reference.startswith("models:/")) and references[reference].run_id:
                meant[reference] = references[reference].run_id
    entries = [
        _entry(planned, "student", data_of(planned.config), references.get(planned.config.teacher))
        for planned in grid.trainings
    ]
    return Existing(data, parent, meant, teachers, tuple(entries))


def parent_tags(grid: Grid, data: Fingerprints) -> dict[str, str]:
    """The tags by which a grid's parent run is found again."""
    return {
        "distill.ablation": grid.name,
        "distill.digest": grid.digest,
        "data.train": data.train,
        "data.val": data.val,
    }


def check_networks(grid: Grid) -> None:
    """Build each network of the grid, before data is read, and look for its device. Raises UserError naming file and
    cell."""
    cells = [("teacher", f"teacher {name}", config) for name, config in grid.teachers.items()]
    cells += [("student", name, config) for name, config in grid.cells.items()]
    for _, name, config in cells:
        with _named(grid, name):
            check_device(config.train.device)
    for job, name, config in {repr((job, c.model, c.augment)): (job, name, c) for job, name, c in cells}.values():
        with _named(grid, name):
            model = skeleton(config.model, configs.markup_of(config))
            Augmenter(config.augment, model.size, 0)
            if job == "student":
                check_budget(model)


def check_terms(grid: Grid, found: Existing) -> None:
    """Build the terms of each new cell, before the first one trains. Raises UserError naming file and cell."""
    models: dict[str, Landmarker] = {}  # teachers, by reference

    def teacher_of(config: Config) -> Landmarker:
        reference = config.teacher
        if reference not in models and reference.startswith(TEACHER_MARK):
            own = grid.teachers[reference.removeprefix(TEACHER_MARK)]
            models[reference] = skeleton(own.model, configs.markup_of(own))
        elif reference not in models:
            models[reference] = load_model(find_or_train.teacher_of(config, found.data).path)[0]
        return models[reference]

    new = {entry.cell.name: entry.cell.config for entry in found.entries if entry.found.state == "new"}
    for name, config in new.items():
        if config.distill.terms:
            with _named(grid, name):
                model = skeleton(config.model, configs.markup_of(config))
                Distiller(config.distill.terms, model, FrozenTeacher(teacher_of(config)))


@contextmanager
def _named(grid: Grid, cell: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{grid.path}, cell '{cell}': {error}") from None


def _entry(planned: Planned, job: str, data: Fingerprints, teacher: ModelReference | None) -> Entry:
    cell = Cell(planned.cell, job, planned.config)
    if planned.config.distill.terms and teacher is None:
        return Entry(planned, cell, None, Found("new"))
    cell, identity = find_or_train.identify(cell, data, teacher)
    return Entry(planned, cell, identity, _find(cell.config.tracking, identity))


def _find(tracking: TrackingConfig, identity: Identity) -> Found:
    try:
        return find_or_train.find(tracking, identity)
    except Held:  # in training elsewhere; looked up again when its turn comes
        return Found("unfinished")
