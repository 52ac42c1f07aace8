"""What fields of a config, each in its range, must be to each other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from distill.config.fields import SUPERVISED_TERMS, Config, markup_of
from distill.errors import UserError


def check(config: Config, source: str = "config") -> None:
    """Raises UserError naming field, value and what is expected."""

    def need(ok: bool, key: str, found: Any, expected: str) -> None:
        if not ok:
            raise UserError(f"{source}: '{key}' is {found!r}; expected {expected}.")

    train, model, regions = config.train, config.model, markup_of(config).regions
    need(bool(config.name), "name", config.name, "a short name")
    need(
        not Path(config.data.train).name.lower().startswith("aflw"),
        "data.train",
        config.data.train,
        "the synthetic training set; the AFLW photographs only validate and are predicted on (challenge rules 1 and 2)",
    )
    need(
        not (model.pretrained and model.checkpoint),
        "model.checkpoint",
        model.checkpoint,
        "nothing while model.pretrained is true",
    )
    for key, step in config.augment.photometric.items():
        need(bool(step.name), f"augment.photometric.{key}.name", step.name, "the name of an albumentations transform")
    weights = config.loss.region_weights
    for key, weight in weights.items():
        need(key in regions, f"loss.region_weights.{key}", weight, f"one of the regions {', '.join(regions)}")
    need(any(weights.get(region, 1) > 0 for region in regions), "loss.region_weights", weights, "a region above 0")
    for key, term in config.distill.terms.items():
        name = f"distill.terms.{key}"
        need(re.fullmatch(r"[A-Za-z]\w*", key, re.ASCII) is not None, name, key, "a name of letters, digits and _")
        need(key not in SUPERVISED_TERMS, name, key, f"a name other than the labels' own terms {SUPERVISED_TERMS}")
        need(bool(term.loss), f"{name}.loss", term.loss, "the name of a distillation loss")
    has_views = config.distill.views > 0 or not config.distill.cache
    need(
        has_views,
        "distill.views",
        config.distill.views,
        "at least 1, since distill.cache keeps the targets of fixed views",
    )
    divisor = f"a divisor of batch_size {train.batch_size}"
    need(train.batch_size % train.accumulate == 0, "train.accumulate", train.accumulate, divisor)
    need(train.min_lr <= train.lr, "train.min_lr", train.min_lr, f"at most train.lr, {train.lr:g}")
    need(
        train.minutes > 0 or train.snapshots <= train.epochs,
        "train.snapshots",
        train.snapshots,
        f"at most train.epochs, {train.epochs}",
    )
