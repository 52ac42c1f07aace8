"""distill.files: files appear whole or not at all."""

from __future__ import annotations

import os

import pytest

from distill.files import atomic, write_text


def test_a_file_appears_whole_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "new" / "picture.png"
    with atomic(path) as temporary:
        assert temporary.parent == path.parent and temporary.suffix == ".png" and str(os.getpid()) in temporary.name
        temporary.write_bytes(b"half")
        assert not path.exists()
    assert path.read_bytes() == b"half" and list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = write_text(tmp_path / "a.txt", "old")
    for error in (OSError(28, "No space left on device"), KeyboardInterrupt()):
        with pytest.raises(type(error)), atomic(path) as temporary:
            temporary.write_text("ha")
            raise error
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_block_that_writes_nothing_fails(tmp_path):
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "a.txt"):
        pass
