"""The points of a submission, from an exported ONNX file, on all cores, without torch.

Every batch has the same images and is computed by one thread, so the digits do not depend on the number of cores.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from distill import cores
from distill.data import geometry
from distill.data.annotations import LandmarkSet
from distill.predict.runtime import OnnxNetwork

BATCH = 8  # images in one pass of the network; a larger one leaves the cache


def solve(onnx_file: Path, images: LandmarkSet) -> np.ndarray:
    """(N, P, 2) float32 points in pixels of each image.

    Raises UserError for an image or an ONNX file that cannot be read.
    """
    network = OnnxNetwork(onnx_file, threads=1)

    def batch(first: int) -> np.ndarray:
        numbers = range(first, min(first + BATCH, len(images)))
        return network(np.stack([geometry.resize(images.image(i), network.size) for i in numbers]))[0]

    with cores.pool() as pool:
        points = np.concatenate(list(pool.map(batch, range(0, len(images), BATCH))))
    return points * (images.sizes[:, None, :].astype(np.float32) / network.size)
