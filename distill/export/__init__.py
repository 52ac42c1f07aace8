"""The student file under 15 MB, its ONNX form, its MLflow model and model card."""
