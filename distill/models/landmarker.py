"""The model: timm backbone + head -> points and confidences. The only owner of timm."""

from __future__ import annotations

import copy
import difflib
import functools
import json
import warnings
from dataclasses import replace
from pathlib import Path

import timm
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.utils import reparameterize_model
from torch import Tensor, nn
from torch.nn import functional as F

from distill.config import ModelConfig
from distill.errors import UserError
from distill.landmarks import IBUG68, Markup
from distill.models.heads import HEADS, Level, Prediction


class Landmarker(nn.Module):
    """Any timm backbone with `features_only` and a landmark head.

    Takes (B, 3, S, S) float images with values 0..255 and normalises them itself, so that each model is fed in its own
    way and an exported file needs no recipe beside it.
    """

    def __init__(self, config: ModelConfig, markup: Markup = IBUG68):
        """Raises UserError for an unknown backbone, one that cannot take the input size, or absent
        weights."""
        super().__init__()
        self.config, self.markup, self.num_points = config, markup, markup.count
        self.size = config.input_size
        self.backbone, features = _build_backbone(config)
        described = timm.get_pretrained_cfg(config.backbone)
        mean, std = (described.mean, described.std) if described else (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        self.register_buffer("mean", 255.0 * torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255.0 * torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.channels_last_features = "NHWC" in str(getattr(self.backbone, "output_fmt", ""))
        strides = self.backbone.feature_info.reduction()
        self.levels = tuple(
            Level(f.shape[1], f.shape[-1], stride)
            for f, stride in zip(self._channels_first(features), strides, strict=True)
        )
        head = HEADS[config.head.kind]
        self.codec = head.make_codec(self.size, config.head)
        self.head = head(self.levels, self.size, self.num_points, config.head, self.codec)

    def forward_features(self, images: Tensor) -> list[Tensor]:
        """(B, 3, S, S) values 0..255 -> features (B, C, h, w), fine to coarse."""
        return self._channels_first(self.backbone((images - self.mean) / self.std))

    def _channels_first(self, features: list[Tensor]) -> list[Tensor]:
        return [f.permute(0, 3, 1, 2) for f in features] if self.channels_last_features else features

    def forward(self, images: Tensor) -> Prediction:
        """(B, 3, S, S) values 0..255."""
        out = self.head(self.forward_features(images))
        # coordinates want more digits than half precision has; with autocast off this changes nothing
        with torch.autocast(images.device.type, enabled=False):
            return self.head.predict(out.float(), self.size, self.codec)

    def representable(self, points: Tensor) -> Tensor:
        """(B, P, 2) fractions of the side -> (B, P): 1 where the head can place the point, else 0."""
        if self.codec is None:
            return torch.ones_like(points[..., 0])
        return self.codec.representable(points * self.size).float()

    def check_cells(self) -> None:
        """Raises UserError where a heatmap's cells would not lie over the features that they are made from. Models
        like that can be read, for some exist; training one is refused."""
        size, head = self.size, self.config.head
        if head.kind != "heatmap":
            return
        finest = self.levels[self.head.pyramid.levels[0]]
        for cell, what in (
            (head.stride, "model.head.stride"),
            (finest.stride, f"the stride of {self.config.backbone},"),
        ):
            # convolutions pad a last cell that is not whole, patches leave it out
            if size % cell and (cell == head.stride or finest.side * cell < size):
                low = size // cell * cell
                raise UserError(
                    f"model.input_size {size} is no multiple of {what} {cell}, so heatmaps would be out of scale with "
                    f"the picture; expected for instance {low} or {low + cell}."
                )

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that the backbone's authors exempt from weight decay, such as position embeddings."""
        exempt = _exempt_in_timm(self.config.backbone, json.dumps(self.config.backbone_args), self.config.input_size)
        names = (name for name, _ in self.backbone.named_parameters())
        return {f"backbone.{name}" for name in names if _flat(name.removeprefix("model.")) in exempt}


def to_input(images: Tensor, size: int) -> Tensor:
    """(B, s, s, 3) uint8 -> (B, 3, size, size) float 0..255, in channels_last memory; antialiased where it shrinks."""
    planes = images.permute(0, 3, 1, 2).float()
    if planes.shape[-1] != size:
        planes = F.interpolate(planes, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return planes


def reparameterized(model: Landmarker) -> Landmarker:
    """A copy in eval mode whose branches that only help training are one convolution each: RepVGG
    (https://arxiv.org/abs/2101.03697), MobileOne, FastViT, RepViT, RepGhost. Same points, to rounding error."""
    return reparameterize_model(copy.deepcopy(model).eval(), inplace=True)


def skeleton(config: ModelConfig, markup: Markup = IBUG68) -> Landmarker:
    """The architecture without its pretrained weights, to load a model file into or to count parameters."""
    return Landmarker(replace(config, pretrained=False, checkpoint=""), markup)


def _build_backbone(config: ModelConfig) -> tuple[nn.Module, list[Tensor]]:
    """The timm backbone, in training mode, with its weights where the config names some, and its features of a blank
    image, fine to coarse."""
    name = config.backbone
    if not timm.is_model(name):
        close = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=3)
        hint = f" Close names: {', '.join(close)}." if close else ""
        raise UserError(f"model.backbone '{name}' is not a timm {timm.__version__} model.{hint}")
    if config.checkpoint and not Path(config.checkpoint).is_file():
        raise UserError(f"model.checkpoint '{config.checkpoint}' does not exist; expected a weights file of {name}.")
    problem: Exception | None = None
    # some families (ViT, Swin, Hiera) are built for one size and take another as an argument; the rest refuse it
    for size_argument in ({}, {"img_size": config.input_size}):
        start = torch.get_rng_state()
        try:
            backbone, features = _created(config, size_argument)
        except Exception as error:  # timm and the hub raise many kinds; the user needs one sentence
            problem = problem or error
            if config.pretrained and _is_download_error(error):
                raise UserError(
                    f"Pretrained weights of '{name}' could not be fetched ({type(error).__name__}). Without a network, "
                    f"download them elsewhere and set model.pretrained=false model.checkpoint=FILE, or train from "
                    f"scratch with model.pretrained=false."
                ) from None
            continue
        if config.checkpoint:
            _check_filled(backbone, start, config, size_argument)
        return backbone, features
    raise _not_built(config, problem)


def _created(config: ModelConfig, size_argument: dict[str, int]) -> tuple[nn.Module, list[Tensor]]:
    """The backbone, tried out on a blank image of the model's size: its features."""
    arguments = config.backbone_args | size_argument
    if config.checkpoint:
        arguments["pretrained_cfg_overlay"] = {"file": config.checkpoint}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        backbone = timm.create_model(
            config.backbone, features_only=True, pretrained=config.pretrained or bool(config.checkpoint), **arguments
        )
        training = backbone.training
        with torch.no_grad():
            features = backbone.eval()(torch.zeros(1, 3, config.input_size, config.input_size))
    return backbone.train(training), features


def _not_built(config: ModelConfig, problem: Exception) -> UserError:
    """The error for a backbone that timm refused to build: its weights are to blame where it can be built without
    them."""
    kind = type(problem).__name__
    reason = " ".join(str(problem).split()) or kind
    reason = reason.rstrip(".") if len(reason) <= 200 else reason[:200] + "..."
    if config.pretrained or config.checkpoint:
        _build_backbone(replace(config, pretrained=False, checkpoint=""))
        source = f"model.checkpoint '{config.checkpoint}'" if config.checkpoint else "Pretrained weights"
        return UserError(f"{source} cannot be loaded into {config.backbone} ({kind}: {reason}).")
    return UserError(
        f"model.backbone '{config.backbone}' cannot be built for model.input_size {config.input_size} with "
        f"backbone_args {config.backbone_args}: {reason}."
    )


@functools.lru_cache  # built once where a grid or a study trains one network again and again
def _exempt_in_timm(backbone: str, arguments: str, size: int) -> frozenset[str]:
    """`no_weight_decay()` of the whole timm model, which its feature extractor does not pass on, in names made `_flat`.

    Built without memory. arguments: of timm, as JSON; size: side of the input.
    """
    for size_argument in ({}, {"img_size": size}):  # as in _build_backbone
        try:
            with torch.device("meta"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = timm.create_model(backbone.split(".")[0], **json.loads(arguments), **size_argument)
            return frozenset(map(_flat, model.no_weight_decay())) if hasattr(model, "no_weight_decay") else frozenset()
        except Exception:  # arguments that only a feature extractor takes, or a model that computes while it is built
            continue
    return frozenset()


def _flat(name: str) -> str:
    """A parameter's name, the same where a feature extractor has joined two levels (layers.0 as layers_0)."""
    return name.replace(".", "_")


def _check_filled(backbone: nn.Module, start: Tensor, config: ModelConfig, size_argument: dict[str, int]) -> None:
    """Refuse a checkpoint that left weights as they were drawn: timm passes over names that a file does not hold.

    start: state of torch's generator before the backbone was built; what the same state draws again was not replaced.
    """
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(start)
        drawn = timm.create_model(config.backbone, features_only=True, **config.backbone_args, **size_argument)
    drawn = {name: p for name, p in drawn.named_parameters() if p.min() < p.max()}  # a constant may be a trained value
    random = [name for name, p in backbone.named_parameters() if name in drawn and torch.equal(p, drawn[name])]
    if not random:
        return
    count = f"{len(drawn) - len(random)} of the {len(drawn)} weight tensors of {config.backbone}"
    if config.allow_partial and len(random) <= len(drawn) / 2:
        print(f"model.checkpoint '{config.checkpoint}' holds {count}; {', '.join(random)} begin at random.", flush=True)
        return
    hint = "" if len(random) > len(drawn) / 2 else ", or model.allow_partial=true to begin the others at random"
    raise UserError(
        f"model.checkpoint '{config.checkpoint}' holds {count} and not {random[0]}; expected a weights file of that "
        f"very model{hint}."
    )


def _is_download_error(error: Exception) -> bool:
    names = {t.__name__ for t in type(error).__mro__}
    return bool(
        names & {"LocalEntryNotFoundError", "HfHubHTTPError", "ConnectionError", "URLError", "OfflineModeIsEnabled"}
    )
