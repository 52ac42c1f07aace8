"""Predictions on pictures and frames, by OpenCV alone."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
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


def side_by_side(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Two pictures in one, the second scaled to the height of the first."""
    height = left.shape[0]
    width = max(1, round(right.shape[1] * height / right.shape[0]))
    if right.shape[:2] != (height, width):
        shrinks = height < right.shape[0]
        right = cv2.resize(right, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.concatenate([left, right], axis=1)
