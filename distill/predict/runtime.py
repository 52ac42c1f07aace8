"""A student: a picture in, its landmarks out. From an ONNX file without torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from distill import cores
from distill.errors import UserError
from distill.files import parse_json
from distill.landmarks import IBUG68, Markup, from_dict
from distill.metrics.calibration import Calibration
from distill.predict import crops, pictures


class Landmarks(NamedTuple):
    """The points of one face."""

    points: np.ndarray  # (P, 2) float32, pixels of the picture, (0, 0) the outer corner of its top-left pixel
    confidence: np.ndarray  # (P,) float32 in 0..1


class Network(Protocol):
    """The network of a student: ONNX here, torch in distill.predict.load."""

    size: int  # side S of the crops, pixels

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(B, S, S, 3) uint8 RGB -> points (B, P, 2) float32 in pixels of S, confidence (B, P) float32 in 0..1."""
        ...


@dataclass(frozen=True)
class Student:
    """Predicts the landmarks of one face in a picture of any size: `points, confidence = student(picture)`."""

    network: Network
    label: str  # shown to people: where it came from
    about: dict[str, Any] = field(default_factory=dict)  # the model file's own description
    markup: Markup = IBUG68  # what its points are
    calibration: Calibration | None = None  # from confidences to expected errors; None: the file carries none

    def __call__(self, image: Any, box: Sequence[float] | None = None, box_scale: float = crops.BOX_SCALE) -> Landmarks:
        """Landmarks of the face in `image`: a path, an (H, W, 3) uint8 RGB array, or a PIL image.

        box: where the face is, as `x, y, width, height` in pixels; None: the whole picture is the face's crop.
        box_scale: side of the crop over the larger side of the box. See `crops.cut` for what is cut. Points are in
        pixels of the array or PIL image as it is, and of a file's upright picture; they may lie outside it.

        Raises UserError where the image cannot be read, is no such array, or the box does not fit it.
        """
        crop = crops.cut(pictures.to_rgb(image), self.network.size, box, box_scale)
        points, confidence = self.network(crop.pixels[None])
        return Landmarks(crop.to_picture(points[0]), confidence[0])

    def expected_error(self, confidence: np.ndarray) -> np.ndarray | None:
        """(P,) confidences -> (P,) expected errors in percent of the crop's side; None where the student is not
        calibrated."""
        return self.calibration.expected_error(confidence) if self.calibration else None


class OnnxNetwork:
    """The file that `python -m distill.export` writes, run by onnxruntime on the CPU.

    `size` is the side of its input, `described` the JSON that it carries.
    """

    def __init__(self, path: Path, threads: int | None = None):
        """threads: of one pass (None: OMP_NUM_THREADS, else onnxruntime's own choice). Several threads may call the
        network at once.

        Raises UserError where the file is absent, is no ONNX model, or was not exported by this package.
        """
        import onnxruntime

        if not path.is_file():
            raise UserError(f"Model file '{path}' does not exist.")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # the error is reported once, below
        options.intra_op_num_threads = cores.given() if threads is None else threads
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has an exception for every kind of failure, and no common one
            reason = str(error).strip().splitlines()[0].rstrip(".")
            raise UserError(f"Model file '{path}' is not a readable ONNX file: {reason}.") from None
        self.described = _description(path, self._session.get_modelmeta().custom_metadata_map)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        shape = inputs[0].shape
        names = [item.name for item in (*inputs, *outputs)]
        if names != ["image", "points", "confidence"] or len(shape) != 4 or not isinstance(shape[1], int):
            raise UserError(
                f"Model file '{path}' has the inputs and outputs {', '.join(names)}; expected image, points, "
                "confidence, as `python -m distill.export` writes them."
            )
        self.size: int = shape[1]
        described = self.described.get("landmarks")  # absent in files from before there was more than one set
        self.markup = from_dict(described, f"Model file '{path}'") if described else IBUG68
        if outputs[0].shape[1] != self.markup.count:
            raise UserError(
                f"Model file '{path}' gives {outputs[0].shape[1]} points, and its landmark set is "
                f"{self.markup}; expected as many."
            )

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        points, confidence = self._session.run(["points", "confidence"], {"image": np.ascontiguousarray(images)})
        return points, confidence


def load_onnx(path: str | os.PathLike, threads: int | None = None) -> Student:
    """The student of an exported ONNX file; threads and errors are those of OnnxNetwork."""
    path = Path(path)
    network = OnnxNetwork(path, threads)
    calibration = calibration_of(network.described, network.markup, path)
    return Student(network, path.stem, network.described["about"], network.markup, calibration)


def calibration_of(described: dict[str, Any], markup: Markup, path: Path) -> Calibration | None:
    """Of a model file's description. Raises UserError, which names the file, where it does not fit the points."""
    return Calibration.from_dict(described.get("calibration"), markup.count, f"Model file '{path}'")


def _description(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    described = parse_json(metadata.get("distill", "null"), f"The description in model file '{path}'")
    if not isinstance(described, dict) or not isinstance(described.get("about"), dict):
        raise UserError(
            f"Model file '{path}' carries no description of a landmarker; expected a file that "
            "`python -m distill.export` wrote."
        )
    return described
