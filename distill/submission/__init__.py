"""The challenge's submission: the file format, and making, checking, scoring and logging one."""

from __future__ import annotations

from distill.submission.file import (
    DECIMALS,
    FIELDS,
    LARGEST,
    MEMBER,
    check,
    check_names,
    check_points,
    read,
    read_names,
    sha256,
    write,
)

__all__ = [
    "DECIMALS",
    "FIELDS",
    "LARGEST",
    "MEMBER",
    "check",
    "check_names",
    "check_points",
    "read",
    "read_names",
    "sha256",
    "write",
]
