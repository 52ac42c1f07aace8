"""The error for everything that the user can fix: printed as one sentence, exit code 2, no traceback."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

# what Python, torch, OpenCV, ONNX Runtime and the loader of shared libraries write where memory runs out
_NO_MEMORY = re.compile(
    "(out of|not enough|insufficient|allocate) memory|bad.alloc|failed to map segment|can't start new thread", re.I
)


class UserError(Exception):
    """Bad input. The message is one clear sentence: file, field, what was found, what was expected."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it came about because memory ran out, of the machine or of a GPU."""
    return isinstance(error, MemoryError) or bool(_NO_MEMORY.search(str(error)))


def unknown(field: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is none of `known`, with those there are and the one that was probably meant."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return UserError(f"{field} '{name}' is unknown{hint}; expected one of {', '.join(known)}.")
