"""What comes of a retraining: the best seed of the best configuration, exported, handed in, registered, and told of plainly."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from distill import metrics
from distill import tracking as track
from distill.ablation.table import Row, Table
from distill.config import Config
from distill.data.annotations import resolve
from distill.export import job as exporting
from distill.export.job import Export
from distill.export.mlflow_model import pack
from distill.export.model_card import about_of, model_card
from distill.models.references import resolve_model
from distill.profiling import Cost
from distill.tracking import RunInfo, registry
from distill.tracking.registry import CHAMPION, Verdict
from search.retrain import BEST, RECIPE

NAME = "distill-student"


@dataclass(frozen=True)
class Handout:
    run: RunInfo  # of the best seed
    seed: int
    exported: Export
    version: str  # of distill-student
    verdict: Verdict  # whether `champion` moved to it


def hand_out(made: Table, cell: str, config: Config, folder: Path) -> Handout:
    """Export the seed of `cell` with the smallest val/nme to `folder`, add that to its run, and register the run.

    config: the cell's, which says where data and store are. `champion` moves only on the evidence of a paired bootstrap.
    Raises UserError where a challenge rule is broken, and where the store cannot be reached.
    """
    tracking, row = config.tracking, next(row for row in made.rows if row.cell == cell)
    seed = min(row.nme, key=lambda seed: (row.nme[seed], seed))
    run = track.find_run(tracking, row.runs[seed])
    exported = _export(config, seed, run, folder)
    version, verdict = registry.register(tracking, NAME, run.id)
    return Handout(run, seed, exported, version, verdict)


def beats(made: Table, cell: str) -> str:
    """Whether the best configuration is better than the recipe, in a sentence."""
    rows = {row.cell: row for row in made.rows}
    if cell == RECIPE:
        return (
            f"Nothing beat the recipe in the study: it is the best configuration itself, val/nme {_mean(rows[RECIPE])}."
        )
    d = rows[BEST].difference
    if d is None:
        return "The best configuration and the recipe have no finished seed in common, so nothing can be said of them."
    against = f"val/nme {_mean(rows[BEST])} against {_mean(rows[RECIPE])}"
    told = (
        f"{d.mean:+.3f} ({100 * d.relative:+.1f} %), 95 % interval over images [{d.low:+.3f}, {d.high:+.3f}], p {metrics.format_p(d.p)}; "
        f"better in {d.better} of {len(d.differences)} seeds"
    )
    if d.clear:
        return f"The best configuration {'beats' if d.mean < 0 else 'does NOT beat'} the recipe: {against}, {told}."
    return f"The best configuration does NOT clearly beat the recipe: {against}, {told}."


def to_text(done: Handout) -> str:
    """What was handed out, for a terminal."""
    nme, exported = done.run.metrics[registry.METRIC], done.exported
    moved = "moved to it" if done.verdict.moves else "did NOT move to it"
    lines = [
        f"chosen      seed {done.seed}, run {done.run.id}: val/nme {nme:.3f} %",
        f"weights     {exported.weights}: {exported.weights.stat().st_size:,} bytes, float32",
        f"onnx        {exported.onnx}: within {exported.parity:.6f} px of the weights",
        f"submission  {exported.submission or 'none: the data has no test set, or the model other points'}",
        f"registry    {NAME} version {done.version}; '{CHAMPION}' {moved}: {done.verdict.why}",
    ]
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------------- inside


def _export(config: Config, seed: int, run: RunInfo, folder: Path) -> Export:
    """What a training with light outputs leaves out, added to its run."""
    tracking = config.tracking
    model_file = resolve_model(run.id, tracking).path
    test_set = exporting.images_to_submit(resolve(config.data).test, model_file)
    exported = exporting.export(model_file, folder, test_set)
    track.add_artifacts(tracking, run.id, [exported.onnx], "onnx")
    if exported.submission:
        track.add_artifacts(tracking, run.id, [exported.submission], "submission")
        track.tag_run(tracking, run.id, exporting.submission_tags(exported, test_set))
    packed = folder / track.MODEL_FOLDER
    packed.mkdir(exist_ok=True)
    weights = shutil.copyfile(exported.weights, packed / exported.weights.name)
    own = replace(config, seed=seed)
    role = run.tags.get("distill.role", "student")
    card = model_card(own, _cost(run), track.read_report(config.tracking, run.id), about_of(own, role, weights))
    facts = {"run_id": run.id, "val/nme": round(run.metrics[registry.METRIC], 4)}
    added = [file for file in pack(exported.onnx, packed, card, facts) if file != weights]
    track.add_artifacts(tracking, run.id, added, track.MODEL_FOLDER)
    return exported


def _cost(run: RunInfo) -> Cost:
    measured = {key.removeprefix("model/"): value for key, value in run.metrics.items() if key.startswith("model/")}
    whole = {key: int(measured[key]) for key in ("parameters", "file_bytes")}
    return Cost(**{key: measured[key] for key in ("mmacs", "latency_ms")}, **whole)


def _mean(row: Row) -> str:
    return f"{metrics.format_mean(list(row.nme.values()))} %"
