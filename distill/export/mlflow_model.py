"""A student's model folder, as people who know MLflow expect it: beside the weights an MLflow model and the model card.

`mlflow models predict` and `mlflow.pyfunc.load_model` open it without this package.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from distill.export.job import sample_faces
from distill.files import write_text

CARD = "README.md"

# What the model needs wherever it is served; MLflow builds an environment from these lines. Its pyfunc imports pandas,
# though no table goes in or out; `onnx` is needed to write the model only.
REQUIREMENTS = ["mlflow-skinny>=3.6", "numpy>=2.0", "onnxruntime>=1.22", "pandas>=2.2"]


def pack(onnx_file: Path, folder: Path, card: str, metadata: dict[str, Any]) -> list[Path]:
    """Add to `folder` the files of MLflow's ONNX flavour, with a rendered face as input example, and the card.

    onnx_file: as distill.export writes it: `image` (B, S, S, 3) uint8 RGB -> `points` (B, P, 2) float32 in pixels of
    that image, `confidence` (B, P) float32. metadata: JSON-able facts, kept in the file `MLmodel`. Returns the folder's
    files. Raises what MLflow or onnx raise where the file is none of theirs.
    """
    import mlflow.onnx
    import onnx
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    model = onnx.load(onnx_file)
    side = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    points = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    outputs = [
        TensorSpec(np.dtype("float32"), (-1, points, 2), "points"),
        TensorSpec(np.dtype("float32"), (-1, points), "confidence"),
    ]
    inputs = [TensorSpec(np.dtype("uint8"), (-1, side, side, 3), "image")]
    quiet = logging.getLogger("mlflow")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory(prefix=".mlflow-", dir=folder) as made:
            mlflow.onnx.save_model(
                model,
                f"{made}/model",
                signature=ModelSignature(Schema(inputs), Schema(outputs)),
                input_example={"image": sample_faces(1, side).numpy()},
                metadata=metadata,
                pip_requirements=REQUIREMENTS,
                onnx_execution_providers=["CPUExecutionProvider"],
                save_as_external_data=False,
            )
            for file in sorted(Path(made, "model").iterdir()):
                shutil.move(file, folder / file.name)
    finally:
        quiet.setLevel(level)
    write_text(folder / CARD, card)
    return sorted(file for file in folder.iterdir() if file.is_file())
