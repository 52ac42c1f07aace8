"""The validated weights of the last epochs, for weight averaging: `train.snapshots`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from distill.config import TrainConfig
from distill.models.files import save_model
from distill.models.landmarker import Landmarker

FOLDER = "snapshots"  # in the run's work folder, and among its artifacts


class Snapshots:
    """`epoch_NNN.safetensors` in a folder, one for each validated epoch among the last `train.snapshots`.

    Written as the epoch ends, whole or not at all, so that a killed run that continues leaves the same files.
    """

    def __init__(self, folder: Path, config: TrainConfig):
        self.folder, self.config = folder, config

    def keep(self, model: Landmarker, epoch: int, about: dict[str, Any]) -> None:
        """Save the weights of `epoch` (from 1) if they may be among the last, and drop what no longer is."""
        oldest = self.config.epochs - self.config.snapshots
        # with patience any epoch may turn out to be the last
        if self.config.snapshots and (self.config.patience or epoch > oldest):
            save_model(model, self.folder / f"epoch_{epoch:03d}.safetensors", about)
            for file in self.files():
                if epoch_of(file) <= epoch - self.config.snapshots:
                    file.unlink()

    def files(self) -> list[Path]:
        """By epoch."""
        return sorted(self.folder.glob("epoch_*.safetensors"), key=epoch_of)


def epoch_of(file: Path) -> int:
    return int(re.fullmatch(r"epoch_(\d+)", file.stem)[1])
