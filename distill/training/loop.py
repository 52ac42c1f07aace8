"""The training loop. It knows neither MLflow nor Optuna: it calls back after every epoch.

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
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from distill.config import TrainConfig
from distill.data.loading import EpochSampler
from distill.distillation.distiller import Objective
from distill.errors import UserError
from distill.training import checkpoint
from distill.training.compile import compile_objective
from distill.training.distributed import Processes
from distill.training.freeze import train_mode
from distill.training.optim import WeightAverage, lr_at, make_optimizer
from distill.training.signals import Interrupted, StopRequest

SELECT = "val/nme"  # the one number that selects: best weights, early stop


class Diverged(UserError):
    """A loss, or its gradient, became NaN or infinite."""


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
    history: list[dict[str, float]] = field(default_factory=list)  # one dict an epoch


@dataclass(frozen=True)
class Hooks:
    """What the loop asks of its surroundings."""

    validate: Callable[[nn.Module], dict[str, float]]  # model in eval mode -> metrics, `val/nme` among them
    on_epoch: Callable[[int, dict[str, float]], None]  # after each epoch: number from 1, metrics
    on_best: Callable[[nn.Module, int, float], None]  # new best weights: model, epoch from 1, val/nme
    on_validated: Callable[[nn.Module, int, float], None] = lambda *_: None  # likewise, after every validation


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


def fit(
    objective: Objective,
    loader: DataLoader,
    sampler: EpochSampler,
    hooks: Hooks,
    config: TrainConfig,
    processes: Processes,
    *,
    seed: int,
    checkpoint_path: Path,
    identity: dict[str, Any],
    resume: dict[str, Any] | None = None,
    label: str = "",
) -> Progress:
    """Train to the end, or until patience is over, and return what happened.

    identity: plain values stored with every checkpoint (config, run id, data). resume: a loaded checkpoint.
    Raises Diverged when a loss is not finite, Interrupted (after saving) on Ctrl-C or SIGTERM.
    """
    device = processes.device
    memory = torch.channels_last if config.channels_last else torch.contiguous_format
    objective.to(device)
    train_mode(objective, config.freeze)
    objective.student.to(memory_format=memory)
    student = objective.student
    average = WeightAverage(student, config.ema)
    optimizer = make_optimizer(objective, config)
    progress = Progress()
    if resume is not None:
        objective.load_state_dict(resume["objective"])
        average.model.load_state_dict(resume["average"])
        optimizer.load_state_dict(resume["optimizer"])
        progress = Progress(**resume["progress"])
    module = processes.wrap(objective)
    if module is not objective:
        student = module.module.student  # synchronised batch norms replace the original ones
    if config.compile:
        compile_objective(objective)  # after the average was copied from it, which stays eager
    dtype = autocast_dtype(config, device)
    per_epoch = len(sampler)
    steps = config.epochs * per_epoch
    session_start, seconds_before = time.monotonic(), progress.seconds

    def save() -> None:
        progress.seconds = seconds_before + time.monotonic() - session_start
        if processes.is_main:
            state = {
                "objective": objective.state_dict() if module is objective else module.module.state_dict(),
                "average": average.model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "progress": vars(progress),
            }
            checkpoint.save(checkpoint_path, state | identity)

    def diverged(what: str, value: float, terms: dict[str, float], lr: float) -> Diverged:
        each = ", ".join(f"{name}={term:.6g}" for name, term in terms.items())
        return Diverged(
            f"The {what} is {value} at epoch {progress.epoch + 1}, batch {progress.batch + 1} (train.lr {lr:.3g}). "
            f"Terms: {each}. The last checkpoint is unharmed; a lower train.lr or train.clip may help."
        )

    def one_step(batch) -> dict[str, float]:
        lr = lr_at(progress.step, steps, per_epoch, config)
        for group in optimizer.param_groups:
            group["lr"] = lr
        torch.manual_seed(hash((seed, progress.step, processes.rank)) % 2**63)
        images, landmarks = batch.images.to(device, non_blocking=True), batch.landmarks.to(device, non_blocking=True)
        optimizer.zero_grad(set_to_none=True)
        values: dict[str, float] = {}
        parts = config.accumulate
        for part, (x, y) in enumerate(zip(images.chunk(parts), landmarks.chunk(parts), strict=True)):
            last = part == parts - 1
            with nullcontext() if last or module is objective else module.no_sync():
                with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                    total, raw, weights, outside = module(x, y, progress.step / steps)
                # one transfer from the device tells all values of the pass
                told = torch.stack([total, outside, *raw.values()]).detach().tolist()
                if not all(math.isfinite(v) for v in told):
                    raise diverged("loss", told[0], dict(zip(raw, told[2:], strict=True)), lr)
                (total / parts).backward()
            names = ["train/loss", "train/points_outside", *(f"train/raw/{name}" for name in raw)]
            named = dict(zip(names, told, strict=True))
            named |= {f"train/weighted/{n}": v * weights[n] for n, v in zip(raw, told[2:], strict=True)}
            named |= {f"train/scale/{n}": scale for n, scale in objective.scales().items()}
            for name, value in named.items():
                values[name] = values.get(name, 0.0) + value / parts
        limit = config.clip or math.inf
        norm = nn.utils.clip_grad_norm_(objective.parameters(), limit).item()
        if not math.isfinite(norm):
            # this step would ruin the weights, and a checkpoint may be saved before the next loss tells
            raise diverged("gradient norm", norm, {name: values[f"train/raw/{name}"] for name in raw}, lr)
        values["train/grad_norm"] = norm
        optimizer.step()
        progress.step += 1
        average.update(student, progress.step)
        return values

    bar = tqdm(
        total=steps, initial=progress.step, desc=label, unit="batch", disable=not processes.is_main,
        mininterval=0.5 if sys.stderr.isatty() else 20, dynamic_ncols=True,
    )  # fmt: skip
    with StopRequest() as request, bar:
        while progress.epoch < config.epochs:
            just_validated = progress.best_epoch >= 0 and progress.epoch % config.val_every == 0
            if config.patience and just_validated and progress.epoch - progress.best_epoch > config.patience:
                break
            bar.set_description(f"{label} {progress.epoch + 1}/{config.epochs}")
            epoch_start, first_batch, saved_at = time.monotonic(), progress.batch, time.monotonic()
            sampler.set_position(progress.epoch, progress.batch)
            train_mode(objective, config.freeze)
            for batch in loader:
                for name, value in one_step(batch).items():
                    progress.sums[name] = progress.sums.get(name, 0.0) + value
                progress.batch += 1
                bar.update()
                if processes.any(request.signal is not None):
                    save()
                    raise Interrupted(request.signal or 15)
                if config.checkpoint_seconds and time.monotonic() - saved_at > config.checkpoint_seconds:
                    save()
                    saved_at = time.monotonic()
            spent = time.monotonic() - epoch_start
            images = (progress.batch - first_batch) * sampler.batch_size
            sums = torch.tensor(list(progress.sums.values()), dtype=torch.float64, device=device) / per_epoch
            metrics = dict(zip(progress.sums, processes.mean(sums).tolist(), strict=True))
            metrics["train/lr"] = lr_at(progress.step - 1, steps, per_epoch, config)
            metrics["train/images_per_second"] = images / spent if spent > 0 else 0.0
            metrics["train/epoch_seconds"] = spent
            number = progress.epoch + 1
            if number % config.val_every == 0 or number == config.epochs:
                measured = processes.from_main(lambda: hooks.validate(average.model))
                train_mode(objective, config.freeze)  # without an average the model itself was put into eval mode
                metrics |= measured
                if processes.is_main:
                    hooks.on_validated(average.model, number, measured[SELECT])
                if measured[SELECT] < progress.best:
                    progress.best, progress.best_epoch = measured[SELECT], progress.epoch
                    if processes.is_main:
                        hooks.on_best(average.model, number, progress.best)
                bar.set_postfix_str(f"{SELECT} {measured[SELECT]:.3f} best {progress.best:.3f}")
            progress.history.append({"epoch": float(number), **metrics})
            if processes.is_main:
                hooks.on_epoch(number, metrics)
            progress.epoch, progress.batch, progress.sums = number, 0, {}
            save()
            if processes.any(request.signal is not None):
                raise Interrupted(request.signal or 15)
    return progress
