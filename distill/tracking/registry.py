"""The model registry: which name a model gets, and whether `champion` comes to mean it.

A training that ends moves `champion` by the mean over images; a search, which has tried much and so is sure to be lucky on
the validation images, moves it only on the evidence of a paired bootstrap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distill import metrics
from distill import tracking as track
from distill.config import TrackingConfig
from distill.errors import UserError
from distill.metrics import BootstrapResult
from distill.tracking import MODEL_FOLDER, RunInfo

NEWEST, CHAMPION = "newest", "champion"
METRIC = "best/val/nme"


@dataclass(frozen=True)
class Verdict:
    """Whether `champion` is to move, and why, as half a sentence."""

    moves: bool
    why: str
    difference: BootstrapResult | None = None  # challenger - holder, percent points


def model_name(job: str, role: str) -> str:
    # an assistant is of the teachers' job, but no student means it by "the newest teacher"
    return f"distill-{role if role == 'assistant' else job}"


def champion(tracking: TrackingConfig, name: str) -> RunInfo | None:
    """The run that `champion` means; None where there is none, its run was deleted, or the store is away."""
    try:
        holder = track.alias_holder(tracking, name, CHAMPION)
        return track.find_run(tracking, holder[1]) if holder else None
    except UserError:  # neither may stop a finished run
        return None


def aliases(tracking: TrackingConfig, name: str, nme: float, val_fingerprint: str) -> list[str]:
    """`newest`, and `champion` where val/nme is smaller than the holder's or the validation set is another one."""
    holder = champion(tracking, name)
    better = holder is None or holder.tags.get("data.val") != val_fingerprint
    return [NEWEST, CHAMPION] if better or nme < holder.metrics.get(METRIC, float("inf")) else [NEWEST]


def challenge(tracking: TrackingConfig, name: str, run: RunInfo) -> Verdict:
    """Whether `champion` may move to `run`: only if the errors of the same validation images say so, by an interval (95 %,
    paired bootstrap over images) that lies below 0. Raises UserError where the store cannot be asked."""
    found = track.alias_holder(tracking, name, CHAMPION)
    if found is None:
        return Verdict(True, "there was none")
    if found[1] == run.id:
        return Verdict(False, "this run holds it already")
    try:
        holder = track.find_run(tracking, found[1])
        theirs = per_image(tracking, holder.id)
    except UserError as error:
        return Verdict(False, f"the holder, run {found[1]}, cannot be compared with: {str(error).rstrip('.')}")
    val, own = holder.tags.get("data.val", "unknown"), run.tags.get("data.val", "unknown")
    if val != own:
        return Verdict(
            False, f"the holder, run {holder.id}, was validated on other images (fingerprint {val}, here {own})"
        )
    d = metrics.paired_bootstrap(per_image(tracking, run.id), theirs)
    told = (
        f"val/nme {d.mean:+.3f} against the holder, run {holder.id}, 95 % interval over images [{d.low:+.3f}, {d.high:+.3f}], "
        f"p {d.p:.2g}"
    )
    return Verdict(d.high < 0, told, d)


def per_image(tracking: TrackingConfig, run_id: str) -> np.ndarray:
    """(N,) NME in percent of the validation images, as a finished run reports them. Raises UserError where it does not."""
    return track.read_report(tracking, run_id).per_image


def entry(nme: float, val_fingerprint: str, note: str = "") -> tuple[str, dict[str, str]]:
    """Description (Markdown) and tags of a version. note: what its run says of itself."""
    told = note or f"val/nme {nme:.3f} % on validation data {val_fingerprint}"
    return told, {"val/nme": f"{nme:.4f}", "data.val": val_fingerprint}


def register(tracking: TrackingConfig, name: str, run: RunInfo, marks: list[str]) -> str:
    """Enter a finished run's model; the version. The same run again updates its version. Raises UserError where that fails."""
    told, tags = entry(run.metrics[METRIC], run.tags.get("data.val", "unknown"), run.tags.get(track.NOTE, ""))
    return track.register_run(tracking, run.id, name, MODEL_FOLDER, marks, told, tags)
