"""A student by any name, for people who write Python: `from distill import load_student`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from distill.errors import UserError
from distill.predict.runtime import Student, calibration_of, load_onnx

if TYPE_CHECKING:
    from distill.models.landmarker import Landmarker

BUNDLED_ONNX = Path(__file__).resolve().parent.parent / "assets" / "student.onnx"


def load_student(
    model: str | os.PathLike = "bundled", store: str | os.PathLike = "mlruns", threads: int | None = None
) -> Student:
    """A student to call: `points, confidence = load_student("student.onnx")("face.jpg")`.

    model: 'bundled' or an .onnx file, which need neither torch nor anything else of the extra `train`; or, through
    torch, a .safetensors file, a run id or name, or models:/NAME@ALIAS. Both ways give the same points within 0.01 px
    of the network's input. store: the folder where runs are kept. threads: of an .onnx file's network, see
    `distill.predict.runtime.OnnxNetwork`. The call takes a path, an (H, W, 3) uint8 RGB array or a PIL image, and a
    face box where there is one: see `distill.predict.runtime.Student`.

    Raises UserError where the model cannot be found or read, or needs a package that is not installed.
    """
    reference = os.fspath(model)
    if reference == "bundled" and BUNDLED_ONNX.is_file():
        return replace(load_onnx(BUNDLED_ONNX, threads), label="bundled")
    if reference.lower().endswith(".onnx"):
        return load_onnx(reference, threads)
    try:
        return _load_torch(reference, store)
    except ModuleNotFoundError as error:
        if (error.name or "distill").partition(".")[0] == "distill":
            raise
        raise UserError(
            f"Model '{reference}' needs the package '{error.name}', which is not installed: `pip install "
            f"'distill[train]'`, or give the student.onnx that `python -m distill.export {reference} --out DIR` writes."
        ) from None


def _load_torch(reference: str, store: str | os.PathLike) -> Student:
    from distill.config import TrackingConfig
    from distill.models.references import resolve_model

    found = resolve_model(reference, TrackingConfig(store=str(Path(store))))
    from distill.models.files import load_model

    model, described = load_model(found.path)
    calibration = calibration_of(described, model.markup, found.path)
    return Student(TorchNetwork(model), found.label, described["about"], model.markup, calibration)


class TorchNetwork:
    """A Landmarker as a `distill.predict.runtime.Network`, in eval mode, on the device where it is."""

    def __init__(self, model: Landmarker):
        self.model, self.size = model.eval(), model.size

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        import torch

        device = next(self.model.parameters()).device
        with torch.inference_mode():
            planes = torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2).float()
            out = self.model(planes)
        return out.points.float().cpu().numpy(), out.confidence.float().cpu().numpy()
