"""Tables of noise, made once in a process and always the same."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

from distill.synthesis import array_columns as col


def tileable(side: int, sigmas: list[tuple[float, float]], seed: int) -> np.ndarray:
    """(side, side, side) noise of mean 0 and deviation 1 that wraps around; sigmas: (texels, weight) of its scales."""
    rng = np.random.RandomState(seed)
    out = np.zeros((side, side, side))
    for sigma, weight in sigmas:
        x = _blur(rng.randn(side, side, side), sigma)
        out += weight * x / x.std()
    return out / out.std()


def _blur(x: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian blur of sigma texels along each axis that wraps around; scipy's `gaussian_filter`, bit for bit."""
    reach = int(4 * sigma + 0.5)
    weights = np.exp(-0.5 / sigma**2 * np.arange(-reach, reach + 1) ** 2)
    weights /= weights.sum()
    for axis in range(x.ndim):
        total = x * weights[reach]
        for k in range(reach, 0, -1):
            total += (np.roll(x, k, axis) + np.roll(x, -k, axis)) * weights[reach - k]
        x = total
    return x


def volume() -> np.ndarray:
    """(VOLUME, VOLUME, VOLUME, 8) int8, 32 a standard deviation: fine, medium, freckles, slope in x, slope in y."""
    fine = tileable(col.VOLUME, [(0.6, 0.6), (1.2, 1.0)], 1)
    medium = tileable(col.VOLUME, [(1.5, 0.7), (3.0, 1.0)], 2)
    freckles = tileable(col.VOLUME, [(1.1, 1.0)], 3)
    rough = tileable(col.VOLUME, [(0.8, 0.7), (1.5, 1.0)], 4)
    dx = np.roll(rough, -1, 0) - np.roll(rough, 1, 0)
    dy = np.roll(rough, -1, 1) - np.roll(rough, 1, 1)
    channels = np.stack([fine, medium, freckles, dx / dx.std(), dy / dy.std()], -1)
    out = np.zeros((col.VOLUME, col.VOLUME, col.VOLUME, 8), np.int8)
    out[..., :5] = np.clip(np.round(channels * 32), -127, 127)
    return out


@cache
def white() -> np.ndarray:
    """(2^20,) standard normal float32 numbers."""
    return np.random.RandomState(11).randn(1 << 20).astype(np.float32)


@cache
def _clouds() -> list[np.ndarray]:
    """15 tiles (256, 256) of unit deviation, of spectral slopes 0.8 to 2.2."""
    rng = np.random.RandomState(3)
    frequency = np.sqrt(np.fft.fftfreq(256)[:, None] ** 2 + np.fft.rfftfreq(256)[None] ** 2)
    frequency[0, 0] = 1
    tiles = []
    for slope in np.linspace(0.8, 2.2, 15):
        x = np.fft.irfft2(np.fft.rfft2(rng.randn(256, 256)) / frequency**slope, s=(256, 256))
        tiles.append(((x - x.mean()) / x.std()).astype(np.float32))
    return tiles


def cloud(rng: np.random.Generator, side: int, low: float, high: float) -> np.ndarray:
    """(side, side) cloud noise of unit deviation with a spectral slope of low to high."""
    tile = _clouds()[int(round((rng.uniform(low, high) - 0.8) * 10))]
    tile = np.roll(tile, tuple(rng.integers(0, 256, 2)), (0, 1))
    if rng.random() < 0.5:
        tile = tile.T
    return cv2.resize(tile, (side, side), interpolation=cv2.INTER_LINEAR if side >= 256 else cv2.INTER_AREA)
