"""The description that a finished run shows on its page: what it is, its result, and what that is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from distill import config as configs
from distill import metrics as metric
from distill import tracking
from distill.config import Config
from distill.errors import UserError
from distill.metrics import RunErrors

if TYPE_CHECKING:
    from distill.training.finalize import TrainedModel


@dataclass(frozen=True)
class Comparison:
    """With another model on the same validation images."""

    role: str  # of the other: control, teacher
    run_id: str  # of the other; empty: a file that no run of this store made
    nme: float  # of the other
    difference: metric.Comparison  # this run - the other, percent points


def comparisons(
    config: Config, job: str, errors: RunErrors, data: dict[str, str], teacher: metric.Report | None, teacher_run: str
) -> list[Comparison]:
    """With the control of a distilled model, where the store has it finished, and with its teacher.

    errors: this run's. data: fingerprints of `train` and `val`. The control: the newest run that computed the same but
    for the teacher.
    """
    found: list[Comparison] = []
    # a store that is away, a run whose report cannot be read: no reason to stop this run
    with suppress(UserError):
        if config.distill.terms and {"train", "val"} <= data.keys():
            found += _with_control(config, job, errors, data)
    with suppress(UserError):
        if teacher is not None:
            found.append(_compare("teacher", teacher_run, errors, RunErrors(teacher.per_image)))
    return found


def as_metrics(found: Sequence[Comparison], split: str) -> dict[str, float]:
    """`control/val/nme`, `control/val/difference`: negative where this run is better."""
    values = {f"{other.role}/{split}/nme": other.nme for other in found}
    return values | {f"{other.role}/{split}/difference": other.difference.mean for other in found}


def note(model: TrainedModel, report: metric.Report, val: str, found: Sequence[Comparison]) -> str:
    """The run's description in Markdown. report: on the validation set, whose name is `val`."""
    low, high = metric.mean_interval(report.per_image)
    chosen = f", epoch {model.step} of {len(model.history)}" if model.step else ""
    chosen += f" (the last, which no image chose: {model.last.nme:.3f} %)" if model.last else ""
    result = (
        f"val/nme {report.nme:.3f} % [{low:.3f}, {high:.3f}] on {report.count} images of {val}, "
        f"median {report.median:.3f}, "
        f"above 8 %: {100 * report.failure_rate:.1f} %{chosen}; {model.cost.file_bytes / 1e6:.2f} MB, "
        f"{model.cost.latency_ms:.1f} ms on one CPU thread."
    )
    if found:
        compared = "Compared on the same images: " + "; ".join(_words(other) for other in found) + "."
    elif model.config.distill.terms:
        compared = "Compared with nothing: the store has no finished run of the same training without a teacher."
    elif model.role == "teacher":
        compared = "A teacher; the students distilled from it are compared with it."
    else:
        compared = "No teacher; the baseline for students distilled with this recipe."
    return "\n\n".join((result, compared, model.description))  # MLflow folds what follows the first lines


# ---------------------------------------------------------------------------------------------------- inside


def _with_control(config: Config, job: str, errors: RunErrors, data: dict[str, str]) -> list[Comparison]:
    # a control may have the other settings of a distillation, which mean nothing to it, or not
    variants = (replace(config.distill, terms={}), type(config.distill)(views=config.distill.views))
    for digest in dict.fromkeys(configs.digest(replace(config, distill=variant)) for variant in variants):
        tags = {"distill.digest": digest, "data.train": data["train"], "data.val": data["val"]}
        for run in tracking.runs_tagged(config.tracking, job, tags):
            if run.status == "FINISHED":
                return [_compare("control", run.id, errors, tracking.read_errors(config.tracking, run.id))]
    return []


def _compare(role: str, run_id: str, own: RunErrors, other: RunErrors) -> Comparison:
    return Comparison(role, run_id, float(other.chosen.mean()), metric.compare_runs([own], [other]))


def _words(other: Comparison) -> str:
    run = f"`{other.run_id[:8]}` " if other.run_id else ""
    return f"{other.role} {run}{other.nme:.3f} %, this run {other.difference}"
