"""The code that a run was made with, as far as it is to be had, without any data set."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import distill

ROOT = Path(distill.__file__).resolve().parent.parent  # of the checkout, or the folder that the package is installed in
PACKAGES = ("distill", "search")
UNTRACKED = (*PACKAGES, "experiments")  # where a new file that git does not know yet is code, and no litter
SAMPLE = "distill/data/sample"  # the rendered faces of this project, which come with it
NEVER = ("mlruns", "outputs")
SETS = ("aflw_", "synthetics_", "facesynthetics")  # beginnings of the names of data sets' folders
LABELS = ("annot.pkl", "_ldmks.txt")


@dataclass(frozen=True)
class Sources:
    """The code that a hand-in carries."""

    files: dict[str, bytes]  # path within the project -> contents
    executable: frozenset[str]
    statement: str  # which code this is, for people


def collect(revision: str, clean: bool, private: Iterable[Path] = (), root: Path = ROOT) -> Sources:
    """The project at `revision` where the run was made from it unchanged (`clean`) and git has it; else what is here
    now.

    private: folders, wherever they are, of which nothing is taken. The statement names the revision, and why.
    """
    if revision and clean:
        archive = _archive(revision, root)
        if archive is not None:
            files, executable = archive
            statement = f"The code is that of git revision {revision}, from which the run was made, unchanged."
            return Sources(*_without_data(files, executable, private, root), statement)
        why = f"The run was made from git revision {revision}, which is not to be had here"
    elif revision:
        why = f"The run was made from git revision {revision} with changes that were not committed"
    else:
        why = "The run was made from code that was under no version control"
    files, executable, what = _present(root)
    return Sources(*_without_data(files, executable, private, root), f"{why}; so the code here is {what}.")


# ---------------------------------------------------------------------------------------------------- parts


def _archive(revision: str, root: Path) -> tuple[dict[str, bytes], frozenset[str]] | None:
    """Files and the executable ones of a commit; None: no git, or it does not have that commit of this project."""
    if not _is_checkout(root):
        return None
    packed = _git(root, "archive", "--format=tar", revision)
    if packed is None:
        return None
    files, executable = {}, set()
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for member in archive:
            if member.isfile():
                content = archive.extractfile(member)
                files[member.name] = content.read() if content else b""
                if member.mode & 0o100:
                    executable.add(member.name)
    return files, frozenset(executable)


def _present(root: Path) -> tuple[dict[str, bytes], frozenset[str], str]:
    """What is here now: the checkout with its changes, or else the package as it is installed."""
    if _is_checkout(root):
        tracked = _git(root, "ls-files", "-z") or b""
        untracked = _git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", *UNTRACKED) or b""
        listed = tracked + untracked
        names = sorted({name for name in listed.decode().split("\0") if name})
        revision = (_git(root, "rev-parse", "HEAD") or b"no commit").decode().strip()
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
        what = f"that of revision {revision}" + (", with changes" if changed else "")
        what += f", by which this file was built (distill {distill.__version__})"
    else:
        found = (path for package in PACKAGES for path in sorted((root / package).rglob("*")))
        names = [path.relative_to(root).as_posix() for path in found if "__pycache__" not in path.parts]
        what = f"the installed package by which this file was built (distill {distill.__version__})"
    paths = {name: root / name for name in names if (root / name).is_file() and not (root / name).is_symlink()}
    executable = frozenset(name for name, path in paths.items() if path.stat().st_mode & 0o100)
    return {name: path.read_bytes() for name, path in paths.items()}, executable, what


def _without_data(
    files: dict[str, bytes], executable: frozenset[str], private: Iterable[Path], root: Path
) -> tuple[dict[str, bytes], frozenset[str]]:
    inside = [path.resolve() for path in private]
    shut = [path.relative_to(root).as_posix() for path in inside if path.is_relative_to(root) and path != root]
    sets = {str(PurePosixPath(name).parent) for name in files if name.endswith(LABELS)}

    def is_data(name: str) -> bool:
        path = PurePosixPath(name)
        if path.is_relative_to(SAMPLE):
            return False
        if path.parts[0] in NEVER or any(path.is_relative_to(folder) for folder in shut):
            return True
        folders = path.parent.parts
        return str(path.parent) in sets or any(folder.lower().startswith(SETS) for folder in folders)

    kept = {name: data for name, data in files.items() if not is_data(name)}
    return kept, executable & kept.keys()


def _is_checkout(root: Path) -> bool:
    """Whether git tracks this package; an install inside another project's checkout does not count."""
    return _git(root, "ls-files", "--error-unmatch", "distill/__init__.py") is not None


def _git(root: Path, *args: str) -> bytes | None:
    """None: no git, or it failed."""
    try:
        return subprocess.run(["git", *args], cwd=root, capture_output=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
