"""Calm landmarks on video: the One-Euro filter, and what it gains and costs: jitter and lag."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


class OneEuro:
    """The One-Euro filter of Casiez, Roussel & Vogel (CHI 2012, https://doi.org/10.1145/2207676.2208639), a point at a
    time.

    A low-pass filter whose cutoff rises with speed: still points are calmed much, moving ones follow. A point has one
    cutoff, from the length of its velocity, so that the result does not depend on the picture's axes; speeds are in
    face sizes a second, so that it does not depend on the picture's resolution either.
    """

    def __init__(self, min_cutoff: float = 1.0, beta: float = 20.0, speed_cutoff: float = 1.0):
        """min_cutoff: Hz, of a point that rests; lower is calmer. beta: Hz for each face size a second of speed; higher
        lags less. speed_cutoff: Hz, of the speed's own low-pass filter. Raises ValueError for one that is not above
        0."""
        if not (min_cutoff > 0 and beta >= 0 and speed_cutoff > 0):
            raise ValueError(f"cutoffs {min_cutoff}, {speed_cutoff} must be above 0, beta {beta} at least 0")
        self.min_cutoff, self.beta, self.speed_cutoff = min_cutoff, beta, speed_cutoff
        self._points: np.ndarray | None = None  # as given out last
        self._velocity: np.ndarray | None = None  # pixels a second
        self._seconds = 0.0

    def __call__(self, points: np.ndarray, seconds: float) -> np.ndarray:
        """(P, 2) points of a frame at a time in seconds -> (P, 2) float32, smoothed; the first frame passes as it is.

        Raises ValueError where time does not go on.
        """
        points = np.asarray(points, np.float64)
        if self._points is None or self._velocity is None:
            self._points, self._velocity, self._seconds = points, np.zeros_like(points), seconds
            return points.astype(np.float32)
        step = seconds - self._seconds
        if not step > 0:
            raise ValueError(f"time must go on: {seconds} s after {self._seconds} s")
        newest = (points - self._points) / step
        self._velocity = self._velocity + _weight(self.speed_cutoff, step) * (newest - self._velocity)
        speed = np.linalg.norm(self._velocity, axis=1, keepdims=True) / face_size(points)
        weight = _weight(self.min_cutoff + self.beta * speed, step)
        self._points = self._points + weight * (points - self._points)
        self._seconds = seconds
        return self._points.astype(np.float32)


def _weight(cutoff, step: float):
    """Of the newest value in exponential smoothing with a cutoff in Hz, `step` seconds after the last."""
    return 1.0 / (1.0 + 1.0 / (2 * math.pi * cutoff * step))


def face_size(points: np.ndarray) -> float:
    """Root of the area of the box around (P, 2) points, pixels; at least 1."""
    return max(1.0, float(np.sqrt(np.ptp(points, axis=0).prod())))


@dataclass(frozen=True)
class Calm:
    """What smoothing did to a track."""

    before: float  # jitter, percent of `size`
    after: float
    lag_frames: float

    def sentence(self, fps: float) -> str:
        """For people, on one line."""
        saved = f" ({100 * (self.after / self.before - 1):+.0f} %)" if self.before > 0 else ""
        late = f"{self.lag_frames:.1f} frames ({1000 * self.lag_frames / fps:.0f} ms)"
        return (
            f"jitter (mean step of a point from frame to frame) {self.before:.3f} % of the picture without smoothing, "
            f"{self.after:.3f} % with{saved}; lag {late}"
        )


def compare(raw: np.ndarray, smooth: np.ndarray, size: float, seconds: Sequence[float]) -> Calm:
    """Jitter of two (T, P, 2) tracks of one face over `size` pixels, and the lag of the second behind the first.

    seconds: (T,) rising times of the frames. The lag is measured on tracks at even times, a usual (median) step apart.
    """
    if len(seconds) > 1:
        step = max(float(np.median(np.diff(seconds))), (seconds[-1] - seconds[0]) / (10 * len(seconds)))
        even = np.arange(seconds[0], seconds[-1] + step / 2, step)
        late = lag(at_times(raw, seconds, even), at_times(smooth, seconds, even))
    else:
        late = 0.0
    return Calm(jitter(raw, size), jitter(smooth, size), late)


def at_times(track: np.ndarray, seconds: Sequence[float], wanted: np.ndarray) -> np.ndarray:
    """A (T, P, 2) track of the times (T,) at other times (U,), linear between frames: (U, P, 2) float64."""
    right = np.clip(np.searchsorted(seconds, wanted), 1, len(track) - 1)
    before, after = np.asarray(seconds)[right - 1], np.asarray(seconds)[right]
    weight = np.clip((wanted - before) / (after - before), 0, 1)[:, None, None]
    return (1 - weight) * track[right - 1] + weight * track[right]


def jitter(track: np.ndarray, size: float) -> float:
    """Mean displacement of a point from one frame to the next, in percent of `size`; 0 for fewer than two frames.

    track: (T, P, 2) pixels. size: sqrt(W * H) of the picture, or the side of the face's box, pixels. True motion counts
    too, so compare tracks of one video, or measure on a face that rests.
    """
    if len(track) < 2:
        return 0.0
    return float(100 * np.linalg.norm(np.diff(np.asarray(track, np.float64), axis=0), axis=2).mean() / size)


def lag(raw: np.ndarray, smooth: np.ndarray, most: int = 15) -> float:
    """Frames by which a (T, P, 2) track is behind another: the shift, up to `most`, at which they differ least.

    Between whole frames by the parabola through the neighbours. 0 for fewer than four frames.
    """
    raw, smooth = np.asarray(raw, np.float64), np.asarray(smooth, np.float64)
    most = min(most, len(raw) - 3)
    if most < 1:
        return 0.0
    # every shift is measured on the same frames of the smoothed track, else the frames left out would decide
    own = smooth[most:-1]
    shifts = range(-1, most + 1)
    errors = np.array([((raw[most - k : len(raw) - 1 - k] - own) ** 2).mean() for k in shifts])
    best = int(errors.argmin())
    if best in (0, len(errors) - 1):
        return float(max(0, shifts[best]))
    before, here, after = errors[best - 1 : best + 2]
    bend = before - 2 * here + after
    shift = shifts[best] + (0.5 * (before - after) / bend if bend > 0 else 0.0)
    return float(max(0.0, shift))
