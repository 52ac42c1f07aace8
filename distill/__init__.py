"""distill: knowledge distillation of compact facial-landmark students, with every run kept in MLflow."""

__version__ = "0.1.0"
