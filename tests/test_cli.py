"""What ends a command through no fault of ours is one sentence and exit code 2; what is ours keeps its traceback."""

from __future__ import annotations

import errno

import pytest

from distill import cli
from distill.errors import UserError


def failing(error: Exception):
    def main(_argv: list[str]) -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (UserError("A file 'x' is bad."), "error: A file 'x' is bad."),
        (MemoryError(), "not enough memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] can't allocate memory: you tried"), "not enough memory"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "not enough memory"),
        (ModuleNotFoundError("No module named 'optuna'", name="optuna"), "pip install 'distill[search]'"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "'/x/y' cannot be read or written: No space"),
    ],
)
def test_one_sentence_and_exit_code_2(error, words, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.run(failing(error))
    printed = capsys.readouterr()
    assert ended.value.code == 2 and words in printed.err and printed.err.count("\n") == 1 and not printed.out


@pytest.mark.parametrize(
    "error",
    [ValueError("ours"), ModuleNotFoundError("x", name="ours"), OSError(errno.EBADF, "ours"), RuntimeError("ours")],
)
def test_an_error_of_ours_keeps_its_traceback(error):
    with pytest.raises(type(error), match="ours|x"):
        cli.run(failing(error))
