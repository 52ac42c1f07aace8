"""Train a teacher or a student: data, model, teacher, loop, evaluation, export, all kept in one MLflow run."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from distill import config as configs
from distill import tracking as track
from distill.config import Config, TrackingConfig
from distill.data import cache
from distill.data.annotations import LandmarkSet, SetPaths, assert_disjoint, read_set, resolve
from distill.data.augment import Augmenter
from distill.data.loading import EpochSampler, TrainDataset, train_loader
from distill.distillation import balance
from distill.distillation.distiller import Distiller, Objective, Supervision
from distill.errors import UserError
from distill.evaluate import job as evaluation
from distill.landmarks import IBUG68
from distill.models.files import check_budget, load_model, save_model
from distill.models.landmarker import Landmarker, skeleton
from distill.models.references import resolve_model, resolve_teacher
from distill.models.teacher import FrozenTeacher
from distill.profiling import cost
from distill.training import checkpoint, distributed, loop
from distill.training.compile import check_compiler
from distill.training.finalize import Made, Taught, TrainResult, finish
from distill.training.freeze import freeze
from distill.training.init_weights import start_from
from distill.training.signals import Abandoned
from distill.training.snapshots import FOLDER as SNAPSHOTS
from distill.training.snapshots import Snapshots

CHECKPOINT = "checkpoint.pt"
TEACHER_COPY = "teacher.safetensors"


@dataclass(frozen=True)
class Watch:
    """Who looks on while a model is trained, in its process (of several: the first)."""

    on_start: Callable[[str], None] = lambda _run_id: None  # as soon as the run exists, or is continued
    # after each epoch: its number from 1, its metrics. May raise Abandoned: the run ends as KILLED, for good.
    on_epoch: Callable[[int, dict[str, float]], None] = lambda _epoch, _metrics: None


def train_teacher(config: Config, watch: Watch = Watch()) -> TrainResult:
    """Train a teacher; where the config has distillation terms, an assistant: a teacher that has one itself, of whatever size
    (https://arxiv.org/abs/1902.03393). Raises UserError for anything the user can mend, before training starts where that
    is possible."""
    return _train(config, "teacher", watch)


def train_student(config: Config, watch: Watch = Watch()) -> TrainResult:
    """Train a student: against a teacher where the config has distillation terms, else the control. Errors as above."""
    return _train(config, "student", watch)


# ------------------------------------------------------------------------------------------------- resume


def find_checkpoint(config: Config) -> Path:
    """The checkpoint that `resume` means: of a run id (or its unique beginning), or of the run that saved last."""
    root = track.store_root(config.tracking) / "work"
    found = sorted(root.glob(f"*/{CHECKPOINT}"), key=lambda path: path.stat().st_mtime)
    if config.resume != "last":
        found = [path for path in found if path.parent.name.startswith(config.resume)]
    if not found:
        what = "no unfinished run" if config.resume == "last" else f"no unfinished run '{config.resume}'"
        raise UserError(f"resume: there is {what} with a checkpoint under '{root}'.")
    if config.resume != "last" and len(found) > 1:
        raise UserError(f"resume: '{config.resume}' is the beginning of {len(found)} run ids; expected one.")
    return found[-1]


def stored_config(config: Config, given: Collection[str] = ()) -> Config:
    """The config of the run to resume; of this call's own, the store and the `given` keys (of data, train, tracking)."""
    stored = configs.from_dict(checkpoint.load(find_checkpoint(config))["config"], "the checkpoint's config")
    sections = {}
    for name in ("data", "train", "tracking"):
        own = {key.split(".")[1] for key in (*given, "tracking.store") if key.startswith(f"{name}.")}
        sections[name] = replace(getattr(stored, name), **{key: getattr(getattr(config, name), key) for key in own})
    return replace(stored, resume=config.resume, **sections)


def resume_command(config: Config, job: str, run_id: str) -> str:
    """What a person types to continue this run from the same folder."""
    store = config.tracking.store
    elsewhere = "" if store == TrackingConfig().store else f" {shlex.quote(f'tracking.store={store}')}"
    return f"python -m distill.{job} resume={run_id}{elsewhere}"


def _check_same(config: Config, state: dict, fingerprints: dict[str, str]) -> None:
    """A run continues with the config and the data it began with, or not at all."""
    stored = configs.from_dict(state["config"], "the checkpoint's config")
    if configs.digest(stored) != configs.digest(config):
        key, was, now = configs.first_difference(stored, config)
        raise UserError(
            f"resume: the run was started with {key}={was!r}, this call says {now!r}; expected the same "
            f"config (give resume= alone to use the run's own)."
        )
    for name, value in fingerprints.items():
        if state["data"][name] != value:
            raise UserError(
                f"resume: the {name} data has fingerprint {value}, the run was started on {state['data'][name]}."
            )


# ------------------------------------------------------------------------------------------------- the job


def _train(config: Config, job: str, watch: Watch) -> TrainResult:
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    processes = distributed.start(config.train.device)
    try:
        return _train_in(config, job, processes, watch)
    finally:
        distributed.stop()


def _train_in(config: Config, job: str, processes: distributed.Processes, watch: Watch) -> TrainResult:
    loop.seed_everything(config.seed)
    checkpoint_path = processes.from_main(lambda: find_checkpoint(config)) if config.resume else None
    state = checkpoint.load(checkpoint_path) if checkpoint_path else None
    if state is not None and state["job"] != job:
        raise UserError(f"resume: run '{checkpoint_path.parent.name}' is a {state['job']}, not a {job}.")

    # data: read and checked whole before anything else
    paths = resolve(config.data)
    train_set, val_set = read_sets(config, paths)
    if train_set.skipped and processes.rank == 0:
        (name, reason), count = train_set.skipped[0], len(train_set.skipped)
        print(
            f"{count} of {count + len(train_set)} training images are left out, such as '{name}': {reason}.", flush=True
        )
    fingerprints = {"train": train_set.fingerprint, "val": val_set.fingerprint}
    if state is not None:
        _check_same(config, state, fingerprints)
    images = None
    if config.data.cache:
        images = processes.from_main(
            lambda: cache.open_or_build(train_set, Path(config.data.cache), config.data.cache_size)
        )

    # models: everything that can be refused is refused before a run exists
    elsewhere = config.init or state is not None  # where its weights come from
    markup = train_set.markup
    model = skeleton(config.model, markup) if elsewhere else Landmarker(config.model, markup)
    if job == "student":
        check_budget(model)
    freeze(model, config.train.freeze)
    if config.train.compile:
        check_compiler(processes.device)
    init_run = ""
    if config.init and state is None:
        init_run = start_from(model, processes.from_main(lambda: resolve_model(config.init, config.tracking)))
    teacher, teacher_file, teacher_run = None, None, ""
    if config.distill.terms:
        if state is not None:
            teacher_file, teacher_run = checkpoint_path.parent / TEACHER_COPY, state["teacher_run"]
        else:
            reference = processes.from_main(
                lambda: resolve_teacher(config.teacher, config.tracking, train_set.fingerprint)
            )
            teacher_file, teacher_run = reference.path, reference.run_id
        teacher = FrozenTeacher(load_model(teacher_file)[0]).to(processes.device)
    distiller = Distiller(config.distill.terms, model, teacher) if teacher else None
    objective = Objective(model, Supervision(config.loss, markup), distiller, balance.make(config))
    size = config.data.size or max(model.size, teacher.model.size if teacher else 0)
    sampler = EpochSampler(len(train_set), config.train.batch_size, config.seed, processes.rank, processes.world)
    if sampler.batch_size // processes.world % config.train.accumulate:
        raise UserError(
            f"train.accumulate is {config.train.accumulate}; expected a divisor of the {sampler.batch_size // processes.world} "
            f"images of a process's batch."
        )
    dataset = TrainDataset(train_set, Augmenter(config.augment, size, config.seed, markup), images)
    loader = train_loader(dataset, sampler, config.data.workers, pin=processes.device.type == "cuda")

    role = role_of(config, job)
    note = _description(config, role, paths, train_set, val_set, teacher_run)
    tags = {
        "distill.role": role,
        "distill.digest": configs.digest(config),
        "data.train": train_set.fingerprint,
        "data.val": val_set.fingerprint,
        "data.is_sample": str(paths.is_sample).lower(),
        "data.skipped_images": str(len(train_set.skipped)),
        "teacher.run_id": teacher_run,
        "init.run_id": init_run,
        track.NOTE: note,
        **config.tracking.tags,
    }
    run_name = config.tracking.run_name or f"{config.name}-{config.model.backbone}-s{config.seed}"
    with ExitStack() as stack:
        if processes.is_main:
            if checkpoint_path:  # two processes that train one run would ruin it
                stack.enter_context(track.hold(checkpoint_path.parent))
            run = stack.enter_context(track.Run.start(
                config.tracking,
                job=job,
                run_name=run_name,
                params=configs.flatten(config),
                config_yaml=configs.to_yaml(config),
                tags=tags,
                resume_id=checkpoint_path.parent.name if checkpoint_path else None,
            ))  # fmt: skip
            if not checkpoint_path:
                stack.enter_context(track.hold(run.work))
        run_id, work = processes.from_main(lambda: (run.id, run.work))
        if not processes.is_main:
            run = track.NullRun(work, run_id)
        work = checkpoint_path.parent if checkpoint_path else work
        best_file = work / f"{job}.safetensors"
        if state is None and processes.is_main:
            run.log_dataset(paths.train.name, train_set.fingerprint, paths.train, "training")
            run.log_dataset(paths.val.name, val_set.fingerprint, paths.val, "validation")
            if not markup.fits(IBUG68):
                run.log_text(markup.to_yaml(), "landmarks.yaml")
            if teacher_file is not None:
                shutil.copyfile(teacher_file, work / TEACHER_COPY)
        expenses = cost(model)
        run.log_metrics(
            {f"model/{key}": value for key, value in expenses.to_dict().items()}
            | {"data/train_images": len(train_set), "data/val_images": len(val_set), "data/skipped": len(train_set.skipped)},
            step=0,
        )  # fmt: skip
        about = {
            "role": role, "job": job, "run_id": run_id, "run_name": run_name, "seed": config.seed,
            "data": {"train": paths.train.name, "val": paths.val.name, **fingerprints},
            "teacher_run_id": teacher_run,
        }  # fmt: skip

        taught = None
        if teacher is not None and processes.is_main:  # it does not change, so it predicts once
            taught = Taught(evaluation.predict_set(teacher.model, val_set), teacher_run)

        def validate(candidate: nn.Module) -> dict[str, float]:
            found = evaluation.predict_set(candidate, val_set)
            values = evaluation.as_metrics(evaluation.measure(found, val_set), "val")
            if taught:
                agreement = evaluation.agreement(found, taught.predictions, val_set)
                values |= evaluation.agreement_metrics(agreement, "val")
            return values

        def on_epoch(epoch: int, values: dict[str, float]) -> None:
            run.log_metrics(values, step=epoch)
            watch.on_epoch(epoch, values)

        snapshots = Snapshots(work / SNAPSHOTS, config.train)

        def on_validated(candidate: nn.Module, epoch: int, value: float) -> None:
            snapshots.keep(candidate, epoch, about | {"epoch": epoch, "val/nme": round(value, 4)})

        def on_best(candidate: nn.Module, epoch: int, value: float) -> None:
            save_model(candidate, best_file, about | {"epoch": epoch, "val/nme": round(value, 4)})

        if processes.is_main:
            watch.on_start(run_id)
        try:
            progress = loop.fit(
                objective,
                loader,
                sampler,
                loop.Hooks(validate, on_epoch, on_best, on_validated),
                config.train,
                processes,
                seed=config.seed,
                checkpoint_path=work / CHECKPOINT,
                identity={
                    "config": configs.to_dict(config), "job": job, "data": fingerprints, "teacher_run": teacher_run,
                },
                resume=state,
                label=run_name,
            )  # fmt: skip
            result = processes.from_main(lambda: finish(
                config,
                run,
                run_name,
                Made(
                    job,
                    role,
                    best_file,
                    expenses,
                    step=progress.best_epoch + 1,
                    minutes=progress.seconds / 60,
                    history=progress.history,
                    snapshots=snapshots.files(),
                    about=note,
                ),
                val_set,
                paths.test,
                taught,
            ))  # fmt: skip
        except Abandoned as reason:
            run.set_tags({"distill.abandoned": str(reason)})
            run.finish("KILLED")
            _tidy(work, processes)
            raise
        except (SystemExit, KeyboardInterrupt):
            if processes.is_main and (work / CHECKPOINT).is_file():
                print(f"\nStopped and saved. Continue with: {resume_command(config, job, run_id)}", flush=True)
            raise
        _tidy(work, processes)
    return result


def _tidy(work: Path, processes: distributed.Processes) -> None:
    """A run that has ended has nothing to resume."""
    if processes.is_main:
        (work / CHECKPOINT).unlink(missing_ok=True)
        (work / TEACHER_COPY).unlink(missing_ok=True)


def read_sets(config: Config, paths: SetPaths) -> tuple[LandmarkSet, LandmarkSet]:
    """Training and validation set, checked. Raises UserError where they are broken, share anything, or may not be used."""
    data = config.data
    real = paths.train.resolve().name
    if real.lower().startswith("aflw"):  # under whatever name or link the config reaches it
        raise UserError(f"data.train '{data.train}' is the folder '{real}'; the AFLW photographs are never trained on.")
    options = {"crop_scale": data.crop_scale, "crop_lift": data.crop_lift, "markup": configs.markup_of(config)}
    train_set = read_set(paths.train, on_bad=data.on_bad, limit=data.limit, **options)
    val_set = read_set(paths.val, **options)
    assert_disjoint(train_set, val_set)
    return train_set, val_set


def role_of(config: Config, job: str) -> str:
    """What a training is to the others: teacher, assistant, control, distilled; tuned: goes on from weights, without a teacher."""
    if job == "teacher":
        return "assistant" if config.distill.terms else "teacher"
    if config.distill.terms:
        return "distilled"
    return "tuned" if config.init else "control"


def _description(config, role, paths, train_set, val_set, teacher_run) -> str:
    taught = f", taught by run {teacher_run or config.teacher}" if config.distill.terms else ""
    taught += f", from the weights of {config.init}" if config.init else ""
    return (
        f"{role.capitalize()} `{config.name}`: {config.model.backbone} with a {config.model.head.kind} head{taught}. "
        f"Trained on {len(train_set)} images of {paths.train.name}, selected on {len(val_set)} of {paths.val.name}."
    )
