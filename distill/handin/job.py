"""The hand-in: one zip with model, submission, report, code, and the commands that reproduce them."""

from __future__ import annotations

import json
import re
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import distill
from distill import tracking as track
from distill.config import TrackingConfig
from distill.data.annotations import read_set
from distill.errors import UserError
from distill.files import atomic, read_yaml, render
from distill.handin import pins, sources, steps
from distill.handin.steps import Step
from distill.models.references import resolve_model
from distill.report.job import ARTIFACT_FOLDER
from distill.submission import file as submission
from distill.submission import job as submitting
from distill.tracking import RunInfo, datasets

MODEL, SOLUTION, REPORT, README = "student.safetensors", "solution.zip", "report.pdf", "README.md"
PINS, ENVIRONMENT, CODE = "requirements.txt", "environment.json", "code"
IMAGES = "IMAGES"  # stands for the folder of test images in the README's command
AGAIN = "again"  # folder that the README's command writes to


@dataclass(frozen=True)
class HandIn:
    """A hand-in that was written."""

    path: Path
    run: RunInfo
    files: int
    bytes: dict[str, int]  # of the parts, unpacked
    statement: str  # which code is in it


def check_id(text: str) -> str:
    """The id itself. Raises UserError where it is not a letter or letters, and digits."""
    if not re.fullmatch(r"[A-Za-z]+[0-9]+", text):
        raise UserError(f"--id '{text}' is not a student's id; expected a letter or letters and digits, as R07654321.")
    return text


def build(
    owner: str,
    reference: str,
    out: Path,
    tracking: TrackingConfig,
    *,
    report: Path | None = None,
    images: Path | None = None,
) -> HandIn:
    """Write `out`/OWNER.zip, which unzips to the one folder OWNER, for a student's run.

    report: this PDF in place of the run's own, or of the one that is written and kept there where it has none. images:
    predict this folder where the run has no submission. The same run and the same files give the same bytes. Raises
    UserError where the run has not finished or is no student, breaks the challenge's rules, or has no submission.
    """
    check_id(owner)
    info = track.find_run(tracking, reference)
    if info.status != "FINISHED" or info.job != "student":
        raise UserError(
            f"Run '{info.id}' ({info.name}) is a {info.status} {info.job or 'run of another kind'}; "
            "expected a FINISHED student."
        )
    from distill.export.job import check_rules  # with torch, which wrong calls need not wait for

    model = resolve_model(info.id, tracking).path
    check_rules(model)
    trainings = steps.trace(info, tracking)
    environment = _environment(info, tracking)
    code = _code(info, tracking)
    with tempfile.TemporaryDirectory() as folder:
        solution = _submission(info, tracking, model, images, Path(folder))
        names, _ = submission.read(solution)
        files = {
            MODEL: model.read_bytes(),
            SOLUTION: solution.read_bytes(),
            REPORT: _report(info, tracking, report, Path(folder)).read_bytes(),
            PINS: pins.requirements(environment, pins.stated(code.files)).encode(),
            ENVIRONMENT: (json.dumps(environment, indent=2, ensure_ascii=False) + "\n").encode(),
        }
        scored = _public_score(solution, tracking)
    files |= {step.file: step.config.encode() for step in trainings if step.config}
    files |= {f"{CODE}/{name}": data for name, data in code.files.items()}
    files[README] = _readme(owner, info, trainings, environment, code, len(names), scored, tracking).encode()
    executable = {f"{CODE}/{name}" for name in code.executable}
    path = _write(out / f"{owner}.zip", owner, files, executable)
    sizes = {name: len(data) for name, data in files.items() if "/" not in name}
    sizes[CODE] = sum(map(len, code.files.values()))
    return HandIn(path, info, len(files), sizes, code.statement)


# ---------------------------------------------------------------------------------------------------- the parts


def _environment(info: RunInfo, tracking: TrackingConfig) -> dict:
    """The run's environment.json without the command line, which shows paths of its machine."""
    path = track.artifact_path(tracking, info.id, "environment.json")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {key: found[key] for key in ("code", "python", "platform", "hardware", "packages")}
    except (ValueError, KeyError):
        raise UserError(f"Run '{info.id}': its artifact 'environment.json' was not written by this package.") from None


def _code(info: RunInfo, tracking: TrackingConfig) -> sources.Sources:
    values = read_yaml(track.artifact_path(tracking, info.id, "config.yaml"))
    root = values.get("data", {}).get("root", "")
    private = [track.store_root(tracking), *([Path(root)] if root else [])]
    revision = info.tags.get("mlflow.source.git.commit", "")
    return sources.collect(revision, info.tags.get("code.dirty") == "false", private)


def _submission(info: RunInfo, tracking: TrackingConfig, model: Path, images: Path | None, folder: Path) -> Path:
    try:
        return track.artifact_path(tracking, info.id, f"submission/{SOLUTION}")
    except UserError:
        if images is None:
            raise UserError(
                f"Run '{info.id}' ({info.name}) has no submission; give the folder of test images with --images."
            ) from None
    return submitting.make(model, read_set(images, need_labels=False), folder / SOLUTION)


def _report(info: RunInfo, tracking: TrackingConfig, given: Path | None, folder: Path) -> Path:
    if given is not None:
        if not given.read_bytes().startswith(b"%PDF"):
            raise UserError(f"--report '{given}' is not a PDF file.")
        return given
    try:
        return track.artifact_path(tracking, info.id, f"{ARTIFACT_FOLDER}/{REPORT}")
    except UserError:
        from distill.report import job as reporting

        pdf = reporting.report([info.id], tracking, folder / "report").pdf  # kept with the run, too
        if pdf is None:
            raise UserError("The report's PDF cannot be made on this platform; give one with --report FILE.") from None
        return pdf.path


def _public_score(solution: Path, tracking: TrackingConfig) -> submitting.Entry | None:
    """What the ledger has of this very file."""
    digest = submission.sha256(solution)
    return next((entry for entry in submitting.entries(tracking) if entry.sha256 == digest), None)


# ---------------------------------------------------------------------------------------------------- README


def _readme(
    owner: str,
    info: RunInfo,
    trainings: list[Step],
    environment: dict,
    code: sources.Sources,
    rows: int,
    scored: submitting.Entry | None,
    tracking: TrackingConfig,
) -> str:
    threads = int(info.params.get("train.threads") or 0) or environment["hardware"]["cores"]
    sets = datasets(tracking, info.id) or datasets(tracking, trainings[0].run.id)
    return render(
        Path(__file__).with_name("README.md.j2"),
        owner=owner,
        run=info,
        nme=_nme_words(info),
        names={
            "model": MODEL,
            "solution": SOLUTION,
            "report": REPORT,
            "code": CODE,
            "train": steps.FOLDER,
            "pins": PINS,
            "environment": ENVIRONMENT,
        },
        rows=rows,
        statement=code.statement,
        python=environment["python"],
        platform=environment["platform"],
        machine=environment["hardware"],
        images=IMAGES,
        again=AGAIN,
        data=steps.DATA,
        test_set=info.tags.get("submission.set") or "the test set",
        predict=_predict_command(code, threads),
        predict_new=_predict_command(code, threads, trainings[-1].name),
        score=f" Its public score was {scored.public:g} % ({scored.date.isoformat()})." if scored else "",
        sets=list({found.context: found for found in sets}.values()),
        steps=[
            {"name": step.name, "command": step.command, "run": step.run, "remarks": step.remarks}
            | {"nme": _nme_words(step.run), "revision": _revision_words(step.run)}
            for step in trainings
        ],
        version=distill.__version__,
    )


def _nme_words(run: RunInfo) -> str:
    value = run.metrics.get("best/val/nme")
    return f", val/nme {value:.3f} %" if value is not None else ""


def _revision_words(run: RunInfo) -> str:
    revision = run.tags.get("mlflow.source.git.commit", "")
    return f", revision `{revision[:12]}`" if revision else ""


def _predict_command(code: sources.Sources, threads: int, model: str = MODEL) -> str:
    """Older code makes submissions by its export command alone, with as many threads as the training had."""
    if "distill/submission/__main__.py" in code.files:
        return f"python -m distill.submission make {model} --images {IMAGES} --out {AGAIN}/{SOLUTION}"
    return f"OMP_NUM_THREADS={threads} python -m distill.export {model} --images {IMAGES} --out {AGAIN}"


# ---------------------------------------------------------------------------------------------------- the zip


def _write(path: Path, folder: str, files: dict[str, bytes], executable: set[str]) -> Path:
    """All files under `folder`, in order and without a clock; read back before the zip takes its place."""
    try:
        with atomic(path) as temporary:
            with zipfile.ZipFile(temporary, "w") as archive:
                for name in sorted(files):
                    entry = zipfile.ZipInfo(f"{folder}/{name}", date_time=(1980, 1, 1, 0, 0, 0))
                    entry.compress_type = zipfile.ZIP_DEFLATED
                    entry.create_system = 3  # Unix, whatever machine writes it
                    entry.external_attr = (0o100755 if name in executable else 0o100644) << 16
                    archive.writestr(entry, files[name])
            with zipfile.ZipFile(temporary) as archive:
                if archive.testzip() is not None or len(archive.namelist()) != len(files):
                    raise RuntimeError(f"{path} does not read back as it was written")
    except OSError as error:
        raise UserError(f"'{path}' cannot be written: {error.strerror or error}.") from None
    return path
