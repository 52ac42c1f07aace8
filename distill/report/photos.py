"""Photographs for the report: which ones, and what each model makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from distill import figures
from distill import tracking as track
from distill.config import DataConfig, TrackingConfig
from distill.data.annotations import LandmarkSet, read_set, resolve
from distill.distillation import taps
from distill.errors import UserError
from distill.evaluate import job as evaluation
from distill.models.files import load_model
from distill.models.landmarker import Landmarker, to_input
from distill.models.references import resolve_model
from distill.report.comparing import Cast
from distill.report.facts import Look, Photo, Photos, RunFacts
from distill.tracking.datasets import datasets

EACH = 2  # photographs of each rank
DEFAULT_TAP = "stride:16"


def photographs(cast: Cast, tracking: TrackingConfig, data: Path | None) -> tuple[Photos | None, str]:
    """Best, median and worst photographs of the main model, with what the leads of the trio see in them.

    data: a labelled set to use in place of the runs' validation set; the models are run on all of it. Returns None and a
    sentence where the pixels, or all of the models, are not to be had. Raises UserError for a `data` that is unusable.
    """
    main = cast.main.lead
    if data is not None:
        labelled, reason = read_set(data, markup=main.markup), ""
    else:
        labelled, reason = _validation_set(main, tracking)
    if labelled is None:
        return None, reason
    runs = [m.lead for m in cast.trio if data is not None or m.lead.validated_on == main.validated_on]
    runs = [run for run in runs if run.markup.fits(main.markup)]
    models = {run.id: model for run in runs if (model := _model(run, tracking)) is not None}
    points = {
        run.id: found for run in runs
        if (found := _points(run, labelled, models.get(run.id), tracking, stored=data is None)) is not None
    }  # fmt: skip
    if main.id not in points:
        return None, f"Run {main.id} has neither a model file nor predictions, so no photographs are shown."
    reports = {
        run_id: evaluation.measure(evaluation.Predictions(found, np.ones(found.shape[:2])), labelled)
        for run_id, found in points.items()
    }
    chosen = [(rank, int(i)) for rank, which in figures.choose(reports[main.id].per_image, EACH).items() for i in which]
    chosen = list({index: (rank, index) for rank, index in reversed(chosen)}.values())[::-1]  # of a tiny set, each once
    tapped = _taps(cast)
    photos = []
    for rank, index in chosen:
        image = labelled.image(index)
        looks = {}
        for run in runs:
            if run.id in points:
                seen = _look(
                    models.get(run.id),
                    image,
                    tapped["teacher" if cast.teacher and run is cast.teacher.lead else "student"],
                )
                looks[run.id] = Look(points[run.id][index], float(reports[run.id].per_image[index]), *seen)
        photos.append(Photo(labelled.names[index], rank, image, labelled.landmarks[index], looks))
    recorded = labelled.fingerprint == main.validated_on
    return Photos(
        labelled.folder.name, labelled.fingerprint, len(labelled), recorded, tuple(photos), labelled.markup
    ), ""


def _validation_set(run: RunFacts, tracking: TrackingConfig) -> tuple[LandmarkSet | None, str]:
    """The set that the run was validated on, wherever this machine has it; else None and why."""
    recorded = [d for d in datasets(tracking, run.id) if d.context == "validation"]
    places = [Path(d.folder) for d in recorded if d.folder]
    try:
        places.append(resolve(DataConfig(val=run.config.data.val)).val)
    except UserError:  # no data root on this machine
        pass
    crop = {
        "crop_scale": run.config.data.crop_scale, "crop_lift": run.config.data.crop_lift, "markup": run.markup,
    }  # fmt: skip
    other = ""
    for place in places:
        if not place.is_dir():
            continue
        try:
            labelled = read_set(place, **crop)
        except UserError as error:
            other = str(error)
            continue
        if labelled.fingerprint == run.validated_on:
            return labelled, ""
        other = f"'{place.name}' here has fingerprint {labelled.fingerprint}, not {run.validated_on}"
    name = recorded[0].name if recorded else "validation set"
    why = f" ({other.rstrip('.')})" if other else ""
    return None, (
        f"The {name} of these runs is not on the machine that wrote this report{why}, so heatmaps and attention maps are left "
        f"out, and the pictures are those that the runs logged when they ended."
    )


def _model(run: RunFacts, tracking: TrackingConfig) -> Landmarker | None:
    try:
        return load_model(resolve_model(run.id, tracking).path)[0]
    except UserError:  # its artifact was deleted, or another version wrote it
        return None


def _points(
    run: RunFacts, labelled: LandmarkSet, model: Landmarker | None, tracking: TrackingConfig, stored: bool
) -> np.ndarray | None:
    """(N, P, 2): the predictions that the run logged, where they are of this set, else the model's own."""
    if stored:
        try:
            path = track.artifact_path(tracking, run.id, "evaluation/val_predictions.npz")
            with np.load(path) as file:
                if tuple(str(name) for name in file["names"]) == tuple(labelled.names):
                    return file["points"]
        except (UserError, OSError, ValueError, KeyError):  # not logged, or damaged: the model can say it again
            pass
    return None if model is None else evaluation.predict_set(model, labelled).points


def _taps(cast: Cast) -> dict[str, list[str]]:
    """The taps that the student's feature terms compare, on either side; the default where it has none."""
    terms = cast.student.lead.config.distill.terms.values() if cast.student else ()
    found = {
        side: list(dict.fromkeys(tap for term in terms for tap in taps.split(getattr(term, side))))
        for side in ("student", "teacher")
    }
    return {side: names[:3] or [DEFAULT_TAP] for side, names in found.items()}


@torch.no_grad()
def _look(model: Landmarker | None, image: np.ndarray, wanted: Sequence[str]) -> tuple:
    """(heat, extent, attention) of one photograph, as in `Look`."""
    if model is None:
        return None, (0, 0, 0, 0), ()
    pixels = to_input(torch.from_numpy(image)[None], model.size)
    found = []
    for name in wanted:
        with suppress(UserError):  # the control need not have the student's modules
            found.append(taps.find("tap", name, model))
    with taps.recording(model, found) as maps:
        prediction = model(pixels)
    heat, extent = None, (0.0, 0.0, 0.0, 0.0)
    if model.config.head.kind == "heatmap":
        logits = prediction.logits[0].float()
        heat = torch.softmax(logits.flatten(1), dim=1).view(logits.shape).numpy()
        grid = model.codec.grid
        reach = grid.pad * grid.step
        far = grid.cells * grid.step - reach
        across, down = image.shape[1] / model.size, image.shape[0] / model.size
        extent = (-reach * across, -reach * down, far * across, far * down)
    attention = tuple((tap.name, maps[tap.name][0].float().square().mean(0).numpy()) for tap in found)
    return heat, extent, attention
