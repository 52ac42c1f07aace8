"""A student as an MLflow model: what `mlflow models predict` and `mlflow.pyfunc.load_model` open without knowing of us."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# What the model needs wherever it is served; MLflow builds an environment from these lines. Its pyfunc imports pandas, though
# no table goes in or out; `onnx` is needed to write the model only.
REQUIREMENTS = ["mlflow-skinny>=3.6", "numpy>=2.0", "onnxruntime>=1.22", "pandas>=2.2"]


def write_mlflow_model(
    onnx_file: Path, folder: Path, example: Callable[[int], np.ndarray], metadata: dict[str, Any]
) -> None:
    """Put the files of MLflow's ONNX flavour into `folder`, beside what is there.

    onnx_file: as jobs.exporting writes it: `image` (B, S, S, 3) uint8 RGB -> `points` (B, P, 2) float32 in pixels of that
    image, `confidence` (B, P) float32. example: from the side S to images (B, S, S, 3) uint8, kept with the
    model as its input example. metadata: JSON-able facts. Raises what MLflow or onnx raise where the file is none of theirs.
    """
    import mlflow.onnx
    import onnx
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    model = onnx.load(onnx_file)
    side = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    points = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    signature = ModelSignature(
        Schema([TensorSpec(np.dtype("uint8"), (-1, side, side, 3), "image")]),
        Schema([
            TensorSpec(np.dtype("float32"), (-1, points, 2), "points"),
            TensorSpec(np.dtype("float32"), (-1, points), "confidence"),
        ]),
    )  # fmt: skip
    quiet = logging.getLogger("mlflow")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory(prefix=".mlflow-", dir=folder) as made:
            mlflow.onnx.save_model(
                model, f"{made}/model", signature=signature, input_example={"image": example(side)}, metadata=metadata,
                pip_requirements=REQUIREMENTS, onnx_execution_providers=["CPUExecutionProvider"],
                save_as_external_data=False,
            )  # fmt: skip
            for file in sorted(Path(made, "model").iterdir()):
                shutil.move(file, folder / file.name)
    finally:
        quiet.setLevel(level)
