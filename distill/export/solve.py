"""The points of a submission, from an exported ONNX file, on all cores, without torch.

Every batch has the same images and is computed by one thread, so the digits do not depend on the number of cores.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import numpy as np

from distill.data import geometry
from distill.data.annotations import LandmarkSet
from distill.predict.runtime import OnnxNetwork, core_pool

BATCH = 8  # images in one pass of the network; a larger one leaves the cache
SWITCH_SECONDS = 1e-4  # how long one thread may keep the interpreter from another, while torch is imported beside


@dataclass(frozen=True)
class Ahead:
    """Points that are computed before it is known whether the ONNX file agrees with the student."""

    onnx: Path
    points: Future[np.ndarray]


def solve(onnx_file: Path, images: LandmarkSet, stop: Event | None = None) -> np.ndarray:
    """(N, P, 2) float32 points in pixels of each image. stop: when it is set, CancelledError is raised.

    Raises UserError for an image or an ONNX file that cannot be read.
    """
    network = OnnxNetwork(onnx_file, threads=1)

    def batch(first: int) -> np.ndarray:
        if stop and stop.is_set():
            raise CancelledError
        numbers = range(first, min(first + BATCH, len(images)))
        return network(np.stack([geometry.resize(images.image(i), network.size) for i in numbers]))[0]

    with core_pool() as pool:
        points = np.concatenate(list(pool.map(batch, range(0, len(images), BATCH))))
    return points * (images.sizes[:, None, :].astype(np.float32) / network.size)


@contextmanager
def ahead(model_file: Path, images: LandmarkSet | None) -> Iterator[Ahead | None]:
    """While inside, the ONNX file beside the model file, where there is one, predicts the images in the background."""
    beside = model_file.with_suffix(".onnx")
    if images is None or not beside.is_file():
        yield None
        return
    before, stop = sys.getswitchinterval(), Event()
    with ThreadPoolExecutor(1) as pool:
        try:
            sys.setswitchinterval(SWITCH_SECONDS)
            yield Ahead(beside, pool.submit(solve, beside, images, stop))
        finally:
            sys.setswitchinterval(before)
            stop.set()
