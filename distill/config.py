"""One frozen, checked object says everything about a run.

A YAML file (which may name another as its `base:`) plus `key=value` overrides becomes a `Config`. Unknown keys, wrong
types and impossible values are refused here, before any data is read and before torch is imported; below this line
nobody looks keys up by name. Dotted keys (`train.lr`, `distill.terms.kl.weight`) are the same in files, on the command
line, in MLflow's parameters, in ablation grids and in search spaces.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import os
import re
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal  # noqa: UP035 - OmegaConf reads these annotations

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from distill.errors import UserError
from distill.landmarks import REGIONS

# ---------------------------------------------------------------------------------------------------- the fields


@dataclass(frozen=True)
class DataConfig:
    root: str = ""  # folder that holds the sets; empty: $DISTILL_DATA, else the bundled sample
    train: str = "synthetics_train"  # training set, a folder under root
    val: str = "auto"  # validation set; auto: aflw_val, else synthetics_val
    test: str = "auto"  # unlabelled test set; auto: aflw_test, else synthetics_test, else none
    size: int = 0  # side in pixels that samples are warped to; 0: the larger input of student and teacher
    on_bad: Literal["stop", "skip"] = "stop"  # a broken training image stops the run, or is skipped and counted
    limit: int = 0  # use only this many training images, evenly spread; 0: all
    cache: str = ""  # folder for a memory-mapped cache of decoded images; empty: none
    cache_size: int = 0  # side of the cached images; 0: as they are (all must then have one size)
    workers: int = 1  # loader processes; 0: load in the training process
    crop_scale: float = 1.9  # Microsoft layout only: side of the crop over the larger side of the landmarks' box
    crop_lift: float = 0.08  # Microsoft layout only: the crop's centre lies this far (of its side) above the box's


@dataclass(frozen=True)
class StepConfig:
    """One albumentations transform: `name` is its class, `args` its arguments."""

    name: str = ""
    p: float = 0.5
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AugmentConfig:
    flip: float = 0.5  # probability of a mirror image
    rotate: float = 30.0  # usual in-plane rotation, uniform in +- degrees
    rotate_wide: float = 0.0  # rare wide rotation, uniform in +- degrees
    rotate_wide_p: float = 0.0  # ... drawn instead of the usual one with this probability
    scale: float = 0.15  # log-uniform in [1/(1+s), 1+s]
    shift: float = 0.05  # uniform in +- this fraction of the side, each axis
    shear: float = 0.0  # uniform in +- degrees, each axis
    perspective: float = 0.0  # corners move by up to this fraction of the side
    pad_p: float = 0.0  # probability of black padding on one or more sides
    pad: float = 0.25  # up to this fraction of the side is blackened
    photometric: dict[str, StepConfig] = field(default_factory=dict)  # albumentations steps, in this order


@dataclass(frozen=True)
class HeadConfig:
    kind: Literal["heatmap", "simcc", "regression"] = "heatmap"
    width: int = 64  # channels of the head
    stride: int = 4  # heatmap: input pixels per heatmap cell
    bins: float = 2.0  # simcc: bins per input pixel
    margin: float = 0.125  # heatmap, simcc: the grid reaches this fraction of the side beyond the frame
    sigma: float = 0.02  # heatmap, simcc: standard deviation of the target, as a fraction of the side
    upsample: Literal["deconv", "pyramid"] = "pyramid"  # heatmap: transposed convolutions, or fuse all levels
    decode: Literal["softargmax", "dark"] = "softargmax"  # sub-pixel decoding
    norm: Literal["batch", "group"] = "batch"


@dataclass(frozen=True)
class ModelConfig:
    backbone: str = "mobilenetv3_small_100"  # any timm model with features_only
    backbone_args: dict[str, Any] = field(default_factory=dict)  # further arguments of timm.create_model
    pretrained: bool = False  # fetch the backbone's weights (needs a network)
    checkpoint: str = ""  # or take them from this local file
    input_size: int = 128  # side of the square input, pixels
    head: HeadConfig = field(default_factory=HeadConfig)


@dataclass(frozen=True)
class LossConfig:
    """Supervised terms against the labels; every model learns from these."""

    coordinate: Literal["l1", "smooth_l1", "wing", "nme"] = "l1"
    coordinate_weight: float = 1.0
    heatmap: Literal["cross_entropy", "mse"] = "cross_entropy"
    heatmap_weight: float = 1.0
    region_weights: dict[str, float] = field(default_factory=dict)  # e.g. {jaw: 1.5}; regions not named weigh 1


@dataclass(frozen=True)
class TermConfig:
    """One distillation term: `weight(t) * loss(student, teacher)`, with t the fraction of training done."""

    loss: str = ""  # a name in distill.methods.METHODS; sizes of their raw values: distill/losses/__init__.py
    weight: float = 1.0
    schedule: Literal["constant", "linear", "cosine", "warmup"] = "constant"  # to `final` x weight; warmup: from 0
    final: float = 0.0  # linear, cosine: the weight at the end, as a fraction of `weight`
    warmup: float = 0.1  # warmup: fraction of training over which the weight grows
    student: str = ""  # feature terms: a tap, "level:2" (timm feature level) or a module path; for some several
    teacher: str = ""
    args: dict[str, Any] = field(default_factory=dict)  # the loss's own parameters, e.g. {temperature: 2}


@dataclass(frozen=True)
class DistillConfig:
    terms: dict[str, TermConfig] = field(default_factory=dict)  # none: the control, no teacher is loaded
    # grad_norm: scale each term so that its gradient in the backbone is `weight` times that of the labels' terms
    balance: Literal["none", "grad_norm"] = "none"
    balance_every: int = 50  # measure those gradients every N steps


@dataclass(frozen=True)
class TrainConfig:
    epochs: int = 30
    batch_size: int = 32  # global: over all processes and before accumulation is split off
    accumulate: int = 1  # split each batch into this many passes
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 2e-3
    min_lr: float = 1e-5
    weight_decay: float = 0.02
    warmup_epochs: float = 1.0
    clip: float = 1.0  # largest gradient norm; 0: no clipping
    ema: float = 0.999  # decay of the weight average that is evaluated and kept; 0: none
    freeze: list[str] = field(default_factory=list)  # module paths of the model that do not train, e.g. [backbone]
    snapshots: int = 0  # keep the validated weights of the last N epochs, for weight averaging
    patience: int = 0  # stop after this many epochs without a better val/nme; 0: never
    amp: Literal["auto", "off", "bf16"] = "auto"  # auto: bf16 where the device has it natively
    channels_last: bool = True
    compile: bool = False  # torch.compile: slower to start, faster per step; needs a C++ compiler
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 0  # CPU threads; 0: torch's choice
    checkpoint_seconds: float = 300.0  # also save inside an epoch, this often; 0: only at its end
    val_every: int = 1  # validate every N epochs (and always at the last)


@dataclass(frozen=True)
class TrackingConfig:
    uri: str = ""  # empty: $MLFLOW_TRACKING_URI, else sqlite under `store`
    store: str = "mlruns"  # local folder: database, artifacts, checkpoints, offline spool
    experiment: str = "distill"
    run_name: str = ""  # empty: made from name, backbone and seed
    tags: dict[str, str] = field(default_factory=dict)
    register: bool = True  # enter the finished model in the model registry
    outputs: Literal["full", "light"] = "full"  # light: metrics, model and report; no pictures, ONNX or submission


@dataclass(frozen=True)
class Config:
    name: str = "student"  # short name of the recipe; part of the run's name
    seed: int = 0
    teacher: str = ""  # run id, models:/NAME@ALIAS, or file; empty: the newest teacher of this data
    init: str = ""  # start from the weights of this run id, models:/NAME@ALIAS, or file (of the same architecture)
    resume: str = ""  # run id to continue, or "last"
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


SUPERVISED_TERMS = ("coordinate", "heatmap", "expected_error")  # logged beside the distillation terms, by these names

# ---------------------------------------------------------------------------------------------------- reading


def load(path: str | os.PathLike, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Read an experiment file, apply `key=value` overrides, check everything.

    Raises UserError (one sentence) for a missing or malformed file, an unknown key, a wrong type, an impossible value.
    """
    raw = _read(Path(path), seen=())
    for item in overrides:
        key, eq, text = item.partition("=")
        if not eq or not key.strip():
            raise UserError(f"Override '{item}' is not of the form key=value, for instance train.lr=0.001.")
        try:
            value = yaml.load(text, _Loader) if text else ""
        except yaml.YAMLError:
            raise UserError(f"Override '{item}': the value is not valid YAML.") from None
        try:
            OmegaConf.update(raw, key.strip(), value, merge=False, force_add=True)
        except Exception:  # OmegaConf raises many kinds here; all mean that the path runs through a plain value
            raise UserError(f"Override '{item}': '{key}' does not name a config field.") from None
    return _structure(raw, str(path))


def from_dict(values: dict, source: str = "the stored config") -> Config:
    """Rebuild a Config from `to_dict` (a checkpoint's, a run's). Raises UserError as `load` does."""
    return _structure(_create(values, source), source)


def model_from_dict(values: dict, source: str) -> ModelConfig:
    """Rebuild a ModelConfig that a model file carries. Raises UserError as `load` does."""
    return from_dict({"model": values}, source).model


def to_dict(config: Config) -> dict[str, Any]:
    """Plain nested dict: JSON-, YAML- and torch.load(weights_only)-safe."""
    return dataclasses.asdict(config)


def to_yaml(config: Config) -> str:
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def flatten(config: Config) -> dict[str, Any]:
    """Dotted key -> leaf value, the form of MLflow parameters."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), inner)
        else:
            flat[prefix] = value

    walk("", to_dict(config))
    return flat


def computing(config: Config) -> Config:
    """The config less its name and what says where and how it runs: two that compute the same are equal after this."""
    return dataclasses.replace(
        config,
        name="",
        teacher=config.teacher if config.distill.terms else "",
        resume="",
        data=dataclasses.replace(config.data, root="", test="auto", cache="", workers=0),
        train=dataclasses.replace(config.train, device="auto", threads=0, checkpoint_seconds=0.0),
        tracking=TrackingConfig(),
    )


def digest(config: Config) -> str:
    """16 hex digits that identify what the config computes (not where it is stored or from where it resumes).

    Only what differs from the defaults counts, so a field that a later version adds leaves the digests of older runs as
    they were. Keys stay in their order: that of the photometric steps matters.
    """
    return hashlib.sha256(json.dumps(set_values(computing(config))).encode()).hexdigest()[:16]


def set_values(value: Any) -> Any:
    """A config, or a section or entry of one, as plain values, without the fields that have their default."""
    if dataclasses.is_dataclass(value):
        default = type(value)()
        names = [f.name for f in dataclasses.fields(value) if getattr(value, f.name) != getattr(default, f.name)]
        return {name: set_values(getattr(value, name)) for name in names}
    if isinstance(value, dict):
        return {key: set_values(inner) for key, inner in value.items()}
    return value


def to_recipe(config: Config) -> str:
    """A short experiment file that computes the same wherever it is put: what differs from the defaults, and nothing of
    where and how it runs (places, store, threads, the run that it resumes). A teacher is not named either: give `teacher=`."""
    bare = computing(config)
    train = dataclasses.replace(bare.train, checkpoint_seconds=TrainConfig().checkpoint_seconds)
    data = dataclasses.replace(bare.data, workers=DataConfig().workers)
    values = set_values(dataclasses.replace(bare, teacher="", data=data, train=train))
    return yaml.safe_dump(values | {"name": config.name}, sort_keys=False)


def flow(value: Any) -> str:
    """A value as one line of YAML, such as an override takes."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False)
    return text.removesuffix("...\n").strip()


class _Loader(yaml.SafeLoader):
    """YAML that does not guess: `off`, `no`, `on` and `yes` are words, 0123456 is a run id and not octal, and a key that
    stands twice is an error."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(problem="a key is no plain word", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(problem=f"'{key.value}' twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern) for tag, pattern in resolvers if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:int")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789"))


def _create(values: dict, source: str):
    try:
        return OmegaConf.create(values)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "a section"
        raise UserError(f"{source}: '{key}' holds a broken ${{...}} reference.") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """A file's keys and values as they stand there. Raises UserError for a missing, malformed or ambiguous file."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"Config file '{path}' cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError:
        raise UserError(f"Config file '{path}' is not UTF-8 text.") from None
    try:
        values = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"Config file '{path}'{where} is not valid YAML: {getattr(error, 'problem', error)}.") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise UserError(f"Config file '{path}' holds a {type(values).__name__}; expected keys and values.")
    return values


def _read(path: Path, seen: tuple[Path, ...]):
    """The file's contents merged over those of the file that its `base:` names (relative to it)."""
    values = read_yaml(path)
    base = values.pop("base", None)
    own = _create(values, str(path))
    if base is None:
        return own
    base_path = (path.parent / str(base)).resolve()
    if base_path in seen or base_path == path.resolve():
        raise UserError(f"Config file '{path}': its base '{base}' leads back to itself.")
    return OmegaConf.merge(_read(base_path, (*seen, path.resolve())), own)


def _check_sections(cls: type, values: Any, source: str, prefix: str = "") -> None:
    """Refuse a plain value where the config has keys of its own; OmegaConf's words for it do not name the place."""
    plain = OmegaConf.to_container(values)
    for name, kind in typing.get_type_hints(cls).items():
        if name not in plain:
            continue
        key, value = prefix + name, plain[name]
        inner = typing.get_args(kind)[1] if typing.get_origin(kind) is dict else kind
        if (dataclasses.is_dataclass(inner) or inner is not kind) and not isinstance(value, dict):
            raise UserError(f"{source}: '{key}' is {value!r}; expected keys and values.")
        if inner is kind and dataclasses.is_dataclass(kind):
            _check_sections(kind, values[name], source, f"{key}.")
        elif dataclasses.is_dataclass(inner):
            for part, item in value.items():
                if not isinstance(item, dict):
                    raise UserError(f"{source}: '{key}.{part}' is {item!r}; expected keys and values.")


@functools.cache
def _schema():
    return OmegaConf.structured(Config)  # some 10 ms; merging leaves it as it is


def _structure(raw, source: str) -> Config:
    _check_sections(Config, raw, source)
    try:
        config = OmegaConf.to_object(OmegaConf.merge(_schema(), raw))
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "a section"
        message = str(getattr(error, "msg", None) or error).split("\n")[0].rstrip(".")
        raise UserError(f"{source}: '{key}': {message}{'' if message.endswith('?') else '.'}") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{source}: a section has the wrong shape (list where keys are expected?): {error}.") from None
    check(config, source)
    return config


# ---------------------------------------------------------------------------------------------------- checking


def check(config: Config, source: str = "config") -> None:
    """Refuse values of the right type that cannot work. Raises UserError naming field, value and what is expected."""

    def need(ok: bool, key: str, found: Any, expected: str) -> None:
        if not ok:
            raise UserError(f"{source}: '{key}' is {found!r}; expected {expected}.")

    for key, value in flatten(config).items():
        need(not isinstance(value, float) or math.isfinite(value), key, value, "a finite number")

    probability = "a probability between 0 and 1"
    d, a, m, t = config.data, config.augment, config.model, config.train
    need(bool(config.name) and "/" not in config.name, "name", config.name, "a short name without '/'")
    need(config.seed >= 0, "seed", config.seed, "0 or more")
    for key in ("size", "limit", "cache_size", "workers"):
        need(getattr(d, key) >= 0, f"data.{key}", getattr(d, key), "0 or more")
    need(d.crop_scale > 1, "data.crop_scale", d.crop_scale, "more than 1, so that the landmarks lie inside the crop")
    need(abs(d.crop_lift) < 0.5, "data.crop_lift", d.crop_lift, "between -0.5 and 0.5")
    need(
        not Path(d.train).name.lower().startswith("aflw"), "data.train", d.train,
        "the synthetic training set; the AFLW photographs only validate and are predicted on (challenge rules 1 and 2)",
    )  # fmt: skip
    for key in ("flip", "rotate_wide_p", "pad_p"):
        need(0 <= getattr(a, key) <= 1, f"augment.{key}", getattr(a, key), probability)
    for key in ("rotate", "rotate_wide"):
        need(0 <= getattr(a, key) <= 180, f"augment.{key}", getattr(a, key), "degrees between 0 and 180")
    need(0 <= a.shear < 60, "augment.shear", a.shear, "degrees between 0 and 60")
    for key, top in (("scale", 4.0), ("shift", 0.5), ("perspective", 0.25), ("pad", 0.5)):
        need(0 <= getattr(a, key) <= top, f"augment.{key}", getattr(a, key), f"between 0 and {top}")
    for key, step in a.photometric.items():
        need(bool(step.name), f"augment.photometric.{key}.name", step.name, "the name of an albumentations transform")
        need(0 <= step.p <= 1, f"augment.photometric.{key}.p", step.p, probability)
    need(bool(m.backbone), "model.backbone", m.backbone, "the name of a timm model")
    need(32 <= m.input_size <= 1024, "model.input_size", m.input_size, "between 32 and 1024 pixels")
    need(
        not (m.pretrained and m.checkpoint), "model.checkpoint", m.checkpoint, "nothing while model.pretrained is true"
    )
    h = m.head
    need(8 <= h.width <= 2048, "model.head.width", h.width, "between 8 and 2048 channels")
    need(h.stride in (1, 2, 4, 8, 16), "model.head.stride", h.stride, "1, 2, 4, 8 or 16")
    need(0.5 <= h.bins <= 8, "model.head.bins", h.bins, "between 0.5 and 8 bins a pixel")
    need(0 <= h.margin <= 0.5, "model.head.margin", h.margin, "between 0 and 0.5")
    need(0.002 <= h.sigma <= 0.2, "model.head.sigma", h.sigma, "between 0.002 and 0.2")
    for key in ("coordinate_weight", "heatmap_weight"):
        need(getattr(config.loss, key) >= 0, f"loss.{key}", getattr(config.loss, key), "0 or more")
    for key, weight in config.loss.region_weights.items():
        need(key in REGIONS, f"loss.region_weights.{key}", weight, f"one of the regions {', '.join(REGIONS)}")
        need(weight >= 0, f"loss.region_weights.{key}", weight, "0 or more")
    weights = config.loss.region_weights
    need(any(weights.get(region, 1) > 0 for region in REGIONS), "loss.region_weights", weights, "a region above 0")
    for key, term in config.distill.terms.items():
        name = f"distill.terms.{key}"
        need(re.fullmatch(r"[A-Za-z]\w*", key, re.ASCII) is not None, name, key, "a name of letters, digits and _")
        need(key not in SUPERVISED_TERMS, name, key, f"a name other than the labels' own terms {SUPERVISED_TERMS}")
        need(bool(term.loss), f"{name}.loss", term.loss, "the name of a distillation loss")
        need(term.weight >= 0, f"{name}.weight", term.weight, "0 or more")
        need(0 <= term.final <= 1, f"{name}.final", term.final, "a fraction between 0 and 1")
        need(0 < term.warmup <= 1, f"{name}.warmup", term.warmup, "a fraction above 0 and up to 1")
    for key in ("epochs", "batch_size", "accumulate", "val_every"):
        need(getattr(t, key) >= 1, f"train.{key}", getattr(t, key), "1 or more")
    need(t.batch_size % t.accumulate == 0, "train.accumulate", t.accumulate, f"a divisor of batch_size {t.batch_size}")
    need(0 < t.lr <= 10, "train.lr", t.lr, "above 0 and up to 10")
    need(0 <= t.min_lr <= t.lr, "train.min_lr", t.min_lr, "between 0 and train.lr")
    need(0 <= t.ema < 1, "train.ema", t.ema, "a decay from 0 to below 1")
    need(config.distill.balance_every >= 1, "distill.balance_every", config.distill.balance_every, "1 or more")
    need(t.snapshots <= t.epochs, "train.snapshots", t.snapshots, f"at most train.epochs, {t.epochs}")
    for key in ("weight_decay", "warmup_epochs", "clip", "snapshots", "patience", "threads", "checkpoint_seconds"):
        need(getattr(t, key) >= 0, f"train.{key}", getattr(t, key), "0 or more")
    need(bool(config.tracking.experiment), "tracking.experiment", config.tracking.experiment, "a name")
