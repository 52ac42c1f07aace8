"""The smallest thing that trains: a Trainer on noise, without data set and run."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch

from distill.config import Config, DistillConfig, HeadConfig, LossConfig, ModelConfig, TermConfig, TrainConfig
from distill.data.loading import Batch, EpochSampler
from distill.distillation import balance
from distill.distillation.distiller import Distiller
from distill.distillation.objective import Objective, Supervision
from distill.models.landmarker import Landmarker
from distill.models.teacher import FrozenTeacher
from distill.training import loop
from distill.training.distributed import Processes

SMALL = ModelConfig("lcnet_050", input_size=32, head=HeadConfig(stride=8, width=16))
# samples that do not see each other: no batch statistics
ALONE = ModelConfig("convnext_atto", input_size=32, head=HeadConfig(stride=8, width=16, norm="group"))
SHORT = TrainConfig(epochs=3, batch_size=4, lr=1e-3, warmup_epochs=1, ema=0.9, amp="off")
TERMS = {"kl": TermConfig("heatmap_kl"), "hint": TermConfig("fitnet", student="level:3", teacher="level:3")}
IMAGES = 12


class Batches:
    """A loader of noise: three batches of four an epoch, in the order of its sampler."""

    def __init__(self, seed: int = 0, batch_size: int = 4, side: int = 32):
        draw = torch.Generator().manual_seed(seed)
        self.batch_sampler = EpochSampler(IMAGES, batch_size, seed)
        self.images = torch.randint(0, 256, (IMAGES, side, side, 3), dtype=torch.uint8, generator=draw)
        self.landmarks = side * torch.rand(IMAGES, 68, 2, generator=draw)

    def __iter__(self):
        for keys in self.batch_sampler:
            index = torch.tensor([i for _, i in keys])
            yield Batch(self.images[index], self.landmarks[index], index)

    def first(self) -> Batch:
        self.batch_sampler.set_position(0)
        return next(iter(self))


def make_objective(
    model: ModelConfig = SMALL, terms: dict[str, TermConfig] | None = None, balanced: str = "none"
) -> Objective:
    torch.manual_seed(0)
    student = Landmarker(model)
    distiller = None
    if terms:
        distiller = Distiller(terms, student, FrozenTeacher(Landmarker(replace(SMALL, input_size=64))))
    config = Config(distill=DistillConfig(terms or {}, balanced))
    return Objective(student, Supervision(LossConfig()), distiller, balance.make(config))


def make_trainer(
    objective: Objective | None = None, *, seed: int = 0, precision: str = "float32", **changes
) -> loop.Trainer:
    loop.seed_everything(seed)
    config = replace(SHORT, **changes)
    processes = Processes(0, 1, torch.device("cpu"))
    return loop.Trainer(
        objective or make_objective(),
        config,
        processes,
        seed=seed,
        batches_per_epoch=IMAGES // config.batch_size,
        precision=precision,
    )


class Hooks:
    """Records what the loop calls; gives these val/nme in turn, then 99."""

    def __init__(self, *values: float):
        self.values, self.validated, self.best, self.epochs = list(values), [], [], []

    def validate(self, model: Landmarker) -> dict[str, float]:
        model.eval()
        self.validated.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return {loop.SELECT: self.values.pop(0) if self.values else 99.0}

    def on_validated(self, model: Landmarker, epoch: int, value: float, best: bool) -> None:
        if best:
            self.best.append(epoch)

    def on_epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        self.epochs.append((epoch, metrics))


def run(trainer: loop.Trainer, batches: Batches | None = None, hooks: Hooks | None = None) -> list[dict]:
    """Train to the end; the checkpoints that were kept, as they were then."""
    kept: list[dict] = []
    loop.fit(trainer, batches or Batches(), hooks or Hooks(), lambda state: kept.append(copy.deepcopy(state)), "test")
    return kept


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return a.keys() == b.keys() and all(
        torch.equal(a[name], b[name]) for name in a if not name.endswith("_extra_state")
    )
