"""Shared by all entry points: arguments and errors, before any heavy package is imported."""

from __future__ import annotations

import argparse
import errno
import io
import os
import re
import select
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from distill.errors import UserError, is_out_of_memory

if TYPE_CHECKING:
    from distill.config import Config

# what to install for a package that is imported; the parts of pyproject.toml
EXTRAS = {
    "distill": "numpy cv2 PIL onnxruntime av yaml tqdm filelock pydantic",
    "distill[train]": "torch torchvision timm mlflow albumentations safetensors onnx matplotlib jinja2 plutoprint "
    "psutil packaging scipy",
    "distill[synthesis]": "numba",
    "distill[search]": "optuna sqlalchemy psycopg",
}
# errors that a disk, its permissions or a user's file name can cause anywhere; other OSErrors are bugs
DISK = {
    getattr(errno, name) for name in "EACCES EPERM EROFS ENOSPC EDQUOT EEXIST ENOTDIR EISDIR ENAMETOOLONG EFBIG".split()
}


class Parser(argparse.ArgumentParser):
    """argparse that raises UserError, takes `key=value` overrides before, between and after options, and gives
    `--store DIR` and `tracking.store=DIR` one meaning in every command that has `add_store_argument`."""

    def parse_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def, override]
        """`store` is the folder that either spelling names, else "mlruns"; if named, overrides hold it too."""
        args = sys.argv[1:] if args is None else args
        stores = [item for item in args if item.strip().startswith("tracking.store=")]
        found, rest = self.parse_known_args([item for item in args if item not in stores], namespace)
        late = [item for item in rest if "=" in item and not item.startswith("-")]
        if rest and (late != rest or not hasattr(found, "overrides")):
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        if late:
            found.overrides = [*found.overrides, *late]
        if not hasattr(found, "store"):
            if stores:
                self.error(f"unrecognized arguments: {' '.join(stores)}")
            return found
        named = dict.fromkeys([item.partition("=")[2] for item in stores] + ([found.store] if found.store else []))
        if len(named) > 1:
            self.error(f"two stores are named, {' and '.join(map(repr, named))}; expected one")
        found.store = next(iter(named), "mlruns")
        if named and hasattr(found, "overrides"):
            found.overrides = [*found.overrides, f"tracking.store={found.store}"]
        return found

    def error(self, message: str) -> NoReturn:
        """Raises UserError with argparse's message."""
        message = message.removeprefix("argument ")
        raise UserError(f"{message[0].upper()}{message[1:]}. See --help.")


def run(main: Callable[[list[str]], None]) -> None:
    """Call `main` with the command line's arguments. A UserError, a package that is not installed, memory that runs
    out, or a file that the disk refuses becomes one line on stderr and exit code 2. A reader of stdout that is gone
    (`| head`) ends the command in silence, as it does others.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")  # a file's name as the system has it, UTF-8 or not
    stopped_by = _unwind_on_signals()
    try:
        main(sys.argv[1:])
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _is_reader_gone():
            sys.exit(128 + signal.SIGPIPE)
        sentence = _sentence(error)
        if sentence:
            print(f"error: {sentence}", file=sys.stderr)
            sys.exit(2)
        if not stopped_by:
            raise
        # a library that was being imported made an error of its own of the stop
        print("\ninterrupted", file=sys.stderr)
        sys.exit(128 + stopped_by[0])


def _is_reader_gone() -> bool:
    """Whether nobody reads stdout any more, as after `| head`; what is still buffered is dropped then."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    gone = any(event & select.POLLERR for _, event in poll.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return gone


def _sentence(error: Exception) -> str:
    """What an error means that the user or the machine caused; empty for a bug."""
    if isinstance(error, UserError):
        return str(error)
    if is_out_of_memory(error):
        return "There is not enough memory for this."
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        bringing = [name for name, packages in EXTRAS.items() if package in packages.split()]
        needed = f"This needs the package '{package}', which is not installed"
        return f"{needed}: pip install '{bringing[0]}'." if bringing else ""
    if isinstance(error, OSError) and error.errno in DISK:
        name = error.filename2 or error.filename  # of a copy: what was written
        where = f"'{os.fsdecode(name)}'" if name else "the disk"
        return f"{where} cannot be read or written: {error.strerror}."
    return ""


def _unwind_on_signals() -> list[int]:
    """Have SIGINT and SIGTERM unwind the stack, so that the run records how it ended; a list that they are added to."""
    received: list[int] = []

    def stop(number: int, _frame: object) -> None:
        received.append(number)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    # a job in the background ignores SIGINT, and must continue to
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, stop)
    return received


def check_out(path: str | os.PathLike, option: str = "--out") -> Path:
    """The folder as a Path. Raises UserError, before anything is computed, where it cannot be made or files cannot be
    put into it: both are tried in the nearest folder that is there, and nothing of the trial is left.
    """
    folder = Path(path)
    standing = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    if not standing.is_dir():
        raise UserError(f"{option} '{folder}': '{standing}' is not a folder.")
    try:
        with tempfile.TemporaryDirectory(prefix=".", dir=standing) as trial:
            (Path(trial) / folder.absolute().relative_to(standing.absolute())).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{option} '{folder}': the folder '{standing}' cannot be written to: {reason}.") from None
    return folder


def check_roots(configs: Iterable[Config]) -> None:
    """Raises UserError for a missing data folder, before torch is imported."""
    from distill.data.folders import resolve

    for data in dict.fromkeys(config.data for config in configs):
        resolve(data)


def stop_if_failed(failed: Sequence[str]) -> None:
    """Print trainings that failed, a line each, and exit with code 1; nothing where there are none."""
    if failed:
        print(f"\n{len(failed)} failed; the same command tries them again:", file=sys.stderr)
        for line in failed:
            print(f"  {line}", file=sys.stderr)
        sys.exit(1)


def whole(least: int, most: int = 10**18) -> Callable[[str], int]:
    """The type of an argument that is a whole number from `least` to `most`."""
    expected = f"from {least} to {most}" if most < 10**18 else f"{least} or more"

    def number(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,18}", text) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"'{text}' is given; expected a whole number, {expected}")
        return int(text)

    return number


def folder(text: str) -> Path:
    """The type of an argument that is a folder which is there."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"'{text}' is not a folder")
    return Path(text)


def file(text: str) -> Path:
    """The type of an argument that is a regular file which is there."""
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"'{text}' is not a file")
    return Path(text)


def add_workers_argument(parser: argparse.ArgumentParser, what: str = "trainings") -> None:
    """--workers, for commands that start trainings in processes of their own; 0: one a GPU, or 1."""
    text = f"{what} at a time, here (default: one a GPU, or 1)"
    parser.add_argument("--workers", type=whole(0, 1024), default=0, metavar="N", help=text)


def add_out_argument(parser: argparse.ArgumentParser, default: str = "") -> None:
    """--out, a folder that `check_out` has seen; to be given where there is no default."""
    text = "where the files go" + (" (default: %(default)s)" if default else "")
    parser.add_argument("--out", metavar="DIR", type=check_out, default=default, required=not default, help=text)


def add_overrides_argument(parser: argparse.ArgumentParser, text: str) -> None:
    """key=value overrides of a config."""
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=text)


def add_on_bad_argument(parser: argparse.ArgumentParser) -> None:
    """--on-bad, for commands that read many images; what `skip` leaves out goes to `stop_if_left_out`."""
    parser.add_argument(
        "--on-bad",
        choices=("skip", "stop"),
        default="skip",
        help="an image that cannot be used is left out and listed, or stops the call (default: %(default)s)",
    )


def stop_if_left_out(left_out: Sequence[tuple[str, str]]) -> None:
    """Print images that could not be used, (name, why), a line each, and exit with code 1; nothing without any."""
    if left_out:
        print(f"{len(left_out)} left out:", file=sys.stderr)
        for name, reason in left_out:
            print(f"  {name}: {reason}", file=sys.stderr)
        sys.exit(1)


def experiment_file(path: str | os.PathLike, hint: str) -> str:
    """The path of one of this project's experiment files. They are in a clone, not in an installed package: UserError
    where it is not in the working folder; `hint` names the remedy.
    """
    if not Path(path).is_file():
        raise UserError(f"There is no '{path}' in this folder; it is in a clone of the project ({hint}).")
    return str(path)


def add_store_argument(parser: Parser) -> None:
    """--store, which `Parser.parse_args` completes."""
    parser.add_argument("--store", metavar="DIR", help="where runs are kept (default: mlruns); or tracking.store=DIR")


def add_model_arguments(parser: Parser, onnx: bool = False) -> None:
    """MODEL and --store. onnx: the command takes an exported ONNX file too."""
    files = "an .onnx or .safetensors file" if onnx else "a .safetensors file"
    parser.add_argument("model", metavar="MODEL", help=f"run id or name, models:/NAME@ALIAS, {files}, or 'bundled'")
    add_store_argument(parser)


def train(job: str, default: str, summary: str, argv: list[str]) -> None:
    """Both training commands: read the arguments, train a `job` (teacher or student), print the result."""
    args = train_parser(job, default, summary).parse_args(argv)
    config = read_train_config(args.config, args.overrides, default)
    if args.print_config:
        from distill import config as configs

        print(configs.to_yaml(config), end="")
        return
    from distill.training import job as training

    print_result(training.train_teacher(config) if job == "teacher" else training.train_student(config))


def train_parser(job: str, default: str, summary: str) -> Parser:
    """The parser of a training command; default: the experiment file that it takes without --config."""
    parser = Parser(
        prog=f"python -m distill.{job}",
        description=summary,
        epilog="Every key of an experiment is in distill/config/fields.py. Several processes: torchrun "
        f"--nproc-per-node N -m distill.{job} ... Look at runs with `make ui`.",
    )
    parser.add_argument("--config", metavar="FILE", help=f"experiment file (default: {default})")
    parser.add_argument("--print-config", action="store_true", help="print the resolved config and stop")
    add_store_argument(parser)
    add_overrides_argument(parser, "e.g. train.epochs=60 seed=1 resume=RUN_ID")
    return parser


def read_train_config(file: str | None, overrides: list[str], default: str) -> Config:
    """The config that the arguments mean: of an experiment file, or of the run that `resume=` names, which needs no
    file.
    """
    from distill import config as configs

    if file is None and any(item.startswith("resume=") and item != "resume=" for item in overrides):
        from distill.training.checkpoint import stored_config

        return stored_config(overrides)
    config = configs.load(file or experiment_file(default, "--config FILE names one"), overrides)
    if not config.resume:  # a resumed run may have its own root
        check_roots([config])
    return config


def print_result(result) -> None:
    """result: a training.finalize.TrainResult. Of several torchrun processes only the first prints."""
    if int(os.environ.get("RANK", 0)):
        return
    report, cost = result.report, result.cost
    print(f"\n{result.run_name}  (run {result.run_id}, {result.minutes:.1f} minutes of training)")
    regions = "  ".join(f"{name} {value:.2f}" for name, value in report.by_region.items())
    print(f"  val/nme {report.nme:.3f} %   median {report.median:.3f}   95th percentile {report.p95:.3f}   {regions}")
    print(
        f"  {cost.parameters:,} parameters   {cost.file_bytes:,} bytes   {cost.mmacs:.0f} MMACs   "
        f"{cost.latency_ms:.1f} ms on one CPU thread"
    )
    print(f"  model       {result.model_file}")
    print(f"  pictures    {result.pictures[0].parent if result.pictures else '-'}")
    if result.submission:
        print(f"  submission  {result.submission}")
