"""Pictures of whatever kind -> (H, W, 3) uint8 RGB."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from distill.errors import UserError
from distill.files import atomic

PIL_MODES = ("RGB", "L", "RGBA", "LA", "PA", "P", "1", "CMYK", "YCbCr")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def to_rgb(picture: Any) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a path, an array of that shape, or a PIL image.

    Arrays and PIL images are taken as they are stored: an EXIF orientation is honoured in files only. A PIL image of 16
    bits is read as its file would be. Raises UserError for anything else, and for PIL modes whose value range is not
    known.
    """
    if isinstance(picture, (str, os.PathLike)):
        return read(Path(picture))
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


def read(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a picture file, upright: a camera's orientation mark is obeyed, as viewers do.

    Raises UserError where the file cannot be read or decoded.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"Image '{path}' cannot be read: it is not a regular file.")
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except OSError as error:
        raise UserError(f"Image '{path}' cannot be read: {error.strerror or error}.") from None
    except cv2.error:
        pixels = None
    if pixels is None:
        raise UserError(f"Image '{path}' cannot be decoded; expected a picture ({', '.join(SUFFIXES)}).")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def write(path: Path, image: np.ndarray) -> Path:
    """Write (H, W, 3) uint8 RGB atomically, in the format of the path's suffix."""
    with atomic(path) as temporary:
        done = cv2.imwrite(str(temporary), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        if not done or not temporary.stat().st_size:
            raise UserError(f"Image '{path}' cannot be written; is the disk full?")
    return path
