"""Whether a photometric step leaves the picture where it is: by how many pixels its result is shifted, measured."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

MOST_MOVED = 0.05  # pixels


def moved(step: Callable[[np.ndarray, np.random.Generator], np.ndarray], draws: int = 24, side: int = 96) -> float:
    """By how many pixels a step moves what is in a picture of `side`; about 0.01 is the error of the measurement.

    In each quarter of a textured scene the shift is fitted, to first order: output = gain * input + other functions of
    the input + blur * Laplacian - gain * shift . gradient, without the pixels that fit worst (painted or erased ones).
    Gives the larger of two: the shift that the quarters of one drawn picture have in common (so that a shift differing
    from draw to draw is not averaged away), and the one that a quarter has in all draws (so that stretching counts).
    """
    scene = _scene(side)
    shifts = np.stack([_shifts(scene, step(scene, np.random.default_rng([7, draw]))) for draw in range(draws)])
    quarters = shifts.shape[1]
    pairs = (shifts.sum(1) ** 2).sum(1) - (shifts**2).sum((1, 2))  # products of different quarters: noise averages out
    common = np.sqrt(max(pairs.mean(), 0) / (quarters * (quarters - 1)))
    lasting = np.linalg.norm(shifts.mean(0), axis=1) - 3 * np.sqrt(shifts.var(0).sum(1) / draws)
    return float(max(common, lasting.max()))


def _scene(side: int) -> np.ndarray:
    """A smooth random texture, slightly coloured: (side, side, 3) uint8."""
    texture = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(side, side)), (0, 0), 2.0)
    tinted = np.array([118, 128, 138]) + (texture / texture.std())[..., None] * [44, 40, 36]
    return np.clip(tinted, 0, 255).astype(np.uint8)


def _shifts(scene: np.ndarray, result: np.ndarray) -> np.ndarray:
    """Shift of each quarter, x and y: (4, 2) pixels; 0 where a quarter keeps nothing of the scene."""
    before, after = scene.mean(2), result.mean(2)
    down, right = np.gradient(before)
    level = before - before.mean()
    colour = [level, np.ones_like(level), level**2, level**3, np.abs(level)]
    terms = np.stack([right, down, cv2.Laplacian(before, -1), *colour], axis=-1)
    middle, edge = len(scene) // 2, 6
    found = []
    for rows in (slice(edge, middle), slice(middle, -edge)):
        for columns in (slice(edge, middle), slice(middle, -edge)):
            known, wanted = terms[rows, columns].reshape(-1, terms.shape[-1]), after[rows, columns].ravel()
            fits = np.ones(len(wanted), bool)
            for _ in range(3):
                factors = np.linalg.lstsq(known[fits], wanted[fits], rcond=None)[0]
                misfit = np.abs(wanted - known @ factors)
                fits = misfit <= 2.5 * np.median(misfit) + 1
            gain = factors[3]
            found.append(-factors[:2] / gain if abs(gain) > 0.1 else np.zeros(2))
    return np.array(found)
