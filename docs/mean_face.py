"""Fit the mean face of `distill.headpose` to rendered heads, whose pose is known, and measure it on others.

    python docs/mean_face.py              # measure the face that ships
    python docs/mean_face.py --write      # fit it again and replace it

No photograph is involved, beyond what the renderer itself owes to validation labels
(distill/synthesis/assets/README.md).
"""

from __future__ import annotations

import argparse
import json

import numpy as np

from distill import headpose
from distill.landmarks import IBUG68
from distill.metrics import YAW_BINS
from distill.synthesis import facemodel, sampling
from distill.synthesis.person import sample_weights
from distill.synthesis.view import View

FIT, TEST, COUNT = 77, 78, 4000  # seeds, and heads of each


def heads(model: facemodel.FaceModel, seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks (N, 68, 2) in pictures of side 1, and true rotations (N, 3, 3), of the renderer's first `count`
    subjects."""
    at = model.landmarks
    modes = model.modes.reshape(len(model.modes), -1, 3)[:, at] * model.scale[:, None, None]
    points, turns = [], []
    for index in range(count):
        rng = sampling.stream(seed, index, sampling.SHAPE)
        weights, _ = sample_weights(rng, rng.random() < 0.58, model.expressions)
        face = (model.vertices[at] + np.tensordot(weights, modes, 1)).astype(np.float32)
        view = View(rng, face)
        points.append(view.project(view.place(face), 1.0)[:, :2])
        turns.append(view.head)
    return np.array(points, np.float64), np.array(turns, np.float64)


def fit(points: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """(68, 3) the symmetric face, in cm, that explains the points best: least squares, with the scale of each
    picture."""
    seen = (points - points.mean(axis=1, keepdims=True)) * [1, -1]
    face = headpose.mean_face() - headpose.mean_face().mean(axis=0)
    size = np.linalg.norm(face)
    for _ in range(20):
        drawn = np.einsum("nij,pj->npi", turns[:, :2], face)
        scale = (seen * drawn).sum((1, 2)) / (drawn**2).sum((1, 2))
        rows = (seen / scale[:, None, None]).transpose(0, 2, 1).reshape(-1, IBUG68.count)
        face = np.linalg.lstsq(turns[:, :2].reshape(-1, 3), rows, rcond=None)[0].T
        face = (face + (face * [-1, 1, 1])[list(IBUG68.flip_permutation)]) / 2
        face *= size / np.linalg.norm(face)
    return face


def measure(points: np.ndarray, turns: np.ndarray) -> dict[str, float]:
    """Mean absolute error of yaw, pitch and roll in degrees, and the share of heads in a wrong yaw bin."""
    true, found = headpose.angles(turns), headpose.estimate(points)
    errors = np.abs((found - true + 180) % 360 - 180).mean(axis=0)
    edges = [low for low, _ in YAW_BINS.values()][1:]
    wrong = np.digitize(np.abs(found[:, 0]), edges) != np.digitize(np.abs(true[:, 0]), edges)
    return dict(zip(("yaw", "pitch", "roll"), errors.tolist(), strict=True)) | {"wrong_bin": float(wrong.mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="fit, and replace distill/assets/mean_face_68.json")
    write = parser.parse_args().write
    model = facemodel.load()
    if write:
        stored = json.loads(headpose.ASSET.read_text(encoding="utf-8"))
        stored["points"] = np.round(fit(*heads(model, FIT, COUNT)), 3).tolist()
        headpose.ASSET.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
        headpose.mean_face.cache_clear()
    print(measure(*heads(model, TEST, COUNT)))


if __name__ == "__main__":
    main()
