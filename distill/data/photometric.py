"""Photometric augmentation: steps that change colours and sharpness and leave every pixel where it is.

A step is named and set like a transform of albumentations (`augment.photometric.NAME: {name, p, args}`), and draws from
the same distribution. The usual ones are implemented here (`OWN`), several times faster; albumentations is imported
only where another step is configured, or arguments that are not known here. Such a step is measured when it is built
(centring.py): one that moves the picture would move it away from its landmarks, which stay.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib.util import find_spec
from typing import Annotated, Any, Literal

import cv2
import numpy as np
from pydantic import BeforeValidator, Field, WrapValidator

from distill.config import StepConfig
from distill.errors import UserError
from distill.schema import Section, validated

Step = Callable[[np.ndarray, np.random.Generator], np.ndarray]  # (H, W, 3) uint8 -> the same shape and type

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as in OpenCV's and albumentations' greys


class Photometric:
    """The steps of a config, each with its probability, in their order.

    Raises UserError naming the key of a step that cannot be built or that moves the picture.
    """

    def __init__(self, steps: dict[str, StepConfig]):
        self.steps = [(step.p, build(f"augment.photometric.{key}", step)) for key, step in steps.items()]

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(H, W, 3) uint8 -> the same shape and type; all chance comes from rng.

        Each step has a stream of its own, so that views of one sample at two sizes get the same steps, whatever one
        draws.
        """
        chances = rng.random(len(self.steps))
        seeds = rng.integers(2**63, size=len(self.steps))
        for (p, step), chance, seed in zip(self.steps, chances, seeds, strict=True):
            if chance < p:
                image = step(image, np.random.default_rng(seed))
        return image


def build(key: str, step: StepConfig) -> Step:
    """The step that `key` of a config describes. Raises UserError."""
    own = OWN.get(step.name)
    if own is not None:
        try:
            return validated(own, step.args, step.name, f"{key}.args")
        except UserError:
            if own in (Downscale, MotionBlur) or find_spec("albumentations") is None:
                raise
    from distill.data.albumentations_step import AlbumentationsStep

    return AlbumentationsStep(key, step)


# ---------------------------------------------------------------------------------------------------- arguments


Pair = tuple[float, float]
WholePair = tuple[int, int]


def _within(low: float, high: float) -> WrapValidator:
    """Of a pair: both numbers from low to high, the lower one first; YAML has it as a list."""

    def check(value: Any, validate: Callable[[Any], Any]) -> Any:
        pair = validate(tuple(value) if isinstance(value, list) else value)
        if not low <= pair[0] <= pair[1] <= high:
            raise ValueError(f"two numbers from {low:g} to {high:g}, the lower one first")
        return pair

    return WrapValidator(check)


def _around(middle: float) -> BeforeValidator:
    """A single number v stands for the range from middle - v to middle + v; a factor's, about 1, stays above 0."""

    def widen(value: Any) -> Any:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return (max(middle - value, 0) if middle else -value, middle + value)
        return value

    return BeforeValidator(widen)


Factor = Annotated[Pair, _within(0, 100), _around(1)]


# ---------------------------------------------------------------------------------------------------- colours


class ColorJitter(Section):
    """Brightness and contrast as one lookup table, saturation and hue as one 3 x 3 matrix.

    albumentations applies the four in random order with a cut at 0 and 255 after each, and turns the hue in HSV; here
    the hue turns about the grey axis, and each half is cut once.
    """

    brightness: Factor = (0.8, 1.2)
    contrast: Factor = (0.8, 1.2)
    saturation: Factor = (0.8, 1.2)
    hue: Annotated[Pair, _within(-0.5, 0.5), _around(0)] = (-0.5, 0.5)  # turns

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        brightness, contrast = rng.uniform(*self.brightness), rng.uniform(*self.contrast)
        saturation, angle = rng.uniform(*self.saturation), 2 * np.pi * rng.uniform(*self.hue)
        grey = LUMA @ cv2.mean(image)[:3]
        image = _look_up(image, brightness * (contrast * _LEVELS + (1 - contrast) * grey))
        if saturation == 1 and angle == 0:
            return image
        colour = np.cos(angle) * _COS + np.sin(angle) * _SIN + _FIXED
        return cv2.transform(image, saturation * colour + _TO_GREY)


# What is not grey in a pixel turns about the grey axis by Rodrigues' formula: cos * (1 - along) + sin * across + along.
_TO_GREY = np.tile(LUMA, (3, 1))
_ALONG, _ACROSS = np.full((3, 3), 1 / 3), np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
_COS, _SIN, _FIXED = (part @ (np.eye(3) - _TO_GREY) for part in (np.eye(3) - _ALONG, _ACROSS, _ALONG))


class RandomGamma(Section):
    """Brightness to the power of gamma_limit / 100."""

    gamma_limit: Annotated[Pair, _within(1, 1000)] = (80, 120)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return _look_up(image, 255 * (_LEVELS / 255) ** (rng.uniform(*self.gamma_limit) / 100))


class ToGray(Section):
    """No colour."""

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


_LEVELS = np.arange(256.0)


def _look_up(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    return cv2.LUT(image, np.clip(np.rint(table), 0, 255).astype(np.uint8))


# ---------------------------------------------------------------------------------------------------- sharpness, noise


class GaussNoise(Section):
    """Independent normal noise in each value; std_range in parts of 255. Taken from a pool at a random place in it."""

    std_range: Annotated[Pair, _within(0, 1)] = (0.2, 0.44)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        start = int(rng.integers(_PLACES))
        noise = _noise(image.size)[start : start + image.size].reshape(image.shape)
        noisy = cv2.scaleAdd(noise, 255 * rng.uniform(*self.std_range), image.astype(np.float32))
        return cv2.add(noisy, 0, dtype=cv2.CV_8U)  # type: ignore[call-overload]  # rounds, and cuts at 0 and 255


_PLACES = 2**18


@functools.lru_cache(maxsize=4)
def _noise(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(count + _PLACES, np.float32)


class GaussianBlur(Section):
    """blur_limit: side of the kernel, pixels, made odd; 0: 7 sigma. sigma_limit: pixels."""

    blur_limit: Annotated[WholePair, _within(0, 99)] = (0, 0)
    sigma_limit: Annotated[Pair, _within(0.01, 30)] = (0.5, 3.0)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        sigma = rng.uniform(*self.sigma_limit)
        low, high = self.blur_limit
        side = int(rng.integers(low, high, endpoint=True)) or 2 * int(3.5 * sigma)
        return cv2.GaussianBlur(image, (side | 1, side | 1), sigma)


class MotionBlur(Section):
    """Blur along a straight line that is centred on the pixel.

    blur_limit: least and largest side of the kernel, pixels; odd ones are drawn. angle_range: degrees. direction_range:
    its size shortens the line, from the kernel's side at 0 to half of it at 1. albumentations' kernels lie off the
    centre (0.7 px on average), by direction and by allow_shifted; neither moves anything here.
    """

    blur_limit: Annotated[WholePair, _within(3, 99), BeforeValidator(lambda n: (3, n) if isinstance(n, int) else n)] = (
        3,
        7,
    )
    angle_range: Annotated[Pair, _within(0, 360)] = (0, 360)
    direction_range: Annotated[Pair, _within(-1, 1)] = (-1.0, 1.0)
    allow_shifted: bool = True

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        half = int(rng.integers(self.blur_limit[0] // 2, self.blur_limit[1] // 2, endpoint=True))
        angle = np.radians(rng.uniform(*self.angle_range))
        length = half * (1 - abs(rng.uniform(*self.direction_range)) / 2)
        return cv2.filter2D(image, -1, _line(half, length * np.cos(angle), length * np.sin(angle)))


def _line(half: int, dx: float, dy: float) -> np.ndarray:
    """(2 half + 1, same) float32 kernel of sum 1: the line from (-dx, -dy) to (dx, dy) about the centre, smoothed."""
    along = np.linspace(-1, 1, 4 * half + 1)[:, None]
    offsets = np.arange(-half, half + 1)
    in_x = np.maximum(1 - np.abs(offsets - dx * along), 0)  # bilinear weights of each point of the line
    in_y = np.maximum(1 - np.abs(offsets - dy * along), 0)
    kernel = in_y.T @ in_x
    return (kernel / kernel.sum()).astype(np.float32)


class Downscale(Section):
    """Lose detail: shrink to a random fraction of the side by averaging areas, enlarge bilinearly.

    albumentations' transform of this name moves the picture by 1.4 px with its nearest neighbours, and by 0.2 px with
    any interpolation, since it rounds the small size but not the scale; its interpolation_pair is therefore not used.
    """

    scale_range: Annotated[Pair, _within(0.01, 1)] = (0.25, 0.25)
    interpolation_pair: dict | None = None

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        height, width = image.shape[:2]
        scale = rng.uniform(*self.scale_range)
        small = (max(1, round(scale * width)), max(1, round(scale * height)))
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


class ImageCompression(Section):
    """Through JPEG and back."""

    quality_range: Annotated[WholePair, _within(1, 100)] = (99, 100)
    compression_type: Literal["jpeg"] = "jpeg"

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        low, high = self.quality_range
        quality = int(rng.integers(low, high, endpoint=True))
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)


class CoarseDropout(Section):
    """Rectangles of one colour; ranges of their sides in parts of the picture's. fill: a level, or a random colour."""

    num_holes_range: Annotated[WholePair, _within(1, 1000)] = (1, 2)
    hole_height_range: Annotated[Pair, _within(0, 0.999)] = (0.1, 0.2)
    hole_width_range: Annotated[Pair, _within(0, 0.999)] = (0.1, 0.2)
    fill: Annotated[int, Field(ge=0, le=255)] | Literal["random_uniform"] = 0

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        image = image.copy()
        low, high = self.num_holes_range
        for _ in range(rng.integers(low, high, endpoint=True)):
            height = int(image.shape[0] * rng.uniform(*self.hole_height_range))
            width = int(image.shape[1] * rng.uniform(*self.hole_width_range))
            down, right = rng.random(2)  # not pixels, so that a view at another size has the same holes
            top, left = int(down * (image.shape[0] - height + 1)), int(right * (image.shape[1] - width + 1))
            colour = rng.integers(0, 256, 3) if self.fill == "random_uniform" else self.fill
            image[top : top + height, left : left + width] = colour
        return image


_STEPS: list[Any] = [
    ColorJitter,
    RandomGamma,
    ToGray,
    GaussNoise,
    GaussianBlur,
    MotionBlur,
    Downscale,
    ImageCompression,
]
OWN = {step.__name__: step for step in [*_STEPS, CoarseDropout]}
