"""The model card of a student: architecture, training data, errors, limits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from distill import metrics as metric
from distill.config import Config
from distill.data.folders import resolve
from distill.files import render
from distill.models.files import read_description
from distill.profiling import Cost


@dataclass(frozen=True)
class About:
    """What a model card holds beside the numbers."""

    run_id: str
    role: str  # distilled, control, tuned, averaged
    teacher_run: str  # empty: no teacher, or one from a bare file
    train: Path  # folders of the sets
    val: Path
    fingerprints: dict[str, str]  # train, val


def about_of(config: Config, role: str, model_file: Path) -> About:
    """From the model file's description and the config's data folders. Raises UserError where either is not there."""
    described = read_description(model_file)["about"]
    paths = resolve(config.data)
    return About(
        run_id=described.get("run_id", ""),
        role=role,
        teacher_run=described.get("teacher_run_id", ""),
        train=paths.train,
        val=paths.val,
        fingerprints=described.get("data", {}),
    )


def model_card(
    config: Config, cost: Cost, report: metric.Report, about: About, last: metric.Report | None = None
) -> str:
    """Markdown. report: on the validation set; its interval is of the mean over images (bootstrap), not over seeds.
    last: of the last epoch's weights."""
    low, high = metric.mean_interval(report.per_image)
    teacher = f"run `{about.teacher_run}`" if about.teacher_run else "a teacher from a file"
    terms = ", ".join(f"{name}: {term.loss} x {term.weight:g}" for name, term in config.distill.terms.items())
    return render(
        Path(__file__).with_name("model_card.md.j2"),
        config=config,
        side=config.model.input_size,
        cost=cost,
        report=report,
        last=last,
        about=about,
        teacher=f"{teacher} ({terms})" if terms else "none",
        licence=licence(about.train),
        low=low,
        high=high,
        by_region=[f"{name} {value:.2f}" for name, value in report.by_region.items()],
        by_yaw=_by_yaw(report),
        worst=max(report.by_region, key=report.by_region.__getitem__),
        turned=_most_turned(report),
    )


def licence(folder: Path) -> str:
    """The licence that lies with a data set, in its folder or the one above; else that there is none."""
    for place in (folder, folder.parent):
        files = sorted(file.name for file in place.glob("LICEN[SC]E*"))
        if files:
            return ", ".join(f"`{name}`" for name in files) + " beside the images"
    return "no licence lies with the images (Microsoft FaceSynthetics: research use only, by its own agreement)"


def _by_yaw(report: metric.Report) -> list[str]:
    parts = []
    for name, (low, high) in metric.YAW_BINS.items():
        if found := report.by_yaw.get(name):
            span = f"above {low:.0f}" if math.isinf(high) else f"{low:.0f} to {high:.0f}"
            parts.append(f"{span} degrees {found['nme']:.2f} ({found['count']} images)")
    return parts


def _most_turned(report: metric.Report) -> float | None:
    """The error in the last yaw bin that has images over that in the first; None where there is one bin or none."""
    bins = [found["nme"] for found in report.by_yaw.values() if found]
    return bins[-1] / bins[0] if len(bins) > 1 else None
