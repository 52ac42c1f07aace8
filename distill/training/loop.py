"""The training loop: `Trainer.train_step` is one optimiser step, `fit` the epochs of it. It knows neither MLflow nor Optuna.

Exactness: a sample depends on (seed, epoch, index), the order on (seed, epoch), the randomness inside a step on (seed, step,
rank), learning rate and term weights on the step. So position, weights, averages and optimiser state are all there is to
save, and a resumed run computes the very same weights.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from distill.config import TrainConfig
from distill.data.loading import Batch
from distill.distillation.objective import Objective
from distill.errors import UserError
from distill.models.landmarker import Landmarker
from distill.training.checkpoint import Interrupted, StopRequest
from distill.training.compile import compile_objective
from distill.training.distributed import Processes
from distill.training.optim import WeightAverage, lr_at, make_optimizer, train_mode

SELECT = "val/nme"  # the one number that selects: best weights, early stop


class Diverged(UserError):
    """A loss, or its gradient, became NaN or infinite."""


class Abandoned(Exception):
    """A callback found that the training is not worth going on with, and says why."""


@dataclass
class Progress:
    """All that changes while training, besides weights. Plain values only: it goes into the checkpoint as it is."""

    epoch: int = 0  # the epoch being trained, from 0
    batch: int = 0  # batches of it that are done
    step: int = 0  # optimiser steps done
    best: float = math.inf
    best_epoch: int = -1
    sums: dict[str, float] = field(default_factory=dict)  # of this epoch's per-batch values
    seconds: float = 0.0  # spent training, over all sessions
    epoch_seconds: float = 0.0  # of them in the steps of this epoch
    history: list[dict[str, float]] = field(default_factory=list)  # one dict an epoch


class Hooks(Protocol):
    """What the loop calls while it trains; the model is the weight average, in eval mode. Epochs count from 1."""

    def validate(self, model: Landmarker) -> dict[str, float]:
        """Metrics of the model, `val/nme` among them."""

    def on_validated(self, model: Landmarker, epoch: int, value: float, best: bool) -> None:
        """After every validation. value: its val/nme; best: whether it is the lowest so far."""

    def on_epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """After each epoch. May raise Abandoned."""


# ---------------------------------------------------------------------------------------------------- one step


class Trainer:
    """What a training consists of: objective, optimiser, weight average, and how far it has come.

    The objective is moved to the device, and compiled or wrapped for several processes where that is asked for.
    """

    def __init__(
        self, objective: Objective, config: TrainConfig, processes: Processes, *, seed: int, batches_per_epoch: int
    ):
        self.objective, self.config, self.processes, self.seed = objective, config, processes, seed
        self.device, self.dtype = processes.device, autocast_dtype(config, processes.device)
        self.batches_per_epoch, self.steps = batches_per_epoch, batches_per_epoch * config.epochs
        objective.to(self.device)
        objective.student.to(memory_format=torch.channels_last if config.channels_last else torch.contiguous_format)
        train_mode(objective, config.freeze)
        self.average = WeightAverage(objective.student, config.ema)  # before wrapping and compiling: it stays plain
        self.optimizer = make_optimizer(objective, config)
        self.module = processes.wrap(objective)
        if config.compile:
            compile_objective(objective)
        self.progress = Progress()
        self.sums = Sums()
        self._started = time.monotonic()

    def train_step(self, batch: Batch) -> dict[str, Tensor]:
        """One optimiser step on this process's share of a batch.

        Returns what is logged of it, as 0-d tensors on the device: the loss, each term raw and weighted, the length of the
        gradient. Raises Diverged, before anything is changed, where the loss or the gradient is not finite.
        """
        lr = self.lr()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        torch.manual_seed(hash((self.seed, self.progress.step, self.processes.rank)) % 2**63)  # dropout and the like
        images = batch.images.to(self.device, non_blocking=True)
        landmarks = batch.landmarks.to(self.device, non_blocking=True)
        self.optimizer.zero_grad(set_to_none=True)
        values: dict[str, Tensor] = {}
        parts = self.config.accumulate
        for part, (x, y) in enumerate(zip(images.chunk(parts), landmarks.chunk(parts), strict=True), start=1):
            # several processes average their gradients once a step
            with nullcontext() if part == parts else self.processes.no_sync(self.module):
                with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
                    total, raw, weights, outside = self.module(x, y, self.progress.step / self.steps)
                (total / parts).backward()
            for name, value in self._named(total, raw, weights, outside).items():
                values[name] = values.get(name, 0) + value / parts
        limit = self.config.clip or math.inf
        values["train/grad_norm"] = nn.utils.clip_grad_norm_(self.objective.parameters(), limit)
        self._check_finite(values)
        self.optimizer.step()
        self.progress.step += 1
        self.average.update(self.objective.student, self.progress.step)
        return values

    def _named(
        self, total: Tensor, raw: dict[str, Tensor], weights: dict[str, float], outside: Tensor
    ) -> dict[str, Tensor]:
        """One pass's values, by the names under which they are logged."""
        raw = {name: value.detach() for name, value in raw.items()}
        values = {"train/loss": total.detach(), "train/points_outside": outside}
        values |= {f"train/raw/{name}": value for name, value in raw.items()}
        values |= {f"train/weighted/{name}": value * weights[name] for name, value in raw.items()}
        scales = self.objective.scales().items()
        return values | {f"train/scale/{name}": torch.full_like(total, scale) for name, scale in scales}

    def _check_finite(self, values: dict[str, Tensor]) -> None:
        found = dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))  # one transfer for all
        if all(math.isfinite(value) for value in found.values()):
            return
        terms = {name: value for name, value in found.items() if name.startswith("train/raw/")}
        broken = not all(math.isfinite(value) for value in (found["train/loss"], *terms.values()))
        what, value = ("loss", found["train/loss"]) if broken else ("gradient norm", found["train/grad_norm"])
        each = ", ".join(f"{name.removeprefix('train/raw/')}={term:.6g}" for name, term in terms.items())
        raise Diverged(
            f"The {what} is {value} at epoch {self.progress.epoch + 1}, batch {self.progress.batch + 1} (train.lr "
            f"{self.lr():.3g}). Terms: {each}. The last checkpoint is unharmed; a lower train.lr or train.clip may help."
        )

    def lr(self) -> float:
        """The learning rate of the next step."""
        return lr_at(self.progress.step, self.steps, self.batches_per_epoch, self.config)

    def seconds(self) -> float:
        """Spent training so far, over all sessions."""
        return self.progress.seconds + time.monotonic() - self._started

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors, all that another process needs to go on."""
        now = time.monotonic()
        self.progress.seconds, self._started = self.progress.seconds + now - self._started, now
        self.progress.sums = self.sums.to_dict()
        return {
            "objective": self.objective.state_dict(),
            "average": self.average.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": vars(self.progress),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.objective.load_state_dict(state["objective"])
        self.average.model.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])
        self.sums = Sums(self.progress.sums)
        self._started = time.monotonic()


class Sums:
    """Running sums of named 0-d tensors, kept on their device in float64."""

    def __init__(self, start: dict[str, float] | None = None):
        self._start, self._names, self._total = dict(start or {}), (), None

    def add(self, values: dict[str, Tensor]) -> None:
        """values: the same names at every call."""
        stacked = torch.stack(list(values.values()))
        if self._total is None:
            self._names = tuple(values)
            start = [self._start.get(name, 0.0) for name in self._names]
            self._total = torch.tensor(start, dtype=torch.float64, device=stacked.device)
        self._total += stacked

    def to_dict(self) -> dict[str, float]:
        if self._total is None:
            return dict(self._start)
        return dict(zip(self._names, self._total.tolist(), strict=True))


def seed_everything(seed: int) -> None:
    """Deterministic initial weights, and deterministic kernels wherever there are any."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False


def autocast_dtype(config: TrainConfig, device: torch.device) -> torch.dtype | None:
    """bfloat16 where it is asked for, or (auto) where the device computes it natively; None: float32."""
    if config.amp == "bf16":
        return torch.bfloat16
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if config.amp == "auto" and native else None


# ---------------------------------------------------------------------------------------------------- all epochs


def fit(trainer: Trainer, loader: DataLoader, hooks: Hooks, save: Callable[[dict[str, Any]], None], label: str) -> None:
    """Train to the end, or until patience is over; `trainer.progress` tells what came of it.

    loader: its batch_sampler is an EpochSampler. save: keeps a trainer's state, in the main process. label: of the progress
    bar. Raises Diverged when a loss is not finite, Interrupted (after saving) on Ctrl-C or SIGTERM, and what hooks raise.
    """
    main, progress = trainer.processes.is_main, trainer.progress
    bar = tqdm(
        total=trainer.steps, initial=progress.step, desc=label, unit="batch", disable=not main, dynamic_ncols=True,
        mininterval=0.5 if sys.stderr.isatty() else 20,
    )  # fmt: skip

    def keep() -> None:
        state = trainer.state_dict()
        if main:
            save(state)

    with StopRequest() as request, bar:
        while not _is_over(trainer):
            bar.set_description(f"{label} {progress.epoch + 1}/{trainer.config.epochs}")
            train_epoch(trainer, loader, request, keep, bar.update)
            metrics = _mean_values(trainer, loader.batch_sampler.batch_size)
            number = progress.epoch + 1
            if number % trainer.config.val_every == 0 or number == trainer.config.epochs:
                metrics |= _validate(trainer, hooks)
                bar.set_postfix_str(f"{SELECT} {metrics[SELECT]:.3f} best {progress.best:.3f}")
            progress.history.append({"epoch": float(number), **metrics})
            if main:
                hooks.on_epoch(number, metrics)
            progress.epoch, progress.batch, progress.epoch_seconds, trainer.sums = number, 0, 0.0, Sums()
            keep()
            _leave_if_asked(trainer, request)


def train_epoch(
    trainer: Trainer, loader: DataLoader, request: StopRequest, keep: Callable[[], None], on_step: Callable[[], Any]
) -> None:
    """The batches of the current epoch that are not done yet. keep: saves a checkpoint."""
    progress, every = trainer.progress, trainer.config.checkpoint_seconds
    loader.batch_sampler.set_position(progress.epoch, progress.batch)
    train_mode(trainer.objective, trainer.config.freeze)
    saved_at, seconds_before, start = time.monotonic(), progress.epoch_seconds, time.monotonic()
    for batch in loader:
        trainer.sums.add(trainer.train_step(batch))
        progress.batch += 1
        progress.epoch_seconds = seconds_before + time.monotonic() - start
        on_step()
        if trainer.processes.any(request.signal is not None):
            keep()
            _leave_if_asked(trainer, request)
        if every and time.monotonic() - saved_at > every:
            keep()
            saved_at = time.monotonic()


def _is_over(trainer: Trainer) -> bool:
    progress, config = trainer.progress, trainer.config
    just_validated = progress.best_epoch >= 0 and progress.epoch % config.val_every == 0
    out_of_patience = config.patience and just_validated and progress.epoch - progress.best_epoch > config.patience
    return progress.epoch >= config.epochs or bool(out_of_patience)


def _leave_if_asked(trainer: Trainer, request: StopRequest) -> None:
    if trainer.processes.any(request.signal is not None):
        raise Interrupted(request.signal or 15)


def _mean_values(trainer: Trainer, batch_size: int) -> dict[str, float]:
    """Means over the epoch's batches and over processes, and how fast it went."""
    progress, sums = trainer.progress, trainer.sums.to_dict()
    means = torch.tensor(list(sums.values()), dtype=torch.float64, device=trainer.device) / progress.batch
    metrics = dict(zip(sums, trainer.processes.mean(means).tolist(), strict=True))
    metrics["train/lr"] = trainer.optimizer.param_groups[0]["lr"]
    metrics["train/images_per_second"] = progress.batch * batch_size / max(progress.epoch_seconds, 1e-9)
    metrics["train/epoch_seconds"] = progress.epoch_seconds
    return metrics


def _validate(trainer: Trainer, hooks: Hooks) -> dict[str, float]:
    """Metrics of the weight average; the main process measures for all of them."""
    progress, model = trainer.progress, trainer.average.model
    measured = trainer.processes.from_main(lambda: hooks.validate(model))
    best = measured[SELECT] < progress.best
    if best:
        progress.best, progress.best_epoch = measured[SELECT], progress.epoch
    if trainer.processes.is_main:
        hooks.on_validated(model, progress.epoch + 1, measured[SELECT], best)
    return measured
