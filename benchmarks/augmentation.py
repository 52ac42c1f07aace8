"""Images a second of one core: decoding, one fused warp and our photometric steps, against PIL and albumentations.

    python benchmarks/augmentation.py [--images 200]

The plain way opens a 384 px JPEG with PIL and runs geometry and photometric steps one by one, as a pipeline of
albumentations. Ours takes the decoded picture (data.cache), warps it once to 128 px and changes colours there. Both
have the probabilities and ranges of experiments/base.yaml, run on one thread and in turns, and count the thread's CPU
time, so that the ratio holds on a busy machine.
"""

from __future__ import annotations

import argparse
import io
import time
from pathlib import Path

import distill  # noqa: F401 - before the others: it sets the switches that stop what they send home

# isort: split
import albumentations as A
import cv2
import numpy as np
from PIL import Image

from distill import config as configs
from distill.config import AugmentConfig
from distill.data import SAMPLE_ROOT
from distill.data.annotations import read_set
from distill.data.augment import Augmenter

SIZE, FILE_SIZE = 128, 384
BASE = Path(__file__).resolve().parent.parent / "experiments" / "base.yaml"


def plain_pipeline(augment: AugmentConfig, photometric: bool) -> A.Compose:
    """The same augmentation as a pipeline of albumentations, step by step in the file's resolution."""
    s, shift = 1 + augment.scale, augment.shift
    steps = [
        A.HorizontalFlip(p=augment.flip),
        A.Affine(scale=(1 / s, s), p=1),
        A.Affine(translate_percent=(-shift, shift), p=1),
        A.Affine(rotate=(-augment.rotate, augment.rotate), p=1),
        A.Affine(shear=(-augment.shear, augment.shear), p=1),
        A.Perspective(scale=(0, augment.perspective), p=1),
    ]
    if photometric:
        steps += [getattr(A, step.name)(**step.args, p=step.p) for step in augment.photometric.values()]
    points = A.KeypointParams(format="xy", remove_invisible=False)
    return A.Compose([*steps, A.Resize(SIZE, SIZE)], keypoint_params=points)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200)
    count = parser.parse_args().images
    cv2.setNumThreads(0)
    faces = read_set(SAMPLE_ROOT / "synthetics_train", limit=count)
    images = [cv2.resize(faces.image(i), (FILE_SIZE, FILE_SIZE)) for i in range(len(faces))]
    files = [cv2.imencode(".jpg", image[..., ::-1])[1].tobytes() for image in images]
    points = faces.landmarks * np.float32(FILE_SIZE / 256)

    base = configs.load(BASE).augment
    still = {field: getattr(base, field) for field in ("flip", "rotate", "scale", "shift", "shear", "perspective")}
    fused, whole = Augmenter(AugmentConfig(**still), SIZE, 0), Augmenter(base, SIZE, 0)
    geometry, pipeline = plain_pipeline(base, photometric=False), plain_pipeline(base, photometric=True)
    ways = {
        "plain: PIL, all steps": lambda i: pipeline(
            image=np.asarray(Image.open(io.BytesIO(files[i])).convert("RGB")), keypoints=points[i]
        ),
        "plain: all steps, decoded": lambda i: pipeline(image=images[i], keypoints=points[i]),
        "plain: geometry, decoded": lambda i: geometry(image=images[i], keypoints=points[i]),
        "ours: geometry, decoded": lambda i: fused(images[i], points[i], 0, i),
        "ours: all steps, decoded": lambda i: whole(images[i], points[i], 0, i),
    }
    spent = dict.fromkeys(ways, 0.0)
    for i in range(len(images)):
        for name, way in ways.items():
            start = time.thread_time()
            way(i)
            spent[name] += time.thread_time() - start
    ours = spent["ours: all steps, decoded"]
    for name, seconds in spent.items():
        rate = len(images) / seconds
        print(f"{name:26} {1000 / rate:6.2f} ms   {rate:6.0f} images/s   ours {seconds / ours:5.2f} times as many")


if __name__ == "__main__":
    main()
