"""What is known of runs, ablations and images, as plain values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distill.ablation.table import Table
from distill.config import Config, markup_of
from distill.landmarks import IBUG68, Markup
from distill.metrics import Report, RunErrors

ROLES = ("teacher", "assistant", "control", "tuned", "distilled", "averaged")  # the order in which models are named


@dataclass(frozen=True)
class Dataset:
    """A data set that a run was given."""

    name: str
    use: str  # training, validation
    fingerprint: str


@dataclass(frozen=True, eq=False)
class RunFacts:
    """One finished run."""

    id: str
    name: str
    role: str  # one of ROLES
    config: Config
    metrics: dict[str, float]  # last value of each, `best/val/nme` among them
    tags: dict[str, str]
    report: Report | None = None  # on the validation set
    errors: RunErrors | None = None  # of the validation images; None where there is no report
    agreement: dict[str, Any] | None = None  # with its teacher: nme, by_region, per_point
    history: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    datasets: tuple[Dataset, ...] = ()
    logged: dict[str, bytes] = field(default_factory=dict)  # PNGs of the end of training, by name

    @property
    def nme(self) -> float:
        """val/nme of the kept epoch, percent; nan without one."""
        return self.metrics.get("best/val/nme", float("nan"))

    @property
    def markup(self) -> Markup:
        """The landmark set."""
        return markup_of(self.config)

    @property
    def teacher_id(self) -> str:
        """Run id of its teacher; empty: none, or a bare file."""
        return self.tags.get("teacher.run_id", "")

    @property
    def validated_on(self) -> str:
        """Fingerprint of the validation set."""
        return self.tags.get("data.val", "")

    @property
    def dirty(self) -> bool:
        """The code was changed after the revision that the run names."""
        return self.tags.get("code.dirty") == "true"

    @property
    def megabytes(self) -> float:
        """Of the float32 file."""
        return self.metrics.get("model/file_bytes", float("nan")) / 1e6

    @property
    def minutes(self) -> float:
        """Spent training."""
        return sum(value for _, value in self.history.get("train/epoch_seconds", ())) / 60

    def dataset(self, use: str) -> str:
        """Name of the set that was used so; as the config has it where the run logged none."""
        return next(
            (d.name for d in self.datasets if d.use == use),
            self.config.data.val if use == "validation" else self.config.data.train,
        )


@dataclass(frozen=True)
class Ablation:
    """The table that a parent run keeps."""

    run_id: str  # of the parent
    table: Table


@dataclass(frozen=True, eq=False)
class Look:
    """What one model makes of one image."""

    points: np.ndarray  # (P, 2) pixels of the image
    nme: float  # percent
    heat: np.ndarray | None = None  # (h, w) largest probability over the points; None: the head has none
    extent: tuple[float, float, float, float] = (0, 0, 0, 0)  # of the heat's grid: left, top, right, bottom, in pixels
    attention: tuple[tuple[str, np.ndarray], ...] = ()  # (tap, (h, w) mean square over channels)


@dataclass(frozen=True, eq=False)
class Picture:
    """An image, and what the models make of it."""

    name: str
    rank: str  # best, median, worst
    image: np.ndarray  # (H, W, 3) uint8 RGB
    truth: np.ndarray  # (P, 2) pixels
    looks: dict[str, Look]  # by run id


@dataclass(frozen=True, eq=False)
class Pictures:
    """The images that a report shows, and the set that they are from."""

    set_name: str
    fingerprint: str
    count: int  # images in the set
    recorded: bool  # the runs' own validation set; else another one, on which the models were run for this report
    shown: tuple[Picture, ...]
    markup: Markup = IBUG68


@dataclass(frozen=True, eq=False)
class Findings:
    """Everything that a report is made of."""

    runs: tuple[RunFacts, ...]  # the ones the report is about
    others: tuple[RunFacts, ...] = ()  # listed only; without report, history and pictures
    ablations: tuple[Ablation, ...] = ()
    pictures: Pictures | None = None
    no_pictures: str = ""  # why there are none, one sentence
    source: str = ""  # where this was gathered from, in words
    remarks: tuple[str, ...] = ()  # what was left out and why
    # run id -> milliseconds an image: the least of all runs of the same network, as other work on a machine only adds
    latencies: Mapping[str, float] = field(default_factory=dict)

    def latency(self, run_ids: Iterable[str]) -> float | None:
        """Of the first of these runs that has one."""
        return next((self.latencies[run_id] for run_id in run_ids if run_id in self.latencies), None)
