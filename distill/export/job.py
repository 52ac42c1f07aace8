"""The single student, ready to hand out: float32 weights under 15 MB, ONNX that agrees with them, solution.zip."""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

from distill.data import SAMPLE_ROOT
from distill.data.annotations import LandmarkSet, read_set
from distill.data.loading import eval_batches
from distill.errors import UserError
from distill.evaluate.job import predict_set, side_errors
from distill.export.solve import solve
from distill.files import atomic
from distill.landmarks import IBUG68
from distill.metrics.calibration import Calibration, fit
from distill.models.files import MAX_BYTES, load_model, markup_of, read_description, rewrite
from distill.models.landmarker import Landmarker, reparameterized
from distill.predict.runtime import OnnxNetwork
from distill.submission import file as submission_file

PARITY_PIXELS = 0.01  # largest difference between ONNX and torch coordinates


@dataclass(frozen=True)
class Export:
    """The files that were written."""

    weights: Path
    onnx: Path
    parity: float  # largest coordinate difference between ONNX and torch, pixels of the input
    submission: Path | None


def export(model_file: Path, out: Path, images: LandmarkSet | None, held_out: LandmarkSet | None = None) -> Export:
    """Check a student's file against the challenge's rules, copy it to `out`, and derive ONNX and submission from it.

    held_out: labelled renders on which its confidence is calibrated (`distill.metrics.calibration`): both files then
    carry the calibration in their description, under `calibration`.

    Raises UserError where a rule is broken, the ONNX model disagrees, or there are `images` and the student's points
    are not the challenge's; nothing is left half-written.
    """
    check_rules(model_file)
    model, described = load_model(model_file)
    if held_out is not None:
        described["calibration"] = calibrate(model, described, held_out).to_dict()
    if images is not None:
        submission_file.check_points(model.markup, f"Model file '{model_file}'")
        submission_file.check_names(images.names)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=out) as made:  # all or nothing reaches `out`
        fresh = Path(made)
        if held_out is None:
            shutil.copyfile(model_file, fresh / "student.safetensors")
        else:
            rewrite(model_file, fresh / "student.safetensors", described)
            check_rules(fresh / "student.safetensors")  # it is longer now
        onnx_file, parity = to_onnx(model, fresh / "student.onnx", described)
        if images is not None:
            # it reads back and checks what it wrote
            submission_file.write(fresh / "solution.zip", images.names, solve(onnx_file, images))
        for name in ("student.safetensors", "student.onnx", "solution.zip"):
            if (fresh / name).exists():
                os.replace(fresh / name, out / name)
            else:  # an older student's submission must not lie beside this one
                (out / name).unlink(missing_ok=True)
    solution = out / "solution.zip" if images is not None else None
    return Export(out / "student.safetensors", out / "student.onnx", parity, solution)


def calibrate(model: Landmarker, described: dict[str, Any], held_out: LandmarkSet) -> Calibration:
    """Fit expected errors to renders that the model has not seen.

    Raises UserError for the sets that it was trained or selected on, by its file, and for the AFLW photographs.
    """
    data, folder = described["about"].get("data", {}), held_out.folder.resolve()
    if held_out.fingerprint in (data.get("train"), data.get("val")) or folder.name.lower().startswith("aflw"):
        raise UserError(
            f"--calibrate '{held_out.folder}' holds images that the model was trained or selected on, or photographs; "
            f"expected held-out renders, as `python -m distill.synthesis --seed N` makes them."
        )
    predicted = predict_set(model, held_out)
    return fit(predicted.confidence, side_errors(predicted, held_out), held_out.fingerprint)


def sample_faces(count: int, size: int) -> Tensor:
    """(count, size, size, 3) uint8 RGB: rendered faces that come with the package."""
    return next(
        eval_batches(read_set(SAMPLE_ROOT / "synthetics_test", need_labels=False, limit=count), size, count)
    ).images


def images_to_submit(folder: Path | None, model_file: Path) -> LandmarkSet | None:
    """The test images, where a submission can be made of them; else None, and why is printed."""
    if folder is None:
        return None
    markup = markup_of(model_file, read_description(model_file))
    if not markup.fits(IBUG68):
        print(
            f"No submission is made: the model predicts {markup}; a submission has the {IBUG68.count} of {IBUG68.name}."
        )
        return None
    images = read_set(folder, need_labels=False, on_bad="skip", decode=True)
    if images.skipped:
        (name, reason), count = images.skipped[0], len(images.skipped)
        print(f"The submission leaves out {count} of {count + len(images)} images, such as '{name}': {reason}.")
    return images


def submission_tags(exported: Export, images: LandmarkSet) -> dict[str, str]:
    """Tags of a run for the submission that it keeps. images: the set that it predicts."""
    facts = {
        "images": str(len(images)),
        "set": images.folder.name,
        "sha256": submission_file.sha256(exported.submission),
    }
    return {f"submission.{key}": value for key, value in facts.items()}


def solve_student(model_file: Path, images: LandmarkSet) -> np.ndarray:
    """The points of a submission, (N, P, 2) in pixels, as `export` computes them. Raises UserError as it does."""
    check_rules(model_file)
    model, described = load_model(model_file)
    submission_file.check_points(model.markup, f"Model file '{model_file}'")
    with tempfile.TemporaryDirectory(prefix="export-") as made:
        onnx_file, _ = to_onnx(model, Path(made) / "student.onnx", described)
        return solve(onnx_file, images)


def check_rules(model_file: Path) -> None:
    """Challenge rules 3 and 4. Raises UserError for a file over 15,000,000 bytes, weights that are not float32 or not
    one student's, quantisation, an ensemble, teacher or adapter weights."""
    described = read_description(model_file)
    about = described["about"]
    if about.get("job") != "student":
        kind = f"a {about['job']}" if about.get("job") else "a model that does not name its job"
        run = about.get("run_id") or "unknown"
        raise UserError(f"'{model_file}' is {kind} (run {run}); only a student can be exported.")
    size = model_file.stat().st_size
    if size > MAX_BYTES:
        raise UserError(f"'{model_file}' has {size:,} bytes; expected at most {MAX_BYTES:,} (challenge rule 3).")
    with safe_open(str(model_file), framework="pt") as file:
        names = list(file.keys())
        kinds = {name: file.get_slice(name).get_dtype() for name in names}
    if not names:
        raise UserError(f"'{model_file}' contains no weights (challenge rule 3).")
    for name, kind in kinds.items():
        if kind != "F32":
            raise UserError(
                f"'{model_file}': tensor '{name}' is {kind}; expected float32, without quantisation (challenge rule 3)."
            )
        if not name.startswith(("backbone.", "head.")):
            raise UserError(
                f"'{model_file}': tensor '{name}' belongs to no single student (an ensemble, a teacher, an "
                f"adapter?); expected backbone and head only (challenge rule 4)."
            )


class _WithPoints(nn.Module):
    """What the ONNX graph computes: (B, S, S, 3) uint8 RGB -> points in its pixels, confidence."""

    def __init__(self, model: Landmarker):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        out = self.model(images.permute(0, 3, 1, 2).float())
        return out.points, out.confidence


def to_onnx(model: Landmarker, path: Path, described: dict) -> tuple[Path, float]:
    """Write a self-contained ONNX file and compare it with torch on rendered faces, in batches of 1, 2 and 3.

    Input `image` (B, S, S, 3) uint8 RGB; outputs `points` (B, P, 2) in pixels of that image and `confidence` (B, P).
    Returns the path and the largest coordinate difference. Raises UserError where it exceeds PARITY_PIXELS.
    Branches that only help training become one convolution (`reparameterized`), and the exporter folds batch norms.
    """
    import onnx  # only here: a training without outputs does without it
    from onnx.tools.update_model_dims import update_inputs_outputs_dims

    wrapped = _WithPoints(reparameterized(model))
    example = torch.zeros(2, model.size, model.size, 3, dtype=torch.uint8)
    traced = io.BytesIO()
    outputs = ["points", "confidence"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # by TorchScript: a sixteenth of the time of the exporter by torch.export, for a graph of the same speed
        torch.onnx.export(
            wrapped,
            (example,),
            traced,
            dynamo=False,
            input_names=["image"],
            output_names=outputs,
            dynamic_axes={name: {0: "batch"} for name in ("image", *outputs)},
        )
    points, confidence = ["batch", model.markup.count, 2], ["batch", model.markup.count]
    graph = update_inputs_outputs_dims(  # tracing loses the number of points of some heads
        onnx.load_from_string(traced.getvalue()),
        {"image": ["batch", *example.shape[1:]]},
        {"points": points, "confidence": confidence},
    )
    onnx.helper.set_model_props(graph, {"distill": json.dumps(described, sort_keys=True)})
    with atomic(path) as temporary:
        onnx.save(graph, str(temporary))
        worst = difference(model, OnnxNetwork(temporary))
        if not worst <= PARITY_PIXELS:
            raise UserError(
                f"The ONNX model differs from the student by {worst:.4f} px; expected at most {PARITY_PIXELS} px."
            )
    return path, worst


def difference(model: Landmarker, network: OnnxNetwork) -> float:
    """The largest difference of coordinates on rendered faces, pixels of the input; nan where one is nan."""
    differences = []
    for images in sample_faces(6, model.size).split([1, 2, 3]):
        with torch.no_grad():
            expected = _WithPoints(model.eval())(images)[0].numpy()
        differences.append(np.abs(network(images.numpy())[0] - expected).max())
    return float(np.max(differences))  # where the builtin max would drop a nan
