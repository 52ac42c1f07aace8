"""A set of renders on disk: shards, worker processes, labels, manifest.

The folder holds `NNNNNN.jpg`, `annot.pkl`, `manifest.json`, and `shards/`: one file for each SHARD images, written when
all of them are. A start renders what no shard contains, so that an interrupted run continues, and one for more images
extends the set.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numba
import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

from distill.data.annotations import LandmarkSet
from distill.errors import UserError
from distill.files import atomic, write_text
from distill.synthesis import facemodel
from distill.synthesis.facemodel import ASSETS, FaceModel
from distill.synthesis.renderer import VERSION, Renderer

SHARD = 50  # images
QUALITY = 88  # of the JPEG files
MANIFEST = "manifest.json"
SHARDS = "shards"
DEFAULTS = {"elevation": 0.0, "labels": "vertices"}  # of renders from before there was a choice
RECORD = np.dtype([("index", "<i8"), ("bytes", "<i8"), ("landmarks", "<f4", (68, 2))])
"""What a shard keeps of an image: its number, the size of its file, its landmarks in pixels."""


@dataclass(frozen=True)
class Request:
    """Which images of which seed are to lie in which folder."""

    folder: Path
    seed: int
    size: int  # side in px
    start: int
    count: int
    jobs: int  # processes
    elevation: float  # standard deviation of the camera's, degrees
    labels: str  # of LABELS


@dataclass(frozen=True)
class Result:
    """What `render` leaves: the labelled set and how long it took."""

    faces: LandmarkSet  # the whole set, whatever of it is new
    rendered: int  # images, now
    seconds: float


@dataclass(frozen=True)
class Task:
    """A shard that is not complete."""

    path: Path
    kept: np.ndarray  # RECORDs of images that are there
    missing: tuple[int, ...]  # indices


def make(request: Request) -> Result:
    """Render what is missing of images start .. start + count - 1, then write annot.pkl and the manifest over all that
    the folder holds.

    Raises UserError where the folder holds something else, or another process is at it.
    """
    folder = request.folder
    identity = _identity(request)
    _check(folder, identity)
    (folder / SHARDS).mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        if not (folder / MANIFEST).exists():
            _write_manifest(folder, identity, 0, None)
        tasks = _missing(request)
        waiting = sum(len(task.missing) for task in tasks)
        began = time.monotonic()
        with tqdm(
            total=request.count, initial=request.count - waiting, desc="rendering", unit="image", dynamic_ncols=True
        ) as bar:
            with contextlib.closing(_render(tasks, request)) as steps:
                for done in steps:
                    bar.update(done)
        seconds = time.monotonic() - began
        faces = _join(folder, request.size)
        _write_manifest(folder, identity, len(faces), faces.fingerprint)
    return Result(faces, waiting, seconds)


# ---------------------------------------------------------------------------------------------------- manifest


def _identity(request: Request) -> dict[str, Any]:
    """What all images of a folder have in common."""
    digest = hashlib.sha256()
    for path in sorted(path for path in ASSETS.rglob("*") if path.suffix in (".npz", ".webp")):
        digest.update(path.read_bytes())
    assets = digest.hexdigest()[:16]
    return {
        "version": VERSION,
        "seed": request.seed,
        "size": request.size,
        "elevation": request.elevation,
        "labels": request.labels,
        "quality": QUALITY,
        "assets": assets,
    }


def _check(folder: Path, identity: dict[str, Any]) -> None:
    """UserError where the folder is not new and not one of these renders."""
    path = folder / MANIFEST
    if not path.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise UserError(
                f"'{folder}' holds files but no {MANIFEST}, so it is no set of renders; expected a new folder."
            )
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        stored = {key: found.get(key, DEFAULTS.get(key)) for key in identity}
    except (OSError, ValueError, AttributeError):
        raise UserError(f"'{path}' is no manifest of renders; expected the one that was written there.") from None
    for key, wanted in identity.items():
        if stored[key] != wanted:
            raise UserError(f"'{folder}' holds renders of {key} {stored[key]}; expected {wanted}, or another folder.")


def _write_manifest(folder: Path, identity: dict[str, Any], count: int, fingerprint: str | None) -> None:
    packages = {"numpy": np.__version__, "numba": numba.__version__, "opencv": cv2.__version__}
    manifest = {**identity, "count": count, "fingerprint": fingerprint, "packages": packages}
    write_text(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        with FileLock(folder / SHARDS / ".lock", timeout=0):
            yield
    except Timeout:
        raise UserError(
            f"'{folder}' is being rendered by another process; wait for it, or take another folder."
        ) from None


# ---------------------------------------------------------------------------------------------------- shards


def image_name(index: int) -> str:
    """000042.jpg"""
    return f"{index:06d}.jpg"


def _missing(request: Request) -> list[Task]:
    """The request's shards that are not complete; an image counts when its file has the size that its shard holds."""
    folder, stop = request.folder, request.start + request.count
    sizes = _file_sizes(folder)
    tasks = []
    for first in range(request.start - request.start % SHARD, stop, SHARD):
        path = folder / SHARDS / f"{first:06d}.npy"
        kept = _read_shard(path, sizes)
        there = set(kept["index"].tolist())
        wanted = range(max(first, request.start), min(first + SHARD, stop))
        missing = tuple(index for index in wanted if index not in there)
        if missing:
            tasks.append(Task(path, kept, missing))
    return tasks


def _file_sizes(folder: Path) -> dict[str, int]:
    with os.scandir(folder) as entries:
        return {entry.name: entry.stat().st_size for entry in entries if entry.name.endswith(".jpg")}


def _read_shard(path: Path, sizes: dict[str, int]) -> np.ndarray:
    """RECORDs of the images that are there whole; none from a shard that is missing or broken."""
    try:
        records = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return np.empty(0, RECORD)
    if records.dtype != RECORD or records.ndim != 1:
        return np.empty(0, RECORD)
    return records[[sizes.get(image_name(r["index"])) == r["bytes"] for r in records]]


def _join(folder: Path, size: int) -> LandmarkSet:
    """annot.pkl over all shards; gives back the set."""
    sizes = _file_sizes(folder)
    shards = [_read_shard(path, sizes) for path in sorted((folder / SHARDS).glob("[0-9]*.npy"))]
    records = _in_order(shards)
    names = [image_name(index) for index in records["index"]]
    landmarks = np.ascontiguousarray(records["landmarks"])
    with atomic(folder / "annot.pkl") as temporary:
        temporary.write_bytes(pickle.dumps([names, list(landmarks)], protocol=4))
    frame = np.full((len(names), 2), size, np.int64)
    return LandmarkSet(folder, tuple(names), landmarks, frame, None, file_sizes=records["bytes"].astype(np.int64))


def _in_order(parts: Sequence[np.ndarray]) -> np.ndarray:
    """RECORDs of several shards, by index."""
    records = np.concatenate(parts)
    return records[np.argsort(records["index"])]


def encode(image: np.ndarray) -> bytes:
    """JPEG of (n, n, 3) uint8 RGB; noisy pictures get a lower quality, so that they stay small."""
    limit = 23000 * (image.shape[0] / 384) ** 1.4
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    data = b""
    for quality in (QUALITY, QUALITY - 12, QUALITY - 24):
        data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        if len(data) <= limit:
            break
    return data


# ---------------------------------------------------------------------------------------------------- rendering


class _Worker:
    """Renders shards in one process."""

    def __init__(self, model: FaceModel, request: Request):
        cv2.setNumThreads(1)  # a process is a core
        self.renderer = Renderer(model, request.elevation, request.labels)
        self.folder, self.seed, self.size = request.folder, request.seed, request.size

    def __call__(self, task: Task) -> int:
        """Render a shard's missing images; how many they were."""
        records = np.empty(len(task.missing), RECORD)
        for i, index in enumerate(task.missing):
            image, landmarks = self.renderer.render(self.seed, index, self.size)
            data = encode(image)
            (self.folder / image_name(index)).write_bytes(data)
            records[i] = index, len(data), landmarks
        with atomic(task.path) as temporary:
            np.save(temporary, _in_order([task.kept, records]))
        return len(task.missing)


def _render(tasks: Sequence[Task], request: Request) -> Generator[int, None, None]:
    """Work off the tasks, in this process or in several; yields how many images each took."""
    if not tasks:
        return
    settings = facemodel.load(), request
    jobs = min(request.jobs, len(tasks))
    if jobs == 1:
        yield from map(_Worker(*settings), tasks)
        return
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _start, settings)
    waiting: list[Future[int]] = []
    try:
        with _without_interrupts():  # workers inherit it: Ctrl-C is for this process, which ends them
            waiting += [pool.submit(_run, task) for task in tasks]
        for done in as_completed(waiting):
            yield done.result()
    except BrokenProcessPool:
        raise UserError(
            "A process died, perhaps out of memory; the same command continues, fewer --jobs need less."
        ) from None
    finally:
        for future in waiting:
            future.cancel()
        if not all(future.done() for future in waiting):
            for child in multiprocessing.active_children():
                child.terminate()
        pool.shutdown()


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


_worker: _Worker | None = None


def _start(model: FaceModel, request: Request) -> None:
    """In a new process: prepare, and end when the parent is gone, however it went."""
    global _worker
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    _worker = _Worker(model, request)


def _run(task: Task) -> int:
    return _worker(task)
