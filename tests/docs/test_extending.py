"""The examples of docs/extending.md, run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from running import REPO

PAGE = (REPO / "docs" / "extending.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))


def block(section: str, language: str) -> str:
    return re.search(rf"```{language}\n(.*?)```", SECTIONS[section], re.DOTALL)[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that looks like the repository's, with a store of its own."""
    (tmp_path / "experiments").symlink_to(REPO / "experiments")
    return tmp_path


def run(folder: Path, *command: str) -> str:
    path = {
        "PYTHONPATH": str(REPO),
        "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    environment = {
        key: value for key, value in os.environ.items() if key not in ("MLFLOW_TRACKING_URI", "DISTILL_DATA")
    }
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment | path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("section", ["A backbone", "A distillation method"])
def test_the_python_examples_train_and_tell_an_error_in_percent(folder, section):
    code = block(section, "python")
    assert len(code.splitlines()) < 40, "an example that is long is none"
    told = float(run(folder, "-c", code).splitlines()[-1])
    assert 0 < told < 100


def test_the_search_example_can_be_looked_at_and_run(folder):
    (folder / "my_search.yaml").write_text(block("A search space", "yaml"), encoding="utf-8")
    commands = re.findall(r"^python (-m search\.study [^#\n]+)", SECTIONS["A search space"], re.MULTILINE)
    assert len(commands) == 2
    dry, real = (run(folder, *command.split()) for command in commands)
    assert "the recipe" in dry and "drawn" in dry
    assert "2 done" in real
    assert (folder / "outputs" / "search" / "my_search" / "best.yaml").is_file()
