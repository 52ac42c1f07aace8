"""What a config computes: plain values, digest, short recipe, first difference."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import yaml

from distill.config.fields import Config, DataConfig, TrackingConfig, TrainConfig


def to_dict(config: Config) -> dict[str, Any]:
    """Plain nested dict: JSON-, YAML- and torch.load(weights_only)-safe."""
    return dataclasses.asdict(config)


def to_yaml(config: Config) -> str:
    """All keys, also those with their defaults."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def flatten(values: Config | dict[str, Any]) -> dict[str, Any]:
    """Dotted key -> leaf value of a config or of nested values, the form of MLflow parameters."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), inner)
        else:
            flat[prefix] = value

    walk("", to_dict(values) if isinstance(values, Config) else values)
    return flat


def computing(config: Config) -> Config:
    """The config without its name, places and machine settings: two that compute the same are equal after this."""
    # a cache changes pixels by its size alone, and its size means nothing without it
    cache_size = config.data.cache_size if config.data.cache else 0
    # kept targets change a training by what was left out of them
    distill = config.distill
    cells = distill.cache_cells if distill.cache and distill.terms else 0
    return dataclasses.replace(
        config,
        name="",
        teacher=config.teacher if config.distill.terms else "",
        resume="",
        data=dataclasses.replace(config.data, root="", test="auto", cache="", cache_size=cache_size, workers=0),
        distill=dataclasses.replace(distill, cache="", cache_cells=cells),
        train=dataclasses.replace(config.train, device="auto", threads=0, checkpoint_seconds=0.0),
        tracking=TrackingConfig(),
    )


def digest(config: Config) -> str:
    """16 hex digits that identify what the config computes (not where it is stored or from where it resumes).

    Only what differs from the defaults counts, so a field that a later version adds leaves the digests of older runs as
    they were. Keys stay in their order: that of the photometric steps matters.
    """
    return hashlib.sha256(json.dumps(set_values(computing(config))).encode()).hexdigest()[:16]


def first_difference(one: Config | dict, other: Config | dict, absent: Any = None) -> tuple[str, Any, Any]:
    """The first dotted key in which two configs compute something different, or two nested values differ; and both
    values.

    absent: what stands for a key that one of them lacks. Keys of another order are a difference, too.
    """
    first, second = (flatten(computing(side) if isinstance(side, Config) else side) for side in (one, other))
    for key in {**first, **second}:
        a, b = first.get(key, absent), second.get(key, absent)
        # an empty section is reported by the keys inside it
        if {} not in (a, b) and (a != b or isinstance(a, bool) != isinstance(b, bool)):
            return key, a, b
    pairs = enumerate(zip(first, second, strict=False), 1)
    number, names = next((at, pair) for at, pair in pairs if pair[0] != pair[1])
    return f"key {number}", *names


def set_values(value: Any) -> Any:
    """A config, or a section or entry of one, as plain values, without the fields that have their default."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        default = type(value)()
        names = [f.name for f in dataclasses.fields(value) if getattr(value, f.name) != getattr(default, f.name)]
        return {name: set_values(getattr(value, name)) for name in names}
    if isinstance(value, dict):
        return {key: set_values(inner) for key, inner in value.items()}
    return value


def to_recipe(config: Config) -> str:
    """A short experiment file that computes the same wherever it is put: what differs from the defaults, and nothing of
    where and how it runs (places, store, threads, the run that it resumes). A teacher is not named either: give
    `teacher=`.
    """
    bare = computing(config)
    train = dataclasses.replace(bare.train, checkpoint_seconds=TrainConfig().checkpoint_seconds)
    cache = config.data.cache if bare.data.cache_size else ""  # without it the recipe would compute from other pixels
    data = dataclasses.replace(bare.data, workers=DataConfig().workers, cache=cache)
    distill = dataclasses.replace(bare.distill, cache=config.distill.cache if bare.distill.cache_cells else "")
    values = set_values(dataclasses.replace(bare, teacher="", data=data, distill=distill, train=train))
    return yaml.safe_dump(values | {"name": config.name}, sort_keys=False)


def flow(value: Any) -> str:
    """A value as one line of YAML, such as an override takes."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False)
    return text.removesuffix("...\n").strip()
