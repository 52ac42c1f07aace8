"""An environment as it was recorded -> the requirements that make it again."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "distill"
TRAIN = "train"  # its extra, in versions that have one
TOOLS = {"pip", "setuptools", "wheel", PROJECT}  # an environment has its own, and the code comes with the hand-in
INDEX = "https://download.pytorch.org/whl/"  # where versions such as 2.15.0+cpu are
_EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)")


def stated(files: Mapping[str, bytes]) -> list[str]:
    """The requirements that the project's code (path -> contents) states for training, or else the installed
    package."""
    if "pyproject.toml" in files:
        project = tomllib.loads(files["pyproject.toml"].decode())["project"]
        return project["dependencies"] + project.get("optional-dependencies", {}).get(TRAIN, [])
    # without the marker `extra == "train"`, which would install them for that extra only
    return [line.partition(";")[0].strip() for line in _required(PROJECT) if set(_EXTRA.findall(line)) <= {TRAIN}]


def _required(name: str) -> list[str]:
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []


def _installed(name: str) -> str:
    """Empty: it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def requirements(
    environment: dict[str, Any],
    needed: Iterable[str],
    required: Callable[[str], Iterable[str]] = _required,
    installed: Callable[[str], str] = _installed,
) -> str:
    """requirements.txt: what the code needs (`needed`, and what that needs in turn) at the versions that `environment`,
    a run's environment.json, names; all that was installed, where it is not known what the code needs.

    What the code states and the run did not have, because it was made by other code, is added at the version that is
    here. required, installed: what a distribution requires, and its version here ("": none).
    """
    versions = {canonicalize_name(name): version for name, version in environment["packages"].items()}
    direct = _parse(needed, frozenset())
    wanted = _closure(direct, required) or versions.keys()
    pins = [f"{name}=={versions[name]}" for name in sorted(versions) if name in wanted and name not in TOOLS]
    local = sorted({pin.partition("+")[2] for pin in pins if "+" in pin})
    head = [f"# Python {environment['python']} on {environment['platform']}; the versions are those of the run"]
    lines = [*head, *(f"--extra-index-url {INDEX}{label}" for label in local), *pins]
    newer = [f"{name}=={installed(name)}" for name in sorted(direct) if name not in versions and installed(name)]
    if newer:
        lines += ["# not in the run's environment, but the code that is in here needs it", *newer]
    return "\n".join(lines) + "\n"


def _closure(direct: dict[str, frozenset[str]], required: Callable[[str], Iterable[str]]) -> set[str]:
    """Names of these and of all that they need."""
    found: dict[str, frozenset[str]] = {}
    waiting = list(direct.items())
    while waiting:
        name, extras = waiting.pop()
        if name not in found or not extras <= found[name]:
            found[name] = extras | found.get(name, frozenset())
            waiting += _parse(required(name), found[name]).items()
    return set(found)


def _parse(lines: Iterable[str], extras: frozenset[str]) -> dict[str, frozenset[str]]:
    """Canonical name -> extras of the requirements that hold with these extras. Platform markers are ignored: what the
    run's machine did not need, it did not have."""
    found: dict[str, frozenset[str]] = {}
    for requirement in map(Requirement, lines):
        wanted_by = set(_EXTRA.findall(str(requirement.marker or "")))
        if not wanted_by or wanted_by & extras:
            name = canonicalize_name(requirement.name)
            found[name] = found.get(name, frozenset()) | requirement.extras
    return found
