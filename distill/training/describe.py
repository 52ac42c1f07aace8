"""What a finished run says of itself on its page: what it is, what it came to, and what that is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from distill import config as configs
from distill import metrics as metric
from distill import tracking as track
from distill.config import Config
from distill.errors import UserError
from distill.export.model_card import interval
from distill.metrics import BootstrapResult
from distill.profiling import Cost
from distill.tracking import registry


@dataclass(frozen=True)
class Rival:
    """Another model on the same validation images."""

    role: str  # control, teacher
    run_id: str  # empty: a file that no run of this store made
    nme: float
    difference: BootstrapResult  # this run - the other, percent points


def rivals(
    config: Config,
    job: str,
    report: metric.Report,
    data: dict[str, str],
    teacher: metric.Report | None,
    teacher_run: str,
) -> list[Rival]:
    """The control of a distilled model, where the store has it finished, and its teacher.

    data: fingerprints of `train` and `val`. The control: the newest run that computed the same but for the teacher.
    """
    found: list[Rival] = []
    # a store that is away, a run that is not whole, an error that is no number: no reason to stop this run
    with suppress(UserError, KeyError, ValueError):
        if config.distill.terms:
            found += _control(config, job, report, data)
    with suppress(UserError):
        if teacher is not None:
            found.append(_rival("teacher", teacher_run, report, teacher.per_image))
    return found


def as_metrics(others: Sequence[Rival], split: str) -> dict[str, float]:
    """`control/val/nme`, `control/val/difference`: negative where this run is better."""
    values = {f"{other.role}/{split}/nme": other.nme for other in others}
    return values | {f"{other.role}/{split}/difference": other.difference.mean for other in others}


def note(
    about: str,
    role: str,
    report: metric.Report,
    val: str,
    cost: Cost,
    epoch: int,
    others: Sequence[Rival],
    config: Config,
) -> str:
    """The run's description in Markdown. about: what it is, as its description said from the start; epoch: 0 for none."""
    low, high = interval(report.per_image)
    chosen = f", epoch {epoch} of {config.train.epochs}" if epoch else ""
    result = (
        f"val/nme {report.nme:.3f} % [{low:.3f}, {high:.3f}] on {report.count} images of {val}, median {report.median:.3f}, "
        f"above 8 %: {100 * report.failure_rate:.1f} %{chosen}; {cost.file_bytes / 1e6:.2f} MB, {cost.latency_ms:.1f} ms on one "
        f"CPU thread."
    )
    if others:
        compared = "Compared on the same images: " + "; ".join(_words(other) for other in others) + "."
    elif config.distill.terms:
        compared = "Compared with nothing: the store has no finished run of the same training without a teacher."
    elif role == "teacher":
        compared = "Its students are compared with it."
    else:
        compared = "Nobody teaches it: what is distilled by the same recipe is compared with it."
    return "\n\n".join((result, compared, about))  # MLflow folds what follows the first lines


# ---------------------------------------------------------------------------------------------------- inside


def _control(config: Config, job: str, report: metric.Report, data: dict[str, str]) -> list[Rival]:
    # a control may have the other settings of a distillation, which mean nothing to it, or not
    ways = (replace(config.distill, terms={}), type(config.distill)())
    for digest in dict.fromkeys(configs.digest(replace(config, distill=way)) for way in ways):
        tags = {"distill.digest": digest, "data.train": data["train"], "data.val": data["val"]}
        for run in track.runs_tagged(config.tracking, job, tags):
            if run.status == "FINISHED":
                return [_rival("control", run.id, report, registry.per_image(config.tracking, run.id))]
    return []


def _rival(role: str, run_id: str, report: metric.Report, errors) -> Rival:
    return Rival(role, run_id, float(errors.mean()), metric.paired_bootstrap(report.per_image, errors))


def _words(other: Rival) -> str:
    d = other.difference
    return (
        f"{other.role} {f'`{other.run_id[:8]}` ' if other.run_id else ''}{other.nme:.3f} %, this run {d.mean:+.3f} "
        f"[{d.low:+.3f}, {d.high:+.3f}], {d.p_statement}"
    )
