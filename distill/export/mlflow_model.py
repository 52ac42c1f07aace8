"""A student's model folder, as people who know MLflow expect it: beside the weights an MLflow model and the card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distill.export.job import sample_faces
from distill.files import write_text
from distill.tracking.packaging import write_mlflow_model

CARD = "README.md"


def pack(onnx_file: Path, folder: Path, card: str, metadata: dict[str, Any]) -> list[Path]:
    """Add to `folder` what `mlflow.pyfunc.load_model` opens, with a rendered face as its input example, and the card.

    onnx_file: of jobs.exporting. Returns the folder's files.
    """
    write_mlflow_model(onnx_file, folder, lambda side: sample_faces(1, side).numpy(), metadata)
    write_text(folder / CARD, card)
    return sorted(file for file in folder.iterdir() if file.is_file())
