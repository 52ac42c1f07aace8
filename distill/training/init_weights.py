"""Weights from one model into another of the same architecture."""

from __future__ import annotations

from dataclasses import replace

from distill import config as configs
from distill.config import Config, ModelConfig
from distill.errors import UserError
from distill.models.files import load_model, weights
from distill.models.landmarker import Landmarker
from distill.models.references import ModelReference

# What may change the shapes of a model's weights, the likeliest first. Where no shape differs these may: a
# convolutional model takes weights that were trained at another input size.
SHAPING = (
    "backbone head.kind head.width backbone_args head.stride head.upsample head.norm head.bins head.margin input_size"
).split()


def start_from(model: Landmarker, reference: ModelReference, part: str = "all") -> str:
    """Fill `model`, or its `backbone` alone, with the weights of a file; returns the run that made them ("": unknown).

    part: all or backbone. Raises UserError where the file's architecture (of that part) is another one.
    """
    source, described = load_model(reference.path)
    if different := difference(source, model, part):
        key, found, expected = different
        raise UserError(
            f"init: {reference.label} has {key} {found}, and this config has {expected}; expected "
            "the same architecture."
        )
    given = {name: tensor for name, tensor in weights(source).items() if _belongs(name, part)}
    model.load_state_dict(given, strict=False)  # files do not keep batch counters
    return reference.run_id or str(described["about"].get("run_id", ""))


def difference(a: Landmarker, b: Landmarker, part: str = "all") -> tuple[str, str, str] | None:
    """The first thing in which two architectures (or their backbones) differ, and what it is in each; None: weights of
    one fit the other.
    """
    if part == "all" and not a.markup.fits(b.markup):
        return "data.landmarks", str(a.markup), str(b.markup)
    was, now = _shaping(a.config), _shaping(b.config)
    keys = [key for key in was if part == "all" or ".head." not in key]
    changed = next(((key, str(was[key]), str(now[key])) for key in keys if was[key] != now[key]), None)
    ours, theirs = (
        {name: tuple(tensor.shape) for name, tensor in weights(model).items() if _belongs(name, part)}
        for model in (a, b)
    )
    if ours == theirs and was["model.backbone"] == now["model.backbone"]:
        return None
    if changed:
        return changed
    name = next(name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name))
    return f"tensor {name}", f"{ours.get(name, 'missing')}", f"{theirs.get(name, 'missing')}"


def _belongs(name: str, part: str) -> bool:
    return part == "all" or name.startswith(f"{part}.")


def _shaping(model: ModelConfig) -> dict[str, object]:
    """Dotted key -> value of what shapes a model; a backbone's name without the tag of its pretrained weights."""
    bare = replace(model, backbone=model.backbone.split(".")[0])
    values = configs.flatten(replace(Config(), model=bare))
    args = {"model.backbone_args": bare.backbone_args}
    return {f"model.{key}": (values | args)[f"model.{key}"] for key in SHAPING}
