"""The one reader of pictures: what is refused, what is not, and that no command reads a file otherwise than another."""

from __future__ import annotations

import io
import os
import pickle

import numpy as np
import pytest
from conftest import draw_face
from PIL import Image

from distill.data import images
from distill.data.annotations import picture_names, read_set
from distill.errors import UserError
from distill.predict.job import Options, list_pictures, predict_pictures
from distill.predict.runtime import Student

FACE, LABEL = draw_face(np.random.default_rng(0), 64)


def encoded(kind: str, **more) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(FACE).save(buffer, kind, **more)
    return buffer.getvalue()


def claiming(width: int, height: int) -> bytes:
    """A JPEG of a few hundred bytes whose header has another size."""
    data = bytearray(encoded("JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(data)


def claiming_chunk() -> bytes:
    """A PNG of a few kilobytes whose pixels claim to take 2 GB of the file."""
    data = bytearray(encoded("PNG"))
    data[data.index(b"IDAT") - 4] = 0x7F
    return bytes(data)


def with_thumbnail() -> bytes:
    """A JPEG with a whole JPEG in its header."""
    exif = Image.Exif()
    exif[0x010E] = encoded("JPEG", quality=5).decode("latin1")
    return encoded("JPEG", exif=exif)


GOOD = {
    "png with more behind it": encoded("PNG") + b"notes" * 99,
    "jpeg with more behind it": encoded("JPEG") + b"notes" * 99,
    "jpeg with a thumbnail": with_thumbnail(),
    "bmp": encoded("BMP"),
    "webp": encoded("WEBP", lossless=True),
    "tiff": encoded("TIFF"),
}
BROKEN = {
    "30000x30000": claiming(30000, 30000),
    "20000x6000": claiming(20000, 6000),
    "9000x9000": claiming(9000, 9000),
    "cut jpeg": encoded("JPEG")[:-99],
    "cut jpeg with a thumbnail": with_thumbnail()[:-99],
    "cut png": encoded("PNG")[:-9],
    "2 GB chunk": claiming_chunk(),
    "cut webp": encoded("WEBP", lossless=True)[:-99],
    "header alone": encoded("PNG")[:20],
    "empty": b"",
    "text": b"no picture",
    "AppleDouble": b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + b"\x00" * 99,
}


class Still:
    """A network that finds the same points in every picture."""

    size = 32

    def __call__(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.full((len(crops), 68, 2), 16, np.float32), np.ones((len(crops), 68), np.float32)


@pytest.mark.parametrize("kind", GOOD)
def test_what_is_a_whole_picture_is_read(tmp_path, kind):
    path = tmp_path / os.fsdecode(b"\xff\xe9.jpg")  # whatever its name, as the system has it
    path.write_bytes(GOOD[kind])
    assert images.size(path) == (64, 64)
    assert np.abs(images.decode(path).astype(int) - FACE).mean() < 8
    assert images.decode_grey(path, 32).shape == (32, 32)


def special(path, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"endless": "/dev/zero", "loop": path.name, "dangling": "nowhere.jpg"}[kind])


@pytest.mark.filterwarnings("ignore:.*decompression bomb")  # pytest undoes the filter of images.py
@pytest.mark.parametrize("kind", [*BROKEN, "pipe", "folder", "endless", "loop", "dangling"])
def test_what_is_none_is_left_out_alike_by_every_command(tmp_path, kind):
    folder, bad = tmp_path / "set", "2.png"
    folder.mkdir()
    for name in ("1.jpg", "3.jpg"):
        (folder / name).write_bytes(GOOD["jpeg with more behind it"])
    if kind in BROKEN:
        (folder / bad).write_bytes(BROKEN[kind])
    else:
        special(folder / bad, kind)
    with pytest.raises(UserError, match=bad):
        images.read(folder / bad)

    (folder / "annot.pkl").write_bytes(pickle.dumps((["1.jpg", bad, "3.jpg"], [LABEL, LABEL, LABEL])))
    training = read_set(folder, on_bad="skip", decode=kind == "cut webp")  # whose header knows nothing of its end
    submission = read_set(folder, need_labels=False, on_bad="skip", decode=True)
    made = predict_pictures(
        Student(Still(), "still"), list_pictures([str(folder)]), Options(tmp_path / "out", draw=False)
    )
    assert [name for name, _ in training.skipped] == [name for name, _ in submission.skipped] == [bad]
    assert list(made.left_out) == [bad] and made.pictures == len(training) == len(submission) == 2
    assert picture_names(folder) == ("1.jpg", bad, "3.jpg")


def test_hidden_files_are_no_pictures(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded("JPEG"))
    for name in ("._a.jpg", ".DS_Store", "._000001_ldmks.txt", "Thumbs.db"):
        (tmp_path / name).write_bytes(BROKEN["AppleDouble"])
    found = read_set(tmp_path, need_labels=False)
    assert found.names == picture_names(tmp_path) == tuple(list_pictures([str(tmp_path)])) == ("a.jpg",)
    (tmp_path / "annot.pkl").write_bytes(pickle.dumps((["a.jpg"], [LABEL])))
    (tmp_path / "._annot.pkl").write_bytes(BROKEN["AppleDouble"])
    assert len(read_set(tmp_path)) == 1


def test_names_that_are_not_utf8_come_out_as_the_bytes_that_they_are(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / name).write_bytes(encoded("JPEG"))
    (folder / "annot.pkl").write_bytes(pickle.dumps(([name], [LABEL])))
    assert read_set(folder).fingerprint != read_set(folder, need_labels=False).fingerprint
    options = Options(tmp_path / "out", format="csv")
    predict_pictures(Student(Still(), "still"), list_pictures([str(folder)]), options)
    assert b"caf\xe9.jpg," in (tmp_path / "out/landmarks.csv").read_bytes()
    assert os.listdir(os.fsencode(tmp_path / "out")).count(b"caf\xe9.jpg") == 1


@pytest.mark.parametrize("kind", ["30000x30000", "9000x9000", "2 GB chunk"])
def test_a_picture_that_is_refused_costs_no_memory(tmp_path, kind):
    """Header and chunks alone decide: OpenCV, which would take 2 GB and more, is not called."""
    (tmp_path / "a.jpg").write_bytes(BROKEN[kind])
    with pytest.MonkeyPatch.context() as patch, pytest.raises(images.Broken, match="pixels|truncated"):
        patch.setattr("cv2.imdecode", None)
        images.decode(tmp_path / "a.jpg")
