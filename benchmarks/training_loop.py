"""What the training loop costs beyond bare compute: images per second of `loop.fit` over those of its own steps alone.

    python benchmarks/training_loop.py [--config experiments/cpu/student.yaml] [key=value ...]

Bare compute is forward, backward and optimiser step on one batch that is already there; both are measured in one process, one
after the other, on the bundled sample. What is left of 1.0 goes to loading, augmentation, logging and the weight average.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from distill import config as configs
from distill.data import SAMPLE_ROOT
from distill.data.annotations import read_set
from distill.data.augment import Augmenter
from distill.data.loading import EpochSampler, TrainDataset, train_loader
from distill.distillation.objective import Objective, Supervision
from distill.models.landmarker import Landmarker
from distill.training import checkpoint, distributed, loop
from distill.training.optim import make_optimizer

CONFIG = Path(__file__).resolve().parent.parent / "experiments" / "cpu" / "student.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=CONFIG)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_args()
    config = configs.load(args.config, [*args.overrides, f"train.epochs={args.epochs}"])
    loop.seed_everything(0)
    processes = distributed.start(config.train.device)
    faces = read_set(SAMPLE_ROOT / "synthetics_train")
    objective = Objective(Landmarker(config.model), Supervision(config.loss))
    sampler = EpochSampler(len(faces), config.train.batch_size, 0)
    dataset = TrainDataset(faces, Augmenter(config.augment, config.model.input_size, 0))
    loader = train_loader(dataset, sampler, config.data.workers, pin=processes.device.type == "cuda")
    rates: list[float] = []
    hooks = SimpleNamespace(
        validate=lambda _: {loop.SELECT: 0.0},
        on_epoch=lambda _, values: rates.append(values["train/images_per_second"]),
        on_validated=lambda *_: None,
    )
    trainer = loop.Trainer(objective, config.train, processes, seed=0, batches_per_epoch=len(sampler))
    with tempfile.TemporaryDirectory() as folder:
        loop.fit(trainer, loader, hooks, lambda state: checkpoint.save(Path(folder) / "checkpoint.pt", state), "loop")
    in_loop = sorted(rates)[len(rates) // 2]

    batch = next(iter(loader))
    images, landmarks = batch.images.to(processes.device), batch.landmarks.to(processes.device)
    optimizer = make_optimizer(objective, dataclasses.replace(config.train, lr=1e-6))
    steps, start = len(sampler), 0.0
    for step in range(steps + 3):
        if step == 3:
            start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        total = objective(images, landmarks, 0.0).total
        total.backward()
        optimizer.step()
        total.item()
    bare = steps * len(images) / (time.perf_counter() - start)
    print(f"loop {in_loop:.1f} images/s   bare compute {bare:.1f} images/s   ratio {in_loop / bare:.2f}")


if __name__ == "__main__":
    main()
