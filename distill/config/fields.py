"""All keys of an experiment, their defaults, ranges and meaning."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from distill import landmarks
from distill.landmarks import Markup
from distill.schema import Number

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

# upper ends are far beyond any use: a number that no machine can serve is refused before it costs anything
MOST = 1_000_000_000
Count = Annotated[int, Field(ge=0, le=MOST)]
Whole = Annotated[int, Field(ge=1, le=MOST)]
Side = Annotated[int, Field(ge=0, le=4096)]  # of a square image, pixels
Parallel = Annotated[int, Field(ge=0, le=1024)]  # processes or threads
Text = Annotated[str, Field(min_length=1)]
Share = Annotated[Number, Field(ge=0, le=1)]  # a probability or fraction
Amount = Annotated[Number, Field(ge=0, le=MOST)]
Degrees = Annotated[Number, Field(ge=0, le=180)]


@dataclass(frozen=True, config=STRICT)
class DataConfig:
    """The data sets, and how they are read."""

    root: str = ""  # folder that holds the sets; empty: $DISTILL_DATA, else the bundled sample
    train: str = "synthetics_train"  # training set, a folder under root
    val: str = "auto"  # validation set; auto: aflw_val, else synthetics_val
    test: str = "auto"  # unlabelled test set; auto: aflw_test, else synthetics_test, else none
    size: Side = 0  # side in pixels that samples are warped to, for student and teacher; 0: each at its own input size
    on_bad: Literal["stop", "skip"] = "stop"  # a broken training image stops the run, or is skipped and counted
    landmarks: str = "ibug68"  # the points of a label: ibug68, wflw98, lapa106, or a YAML file (docs/landmarks.md)
    limit: Count = 0  # use only this many training images, evenly spread; 0: all
    cache: str = ""  # folder for a memory-mapped cache of decoded images; empty: none
    cache_size: Side = 0  # side of the cached images; 0: as they are (all must then have one size)
    workers: Parallel = 1  # loader processes; 0: load in the training process
    # Microsoft layout only: side of the crop over the larger side of the landmarks' box, which must lie inside it
    crop_scale: Annotated[Number, Field(gt=1, le=10)] = 1.9
    # Microsoft layout only: the crop's centre lies this far (of its side) above the box's
    crop_lift: Annotated[Number, Field(gt=-0.5, lt=0.5)] = 0.08


@dataclass(frozen=True, config=STRICT)
class StepConfig:
    """One photometric step: `name` is that of an albumentations transform, `args` its arguments."""

    name: str = ""
    p: Share = 0.5
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, config=STRICT)
class AugmentConfig:
    """Geometric and photometric augmentation of training images."""

    flip: Share = 0.5  # probability of a mirror image
    rotate: Degrees = 30.0  # usual in-plane rotation, uniform in +- degrees
    rotate_wide: Degrees = 0.0  # rare wide rotation, uniform in +- degrees
    rotate_wide_p: Share = 0.0  # ... drawn instead of the usual one with this probability
    scale: Annotated[Number, Field(ge=0, le=4)] = 0.15  # log-uniform in [1/(1+s), 1+s]
    shift: Annotated[Number, Field(ge=0, le=0.5)] = 0.05  # uniform in +- this fraction of the side, each axis
    shear: Annotated[Number, Field(ge=0, lt=60)] = 0.0  # uniform in +- degrees, each axis
    perspective: Annotated[Number, Field(ge=0, le=0.25)] = 0.0  # corners move by up to this fraction of the side
    pad_p: Share = 0.0  # probability of black padding on one or more sides
    pad: Annotated[Number, Field(ge=0, le=0.5)] = 0.25  # up to this fraction of the side is blackened
    photometric: dict[str, StepConfig] = field(default_factory=dict)  # in this order


@dataclass(frozen=True, config=STRICT)
class HeadConfig:
    """The head of a model, and its decoding."""

    kind: Literal["heatmap", "simcc", "regression"] = "heatmap"
    width: Annotated[int, Field(ge=8, le=2048)] = 64  # channels of the head
    stride: Literal[1, 2, 4, 8, 16] = 4  # heatmap: input pixels per heatmap cell
    bins: Annotated[Number, Field(ge=0.5, le=8)] = 2.0  # simcc: bins per input pixel
    # heatmap, simcc: the grid reaches this fraction of the side beyond the frame
    margin: Annotated[Number, Field(ge=0, le=0.5)] = 0.125
    # heatmap, simcc: standard deviation of the target, as a fraction of the side
    sigma: Annotated[Number, Field(ge=0.002, le=0.2)] = 0.02
    upsample: Literal["deconv", "pyramid"] = "pyramid"  # heatmap: transposed convolutions, or fuse all levels
    decode: Literal["softargmax", "dark"] = "softargmax"  # sub-pixel decoding
    norm: Literal["batch", "group"] = "batch"


@dataclass(frozen=True, config=STRICT)
class ModelConfig:
    """A model: a timm backbone under a head."""

    backbone: Text = "mobilenetv3_small_100"  # any timm model with features_only
    backbone_args: dict[str, Any] = field(default_factory=dict)  # further arguments of timm.create_model
    pretrained: bool = False  # fetch the backbone's weights (needs a network)
    checkpoint: str = ""  # or take them from this local file
    allow_partial: bool = False  # accept a checkpoint that lacks some of the backbone's weights: they begin at random
    input_size: Annotated[int, Field(ge=32, le=1024)] = 128  # side of the square input, pixels
    head: HeadConfig = field(default_factory=HeadConfig)


@dataclass(frozen=True, config=STRICT)
class LossConfig:
    """Supervised terms against the labels; every model learns from these."""

    coordinate: Literal["l1", "smooth_l1", "wing", "smooth_wing", "nme"] = "l1"
    coordinate_weight: Amount = 1.0
    heatmap: Literal["cross_entropy", "mse", "awing", "star", "laplace"] = "cross_entropy"
    heatmap_weight: Amount = 1.0
    region_weights: dict[str, Amount] = field(default_factory=dict)  # e.g. {jaw: 1.5}; regions not named weigh 1


@dataclass(frozen=True, config=STRICT)
class TermConfig:
    """One distillation term: `weight(t) * loss(student, teacher)`, with t the fraction of training done."""

    loss: str = ""  # a method; their files, and sizes of their values: distill/distillation/losses/
    weight: Amount = 1.0
    schedule: Literal["constant", "linear", "cosine", "warmup"] = "constant"  # to `final` x weight; warmup: from 0
    final: Share = 0.0  # linear, cosine: the weight at the end, as a fraction of `weight`
    warmup: Annotated[Number, Field(gt=0, le=1)] = 0.1  # warmup: fraction of training over which the weight grows
    student: str = ""  # feature terms: a tap, "stride:16", "level:2" or a module path; for reviewkd several, by commas
    teacher: str = ""
    args: dict[str, Any] = field(default_factory=dict)  # the loss's own parameters, e.g. {temperature: 2}


@dataclass(frozen=True, config=STRICT)
class DistillConfig:
    """The distillation terms, and how they are balanced."""

    terms: dict[str, TermConfig] = field(default_factory=dict)  # none: the control, no teacher is loaded
    # grad_norm: scale each term so that its gradient in the backbone is `weight` times that of the labels' terms
    balance: Literal["none", "grad_norm"] = "none"
    balance_every: Whole = 50  # measure those gradients every N steps
    # fixed augmented views of each training image, one an epoch in turn, the same for every seed; 0: a new one each
    # epoch
    views: Annotated[int, Field(ge=0, le=10_000)] = 0
    cache: str = ""  # folder that keeps what the teacher gives for these views, for all later runs; empty: none
    # keep so many cells of each of the teacher's heatmaps, the most probable ones, in float16; 0: all, in float32
    cache_cells: Count = 0


@dataclass(frozen=True, config=STRICT)
class TrainConfig:
    """Optimiser, schedule, precision and hardware of a training."""

    epochs: Whole = 30
    # above 0: train for so long by the clock, validation included, instead of `epochs`; warm-up and schedules follow
    # the clock
    minutes: Amount = 0.0
    batch_size: Whole = 32  # global: over all processes and before accumulation is split off
    accumulate: Whole = 1  # split each batch into this many passes
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: Annotated[Number, Field(gt=0, le=10)] = 2e-3
    min_lr: Amount = 1e-5
    backbone_lr: Annotated[Number, Field(ge=0, le=10)] = (
        1.0  # factor on lr for the backbone, e.g. 0.1 for a pretrained one
    )
    layer_decay: Annotated[Number, Field(gt=0, le=1)] = (
        1.0  # once more for each of its layers, counted back from the head
    )
    weight_decay: Amount = 0.02
    warmup_epochs: Amount = 1.0
    # gradients longer than this are scaled to it, adapters apart; 0: never. With 1 that is nearly every step
    # (train/clipped is the share), so it normalises gradients; as a guard against rare long ones take some ten times
    # train/grad_norm.
    clip: Amount = 1.0
    ema: Annotated[Number, Field(ge=0, lt=1)] = 0.999  # decay of the weight average that is evaluated and kept; 0: none
    freeze: list[str] = field(default_factory=list)  # module paths of the model that do not train, e.g. [backbone]
    snapshots: Count = 0  # keep the validated weights of the last N epochs, for weight averaging
    patience: Count = 0  # stop after this many epochs without a better val/nme; 0: never
    # auto: bf16 on a GPU that has it; on a CPU what is faster, by a few passes of each before the first step
    amp: Literal["auto", "off", "bf16"] = "auto"
    channels_last: bool = True
    compile: bool = False  # torch.compile: slower to start, faster per step; needs a C++ compiler
    # false: a GPU takes its fastest kernels, and two runs of one seed differ in their last digits
    deterministic: bool = True
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Parallel = 0  # CPU threads; 0: torch's choice
    checkpoint_seconds: Amount = 300.0  # also save inside an epoch, this often; 0: only at its end
    val_every: Whole = 1  # validate every N epochs (and always at the last)


@dataclass(frozen=True, config=STRICT)
class TrackingConfig:
    """Where and how a run is kept."""

    uri: str = ""  # empty: $MLFLOW_TRACKING_URI, else sqlite under `store`
    store: str = "mlruns"  # local folder: database, artifacts, checkpoints, offline runs
    experiment: Text = "distill"
    run_name: str = ""  # empty: made from name, backbone and seed
    tags: dict[str, str] = field(default_factory=dict)
    register: bool = True  # enter the finished model in the model registry
    outputs: Literal["full", "light"] = "full"  # light: metrics, model and report; no pictures, ONNX or submission


@dataclass(frozen=True, config=STRICT)
class Config:
    """All of an experiment."""

    name: Annotated[str, Field(pattern=r"^[^/]*$")] = "student"  # short name of the recipe; part of the run's name
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    teacher: str = ""  # run id, models:/NAME@ALIAS, or file; empty: the newest teacher of this data
    init: str = ""  # start from the weights of this run id, models:/NAME@ALIAS, or file (of the same architecture)
    init_part: Literal["all", "backbone"] = "all"  # of them; backbone: under a fresh head, which may be another one
    resume: str = ""  # run id to continue, or "last"
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


SUPERVISED_TERMS = ("coordinate", "heatmap", "expected_error")  # logged beside the distillation terms, by these names


def markup_of(config: Config) -> Markup:
    """The landmark set of a config. Raises UserError where a config that was not `load`ed names none."""
    return landmarks.find(config.data.landmarks)
