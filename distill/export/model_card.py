"""The model card that goes with a student: what it is, what it was trained on, how well it does, and where it does not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distill import metrics as metric
from distill.config import Config
from distill.data.annotations import resolve
from distill.models.files import read_description
from distill.profiling import Cost


@dataclass(frozen=True)
class About:
    """What a card says beside the numbers."""

    run_id: str
    role: str  # distilled, control, tuned, averaged
    teacher_run: str  # empty: no teacher, or one from a bare file
    train: Path  # folders of the sets
    val: Path
    fingerprints: dict[str, str]  # train, val


def about_of(config: Config, role: str, model_file: Path) -> About:
    """What the file says of itself, and the folders that the config means. Raises UserError where either is not there."""
    said = read_description(model_file)["about"]
    paths = resolve(config.data)
    return About(
        said.get("run_id", ""), role, said.get("teacher_run_id", ""), paths.train, paths.val, said.get("data", {})
    )


def model_card(config: Config, cost: Cost, report: metric.Report, about: About) -> str:
    """Markdown. report: on the validation set; its interval is of the mean over images (bootstrap), not over seeds."""
    low, high = interval(report.per_image)
    taught = f"run `{about.teacher_run}`" if about.teacher_run else "a teacher from a file"
    terms = ", ".join(f"{name}: {term.loss} x {term.weight:g}" for name, term in config.distill.terms.items())
    rows = [
        ("predicts", f"{len(report.per_point)} landmarks in pixels of the given crop, and a confidence for each"),
        ("model", f"{config.model.backbone} (timm), {config.model.head.kind} head, {config.model.input_size} px square input"),
        ("size", f"{cost.file_bytes:,} bytes float32, {cost.parameters:,} parameters, {cost.mmacs:.0f} M multiply-accumulates"),
        ("latency", f"{cost.latency_ms:.1f} ms for one image on one CPU thread of the machine that trained it"),
        ("role", f"{about.role}, seed {config.seed}, run `{about.run_id}`"),
        ("taught by", f"{taught} ({terms})" if terms else "nobody"),
        ("training data", f"`{about.train.name}`, fingerprint `{about.fingerprints.get('train', 'unknown')}`"),
        ("licence of the training data", licence(about.train)),
        ("validation data", f"`{about.val.name}`, {report.count} images, fingerprint `{about.fingerprints.get('val', 'unknown')}`"),
        ("val/nme", f"{report.nme:.3f} %, 95 % interval over images [{low:.3f}, {high:.3f}]"),
        ("median, 95th percentile", f"{report.median:.3f} %, {report.p95:.3f} %"),
        ("above 8 %", f"{100 * report.failure_rate:.1f} % of the images"),
        ("by region", ", ".join(f"{name} {value:.2f}" for name, value in report.by_region.items())),
        ("by yaw", ", ".join(_by_yaw(report)) or "not known"),
    ]  # fmt: skip
    table = "\n".join(f"| {what} | {words} |" for what, words in rows)
    return f"""# {config.name}

| | |
|---|---|
{table}

NME is in percent of sqrt(width x height) of the image. The epoch was chosen on this same validation set.

## Files

`student.safetensors` is the model file for `distill`; `model.onnx` and `MLmodel` are the same student for MLflow:
`image` (B, {config.model.input_size}, {config.model.input_size}, 3) uint8 RGB in, `points` (B, {len(report.per_point)}, 2) in pixels of it and `confidence` (B, {len(report.per_point)}) out.

## Limits

- It expects a square crop framed as its training images are, and has no detector of its own.
- It may be used as the licence of its training data allows.
{_worst(report)}- Its errors by age, sex and skin have not been studied; do not use it where such differences matter.
"""


def interval(per_image: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of errors (N,)."""
    found = metric.paired_bootstrap(per_image, np.zeros_like(per_image))
    return found.low, found.high


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


def _worst(report: metric.Report) -> str:
    region = max(report.by_region, key=report.by_region.__getitem__)
    lines = [f"- Worst region: {region}, {report.by_region[region]:.2f} %."]
    bins = {name: found for name, found in report.by_yaw.items() if found}
    if len(bins) > 1:
        first, last = list(bins.values())[0], list(bins.values())[-1]
        lines.append(
            f"- On the most turned heads the error is {last['nme'] / first['nme']:.1f} times that on the least turned."
        )
    return "".join(line + "\n" for line in lines)
