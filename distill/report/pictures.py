"""Images of the validation set for the report: which ones, and what each model makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from distill import figures, metrics
from distill import tracking as track
from distill.config import DataConfig, TrackingConfig
from distill.data import geometry
from distill.data.annotations import LandmarkSet, read_labelled
from distill.data.folders import resolve
from distill.distillation import taps
from distill.errors import UserError
from distill.evaluate.job import predict_set
from distill.models.files import load_model
from distill.models.landmarker import Landmarker, to_input
from distill.models.references import resolve_model
from distill.report.compare import Cast
from distill.report.facts import Look, Picture, Pictures, RunFacts
from distill.tracking import datasets

EACH = 2  # images of each rank
DEFAULT_TAP = "stride:16"


def pictures(cast: Cast, tracking: TrackingConfig, labelled: LandmarkSet) -> Pictures | None:
    """Best, median and worst images of the main model, with what the leads of the trio see in them.

    labelled: the runs' own validation set (`validation_set`), or another one, on all of which the models are then run.
    None where the main model has neither predictions nor a model file.
    """
    main = cast.main.lead
    recorded = labelled.fingerprint == main.validated_on
    runs = [m.lead for m in cast.trio if m.lead.markup.fits(main.markup)]
    if recorded:
        runs = [run for run in runs if run.validated_on == main.validated_on]
    models = {run.id: model for run in runs if (model := _model(run, tracking)) is not None}
    points = {}
    for run in runs:
        found = _stored_points(run, labelled, tracking) if recorded else None
        if found is None and run.id in models:
            found = predict_set(models[run.id], labelled).points
        if found is not None:
            points[run.id] = found
    if main.id not in points:
        return None
    distances = metrics.normalizer("image", labelled.landmarks, labelled.sizes, labelled.markup)
    errors = {run_id: metrics.image_errors(found, labelled.landmarks, distances) for run_id, found in points.items()}
    ranked = [(rank, int(i)) for rank, which in figures.choose(errors[main.id], EACH).items() for i in which]
    chosen = {index: rank for rank, index in reversed(ranked)}  # of a tiny set, each once
    tapped = _taps(cast)
    shown = []
    for index, rank in reversed(chosen.items()):
        image, looks = labelled.image(index), {}
        for run in runs:
            if run.id in points:
                side = "teacher" if cast.teacher and run is cast.teacher.lead else "student"
                seen = _look(models[run.id], image, tapped[side]) if run.id in models else ()
                looks[run.id] = Look(points[run.id][index], float(errors[run.id][index]), *seen)
        shown.append(Picture(labelled.names[index], rank, image, labelled.landmarks[index], looks))
    return Pictures(labelled.folder.name, labelled.fingerprint, len(labelled), recorded, tuple(shown), labelled.markup)


def validation_set(run: RunFacts, tracking: TrackingConfig) -> tuple[LandmarkSet | None, str]:
    """The set that the run was validated on, wherever this machine has it; else None and why."""
    recorded = [d for d in datasets(tracking, run.id) if d.context == "validation"]
    places = [Path(d.folder) for d in recorded if d.folder]
    try:
        places.append(resolve(DataConfig(val=run.config.data.val)).val)
    except UserError:  # no data root on this machine
        pass
    other = ""
    for place in places:
        if not place.is_dir():
            continue
        try:
            labelled = read_labelled(place, run.config)
        except UserError as error:
            other = str(error)
            continue
        if labelled.fingerprint == run.validated_on:
            return labelled, ""
        other = f"'{place.name}' here has fingerprint {labelled.fingerprint}, not {run.validated_on}"
    why = f" ({other.rstrip('.')})" if other else ""
    return None, (
        f"The validation set of these runs, {run.dataset('validation')}, is not on the machine that wrote this "
        f"report{why}; the pictures are those that the runs logged when they ended, without heatmaps and "
        "attention maps."
    )


# ---------------------------------------------------------------------------------------------------- inside


def _model(run: RunFacts, tracking: TrackingConfig) -> Landmarker | None:
    try:
        return load_model(resolve_model(run.id, tracking).path)[0]
    except UserError:  # its artifact was deleted, or another version wrote it
        return None


def _stored_points(run: RunFacts, labelled: LandmarkSet, tracking: TrackingConfig) -> np.ndarray | None:
    """(N, P, 2): the predictions that the run logged, where they are of these images."""
    try:
        path = track.artifact_path(tracking, run.id, "evaluation/val_predictions.npz")
        with np.load(path) as file:
            same = tuple(str(name) for name in file["names"]) == tuple(labelled.names)
            return file["points"] if same else None
    except (UserError, OSError, ValueError, KeyError):  # not logged, or damaged: the model predicts again
        return None


def _taps(cast: Cast) -> dict[str, list[str]]:
    """The taps that the student's feature terms compare, on either side; the default where it has none."""
    terms = cast.student.lead.config.distill.terms.values() if cast.student else ()
    found = {
        side: list(dict.fromkeys(tap for term in terms for tap in taps.split(getattr(term, side))))
        for side in ("student", "teacher")
    }
    return {side: names[:2] or [DEFAULT_TAP] for side, names in found.items()}


@torch.no_grad()
def _look(model: Landmarker, image: np.ndarray, wanted: Sequence[str]) -> tuple:
    """(heat, extent, attention) of one image, as in `Look`."""
    pixels = to_input(torch.from_numpy(geometry.square(image))[None], model.size)
    found = []
    for name in wanted:
        with suppress(UserError):  # the control need not have the student's modules
            found.append(taps.find("tap", name, model))
    with taps.recording(model, found) as maps:
        prediction = model(pixels)
    heat, extent = None, (0.0, 0.0, 0.0, 0.0)
    if model.config.head.kind == "heatmap":
        logits = prediction.logits[0].float()
        heat = torch.softmax(logits.flatten(1), dim=1).view(logits.shape).amax(0).numpy()
        grid = model.codec.grid
        reach = grid.pad * grid.step
        far = grid.cells * grid.step - reach
        (side,), (left, top) = geometry.frame_of(np.array(image.shape[1::-1]))
        scale = side / model.size
        extent = (-reach * scale - left, -reach * scale - top, far * scale - left, far * scale - top)
    attention = tuple((tap.name, maps[tap.name][0].float().square().mean(0).numpy()) for tap in found)
    return heat, extent, attention
