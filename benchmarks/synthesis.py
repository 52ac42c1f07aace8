"""Images that the renderer makes a second and core.

    python benchmarks/synthesis.py [--size 256] [--images 100]

One process, JPEG included, compiling and loading not. CPU time counts what a core spends, whatever else runs beside
it; the clock tells what came of it here.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2  # noqa: E402

from distill.synthesis import facemodel  # noqa: E402
from distill.synthesis.job import encode  # noqa: E402
from distill.synthesis.renderer import Renderer  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256, help="side in px (default: %(default)s)")
    parser.add_argument("--images", type=int, default=100, help="default: %(default)s")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    renderer = Renderer(facemodel.load())
    for index in range(8):  # compiles all kernels, fills all tables
        renderer.render(1, index, args.size)
    clock, cpu = time.perf_counter(), time.process_time()
    for index in range(args.images):
        encode(renderer.render(0, index, args.size)[0])
    clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
    print(
        f"{args.size} px, {args.images} images: {args.images / cpu:.1f} images/s of CPU time, "
        f"{args.images / clock:.1f} by the clock"
    )


if __name__ == "__main__":
    main()
