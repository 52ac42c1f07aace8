"""Pictures of whatever kind -> (H, W, 3) uint8 RGB."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from distill.data import images
from distill.errors import UserError
from distill.files import atomic

PIL_MODES = ("RGB", "L", "RGBA", "LA", "PA", "P", "1", "CMYK", "YCbCr")


def to_rgb(picture: Any) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a path, an array of that shape, or a PIL image.

    Arrays and PIL images are taken as they are stored: an EXIF orientation is honoured in files only. A PIL image of 16
    bits is read as its file would be. Raises UserError for anything else, and for PIL modes whose value range is not
    known.
    """
    if isinstance(picture, (str, os.PathLike)):
        return images.read(Path(picture), upright=True)
    if hasattr(picture, "convert"):  # a PIL image, without importing PIL
        picture = _from_pil(picture)
    if not isinstance(picture, np.ndarray):
        raise UserError(f"The image is a {type(picture).__name__}; expected a path, an array or a PIL image.")
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or not picture.size:
        raise UserError(
            f"The image is an array of shape {picture.shape} and type {picture.dtype}; expected (H, W, 3) uint8 RGB."
        )
    return picture


def _from_pil(image: Any) -> np.ndarray:
    if image.mode.startswith("I;16"):  # `convert` would clip these values instead of scaling them
        grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode not in PIL_MODES:
        raise UserError(f"The image is a PIL image of mode '{image.mode}'; expected {', '.join(PIL_MODES)} or I;16.")
    return np.asarray(image.convert("RGB"))


def write(path: Path, image: np.ndarray) -> Path:
    """Write (H, W, 3) uint8 RGB atomically, in the format of the path's suffix."""
    encoded, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not encoded:
        raise UserError(f"Image '{path}' cannot be written.")
    with atomic(path) as temporary:  # by Python: a name may be no UTF-8, and a full disk raises OSError
        temporary.write_bytes(data.tobytes())
    return path
