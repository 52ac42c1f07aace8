"""One fused warp against the same geometry in single albumentations steps, and the whole augmentation, per image.

    python benchmarks/augmentation.py [--images 200]

Both sides make 128 px samples with landmarks out of the same 384 px images, on one thread, interleaved in one process, so
the ratio holds on a busy machine where the milliseconds do not.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import albumentations as A
import cv2
import numpy as np

from distill import config as configs
from distill.config import AugmentConfig
from distill.data import SAMPLE_ROOT
from distill.data.annotations import read_set
from distill.data.augment import Augmenter

SIZE = 128
BASE = Path(__file__).resolve().parent.parent / "experiments" / "base.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200)
    count = parser.parse_args().images
    cv2.setNumThreads(0)
    faces = read_set(SAMPLE_ROOT / "synthetics_train", limit=count)
    images = [cv2.resize(faces.image(i), (384, 384)) for i in range(len(faces))]
    points = faces.landmarks * np.float32(384 / 256)
    config = configs.load(BASE).augment
    geometry = AugmentConfig(
        flip=config.flip, rotate=config.rotate, scale=config.scale, shift=config.shift, shear=config.shear,
        perspective=config.perspective,
    )  # fmt: skip
    fused, whole = Augmenter(geometry, SIZE, 0), Augmenter(config, SIZE, 0)
    steps = A.Compose(
        [
            A.HorizontalFlip(p=0.5),
            A.Affine(scale=(1 / 1.2, 1.2), p=1),
            A.Affine(translate_percent=(-0.06, 0.06), p=1),
            A.Affine(rotate=(-40, 40), p=1),
            A.Affine(shear=(-8, 8), p=1),
            A.Perspective(scale=(0, 0.03), p=1),
            A.Resize(SIZE, SIZE),
        ],
        keypoint_params=A.KeypointParams(format="xy", remove_invisible=False),
    )
    ways = {
        "fused": lambda i: fused(images[i], points[i], 0, i),
        "single steps at 384": lambda i: steps(image=images[i], keypoints=points[i]),
        "fused + photometric": lambda i: whole(images[i], points[i], 0, i),
    }
    spent = dict.fromkeys(ways, 0.0)
    for i in range(len(images)):
        for name, way in ways.items():
            start = time.perf_counter()
            way(i)
            spent[name] += time.perf_counter() - start
    for name, seconds in spent.items():
        print(f"{name:22} {1000 * seconds / len(images):6.2f} ms/image   {seconds / spent['fused']:5.1f} x fused")


if __name__ == "__main__":
    main()
