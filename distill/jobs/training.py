"""Train a teacher or a student: data, model, teacher, loop, evaluation, export, all kept in one MLflow run."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from distill import config as configs
from distill import metrics as metric
from distill import tracking as track
from distill.config import Config, TrackingConfig
from distill.data import cache
from distill.data.annotations import LandmarkSet, SetPaths, assert_disjoint, read_set, resolve
from distill.data.loading import EpochSampler, TrainDataset, train_loader
from distill.data.transforms import Augmenter
from distill.distiller import Distiller, Objective, Supervision
from distill.errors import UserError
from distill.jobs import evaluation, exporting
from distill.jobs.references import MODEL_FOLDER, resolve_teacher
from distill.models.files import check_budget, load_model, save_model
from distill.models.landmarker import Landmarker
from distill.models.teacher import FrozenTeacher
from distill.profiling import Cost, cost
from distill.training import checkpoint, distributed, engine

CHECKPOINT = "checkpoint.pt"
TEACHER_COPY = "teacher.safetensors"


@dataclass(frozen=True)
class TrainResult:
    run_id: str
    run_name: str
    model_file: Path  # the best weights by val/nme, as exported
    report: metric.Report  # on the validation set
    cost: Cost
    pictures: list[Path]
    submission: Path | None  # solution.zip, where there is a test set
    minutes: float  # spent training, over all sessions


def train_teacher(config: Config) -> TrainResult:
    """Train a teacher. Raises UserError for anything the user can mend, before training starts where that is possible."""
    if config.distill.terms:
        raise UserError(
            "distill.terms: a teacher learns from labels alone; use distill.student to train against a teacher."
        )
    return _train(config, "teacher")


def train_student(config: Config) -> TrainResult:
    """Train a student: against a teacher where the config has distillation terms, else the control. Errors as above."""
    return _train(config, "student")


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
        was, now = configs.flatten(configs.computing(stored)), configs.flatten(configs.computing(config))
        key = next(key for key in (*was, *now) if was.get(key) != now.get(key))
        raise UserError(
            f"resume: the run was started with {key}={was.get(key)!r}, this call says {now.get(key)!r}; expected the same "
            f"config (give resume= alone to use the run's own)."
        )
    for name, value in fingerprints.items():
        if state["data"][name] != value:
            raise UserError(
                f"resume: the {name} data has fingerprint {value}, the run was started on {state['data'][name]}."
            )


# ------------------------------------------------------------------------------------------------- the job


def _train(config: Config, job: str) -> TrainResult:
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    processes = distributed.start(config.train.device)
    try:
        return _train_in(config, job, processes)
    finally:
        distributed.stop()


def _train_in(config: Config, job: str, processes: distributed.Processes) -> TrainResult:
    engine.seed_everything(config.seed)
    checkpoint_path = processes.from_main(lambda: find_checkpoint(config)) if config.resume else None
    state = checkpoint.load(checkpoint_path) if checkpoint_path else None
    if state is not None and state["job"] != job:
        raise UserError(f"resume: run '{checkpoint_path.parent.name}' is a {state['job']}, not a {job}.")

    # data: read and checked whole before anything else
    paths = resolve(config.data)
    train_set, val_set = _read(config, paths)
    fingerprints = {"train": train_set.fingerprint, "val": val_set.fingerprint}
    if state is not None:
        _check_same(config, state, fingerprints)
    images = None
    if config.data.cache:
        images = processes.from_main(
            lambda: cache.open_or_build(train_set, Path(config.data.cache), config.data.cache_size)
        )

    # models: everything that can be refused is refused before a run exists
    model = Landmarker(config.model)
    if job == "student":
        check_budget(model)
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
    objective = Objective(model, Supervision(config.loss), distiller)
    size = config.data.size or max(model.size, teacher.model.size if teacher else 0)
    sampler = EpochSampler(len(train_set), config.train.batch_size, config.seed, processes.rank, processes.world)
    if sampler.batch_size // processes.world % config.train.accumulate:
        raise UserError(
            f"train.accumulate is {config.train.accumulate}; expected a divisor of the {sampler.batch_size // processes.world} "
            f"images of a process's batch."
        )
    dataset = TrainDataset(train_set, Augmenter(config.augment, size, config.seed), images)
    loader = train_loader(dataset, sampler, config.data.workers, pin=processes.device.type == "cuda")

    role = "distilled" if config.distill.terms else ("control" if job == "student" else "teacher")
    tags = {
        "distill.role": role,
        "distill.digest": configs.digest(config),
        "data.train": train_set.fingerprint,
        "data.val": val_set.fingerprint,
        "data.is_sample": str(paths.is_sample).lower(),
        "data.skipped_images": str(len(train_set.skipped)),
        "teacher.run_id": teacher_run,
        "mlflow.note.content": _description(config, role, paths, train_set, val_set, teacher_run),
        **config.tracking.tags,
    }
    run_name = config.tracking.run_name or f"{config.name}-{config.model.backbone}-s{config.seed}"
    with ExitStack() as stack:
        if processes.is_main:
            run = stack.enter_context(track.Run.start(
                config.tracking,
                job=job,
                run_name=run_name,
                params=configs.flatten(config),
                config_yaml=configs.to_yaml(config),
                tags=tags,
                resume_id=checkpoint_path.parent.name if checkpoint_path else None,
            ))  # fmt: skip
        run_id, work = processes.from_main(lambda: (run.id, run.work))
        if not processes.is_main:
            run = track.NullRun(work, run_id)
        work = checkpoint_path.parent if checkpoint_path else work
        best_file = work / f"{job}.safetensors"
        if state is None and processes.is_main:
            run.log_dataset(paths.train.name, train_set.fingerprint, paths.train, "training")
            run.log_dataset(paths.val.name, val_set.fingerprint, paths.val, "validation")
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

        def validate(candidate: nn.Module) -> dict[str, float]:
            return evaluation.as_metrics(evaluation.measure(evaluation.predict_set(candidate, val_set), val_set), "val")

        def on_best(candidate: nn.Module, epoch: int, value: float) -> None:
            save_model(candidate, best_file, about | {"epoch": epoch, "val/nme": round(value, 4)})

        try:
            progress = engine.fit(
                objective,
                loader,
                sampler,
                engine.Hooks(validate, lambda epoch, values: run.log_metrics(values, step=epoch), on_best),
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
            result = processes.from_main(
                lambda: _finish(config, job, run, run_name, best_file, paths, val_set, expenses, progress, teacher)
            )
        except (SystemExit, KeyboardInterrupt):
            if processes.is_main and (work / CHECKPOINT).is_file():
                print(f"\nStopped and saved. Continue with: {resume_command(config, job, run_id)}", flush=True)
            raise
        if processes.is_main:  # a finished run has nothing to resume
            (work / CHECKPOINT).unlink(missing_ok=True)
            (work / TEACHER_COPY).unlink(missing_ok=True)
    return result


def _read(config: Config, paths: SetPaths) -> tuple[LandmarkSet, LandmarkSet]:
    data = config.data
    real = paths.train.resolve().name
    if real.lower().startswith("aflw"):  # under whatever name or link the config reaches it
        raise UserError(f"data.train '{data.train}' is the folder '{real}'; the AFLW photographs are never trained on.")
    options = {"crop_scale": data.crop_scale, "crop_lift": data.crop_lift}
    train_set = read_set(paths.train, on_bad=data.on_bad, limit=data.limit, **options)
    val_set = read_set(paths.val, **options)
    assert_disjoint(train_set, val_set)
    return train_set, val_set


def _description(config, role, paths, train_set, val_set, teacher_run) -> str:
    taught = f", taught by run {teacher_run or config.teacher}" if role == "distilled" else ""
    return (
        f"{role.capitalize()} `{config.name}`: {config.model.backbone} with a {config.model.head.kind} head{taught}. "
        f"Trained on {len(train_set)} images of {paths.train.name}, selected on {len(val_set)} of {paths.val.name}."
    )


def _finish(config, job, run, run_name, best_file, paths, val_set, expenses, progress, teacher) -> TrainResult:
    """Everything after the loop, in the main process: measure the best weights, show, export, register."""
    best, _ = load_model(best_file)
    predictions = {"teacher": evaluation.predict_set(teacher.model, val_set)} if teacher else {}
    predictions[job] = evaluation.predict_set(best, val_set)
    reports = {name: evaluation.measure(p, val_set) for name, p in predictions.items()}
    report = reports[job]
    best_metrics = {f"best/{key}": value for key, value in evaluation.as_metrics(report, "val").items()}
    if teacher:
        # student-teacher agreement: the NME between their predictions
        norm = metric.normalizer("image", val_set.landmarks, val_set.sizes)
        best_metrics["best/val/agreement_nme"] = metric.nme(
            predictions[job].points, predictions["teacher"].points, norm
        )
    run.log_metrics(best_metrics, step=progress.best_epoch + 1)
    out = run.work / "artifacts"
    history: dict[str, list[tuple[int, float]]] = {}
    for record in progress.history:
        for key, value in record.items():
            history.setdefault(key, []).append((int(record["epoch"]), value))
    shown = evaluation.pictures(out / "pictures", val_set, predictions, reports, history)
    for path in shown:
        run.log_artifact(path, "pictures")
    run.log_artifact(evaluation.write_json(out / "report.json", report.to_dict()), "evaluation")
    np.savez_compressed(out / "val_predictions.npz", names=val_set.names, **vars(predictions[job]))
    run.log_artifact(out / "val_predictions.npz", "evaluation")
    model_file = out / MODEL_FOLDER / best_file.name
    model_file.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(best_file, model_file)
    run.log_artifact(model_file, MODEL_FOLDER)
    submission = None
    if job == "student":
        test_set = read_set(paths.test, need_labels=False) if paths.test else None
        exported = exporting.export(best_file, out / "export", test_set)
        submission = exported.submission
        run.log_artifact(exported.onnx, "onnx")
        if submission:
            run.log_artifact(submission, "submission")
            run.set_tags({"submission.images": len(test_set), "submission.set": paths.test.name})
    if config.tracking.register:
        _register(config, job, run, report, val_set.fingerprint)
    return TrainResult(run.id, run_name, model_file, report, expenses, shown, submission, minutes=progress.seconds / 60)


def _register(config: Config, job: str, run, report: metric.Report, val_fingerprint: str) -> None:
    """`newest` is the newest version; `champion` moves when val/nme is better, or the validation set is another one."""
    name = f"distill-{job}"
    aliases = ["newest"]
    try:
        holder = track.alias_holder(config.tracking, name, "champion")
        champion = track.find_run(config.tracking, holder[1]) if holder else None
    except UserError:  # a store that is away, or a champion whose run was deleted: neither may stop a finished run
        champion = None
    better = champion is None or champion.tags.get("data.val") != val_fingerprint
    if better or report.nme < champion.metrics.get("best/val/nme", float("inf")):
        aliases.append("champion")
    run.register(
        name, MODEL_FOLDER, aliases, f"val/nme {report.nme:.3f} % on validation data {val_fingerprint}",
        {"val/nme": f"{report.nme:.4f}", "data.val": val_fingerprint},
    )  # fmt: skip
