"""Picture files -> pixels: the one reader of all commands.

Only regular files are opened, a picture's size is known and bounded before a pixel is decoded, and a file that stops
before its end is refused. What follows the end of a picture does not matter.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image

from distill.errors import UserError
from distill.files import open_regular

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
MOST_PIXELS = 100_000_000
MOST_BYTES = 8 * MOST_PIXELS  # of a file: 16 bits a value, four values a pixel
# A larger picture with more pixels a byte is no picture: PNG and TIFF hold at most 1032 values of one colour a byte,
# JPEG fewer. WebP alone could, for a picture of one colour.
MOST_PIXELS_A_BYTE = 4000
AT_ONCE = 8  # pictures that are decoded at a time, whatever the number of cores: each may be the largest
SMALL = 4_000_000  # pixels: up to here a claim costs little

_REDUCED = {8: cv2.IMREAD_REDUCED_GRAYSCALE_8, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4, 2: cv2.IMREAD_REDUCED_GRAYSCALE_2}
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
_JPEG_END = b"\xff\xd9"
_START_OF_SCAN = b"\xff\xda"

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # the bound here takes its place


class Broken(Exception):
    """Why one image, or its label, cannot be used: the rest of a sentence about it."""


def is_picture(name: str) -> bool:
    """Whether a file of a folder counts as a picture: by its suffix, and not hidden, as what a Mac leaves behind is."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def size(path: Path) -> tuple[int, int]:
    """Width and height of a picture as it is stored, from its header. Raises Broken, as `decode` does."""
    try:
        with open_regular(path) as file:
            return _check(file)
    except OSError as error:
        raise Broken(f"it cannot be read ({error.strerror or error})") from None


def decode(path: Path, upright: bool = False) -> np.ndarray:
    """(H, W, 3) uint8 RGB, contiguous, of a JPEG, PNG, BMP, WebP or TIFF file, whatever its name.

    upright: obey a camera's orientation mark, as viewers do; else the pixels as they are stored, which labels refer to.
    Raises Broken for a file that is not there, not regular, no such picture, cut short, over MOST_PIXELS, or damaged so
    that nothing can be decoded.
    """
    return _decode(path, lambda _: cv2.IMREAD_COLOR_RGB | (0 if upright else cv2.IMREAD_IGNORE_ORIENTATION))


def decode_grey(path: Path, least: int) -> np.ndarray:
    """(h, w) uint8 grey of a picture as it is stored, reduced to 1/2, 1/4 or 1/8 where both sides keep `least` pixels.

    A JPEG is decoded at that size, several times faster. Raises Broken, as `decode` does.
    """

    def flag(sides: tuple[int, int]) -> int:
        for factor, reduced in _REDUCED.items():
            if min(sides) >= factor * least:
                return reduced | cv2.IMREAD_IGNORE_ORIENTATION
        return cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION

    return _decode(path, flag)


def read(path: Path, upright: bool = False) -> np.ndarray:
    """As `decode`. Raises UserError naming the file."""
    try:
        return decode(path, upright)
    except Broken as reason:
        raise UserError(f"Image '{path}' cannot be used: {reason}.") from None


def _decode(path: Path, flag: Callable[[tuple[int, int]], int]) -> np.ndarray:
    """flag: width and height -> one of OpenCV's. Raises Broken."""
    try:
        with open_regular(path) as file:
            sides = _check(file)
            file.seek(0)
            data = np.frombuffer(file.read(), np.uint8)
    except OSError as error:
        raise Broken(f"it cannot be read ({error.strerror or error})") from None
    try:
        pixels = cv2.imdecode(data, flag(sides))
    except cv2.error:
        pixels = None
    if pixels is None:
        raise Broken("it is damaged and cannot be decoded")
    return pixels


def _check(file: BinaryIO) -> tuple[int, int]:
    """Width and height by the header of a file that is complete to its end. Raises Broken."""
    length = file.seek(0, 2)
    if length == 0:
        raise Broken("it is empty")
    if length > MOST_BYTES:
        raise Broken(f"it has {length:,} bytes, over {MOST_BYTES:,}")
    file.seek(0)
    too_many = f"over {MOST_PIXELS // 10**6} million pixels"
    try:
        with Image.open(file, formats=_FORMATS) as picture:
            (width, height), kind = picture.size, picture.format
    except Image.DecompressionBombError:
        raise Broken(f"it has {too_many}") from None
    except Exception:  # whatever a damaged header makes the plugins raise
        raise Broken("it is not a picture, or its header is broken (expected JPEG, PNG, BMP, WebP or TIFF)") from None
    if width * height > MOST_PIXELS:
        raise Broken(f"it has {width}x{height} pixels, {too_many}")
    if width * height > max(SMALL, MOST_PIXELS_A_BYTE * length):
        raise Broken(f"its header claims {width}x{height} pixels, more than its {length:,} bytes can hold")
    whole = {"JPEG": _whole_jpeg, "MPO": _whole_jpeg, "PNG": _whole_png}.get(kind)  # MPO: a JPEG with others behind it
    if whole and not whole(file):
        raise Broken(f"it is truncated (a {kind} without its end)")
    return width, height


def _whole_jpeg(file: BinaryIO) -> bool:
    """Whether the end marker is there; a thumbnail in the header has one of its own, before the picture's scan."""
    file.seek(max(0, file.seek(0, 2) - 64))
    if _JPEG_END in file.read():
        return True
    file.seek(0)
    data = file.read()  # something was appended
    return data.find(_JPEG_END, max(0, data.rfind(_START_OF_SCAN))) >= 0


def _whole_png(file: BinaryIO) -> bool:
    """Whether chunk follows on chunk up to the last. OpenCV reserves what a chunk claims: 2 GB by one wrong byte."""
    length, position = file.seek(0, 2), 8  # behind the signature
    while position + 12 <= length:  # its data's length, name, data, checksum
        file.seek(position)
        count, name = struct.unpack(">I4s", file.read(8))
        position += 12 + count
        if name == b"IEND":
            return position <= length
    return False
