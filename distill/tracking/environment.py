"""What a run was made with: code revision, package versions, machine."""

from __future__ import annotations

import functools
import getpass
import importlib.metadata
import importlib.util
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from distill import cores
from distill.tracking.client import redact

TAGGED = ("torch", "timm", "mlflow", "albumentations", "numpy")  # versions that become tags; all are in the file


def collect() -> dict[str, Any]:
    """JSON-safe nested dict: code, packages (all installed), hardware (memory in GiB), python, platform, command."""
    return {
        "code": code_state(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "hardware": hardware(),
        "command": redact(_command(sys.argv)),
        "packages": packages(),
    }


def as_tags(environment: dict[str, Any]) -> dict[str, str]:
    """The part to search by, under the names that MLflow's own pages use where there are such."""
    code, machine = environment["code"], environment["hardware"]
    tags = {
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": Path(sys.argv[0]).name,  # MLflow shows what follows the last slash
        "command": environment["command"],
        "mlflow.user": _user(),
        "env.python": environment["python"],
        "env.platform": environment["platform"],
        "env.cpu": f"{machine['cpu']} ({machine['cores']} cores)",
        "env.memory_gib": str(machine["memory_gib"]),
        "env.gpu": ", ".join(machine["gpus"]) or "none",
        "code.dirty": str(code["dirty"]).lower() if code["revision"] else "unknown",
    }
    tags.update({f"env.{name}": environment["packages"][name] for name in TAGGED if name in environment["packages"]})
    if code["revision"]:
        tags["mlflow.source.git.commit"] = code["revision"]
        tags["mlflow.source.git.branch"] = code["branch"]
    return tags


@functools.cache  # the code that this process has imported, whatever is checked out later
def code_state() -> dict[str, Any]:
    """Git revision (hex, or "" outside a checkout of this package), branch, and whether tracked files were changed."""
    try:
        _git("ls-files", "--error-unmatch", "__init__.py")  # an install in another project's checkout does not count
        revision, branch = _git("rev-parse", "HEAD"), _git("rev-parse", "--abbrev-ref", "HEAD")
        dirty = bool(_git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return {"revision": "", "branch": "", "dirty": None}
    return {"revision": revision, "branch": branch, "dirty": dirty}


@functools.cache
def packages() -> dict[str, str]:
    """Name -> version of every installed package."""
    found = {dist.name.lower(): dist.version for dist in importlib.metadata.distributions() if dist.name}
    return dict(sorted(found.items()))


def hardware() -> dict[str, Any]:
    """CPU model, cores this process may use, memory in GiB, names of the GPUs that an already imported torch lists."""
    torch = sys.modules.get("torch")
    gpus = []
    if torch is not None and torch.cuda.is_available():
        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"cpu": _cpu_model(), "cores": cores.available(), "memory_gib": _memory_gib(), "gpus": gpus}


def _command(argv: list[str]) -> str:
    """What was typed: for a module of this project, python -m and its name in place of its file."""
    for package, folder in ((name, Path(__file__).resolve().parents[2] / name) for name in ("distill", "search")):
        file = Path(argv[0]).resolve()
        if file.is_relative_to(folder):
            parts = [part for part in file.relative_to(folder).with_suffix("").parts if part != "__main__"]
            return shlex.join(["python", "-m", ".".join((package, *parts)), *argv[1:]])
    return shlex.join(argv)


def _git(*args: str) -> str:
    package = Path(__file__).resolve().parent.parent
    done = subprocess.run(["git", *args], cwd=package, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    if importlib.util.find_spec("psutil"):
        import psutil

        return round(psutil.virtual_memory().total / 2**30, 1)
    return None


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container whose user id has no name
        return "unknown"
