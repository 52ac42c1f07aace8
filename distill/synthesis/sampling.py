"""Random streams, weighted choices and colours, which every part of a picture draws from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

SHAPE, LOOK, HAIR, SCENE, BACKDROP, CAMERA, ELEVATION = range(7)  # random streams of a picture


def stream(seed: int, index: int, part: int) -> np.random.Generator:
    """The random numbers of one part of one picture: a change in a part leaves the others as they are."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, index, part))))


def pick(rng: np.random.Generator, items: Sequence, weights: Sequence[float]) -> Any:
    """A weighted choice; much cheaper than `rng.choice`."""
    u = rng.random() * sum(weights)
    for item, weight in zip(items, weights, strict=True):
        u -= weight
        if u < 0:
            return item
    return items[-1]


def linear(srgb) -> np.ndarray:
    """sRGB 0..255 to linear 0..1, of any shape."""
    c = np.asarray(srgb, float) / 255.0
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def colour(rng: np.random.Generator, saturation: float = 1.0) -> np.ndarray:
    """Linear RGB of cloth or a thing: mostly muted, hues as frequent as in photographs. (3,) float64"""
    hue = pick(rng, [(5, 50), (50, 150), (190, 245), (0, 360)], [0.42, 0.14, 0.24, 0.20])
    s, v = rng.random() ** 1.7 * 0.8 * saturation, rng.uniform(0.05, 1.0)
    rgb = cv2.cvtColor(np.array([[[rng.uniform(*hue), s, v]]], np.float32), cv2.COLOR_HSV2RGB)[0, 0]
    return linear(rgb * 255)


SKIN = linear(
    [(250, 222, 205), (245, 208, 184), (238, 192, 162), (228, 176, 142), (210, 155, 118)]
    + [(186, 131, 95), (152, 102, 72), (118, 76, 53), (84, 54, 39), (62, 41, 32)]
)
"""(10, 3) linear skin tones, from light to dark."""
