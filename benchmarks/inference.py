"""The bundled student in ONNX Runtime on one thread, beside what others take for this task.

    python benchmarks/inference.py [--rounds 15] [--passes 5]

The others are rebuilt with random weights, which costs the same: at the challenge's 384 px MobileNetV2 x1.25 (its best
entry), an hourglass of two stacks (https://arxiv.org/abs/1603.06937) and MobileNetV3-Large; 3DDFA-V2's MobileNet at 120
px (https://arxiv.org/abs/2009.09960). One image a pass. The models take turns in one process, round by round; times are
medians over rounds of the mean pass, ratios are medians of the rounds' ratios, by the clock and by the CPU time of this
process, which other work on the machine changes less.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import distill  # noqa: F401 - before the others: it sets the switches that stop what they send home

# isort: split
import numpy as np
import onnxruntime
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from distill.predict.load import BUNDLED_ONNX

VALUES = 2 * 68


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--passes", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sessions = {"bundled student, 128 px": session(BUNDLED_ONNX)}
        for name, (model, side) in others().items():
            sessions[f"{name}, {side} px"] = session(converted(model, side, Path(folder, "model.onnx")))
    feeds = {name: feed(found) for name, found in sessions.items()}
    rounds = [
        {name: timed(found, feeds[name], args.passes) for name, found in sessions.items()}
        for _ in range(args.rounds + 1)
    ][1:]  # the first one warms up
    own = next(iter(sessions))
    for name in sessions:
        wall, cpu = (statistics.median(r[name][i] for r in rounds) for i in (0, 1))
        ratios = [statistics.median(r[name][i] / r[own][i] for r in rounds) for i in (0, 1)]
        print(
            f"{name:32} {1000 * wall:7.1f} ms by the clock, {1000 * cpu:7.1f} ms of CPU time; "
            f"{ratios[0]:5.2f} and {ratios[1]:5.2f} times the student"
        )


def others() -> dict[str, tuple[nn.Module, int]]:
    return {
        "MobileNetV2 x1.25": (torchvision.models.mobilenet_v2(width_mult=1.25, num_classes=VALUES), 384),
        "two-stack hourglass": (Hourglasses(), 384),
        "MobileNetV3-Large": (torchvision.models.mobilenet_v3_large(num_classes=VALUES), 384),
        "3DDFA-V2's MobileNet": (timm.create_model("mobilenetv1_100", num_classes=62), 120),
    }


def converted(model: nn.Module, side: int, path: Path) -> Path:
    """An ONNX file with batch norms folded. The older exporter: the newer one takes a minute for these four."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model.eval(), (torch.zeros(1, 3, side, side),), str(path), dynamo=False)
    return path


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])


def feed(found: onnxruntime.InferenceSession) -> dict[str, np.ndarray]:
    """An image of noise for the session's input."""
    wanted = found.get_inputs()[0]
    shape = [side if isinstance(side, int) else 1 for side in wanted.shape]
    noise = np.random.default_rng(0).integers(0, 256, shape)
    return {wanted.name: noise.astype(np.uint8 if "uint8" in wanted.type else np.float32)}


def timed(found: onnxruntime.InferenceSession, image: dict[str, np.ndarray], passes: int) -> tuple[float, float]:
    """Mean seconds of a pass, by the clock and of CPU time."""
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(passes):
        found.run(None, image)
    return (time.perf_counter() - start) / passes, (time.process_time() - cpu) / passes


# ---------------------------------------------------------------------------------------------------- hourglass


class Residual(nn.Sequential):
    def __init__(self, channels: int):
        half = channels // 2
        super().__init__(*conv(channels, half, 1), *conv(half, half, 3), *conv(half, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Hourglass(nn.Module):
    def __init__(self, channels: int, depth: int = 4):
        super().__init__()
        self.skip, self.down, self.up = (Residual(channels) for _ in range(3))
        self.inner = Hourglass(channels, depth - 1) if depth > 1 else Residual(channels)

    def forward(self, x: Tensor) -> Tensor:
        low = self.up(self.inner(self.down(F.max_pool2d(x, 2))))
        return self.skip(x) + F.interpolate(low, scale_factor=2.0)


class Hourglasses(nn.Module):
    """Two stacks of 128 channels at a quarter of the input, of about the 12 MB of the challenge's entry."""

    def __init__(self, channels: int = 128, stacks: int = 2):
        super().__init__()
        self.stem = nn.Sequential(*conv(3, 64, 7, 2), *conv(64, channels, 3, 2), Residual(channels))
        self.stacks = nn.ModuleList(Hourglass(channels) for _ in range(stacks))
        self.maps = nn.ModuleList(nn.Conv2d(channels, VALUES // 2, 1) for _ in range(stacks))
        self.back = nn.ModuleList(nn.Conv2d(VALUES // 2, channels, 1) for _ in range(stacks - 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for number, (stack, maps) in enumerate(zip(self.stacks, self.maps, strict=True)):
            features = stack(x)
            out = maps(features)
            if number < len(self.back):
                x = x + features + self.back[number](out)
        return out


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return [layer, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


if __name__ == "__main__":
    main()
