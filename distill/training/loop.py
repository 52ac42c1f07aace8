"""The training loop: `Trainer.train_step` is one optimiser step, `fit` the epochs of it.

It depends on neither MLflow nor Optuna.

Exactness: a sample depends on (seed, epoch, index), the order on (seed, epoch), the randomness inside a step on (seed,
step, rank), learning rate and term weights on the step. So position, weights, averages and optimiser state are all
there is to save, and a resumed run computes the very same weights.
"""

from __future__ import annotations

import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from distill.config import TrainConfig
from distill.data.loading import Batch
from distill.distillation.objective import Losses, Objective
from distill.errors import UserError, is_out_of_memory
from distill.models.landmarker import Landmarker
from distill.training.checkpoint import Interrupted, StopRequest
from distill.training.compile import compile_objective
from distill.training.distributed import Processes
from distill.training.optim import WeightAverage, clip_gradients, load_optimizer, lr_at, make_optimizer, train_mode

SELECT = "val/nme"  # the one number that selects: best weights, early stop


class Diverged(UserError):
    """A loss, or its gradient, became NaN or infinite."""


class Abandoned(Exception):
    """A callback found that the training should not continue; the message gives the reason."""


@dataclass
class Progress:
    """All that changes while training, besides weights. Plain values only: it goes into the checkpoint as it is."""

    epoch: int = 0  # the epoch being trained, from 0
    batch: int = 0  # batches of it that are done
    step: int = 0  # optimiser steps done
    best: float = math.inf
    best_epoch: int = -1
    sums: dict[str, float] = field(default_factory=dict)  # of this epoch's per-batch values
    lr: float = 0.0  # of the last step
    seconds: float = 0.0  # spent training, over all sessions
    epoch_seconds: float = 0.0  # of them in the steps of this epoch
    loader_seconds: float = 0.0  # of these, waiting for the next batch
    validation_seconds: float = 0.0  # of them in the last validation
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

    The objective is moved to the device, and compiled or wrapped for several processes where the config requires it.
    precision: float32 or bfloat16, of the networks' passes; weights, losses and adapters are in float32 always.
    """

    def __init__(
        self,
        objective: Objective,
        config: TrainConfig,
        processes: Processes,
        *,
        seed: int,
        batches_per_epoch: int,
        precision: str = "float32",
    ):
        self.objective, self.config, self.processes, self.seed = objective, config, processes, seed
        self.device, self.dtype = processes.device, getattr(torch, precision)
        self.batches_per_epoch, self.steps = batches_per_epoch, batches_per_epoch * config.epochs
        place(objective, config, self.device)
        self.average = WeightAverage(objective.student, config.ema)  # before wrapping and compiling: it stays plain
        self.optimizer = make_optimizer(objective, config)
        self.student = list(objective.student.parameters())
        self.adapters = list(objective.distiller.parameters()) if objective.distiller else []
        self.module = processes.wrap(objective)
        if config.compile:
            compile_objective(objective)
        self.progress = Progress()
        self.sums = Sums()
        self.unread: Unread | None = None
        self.start_clock()

    def train_step(self, batch: Batch) -> dict[str, Tensor]:
        """One optimiser step on this process's share of a batch.

        Returns what is logged of it, as 0-d tensors on the device: the loss, each term raw and weighted, the length of
        the gradient. Raises Diverged where loss or gradient are not finite: on a CPU before anything is changed, on a
        GPU one step later, since reading a value would keep the GPU waiting.
        """
        self.progress.lr = lr = self.lr()
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        torch.manual_seed(hash((self.seed, self.progress.step, self.processes.rank)) % 2**63)  # dropout and the like
        self.optimizer.zero_grad(set_to_none=True)
        values: dict[str, Tensor] = {}
        parts = self.config.accumulate
        for part, (images, landmarks, *teacher) in enumerate(self._parts(batch), start=1):
            # several processes average their gradients once a step
            with nullcontext() if part == parts else self.processes.no_sync(self.module):
                with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
                    losses: Losses = self.module(images, landmarks, self.fraction(), *teacher)
                (losses.total / parts).backward()
            for name, value in self._named(losses).items():
                values[name] = values.get(name, 0) + value / parts
        values |= clip_gradients(self.student, self.adapters, self.config.clip)
        self._check_finite(values)
        self.optimizer.step()
        self.progress.step += 1
        self.average.update(self.objective.student, self.progress.step)
        self.tick()
        return values

    def _parts(self, batch: Batch) -> Iterator[tuple[Any, ...]]:
        """The passes of a batch, on the device: images, landmarks; the teacher's views, or its targets, where there
        are any."""
        parts = self.config.accumulate

        def split(field: Any) -> Sequence[Any]:
            if field is None:
                return [None] * parts
            if isinstance(field, dict):
                return [dict(zip(field, part, strict=True)) for part in zip(*map(split, field.values()), strict=True)]
            return field.to(self.device, non_blocking=True).chunk(parts)

        fields = (batch.images, batch.landmarks, batch.teacher_images, batch.targets)
        return zip(*map(split, fields), strict=True)

    def _named(self, losses: Losses) -> dict[str, Tensor]:
        """One pass's values, by the names under which they are logged."""
        raw = {name: value.detach() for name, value in losses.raw.items()}
        values = {"train/loss": losses.total.detach(), "train/points_outside": losses.outside}
        values |= {f"train/raw/{name}": value for name, value in raw.items()}
        values |= {f"train/weighted/{name}": value * losses.weights[name] for name, value in raw.items()}
        scales = self.objective.scales().items()
        return values | {f"train/scale/{name}": torch.full_like(values["train/loss"], scale) for name, scale in scales}

    def _check_finite(self, values: dict[str, Tensor]) -> None:
        """Raise Diverged where a value of this step is not finite; on a GPU, of the step before."""
        progress = self.progress
        position = f"epoch {progress.epoch + 1}, batch {progress.batch + 1} (train.lr {progress.lr:.3g})"
        before, self.unread = self.unread, Unread(values, position)
        if self.device.type != "cuda":
            self.settle()
        elif before is not None:
            before.check()

    def settle(self) -> None:
        """Check the values of the last step, before anything is kept of it. Raises Diverged."""
        last, self.unread = self.unread, None
        if last is not None:
            last.check()

    # ------------------------------------------------------------------------------------------------ schedule

    def fraction(self) -> float:
        """How much of the training is done, 0..1: of its steps, or of its time where train.minutes is set."""
        return min(1.0, self.elapsed / self.budget()) if self.config.minutes else self.progress.step / self.steps

    def lr(self) -> float:
        """The learning rate of the next step, before its group's lr_scale."""
        config = self.config
        if config.minutes:  # the warm-up has the same share as it would have of config.epochs
            return lr_at(self.elapsed, self.budget() * config.warmup_epochs / config.epochs, self.budget(), config)
        return lr_at(self.progress.step, round(config.warmup_epochs * self.batches_per_epoch), self.steps, config)

    def budget(self) -> float:
        """Seconds for steps and validations, less the one that follows the last step."""
        return max(1e-9, 60 * self.config.minutes - self.progress.validation_seconds)

    def is_out_of_time(self) -> bool:
        """Whether train.minutes are over, but for the last validation."""
        return bool(self.config.minutes) and self.elapsed >= self.budget()

    def is_last(self, epoch: int) -> bool:
        """Whether training ends with this epoch (from 1), but for patience."""
        return self.is_out_of_time() if self.config.minutes else epoch >= self.config.epochs

    def is_over(self) -> bool:
        """Whether all is trained and validated."""
        progress, patience = self.progress, self.config.patience
        if progress.batch or not (progress.history and SELECT in progress.history[-1]):  # the end is validated, always
            return False
        return self.is_last(progress.epoch) or bool(patience and progress.epoch - progress.best_epoch > patience)

    def start_clock(self) -> None:
        """Count from now on, after what earlier sessions took."""
        self._started = time.monotonic() - self.progress.seconds
        self.elapsed = self.progress.seconds  # of the training in all its sessions, the same in all processes

    def tick(self) -> None:
        """Note the time that has passed."""
        self.progress.seconds = time.monotonic() - self._started
        self.elapsed = self.progress.seconds
        if self.config.minutes:
            self.elapsed = self.processes.max(self.elapsed)

    # ------------------------------------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors, all that another process needs to go on. Raises Diverged where they are ruined."""
        self.settle()
        self.tick()
        self.progress.sums = self.sums.to_dict()
        return {
            "objective": self.objective.state_dict(),
            "average": self.average.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": vars(self.progress),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`, on this device, under this config."""
        self.objective.load_state_dict(state["objective"])
        self.average.model.load_state_dict(state["average"])
        load_optimizer(self.optimizer, state["optimizer"], self.objective)
        self.progress = Progress(**state["progress"])
        self.sums = Sums(self.progress.sums)
        self.start_clock()


class Unread:
    """The values of a step, on their way from the device in one transfer."""

    def __init__(self, values: dict[str, Tensor], position: str):
        self.names, self.position = tuple(values), position
        stacked = torch.stack(list(values.values()))
        self._values = stacked.to("cpu", non_blocking=True)
        self._arrived = torch.cuda.Event() if stacked.is_cuda else None
        if self._arrived:
            self._arrived.record()

    def check(self) -> None:
        """Raises Diverged where a value is NaN or infinite."""
        if self._arrived:
            self._arrived.synchronize()
        found = dict(zip(self.names, self._values.tolist(), strict=True))
        if all(math.isfinite(value) for value in found.values()):
            return
        terms = {name: value for name, value in found.items() if name.startswith("train/raw/")}
        names = ["train/loss"] if not all(map(math.isfinite, (found["train/loss"], *terms.values()))) else []
        names += [name for name in found if name.startswith("train/grad_norm") and not math.isfinite(found[name])]
        what = "loss" if names[0] == "train/loss" else "gradient norm"
        each = ", ".join(f"{name.removeprefix('train/raw/')}={term:.6g}" for name, term in terms.items())
        raise Diverged(
            f"The {what} is {found[names[0]]} at {self.position}. Terms: {each}. The last checkpoint is "
            f"unharmed; a lower train.lr or train.clip may help."
        )


class Sums:
    """Running sums of named 0-d tensors, kept on their device in float64."""

    def __init__(self, start: dict[str, float] | None = None):
        self._start = dict(start or {})
        self._names: tuple[str, ...] = ()
        self._total: Tensor | None = None

    def add(self, values: dict[str, Tensor]) -> None:
        """values: the same names at every call."""
        stacked = torch.stack(list(values.values()))
        if self._total is None:
            self._names = tuple(values)
            start = [self._start.get(name, 0.0) for name in self._names]
            self._total = torch.tensor(start, dtype=torch.float64, device=stacked.device)
        self._total += stacked

    def to_dict(self) -> dict[str, float]:
        """The sums on the host; waits for the device."""
        if self._total is None:
            return dict(self._start)
        return dict(zip(self._names, self._total.tolist(), strict=True))


def seed_everything(seed: int, deterministic: bool = True) -> None:
    """Deterministic initial weights and, unless switched off, deterministic kernels wherever there are any."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = (
        False  # costs a tenth of a step, and finds only faulty kernels
    )
    torch.backends.cudnn.benchmark = not deterministic


def place(objective: Objective, config: TrainConfig, device: torch.device) -> None:
    """To the device, in the memory format and in the mode that it trains in."""
    memory = torch.channels_last if config.channels_last else torch.contiguous_format
    objective.to(device)
    objective.student.to(memory_format=memory)
    if objective.distiller:
        objective.distiller.teacher.to(memory_format=memory)
    train_mode(objective, config.freeze)


# ---------------------------------------------------------------------------------------------------- all epochs


@contextmanager
def plain_errors() -> Iterator[None]:
    """What the machine does to a training (no memory, a loader process killed) as a UserError of one sentence."""
    less = "a smaller train.batch_size, train.accumulate=2 or fewer data.workers need less"
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if is_out_of_memory(error):
            reason = f" ({text.splitlines()[0].rstrip('.')})" if text else ""
            raise UserError(f"There is not enough memory{reason}; {less}. The last checkpoint is unharmed.") from None
        if killed := re.search(
            r"DataLoader worker \(pid\(?s?\)? .*?\) (?:is killed by signal: \w+|exited unexpectedly)", text
        ):
            raise UserError(
                f"A process that loads images has ended ({killed[0]}), mostly for want of memory; data.workers=0 "
                f"loads in the main process. The last checkpoint is unharmed."
            ) from None
        raise


class ProgressBar:
    """Epoch, share done, time left and the last val/nme, in the main process: of the batches, or of train.minutes."""

    def __init__(self, trainer: Trainer, label: str):
        self.trainer, self.label, self.minutes = trainer, label, trainer.config.minutes
        self.bar = tqdm(
            total=60 * self.minutes or trainer.steps,
            initial=self._done(),
            unit="batch",
            disable=not trainer.processes.is_main,
            dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 20,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}" if self.minutes else None,
        )

    def _done(self) -> float:
        return min(60 * self.minutes, self.trainer.elapsed) if self.minutes else self.trainer.progress.step

    def start_epoch(self) -> None:
        """Name the epoch that begins."""
        of = f" of {self.minutes:g} min" if self.minutes else f"/{self.trainer.config.epochs}"
        self.bar.set_description_str(f"{self.label} epoch {self.trainer.progress.epoch + 1}{of}")

    def advance(self) -> None:
        """After each step."""
        self.bar.update(self._done() - self.bar.n)

    def show(self, nme: float) -> None:
        """After each validation. nme: percent of the side."""
        self.bar.set_postfix_str(f"{SELECT} {nme:.3f} best {self.trainer.progress.best:.3f}")

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()


def fit(trainer: Trainer, loader: DataLoader, hooks: Hooks, save: Callable[[dict[str, Any]], None], label: str) -> None:
    """Train to the end, or until patience is over; `trainer.progress` holds the result.

    loader: its batch_sampler is an EpochSampler. save: keeps a trainer's state, in the main process. label: of the
    progress bar. Raises Diverged when a loss is not finite, Interrupted (after saving) on Ctrl-C or SIGTERM, and what
    hooks raise.
    """
    main, progress = trainer.processes.is_main, trainer.progress
    bar = ProgressBar(trainer, label)

    def keep() -> None:
        state = trainer.state_dict()
        if main:
            save(state)

    with StopRequest() as request, bar:
        while not trainer.is_over():
            bar.start_epoch()
            train_epoch(trainer, loader, request, keep, bar.advance)
            metrics = _mean_values(trainer, loader.batch_sampler.batch_size)
            number = progress.epoch + 1
            if number % trainer.config.val_every == 0 or trainer.is_last(number):
                metrics |= _validate(trainer, hooks)
                bar.show(metrics[SELECT])
            progress.history.append({"epoch": float(number), **metrics})
            if main:
                hooks.on_epoch(number, metrics)
            progress.epoch, progress.batch, trainer.sums = number, 0, Sums()
            progress.epoch_seconds = progress.loader_seconds = 0.0
            keep()
            _leave_if_asked(trainer, request)


def train_epoch(
    trainer: Trainer, loader: DataLoader, request: StopRequest, keep: Callable[[], None], on_step: Callable[[], Any]
) -> None:
    """The batches of the current epoch that are not done yet. keep: saves a checkpoint."""
    progress, every = trainer.progress, trainer.config.checkpoint_seconds
    loader.batch_sampler.set_position(progress.epoch, progress.batch)
    train_mode(trainer.objective, trainer.config.freeze)
    seconds_before = progress.epoch_seconds
    saved_at = start = asked_at = time.monotonic()
    for batch in loader:
        progress.loader_seconds += time.monotonic() - asked_at
        trainer.sums.add(trainer.train_step(batch))
        progress.batch += 1
        progress.epoch_seconds = seconds_before + time.monotonic() - start
        on_step()
        if trainer.processes.any(request.signal is not None):
            keep()
            _leave_if_asked(trainer, request)
        if trainer.is_out_of_time():
            break
        if every and time.monotonic() - saved_at > every:
            keep()
            saved_at = time.monotonic()
        asked_at = time.monotonic()


def _leave_if_asked(trainer: Trainer, request: StopRequest) -> None:
    if trainer.processes.any(request.signal is not None):
        raise Interrupted(request.signal or 15)


def _mean_values(trainer: Trainer, batch_size: int) -> dict[str, float]:
    """Means over the epoch's batches and over processes, and how fast it went."""
    progress, sums = trainer.progress, trainer.sums.to_dict()
    means = torch.tensor(list(sums.values()), dtype=torch.float64, device=trainer.device) / progress.batch
    metrics = dict(zip(sums, trainer.processes.mean(means).tolist(), strict=True))
    metrics["train/lr"] = progress.lr
    metrics["train/images_per_second"] = progress.batch * batch_size / max(progress.epoch_seconds, 1e-9)
    metrics["train/epoch_seconds"] = progress.epoch_seconds
    metrics["train/loader_seconds"] = progress.loader_seconds
    return metrics


def _validate(trainer: Trainer, hooks: Hooks) -> dict[str, float]:
    """Metrics of the weight average; the main process measures for all of them."""
    trainer.settle()
    progress, model, start = trainer.progress, trainer.average.model, time.monotonic()
    measured = trainer.processes.from_main(lambda: hooks.validate(model))
    best = measured[SELECT] < progress.best
    if best:
        progress.best, progress.best_epoch = measured[SELECT], progress.epoch
    if trainer.processes.is_main:
        hooks.on_validated(model, progress.epoch + 1, measured[SELECT], best)
    progress.validation_seconds = trainer.processes.max(time.monotonic() - start)
    trainer.tick()
    return measured
