"""Augmentation of one sample: one fused warp (geometry.py), then the photometric steps (photometric.py).

The only place where a flip permutes landmarks. What a sample looks like depends on (seed, epoch, index) and on nothing
else: not on the worker, not on the order, not on what was drawn before.
"""

from __future__ import annotations

import numpy as np

from distill.config import AugmentConfig
from distill.data import geometry
from distill.data.photometric import Photometric
from distill.landmarks import IBUG68, Markup


class Augmenter:
    """Draws the augmented view of a sample. Raises UserError for a photometric step that cannot be built or that
    moves the picture.

    augment: what to draw from. size: side of the result, pixels. seed: of the run. markup: which points change places
    in a mirror image.
    """

    def __init__(self, augment: AugmentConfig, size: int, seed: int, markup: Markup = IBUG68):
        self.augment, self.size, self.seed = augment, size, seed
        self._permutation = np.array(markup.flip_permutation)
        self._photometric = Photometric(augment.photometric)

    def __call__(
        self, image: np.ndarray, landmarks: np.ndarray, epoch: int, index: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """(H, W, 3) uint8 and its (P, 2) landmarks -> (size, size, 3) uint8 and (P, 2) float32 in pixels of size.

        Landmarks may come out outside the frame; they are not clamped.
        """
        rng = np.random.default_rng([self.seed, epoch, index])
        matrix, flipped = geometry.sample_matrix(rng, self.augment, image.shape[1], image.shape[0], self.size)
        points = geometry.apply(matrix, landmarks).astype(np.float32)
        if flipped:
            points = points[self._permutation]
        pixels = geometry.warp(image, matrix, self.size)
        for x0, y0, x1, y1 in geometry.padding(rng, self.augment, self.size):
            pixels[y0:y1, x0:x1] = 0
        pixels = self._photometric(pixels, rng)
        return np.ascontiguousarray(pixels), points


def plain(image: np.ndarray, landmarks: np.ndarray | None, size: int) -> tuple[np.ndarray, np.ndarray | None]:
    """The view for validation: (H, W, 3) uint8 -> (size, size, 3), black where it is not square, and its landmarks."""
    if landmarks is not None:
        landmarks = to_view(landmarks, np.array(image.shape[1::-1]), size).astype(np.float32)
    return geometry.resize(geometry.square(image), size), landmarks


def to_view(points: np.ndarray, picture: np.ndarray, size: int) -> np.ndarray:
    """(..., P, 2) pixels of pictures of (..., 2) width and height -> the same, float64, in pixels of their views."""
    sides, corner = geometry.frame_of(picture)
    return (points + corner[..., None, :]) * (size / sides[..., None, :])


def from_view(points: np.ndarray, picture: np.ndarray, size: int) -> np.ndarray:
    """The inverse of `to_view`, as float32."""
    sides, corner = geometry.frame_of(picture)
    return (points * (sides / size).astype(np.float32)[..., None, :] - corner[..., None, :]).astype(np.float32)
