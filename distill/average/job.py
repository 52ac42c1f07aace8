"""One model from several: the mean of their weights, of late epochs of one run or of runs of one architecture.

Model soups (https://arxiv.org/abs/2203.05482): models that were trained alike, from a common start, often lie in one
basin, and their mean errs less than each of them at the cost of one. It is a single float32 model, so the challenge's
rules hold.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill import config as configs
from distill import tracking as track
from distill.config import Config, TrackingConfig
from distill.data.annotations import LandmarkSet, read_labelled
from distill.data.folders import resolve
from distill.errors import UserError
from distill.evaluate import job as evaluation
from distill.models.files import check_budget, load_model, markup_of, read_description, save_model
from distill.models.landmarker import Landmarker
from distill.models.references import ModelReference, resolve_model
from distill.profiling import Cost, cost
from distill.training.checkpoint import SNAPSHOTS, epoch_of
from distill.training.finalize import TeacherPredictions, TrainedModel, TrainResult, finalize
from distill.training.init_weights import difference

# ---------------------------------------------------------------------------------------------------- arithmetic


def mean_state(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each tensor, summed in float64; counters and other whole numbers are the first one's."""
    first = states[0]
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(tensor.dtype)
        if tensor.dtype.is_floating_point
        else tensor.clone()
        for name, tensor in first.items()
    }


def greedy(errors: Sequence[float], error_of: Callable[[list[int]], float]) -> tuple[list[int], float]:
    """Greedy soup: from the best member on, each one joins that does not make the mean worse.

    errors: of the members alone, in ascending order; error_of: of the mean of some. Gives those that joined and the
    error of their mean, which is never above that of the best.
    """
    kept, best = [0], errors[0]
    for index in range(1, len(errors)):
        error = error_of([*kept, index])
        if error <= best:
            kept, best = [*kept, index], error
    return kept, best


# ---------------------------------------------------------------------------------------------------- members


def find_members(references: Sequence[str], tracking: TrackingConfig) -> list[ModelReference]:
    """The snapshots of one run, or the model files of several runs, registry entries or files.

    Raises UserError where there are fewer than two.
    """
    found = [resolve_model(reference, tracking) for reference in references]
    if len(found) > 1:
        return found
    (one,) = found
    if not one.run_id:
        raise UserError(f"'{references[0]}' is one model; expected a run with snapshots, or several models.")
    try:
        folder = track.artifact_path(tracking, one.run_id, SNAPSHOTS)
    except UserError:
        files = []
    else:
        files = sorted(folder.glob("epoch_*.safetensors"), key=epoch_of)
    if len(files) < 2:
        raise UserError(
            f"Run {one.run_id} keeps {len(files)} snapshots; expected at least 2 (train with train.snapshots=N), or "
            "several models."
        )
    return [ModelReference(file, one.run_id, f"epoch {epoch_of(file)}") for file in files]


def source_config(members: Sequence[ModelReference], tracking: TrackingConfig) -> Config:
    """What the first member was trained by; of a file without a run in the store, its architecture alone.

    Tracking is the run's own (experiment, registry), but for the store and its address.
    """
    first = members[0]
    described = read_description(first.path)
    run_id = first.run_id or str(described["about"].get("run_id", ""))
    try:
        config = configs.load(track.artifact_path(tracking, run_id, "config.yaml"))
    except UserError:
        if first.run_id:
            raise
        model = configs.model_from_dict(described["model"], str(first.path))
        data = replace(Config().data, landmarks=markup_of(first.path, described).reference())
        return replace(Config(), tracking=tracking, model=model, data=data)
    own = replace(config.tracking, store=tracking.store, uri=tracking.uri, run_name="", tags={})
    return replace(config, tracking=own)


# ---------------------------------------------------------------------------------------------------- the job


@dataclass(frozen=True)
class Mixture:
    """What became of some models on a validation set."""

    model: Landmarker
    error: float  # its val/nme
    order: list[int]  # the models from better to worse; what follows counts in this order
    errors: list[float]  # val/nme of each alone
    mean: float  # val/nme of the mean of all
    kept: list[int]  # those whose mean `model` is


@dataclass(frozen=True)
class Averaged:
    """The finished run of an average, and the members that it is made of."""

    result: TrainResult
    members: list[ModelReference]  # in the order of the mixture
    mixture: Mixture


def mix(models: Sequence[Landmarker], method: str, val_set: LandmarkSet) -> Mixture:
    """The mean of models of one architecture: of all (uniform), or of those that make it no worse (greedy)."""

    def error_of(model: Landmarker) -> float:
        return evaluation.measure(evaluation.predict_set(model, val_set), val_set).nme

    alone = [error_of(model) for model in models]
    order = np.argsort(alone, kind="stable").tolist()
    errors, states = [alone[i] for i in order], [models[i].state_dict() for i in order]
    mixed = copy.deepcopy(models[0])

    def error_of_mean(indices: Sequence[int]) -> float:
        mixed.load_state_dict(mean_state([states[i] for i in indices]))
        return error_of(mixed)

    everything = list(range(len(models)))
    mean = error_of_mean(everything)
    kept, error = (everything, mean) if method == "uniform" else greedy(errors, error_of_mean)
    mixed.load_state_dict(mean_state([states[i] for i in kept]))
    return Mixture(mixed, error, order, errors, mean, kept)


def earlier_run(references: Sequence[str], method: str, config: Config) -> track.RunInfo | None:
    """A run of this very average (the same weights, method and validation set), a finished one where there is one."""
    members = find_members(references, config.tracking)
    about = read_description(members[0].path)["about"]
    digest = _digest(members, method, _sets(config, None, [about])[0])
    known = track.runs_tagged(config.tracking, about.get("job", "student"), {"average.digest": digest})
    return min(known, key=lambda run: run.status != "FINISHED", default=None)


def average(
    references: Sequence[str], method: str, config: Config, *, data: Path | None = None, resume_id: str | None = None
) -> Averaged:
    """Average models into one (method: uniform or greedy), in a run of its own, finished as that of a trained model.

    config: of the members; its data and tracking are where to measure and where to keep. data: another labelled set to
    measure and select on. resume_id: a run of this very average that was cut. Raises UserError where the members have
    several architectures, and where the validation set is one that a member was trained on, or not the members' own and
    not named by `data`.
    """
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    members = find_members(references, config.tracking)
    loaded = [load_model(member.path) for member in members]
    models, about = [model for model, _ in loaded], [described["about"] for _, described in loaded]
    job = _check_alike(members, models, about)
    val_set, test = _sets(config, data, about)
    mixture = mix(models, method, val_set)
    members = [members[i] for i in mixture.order]
    labels = [f"{member.label} {value:.4f}" for member, value in zip(members, mixture.errors, strict=True)]
    facts = {
        "role": "averaged",
        "job": job,
        "method": method,
        "kept": [labels[i] for i in mixture.kept],
        "parents": list(dict.fromkeys(member.run_id for member in members if member.run_id)),
        "data": about[0].get("data", {}) | {"val": val_set.fingerprint},
        "teacher_run_id": _common_teacher(about),
    }
    name = config.tracking.run_name or f"{config.name}-{config.model.backbone}-averaged"
    note = (
        f"The mean of the weights of {len(mixture.kept)} of {len(members)} models ({method}), measured on "
        f"{len(val_set)} images of {val_set.folder.name}: {', '.join(facts['kept'])}."
    )
    tags = {
        "distill.role": "averaged",
        "average.digest": _digest(members, method, val_set),
        "average.parents": ",".join(facts["parents"]),
        "data.train": facts["data"].get("train", ""),
        "data.val": val_set.fingerprint,
        "teacher.run_id": facts["teacher_run_id"],
        track.NOTE: note,
        **config.tracking.tags,
    }
    params = configs.flatten(config) | {"average.method": method, "average.members": labels}
    about_run: dict[str, Any] = {
        "params": params,
        "config_yaml": configs.to_yaml(config),
        "tags": tags,
        "resume_id": resume_id,
    }
    with track.Run.start(config.tracking, job=job, run_name=name, **about_run) as run:
        file = run.work / f"{job}.safetensors"
        facts |= {"run_id": run.id, "run_name": name, "val/nme": round(mixture.error, 4)}
        save_model(mixture.model, file, facts)
        expenses = _log(run, method, members, mixture)
        teacher = _teacher(facts["teacher_run_id"], config.tracking, val_set)
        model = TrainedModel(config, name, job, "averaged", file, expenses, step=0, minutes=0.0, description=note)
        result = finalize(run, model, val_set, test, teacher)
    return Averaged(result, members, mixture)


# ---------------------------------------------------------------------------------------------------- inside


def _log(run: track.Run, method: str, members: Sequence[ModelReference], mixture: Mixture) -> Cost:
    """The result's cost, and the members' errors as metrics and as average.json."""
    expenses = cost(mixture.model)
    values = {f"model/{key}": value for key, value in expenses.to_dict().items()}
    values |= {"average/best_member_nme": mixture.errors[0], "average/uniform_nme": mixture.mean}
    run.log_metrics(values | {"average/kept": len(mixture.kept)}, step=0)
    table = [
        {"member": member.label, "run_id": member.run_id, "nme": value, "kept": i in mixture.kept}
        for i, (member, value) in enumerate(zip(members, mixture.errors, strict=True))
    ]
    details = {"method": method, "members": table, "uniform_nme": mixture.mean, "nme": mixture.error}
    run.log_artifact(evaluation.write_json(run.work / "artifacts" / "average.json", details), "evaluation")
    return expenses


def _check_alike(members: Sequence[ModelReference], models: Sequence[Landmarker], about: Sequence[dict]) -> str:
    """The members' common job. Raises UserError where architectures or jobs differ, or a student is too large."""
    jobs = [facts.get("job", "student") for facts in about]
    for member, model, job in zip(members[1:], models[1:], jobs[1:], strict=True):
        if different := difference(models[0], model):
            key, was, now = different
            raise UserError(
                f"'{members[0].label}' has {key} {was} and '{member.label}' has {now}; expected models of one "
                "architecture."
            )
        if job != jobs[0]:
            raise UserError(
                f"'{members[0].label}' is a {jobs[0]} and '{member.label}' a {job}; expected models of one job."
            )
    if jobs[0] == "student":
        check_budget(models[0])
    return jobs[0]


def _sets(config: Config, data: Path | None, about: Sequence[dict]) -> tuple[LandmarkSet, Path | None]:
    """The labelled set to measure on, and the folder of images to predict for the submission."""
    if data is None:
        paths = resolve(config.data)
        val_set, test = read_labelled(paths.val, config), paths.test
        expected = about[0].get("data", {}).get("val", val_set.fingerprint)
        if val_set.fingerprint != expected:
            raise UserError(
                f"The validation set '{paths.val}' has fingerprint {val_set.fingerprint}, and the models were selected "
                f"on {expected}; name that set, or another to measure on, with --data."
            )
    else:
        val_set = read_labelled(data, config)
        try:
            test = resolve(config.data).test
        except UserError:  # the data root of the training is not here, so there is nothing to submit
            test = None
    if val_set.fingerprint in [facts.get("data", {}).get("train") for facts in about]:
        raise UserError(f"'{val_set.folder}' is what the models were trained on; expected a set for validation.")
    return val_set, test


def _digest(members: Sequence[ModelReference], method: str, val_set: LandmarkSet) -> str:
    """16 hex digits of what the average computes."""
    files = sorted(hashlib.sha256(member.path.read_bytes()).hexdigest() for member in members)
    return hashlib.sha256(json.dumps([method, files, val_set.fingerprint]).encode()).hexdigest()[:16]


def _common_teacher(about: Sequence[dict]) -> str:
    """The run id of the teacher that all members share; empty where there is none or more than one."""
    runs = {facts.get("teacher_run_id", "") for facts in about}
    return runs.pop() if len(runs) == 1 else ""


def _teacher(teacher_run: str, tracking: TrackingConfig, val_set: LandmarkSet) -> TeacherPredictions | None:
    """The members' teacher beside the mean, where the store still has it."""
    if not teacher_run:
        return None
    try:
        file = resolve_model(teacher_run, tracking).path
    except UserError:
        return None
    return TeacherPredictions(evaluation.predict_set(load_model(file)[0], val_set), teacher_run)
