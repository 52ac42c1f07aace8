"""distill: knowledge distillation of compact facial-landmark students, with every run kept in MLflow.

from distill import load_student

points, confidence = load_student("student.onnx")("face.jpg")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill.predict.load import load_student

__version__ = "0.1.0"
__all__ = ["__version__", "load_student"]


def __getattr__(name: str) -> Any:
    """`load_student` on first use: doors answer --help at once, and a check of the version costs nothing (PEP 562)."""
    if name == "load_student":
        from importlib import import_module

        return import_module("distill.predict.load").load_student
    raise AttributeError(f"module 'distill' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
