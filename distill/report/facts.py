"""What is known of runs, ablations and photographs, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distill.config import Config, markup_of
from distill.landmarks import IBUG68, Markup
from distill.metrics import Report

ROLES = (
    "teacher",
    "assistant",
    "control",
    "tuned",
    "distilled",
    "averaged",
)  # the order in which a report names models


@dataclass(frozen=True)
class Dataset:
    name: str
    use: str  # training, validation
    fingerprint: str


@dataclass(frozen=True, eq=False)
class RunFacts:
    """One finished run."""

    id: str
    name: str
    role: str  # of ROLES; evaluations and foreign runs have none and are not reported
    config: Config
    metrics: dict[str, float]  # last value of each, `best/val/nme` among them
    tags: dict[str, str]
    report: Report | None = None  # on the validation set
    agreement: dict[str, Any] | None = None  # with its teacher: nme, by_region, per_point
    history: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    datasets: tuple[Dataset, ...] = ()
    pictures: dict[str, bytes] = field(default_factory=dict)  # PNGs logged at the end of training, by name

    @property
    def nme(self) -> float:
        return self.metrics.get("best/val/nme", float("nan"))

    @property
    def markup(self) -> Markup:
        return markup_of(self.config)

    @property
    def teacher_id(self) -> str:
        return self.tags.get("teacher.run_id", "")

    @property
    def validated_on(self) -> str:
        """Fingerprint of the validation set."""
        return self.tags.get("data.val", "")


@dataclass(frozen=True)
class Effect:
    """A variant minus the control, in points of NME: negative is better."""

    mean: float
    low: float  # 95 % interval
    high: float
    p: float
    relative: float  # a fraction of the control's error
    better: int  # seeds that beat the control's same seed
    seeds: int  # compared

    @property
    def clear(self) -> bool:
        """The interval keeps to one side of zero."""
        return self.low * self.high > 0


@dataclass(frozen=True)
class AblationRow:
    name: str
    nme: tuple[float, ...]  # val/nme of each seed, percent
    run_ids: tuple[str, ...]
    effect: Effect | None  # None: the control, or nothing to compare with
    agreement: float | None = None  # NME between student and teacher
    megabytes: float | None = None
    milliseconds: float | None = None

    @property
    def mean(self) -> float:
        return sum(self.nme) / len(self.nme) if self.nme else float("nan")


@dataclass(frozen=True)
class Ablation:
    run_id: str  # of the parent
    title: str
    control: str  # name of the row that the others are compared with
    seeds: int  # asked for
    images: int  # validated on
    data: str  # fingerprint of the validation set
    rows: tuple[AblationRow, ...]
    missing: tuple[str, ...] = ()  # trainings that are not there
    by_cost: bool = False  # the variants differ in size and time, which matter as much as their error


@dataclass(frozen=True, eq=False)
class Look:
    """What one model makes of one photograph."""

    points: np.ndarray  # (P, 2) pixels of the photograph
    nme: float  # percent
    heat: np.ndarray | None = None  # (P, h, w) probabilities; None: the head has none, or it was not asked for
    extent: tuple[float, float, float, float] = (0, 0, 0, 0)  # of the heat's grid: left, top, right, bottom, in pixels
    attention: tuple[tuple[str, np.ndarray], ...] = ()  # (tap, (h, w) mean square over channels)


@dataclass(frozen=True, eq=False)
class Photo:
    name: str
    rank: str  # best, median, worst
    image: np.ndarray  # (H, W, 3) uint8 RGB
    truth: np.ndarray  # (P, 2) pixels
    looks: dict[str, Look]  # by run id


@dataclass(frozen=True, eq=False)
class Photos:
    set_name: str
    fingerprint: str
    count: int  # images in the set
    recorded: bool  # the runs' own validation set; else another one, on which the models were run for this report
    photos: tuple[Photo, ...]
    markup: Markup = IBUG68


@dataclass(frozen=True, eq=False)
class Findings:
    """Everything that a report is made of."""

    runs: tuple[RunFacts, ...]  # the ones the report is about
    others: tuple[RunFacts, ...] = ()  # listed only; without report, history and pictures
    ablations: tuple[Ablation, ...] = ()
    photos: Photos | None = None
    no_photos: str = ""  # why there are none, one sentence
    source: str = ""  # where this was gathered from, for people
    remarks: tuple[str, ...] = ()  # what was left out and why
