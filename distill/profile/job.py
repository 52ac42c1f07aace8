"""Profile a training: its own steps by part, memory, costs of the models, a trace, cost by batch and input size."""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from distill import config as configs
from distill import figures
from distill.config import Config
from distill.data.loading import Batch
from distill.distillation import balance
from distill.distillation.distiller import Distiller
from distill.distillation.objective import Objective, Supervision
from distill.evaluate.job import predict_set, write_json
from distill.models.files import save_model
from distill.models.landmarker import skeleton
from distill.profile.clock import Clock, timed
from distill.profiling import cost
from distill.training import distributed, loop
from distill.training.job import Training, build
from distill.training.loop import Trainer
from distill.training.precision import choose as choose_precision

WARM_UP, TRACED = 2, 2  # steps before those that are measured, steps in the trace
VALIDATED = 64  # images at most of which validation's time is measured


@dataclass(frozen=True)
class Point:
    """One batch size at one input size."""

    batch: int
    size: int  # pixels
    seconds: float  # of a step, without loading
    kept: int  # bytes, see `kept_bytes`


@dataclass(frozen=True)
class Profile:
    """Where the time and the memory of a training step go."""

    images: int  # of a step
    precision: str
    seconds: dict[str, float]  # part -> seconds a step
    validation: tuple[int, float]  # images of the validation set, seconds
    megabytes: dict[str, float]
    models: dict[str, dict[str, float]]  # student, teacher -> profiling.Cost
    points: list[Point]


def profile(
    config: Config,
    job: str,
    out: Path,
    steps: int,
    batches: Sequence[int] = (),
    sizes: Sequence[int] = (),
    stand_in: Path | None = None,
) -> Profile:
    """Take some steps of a training and write profile.json, trace.json.gz and cost.png into `out`.

    job: teacher or student. batches, sizes: what cost.png shows; empty: up to the config's batch, around its size.
    stand_in: an experiment file whose model, with random weights, is the teacher. Raises UserError as training does.
    """
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    most, size = config.train.batch_size, config.model.input_size
    batches = batches or sorted({max(2, most // 4), max(2, most // 2), most})
    sizes = sizes or [side for side in (size - 32, size, size + 32) if side >= 32]
    processes = distributed.start(config.train.device)
    try:
        with _with_teacher(config, stand_in) as config, loop.plain_errors():
            training = build(config, job, processes)
            trainer = _trainer(training, training.objective)
            out.mkdir(parents=True, exist_ok=True)
            seconds, batch = _steps(training, trainer, steps, out)
            precision, distiller = str(trainer.dtype).removeprefix("torch."), training.objective.distiller
            models = {"student": trainer.objective.student} | (
                {"teacher": distiller.teacher.model} if distiller else {}
            )
            found = Profile(
                images=len(batch.images),
                precision=precision,
                seconds=seconds,
                validation=_validation(training, trainer),
                megabytes=_megabytes(trainer, batch),
                models={name: cost(model, repeats=3).to_dict() for name, model in models.items()},
                points=list(_points(training, precision, batches, sizes)),
            )
    finally:
        distributed.stop()
    write_json(out / "profile.json", asdict(found))
    lines: dict[str, list[tuple[int, float, float]]] = {f"{size} px": [] for size in sizes}
    for p in found.points:
        lines[f"{p.size} px"].append((p.batch, p.batch / p.seconds, p.kept / 1e6))
    figures.to_png(figures.step_cost(lines, config.model.backbone), out / "cost.png")
    return found


def _steps(training: Training, trainer: Trainer, steps: int, out: Path) -> tuple[dict[str, float], Batch]:
    """Seconds of each part of a step, and a batch; writes the trace."""
    clock, batches = Clock(trainer.device), _forever(training)

    def step() -> Batch:
        with clock.part("data wait"):
            batch = next(batches)
        with clock.part("other"):
            trainer.sums.add(trainer.train_step(batch))
        return batch

    with timed(trainer, clock):
        for _ in range(WARM_UP):
            step()
        clock.seconds.clear()
        for _ in range(steps):
            batch = step()
        seconds = {name: spent / steps for name, spent in clock.seconds.items()}
        with torch.profiler.profile(profile_memory=True) as traced:
            for _ in range(TRACED):
                step()
    traced.export_chrome_trace(str(out / "trace.json.gz"))
    return seconds, batch


def _validation(training: Training, trainer: Trainer) -> tuple[int, float]:
    count = len(training.data.val)
    some = training.data.val.subset(range(min(count, VALIDATED)))
    start = time.perf_counter()
    predict_set(trainer.average.model, some)
    return count, (time.perf_counter() - start) * count / len(some)


def _megabytes(trainer: Trainer, batch: Batch) -> dict[str, float]:
    states = [value for state in trainer.optimizer.state.values() for value in state.values()]
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, bytes
    sizes = {
        "weights": sum(p.nbytes for p in trainer.objective.parameters()),
        "optimiser state": sum(value.nbytes for value in states if torch.is_tensor(value)),
        "average": sum(value.nbytes for value in trainer.average.model.state_dict().values()),
        "batch": sum(t.nbytes for t in (*batch, *(batch.targets or {}).values()) if torch.is_tensor(t)),
        "kept for backward": kept_bytes(trainer, batch),
        "peak of the process": unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }
    if trainer.device.type == "cuda":
        sizes["peak on the GPU"] = torch.cuda.max_memory_allocated(trainer.device)
    return {name: size / 1e6 for name, size in sizes.items()}


def kept_bytes(trainer: Trainer, batch: Batch) -> int:
    """Bytes that the forward pass keeps for the backward pass, without weights. Takes a step."""
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    own = {parameter.untyped_storage().data_ptr() for parameter in trainer.objective.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        trainer.train_step(batch)
    return sum(size for place, size in kept.items() if place not in own)


def _points(training: Training, precision: str, batches: Sequence[int], sizes: Sequence[int]) -> Iterator[Point]:
    """Steps on noise, of an untrained student of each size and the same teacher; the median of three."""
    config, before = training.config, training.objective
    for side in sizes:
        student = skeleton(replace(config.model, input_size=side), before.student.markup)
        distiller = before.distiller and Distiller(config.distill.terms, student, before.distiller.teacher)
        objective = Objective(student, Supervision(config.loss, student.markup), distiller, balance.make(config))
        trainer = _trainer(training, objective, precision)
        for count in batches:
            images = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8)
            batch = Batch(images, side * torch.rand(count, student.num_points, 2), torch.arange(count))
            kept, clock, times = kept_bytes(trainer, batch), Clock(trainer.device), []
            for _ in range(3):
                clock.seconds.clear()
                with clock.part("step"):
                    trainer.train_step(batch)
                times.append(clock.seconds["step"])
            yield Point(count, side, statistics.median(times), kept)


@contextmanager
def _with_teacher(config: Config, stand_in: Path | None) -> Iterator[Config]:
    if stand_in is None or not config.distill.terms:
        yield config
        return
    with tempfile.TemporaryDirectory(prefix="teacher-") as folder:
        other = configs.load(stand_in)
        save_model(skeleton(other.model, configs.markup_of(other)), Path(folder, "teacher.safetensors"), {})
        yield replace(config, teacher=f"{folder}/teacher.safetensors")


def _trainer(training: Training, objective: Objective, precision: str = "") -> Trainer:
    """precision: see Trainer; empty: that of train.amp."""
    config, processes, batches = training.config, training.processes, len(training.loader.batch_sampler)
    loop.place(objective, config.train, processes.device)
    if not precision:
        shape = (config.train.batch_size // processes.world // config.train.accumulate, objective.student.size)
        precision, _ = choose_precision(config.train, objective, processes, shape, None)
    train = replace(config.train, epochs=1_000_000, minutes=0.0)  # the schedule never ends
    return Trainer(objective, train, processes, seed=config.seed, batches_per_epoch=batches, precision=precision)


def _forever(training: Training) -> Iterator[Batch]:
    epoch = 0
    while True:
        training.loader.batch_sampler.set_position(epoch)
        yield from training.loader
        epoch += 1


def to_text(found: Profile) -> str:
    """A table of the parts, longest first, and the facts below it."""
    step, count = sum(found.seconds.values()), found.images
    lines = [f"{count} images a step, {found.precision}: {1000 * step:.1f} ms, {count / step:.1f} images/s"]
    for name, seconds in sorted(found.seconds.items(), key=lambda item: -item[1]):
        lines.append(f"  {name:18} {1000 * seconds:9.2f} ms   {100 * seconds / step:5.1f} %")
    lines.append(f"validation: {found.validation[1]:.1f} s for {found.validation[0]} images")
    lines.append("memory, MB: " + ", ".join(f"{name} {size:.1f}" for name, size in found.megabytes.items()))
    for name, model in found.models.items():
        numbers = (
            f"{model['parameters']:,} parameters, {model['file_bytes']:,} bytes, {model['mmacs']:.0f} MMACs an image"
        )
        lines.append(f"{name}: {numbers}")
    return "\n".join(lines)
