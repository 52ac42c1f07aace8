"""The main job of one GPU, by the clock: render faces, train a teacher, the student distilled from it, its control.

    python -m experiments.gpu.job --out OUT --minutes 9 --photographs DIR     # there
    python -m experiments.gpu.job --take-in OUT --store mlruns                # at home

Every phase has its share of what time is left when it begins, and leaves its result in OUT as soon as it is there:

    summary.json              images, minutes, val/nme and images/s of each phase
    record.tar.gz             the MLflow record of all runs, but for the weights
    distilled.safetensors     control.safetensors     float32
    teacher.half.0, ...       the teacher in float16, cut into parts; left out where it is too large

There is no tracking server where this runs, so each run is logged to a local store (distill/tracking/offline.py);
--take-in sends them to the store at home, weights included.
"""

from __future__ import annotations

import gc
import importlib
import itertools
import json
import shutil
import subprocess
import sys
import tarfile
import time
import traceback
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill import cli
from distill.errors import UserError

if TYPE_CHECKING:
    from distill.training.finalize import TrainResult

FOLDER = Path(__file__).resolve().parent
SHARES = {"teacher": 0.44, "distilled": 0.28, "control": 0.28}  # of the time that is left for training
FILES = {"teacher": "teacher.yaml", "distilled": "distill.yaml", "control": "student.yaml"}
RENDERING = 0.25  # share of the whole
OVERHEAD = 30.0  # seconds that a training is taken to cost beside its steps, until one has been measured
CLOSING = 10.0  # seconds kept for the end
LEAST = 0.02  # minutes: what teacher and student get however late it is
NOBODY = "http://127.0.0.1:9"  # a tracking server that is away: runs are logged offline
VALIDATION = 400  # renders to validate on where there are no photographs; their indices start at VALIDATION_START
VALIDATION_START = 900_000
PART = 15 * 2**20  # bytes
PARTS = 2  # of a teacher, that all files together stay below 64 MiB


def main(argv: list[str]) -> None:
    """Run the job, or take its results in."""
    args = _parser().parse_args(argv)
    if args.take_in:
        take_in(cli.check_out(args.take_in, "--take-in"), args.store)
        return
    if not args.out:
        raise UserError("Give --out OUT, a folder for results, or --take-in OUT, to put results into a store.")
    for package in ("mlflow", "pydantic", "timm", "numba"):
        importlib.import_module(package)  # now, not after the renders
    job = Job(cli.check_out(args.out), cli.check_out(args.work, "--work"), 60 * args.minutes, args.overrides)
    data = Path(args.data) if args.data else job.phase("render", lambda: job.render(args))
    if data:
        job.train_all(data)


class Job:
    """Phases by one clock. Results go to `out`, and what is computed besides, many files, to `work`."""

    def __init__(self, out: Path, work: Path, seconds: float, overrides: list[str]):
        self.out, self.work, self.overrides = out, work, overrides
        self.began, self.seconds, self.overhead = time.monotonic(), seconds, OVERHEAD
        self.summary: dict[str, dict[str, Any]] = {}
        for folder in (out, work):
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.began + self.seconds - time.monotonic()

    def phase(self, name: str, call: Any) -> Any:
        """`call()`; None where it fails, for the phases after it may do without."""
        print(f"\n{name}: {self.left:.0f} s left", flush=True)
        self.summary[name] = {"began": round(self.seconds - self.left, 1)}
        try:
            return call()
        except Exception:  # whatever it is, the results so far and the other phases are worth keeping
            traceback.print_exc()
            self.summary[name]["failed"] = traceback.format_exc(limit=-1)
            return None
        finally:
            self.summary[name]["ended"] = round(self.seconds - self.left, 1)
            (self.out / "summary.json").write_text(json.dumps(self.summary, indent=2) + "\n", encoding="utf-8")

    # ------------------------------------------------------------------------------------------------ data

    def render(self, args: Any) -> Path:
        """A data root with as many renders as the time allows, and the photographs or other renders to validate on."""
        from distill.synthesis.job import SHARD, SHARDS

        root, end = self.work / "data", self.left - RENDERING * self.seconds
        command = [sys.executable, "-m", "distill.synthesis", "--out", str(root), "--size", str(args.size)]
        if args.photographs:
            root.mkdir(parents=True, exist_ok=True)
            (root / "aflw_val").unlink(missing_ok=True)
            (root / "aflw_val").symlink_to(Path(args.photographs).resolve())
        else:
            only = ["--set", "synthetics_val", "--start", str(VALIDATION_START), "--count", str(VALIDATION)]
            subprocess.run([*command, *only], check=True)
        try:  # more than there is time for
            subprocess.run([*command, "--count", str(VALIDATION_START)], check=True, timeout=max(1.0, self.left - end))
        except subprocess.TimeoutExpired:
            shards = root / "synthetics_train" / SHARDS
            whole = next(n for n in itertools.count() if not (shards / f"{n * SHARD:06d}.npy").is_file())
            subprocess.run([*command, "--count", str(SHARD * max(1, whole))], check=True)  # labels of what is there
        return root

    # ------------------------------------------------------------------------------------------------ training

    def train_all(self, data: Path) -> None:
        """Teacher, student and, where there is time, control. Without a teacher the control still trains."""
        teacher = self.phase("teacher", lambda: self.train("teacher", data))
        distilled = self.phase("distilled", lambda: self.train("distilled", data, teacher)) if teacher else None
        most = self.summary["distilled"]["minutes"] if distilled else float("inf")
        minutes = min(most, budget("control", self.left, self.overhead))
        if minutes < (most / 2 if distilled else LEAST):
            print("control: no time is left for it", flush=True)
            return
        self.phase("control", lambda: self.train("control", data, minutes=minutes))

    def train(self, name: str, data: Path, teacher: TrainResult | None = None, minutes: float = 0.0) -> TrainResult:
        """One training of FILES. minutes of steps; 0: its share of what is left."""
        from distill import config as configs
        from distill.training import job as training

        minutes = minutes or max(LEAST, budget(name, self.left, self.overhead))
        given = [f"data.root={data}", f"train.minutes={minutes}", f"tracking.uri={NOBODY}"]
        given += [f"tracking.store={self.work / 'mlruns'}", *self.overrides_of(name)]
        given += [f"teacher={teacher.model_file}"] if teacher else []
        config = configs.load(FOLDER / FILES[name], given)
        if teacher:
            tags = config.tracking.tags | {"teacher.run_id": teacher.run_id}
            config = replace(config, tracking=replace(config.tracking, tags=tags))
        callbacks = training.Callbacks(on_epoch=lambda _epoch, metrics: self.summary[name].update(_speed(metrics)))
        began = time.monotonic()
        result = (training.train_teacher if name == "teacher" else training.train_student)(config, callbacks)
        cli.print_result(result)
        self.summary[name] |= {
            "minutes": minutes, "val/nme": result.report.nme, "bytes": result.cost.file_bytes, "run": result.run_id,
        }  # fmt: skip
        self.keep(name, result)
        passed = time.monotonic() - began - 60 * result.minutes
        self.overhead = passed if self.overhead == OVERHEAD else max(self.overhead, passed)
        gc.collect()  # its loader processes, and what it holds of the GPU
        return result

    def overrides_of(self, name: str) -> list[str]:
        """Those for all trainings, and those that begin with `name.`, without it."""
        shared = [item for item in self.overrides if item.partition(".")[0] not in FILES]
        return shared + [item.removeprefix(f"{name}.") for item in self.overrides if item.startswith(f"{name}.")]

    def keep(self, name: str, result: TrainResult) -> None:
        """A training's weights and the record of all trainings so far."""
        if name == "teacher":
            data = half(result.model_file)
            if len(data) <= PARTS * PART:
                for part in range(0, len(data), PART):
                    (self.out / f"teacher.half.{part // PART}").write_bytes(data[part : part + PART])
            else:
                print(f"teacher: {len(data):,} bytes in float16 are too many to keep; it stays here")
        else:
            shutil.copyfile(result.model_file, self.out / f"{name}.safetensors")
        temporary = self.work / "record.tar.gz"
        with tarfile.open(temporary, "w:gz") as tar:
            tar.add(self.work / "mlruns" / "offline", ".", filter=_no_weights)
        shutil.move(temporary, self.out / "record.tar.gz")


def budget(name: str, left: float, overhead: float) -> float:
    """Minutes of steps for the training `name`, from the seconds left for it and those after it, each of which costs
    `overhead` seconds beside its steps."""
    todo = list(SHARES)[list(SHARES).index(name) :]
    seconds = left - CLOSING - overhead * len(todo)
    return max(0.0, seconds * SHARES[name] / sum(SHARES[each] for each in todo) / 60)


def _speed(metrics: dict[str, float]) -> dict[str, float]:
    """Of the last epoch: images/s, and the share of its time that was spent waiting for the loader."""
    waiting = metrics["train/loader_seconds"] / max(metrics["train/epoch_seconds"], 1e-9)
    return {"images/s": round(metrics["train/images_per_second"], 1), "waiting for data": round(waiting, 3)}


def _no_weights(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if entry.name.endswith((".safetensors", "/lock")) else entry


# ---------------------------------------------------------------------------------------------------- weights


def half(file: Path) -> bytes:
    """A model file in float16."""
    from safetensors import safe_open
    from safetensors.torch import save

    with safe_open(file, framework="pt") as opened:
        return save({name: opened.get_tensor(name).half() for name in opened.keys()}, opened.metadata())  # noqa: SIM118


def whole(parts: Iterable[Path], file: Path) -> None:
    """Write the model file again whose `half` was cut into parts."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    file.write_bytes(b"".join(part.read_bytes() for part in parts))
    with safe_open(file, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name).float() for name in opened.keys()}  # noqa: SIM118 - not a dict
        metadata = opened.metadata()
    save_file(tensors, file, metadata)


# ---------------------------------------------------------------------------------------------------- at home


def take_in(folder: Path, store: str) -> None:
    """Put runs and weights that a job left in `folder` into the store. Raises UserError where there is no record."""
    from distill import tracking as track
    from distill.config import TrackingConfig
    from distill.models.files import read_description

    record = folder / "record.tar.gz"
    if not record.is_file():
        raise UserError(f"'{folder}' has no {record.name}; expected what a job left in its --out.")
    target = TrackingConfig(store=store)
    waiting = track.store_root(target) / "offline"
    waiting.mkdir(parents=True, exist_ok=True)
    with tarfile.open(record) as tar:
        names = {Path(name).parts[0] for name in tar.getnames() if Path(name).parts}
        tar.extractall(waiting, filter="data")
    if parts := sorted(folder.glob("teacher.half.*")):
        whole(parts, folder / "teacher.safetensors")
    for file in sorted(folder.glob("*.safetensors")):
        about = read_description(file)["about"]
        for place in waiting.glob(f"{about['run_id']}.*/artifacts/*/*/artifacts"):
            (place / track.MODEL_FOLDER).mkdir(exist_ok=True)
            shutil.copyfile(file, place / track.MODEL_FOLDER / f"{about['job']}.safetensors")
    if not track.upload(waiting.parent, sorted({Path(name).stem for name in names}), track.tracking_uri(target)):
        sys.exit(1)


def _parser() -> cli.Parser:
    parser = cli.Parser(
        prog="python -m experiments.gpu.job",
        description="Render faces, train a teacher, a student distilled from it, and its control, in so many minutes.",
    )
    parser.add_argument("--out", metavar="DIR", help="folder for results")
    parser.add_argument(
        "--work", default="outputs/gpu-job", metavar="DIR", help="for everything else (default: %(default)s)"
    )
    parser.add_argument("--minutes", type=float, default=9.0, metavar="M", help="for everything (default: %(default)s)")
    parser.add_argument("--photographs", metavar="DIR", help="labelled set to validate on (default: other renders)")
    parser.add_argument("--data", metavar="DIR", help="data root that is there already (default: render one)")
    parser.add_argument("--size", type=int, default=256, metavar="S", help="side of the renders (default: %(default)s)")
    parser.add_argument("--take-in", metavar="DIR", help="put the results in this folder into a store, and stop")
    cli.add_store_argument(parser)  # of --take-in; the trainings have one below --work
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for all trainings; NAME.key=value: for one")
    return parser


if __name__ == "__main__":
    cli.run(main)
