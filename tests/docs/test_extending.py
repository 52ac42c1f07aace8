"""The examples of docs/extending.md, run as they stand there."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
from running import REPO

from distill.distillation import methods
from search import study

PAGE = (REPO / "docs" / "extending.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))


def block(section: str, language: str) -> str:
    return re.search(rf"```{language}\n(.*?)```", SECTIONS[section], re.DOTALL)[1]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """A folder that looks like the repository's, with a store of its own; what the examples register goes with it."""
    (tmp_path / "experiments").symlink_to(REPO / "experiments")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    for name in ("MLFLOW_TRACKING_URI", "DISTILL_DATA"):
        monkeypatch.delenv(name, raising=False)
    before = dict(methods.METHODS)
    yield tmp_path
    methods.METHODS.clear()
    methods.METHODS.update(before)


@pytest.mark.parametrize("section", ["A backbone", pytest.param("A distillation method", marks=pytest.mark.slow)])
def test_the_python_examples_train_and_print_an_error_in_percent(folder, section, capsys):
    code = block(section, "python")
    assert len(code.splitlines()) < 40, "an example that is long is none"
    (folder / "example.py").write_text(code, encoding="utf-8")
    runpy.run_path(str(folder / "example.py"))
    assert 0 < float(capsys.readouterr().out.splitlines()[-1]) < 100


@pytest.mark.slow
def test_the_search_example_can_be_looked_at_and_run(folder, capsys):
    (folder / "my_search.yaml").write_text(block("A search space", "yaml"), encoding="utf-8")
    commands = re.findall(r"^python -m search\.study ([^#\n]+)", SECTIONS["A search space"], re.MULTILINE)
    assert len(commands) == 2
    dry, real = (printed(capsys, *command.split()) for command in commands)
    assert "the recipe" in dry and "drawn" in dry
    assert "2 done" in real
    assert (folder / "outputs" / "search" / "my_search" / "best.yaml").is_file()


def printed(capsys, *args: str) -> str:
    study.main(list(args))
    return capsys.readouterr().out
