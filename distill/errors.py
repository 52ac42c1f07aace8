"""The one error that means "the user can mend this": printed as one sentence, exit code 2, no traceback."""

from __future__ import annotations


class UserError(Exception):
    """Bad input. The message is one clear sentence: file, field, what was found, what was expected."""
