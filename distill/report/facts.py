"""What is known of runs, ablations and images, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distill.config import Config, markup_of
from distill.landmarks import IBUG68, Markup
from distill.metrics import Comparison, Report

ROLES = ("teacher", "assistant", "control", "tuned", "distilled", "averaged")  # the order in which models are named

Network = tuple[float | None, ...]


def network_of(metrics: Mapping[str, float]) -> Network:
    """Equal for runs of one network, by the sizes that each run logs."""
    return tuple(metrics.get(f"model/{key}") for key in ("parameters", "mmacs"))


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
    role: str  # one of ROLES
    config: Config
    metrics: dict[str, float]  # last value of each, `best/val/nme` among them
    tags: dict[str, str]
    report: Report | None = None  # on the validation set
    agreement: dict[str, Any] | None = None  # with its teacher: nme, by_region, per_point
    history: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    datasets: tuple[Dataset, ...] = ()
    logged: dict[str, bytes] = field(default_factory=dict)  # PNGs of the end of training, by name

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

    @property
    def dirty(self) -> bool:
        """The code was changed after the revision that the run names."""
        return self.tags.get("code.dirty") == "true"

    @property
    def megabytes(self) -> float:
        return self.metrics.get("model/file_bytes", float("nan")) / 1e6

    @property
    def minutes(self) -> float:
        return sum(value for _, value in self.history.get("train/epoch_seconds", ())) / 60

    def dataset(self, use: str) -> str:
        """Name of the set that was used so; as the config has it where the run logged none."""
        return next(
            (d.name for d in self.datasets if d.use == use),
            self.config.data.val if use == "validation" else self.config.data.train,
        )


@dataclass(frozen=True)
class AblationRow:
    name: str
    nme: tuple[float, ...]  # val/nme of each seed, percent
    run_ids: tuple[str, ...]
    effect: Comparison | None  # against the control, Holm-corrected; None: the control, or nothing to compare with
    agreement: float | None = None  # NME between student and teacher
    megabytes: float | None = None
    network: Network = ()

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
    """What one model makes of one image."""

    points: np.ndarray  # (P, 2) pixels of the image
    nme: float  # percent
    heat: np.ndarray | None = None  # (h, w) largest probability over the points; None: the head has none
    extent: tuple[float, float, float, float] = (0, 0, 0, 0)  # of the heat's grid: left, top, right, bottom, in pixels
    attention: tuple[tuple[str, np.ndarray], ...] = ()  # (tap, (h, w) mean square over channels)


@dataclass(frozen=True, eq=False)
class Picture:
    name: str
    rank: str  # best, median, worst
    image: np.ndarray  # (H, W, 3) uint8 RGB
    truth: np.ndarray  # (P, 2) pixels
    looks: dict[str, Look]  # by run id


@dataclass(frozen=True, eq=False)
class Pictures:
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
    source: str = ""  # where this was gathered from, for people
    remarks: tuple[str, ...] = ()  # what was left out and why
    latencies: Mapping[Network, float] = field(default_factory=dict)  # ms an image: the least of the runs of a network

    def latency(self, of: RunFacts | AblationRow) -> float | None:
        """Milliseconds an image. Other work on a machine only adds to it, so equal networks share their least."""
        return self.latencies.get(of.network if isinstance(of, AblationRow) else network_of(of.metrics))
