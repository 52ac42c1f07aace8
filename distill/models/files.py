"""The one model file: float32 safetensors that carry what is needed to rebuild the model.

The metadata holds `distill` = JSON with the format's version, the model's config, its landmark set, and facts of the
run. Files without a landmark set, from before there was more than one, have iBUG's 68 points. Nothing in the file is
executed on loading.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from distill.config import ModelConfig, model_from_dict
from distill.errors import UserError
from distill.files import atomic, parse_json
from distill.landmarks import IBUG68, Markup, from_dict
from distill.models.landmarker import Landmarker, skeleton

FORMAT = 1
MAX_BYTES = 15_000_000  # challenge rule 3


def weights(model: Landmarker) -> dict[str, Tensor]:
    """The float32 tensors of a model, on the CPU. Batch counters (int64) are dropped: they only matter while
    training."""
    return {
        name: tensor.detach().to("cpu").contiguous()
        for name, tensor in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def weights_fingerprint(model: Landmarker) -> str:
    """16 hex digits over a model's configuration, landmark set and weights."""
    about = [
        asdict(replace(model.config, pretrained=False, checkpoint="", allow_partial=False)),
        model.markup.to_dict(),
    ]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, tensor in weights(model).items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()[:16]


def predicted_bytes(model: Landmarker) -> int:
    """Size of the file that `save_model` would write, known before training: 4 bytes a value and the header."""
    tensors = weights(model)
    header = sum(len(name) + 90 for name in tensors) + 4000 + 2 * len(json.dumps(model.markup.to_dict()))
    return 4 * sum(t.numel() for t in tensors.values()) + header


def check_budget(model: Landmarker) -> int:
    """Predicted bytes. Raises UserError when the float32 file would break the challenge's 15,000,000 bytes."""
    size = predicted_bytes(model)
    if size > MAX_BYTES:
        raise UserError(
            f"model.backbone '{model.config.backbone}' with this head makes a float32 file of {size:,} bytes; a "
            f"student may have at most {MAX_BYTES:,}. Take a smaller backbone or model.head.width."
        )
    return size


def save_model(model: Landmarker, path: Path, about: dict[str, Any]) -> int:
    """Write the file atomically and return its size in bytes. `about`: JSON-able facts (role, run id, val/nme,
    data)."""
    described = {
        "format": FORMAT,
        "model": asdict(model.config) | {"pretrained": False, "checkpoint": "", "allow_partial": False},
        "num_points": model.num_points,
        "landmarks": model.markup.to_dict(),
        "about": about,
    }
    data = save(weights(model), metadata={"distill": json.dumps(described, sort_keys=True)})
    with atomic(path) as temporary:
        temporary.write_bytes(data)
    return len(data)


def rewrite(source: Path, target: Path, described: dict[str, Any]) -> None:
    """Write the tensors of a model file, unchanged, with another description. Atomic; the two may be one path."""
    with safe_open(str(source), framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    data = save(tensors, metadata={"distill": json.dumps(described, sort_keys=True)})
    with atomic(target) as temporary:
        temporary.write_bytes(data)


def read_description(path: Path) -> dict[str, Any]:
    """The JSON that the file carries. Raises UserError where it is not a model file of this package."""
    try:
        with safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get("distill")
    except FileNotFoundError:
        raise UserError(f"Model file '{path}' does not exist.") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"Model file '{path}' is not a readable safetensors file: {error}.") from None
    if text is None:
        raise UserError(f"Model file '{path}' carries no description of a landmarker in its metadata.")
    described = parse_json(text, f"The description in model file '{path}'")
    found = described.get("format") if isinstance(described, dict) else None
    if found != FORMAT:
        raise UserError(f"Model file '{path}' has format {found}; this version reads format {FORMAT}.")
    for key, kind in (("model", dict), ("num_points", int), ("about", dict)):
        if type(described.get(key)) is not kind:
            raise UserError(f"Model file '{path}': its description has no '{key}' of type {kind.__name__}.")
    return described


def markup_of(path: Path, described: dict[str, Any]) -> Markup:
    """The landmark set of a model file. Raises UserError where the description does not hold together."""
    markup = from_dict(described["landmarks"], f"Model file '{path}'") if "landmarks" in described else IBUG68
    if markup.count != described["num_points"]:
        raise UserError(
            f"Model file '{path}' describes {described['num_points']} points and the landmark set {markup}; expected "
            f"as many."
        )
    return markup


def load_model(path: Path) -> tuple[Landmarker, dict[str, Any]]:
    """Rebuild a model in eval mode, with the description it carries. Raises UserError naming what does not fit."""
    described = read_description(path)
    config: ModelConfig = model_from_dict(described["model"], f"model file '{path}'")
    model = skeleton(config, markup_of(path, described))
    with safe_open(str(path), framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    expected = weights(model)
    missing, unknown = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or unknown:
        lacks, extra = (f" ({names[0]}, ...)" if names else "" for names in (missing, unknown))
        raise UserError(
            f"Model file '{path}' does not fit its own description: {len(missing)} tensors are missing{lacks}, "
            f"{len(unknown)} unknown{extra}."
        )
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32 or tensor.shape != expected[name].shape:
            raise UserError(
                f"Model file '{path}': tensor '{name}' is {tensor.dtype} {tuple(tensor.shape)}; expected float32 "
                f"{tuple(expected[name].shape)}."
            )
    model.load_state_dict(tensors, strict=False)
    return model.eval(), described
