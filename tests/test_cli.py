"""What ends a command through no fault of ours is one sentence and exit code 2; what is ours keeps its traceback."""

from __future__ import annotations

import errno
import resource
import signal
import subprocess
import sys

import pytest

from distill import cli
from distill.errors import UserError
from distill.files import write_text


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
        (OSError(errno.EFBIG, "File too large", "/x/y"), "'/x/y' cannot be read or written: File too large"),
    ],
)
def test_one_sentence_and_exit_code_2(error, words, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.run(failing(error))
    printed = capsys.readouterr()
    assert ended.value.code == 2 and words in printed.err and printed.err.count("\n") == 1 and not printed.out


def test_a_file_beyond_the_allowed_size_is_one_sentence_and_leaves_nothing(tmp_path, capsys):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(SystemExit) as ended:
            cli.run(lambda _argv: write_text(tmp_path / "report.json", 1000 * "x"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    printed = capsys.readouterr().err
    assert ended.value.code == 2 and printed.startswith("error: ") and printed.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error",
    [ValueError("ours"), ModuleNotFoundError("x", name="ours"), OSError(errno.EBADF, "ours"), RuntimeError("ours")],
)
def test_an_unexpected_error_keeps_its_traceback(error):
    with pytest.raises(type(error), match="ours|x"):
        cli.run(failing(error))


def test_a_reader_that_is_gone_ends_the_command_in_silence():
    code = "from distill import cli; cli.run(lambda _: [print('x' * 999) for _ in range(999)])"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert (process.wait(60), process.stderr.read()) == (128 + signal.SIGPIPE, b"")
