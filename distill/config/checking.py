"""Values of the right type that cannot work."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from distill.config.fields import SUPERVISED_TERMS, Config, markup_of
from distill.config.identity import flatten
from distill.errors import UserError


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
    regions = markup_of(config).regions
    for key, weight in config.loss.region_weights.items():
        need(key in regions, f"loss.region_weights.{key}", weight, f"one of the regions {', '.join(regions)}")
        need(weight >= 0, f"loss.region_weights.{key}", weight, "0 or more")
    weights = config.loss.region_weights
    need(any(weights.get(region, 1) > 0 for region in regions), "loss.region_weights", weights, "a region above 0")
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
