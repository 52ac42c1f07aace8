"""The parts of `training.loop.Trainer.train_step`, timed from outside by wrapping what it calls.

On a GPU each part waits for the device, so their sum is longer than a step without a profile.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch

from distill.training import loop


class Clock:
    """Seconds by part; a part within another counts for itself alone. Each part has its name in a torch trace."""

    def __init__(self, device: torch.device):
        self.seconds: dict[str, float] = defaultdict(float)
        self._device, self._inner = device, [0.0]

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._wait()
        start = time.perf_counter()
        self._inner.append(0.0)
        with torch.profiler.record_function(name):
            yield
            self._wait()
        spent = time.perf_counter() - start
        self.seconds[name] += spent - self._inner.pop()
        self._inner[-1] += spent

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed_call(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return timed_call

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


@contextmanager
def timed(trainer: loop.Trainer, clock: Clock) -> Iterator[None]:
    """While inside, the parts of `trainer.train_step` are timed; afterwards the trainer is as it was."""
    objective = trainer.objective
    calls: list[tuple[str, Any, str]] = [
        ("copy", trainer, "_parts"),
        ("losses", objective, "forward"),  # targets, terms and adapters, without the networks within
        ("student forward", objective.student, "forward"),
        ("backward", torch.Tensor, "backward"),
        ("clipping", loop, "clip_gradients"),
        ("optimiser", trainer.optimizer, "step"),
        ("optimiser", trainer.optimizer, "zero_grad"),
        ("average", trainer.average, "update"),
        ("logging", trainer, "_named"),
        ("logging", trainer, "_check_finite"),
        ("logging", trainer.sums, "add"),
    ]
    if objective.distiller:
        calls.append(("teacher", objective.distiller.teacher, "forward"))
    with ExitStack() as stack:
        for name, owner, attribute in calls:
            stack.enter_context(patch.object(owner, attribute, clock.around(name, getattr(owner, attribute))))
        yield
