"""Check a hand-in: unpacked elsewhere, in a fresh environment, it must reproduce its submission."""

from __future__ import annotations

import lzma
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from distill.errors import UserError
from distill.files import LARGEST_JSON, parse_json, read_text
from distill.handin.job import CODE, ENVIRONMENT, IMAGES, MODEL, PINS, README, REPORT, SOLUTION, check_id
from distill.models.files import MAX_BYTES
from distill.submission import file as submission

FOREIGN = ("PYTHON", "MLFLOW_", "DISTILL_", "VIRTUAL_ENV")  # beginnings of variables that would let this environment in
LARGEST = 2_000_000_000  # bytes unpacked; a hand-in has some ten million, a zip bomb has no bound


@dataclass(frozen=True)
class Reproduction:
    """What came of running a hand-in again."""

    problems: tuple[str, ...]  # one sentence each; none: it is reproduced
    rows: int = 0
    numbers: int = 0  # that were compared, as they are printed


def check(
    path: Path, images: Path, install: bool = True, progress: Callable[[str], None] = lambda _: None
) -> Reproduction:
    """Unpack a hand-in into a temporary folder, run the README's command there on `images`, and compare `solution.txt`
    with the stored one, to the last digit.

    install: in a fresh environment of the pinned versions (minutes, gigabytes); False: by the running interpreter, with
    the hand-in's code alone on its path. progress: is given a line for each step. Raises UserError for a file that is
    no zip.
    """
    problems = inspect(path)
    if problems:
        return Reproduction(tuple(problems))
    with tempfile.TemporaryDirectory(prefix="handin-") as folder:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
        root = Path(folder) / path.stem
        python = Path(sys.executable)
        environment = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)}
        environment |= {"PYTHONPATH": CODE, "PYTHONNOUSERSITE": "1"}
        try:
            if install:
                python = _install(root, Path(folder) / "venv", environment, progress)
            settings, command = _command(root, python, images.resolve())
            _check_code(root, python, environment)
            progress(f"running: {shlex.join(command[1:])}")
            _run(command, root, environment | settings, "the README's command")
            made = _made(root, command)
        except (_Failed, UserError) as failure:
            return Reproduction((str(failure),))
        return compare(root / SOLUTION, made)


def inspect(path: Path) -> list[str]:
    """What is wrong with the zip itself, one sentence each. Raises UserError for a file that is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            damaged = archive.testzip() if sum(entry.file_size for entry in entries) <= LARGEST else ""
    except (OSError, zipfile.BadZipFile, RuntimeError, ValueError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"'{path}' is not an intact zip: {error}.") from None
    if damaged == "":
        return [f"unpacked it has more than {LARGEST:,} bytes"]
    problems = [f"'{damaged}' is damaged"] if damaged else []
    names = [entry.filename for entry in entries if not entry.filename.endswith("/")]
    try:
        check_id(path.stem)
    except UserError:
        problems.append(f"the file's name '{path.name}' is not a student's id and .zip")
    stray = [
        name for name in names if PurePosixPath(name).parts[:1] != (path.stem,) or ".." in PurePosixPath(name).parts
    ]
    if stray:
        problems.append(f"'{stray[0]}' lies outside the one folder '{path.stem}/'")
    for name in (README, MODEL, SOLUTION, REPORT, PINS, ENVIRONMENT, f"{CODE}/distill/__init__.py"):
        if f"{path.stem}/{name}" not in names:
            problems.append(f"'{name}' is missing")
    for entry in entries:
        if entry.filename == f"{path.stem}/{MODEL}" and entry.file_size > MAX_BYTES:
            problems.append(f"'{MODEL}' has {entry.file_size:,} bytes; expected at most {MAX_BYTES:,}")
    return problems


def compare(stored: Path, made: Path) -> Reproduction:
    """Two submissions, as text: every name and every number in the digits in which it is printed."""
    for what, path in (("the stored", stored), ("the new", made)):
        if problems := submission.check(path):
            return Reproduction((f"{what} submission is invalid: {problems[0]}",))
    texts = [_rows(path) for path in (stored, made)]
    (names, old), (new_names, new) = (submission.read(path) for path in (stored, made))
    if sorted(names) != sorted(new_names):
        odd = sorted(set(names) ^ set(new_names))
        return Reproduction((f"the images differ: {len(odd)} are in one submission only, '{odd[0]}' first",))
    different = [name for name in names if texts[0][name] != texts[1][name]]
    numbers = len(names) * (submission.FIELDS - 1)
    if not different:
        return Reproduction((), len(names), numbers)
    place = {name: row for row, name in enumerate(new_names)}
    gaps = np.abs(old - new[[place[name] for name in names]])
    problem = (
        f"{(gaps > 0).sum():,} of {numbers:,} numbers differ, by at most {gaps.max():.4f} px, in {len(different)} of "
        f"{len(names)} images, '{different[0]}' first"
    )
    return Reproduction((problem,), len(names), numbers)


# ---------------------------------------------------------------------------------------------------- steps


class _Failed(Exception):
    """A step that did not go well; the message is the sentence about it."""


def _install(root: Path, folder: Path, environment: dict[str, str], progress: Callable[[str], None]) -> Path:
    """A new environment with the pinned versions; its python."""
    stated = parse_json(read_text(root / ENVIRONMENT, "The hand-in's", LARGEST_JSON), f"'{ENVIRONMENT}'")
    python = stated.get("python") if isinstance(stated, dict) else None
    if not re.fullmatch(r"\d+\.\d+.*", str(python)):
        raise _Failed(f"'{ENVIRONMENT}' names no version of Python")
    wanted = ".".join(python.split(".")[:2])
    running = ".".join(map(str, sys.version_info[:2]))
    base = sys.executable if wanted == running else shutil.which(f"python{wanted}")
    if base is None:
        raise _Failed(f"the run used Python {wanted}, and there is no python{wanted} here")
    progress(f"making a Python {wanted} environment")
    if base == sys.executable:
        venv.create(folder, with_pip=True)
    else:
        _run([base, "-m", "venv", str(folder)], root, environment, "python -m venv")
    fresh = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    pins = [line for line in (root / PINS).read_text(encoding="utf-8").splitlines() if "==" in line]
    progress(f"installing {len(pins)} pinned packages (minutes)")
    install = [str(fresh), "-m", "pip", "install", "--quiet", "--requirement", PINS]
    _run(install, root, environment, f"pip install -r {PINS}")
    return fresh


def _command(root: Path, python: Path, images: Path) -> tuple[dict[str, str], list[str]]:
    """The README's command, with this python and these images, and the variables that it sets."""
    text = read_text(root / README, "The hand-in's", LARGEST_JSON)
    commands = r"-m distill\.(?:submission make|export)"
    found = re.search(rf"^((?:\w+=\w+ )*)python ({commands} .*\b{IMAGES}\b.*)$", text, re.MULTILINE)
    if not found:
        raise _Failed(f"'{README}' has no command that predicts {IMAGES}")
    words = [str(images) if word == IMAGES else word for word in shlex.split(found[2])]
    return dict(setting.split("=") for setting in found[1].split()), [str(python), *words]


def _check_code(root: Path, python: Path, environment: dict[str, str]) -> None:
    printed = _run([str(python), "-c", "import distill; print(distill.__file__)"], root, environment, "import distill")
    if not Path(root, printed.strip()).resolve().is_relative_to((root / CODE).resolve()):
        raise _Failed(f"the code that runs is '{printed.strip()}', not that of the hand-in")


def _run(command: list[str], root: Path, environment: dict[str, str], what: str) -> str:
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
        raise _Failed(f"{what} ended with exit code {done.returncode}: {lines[-1]}")
    return done.stdout


def _made(root: Path, command: list[str]) -> Path:
    out = root / command[command.index("--out") + 1]
    return out if out.suffix == ".zip" else out / SOLUTION


def _rows(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as archive:
        lines = archive.read(submission.MEMBER).decode("utf-8").splitlines()
    return {line.partition(" ")[0]: line for line in lines}
