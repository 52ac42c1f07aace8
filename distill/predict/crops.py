"""The square crop that a network sees, and the map of its points back to the picture's own pixels.

Pixels are counted as everywhere in this package (see distill/landmarks.py): (0, 0) is the outer corner of the top-left
pixel. So both ways are one scale and one shift, exact to rounding error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from distill.data import geometry
from distill.errors import UserError

# Side of the crop over the larger side of the face box. Training's crops are 1.9 times the box of the landmarks, and
# the boxes of face detectors are usually somewhat larger than that. On photographs, 1.6 to 1.9 times the landmarks' box
# are equally good, and errors rise on both sides of that.
BOX_SCALE = 1.75
_LIFT = 0.17  # the crop's centre moves up by this share of what is added to the box: a forehead needs more than a chin
LARGEST = 100  # times the picture's longer side that a crop may have


class Box(NamedTuple):
    """A face in a picture, pixels: left, top, width, height."""

    x: float
    y: float
    width: float
    height: float


class Crop(NamedTuple):
    """What the network sees of a picture, and where that lies in it."""

    pixels: np.ndarray  # (S, S, 3) uint8 RGB
    left: float  # pixels of the picture; negative where the crop reaches beyond it
    top: float
    side: float

    def to_picture(self, points: np.ndarray) -> np.ndarray:
        """(..., 2) points in pixels of the crop -> (..., 2) float32 in pixels of the picture."""
        scale = self.side / self.pixels.shape[0]
        return (np.asarray(points, np.float64) * scale + (self.left, self.top)).astype(np.float32)


def cut(image: np.ndarray, size: int, box: Sequence[float] | None = None, box_scale: float = BOX_SCALE) -> Crop:
    """Crop (H, W, 3) uint8 RGB to (size, size, 3), around a face box `x, y, width, height` or whole.

    With a box the crop is a square of box_scale times its larger side, black outside the picture, made by the same warp
    as training's crops. Without one the whole picture is the crop, resized just as evaluation does. A picture that is
    not square is letterboxed: black is added at both sides of the shorter direction. Every training face has its true
    proportions, and often black at a side of its crop; on photographs cut to 0.7 of their width, letterboxing keeps the
    error where it was (2.8 %) and stretching raises it to 3.6 %.

    Raises UserError for a box that is no box (see `checked`), lies outside the picture, or a box_scale not above 0.
    """
    height, width = image.shape[:2]
    if box is None:
        return _whole(image, size)
    if not (math.isfinite(box_scale) and box_scale > 0):
        raise UserError(f"The box scale is {box_scale}; expected a number above 0.")
    x, y, w, h = checked(box)
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        raise UserError(f"The face box {x:g}, {y:g}, {w:g}, {h:g} lies outside its picture of {width}x{height} pixels.")
    longest = max(w, h)
    side = box_scale * longest
    if side > LARGEST * max(width, height):
        raise UserError(
            f"The face box {x:g}, {y:g}, {w:g}, {h:g} with scale {box_scale:g} makes a crop of {side:g} pixels; "
            f"expected at most {LARGEST} times the picture's {width}x{height}."
        )
    left = x + w / 2 - side / 2
    top = y + h / 2 - side / 2 - _LIFT * (side - longest)
    scale = size / side
    matrix = np.array([[scale, 0, -scale * left], [0, scale, -scale * top], [0, 0, 1.0]])
    return Crop(geometry.warp(image, matrix, size), left, top, side)


def checked(box: Sequence[float]) -> Box:
    """`x, y, width, height` as a Box. Raises UserError unless these are four finite numbers, the last two above 0."""
    try:
        x, y, w, h = (float(value) for value in box)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"The face box is {box!r}; expected four numbers: x, y, width, height.") from None
    if not all(math.isfinite(value) for value in (x, y, w, h)) or w <= 0 or h <= 0:
        raise UserError(
            f"The face box is {x:g}, {y:g}, {w:g}, {h:g}; expected finite numbers, width and height above 0."
        )
    return Box(x, y, w, h)


def _whole(image: np.ndarray, size: int) -> Crop:
    (side,), (left, top) = geometry.frame_of(np.array(image.shape[1::-1]))
    return Crop(geometry.resize(geometry.square(image), size), -left, -top, side)
