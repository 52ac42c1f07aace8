"""One transform of albumentations as a photometric step: built, tried and measured before anything trains.

The only module that imports albumentations.
"""

from __future__ import annotations

import os
import random
import warnings

import numpy as np

from distill.config import StepConfig
from distill.data.centring import MOST_MOVED, moved
from distill.errors import UserError

_MEASURED: dict[str, float] = {}  # name and arguments -> pixels; a grid builds the same steps many times


class AlbumentationsStep:
    """Raises UserError, naming the config key, for a transform that cannot be built, fails, or moves the picture."""

    def __init__(self, key: str, step: StepConfig):
        self._transform = _compose(key, step)
        _try(key, step, self)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        # Each step gets a stream of its own. Compose(seed=) and set_random_seed give every step the same stream, so
        # that all or none of them fire.
        seeds = rng.integers(0, 2**63, 2)
        self._transform.set_random_state(np.random.default_rng(seeds[0]), random.Random(int(seeds[1])))
        return self._transform(image=image)["image"]


def _compose(key: str, step: StepConfig):
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # its import queries PyPI for a newer version otherwise
    try:
        import albumentations as A
        from albumentations.augmentations.dropout.transforms import BaseDropout
    except ImportError:
        raise UserError(
            f"{key}.name is '{step.name}', a transform of albumentations, which is not installed here; "
            "install it with 'pip install albumentations', or leave the step out."
        ) from None

    kind = getattr(A, step.name, None)
    if not (isinstance(kind, type) and issubclass(kind, A.BasicTransform)):
        raise UserError(f"{key}.name is '{step.name}'; albumentations has no such transform.")
    if not issubclass(kind, (A.ImageOnlyTransform, BaseDropout, A.PixelDropout)):
        raise UserError(
            f"{key}.name is '{step.name}', which moves pixels but not landmarks; geometry is set by augment.rotate, "
            "scale, shift, shear, perspective and flip."
        )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            transform = kind(**step.args, p=1.0)  # Photometric has drawn already whether the step is taken
        except Exception as error:  # pydantic's, or whatever the constructor meets
            raise UserError(f"{key}.args do not fit {step.name}: {_reason(error)}.") from None
    for warning in caught:
        if "not valid for transform" in str(warning.message):
            raise UserError(f"{key}.args: {str(warning.message).rstrip('.')}.")
    return A.Compose([transform])


def _try(key: str, config: StepConfig, step: AlbumentationsStep) -> None:
    name = config.name
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    try:
        result = step(noise, np.random.default_rng(0))
    except Exception as error:
        raise UserError(f"{key}: {name} fails on an image alone: {_reason(error)}.") from None
    if getattr(result, "dtype", None) != np.uint8 or result.shape != noise.shape:
        raise UserError(f"{key}.name is '{name}', which changes the image's type or shape; it must leave uint8 RGB.")
    arguments = f"{name} {config.args}"
    if arguments not in _MEASURED:
        _MEASURED[arguments] = moved(step)
    distance = _MEASURED[arguments]
    if distance > MOST_MOVED:
        raise UserError(
            f"{key}: {name} with these arguments moves the picture by {distance:.2f} px while its landmarks stay; "
            f"expected at most {MOST_MOVED} px."
        )


def _reason(error: Exception) -> str:
    """The part of an exception that a person can use; pydantic spreads it over lines of `field` and `message`."""
    if hasattr(error, "errors"):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
