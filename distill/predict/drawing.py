"""Predictions on pictures and frames, by OpenCV alone."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from distill import figures
from distill.landmarks import IBUG68, Markup
from distill.predict.runtime import Landmarks


def on_picture(image: np.ndarray, faces: Iterable[Landmarks], markup: Markup = IBUG68) -> np.ndarray:
    """A copy of (H, W, 3) uint8 RGB with the outlines and points of each face, coloured from red (unsure) to green."""
    drawn = image.copy()
    for points, confidence in faces:
        drawn = figures.draw(drawn, points, confidence, markup)
    return drawn
