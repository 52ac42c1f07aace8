"""One heatmap model decoded in each way: its error on a labelled set, and how far its points lie towards the middle,
by confidence.

    python benchmarks/decoding.py MODEL --data FOLDER

Soft-argmax is the mean of a heatmap, so probability that is spread over the whole picture draws a point towards its
middle.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from distill import metrics
from distill.config import TrackingConfig
from distill.data.annotations import read_set
from distill.evaluate.job import confidence_lines, measure, predict_set
from distill.models.files import load_model
from distill.models.references import resolve_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="bundled, a run or a file")
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled images")
    arguments = parser.parse_args()
    model, _ = load_model(resolve_model(arguments.model, TrackingConfig()).path)
    faces = read_set(arguments.data)
    first = None
    for way in ("softargmax", "dark"):
        model.codec.decoding = way
        report = measure(predict_set(model, faces), faces)
        first = first or report
        compared = f"; {metrics.compare(report.per_image, first.per_image)}" if report is not first else ""
        print(f"{way}: NME {report.nme:.3f} %{compared}")
        print(*confidence_lines(report), sep="\n")


if __name__ == "__main__":
    main()
