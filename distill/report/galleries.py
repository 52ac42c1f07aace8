"""Photographs: predictions over labels, heatmaps, attention maps; or, where there are none, what the runs logged."""

from __future__ import annotations

from itertools import zip_longest

import numpy as np

from distill.figures import report as drawing
from distill.report.comparing import Cast, Model
from distill.report.document import (
    COULD,
    FIRST,
    MAY,
    PAGE,
    SHOULD,
    Gallery,
    Logged,
    Passage,
    Section,
    Tile,
)
from distill.report.facts import Findings, Look, Photo, Photos
from distill.report.wording import listed, number

# iBUG points; of another set those that it has
SINGLE_POINTS = {"chin": 8, "nose tip": 30, "outer eye corner": 36, "mouth corner": 54}
LOGGED = {
    "teacher_against_student": "Teacher against student", "overlays": "Best, median and worst images", "worst": "Worst images",
}  # fmt: skip


def sections(findings: Findings, cast: Cast) -> tuple[Section, ...]:
    photos = findings.photos
    if photos is None:
        return (_logged(findings, cast),)
    found = (_predictions(photos, cast), _heatmaps(photos, cast), _attention(photos, cast))
    return tuple(section for section in found if section)


def _where(photos: Photos) -> str:
    kind = (
        "the validation set"
        if photos.recorded
        else "a set named for this report, not the one that the tables are about"
    )
    return f"From {photos.set_name} ({kind}; {photos.count} images, fingerprint {photos.fingerprint})."


def _runs(models: list[Model]) -> str:
    return "Runs: " + ", ".join(f"{m.label} {m.lead.id[:8]}" for m in models) + "."


def _looks(photo: Photo, models: list[Model]) -> list[tuple[Model, Look]]:
    return [(model, photo.looks[model.lead.id]) for model in models if model.lead.id in photo.looks]


def _predictions(photos: Photos, cast: Cast) -> Section:
    alone = len(cast.trio) == 1  # then its tiles stand in one line and name their rank, instead of a row for each
    rows = []
    for photo in photos.photos:
        picture = drawing.to_jpeg(photo.image)
        size = (photo.image.shape[1], photo.image.shape[0])
        group = tuple(
            Tile(picture, size, (("truth", photo.truth), ("prediction", look.points)),
                 f"{photo.rank if alone else model.label} {number(look.nme, 2)} %", model.role, photos.markup)
            for model, look in _looks(photo, cast.trio)
        )  # fmt: skip
        rows.append((photo.rank, (group,)))
    if alone:
        tiles = [group[0] for _, (group,) in rows]
        rows = [("", tuple(tuple(tiles[i : i + 3]) for i in range(0, len(tiles), 3)))]
    gallery = Gallery(
        "photos", "Best, median and worst images", _merged(rows),
        f"Ranked by the error of the {cast.main.label} model. Orange: prediction; green: label. {_where(photos)} "
        + _runs(cast.trio), FIRST,
    )  # fmt: skip
    return Section("photos", "Photographs", (gallery,))


def _heatmaps(photos: Photos, cast: Cast) -> Section | None:
    models = [m for m in (cast.teacher, cast.student or cast.control) if m] or [cast.main]
    shown = [p for p in photos.photos if any(look.heat is not None for _, look in _looks(p, models))]
    if not shown:
        return None
    rows = [
        (photo.rank, (tuple(
            _heat_tile(photo, look, look.heat.max(axis=0), model.label, model.role)
            for model, look in _looks(photo, models) if look.heat is not None
        ),))
        for photo in shown
    ]  # fmt: skip
    whole = Gallery(
        "heatmaps", "Where the landmarks are expected", _merged(rows),
        f"The largest probability over the {photos.markup.count} heatmaps, each the softmax of its logits; bright and small is sure, dim and "
        f"wide is not. {_where(photos)} {_runs(models)}", COULD, in_line=True,
    )  # fmt: skip
    photo = shown[min(1, len(shown) - 1)]
    own = {there: here for here, there in photos.markup.as_68}
    groups = tuple(
        tuple(
            _heat_tile(photo, look, look.heat[own[index]], f"{name}, {model.label}", model.role)
            for model, look in _looks(photo, models) if look.heat is not None
        )
        for name, index in SINGLE_POINTS.items() if index in own
    )  # fmt: skip
    points = Gallery(
        "points-heat", "Single landmarks", (("", groups),), f"The heatmap of one landmark at a time. {_runs(models)}", PAGE,
    )  # fmt: skip
    return Section(
        "heatmaps",
        "Heatmaps of teacher and student" if len(models) > 1 else "Heatmaps",
        (whole, points) if groups else (whole,),
        nav="Heatmaps",
    )


def _heat_tile(photo: Photo, look: Look, heat: np.ndarray, label: str, role: str) -> Tile:
    picture = drawing.over_photo(photo.image, heat, look.extent)
    return Tile(drawing.to_jpeg(picture, 240), (photo.image.shape[1], photo.image.shape[0]), (), label, role)


def _attention(photos: Photos, cast: Cast) -> Section | None:
    models = cast.trio
    shown = [p for p in photos.photos if any(look.attention for _, look in _looks(p, models))]
    if not shown:
        return None
    rows = []
    for photo in shown:
        tiles = [
            [_attention_tile(photo, values, f"{model.label} {tap}", model.role) for tap, values in look.attention]
            for model, look in _looks(photo, models)
        ]
        # one group a tap, the models side by side in it
        groups = [tuple(tile for tile in group if tile) for group in zip_longest(*tiles)]
        rows.append((photo.rank, tuple(groups)))
    taps = listed(list(dict.fromkeys(tap for p in shown for _, look in _looks(p, models) for tap, _ in look.attention)))
    gallery = Gallery(
        "attention", "Attention at the taps", _merged(rows),
        f"Mean square over the channels of the features at {taps}, each map scaled to its own peak. {_where(photos)} "
        + _runs(models), MAY, in_line=True,
    )  # fmt: skip
    return Section("attention", "Attention maps", (gallery,), nav="Attention")


def _attention_tile(photo: Photo, values: np.ndarray, label: str, role: str) -> Tile:
    height, width = photo.image.shape[:2]
    low = values - values.min()
    picture = drawing.over_photo(photo.image, low, (0, 0, width, height), 0.75)
    return Tile(drawing.to_jpeg(picture, 240), (width, height), (), label, role)


def _merged(rows: list) -> tuple:
    """Rows of one name become one row."""
    merged: dict[str, tuple] = {}
    for name, groups in rows:
        merged[name] = merged.get(name, ()) + groups
    return tuple(merged.items())


def _logged(findings: Findings, cast: Cast) -> Section:
    blocks: list = [Passage((findings.no_photos or "There are no photographs to show.",), tone="note", rank=SHOULD)]
    for model in reversed(cast.trio):
        for name, title in LOGGED.items():
            if name in model.lead.pictures:
                blocks.append(Logged(
                    f"logged-{model.role}-{name}", f"{title}: {model.label}", model.lead.pictures[name],
                    f"Logged when run {model.lead.id[:8]} ended.",
                ))  # fmt: skip
    return Section("photos", "Photographs", tuple(blocks))
