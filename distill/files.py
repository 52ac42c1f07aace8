"""Files written whole or not at all, only regular files read, YAML without guessing, text from templates."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from distill.errors import UserError

LARGEST_YAML = LARGEST_JSON = 1_000_000  # bytes, characters
MOST_VALUES = 100_000


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it replaces `path` when the block ends, and is removed when the block fails.

    Missing folders are made. The temporary name, `.STEM.PID.tmp.SUFFIX`, is hidden, keeps the suffix for libraries that
    choose a format by it, and carries the process id, so several processes may write the same file at once. Raises
    OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 text atomically; returns `path`. File names that are not UTF-8 become the bytes that they are."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")
    return path


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading; never waits, as a pipe would. Raises OSError, also where it is not a regular file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # a name that no system can have
        raise OSError(errno.EINVAL, str(error)) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file")
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path, kind: str, most: int) -> bytes:
    """The content of a regular file; `kind` is how a message calls it.

    Raises UserError for a file that is missing, unreadable, not regular, or over `most` bytes.
    """
    try:
        with open_regular(path) as file:
            length = file.seek(0, os.SEEK_END)
            if length > most:
                raise UserError(f"{kind} '{path}' has {length:,} bytes; expected at most {most:,}.")
            file.seek(0)
            return file.read()
    except OSError as error:
        raise UserError(f"{kind} '{path}' cannot be read: {error.strerror or error}.") from None


def read_text(path: Path, kind: str, most: int) -> str:
    """As `read_bytes`, of UTF-8 text, with or without a byte order mark. Raises UserError."""
    try:
        return read_bytes(path, kind, most).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{kind} '{path}' is not UTF-8 text.") from None


def parse_json(text: str, what: str, most: int = LARGEST_JSON) -> Any:
    """The value of a JSON text from outside.

    Raises UserError that begins with `what` for one that is longer than `most` characters, not JSON, nested without
    end, or has a number of thousands of digits.
    """
    if len(text) > most:
        raise UserError(f"{what} has {len(text):,} characters of JSON; expected at most {most:,}.")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{what}, line {error.lineno} is not JSON: {error.msg}.") from None
    except (RecursionError, ValueError):
        raise UserError(f"{what} is nested too deeply or holds an impossible number.") from None


def render(template: Path, **values: Any) -> str:
    """The text of a Jinja template file. A value that the template names and that is not given is a bug."""
    import jinja2

    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template.read_text(encoding="utf-8")).render(values)


class Loader(yaml.SafeLoader):
    """YAML that does not guess: `off`, `no`, `on` and `yes` are words, 0123456 is a run id and not octal, and a key
    that stands twice is an error.
    """

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():  # another is refused below
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(problem="keys must be strings", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(problem=f"'{key.value}' twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern) for tag, pattern in resolvers if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:int")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789"))


def read_yaml(path: Path, kind: str = "Config file", loader: type[yaml.SafeLoader] = Loader) -> dict[str, Any]:
    """The keys and values of a YAML file; `kind` is how a message calls the file.

    Raises UserError for a file that is missing, not regular, larger than LARGEST_YAML, not UTF-8, not YAML, ambiguous,
    or that its aliases make larger than MOST_VALUES or endless.
    """
    values = parse_yaml(read_text(path, kind, LARGEST_YAML), f"{kind} '{path}'", loader)
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise UserError(f"{kind} '{path}' holds a {type(values).__name__}; expected keys and values.")
    return values


def parse_yaml(text: str, what: str, loader: type[yaml.SafeLoader] = Loader) -> Any:
    """The value of a YAML text from outside; None for an empty one.

    Raises UserError that begins with `what` for one that is not YAML, ambiguous, nested too deeply, or that its aliases
    make larger than MOST_VALUES or endless; the last before any value is made.
    """
    try:
        reading = loader(text)
        try:
            node = reading.get_single_node()
            if node is not None and _count(node, {}) > MOST_VALUES:
                raise UserError(f"{what} holds more than {MOST_VALUES:,} values once its aliases are resolved.")
            return None if node is None else reading.construct_document(node)
        finally:
            reading.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise UserError(f"{what}{where} is not valid YAML: {problem}.") from None
    except RecursionError:
        raise UserError(f"{what} is nested too deeply, or contains itself.") from None
    except ValueError as error:  # an impossible date, an integer of thousands of digits
        raise UserError(f"{what} holds an impossible value: {error}.") from None
    except (LookupError, AttributeError, TypeError):  # by PyYAML's own constructors, such as !!bool before another word
        raise UserError(f"{what} holds a value that does not fit its tag.") from None


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a YAML node has when every alias is written out; `known`: counts by id, for shared parts."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = sys.maxsize  # what contains itself is endless
        mapping = isinstance(node, yaml.MappingNode)
        inner = itertools.chain(*node.value) if mapping else node.value  # of a mapping: pairs
        known[id(node)] = 1 + sum(_count(item, known) for item in inner)
    return known[id(node)]
