"""Pictures of data, predictions and results. The only package that knows matplotlib.

Functions take arrays and return a matplotlib `Figure` (object-oriented, Agg canvas, no pyplot, so nothing global is
touched); `to_png` writes one. matplotlib is imported by the first figure only: `draw`, for photographs and video, needs
just cv2. Images are (H, W, 3) uint8 RGB; landmarks are (P, 2) continuous pixels of their image,
P the points of the `markup` that a function is given.

    style.py     colours, sheets, axes, headings: what the figures share
    faces.py     landmarks and heatmaps on images
    curves.py    learning curves, cumulative errors, errors by point, region and yaw
    ablation.py  differences with intervals, accuracy against cost, grids of two keys
    search.py    the course of a search: values by trial, learning curves and what pruning spared, the front
    parameters.py  its parameters: importance, slices, parallel coordinates
"""

from __future__ import annotations

from distill.figures.compare import (
    Candidate,
    Effect,
    forest,
    heat,
    pareto,
)
from distill.figures.curves import ced, error_by_point, error_by_region_and_yaw, learning_curves
from distill.figures.faces import (
    best_median_worst,
    choose,
    draw,
    heatmap_overlay,
    overlay_sheet,
    teacher_against_student,
)
from distill.figures.style import PREDICTION, TRUTH, colours, to_png

__all__ = [
    "Candidate",
    "Effect",
    "PREDICTION",
    "TRUTH",
    "best_median_worst",
    "ced",
    "choose",
    "colours",
    "draw",
    "error_by_point",
    "error_by_region_and_yaw",
    "forest",
    "heat",
    "heatmap_overlay",
    "learning_curves",
    "overlay_sheet",
    "pareto",
    "teacher_against_student",
    "to_png",
]
