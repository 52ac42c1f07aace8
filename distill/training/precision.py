"""float32 or bfloat16: `train.amp`. On a CPU `auto` measures both: which one is faster depends on the network."""

from __future__ import annotations

import copy
import time

import torch
from torch import Tensor

from distill.config import TrainConfig
from distill.distillation.objective import Objective
from distill.training.distributed import Processes

NAMES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
REPEATS = 3  # measured passes of each, after one that is not
GAIN = 1.1  # bfloat16 must be faster by this factor: what is as fast is computed in float32


def choose(
    config: TrainConfig, objective: Objective, processes: Processes, shape: tuple[int, int], stored: str | None
) -> tuple[str, dict[str, float]]:
    """The precision of a training, `float32` or `bfloat16`, and seconds a pass of each where they were measured.

    shape: images in a pass, and their side. stored: the precision of the run that is resumed, "" where its checkpoint
    does not say; None for a new run.
    """
    if config.amp != "auto":
        return ("bfloat16" if config.amp == "bf16" else "float32"), {}
    if stored:
        return stored, {}
    if processes.device.type == "cuda":
        return ("bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"), {}
    if stored is not None or not has_bfloat16():
        return "float32", {}
    seconds = measure(objective, shape)
    # every process has measured, and the first one's figures count
    seconds = processes.from_main(lambda: seconds)
    return ("bfloat16" if seconds["float32"] > GAIN * seconds["bfloat16"] else "float32"), seconds


def has_bfloat16() -> bool:
    """Whether this CPU computes in bfloat16; where it is emulated it is many times slower than float32."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def measure(objective: Objective, shape: tuple[int, int]) -> dict[str, float]:
    """Seconds of the fastest forward and backward pass in each precision, on noise; the objective is left as it was."""
    before = copy.deepcopy(objective.state_dict())
    count, side = shape
    points = objective.student.num_points
    seconds: dict[str, float] = {}
    with torch.random.fork_rng(devices=[]):
        images = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8)
        landmarks = side * torch.rand(count, points, 2)
        for name, dtype in NAMES.items():
            times = [_pass(objective, images, landmarks, dtype) for _ in range(REPEATS + 1)]
            seconds[name] = min(times[1:])
    objective.load_state_dict(before)  # batch statistics, and what a gradient balance has counted
    objective.zero_grad(set_to_none=True)
    return seconds


def _pass(objective: Objective, images: Tensor, landmarks: Tensor, dtype: torch.dtype) -> float:
    start = time.perf_counter()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
        total = objective(images, landmarks, 0.0).total
    total.backward()
    return time.perf_counter() - start
