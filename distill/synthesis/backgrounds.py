"""What is behind a head: studio, gradients, clouds of colour, room-like clutter, photographs. Linear RGB.

Pictures are painted and blurred at a fraction of their size where the blur allows it. Lengths in px are those of 384.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

from distill.synthesis.facemodel import ASSETS
from distill.synthesis.noise import cloud
from distill.synthesis.sampling import SKIN, colour, linear

F4 = np.float32


@cache
def photographs() -> list[np.ndarray]:
    """Textures and scenes without people, (h, w, 3) float32 linear; the shorter side has 200 to 512 px."""
    table = linear(np.arange(256)).astype(F4)
    files = sorted((ASSETS / "backgrounds").glob("*.webp"))
    return [table[cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]] for file in files]


def background(rng: np.random.Generator, size: int) -> np.ndarray:
    """(size, size, 3) float32."""
    blur = rng.uniform(0.5, 14) if rng.random() < 0.7 else 0.0
    n = size if blur < 2 else size // 2 if blur < 6 else size // 4
    colours = [colour(rng, 0.8) for _ in range(3)]
    k = rng.random()
    if k < 0.27:
        image = _studio(rng, n, colours[0])
    elif k < 0.36:
        image = _gradient(rng, n, colours)
    elif k < 0.56:
        image = _clouds(rng, n, colours)
    elif k < 0.76:
        image = _clutter(rng, n, colours[0])
    else:
        image = _photograph(rng, n)
    if blur:
        image = cv2.GaussianBlur(image, (0, 0), max(0.3, blur * (n / 384)))
        if blur > 5 and rng.random() < 0.3:
            image = image + _lights(rng, n)
    return image if n == size else cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)


def _studio(rng: np.random.Generator, n: int, tint: np.ndarray) -> np.ndarray:
    """Plain, often white or black."""
    q = rng.random()
    if q > 0.82:
        base = tint
    else:
        base = np.ones(3) * (
            rng.uniform(0.8, 1.6) if q < 0.36 else rng.uniform(0, 0.015) if q < 0.6 else rng.uniform(0.03, 0.6)
        )
    x, y = rng.random(2)
    line = np.linspace(0, 1, n)
    distance = np.hypot(line[None] - x, line[:, None] - y)
    return ((1 - rng.uniform(0, 0.5) * distance)[..., None] * base).astype(F4)


def _gradient(rng: np.random.Generator, n: int, colours: list[np.ndarray]) -> np.ndarray:
    angle = rng.random() * 6.28
    x = np.linspace(-0.5, 0.5, n)
    t = (np.cos(angle) * x[None] + np.sin(angle) * x[:, None] + 0.5).clip(0, 1)[..., None]
    return (colours[0] * (1 - t) + colours[1] * t).astype(F4)


def _clouds(rng: np.random.Generator, n: int, colours: list[np.ndarray]) -> np.ndarray:
    """Cloudy colours, or foliage."""
    f, g = cloud(rng, n, 0.9, 2.2), cloud(rng, n, 1.0, 2.2)
    if rng.random() < 0.5:
        leaf = [rng.integers(30, 90), rng.integers(60, 130), rng.integers(15, 60)]
        sunny = [rng.integers(120, 220), rng.integers(140, 210), rng.integers(70, 140)]
        colours = [linear(leaf), linear(sunny), linear([20, 36, 14])]
    a, b, c = np.asarray(colours, F4)
    t = np.clip((f + 1.2) / 2.4, 0, 1)[..., None]
    image = a + (b - a) * (t * t * (3 - 2 * t))
    t = np.clip(g / 1.2, 0, 1)[..., None]
    image += (c - image) * (t * t * (3 - 2 * t))
    return image


def _clutter(rng: np.random.Generator, n: int, base: np.ndarray) -> np.ndarray:
    """Like a room or a street: rectangles, polygons, lines, blobs, and now and then heads of other people."""
    px = n / 384
    image = np.empty((n, n, 3), F4)
    image[:] = base
    for _ in range(rng.integers(4, 28)):
        own = tuple(map(float, colour(rng, 0.7)))
        q = rng.random()
        if q < 0.45:
            corner, extent = rng.uniform(-0.26, 1, 2) * n, rng.uniform(0.03, 0.68, 2) * n
            cv2.rectangle(image, tuple(map(int, corner)), tuple(map(int, corner + extent)), own, -1)
        elif q < 0.6:
            points = rng.uniform(-0.13, 1.13, (rng.integers(3, 6), 2)) * n
            cv2.fillPoly(image, [points.astype(np.int32)], own)
        elif q < 0.8:
            p = rng.uniform(-0.13, 1.13, 4) * n
            thick = max(1, int(rng.uniform(1, 14) * px))
            cv2.line(image, tuple(map(int, p[:2])), tuple(map(int, p[2:])), own, thick, cv2.LINE_AA)
        else:
            centre = tuple(map(int, rng.uniform(0, 1, 2) * n))
            cv2.circle(image, centre, max(1, int(rng.uniform(5, 70) * px)), own, -1, cv2.LINE_AA)
    image *= (1 + 0.15 * cloud(rng, n, 1.4, 1.6)[..., None]).clip(0.2, 2)
    if rng.random() < 0.25:
        for _ in range(rng.integers(1, 4)):
            (x, y), r = rng.uniform(0.1, 1, 2) * n, rng.uniform(20, 60) * px
            skin = SKIN[rng.integers(len(SKIN))] * rng.uniform(0.3, 1)
            body, hair, face = (2.3, 1.9, 1.4, colour(rng)), (-0.25, 0.95, 1.2, skin * 0.1), (0, 0.75, 1, skin)
            for lower, rx, ry, tint in (body, hair, face):
                centre, axes = (int(x), int(y + lower * r)), (int(rx * r), int(ry * r))
                cv2.ellipse(image, centre, axes, 0, 0, 360, tuple(map(float, tint)), -1)
    return image


def _photograph(rng: np.random.Generator, n: int) -> np.ndarray:
    """A square cut from a photograph, mirrored or not, in another light."""
    photos = photographs()
    photo = photos[rng.integers(len(photos))]
    h, w = photo.shape[:2]
    side = int(rng.uniform(min(150, min(h, w) - 1), min(h, w)))
    y, x = int(rng.random() * (h - side)), int(rng.random() * (w - side))
    cut = photo[y : y + side, x : x + side]
    image = cv2.resize(cut, (n, n), interpolation=cv2.INTER_AREA if n < side else cv2.INTER_LINEAR)
    if rng.random() < 0.5:
        image = np.ascontiguousarray(image[:, ::-1])
    return image * (rng.uniform(0.6, 1.4) * np.exp(0.12 * rng.standard_normal(3))).astype(F4)


def _lights(rng: np.random.Generator, n: int) -> np.ndarray:
    """Lights out of focus, on black."""
    layer = np.zeros((n, n, 3), F4)
    for _ in range(rng.integers(5, 30)):
        centre = tuple(map(int, rng.uniform(0, 1, 2) * n))
        radius = max(1, int(rng.uniform(4, 22) * (n / 384)))
        own = tuple(map(float, colour(rng) * rng.uniform(0.2, 1.0)))
        cv2.circle(layer, centre, radius, own, -1, cv2.LINE_AA)
    return layer
