"""Train a teacher or a student in one MLflow run: `build` everything and check it, `fit`, `finalize`."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from distill import config as configs
from distill import tracking
from distill.config import Config
from distill.data import cache
from distill.data.annotations import BadImage, LandmarkSet, read_labelled, read_set
from distill.data.augment import Augmenter
from distill.data.disjoint import assert_disjoint, near_copies
from distill.data.folders import SetPaths, resolve
from distill.data.loading import EpochSampler, TrainDataset, train_loader
from distill.distillation import balance, targets
from distill.distillation.distiller import Distiller, check_terms
from distill.distillation.objective import Objective, Supervision
from distill.errors import UserError
from distill.evaluate.job import agreement, agreement_metrics, measure, predict_set, write_json
from distill.landmarks import IBUG68
from distill.metrics import Report
from distill.models.files import check_budget, load_model, save_model
from distill.models.landmarker import Landmarker, skeleton
from distill.models.references import resolve_model, resolve_teacher
from distill.models.teacher import FrozenTeacher
from distill.profiling import Cost, cost
from distill.training import checkpoint, distributed, loop
from distill.training.checkpoint import CHECKPOINT, SNAPSHOTS, Snapshots, Unfinished
from distill.training.compile import check_compiler
from distill.training.distributed import Processes
from distill.training.finalize import TeacherPredictions, TrainedModel, TrainResult, finalize
from distill.training.init_weights import start_from
from distill.training.loop import Abandoned, Progress, Trainer
from distill.training.optim import freeze
from distill.training.precision import choose as choose_precision

VIEWS_SEED = 0  # of distill.views: every seed of a recipe trains on the same ones
TEACHER_COPY = "teacher.safetensors"  # in the run's work folder, so that a resumed run needs nothing else


@dataclass(frozen=True)
class Callbacks:
    """Called while a model is trained, in its process (of several: the first)."""

    on_start: Callable[[str], None] = lambda _run_id: None  # as soon as the run exists, or is continued
    # after each epoch: its number from 1, its metrics. May raise Abandoned: the run ends as KILLED, for good.
    on_epoch: Callable[[int, dict[str, float]], None] = lambda _epoch, _metrics: None


def train_teacher(config: Config, callbacks: Callbacks = Callbacks()) -> TrainResult:
    """Train a teacher; where the config has distillation terms, an assistant: a teacher that has one itself, of
    whatever size (https://arxiv.org/abs/1902.03393).

    Raises UserError for anything the user can fix, before training starts where that is possible; Interrupted, after
    saving, on Ctrl-C or SIGTERM; and what the callbacks raise.
    """
    return _train(config, "teacher", callbacks)


def train_student(config: Config, callbacks: Callbacks = Callbacks()) -> TrainResult:
    """Train a student: against a teacher where the config has distillation terms, else the control. Errors as above."""
    return _train(config, "student", callbacks)


def _train(config: Config, job: str, callbacks: Callbacks) -> TrainResult:
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    processes = distributed.start(config.train.device)
    try:
        training = build(config, job, processes)
        with open_run(training) as run:
            if processes.is_main:
                callbacks.on_start(run.id)
            with _ended_in_order(training, run):
                recorder = Recorder(training, run, callbacks)
                progress = fit(training, recorder)
                return processes.from_main(lambda: recorder.finalize(progress))
    finally:
        distributed.stop()


# ---------------------------------------------------------------------------------------------------- build


@dataclass(frozen=True)
class Data:
    """The sets of a training, read and checked."""

    paths: SetPaths
    train: LandmarkSet
    val: LandmarkSet
    test: LandmarkSet | None = None  # unlabelled

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of `train` and `val`: 16 hex digits each."""
        return {"train": self.train.fingerprint, "val": self.val.fingerprint}


@dataclass(frozen=True)
class Training:
    """All that a training consists of, checked, before its run exists."""

    config: Config
    job: str  # teacher or student
    processes: Processes
    data: Data
    objective: Objective
    loader: DataLoader
    teacher_file: Path | None  # None: no teacher
    teacher_run: str  # empty: no teacher, or a file that no run of this store made
    init_run: str
    resumed: Unfinished | None

    @property
    def role(self) -> str:
        """See `role_of`."""
        return role_of(self.config, self.job)

    @property
    def run_name(self) -> str:
        """tracking.run_name, or a name of recipe, backbone and seed."""
        config = self.config
        return config.tracking.run_name or f"{config.name}-{config.model.backbone}-s{config.seed}"

    @property
    def description(self) -> str:
        """The run's description, as it begins."""
        config, data = self.config, self.data
        origin = f", distilled from run {self.teacher_run or config.teacher}" if config.distill.terms else ""
        origin += f", from the weights of {config.init}" if config.init else ""
        return (
            f"{self.role.capitalize()} `{config.name}`: {config.model.backbone} with a "
            f"{config.model.head.kind} head{origin}. "
            f"Trained on {len(data.train)} images of {data.paths.train.name}, selected on {len(data.val)} of "
            f"{data.paths.val.name}."
        )


def build(config: Config, job: str, processes: Processes) -> Training:
    """Everything that can be refused is refused here, by UserError: names first, then data, which takes longer."""
    loop.seed_everything(config.seed, config.train.deterministic)
    resumed = None
    if config.resume:
        path = processes.from_main(lambda: checkpoint.find_checkpoint(config))
        resumed = checkpoint.unfinished(config, job, path)
    if config.train.compile:
        check_compiler(processes.device)
    student, init_run = _build_model(config, job, processes, resumed)
    check_terms(config.distill.terms, student)
    augmenter = _augmenter(config, student.size)
    data = _read_data(config, processes, resumed)
    teacher_file, teacher_run = _find_teacher(config, processes, data, resumed)
    teacher = FrozenTeacher(load_model(teacher_file)[0]).to(processes.device) if teacher_file else None
    distiller = Distiller(config.distill.terms, student, teacher) if teacher else None
    objective = Objective(student, Supervision(config.loss, student.markup), distiller, balance.make(config))
    apart = teacher and not config.data.size and teacher.model.size != student.size
    teacher_augmenter = _augmenter(config, teacher.model.size) if apart else None
    sampler = _build_sampler(config, len(data.train), processes)
    dataset = _build_dataset(config, data, processes, augmenter, teacher_augmenter)
    if config.distill.cache and distiller:
        dataset.targets = _keep_targets(config, dataset, processes, objective)
    loader = train_loader(dataset, sampler, config.data.workers, pin=processes.device.type == "cuda")
    return Training(config, job, processes, data, objective, loader, teacher_file, teacher_run, init_run, resumed)


def _build_model(config: Config, job: str, processes: Processes, resumed: Unfinished | None) -> tuple[Landmarker, str]:
    """The model that trains, and the run whose weights it starts from ("": none, or unknown)."""
    markup = configs.markup_of(config)
    elsewhere = bool(config.init) or resumed is not None  # where its weights come from
    model = skeleton(config.model, markup) if elsewhere else Landmarker(config.model, markup)
    if job == "student":
        check_budget(model)
    if resumed is None:
        model.check_cells()
    freeze(model, config.train.freeze)
    if not config.init or resumed:
        return model, ""
    source = processes.from_main(lambda: resolve_model(config.init, config.tracking))
    return model, start_from(model, source, config.init_part)


def _augmenter(config: Config, size: int) -> Augmenter:
    """Of the views for a model of this input size; data.size overrules it. All of a run draw the same views; fixed
    views are the same in all runs."""
    seed = VIEWS_SEED if config.distill.views else config.seed
    return Augmenter(config.augment, config.data.size or size, seed, configs.markup_of(config))


def _read_data(config: Config, processes: Processes, resumed: Unfinished | None) -> Data:
    """Both sets, read and checked whole."""
    paths = resolve(config.data)
    data = Data(paths, *read_sets(config, paths))
    if data.train.skipped and processes.is_main:
        (name, reason), count = data.train.skipped[0], len(data.train.skipped)
        total = count + len(data.train)
        print(f"{count} of {total} training images are left out, such as '{name}': {reason}.", flush=True)
    if processes.is_main and not resumed:
        _warn_of_copies(data, config.data.cache)
    if resumed:
        checkpoint.check_data(resumed, data.fingerprints)
    return data


def _warn_of_copies(data: Data, cache: str) -> None:
    """Training images that look like one to validate or test on: the user's to judge."""
    found = near_copies(data.train, [other for other in (data.val, data.test) if other], cache)
    if found:
        ours, theirs = found[0]
        print(
            f"warning: {len(found)} training images look like images to validate or test on, such as '{ours}' and "
            f"'{theirs}'; copies make every measured error too small.",
            file=sys.stderr,
        )


def read_sets(config: Config, paths: SetPaths) -> tuple[LandmarkSet, LandmarkSet, LandmarkSet | None]:
    """Training, validation and test set. Raises UserError where they are broken, the training set shares anything with
    another, or may not be used."""
    data = config.data
    real = paths.train.resolve().name
    if real.lower().startswith("aflw"):  # under whatever name or link the config reaches it
        raise UserError(f"data.train '{data.train}' is the folder '{real}'; the AFLW photographs are never trained on.")
    try:
        train_set = read_labelled(paths.train, config, on_bad=data.on_bad, limit=data.limit)
    except BadImage as error:
        raise UserError(f"{error} data.on_bad=skip leaves such images out.") from None
    val_set = read_labelled(paths.val, config)
    test_set = read_set(paths.test, need_labels=False, on_bad="skip") if paths.test else None
    for other in (val_set, test_set):
        if other is not None:
            assert_disjoint(train_set, other)
    return train_set, val_set, test_set


def _find_teacher(
    config: Config, processes: Processes, data: Data, resumed: Unfinished | None
) -> tuple[Path | None, str]:
    """The teacher's file and run; a resumed run has a copy of its own."""
    if not config.distill.terms:
        return None, ""
    if resumed:
        return resumed.work / TEACHER_COPY, resumed.state["teacher_run"]
    found = processes.from_main(lambda: resolve_teacher(config.teacher, config.tracking, data.train.fingerprint))
    return found.path, found.run_id


def _build_sampler(config: Config, images: int, processes: Processes) -> EpochSampler:
    sampler = EpochSampler(images, config.train.batch_size, config.seed, processes.rank, processes.world)
    share, accumulate = sampler.batch_size // processes.world, config.train.accumulate
    if share % accumulate:
        raise UserError(
            f"train.accumulate is {accumulate}; expected a divisor of the {share} images of a process's batch."
        )
    return sampler


def _build_dataset(
    config: Config, data: Data, processes: Processes, augmenter: Augmenter, teacher_augmenter: Augmenter | None
) -> TrainDataset:
    images = None
    if config.data.cache:
        folder, side = Path(config.data.cache), config.data.cache_size
        images = processes.from_main(lambda: cache.open_or_build(data.train, folder, side))
    return TrainDataset(data.train, augmenter, images, teacher_augmenter, config.distill.views)


def _keep_targets(
    config: Config, dataset: TrainDataset, processes: Processes, objective: Objective
) -> targets.KeptTargets:
    """What the teacher gives for all views, from `distill.cache`; computed now, as far as it is not there."""
    loop.place(objective, config.train, processes.device)  # as it computes while training
    augmenter = dataset.teacher or dataset.augmenter
    seen = TrainDataset(dataset.set, augmenter, dataset.images, views=config.distill.views)
    passed = config.train.batch_size // processes.world // config.train.accumulate
    return processes.from_main(lambda: targets.open_or_build(objective.distiller, seen, config, passed))


def role_of(config: Config, job: str) -> str:
    """teacher, assistant, control, distilled, or tuned (from weights, without a teacher)."""
    if job == "teacher":
        return "assistant" if config.distill.terms else "teacher"
    if config.distill.terms:
        return "distilled"
    return "tuned" if config.init else "control"


# ---------------------------------------------------------------------------------------------------- the run


@contextmanager
def open_run(training: Training) -> Iterator[tracking.Run | tracking.NullRun]:
    """The training's MLflow run, new or reopened, held against other processes; a NullRun beside the main process."""
    config, processes, resumed = training.config, training.processes, training.resumed
    with ExitStack() as stack:
        if processes.is_main:
            checkpoint.tidy(config.tracking)
            if resumed:
                stack.enter_context(tracking.hold(resumed.work))
            run = stack.enter_context(
                tracking.Run.start(
                    config.tracking,
                    job=training.job,
                    run_name=training.run_name,
                    params=configs.flatten(config),
                    config_yaml=configs.to_yaml(config),
                    tags=_tags(training),
                    resume_id=resumed.run_id if resumed else None,
                )
            )
            if not resumed:
                stack.enter_context(tracking.hold(run.work))
                _log_inputs(training, run)
        run_id, work = processes.from_main(lambda: (run.id, resumed.work if resumed else run.work))
        if processes.is_main:
            run.work = work  # where its checkpoint is, whatever the run is called by now
            yield run
        else:
            yield tracking.NullRun(work, run_id)


def _tags(training: Training) -> dict[str, str]:
    config, data = training.config, training.data
    return {
        "distill.role": training.role,
        "distill.digest": configs.digest(config),
        "data.train": data.train.fingerprint,
        "data.val": data.val.fingerprint,
        "data.is_sample": str(data.paths.is_sample).lower(),
        "data.skipped_images": str(len(data.train.skipped)),
        "teacher.run_id": training.teacher_run,
        "init.run_id": training.init_run,
        tracking.NOTE: training.description,
        **config.tracking.tags,
    }


def _log_inputs(training: Training, run: tracking.Run) -> None:
    """What a new run goes out from: data sets, landmark set, teacher."""
    paths, data = training.data.paths, training.data
    run.log_dataset(paths.train.name, data.train.fingerprint, paths.train, "training")
    run.log_dataset(paths.val.name, data.val.fingerprint, paths.val, "validation")
    if not data.train.markup.fits(IBUG68):
        run.log_text(data.train.markup.to_yaml(), "landmarks.yaml")
    if training.teacher_file:
        shutil.copyfile(training.teacher_file, run.work / TEACHER_COPY)


@contextmanager
def _ended_in_order(training: Training, run: tracking.Run | tracking.NullRun) -> Iterator[None]:
    """Say how to go on after an interruption; leave nothing to resume where the run has ended for good."""
    saved = run.work / CHECKPOINT
    try:
        with loop.plain_errors():
            yield
    except Abandoned as reason:
        run.set_tags({"distill.abandoned": str(reason)})
        run.finish("KILLED")
        _remove_resumable(run.work, training.processes)
        raise
    except (SystemExit, KeyboardInterrupt):
        if training.processes.is_main and saved.is_file():
            paths = training.data.paths
            root = None if paths.is_sample else paths.train.parent
            command = checkpoint.resume_command(training.config, training.job, run.id, root)
            print(f"\nStopped and saved. Continue with: {command}", flush=True)
        raise
    _remove_resumable(run.work, training.processes)


def _remove_resumable(work: Path, processes: Processes) -> None:
    if processes.is_main:
        (work / CHECKPOINT).unlink(missing_ok=True)
        (work / TEACHER_COPY).unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------------------- fit, finalize


class Recorder:
    """Validates, logs and keeps weights while a model trains (a loop.Hooks), and finalizes the run."""

    def __init__(self, training: Training, run: tracking.Run | tracking.NullRun, callbacks: Callbacks):
        self.training, self.run, self.callbacks = training, run, callbacks
        self.best_file = run.work / f"{training.job}.safetensors"
        self.last_file = run.work / "last_report.json"  # of the last validation; a resumed run finds it there
        self.snapshots = Snapshots(run.work / SNAPSHOTS, training.config.train)
        self.cost, self.teacher = self._log_cost(), self._predict_by_teacher()
        data = training.data
        self.about: dict[str, Any] = {
            "role": training.role,
            "job": training.job,
            "run_id": run.id,
            "run_name": training.run_name,
            "seed": training.config.seed,
            "data": {"train": data.paths.train.name, "val": data.paths.val.name, **data.fingerprints},
            "teacher_run_id": training.teacher_run,
        }

    def validate(self, model: Landmarker) -> dict[str, float]:
        """Errors on the validation set, `val/...`, and how near they are to the teacher's, where there is one."""
        val_set = self.training.data.val
        predictions = predict_set(model, val_set)
        report = measure(predictions, val_set)
        write_json(self.last_file, report.to_dict())
        values = report.as_metrics("val")
        if self.teacher:
            values |= agreement_metrics(agreement(predictions, self.teacher.predictions, val_set), "val")
        return values

    def on_validated(self, model: Landmarker, epoch: int, value: float, best: bool) -> None:
        """Keep the weights: as a snapshot where train.snapshots is set, and where they are the best so far."""
        about = self.about | {"epoch": epoch, "val/nme": round(value, 4)}
        self.snapshots.keep(model, epoch, about)
        if best:
            save_model(model, self.best_file, about)

    def on_epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Log an epoch, then call back."""
        self.run.log_metrics(metrics, step=epoch)
        self.callbacks.on_epoch(epoch, metrics)

    def finalize(self, progress: Progress) -> TrainResult:
        """Measure the best weights and complete the run."""
        training = self.training
        model = TrainedModel(
            training.config,
            training.run_name,
            training.job,
            training.role,
            self.best_file,
            self.cost,
            step=progress.best_epoch + 1,
            minutes=progress.seconds / 60,
            history=progress.history,
            snapshots=self.snapshots.files(),
            description=training.description,
            last=self._last_report(),
        )
        return finalize(self.run, model, training.data.val, training.data.paths.test, self.teacher)

    def _last_report(self) -> Report | None:
        """None: the run was begun by a version that did not keep it, and ended before this one was resumed."""
        return Report.from_dict(json.loads(self.last_file.read_text())) if self.last_file.is_file() else None

    def _log_cost(self) -> Cost:
        data, found = self.training.data, cost(self.training.objective.student)
        values = {f"model/{key}": value for key, value in found.to_dict().items()}
        counts = {"train_images": len(data.train), "val_images": len(data.val), "skipped": len(data.train.skipped)}
        self.run.log_metrics(values | {f"data/{key}": value for key, value in counts.items()}, step=0)
        return found

    def _predict_by_teacher(self) -> TeacherPredictions | None:
        """It does not change, so it predicts the validation set once."""
        distiller = self.training.objective.distiller
        if distiller is None or not self.training.processes.is_main:
            return None
        return TeacherPredictions(
            predict_set(distiller.teacher.model, self.training.data.val), self.training.teacher_run
        )


def fit(training: Training, recorder: Recorder) -> Progress:
    """Train, from the beginning or from the checkpoint of a resumed run."""
    config, resumed = training.config, training.resumed
    precision = _choose_precision(training, recorder.run)
    trainer = Trainer(
        training.objective,
        config.train,
        training.processes,
        seed=config.seed,
        batches_per_epoch=len(training.loader.batch_sampler),
        precision=precision,
    )
    if resumed:
        trainer.load_state_dict(resumed.state)
    identity = {
        "config": configs.to_dict(config),
        "job": training.job,
        "data": training.data.fingerprints,
        "teacher_run": training.teacher_run,
        "precision": precision,
    }

    def save(state: dict[str, Any]) -> None:
        checkpoint.save(recorder.run.work / CHECKPOINT, state | identity)

    loop.fit(trainer, training.loader, recorder, save, training.run_name)
    return trainer.progress


def _choose_precision(training: Training, run: tracking.Run | tracking.NullRun) -> str:
    """By train.amp; kept in the run, with the seconds of a pass in each where they were measured."""
    config, processes, resumed = training.config.train, training.processes, training.resumed
    loop.place(training.objective, config, processes.device)
    images = config.batch_size // processes.world // config.accumulate
    side = training.loader.dataset.augmenter.size
    stored = resumed.state.get("precision", "") if resumed else None
    precision, seconds = choose_precision(config, training.objective, processes, (images, side), stored)
    run.set_tags({"train.precision": precision})
    if seconds:
        run.log_metrics({f"train/pass_seconds/{name}": value for name, value in seconds.items()}, step=0)
    return precision
