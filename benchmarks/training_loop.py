"""What a training step costs beyond bare compute.

    python benchmarks/training_loop.py [--config experiments/cpu/distill.yaml] [--steps 10] [--rounds 3] [key=value ...]

Bare compute is forward, backward and a plain fused AdamW on a batch that is already there, teacher and terms
included. Beside it stand `Trainer.train_step` on the same batch (clipping, weight average, checks and logging on top)
and the loop with its loader, on the bundled sample. The three take turns, round by round; ratios are of the medians,
by the clock and by the CPU time of this process, which other work on the machine hardly changes (loader processes are
not in it: data.workers=0).
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from distill import config as configs
from distill.data import SAMPLE_ROOT
from distill.data.annotations import read_set
from distill.data.augment import Augmenter
from distill.data.loading import Batch, EpochSampler, TrainDataset, train_loader
from distill.distillation import balance
from distill.distillation.distiller import Distiller
from distill.distillation.objective import Objective, Supervision
from distill.models.landmarker import Landmarker, skeleton
from distill.models.teacher import FrozenTeacher
from distill.training import distributed, loop

CONFIG = Path(__file__).resolve().parent.parent / "experiments" / "cpu" / "distill.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=CONFIG, type=Path)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_args()
    config = configs.load(args.config, ["train.epochs=1000", *args.overrides])
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    loop.seed_everything(0)
    processes = distributed.start(config.train.device)
    objective = make_objective(config, args.config)
    faces = read_set(SAMPLE_ROOT / "synthetics_train")
    sampler = EpochSampler(len(faces), config.train.batch_size, 0)
    dataset = TrainDataset(faces, Augmenter(config.augment, config.model.input_size, 0))
    loader = train_loader(dataset, sampler, config.data.workers, pin=processes.device.type == "cuda")
    batches = forever(loader)
    batch = next(batches)
    plain = bare_step(copy.deepcopy(objective), config, batch, processes.device)
    trainer = loop.Trainer(objective, config.train, processes, seed=0, batches_per_epoch=len(sampler))
    kinds: dict[str, Callable[[], object]] = {
        "bare": plain,
        "step": lambda: trainer.train_step(batch),
        "loop": lambda: trainer.sums.add(trainer.train_step(next(batches))),
    }
    times: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    for number in range(args.rounds + 1):
        for kind, step in kinds.items():
            found = [timed(step, processes.device) for _ in range(args.steps if number else 3)]
            times[kind] += found if number else []  # the first round warms up
    wall, cpu = ({kind: statistics.median(t[i] for t in times[kind]) for kind in kinds} for i in (0, 1))
    for kind in kinds:
        ratios = f"{wall[kind] / wall['bare']:.3f} by the clock, {cpu[kind] / cpu['bare']:.3f} by CPU time"
        print(f"{kind}   {1000 * wall[kind]:7.1f} ms   {len(batch.images) / wall[kind]:6.1f} images/s   {ratios}")


def make_objective(config: configs.Config, path: Path) -> Objective:
    """Untrained networks; the teacher is that of the teacher.yaml beside the config."""
    student, distiller = Landmarker(config.model), None
    if config.distill.terms:
        teacher = FrozenTeacher(skeleton(configs.load(path.with_name("teacher.yaml")).model))
        distiller = Distiller(config.distill.terms, student, teacher)
    return Objective(student, Supervision(config.loss), distiller, balance.make(config))


def bare_step(objective: Objective, config: configs.Config, batch: Batch, device: torch.device) -> Callable[[], None]:
    loop.place(objective, config.train, device)
    images, landmarks = batch.images.to(device), batch.landmarks.to(device)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-6, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        total = objective(images, landmarks, 0.0).total
        total.backward()
        optimizer.step()

    return step


def forever(loader):
    while True:
        yield from loader


def timed(step: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Seconds by the clock, and of CPU time."""
    start, cpu = time.perf_counter(), time.process_time()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, time.process_time() - cpu


if __name__ == "__main__":
    main()
