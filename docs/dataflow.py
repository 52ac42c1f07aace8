"""Draw docs/images/dataflow.png: how a face on disk becomes a submission, with real data and real models.

    python docs/dataflow.py [TEACHER] [--student MODEL] [--store DIR] [--out FILE]

TEACHER and MODEL are model references (a run, a file, `bundled`). Without a teacher the student stands for both,
which is good for trying the script out and not for the picture.
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # from a clone that is not installed

from distill import cli, config  # noqa: E402
from distill.config import TrackingConfig  # noqa: E402
from distill.figures.faces import outlines  # noqa: E402
from distill.figures.style import INK, MUTED, PREDICTION, TRUTH, new_figure, rgb255_of  # noqa: E402
from distill.landmarks import IBUG68  # noqa: E402
from distill.models.references import resolve_model  # noqa: E402

WIDTH, HEIGHT, DPI = 10.0, 6.6, 140  # inches: 1400 x 924 pixels
REGION_COLOURS = {"jaw": "#4bb3d1", "brows": "#c77dff", "nose": "#ffd23f", "eyes": "#4ade80", "mouth": "#ff5d73"}
TEACHER, STUDENT, LABEL = "#3b6fb6", "#e8780c", "#1f9d57"
ON_FACE = {"teacher": "#7db4ff", "student": PREDICTION}  # lighter, to be seen on a picture
FACE = "000280.jpg"  # of the bundled sample's training faces
EPOCHS = (0, 1, 2, 3, 4, 5)  # views of that face, as those epochs draw them; the first goes through the models
TILE, GAP, LANES = (
    1.17,
    0.06,
    {"teacher": 4.85, "student": 2.65},
)  # inches: side of a tile, lower edge of each lane's tiles
COLUMNS = {"fine": 4.98, "coarse": 6.21, "heatmaps": 7.44, "points": 8.67}
LABELS_Y, HEAT_MIDDLE = 1.83, (COLUMNS["heatmaps"] + COLUMNS["points"] + TILE) / 2


class Seen(NamedTuple):
    """What a model makes of one view."""

    about: str
    fine: np.ndarray  # (h, w) mean size of the features at stride 4
    coarse: np.ndarray  # (h, w) at stride 16
    heat: np.ndarray  # (68, h, w) each map scaled to its peak, the frame only
    points: np.ndarray  # (68, 2) pixels of the view


def look(reference: str, store: str, view: np.ndarray) -> Seen:
    """Run a model of ours on a view (S, S, 3) uint8."""
    import torch

    from distill.distillation import taps
    from distill.models.files import load_model
    from distill.models.landmarker import to_input

    found = resolve_model(reference, TrackingConfig(store=store)).path
    model, _ = load_model(found)
    places = [taps.find("tap", name, model) for name in ("stride:4", "stride:16")]
    with torch.no_grad(), taps.recording(model, places) as maps:
        seen = model(to_input(torch.from_numpy(view[None]), model.size))
    grid = model.codec.grid
    frame = slice(grid.pad, grid.pad + grid.inner)
    heat = torch.softmax(seen.logits[0].flatten(1), -1).view(seen.logits.shape[1:])[:, frame, frame].numpy()
    fine, coarse = (maps[tap.name][0].abs().mean(0).numpy() for tap in places)
    about = f"{model.config.backbone}, {found.stat().st_size / 1e6:.1f} MB"
    points = seen.points[0].numpy() * (len(view) / model.size)
    return Seen(about, fine, coarse, heat / heat.max((1, 2), keepdims=True), points)


class Board:
    """A figure to draw on in inches, from its lower left corner."""

    def __init__(self):
        self.figure = new_figure(WIDTH, HEIGHT)
        self.canvas = self.figure.add_axes((0, 0, 1, 1))
        self.canvas.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
        self.canvas.axis("off")

    def tile(self, x: float, y: float, side: float, image: np.ndarray, frame: str | None = None, **shown):
        axes = self.figure.add_axes((x / WIDTH, y / HEIGHT, side / WIDTH, side / HEIGHT))
        size = len(image)
        axes.imshow(image, **({"extent": (0, size, size, 0), "interpolation": "bilinear"} | shown))
        axes.set(xticks=[], yticks=[], xlim=(0, size), ylim=(size, 0))
        for spine in axes.spines.values():
            spine.set(visible=frame is not None, color=frame, linewidth=1.8)
        return axes

    def text(self, x: float, y: float, text: str, size: float = 8.6, colour: str = INK, **more) -> None:
        self.canvas.text(x, y, text, fontsize=size, color=colour, **({"va": "center", "linespacing": 1.3} | more))

    def card(self, x: float, y: float, width: float, height: float, colour: str, fill: str = "#ffffff") -> None:
        from matplotlib.patches import FancyBboxPatch

        box = FancyBboxPatch((x + 0.06, y + 0.06), width - 0.12, height - 0.12, boxstyle="round,pad=0.06")
        box.set(facecolor=fill, edgecolor=colour, linewidth=1.1)
        self.canvas.add_patch(box)

    def pill(self, middle: float, y: float, width: float, title: str, words: str, colour: str, fill: str) -> None:
        self.card(middle - width / 2, y - 0.235, width, 0.47, colour, fill)
        self.text(middle, y + 0.085, title, 8.4, colour, ha="center", weight="bold")
        self.text(middle, y - 0.095, words, 7.6, INK, ha="center")

    def arrow(self, *places: tuple[float, float], colour: str = MUTED) -> None:
        """An arrow through these places, the head at the last."""
        line = {"solid_joinstyle": "round", "solid_capstyle": "butt"}
        self.canvas.plot(*np.array(places).T, color="white", linewidth=6, **line)  # what it crosses passes underneath
        self.canvas.plot(*np.array(places).T, color=colour, linewidth=1.6, **line)
        form = {"arrowstyle": "-|>,head_length=0.42,head_width=0.2", "linewidth": 1.6, "color": colour}
        (x, y), (u, v) = places[-1], places[-2]
        length = np.hypot(u - x, v - y)
        near = (x + 0.05 * (u - x) / length, y + 0.05 * (v - y) / length)
        self.canvas.annotate("", (x, y), near, arrowprops=form | {"shrinkA": 0, "shrinkB": 0})


def labelled(axes, points: np.ndarray, colour: str, width: float = 0.9, dots: float = 1.3) -> None:
    outlines(axes, points, colour, width)
    axes.plot(*points.T, linestyle="", marker="o", markersize=dots, color=colour, markeredgewidth=0)


def dark(view: np.ndarray) -> np.ndarray:
    """A ground on which colours show: (S, S, 3) uint8 -> the same in dark grey, 0..1."""
    return np.repeat(view.mean(2, keepdims=True), 3, 2) / 255 * 0.5


def coloured(view: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Heatmaps (68, h, w) in the colours of their regions over the darkened view. (S, S, 3) in 0..1"""
    import cv2

    size, picture = len(view), dark(view)
    for region, members in IBUG68.regions.items():
        strong = cv2.resize(heat[list(members)].max(0) ** 2, (size, size), interpolation=cv2.INTER_LINEAR)[..., None]
        picture = picture * (1 - strong) + np.array(rgb255_of(REGION_COLOURS[region])) / 255 * strong
    return picture.clip(0, 1)


def draw(teacher: str, student: str, store: str) -> Board:
    from distill.data import SAMPLE_ROOT
    from distill.data.annotations import read_set
    from distill.data.augment import Augmenter

    faces = read_set(SAMPLE_ROOT / "synthetics_train")
    index = faces.names.index(FACE)
    face, truth = faces.image(index), faces.landmarks[index]
    augmenter = Augmenter(config.load(ROOT / "experiments/cpu/student.yaml").augment, 192, seed=0)
    views = [augmenter(face, truth, epoch, index) for epoch in EPOCHS]
    view, labels = views[0]
    seen = {"teacher": look(teacher, store, view), "student": look(student, store, view)}

    board = Board()
    left(board, face, truth, views)
    for role, colour in (("teacher", TEACHER), ("student", STUDENT)):
        lane(board, role, colour, seen[role], view, labels)
    between(board)
    below(board, look(student, store, face).points)
    return board


def left(board: Board, face: np.ndarray, truth: np.ndarray, views) -> None:
    """The face as it is read, and views of it."""
    top, side, x0 = LANES["teacher"] + TILE, 1.6, 2.28
    heading(board, 0.15, "1  Read, checked", "annot.pkl or *_ldmks.txt")
    labelled(board.tile(0.15, top - side, side, face), truth, TRUTH)
    rows = "\n".join(f"({x:7.2f}, {y:7.2f})" for x, y in truth[:3])
    board.text(0.15, top - side - 0.12, f"{FACE}\n{rows}\n... 68 points", 7.4, family="monospace", va="top")
    for place, (name, colour) in enumerate((("labels", TRUTH), ("teacher", TEACHER), ("student", PREDICTION))):
        board.canvas.plot([0.17, 0.42], [3.13 - 0.2 * place] * 2, color=colour, linewidth=3)
        board.text(0.52, 3.13 - 0.2 * place, name, 8.2)

    board.arrow((0.15 + side + 0.06, top - side / 2), (x0 - 0.05, top - side / 2))
    heading(board, x0, "2  One warp, then colour", "the points are warped alike")
    side = (top - LANES["student"] - 2 * GAP) / 3
    for place, (view, labels) in enumerate(views):
        x, y = x0 + place % 2 * (side + GAP), top - side - place // 2 * (side + GAP)
        labelled(board.tile(x, y, side, view, INK if place == 0 else None), labels, TRUTH, 0.75, 1.0)
    words = "seed, epoch and index alone say\nwhat a view looks like"
    board.text(x0 + 0.25, LANES["student"] - 0.1, words, 7.8, MUTED, va="top")
    edge = x0 + 2 * side + GAP + 0.04
    for role, colour in (("teacher", TEACHER), ("student", STUDENT)):
        y = LANES[role] + TILE / 2
        board.arrow((edge, y), (COLUMNS["fine"] - 0.05, y), colour=colour)
    board.arrow((x0 + 0.1, LANES["student"] - 0.05), (x0 + 0.1, LABELS_Y), (HEAT_MIDDLE - 1.22, LABELS_Y), colour=LABEL)


def heading(board: Board, x: float, title: str, words: str, colour: str = INK) -> None:
    board.text(x, HEIGHT - 0.2, title, 10, colour, weight="bold")
    board.text(x, HEIGHT - 0.41, words, 7.8, MUTED)


def lane(board: Board, role: str, colour: str, seen: Seen, view: np.ndarray, labels: np.ndarray) -> None:
    x, y = COLUMNS["fine"], LANES[role]
    if role == "teacher":
        heading(board, x, "3  Teacher, frozen", f"{seen.about}; the same view, at its own size", colour)
    else:
        board.text(x, y - 0.17, "4  Student, learning", 10, colour, weight="bold")
        board.text(x, y - 0.37, seen.about, 7.8, MUTED)
    for column, features in (("fine", seen.fine), ("coarse", seen.coarse)):
        size, limits = len(features), np.percentile(features, (2, 99))
        board.tile(
            COLUMNS[column],
            y,
            TILE,
            features,
            colour,
            cmap="magma",
            vmin=limits[0],
            vmax=limits[1],
            extent=(0, size, size, 0),
            interpolation="nearest",
        )
    board.tile(COLUMNS["heatmaps"], y, TILE, coloured(view, seen.heat), colour)
    axes = board.tile(COLUMNS["points"], y, TILE, dark(view), colour)
    if role == "student":
        outlines(axes, labels, TRUTH, 0.9)
    labelled(axes, seen.points, ON_FACE[role], 0.9, 1.2)


def between(board: Board) -> None:
    """Distillation terms between the lanes."""
    middle = (LANES["teacher"] + LANES["student"] + TILE) / 2
    spots = (
        (
            (COLUMNS["fine"] + COLUMNS["coarse"] + TILE) / 2,
            2.4,
            "5  teacher's terms: features",
            "fitnet, reviewkd, dist, mgd, ...",
        ),
        (COLUMNS["heatmaps"] + TILE / 2, TILE, "heatmaps", "kl, mse, cwd"),
        (COLUMNS["points"] + TILE / 2, TILE, "points", "coordinate"),
    )
    for x, width, title, words in spots:
        board.pill(x, middle, width, title, words, TEACHER, "#eef3fa")
        board.arrow((x, LANES["teacher"] - 0.03), (x, middle + 0.25), colour=TEACHER)
        board.arrow((x, middle - 0.25), (x, LANES["student"] + TILE + 0.04), colour=TEACHER)


def below(board: Board, points: np.ndarray) -> None:
    """Supervised terms, the run, the file, the submission."""
    board.pill(HEAT_MIDDLE, LABELS_Y, 2.4, "6  labels' terms", "coordinates and heatmaps", LABEL, "#eaf6ef")
    board.arrow((HEAT_MIDDLE, LABELS_Y + 0.25), (HEAT_MIDDLE, LANES["student"] - 0.04), colour=LABEL)

    row = " ".join(f"{value:.2f}" for value in points[:3].ravel())
    cards = (
        (
            0.15,
            3.35,
            "7  A run in MLflow",
            (
                "each term raw and weighted, val/nme, regions, yaw,",
                "pictures, config, code, data; cut and resumed it",
                "ends at the very same weights",
            ),
        ),
        (
            3.8,
            2.5,
            "8  student.onnx",
            ("one float32 file under 15 MB,", "checked against the torch student;", "predicts without torch"),
        ),
        (
            6.6,
            3.25,
            "9  solution.zip",
            (f"{FACE} {row} ...", "68 points a row, read back and checked;", "then ledger, hand-in zip, report"),
        ),
    )
    for x, width, title, lines in cards:
        board.card(x, 0.12, width, 1.1, "#c9ced6", "#f7f8fa")
        board.text(x + 0.14, 1.03, title, 10, weight="bold")
        for place, line in enumerate(lines):
            style = {"family": "monospace"} if line.startswith(FACE) else {}
            board.text(x + 0.14, 0.77 - 0.2 * place, line, 6.7 if style else 7.9, INK, **style)
    board.arrow((3.52, 0.66), (3.78, 0.66))
    board.arrow((6.32, 0.66), (6.58, 0.66))
    x = COLUMNS["fine"] + 0.35
    board.arrow((x, LANES["student"] - 0.48), (x, 1.46), (1.8, 1.46), (1.8, 1.25), colour=STUDENT)


def save(board: Board, path: Path) -> None:
    """A picture of at most 256 colours: a third of the bytes, and no difference that one sees."""
    from PIL import Image

    buffer = io.BytesIO()
    board.figure.savefig(buffer, format="png", dpi=DPI, facecolor="white")
    picture = Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.FLOYDSTEINBERG)
    temporary = path.with_suffix(".tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(temporary, format="png", optimize=True)
    os.replace(temporary, path)
    print(f"{path}: {picture.width} x {picture.height}, {path.stat().st_size:,} bytes")


def main(argv: list[str]) -> None:
    parser = cli.Parser(prog="python docs/dataflow.py", description=__doc__.splitlines()[0])
    parser.add_argument("teacher", metavar="TEACHER", nargs="?", help="a model reference (default: the student)")
    parser.add_argument("--student", metavar="MODEL", default="bundled", help="default: %(default)s")
    parser.add_argument("--store", metavar="DIR", default="mlruns", help="where runs are kept (default: %(default)s)")
    parser.add_argument("--out", metavar="FILE", type=Path, default=ROOT / "docs/images/dataflow.png")
    args = parser.parse_args(argv)
    save(draw(args.teacher or args.student, args.student, args.store), args.out)


if __name__ == "__main__":
    cli.run(main)
