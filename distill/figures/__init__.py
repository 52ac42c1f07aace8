"""Pictures of data, predictions and results. The only package that imports matplotlib.

Functions take arrays and return a matplotlib `Figure` (object-oriented, Agg canvas, no pyplot, so nothing global is
touched); `to_png`, `to_jpeg` and `to_svg` write one. A chart whose `title` is empty has no heading, for pages that set
their own; `size` and `width` are inches. matplotlib is imported by the first figure only: `draw`, for images and video,
needs just cv2. Images are (H, W, 3) uint8 RGB; landmarks are (P, 2) continuous pixels of their image, P the points of
the `markup` that a function is given.

    style.py       the palette; empty figures, headings, axes; writing to files and pages
    faces.py       landmarks and heatmaps on images, errors on the mean face
    curves.py      learning curves, cumulative errors, errors by region, yaw and roll, expected against true errors
    compare.py     differences with intervals, accuracy against cost, cost by batch size
"""

from __future__ import annotations

from distill.figures.compare import Candidate, Effect, forest, pareto, step_cost
from distill.figures.curves import ced, curves, error_by_region_and_pose, learning_curves, reliability
from distill.figures.faces import (
    Cell,
    best_median_worst,
    choose,
    draw,
    error_by_point,
    heat_over,
    overlay_sheet,
    sheet,
    teacher_against_student,
)
from distill.figures.style import PREDICTION, TRUTH, colours, to_jpeg, to_png, to_svg, typefaces
