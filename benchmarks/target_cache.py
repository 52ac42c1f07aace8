"""Epochs an hour with the teacher at hand, and from its kept targets.

    python benchmarks/target_cache.py [--teacher convnext_small] [--steps 8] [--rounds 3] [key=value ...]

The student of experiments/cpu/distill.yaml on the bundled sample, with an untrained teacher of a large backbone. Both
kinds of step include their loader (in this process) and take turns, round by round. Ratios are of the medians, by the
clock and by the CPU time of this process, which other work on the machine hardly changes. What building costs is
printed beside it: so many epochs must be trained from the targets, by whatever number of runs, before they pay.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from training_loop import forever, timed

from distill import config as configs
from distill.models.files import save_model
from distill.models.landmarker import skeleton
from distill.training import distributed, job, loop

CONFIG = Path(__file__).resolve().parent.parent / "experiments" / "cpu" / "distill.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", default="convnext_small", help="backbone, of the student's input size")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_args()
    fixed = ["train.epochs=1000", "train.amp=off", "data.workers=0", "data.cache=", "data.limit=64", "distill.views=2"]
    with tempfile.TemporaryDirectory() as folder:
        config = configs.load(CONFIG, [*fixed, f"teacher={folder}/teacher.safetensors", *args.overrides])
        if config.train.threads:
            torch.set_num_threads(config.train.threads)
        save_model(skeleton(replace(config.model, backbone=args.teacher)), Path(config.teacher), {})
        cached = replace(config, distill=replace(config.distill, cache=f"{folder}/targets"))
        online_step, images = step_of(config)
        start = time.process_time()
        cached_step, _ = step_of(cached)
        building = time.process_time() - start
        times: dict[str, list[tuple[float, float]]] = {"teacher": [], "kept": []}
        for number in range(args.rounds + 1):
            for kind, step in (("teacher", online_step), ("kept", cached_step)):
                found = [timed(step, torch.device("cpu")) for _ in range(args.steps if number else 2)]
                times[kind] += found if number else []  # the first round warms up
    wall, cpu = ({kind: statistics.median(t[i] for t in values) for kind, values in times.items()} for i in (0, 1))
    passes = images / config.train.batch_size
    for kind, seconds in wall.items():
        epochs = f"{3600 / (passes * seconds):7.1f} epochs an hour of {images} images"
        print(f"{kind:8} {1000 * seconds:7.1f} ms a step   {epochs}")
    saved = passes * (cpu["teacher"] - cpu["kept"])
    clock, work = (values["teacher"] / values["kept"] for values in (wall, cpu))
    print(f"{clock:.2f} times the epochs by the clock, {work:.2f} by CPU time")
    print(
        f"building {config.distill.views} views, {building:.0f} s of CPU time, pays after {building / saved:.1f} epochs"
    )


def step_of(config: configs.Config) -> tuple[Callable[[], object], int]:
    """A training step with its loader, and the number of training images."""
    processes = distributed.start("cpu")
    training = job.build(config, "student", processes)
    sampler = training.loader.batch_sampler
    trainer = loop.Trainer(training.objective, config.train, processes, seed=0, batches_per_epoch=len(sampler))
    batches = forever(training.loader)
    return lambda: trainer.train_step(next(batches)), len(training.data.train)


if __name__ == "__main__":
    main()
