"""A contact sheet: some images of a set with their landmarks."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from distill import figures
from distill.data.annotations import LandmarkSet, spread

TILE = 256  # px
COLUMNS = 6
IMAGES = 24


def write(faces: LandmarkSet, path: Path) -> Path:
    """IMAGES faces, evenly spread over the set, as one PNG."""
    tiles = []
    for i in spread(len(faces), IMAGES):
        image = faces.image(i)
        scale = TILE / image.shape[0]
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        tiles.append(figures.draw(cv2.resize(image, (TILE, TILE), interpolation=method), faces.landmarks[i] * scale))
    columns = min(COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet = np.full((rows, columns, TILE, TILE, 3), 255, np.uint8)
    sheet.reshape(-1, TILE, TILE, 3)[: len(tiles)] = tiles
    sheet = sheet.transpose(0, 2, 1, 3, 4).reshape(rows * TILE, columns * TILE, 3)
    path.write_bytes(cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))[1].tobytes())
    return path
