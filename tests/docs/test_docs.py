"""README.md and docs/ name what is there: links and pictures, commands and their options, experiment files and their
keys."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
from running import REPO

from distill import config
from distill.errors import UserError

PAGES = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]
NAMES = [str(page.relative_to(REPO)) for page in PAGES]
MODULE = re.compile(r"-m ((?:distill|search)(?:\.\w+)+)")
WORDS_OF_A_MODULE = re.compile(MODULE.pattern + r"([^#`|>;&()\n]*)")
PLACEHOLDER = re.compile(r"NAME|FILE|DIR|MODEL|\.\.\.")


def text_of(name: str) -> str:
    """A page whose commands are on one line each: a backslash at the end continues one."""
    return re.sub(r"\\\n\s*", "", (REPO / name).read_text(encoding="utf-8"))


def without_code(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def anchors(path: Path) -> set[str]:
    """The names that GitHub gives a page's headings."""
    found = re.findall(r"^#+ (.+)$", without_code(path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def commands(text: str) -> list[tuple[str, str]]:
    """(module, the words after it) of each command that a page names."""
    return [(match[1], match[2].strip()) for match in WORDS_OF_A_MODULE.finditer(text)]


@cache
def help_of(*words: str) -> str | None:
    """The help of a command, or of a command within it; None where there is none."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit, UserError):
        importlib.import_module(module_of(words[0])).main([*words[1:], "--help"])
    return shown.getvalue() or None


def module_of(module: str) -> str:
    folder = REPO / module.replace(".", "/")
    return f"{module}.__main__" if folder.is_dir() else module


@pytest.mark.parametrize("name", NAMES)
def test_links_and_pictures_lead_somewhere(name):
    page = REPO / name
    links = re.findall(r"\]\(([^)\s]+)\)", without_code(text_of(name)))
    for link in links:
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), f"{name} links to {link}"
        if anchor:
            assert anchor in anchors(target), f"{name} links to {link}, and {target.name} has no such heading"


@pytest.mark.parametrize("name", NAMES)
def test_every_door_that_is_named_is_one(name):
    for module in set(MODULE.findall(text_of(name))):
        path = REPO / f"{module_of(module).replace('.', '/')}.py"
        assert path.is_file() and 'if __name__ == "__main__":' in path.read_text(encoding="utf-8"), (
            f"{name}: -m {module}"
        )


@pytest.mark.parametrize("name", NAMES)
def test_every_option_that_is_shown_with_a_door_is_known_to_it(name):
    for module, words in commands(text_of(name)):
        options = re.findall(r"(?<!\S)\[?(--[a-z][\w-]*)", words)
        if not options:
            continue
        first = words.split()[0]
        shown = (first.isalpha() and first.islower() and help_of(module, first)) or help_of(module)
        for option in options:
            assert re.search(rf"(?<![\w-]){option}(?![\w-])", shown), f"{name}: python -m {module} {words}: no {option}"


@pytest.mark.parametrize("name", NAMES)
def test_every_file_of_the_repository_that_is_named_is_there(name):
    named = re.findall(r"(?<![\w./-])((?:experiments|distill|search|benchmarks|docs)/[\w./-]*\w)", text_of(name))
    for path in set(named):
        if not PLACEHOLDER.search(path):
            assert (REPO / path).exists(), f"{name} names {path}"


@pytest.mark.parametrize("name", NAMES)
def test_overrides_that_are_shown_with_a_training_are_fields_of_its_config(name):
    for module, words in commands(text_of(name)):
        if module not in ("distill.teacher", "distill.student"):
            continue
        given = re.search(r"--config (\S+)", words)
        file = given[1] if given else "experiments/student.yaml"
        overrides = [word for word in shlex.split(words) if re.fullmatch(r"[a-z][\w.]*=\S+", word)]
        if (REPO / file).is_file():
            config.load(REPO / file, overrides)


def test_the_checks_see_what_is_there():
    readme = text_of("README.md")
    assert {"distill.teacher", "distill.student", "distill.evaluate", "search.study"} <= set(MODULE.findall(readme))
    assert any("--workers" in words for _, words in commands(readme))
    assert "--seeds" in help_of("search.best") and "--public" in help_of("distill.submission", "log")
    assert "--public" not in help_of("distill.submission", "make")
    assert "what-has-run" in anchors(REPO / "docs/machines.md")
