"""What a model costs: parameters, bytes of its float32 file, multiply-accumulates, CPU latency."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from distill.models.files import predicted_bytes
from distill.models.landmarker import Landmarker


@dataclass(frozen=True)
class Cost:
    """What a model costs to keep and to run."""

    parameters: int
    file_bytes: int  # of the float32 safetensors file
    mmacs: float  # million multiply-accumulates for one image at the model's input size
    latency_ms: float  # for one image, one CPU thread, eager float32: the lowest median of several rounds

    def to_dict(self) -> dict[str, float]:
        """By field name, for a report."""
        return asdict(self)


@torch.no_grad()
def cost(model: Landmarker, repeats: int = 15) -> Cost:
    """Measure on the CPU, in a copy, so that neither mode nor device of `model` changes."""
    model = copy.deepcopy(model).to("cpu").eval()
    image = torch.zeros(1, 3, model.size, model.size)
    with FlopCounterMode(display=False) as counter:
        model(image)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        latency = settled(lambda: _median_milliseconds(model, image, repeats))
    finally:
        torch.set_num_threads(threads)
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        file_bytes=predicted_bytes(model),
        mmacs=counter.get_total_flops() / 2e6,
        latency_ms=latency,
    )


def settled(measure: Callable[[], float], rounds: int = 6) -> float:
    """The lowest of several measurements: until one is no more than 5 % below the lowest before it, at most `rounds`.

    Other work on the machine only ever adds to a duration.
    """
    lowest = measure()
    for _ in range(rounds - 1):
        before, lowest = lowest, min(lowest, measure())
        if lowest > 0.95 * before:
            break
    return lowest


def _median_milliseconds(model: Landmarker, image: Tensor, repeats: int) -> float:
    """Median after three passes; of fewer than `repeats` where a pass takes a tenth of a second or more."""
    times: list[float] = []
    while len(times) < repeats + 3 and (len(times) < 6 or sum(times) < 2):
        start = time.perf_counter()
        model(image)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[3:])
