"""What happens between a scene and its JPEG: flat things before the lens, tone, lens, sensor, text, borders.

Pictures are (n, n, 3) float32; lengths in px are those of 384.
"""

from __future__ import annotations

import cv2
import numpy as np

from distill.synthesis import noise
from distill.synthesis.kernels import picture as kernels
from distill.synthesis.noise import cloud
from distill.synthesis.sampling import SKIN, colour, pick

F4 = np.float32
_OCCLUDED = (4, 8, 12, 33, 48, 54, 57, 0, 16, 19, 24)  # landmarks about which flat things lie
_LINEAR = np.linspace(0, 1, 2048)
_SRGB = np.where(_LINEAR <= 0.0031308, _LINEAR * 12.92, 1.055 * np.maximum(_LINEAR, 1e-9) ** (1 / 2.4) - 0.055)


def occlude(image: np.ndarray, landmarks: np.ndarray, rng: np.random.Generator) -> None:
    """A flat thing before the face (card, sign, leaf, a shoulder); image linear, in place; landmarks (68, 2) px."""
    n = image.shape[0]
    px = n / 384
    large = rng.random() < 0.3
    centre = landmarks[pick(rng, _OCCLUDED, [1] * 11)] + rng.standard_normal(2) * 25 * px
    w, h = rng.uniform(15, 70, 2) * px * (2.2 if large else 1)
    if large:  # comes in from the side, mostly out of focus
        d = centre - landmarks.mean(0)
        centre = centre + d / (np.hypot(*d) + 1e-6) * 0.45 * max(w, h)
    layer = np.zeros((n, n), F4)
    angle = float(rng.uniform(0, 180))
    x, y = centre
    if rng.random() < 0.5:
        corners = cv2.boxPoints(((float(x), float(y)), (float(w), float(h)), angle))
        cv2.fillPoly(layer, [corners.astype(np.int32)], 1.0, cv2.LINE_AA)
    else:
        axes = (max(1, int(w / 2)), max(1, int(h / 2)))
        cv2.ellipse(layer, (int(x), int(y)), axes, angle, 0, 360, 1.0, -1, cv2.LINE_AA)
    blurred = cv2.GaussianBlur(layer, (0, 0), max(0.4, px * (rng.uniform(1, 8) if large else 0.8)))[..., None]
    own = SKIN[rng.integers(len(SKIN))] * rng.uniform(0.4, 1) if rng.random() < 0.3 else colour(rng)
    texture = (1 + 0.2 * cloud(rng, n, 0.8, 1.8)[..., None]) * own.astype(F4)
    image += (texture - image) * blurred


def develop(image: np.ndarray, landmarks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Linear image to (n, n, 3) uint8 RGB; landmarks (68, 2) px. The image is used up."""
    n = image.shape[0]
    px = n / 384
    _tone(image, rng)
    image = _lens(image, rng)
    amplitude = rng.uniform(0.003, 0.022) * min(1.0, px * 1.2) if rng.random() < 0.45 else 0.0
    if rng.random() < 0.03:
        image = _text(image, rng)
    table = noise.white()
    out = np.empty((n, n, 3), np.uint8)
    kernels.quantise(np.ascontiguousarray(image), table, rng.integers(0, len(table)), F4(amplitude), out)
    if rng.random() < 0.22:
        _borders(out, landmarks, rng)
    if rng.random() < 0.4:
        quality = int(rng.integers(35, 85))
        jpeg = cv2.imencode(".jpg", cv2.cvtColor(out, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        return cv2.cvtColor(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return out


def _tone(image: np.ndarray, rng: np.random.Generator) -> None:
    """Curve and contrast, balance of white, saturation, vignette; in place."""
    curve = _SRGB
    if rng.random() < 0.8:
        curve = curve ** np.exp(rng.normal(0.02, 0.18))
        curve = (curve - 0.5) * np.exp(rng.normal(0.16, 0.17)) + 0.5 + rng.normal(0, 0.03)
    gain = np.exp(rng.standard_normal(3) * 0.03)
    saturation, tint = np.exp(rng.normal(-0.18, 0.22)), np.ones(3)
    if rng.random() < 0.11:
        saturation = 0.0
        if rng.random() < 0.25:  # sepia
            tint = np.array([1.05, 0.95, 0.8])
    vignette = rng.uniform(0, 1.1) if rng.random() < 0.25 else 0.0
    kernels.tone(image, curve.astype(F4), gain.astype(F4), F4(saturation), tint.astype(F4), F4(vignette))


def _lens(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Out of focus, of few pixels, sharpened, or as it is."""
    n = image.shape[0]
    px = n / 384
    k = rng.random()
    if k < 0.35:
        return cv2.GaussianBlur(image, (0, 0), max(0.25, rng.uniform(0.4, 1.3) * px))
    if k < 0.55:
        m = max(24, int(n * rng.uniform(0.25, 0.7)))
        small = cv2.resize(image, (m, m), interpolation=cv2.INTER_AREA)
        return cv2.resize(small, (n, n), interpolation=pick(rng, [cv2.INTER_LINEAR, cv2.INTER_CUBIC], [1, 1]))
    if k < 0.65:
        return image + F4(rng.uniform(0.3, 1.0)) * (image - cv2.GaussianBlur(image, (0, 0), max(0.5, 1.2 * px)))
    return image


def _text(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A line of letters near the upper or lower edge."""
    n = image.shape[0]
    px = n / 384
    letters = "".join(chr(rng.integers(97, 123)) for _ in range(rng.integers(4, 14)))
    layer = np.zeros((n, n), np.uint8)
    x = int(rng.uniform(0, 0.52) * n)
    y = int((rng.uniform(0.04, 0.16) if rng.random() < 0.5 else rng.uniform(0.89, 0.99)) * n)
    scale, thick = float(rng.uniform(0.4, 1.0) * px), max(1, int(rng.uniform(1, 3) * px))
    cv2.putText(layer, letters, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, 255, thick, cv2.LINE_AA)
    share = (layer * F4(1 / 255))[..., None]
    return image * (1 - share) + rng.random(3).astype(F4) * share


def _borders(image: np.ndarray, landmarks: np.ndarray, rng: np.random.Generator) -> None:
    """Black where the photograph ended, on one or two sides; in place."""
    n = image.shape[0]
    px = n / 384
    low, high = landmarks.min(0), landmarks.max(0)
    room = [low[1] - 55 * px, n - high[1] + 5 * px, low[0] - 12 * px, n - high[0] - 12 * px]
    for side in rng.permutation(4)[: rng.integers(1, 3)]:
        free = max(0, room[side])
        width = int(rng.uniform(0.1, 1.0) * min(free, 130 * px))
        if rng.random() < 0.12:  # now and then it ends inside the face
            width = int(free + rng.uniform(0, 0.3) * (high - low)[0 if side > 1 else 1])
        width = min(width, n)
        edge = slice(0, width) if side in (0, 2) else slice(n - width, n)  # top, bottom, left, right
        if side < 2:
            image[edge] = 0
        else:
            image[:, edge] = 0
