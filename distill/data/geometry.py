"""All geometry of an augmentation as one 3x3 matrix, applied to image and landmarks alike.

A matrix maps continuous source pixels to continuous pixels of the size x size result (column vectors, third coordinate
the projective one). Fusing the steps makes one interpolation instead of six and keeps points and pixels together to
rounding error.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:  # prediction from an ONNX file warps with this module where no config can be read
    from distill.config import AugmentConfig

_CORNERS = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])  # of the frame, in sides, from its centre
_SAMPLES = 1.6  # blocks a result pixel, along each side, from which `warp` samples
_FLATTEST = 0.4  # least projective denominator within one and a half frames; below, points come near the horizon


def sample_matrix(
    rng: np.random.Generator, augment: AugmentConfig, width: int, height: int, size: int
) -> tuple[np.ndarray, bool]:
    """Draw one augmentation: (3, 3) float64 source pixels -> pixels of size x size, and whether it mirrors.

    Fit into the frame (`frame_of`), then about its centre: mirror, perspective, shear, scale, rotation, shift. Ranges
    are those of AugmentConfig; the rare wide rotation takes the usual one's place with probability rotate_wide_p.
    Whoever applies a mirroring matrix to landmarks also owes them the flip permutation.
    """
    flipped = bool(rng.random() < augment.flip)
    most = augment.rotate_wide if rng.random() < augment.rotate_wide_p else augment.rotate
    angle = math.radians(rng.uniform(-most, most))
    scale = math.exp(rng.uniform(-1, 1) * math.log1p(augment.scale))
    shift = rng.uniform(-augment.shift, augment.shift, 2)
    shear = np.tan(np.radians(rng.uniform(-augment.shear, augment.shear, 2)))
    corners = rng.uniform(-augment.perspective, augment.perspective, (4, 2))

    # In sides of the frame, from its centre.
    (side,), (left, top) = frame_of(np.array([width, height]))
    to_frame = np.array([[1 / side, 0, left / side - 0.5], [0, 1 / side, top / side - 0.5], [0, 0, 1.0]])
    mirror = np.diag([-1.0 if flipped else 1.0, 1.0, 1.0])
    slant = np.array([[1, shear[0], 0], [shear[1], 1, 0], [0, 0, 1.0]])
    slant[:2, :2] /= math.sqrt(
        abs(np.linalg.det(slant[:2, :2])) or 1.0
    )  # a shear keeps areas; scale is scale's to change
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    turn = np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]], [0, 0, 1.0]])
    to_pixels = np.array([[size, 0, size / 2], [0, size, size / 2], [0, 0, 1.0]])
    matrix = to_pixels @ turn @ slant @ _perspective(corners) @ mirror @ to_frame
    return matrix / matrix[2, 2], flipped


def _perspective(offsets: np.ndarray) -> np.ndarray:
    """(3, 3) that moves the frame's corners by (4, 2) offsets, in sides from the centre.

    Offsets that would tilt the frame until points just outside it near the horizon are halved until they do not.
    """
    if not offsets.any():
        return np.eye(3)
    while True:
        rows, values = [], []
        for (x, y), (u, v) in zip(_CORNERS, _CORNERS + offsets, strict=True):
            rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
            values += [u, v]
        matrix = np.append(np.linalg.solve(np.array(rows), np.array(values)), 1.0).reshape(3, 3)
        if 1 - 0.75 * np.abs(matrix[2, :2]).sum() >= _FLATTEST:
            return matrix
        offsets = offsets / 2


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Map (..., 2) continuous points by a (3, 3) matrix; float64 out."""
    points = np.asarray(points, np.float64)
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    return moved[..., :2] / moved[..., 2:]


def warp(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """(H, W, 3) uint8 -> (size, size, 3) uint8 by a (3, 3) matrix in continuous pixels; bilinear, black outside.

    Where the matrix shrinks, the image is smoothed first, so that the result is as sharp as `resize` makes it and does
    not alias; see `_smooth`.
    """
    height, width = image.shape[:2]
    image = _smooth(image, 1 / max(_magnification(matrix, width / 2, height / 2), 1e-6))
    matrix = matrix @ np.diag([width / image.shape[1], height / image.shape[0], 1.0])
    # OpenCV counts from pixel centres, this package from pixel corners.
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
    inverse_half = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1.0]])
    matrix = inverse_half @ matrix @ half
    if abs(matrix[2, 0]) + abs(matrix[2, 1]) < 1e-12:
        return cv2.warpAffine(image, matrix[:2] / matrix[2, 2], (size, size), flags=cv2.INTER_LINEAR)
    return cv2.warpPerspective(image, matrix, (size, size), flags=cv2.INTER_LINEAR)


def frame_of(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The square that a whole picture is put into, since a face keeps its proportions: black at both shorter sides.

    (..., 2) int width and height -> (..., 1) side and (..., 2) place of the picture's top-left corner in it, pixels.
    """
    sides = sizes.max(-1, keepdims=True)
    return sides, (sides - sizes) // 2


def square(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> the same in the middle of a black square; see `frame_of`."""
    height, width = image.shape[:2]
    if width == height:
        return image
    (side,), (left, top) = frame_of(np.array([width, height]))
    framed = np.zeros((side, side, 3), np.uint8)
    framed[top : top + height, left : left + width] = image
    return framed


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """(H, W, 3) uint8 -> (size, size, 3) uint8: by areas where it shrinks, else bilinear."""
    height, width = image.shape[:2]
    if (width, height) == (size, size):
        return image
    shrinks = width > size or height > size
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _smooth(image: np.ndarray, shrink: float) -> np.ndarray:
    """The image before bilinear sampling at every `shrink`-th pixel: what is averaged, and reduced by whole blocks.

    Averaging areas of k x k blocks has a variance of k^2 / 12 pixels, and bilinear sampling of the blocks adds 1/6 of a
    block's square on average. The two together have the variance of the area of one result pixel where that is 1.73
    blocks wide; so blocks are made about that fine (at 3-fold shrinking: 2 x 2), and what a finer one lacks is made up
    by a kernel of three pixels, with half a pixel of a result more against aliasing.
    """
    height, width = image.shape[:2]
    block = max(1, min(round(shrink / _SAMPLES), width, height))
    if block > 1:
        image = cv2.resize(image, (width // block, height // block), interpolation=cv2.INTER_AREA)
    residual = shrink / block
    variance = (residual**2 - 1) / 12 - 1 / 12
    if variance < 0.02:
        return image
    side = min(variance / 2, 0.25)  # of the kernel (side, 1 - 2 side, side)
    return cv2.GaussianBlur(image, (3, 3), math.sqrt(-0.5 / math.log(side / (1 - 2 * side))))


def _magnification(matrix: np.ndarray, x: float, y: float) -> float:
    """Linear magnification at (x, y): root of the determinant of the map's derivative there."""
    depth = float(matrix[2] @ [x, y, 1.0])
    return math.sqrt(abs(np.linalg.det(matrix) / depth**3))


def padding(rng: np.random.Generator, augment: AugmentConfig, size: int) -> list[tuple[int, int, int, int]]:
    """Rectangles x0 y0 x1 y1 (pixels, x1 y1 exclusive) to blacken along one or more sides; empty without padding.

    Imitates a face near the photograph's border, where the challenge's crops are filled with black.
    """
    if not rng.random() < augment.pad_p:
        return []
    sides = rng.random(4) < 0.4
    sides[rng.integers(4)] = True
    left, top, right, bottom = np.where(sides, np.rint(rng.uniform(0, augment.pad, 4) * size), 0).astype(int).tolist()
    strips = [(0, 0, left, size), (0, 0, size, top), (size - right, 0, size, size), (0, size - bottom, size, size)]
    return [(x0, y0, x1, y1) for x0, y0, x1, y1 in strips if x1 > x0 and y1 > y0]
