"""What a training leaves on disk so that it can be cut at any moment: checkpoints, snapshots, and the request to stop.

A checkpoint holds plain values and tensors only, so that loading one runs no code.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from distill import config as configs
from distill.config import Config, TrackingConfig, TrainConfig
from distill.errors import UserError
from distill.files import atomic
from distill.models.files import save_model
from distill.models.landmarker import Landmarker
from distill.tracking import end_run, find_run, is_held, store_root

VERSION = 1
CHECKPOINT = "checkpoint.pt"  # in the run's work folder
HOLDS = {"job": str, "config": dict, "data": dict, "teacher_run": str}  # what resuming reads of a checkpoint first
SNAPSHOTS = "snapshots"  # a folder there, and among the run's artifacts


def save(path: Path, state: dict[str, Any]) -> None:
    """Write, flush to disk, then put in place: a kill at any moment leaves the old file or the new one, whole.

    Raises UserError where the disk is full or refuses.
    """
    try:
        with atomic(path) as temporary, open(temporary, "wb") as file:
            torch.save({"version": VERSION, **state}, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        reason = error if isinstance(error, OSError) else error.__context__  # torch hides the file's own error
        if not isinstance(reason, OSError):
            raise
        raise UserError(
            f"Checkpoint '{path}' cannot be written: {reason.strerror}; the one before is unharmed."
        ) from None


def load(path: Path) -> dict[str, Any]:
    """Raises UserError where the file is absent, damaged, or of another version."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # checksums, which torch writes and does not look at
        if damaged:
            raise zipfile.BadZipFile(f"the checksum of '{damaged}' is another")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"There is no checkpoint '{path}' to resume from.") from None
    except Exception as error:  # whatever damaged bytes make zipfile and torch raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"Checkpoint '{path}' cannot be read: {reason}") from None
    if not isinstance(state, dict) or state.get("version") != VERSION:
        raise UserError(f"Checkpoint '{path}' is not of version {VERSION}; it belongs to another version of distill.")
    for key, kind in HOLDS.items():
        if not isinstance(state.get(key), kind):
            found = type(state[key]).__name__ if key in state else "nothing"
            raise UserError(f"Checkpoint '{path}' holds {found} as '{key}'; expected a {kind.__name__}.")
    return state


# ---------------------------------------------------------------------------------------------------- resume


@dataclass(frozen=True)
class Unfinished:
    """A run to continue."""

    work: Path  # its work folder, which has its id as name
    state: dict[str, Any]  # its checkpoint

    @property
    def run_id(self) -> str:
        """Its id in the store, or `offline-...`."""
        return self.work.name


def find_checkpoint(config: Config) -> Path:
    """The checkpoint that `resume` means: of a run id (or its unique beginning), or of the run that saved last."""
    root = store_root(config.tracking) / "work"
    found = sorted(root.glob(f"*/{CHECKPOINT}"), key=lambda path: path.stat().st_mtime)
    if config.resume != "last":
        found = [path for path in found if path.parent.name.startswith(config.resume)]
    if not found:
        what = "no unfinished run" if config.resume == "last" else f"no unfinished run '{config.resume}'"
        raise UserError(f"resume: there is {what} with a checkpoint under '{root}'.")
    if config.resume != "last" and len(found) > 1:
        raise UserError(f"resume: '{config.resume}' is the beginning of {len(found)} run ids; expected one.")
    return found[-1]


def stored_config(overrides: Sequence[str]) -> Config:
    """The config of the run that `resume=` among the overrides means, changed by the others; the store is this call's.

    Raises UserError as `configs.load` does, and where there is no such run.
    """
    call = configs.load(None, overrides)
    stored = configs.from_dict(load(find_checkpoint(call))["config"], "the checkpoint's config")
    own = {"tracking.store": call.tracking.store}
    return configs.load(None, overrides, settings=configs.to_dict(stored) | own)


def unfinished(config: Config, job: str, path: Path) -> Unfinished:
    """The run with this checkpoint. Raises UserError where it is of another job or computes something else."""
    found = Unfinished(path.parent, load(path))
    if found.state["job"] != job:
        raise UserError(f"resume: run '{found.run_id}' is a {found.state['job']}, not a {job}.")
    stored = configs.from_dict(found.state["config"], "the checkpoint's config")
    if configs.digest(stored) != configs.digest(config):
        key, was, now = configs.first_difference(stored, config)
        raise UserError(
            f"resume: the run was started with {key}={was!r}, this call has {now!r}; expected the same config "
            "(give resume= alone to use the run's own)."
        )
    return found


def check_data(found: Unfinished, fingerprints: dict[str, str]) -> None:
    """Raises UserError where the run was started on other data."""
    for name, value in fingerprints.items():
        stored = found.state["data"].get(name)
        if stored != value:
            raise UserError(f"resume: the {name} data has fingerprint {value}, the run was started on {stored}.")


def resume_command(config: Config, job: str, run_id: str, root: Path | None) -> str:
    """What a person types to continue this run, from any folder. root: of the data; None: the bundled sample."""
    tracking, data = config.tracking, config.data
    places: dict[str, str | Path | None] = {
        "tracking.store": tracking.store,
        "data.root": root,
        "data.cache": data.cache,
        "distill.cache": config.distill.cache,
    }
    found = [shlex.quote(f"{key}={Path(place).absolute()}") for key, place in places.items() if place]
    return " ".join([f"python -m distill.{job} resume={run_id}", *found])


def tidy(config: TrackingConfig) -> None:
    """Clear up after processes of this store that were killed: half-written checkpoints; and runs without a checkpoint,
    which cannot be continued, end as KILLED.
    """
    for work in (store_root(config) / "work").glob("*/"):
        # whoever trains holds the lock, which outlives a kill as a file
        if not (work / "lock").exists() or is_held(work):
            continue
        for file in (*work.glob(f".{Path(CHECKPOINT).stem}.*.tmp.pt"), *work.glob(f"{CHECKPOINT}.*.tmp")):
            file.unlink(missing_ok=True)
        if not (work / CHECKPOINT).exists() and not (work / "artifacts").exists():
            with suppress(UserError):  # the store is away, or the run is in another one
                if find_run(config, work.name).status == "RUNNING":
                    end_run(config, work.name, "KILLED")
            (work / "lock").unlink(missing_ok=True)  # this is done once


# ---------------------------------------------------------------------------------------------------- snapshots


class Snapshots:
    """`epoch_NNN.safetensors` in a folder, one for each validated epoch among the last `train.snapshots`.

    Written as the epoch ends, whole or not at all, so that a killed run that continues leaves the same files.
    """

    def __init__(self, folder: Path, config: TrainConfig):
        self.folder, self.config = folder, config

    def keep(self, model: Landmarker, epoch: int, about: dict[str, Any]) -> None:
        """Save the weights of `epoch` (from 1) if they may be among the last, and drop what no longer is."""
        oldest = self.config.epochs - self.config.snapshots
        any_may_be_last = self.config.patience or self.config.minutes
        if self.config.snapshots and (any_may_be_last or epoch > oldest):
            save_model(model, self.folder / f"epoch_{epoch:03d}.safetensors", about)
            for file in self.files():
                if epoch_of(file) <= epoch - self.config.snapshots:
                    file.unlink()

    def files(self) -> list[Path]:
        """By epoch."""
        return sorted(self.folder.glob("epoch_*.safetensors"), key=epoch_of)


def epoch_of(file: Path) -> int:
    """The epoch (from 1) of a snapshot's file."""
    return int(re.fullmatch(r"epoch_(\d+)", file.stem)[1])


# ---------------------------------------------------------------------------------------------------- signals


class Interrupted(SystemExit):
    """Training was stopped by a signal and has saved. Exit code 128 + signal, as a shell expects."""

    def __init__(self, number: int):
        super().__init__(128 + number)
        self.signal = signal.Signals(number)


class StopRequest:
    """Context manager: while inside, the first SIGINT or SIGTERM sets `signal`; a second one acts as usual at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:  # only the main thread may handle signals, and a search may train in another
                pass
        return self

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def __exit__(self, *_: object) -> None:
        self._restore()
