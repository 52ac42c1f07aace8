"""distill: knowledge distillation of compact facial-landmark students, with every run kept in MLflow.

from distill import load_student

points, confidence = load_student("student.onnx")("face.jpg")
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill.predict.load import load_student

# Libraries that report their use to their makers, or look for updates, do so only where the user switches it on; the
# switches are read when the libraries are imported. (onnxruntime: `disable_telemetry_events()` does not stop it, seen
# with 1.32.)
for _switch in (
    "DO_NOT_TRACK",
    "HF_HUB_DISABLE_TELEMETRY",
    "MLFLOW_DISABLE_TELEMETRY",
    "NO_ALBUMENTATIONS_UPDATE",
    "ORT_DISABLE_TELEMETRY",
):
    os.environ.setdefault(_switch, "1")

__version__ = "0.1.0"
__all__ = ["__version__", "load_student"]


def __getattr__(name: str) -> Any:
    """`load_student` on first use: --help and a check of the version stay quick (PEP 562)."""
    if name == "load_student":
        from importlib import import_module

        return import_module("distill.predict.load").load_student
    raise AttributeError(f"module 'distill' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
