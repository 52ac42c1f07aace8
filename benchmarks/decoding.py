"""One heatmap model decoded in each way: its error on a labelled set, and how far its points lie towards the middle,
by confidence.

    python benchmarks/decoding.py MODEL --data FOLDER

Soft-argmax is the mean of a heatmap, so probability that is spread over the whole picture draws a point towards its
middle.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np

from distill import metrics
from distill.config import TrackingConfig
from distill.data.annotations import read_set
from distill.evaluate.job import measure, predict_set
from distill.models.files import load_model
from distill.models.references import resolve_model

BINS = (0.0, 0.9, 0.97, 0.99, 0.999, 1.001)
FAR = 0.15  # of the side; nearer to the middle there is no saying which way is inwards


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="bundled, a run or a file")
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled images")
    arguments = parser.parse_args()
    model, _ = load_model(resolve_model(arguments.model, TrackingConfig()).path)
    faces = read_set(arguments.data)
    place = faces.landmarks / faces.sizes[:, None, :] - 0.5
    distance = np.linalg.norm(place, axis=-1)
    first = None
    for way in ("softargmax", "dark"):
        model.codec.decoding = way
        found = predict_set(model, faces)
        errors = measure(found, faces).per_image
        first = errors if first is None else first
        compared = f"; {metrics.compare(errors, first)}" if errors is not first else ""
        print(f"{way}: NME {errors.mean():.3f} %{compared}")
        shift = (found.points - faces.landmarks) / faces.sizes[:, None, :]
        inwards = -100 * (shift * place).sum(-1) / np.maximum(distance, 1e-9)
        for low, high in pairwise(BINS):
            chosen = (distance > FAR) & (found.confidence >= low) & (found.confidence < high)
            if chosen.any():
                mean = inwards[chosen].mean()
                print(
                    f"  confidence {low:g} to {min(high, 1):g}: {mean:+.2f} % of the side inwards, "
                    f"{chosen.sum()} points"
                )


if __name__ == "__main__":
    main()
