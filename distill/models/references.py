"""MODEL and teacher references -> a model file: `bundled`, a file, a run id or name, models:/NAME@ALIAS."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distill.config import Config, TrackingConfig
from distill.errors import UserError

BUNDLED = Path(__file__).resolve().parent.parent / "assets" / "student.safetensors"


@dataclass(frozen=True)
class ModelReference:
    """The model that a reference leads to."""

    path: Path  # the safetensors file
    run_id: str  # empty for files that no run of this store made
    label: str  # for people


def resolve_model(reference: str, tracking: TrackingConfig) -> ModelReference:
    """Raises UserError, in one sentence, when the reference leads to no model file."""
    if reference == "bundled":
        if not BUNDLED.is_file():
            raise UserError(f"The bundled student '{BUNDLED}' is missing from this installation.")
        return ModelReference(BUNDLED, "", "bundled")
    path = Path(reference)
    if path.suffix == ".safetensors" or path.is_file():
        if not path.is_file():
            raise UserError(f"Model file '{reference}' does not exist.")
        return ModelReference(path, "", path.stem)
    # only now is MLflow needed
    from distill.tracking import MODEL_FOLDER, artifact_path, find_run, resolve_registry

    if reference.startswith("models:/"):
        run_id, folder = resolve_registry(tracking, reference)
        return ModelReference(_only_file(folder, reference), run_id, reference.removeprefix("models:/"))
    run = find_run(tracking, reference)
    return ModelReference(_only_file(artifact_path(tracking, run.id, MODEL_FOLDER), reference), run.id, run.name)


def config_of(model: ModelReference, tracking: TrackingConfig) -> Config | None:
    """The config of the run that made the model; None for a file that no run of this store made."""
    if not model.run_id:
        return None
    from distill import config as configs
    from distill.tracking import artifact_path

    return configs.load(artifact_path(tracking, model.run_id, "config.yaml"))


def _only_file(folder: Path, reference: str) -> Path:
    files = sorted(folder.glob("[!.]*.safetensors"))  # a hidden one is a write that was killed
    if len(files) != 1:
        raise UserError(f"'{reference}' holds {len(files)} model files in '{folder.name}/'; expected exactly one.")
    return files[0]


def resolve_teacher(reference: str, tracking: TrackingConfig, train_fingerprint: str) -> ModelReference:
    """The teacher of a student; an empty reference means the newest finished teacher of the same training
    data."""
    if reference:
        return resolve_model(reference, tracking)
    from distill.tracking import newest_run

    # of the same job are assistants, which have a teacher themselves, and means of several teachers
    run = newest_run(tracking, "teacher", {"data.train": train_fingerprint, "distill.role": "teacher"})
    if run is None:
        raise UserError(
            f"No teacher of this training data ({train_fingerprint}) is in the store; train one with `python -m "
            f"distill.teacher` on the same data, or name one with teacher=RUN_ID, models:/NAME@ALIAS or a file."
        )
    return resolve_model(run.id, tracking)
