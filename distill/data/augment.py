"""Augmentation of one sample: one fused warp (geometry.py), then albumentations for everything that moves no pixel.

The only module that knows albumentations, and the only place where a flip permutes landmarks. What a sample looks like
depends on (seed, epoch, index) and on nothing else: not on the worker, not on the order, not on what was drawn before.
"""

from __future__ import annotations

import os
import random
import warnings

import numpy as np

from distill.config import AugmentConfig, StepConfig
from distill.data import geometry
from distill.errors import UserError
from distill.landmarks import IBUG68, Markup


class Augmenter:
    """Draws the augmented view of a sample. Raises UserError for a photometric step that cannot be built or that moves pixels.

    augment: what to draw from. size: side of the result, pixels. seed: of the run. markup: which points change places in
    a mirror image.
    """

    def __init__(self, augment: AugmentConfig, size: int, seed: int, markup: Markup = IBUG68):
        self.augment, self.size, self.seed = augment, size, seed
        self._permutation = np.array(markup.flip_permutation)
        self._steps = _compose(augment.photometric) if augment.photometric else None

    def __call__(
        self, image: np.ndarray, landmarks: np.ndarray, epoch: int, index: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """(H, W, 3) uint8 and its (P, 2) landmarks -> (size, size, 3) uint8 and (P, 2) float32 in pixels of size.

        Landmarks may come out outside the frame; they are not clamped.
        """
        seeds = np.random.SeedSequence([self.seed, epoch, index]).generate_state(3, np.uint64)
        rng = np.random.default_rng(seeds[0])
        matrix, flipped = geometry.sample_matrix(rng, self.augment, image.shape[1], image.shape[0], self.size)
        points = geometry.apply(matrix, landmarks).astype(np.float32)
        if flipped:
            points = points[self._permutation]
        pixels = geometry.warp(image, matrix, self.size)
        for x0, y0, x1, y1 in geometry.padding(rng, self.augment, self.size):
            pixels[y0:y1, x0:x1] = 0
        if self._steps is not None:
            # One stream for all steps, fresh for each sample. Compose(seed=) and set_random_seed give every step the same
            # stream, so that all or none of them fire.
            self._steps.set_random_state(np.random.default_rng(seeds[1]), random.Random(int(seeds[2])))
            pixels = self._steps(image=pixels)["image"]
        return np.ascontiguousarray(pixels), points


def plain(image: np.ndarray, landmarks: np.ndarray | None, size: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Resize for validation: (H, W, 3) uint8 -> (size, size, 3), landmarks (P, 2) multiplied along (None stays None)."""
    height, width = image.shape[:2]
    if landmarks is not None:
        landmarks = (landmarks * np.array([size / width, size / height])).astype(np.float32)
    return geometry.resize(image, size), landmarks


def _compose(photometric: dict[str, StepConfig]):
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # its import asks PyPI for a newer version otherwise
    import albumentations

    return albumentations.Compose([_step(f"augment.photometric.{key}", step) for key, step in photometric.items()])


def _step(key: str, step: StepConfig):
    """One albumentations transform, tried once on noise. Raises UserError naming the config key."""
    import albumentations as A
    from albumentations.augmentations.dropout.transforms import BaseDropout

    kind = getattr(A, step.name, None)
    if not (isinstance(kind, type) and issubclass(kind, A.BasicTransform)):
        raise UserError(f"{key}.name is '{step.name}'; albumentations has no such transform.")
    if not issubclass(kind, (A.ImageOnlyTransform, BaseDropout, A.PixelDropout)):
        raise UserError(
            f"{key}.name is '{step.name}', which moves pixels but not their landmarks; geometry is set by augment.rotate, "
            "scale, shift, shear, perspective and flip."
        )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            transform = kind(**step.args, p=step.p)
            trial = kind(**step.args, p=1.0)
        except Exception as error:  # pydantic's, or whatever the constructor meets
            raise UserError(f"{key}.args do not fit {step.name}: {_reason(error)}.") from None
    for warning in caught:
        if "not valid for transform" in str(warning.message):
            raise UserError(f"{key}.args: {str(warning.message).rstrip('.')}.")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    trial.set_random_state(np.random.default_rng(0), random.Random(0))
    try:
        result = A.Compose([trial])(image=noise)["image"]
    except Exception as error:
        raise UserError(f"{key}: {step.name} fails on an image alone: {_reason(error)}.") from None
    if getattr(result, "dtype", None) != np.uint8 or result.shape != noise.shape:
        raise UserError(
            f"{key}.name is '{step.name}', which changes the image's type or shape; it must leave uint8 RGB."
        )
    return transform


def _reason(error: Exception) -> str:
    """The part of an exception that a person can use; pydantic spreads it over lines of `field` and `message`."""
    if hasattr(error, "errors"):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
