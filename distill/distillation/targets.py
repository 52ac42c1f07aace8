"""Teacher targets, kept: what a teacher gives for fixed views of each training image, computed once.

The method of TinyViT (https://arxiv.org/abs/2207.10666, section 3.1): the augmentation is replayed from its seed, and
only the teacher's sparsified output is stored for it. Here a view depends on (view, image) and on nothing else, so that
every student, seed, grid and study with the same teacher reads the same files. A folder (`distill.cache`) holds them:

    about.json    what they were made from; a run that needs others is refused, with the name of what differs
    parts.json    how far each part is written; a killed build continues from there
    PART.bin      a row an image, view by view: points, confidence, logits or their most probable cells, tapped maps
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from tqdm import tqdm

from distill import config as configs
from distill.config import Config
from distill.data.loading import Batch, TrainDataset, train_loader
from distill.distillation.distiller import Distiller
from distill.distillation.methods import Outputs
from distill.errors import UserError
from distill.files import write_text
from distill.models.files import weights_fingerprint
from distill.models.landmarker import Landmarker, Prediction

VERSION = 1
SAVE_SECONDS = 30.0  # how much of a build a kill may cost
TAP = "tap "  # before the name of a tap: the part that holds its maps
HALF = torch.finfo(torch.float16).max

Targets = dict[str, Tensor]  # part -> (B, ...)


# ---------------------------------------------------------------------------------------------------- one batch


def pack(outputs: Outputs, logits: bool, cells: int) -> Targets:
    """What is stored of a teacher's outputs, on their device.

    logits: whether the heatmaps are wanted. cells: 0 stores them and the maps as they are, in float32; else the `cells`
    most probable cells of each heatmap as log-probabilities, the mean probability of the others, and maps, in float16.
    """
    prediction = outputs.prediction
    kept = {"points": prediction.points, "confidence": prediction.confidence}
    for tap, found in outputs.maps.items():
        kept[TAP + tap] = found.clamp(-HALF, HALF).half() if cells else found.float()
    if logits and not cells:
        kept["logits"] = prediction.logits
    elif logits:
        log_p = _log_probabilities(outputs.model, prediction.logits)
        values, index = log_p.topk(min(cells, log_p.shape[-1]), dim=-1)
        others = log_p.scatter(-1, index, -math.inf).logsumexp(-1, keepdim=True)
        others = others - math.log(max(1, log_p.shape[-1] - values.shape[-1]))
        short = torch.int16 if log_p.shape[-1] <= 2**15 else torch.int32
        kept |= {"cells": index.to(short), "log_p": values.half(), "others": others.clamp_min(-HALF).half()}
    return kept


def unpack(teacher: Landmarker, kept: Targets) -> Outputs:
    """The inverse of `pack`, as far as it has one. A heatmap comes back up to a constant, which no loss sees."""
    logits = kept.get("logits")
    if "log_p" in kept:
        others, side = kept["others"].float(), teacher.codec.grid.cells
        count = side ** len(teacher.codec.dims)
        logits = others.repeat_interleave(count, dim=-1).scatter(-1, kept["cells"].long(), kept["log_p"].float())
        logits = logits.unflatten(-1, (side,) * len(teacher.codec.dims))
    maps = {part.removeprefix(TAP): found.float() for part, found in kept.items() if part.startswith(TAP)}
    return Outputs(teacher, Prediction(kept["points"], kept["confidence"], logits), maps)


def errors(outputs: Outputs, kept: Targets) -> dict[str, float]:
    """What compression changes in the outputs of one batch: decoded points, as a mean and at most, in percent of the
    side; KL divergence of the heatmaps; root mean square of each tap's maps, relative to theirs."""
    model, restored = outputs.model, unpack(outputs.model, kept)
    found: dict[str, float] = {}
    if restored.prediction.logits is not None:
        moved = (model.codec.decode(restored.prediction.logits).points - outputs.prediction.points).norm(dim=-1)
        moved = 100 * moved / model.size
        found |= {"points (% of the side)": moved.mean().item(), "at most": moved.max().item()}
        true, stored = (_log_probabilities(model, x.prediction.logits) for x in (outputs, restored))
        found["KL"] = (true.exp() * (true - stored)).sum(-1).mean().item()
    for tap, given in outputs.maps.items():
        difference, power = (x.square().mean() for x in (given - restored.maps[tap], given))
        found[f"{tap} (relative)"] = (difference / power.clamp_min(1e-12)).sqrt().item()
    return found


def _log_probabilities(model: Landmarker, logits: Tensor) -> Tensor:
    """(B, P, H, W) -> (B, P, H * W), or (B, P, 2, bins)."""
    return torch.log_softmax(logits.float().flatten(-len(model.codec.dims)), dim=-1)


# ---------------------------------------------------------------------------------------------------- the files


@dataclass
class Part:
    """One file: rows of one shape and type, of which so many are written."""

    shape: list[int]
    dtype: str
    rows: int = 0

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass
class KeptTargets:
    """Reads a finished cache (a data.loading.TargetSource). Sent to another process, it opens the files anew there."""

    folder: Path
    parts: dict[str, Part]
    images: int
    _arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_arrays": {}}  # a memory map would be pickled as a copy of the whole file

    def row(self, view: int, index: int) -> dict[str, np.ndarray]:
        """part -> array without the batch axis."""
        if not self._arrays:
            for name, part in self.parts.items():
                self._arrays[name] = np.memmap(
                    _file(self.folder, name), part.dtype, "r", shape=(part.rows, *part.shape)
                )
        return {name: np.array(array[view * self.images + index]) for name, array in self._arrays.items()}


def open_or_build(distiller: Distiller, views: TrainDataset, config: Config, batch_size: int) -> KeptTargets:
    """The cache in `distill.cache`, built or continued where rows or whole parts are missing.

    views: gives the images as the teacher sees them, `distill.views` of each. batch_size: of the teacher's passes,
    which run in float32; a network's last digits may depend on it. Processes that call at once build once. Size and
    error are printed before anything is built. Raises UserError where the folder holds the targets of something else,
    or cannot be written.
    """
    folder = Path(config.distill.cache)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            _check_about(folder, _about(distiller, views, config))
            found = _read_parts(folder)
            wanted, total = _names(distiller, config.distill.cache_cells), len(views) * views.views
            missing = [name for name in wanted if name not in found or found[name].rows < total]
            if missing:
                _Build(folder, distiller, views, config, batch_size).run(found, missing, total)
            return KeptTargets(folder, {name: found[name] for name in wanted}, len(views))
    except OSError as error:
        raise UserError(f"distill.cache '{folder}' cannot be written: {error.strerror or error}.") from None


def _names(distiller: Distiller, cells: int) -> list[str]:
    """The parts that the terms of a run need."""
    heatmaps = (["log_p", "cells", "others"] if cells else ["logits"]) if distiller.needs_logits else []
    return ["points", "confidence", *heatmaps, *sorted(TAP + tap.name for tap in distiller.teacher_taps)]


def _about(distiller: Distiller, views: TrainDataset, config: Config) -> dict[str, Any]:
    """All that decides what is in the files, by the names under which a difference is reported."""
    pixels = views[0, 0].image  # sees changes of the augmentation's own code and libraries
    return {
        "version": VERSION,
        "teacher": weights_fingerprint(distiller.teacher.model),
        "data.train": views.set.fingerprint,
        "data.cache_size": configs.computing(config).data.cache_size,
        "distill.views": views.views,
        "distill.cache_cells": config.distill.cache_cells,
        "the side of the teacher's views": views.augmenter.size,
        **{key: value for key, value in configs.flatten(config).items() if key.startswith("augment.")},
        "the first view's pixels": hashlib.sha256(pixels.tobytes()).hexdigest()[:16],
    }


def _check_about(folder: Path, about: dict[str, Any]) -> None:
    path = folder / "about.json"
    if not path.exists():
        write_text(path, json.dumps(about, indent=1))
        return
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise UserError(f"distill.cache: '{path}' cannot be read; give another folder, or delete this one.") from None
    for key in {**found, **about}:
        if found.get(key) != about.get(key):
            raise UserError(
                f"distill.cache '{folder}' was built for another {key}: {found.get(key)!r}, and this run has "
                f"{about.get(key)!r}; give another folder, or delete this one."
            )


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name.replace(' ', '-').replace(':', '-')}.bin"


def _read_parts(folder: Path) -> dict[str, Part]:
    """The parts that are there; rows that are not in their file after all do not count."""
    try:
        found = {name: Part(**part) for name, part in json.loads((folder / "parts.json").read_text("utf-8")).items()}
        for name, part in found.items():
            path = _file(folder, name)
            part.rows = min(part.rows, path.stat().st_size // part.row_bytes if path.exists() else 0)
        return found
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return {}


class _Build:
    """Writes the parts that are missing."""

    def __init__(self, folder: Path, distiller: Distiller, views: TrainDataset, config: Config, batch_size: int):
        self.folder, self.distiller, self.views, self.workers = folder, distiller, views, config.data.workers
        self.cells, self.batch_size = config.distill.cache_cells, batch_size
        self.device = next(distiller.teacher.parameters()).device

    def run(self, parts: dict[str, Part], missing: list[str], total: int) -> None:
        """Write rows up to `total` of the missing parts; `parts` is brought up to date."""
        start = min(parts[name].rows if name in parts else 0 for name in missing)
        outputs, kept = self._targets_of(next(self._batches(0, self.batch_size, workers=0)))
        for name in missing:
            array = kept[name].cpu().numpy()
            parts[name] = Part(list(array.shape[1:]), str(array.dtype), start)
        size = sum(parts[name].row_bytes for name in missing)
        print(self._announced(total, size, errors(outputs, kept)), flush=True)
        with ExitStack() as stack:
            files = {name: stack.enter_context(open(_file(self.folder, name), "ab")) for name in missing}
            for name, file in files.items():
                file.truncate(start * parts[name].row_bytes)
            saved = -math.inf
            bar = stack.enter_context(tqdm(total=total, initial=start, desc="teacher targets", leave=False))
            for batch in self._batches(start, total, self.workers):
                _, kept = self._targets_of(batch)
                new = min(self.batch_size, total - start)
                for name, file in files.items():
                    file.write(kept[name][-new:].cpu().contiguous().numpy().tobytes())
                    parts[name].rows += new
                start += new
                bar.update(new)
                if time.monotonic() - saved > SAVE_SECONDS or start == total:
                    for file in files.values():
                        file.flush()
                        os.fsync(file.fileno())
                    write_text(self.folder / "parts.json", json.dumps({k: vars(part) for k, part in parts.items()}))
                    saved = time.monotonic()

    def _batches(self, start: int, end: int, workers: int) -> Iterator[Batch]:
        """Whole batches of rows from `start`; the last one begins earlier, so that it is whole, too."""
        images, size = len(self.views), self.batch_size
        firsts = [min(first, max(end - size, 0)) for first in range(start, end, size)]
        keys = [[divmod(row, images) for row in range(first, first + size)] for first in firsts]
        return iter(train_loader(self.views, keys, workers, pin=self.device.type == "cuda"))

    @torch.no_grad()
    def _targets_of(self, batch: Batch) -> tuple[Outputs, Targets]:
        outputs = self.distiller.teacher_outputs(batch.images.to(self.device))
        return outputs, pack(outputs, self.distiller.needs_logits, self.cells)

    def _announced(self, total: int, row_bytes: int, found: dict[str, float]) -> str:
        """Size on disk, and errors as measured on the first batch."""
        size = f"{total * row_bytes / 1e9:.3g} GB, {row_bytes / 1e3:.3g} kB a view"
        what = "float32, exact"
        if self.cells:
            measured = ", ".join(f"{name} {value:.2g}" for name, value in found.items())
            what = f"float16, {self.cells} cells of a heatmap; errors in the first {self.batch_size} views: {measured}"
        views = f"{len(self.views)} images in {self.views.views} views"
        return f"Teacher targets of {views}: {size}; {what} ('{self.folder}')."
