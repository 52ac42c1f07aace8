"""A small student that never trained but says something, as both files that people hand around."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """An exporting.Export of a 64 px student: peaked heatmaps, batch statistics of drawn faces."""
    import torch
    from conftest import draw_face

    from distill.config import HeadConfig, ModelConfig
    from distill.export import job as exporting
    from distill.models.files import save_model
    from distill.models.landmarker import Landmarker, to_input

    torch.manual_seed(0)
    rng = np.random.default_rng(3)
    faces = to_input(torch.from_numpy(np.stack([draw_face(rng, 64)[0] for _ in range(8)])), 64)
    model = Landmarker(ModelConfig(backbone="lcnet_050", input_size=64, head=HeadConfig(kind="heatmap", width=16)))
    with torch.no_grad():
        model.train()(faces)
        model.head.out.weight.mul_(3 / model.eval()(faces).logits.std())
    folder = tmp_path_factory.mktemp("exported")
    save_model(model, folder / "given.safetensors", {"job": "student", "role": "distilled", "val/nme": 3.3})
    return exporting.export(folder / "given.safetensors", folder / "out", None)
