"""Photometric augmentation: steps that change colours and sharpness and leave every pixel where it is.

A step is named and set like a transform of albumentations (`augment.photometric.NAME: {name, p, args}`). The steps in
`OWN` are implemented here, and albumentations is imported only where another one is configured. Those are measured when
they are built (centring.py): a step that moves the picture would move it away from its landmarks, which stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from distill.config import StepConfig
from distill.errors import UserError

Step = Callable[[np.ndarray, np.random.Generator], np.ndarray]  # (H, W, 3) uint8 -> the same shape and type


class Photometric:
    """The steps of a config, each with its probability, in their order.

    Raises UserError naming the key of a step that cannot be built or that moves the picture.
    """

    def __init__(self, steps: dict[str, StepConfig]):
        self.steps = [(step.p, _build(f"augment.photometric.{key}", step)) for key, step in steps.items()]

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(H, W, 3) uint8 -> the same shape and type; all chance comes from rng.

        Each step has a stream of its own, so that views of one sample at two sizes get the same steps, whatever one draws.
        """
        chances = rng.random(len(self.steps))
        seeds = rng.integers(2**63, size=len(self.steps))
        for (p, step), chance, seed in zip(self.steps, chances, seeds, strict=True):
            if chance < p:
                image = step(image, np.random.default_rng(seed))
        return image


def _build(key: str, step: StepConfig) -> Step:
    if step.name in OWN:
        try:
            return OWN[step.name](**step.args)
        except (TypeError, ValueError) as error:
            raise UserError(f"{key}.args do not fit {step.name}: {error}.") from None
    from distill.data.albumentations_step import AlbumentationsStep  # imports torch, and seconds

    return AlbumentationsStep(key, step)


def _check_range(name: str, pair, low: float, high: float) -> tuple:
    """A pair in order and within bounds. Raises ValueError."""
    if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(n, int | float) for n in pair):
        raise ValueError(f"{name} is {pair!r}; expected two numbers")
    if not low <= pair[0] <= pair[1] <= high:
        raise ValueError(f"{name} is {list(pair)}; expected two rising numbers from {low:g} to {high:g}")
    return tuple(pair)


# ---------------------------------------------------------------------------------------------------- the steps


@dataclass(frozen=True)
class Downscale:
    """Lose detail: shrink to a random fraction of the side by averaging areas, enlarge bilinearly.

    albumentations' transform of this name moves the picture by 1.4 px with its nearest neighbours, and by 0.2 px with
    any interpolation, since it rounds the small size but not the scale; its interpolation_pair is therefore not used.
    """

    scale_range: tuple[float, float] = (0.25, 0.25)
    interpolation_pair: dict | None = None

    def __post_init__(self):
        _check_range("scale_range", self.scale_range, 0.01, 1.0)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        height, width = image.shape[:2]
        scale = rng.uniform(*self.scale_range)
        small = (max(1, round(scale * width)), max(1, round(scale * height)))
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


@dataclass(frozen=True)
class MotionBlur:
    """Blur along a straight line that is centred on the pixel.

    blur_limit: least and largest kernel side, pixels; odd ones are drawn. angle_range: degrees. direction_range: its
    size shortens the line, from the kernel's side at 0 to half of it at 1. albumentations' kernels lie off the centre
    (0.7 px on average), by direction and by allow_shifted; neither moves anything here.
    """

    blur_limit: tuple[int, int] | int = (3, 7)
    angle_range: tuple[float, float] = (0, 360)
    direction_range: tuple[float, float] = (-1.0, 1.0)
    allow_shifted: bool = True

    def __post_init__(self):
        limit = (3, self.blur_limit) if isinstance(self.blur_limit, int) else self.blur_limit
        object.__setattr__(self, "blur_limit", _check_range("blur_limit", limit, 3, 99))
        _check_range("angle_range", self.angle_range, 0, 360)
        _check_range("direction_range", self.direction_range, -1, 1)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        half = rng.integers(self.blur_limit[0] // 2, self.blur_limit[1] // 2 + 1)
        angle = np.radians(rng.uniform(*self.angle_range))
        length = half * (1 - abs(rng.uniform(*self.direction_range)) / 2)
        return cv2.filter2D(image, -1, _line(int(half), length * np.cos(angle), length * np.sin(angle)))


def _line(half: int, dx: float, dy: float) -> np.ndarray:
    """(2 half + 1, same) float32 kernel of sum 1: the line from (-dx, -dy) to (dx, dy) about the centre, antialiased."""
    along = np.linspace(-1, 1, 4 * half + 1)
    offsets = np.arange(-half, half + 1)
    in_x = np.maximum(1 - np.abs(offsets - dx * along[:, None]), 0)  # bilinear weights of each point of the line
    in_y = np.maximum(1 - np.abs(offsets - dy * along[:, None]), 0)
    kernel = in_y.T @ in_x
    return (kernel / kernel.sum()).astype(np.float32)


OWN: dict[str, Callable[..., Step]] = {step.__name__: step for step in (Downscale, MotionBlur)}
