"""Submissions: made by a student, scored where there are labels, and kept in a ledger."""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from distill import metrics
from distill import tracking as track
from distill.config import TrackingConfig
from distill.data.annotations import LandmarkSet
from distill.errors import UserError
from distill.submission import file as submission
from distill.tracking import RunInfo

EXPERIMENT = "submissions"
JOB = "submission"
A_DAY, IN_ALL = 5, 60  # what the challenge admits
PUBLIC = 0.6  # the fraction of the images that the public score is of
SPLITS = 1000


# ---------------------------------------------------------------------------------------------------- making


def make(model_file: Path, images: LandmarkSet, out: Path) -> Path:
    """Predict all images with a student and write the checked zip. Raises UserError for a model that breaks the
    challenge's rules (a teacher, over 15 MB, not float32) or has other points, and for a file that cannot be
    written."""
    from distill.export.job import solve_student  # torch is needed here and for nothing else

    submission.check_names(images.names)
    return submission.write(out, images.names, solve_student(model_file, images))


# ---------------------------------------------------------------------------------------------------- scoring


@dataclass(frozen=True)
class Split:
    """What public and private score could have been, over random divisions of the images. All in percent."""

    public: int  # images
    private: int
    deviation: float  # standard deviation of the public score
    gap: float  # mean of |public - private|
    low: float  # 95 % of the differences public - private lie between these
    high: float
    widest: float  # largest |public - private|


@dataclass(frozen=True)
class Score:
    """What a submission file reaches on labelled images."""

    report: metrics.Report  # NME in percent of sqrt(W * H), median, regions
    split: Split | None  # None: a single image


def score(file: Path, labelled: LandmarkSet, splits: int = SPLITS, seed: int = 0) -> Score:
    """Score a submission as the challenge does. Raises UserError for an invalid file, and where its images are not
    exactly those of the labelled set."""
    names, points = submission.read(file)
    missing, unknown = sorted(set(labelled.names) - set(names)), sorted(set(names) - set(labelled.names))
    if missing or unknown:
        first = f"'{missing[0]}' is missing" if missing else f"'{unknown[0]}' has no label"
        raise UserError(
            f"'{file}' does not hold the images of '{labelled.folder}': {len(missing)} are missing and {len(unknown)} "
            f"have no label ({first}); expected exactly its {len(labelled)}."
        )
    rows = {name: row for row, name in enumerate(names)}
    points = points[[rows[name] for name in labelled.names]]
    report = metrics.evaluate(points, labelled.landmarks, labelled.sizes)
    return Score(report, simulate(report.per_image, splits, seed) if len(labelled) > 1 else None)


def simulate(per_image: np.ndarray, splits: int = SPLITS, seed: int = 0) -> Split:
    """Divide the images' errors (N,), N at least 2, at random into 60 % public and 40 % private, `splits` times."""
    count = len(per_image)
    public = min(max(round(PUBLIC * count), 1), count - 1)
    rng = np.random.default_rng(seed)
    shuffled = rng.permuted(np.tile(np.asarray(per_image, dtype=np.float64), (splits, 1)), axis=1)
    scores, rest = shuffled[:, :public].mean(axis=1), shuffled[:, public:].mean(axis=1)
    difference = scores - rest
    low, high = np.percentile(difference, [2.5, 97.5])
    spread = (scores.std(), np.abs(difference).mean(), low, high, np.abs(difference).max())
    return Split(public, count - public, *map(float, spread))


# ---------------------------------------------------------------------------------------------------- the ledger


@dataclass(frozen=True)
class Entry:
    """One line of the ledger."""

    id: str  # of the ledger's run
    date: datetime.date
    public: float  # percent
    sha256: str
    file: str  # its name
    run_id: str  # that made it; empty: unknown
    run_name: str
    val: float  # best/val/nme of that run; nan: unknown
    note: str
    logged: str  # when it was first entered here, ISO 8601


@dataclass(frozen=True)
class Logged:
    """An entry after it was logged."""

    entry: Entry
    before: float | None  # the score that the ledger had for this file; None: it is new there
    warnings: tuple[str, ...]


def log(
    file: Path,
    public: float,
    tracking: TrackingConfig,
    *,
    run: str = "",
    date: datetime.date | None = None,
    note: str | None = None,
) -> Logged:
    """Enter a submitted file with its public score (percent). The same bytes again change the score of the entry they
    have (and its date, note and run where these are given). Too many are not refused; `warnings` names them.

    run: the run that made it; without it the run that exported these bytes, where there is one. Raises UserError for an
    invalid file, an impossible score, an unknown run, and a store that is away.
    """
    if not (math.isfinite(public) and 0 <= public < 100):
        raise UserError(f"The public score is {public:g}; expected an NME in percent, for instance 2.31.")
    submission.read(file)
    digest = submission.sha256(file)
    known = {entry.sha256: entry for entry in entries(tracking)}
    old = known.get(digest)
    maker = track.find_run(tracking, run) if run else None
    if maker is None and not (old and old.run_id):
        maker = find_maker(file, tracking)
    day = date or (old.date if old else datetime.date.today())
    tags = {
        "submission.sha256": digest,
        "submission.date": day.isoformat(),
        "submission.public": f"{public:g}",
        track.NOTE: f"Submitted on {day.isoformat()}: public score {public:g} %.",
    }
    values = {"public/nme": public}
    if old is None:
        tags["submission.file"] = file.name
        tags["submission.logged"] = datetime.datetime.now(datetime.UTC).isoformat()
    if note is not None:
        tags["submission.note"] = note
    if maker is not None:
        tags |= {"submission.run_id": maker.id, "submission.run_name": maker.name}
        if "best/val/nme" in maker.metrics:
            values["val/nme"] = maker.metrics["best/val/nme"]
    track.write_entry(
        tracking,
        EXPERIMENT,
        job=JOB,
        key=digest[:16],
        name=f"{day.isoformat()} {file.name}",
        tags=tags,
        metrics=values,
        files=[file],
        time=_milliseconds(day),
    )
    after = entries(tracking)
    entry = next(entry for entry in after if entry.sha256 == digest)
    return Logged(entry, old.public if old else None, warnings(after, entry.date))


def entries(tracking: TrackingConfig) -> list[Entry]:
    """The ledger, oldest first."""
    found = (_entry(info) for info in track.list_runs(replace(tracking, experiment=EXPERIMENT), JOB))
    return sorted((entry for entry in found if entry), key=lambda entry: (entry.date, entry.logged))


def warnings(known: list[Entry], day: datetime.date) -> tuple[str, ...]:
    """Sentences about the counts: none below 5 on this day and 60 in all."""
    today = sum(entry.date == day for entry in known)
    found = []
    for count, when, most, limit in (
        (today, f"on {day.isoformat()}", A_DAY, "a day"),
        (len(known), "in all", IN_ALL, "in all"),
    ):
        if count >= most:
            state = f"{count - most} more than" if count > most else "as many as"
            found.append(f"The ledger has {count} submissions {when}, {state} the challenge takes ({most} {limit}).")
    return tuple(found)


def find_maker(file: Path, tracking: TrackingConfig) -> RunInfo | None:
    """The student's run that exported these bytes, by its tag; None: no run of this store."""
    found = track.runs_tagged(tracking, "student", {"submission.sha256": submission.sha256(file)})
    return found[0] if found else None


def _entry(info: RunInfo) -> Entry | None:
    """None: a run of that experiment which is not a ledger entry."""
    tags = info.tags
    try:
        return Entry(
            info.id,
            datetime.date.fromisoformat(tags["submission.date"]),
            float(tags["submission.public"]),
            tags["submission.sha256"],
            tags.get("submission.file", ""),
            tags.get("submission.run_id", ""),
            tags.get("submission.run_name", ""),
            info.metrics.get("val/nme", math.nan),
            tags.get("submission.note", ""),
            tags.get("submission.logged", ""),
        )
    except (KeyError, ValueError):
        return None


def _milliseconds(day: datetime.date) -> int:
    """Noon of that day, so that a store in another time zone shows the same date."""
    return int(datetime.datetime.combine(day, datetime.time(12)).timestamp() * 1000)
