"""What comes off the disk is checked, and what comes off the internet runs nothing."""

from __future__ import annotations

import io
import os
import pickle
import re
import shutil
import time
import tracemalloc

import cv2
import numpy as np
import pytest
from conftest import draw_face, write_challenge

from distill.config import DataConfig
from distill.data import SAMPLE_ROOT, pickle_check, unpickling
from distill.data.annotations import read_set
from distill.data.augment import from_view
from distill.data.folders import resolve
from distill.data.labels import parse_annot
from distill.data.loading import eval_batches
from distill.data.pickle_check import ROOM, check_opcodes
from distill.errors import UserError

# ---------------------------------------------------------------------------------------------------- the unpickler


class _Pickler(pickle._Pickler):
    """Writes numpy's module paths as an older or a newer numpy would."""

    core = "numpy._core"

    def save_global(self, obj, name=None):
        module = getattr(obj, "__module__", "") or ""
        if not module.startswith("numpy._core"):
            return super().save_global(obj, name)
        module, name = module.replace("numpy._core", self.core), name or obj.__name__
        if self.proto < 4:
            self.write(b"c" + f"{module}\n{name}\n".encode())
        else:
            self.save(module)
            self.save(name)
            self.write(b"\x93")
        self.memoize(obj)


def _pickled(value, protocol: int, core: str) -> bytes:
    buffer = io.BytesIO()
    pickler = _Pickler(buffer, protocol=protocol)
    pickler.core = core
    pickler.dump(value)
    return buffer.getvalue()


def _load(tmp_path, data: bytes):
    path = tmp_path / "annot.pkl"
    path.write_bytes(data)
    return unpickling.load(path)


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
@pytest.mark.parametrize("protocol", range(6))
def test_numbers_survive_every_protocol_and_module_path(tmp_path, protocol, core):
    objects = np.empty(2, object)
    objects[:] = [(1, 2.5), "x"]
    value = {
        "scalars": [
            (np.float32(1.25), np.float64(-3e300)),
            (np.int64(-7), np.uint8(200)),
            (np.bool_(True), np.float16(0.5)),
        ],
        "array": np.arange(12, dtype=np.float32).reshape(3, 4),
        "big_endian": np.arange(3, dtype=">f8"),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "empty": np.zeros((0, 68, 2)),
        "objects": objects,
    }
    data = _pickled(list(value.values()), protocol, core)
    assert (core.encode() + b".") in data
    scalars, *arrays = _load(tmp_path, data)
    assert scalars == value["scalars"]
    for found, key in zip(arrays, list(value)[1:], strict=True):
        assert found.shape == value[key].shape and np.array_equal(found, value[key]), key


class _Runs:
    def __init__(self, call, *args):
        self.reduction = (call, args)

    def __reduce__(self):
        return self.reduction


@pytest.mark.parametrize("protocol", range(6))
def test_a_global_is_refused_by_name_and_not_run(tmp_path, protocol):
    mark = tmp_path / "it_ran"
    data = pickle.dumps([["a.jpg"], [_Runs(os.system, f"touch {mark}")]], protocol=protocol)
    with pytest.raises(UserError, match=r"'(posix|nt)\.system'"):
        _load(tmp_path, data)
    assert not mark.exists()
    pickle.loads(data)  # the attack is a real one
    assert mark.exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"cbuiltins\neval\n(V1+1\ntR.", "'builtins.eval'"),
        (b"cnumpy\nload\n(Vx\ntR.", "'numpy.load'"),
        (b"cnumpy.core.multiarray\nfromfile\n.", "'numpy.core.multiarray.fromfile'"),
        (b"\x80\x04\x8c\x05numpy\x8c\x13core.os.path.exists\x93.", "'numpy.core.os.path.exists'"),
        (b"Psomewhere\n.", "outside the file"),
        (b"cnumpy\ndtype\n(VO\nI00\nI01\ntR.", None),  # object alone is admitted, it can hold admitted values only
        (b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(VO\nI00\nI01\ntRVx\ntR.", "type object"),
        (b"cnumpy\ndtype\n(VV8\nI00\nI01\ntR.", "'V8'"),
        (b"cnumpy\ndtype\n(cnumpy\nndarray\ntR.", "numpy type"),
        (b"cnumpy\nndarray\n((I9\nI9\nttR.", "numpy array"),
        (b"cnumpy.core.multiarray\nscalar\n(Vf4\nVabcd\ntR.", "without a numpy type"),
        (b"cnumpy\ndtype\n(Vcall\ntb.", "alter a function"),
        (b"cnumpy\ndtype\n}Vcall\ncnumpy\ndtype\nsb.", "a dictionary or a set"),
        (b"c_codecs\nencode\n(Vx\nVrot13\ntR.", "_codecs.encode"),
    ],
)
def test_crafted_pickles(tmp_path, data, message):
    if message is None:
        _load(tmp_path, data)
        return
    with pytest.raises(UserError, match=message):
        _load(tmp_path, data)


def test_forged_numpy_state_reads_no_foreign_memory(tmp_path):
    """A dtype that claims a megabyte an item, and an array that claims more items than it brings."""
    state = (3, "<", None, None, None, 1 << 20, 1 << 20, 0)
    forged = b"cnumpy\ndtype\n(Vf4\nI00\nI01\ntR" + pickle.dumps(state, 0)[:-1] + b"b"
    scalar = b"cnumpy.core.multiarray\nscalar\n(" + forged + pickle.dumps("\0\0\x80?", 0)[:-1] + b"tR."
    assert _load(tmp_path, scalar) == 1.0
    good = _pickled(np.arange(4, dtype=np.uint8), 2, "numpy.core")
    assert good.count(b"K\x04\x85") == 1
    with pytest.raises(UserError, match="do not fit"):
        _load(tmp_path, good.replace(b"K\x04\x85", b"K\xff\x85"))


def test_bytes_may_only_be_made_empty(tmp_path):
    assert _load(tmp_path, b"c__builtin__\nbytes\n(tR.") == b""
    with pytest.raises(UserError, match="bytes"):
        _load(tmp_path, b"c__builtin__\nbytes\n(I99\ntR.")


def test_truncated_and_garbage_files(tmp_path):
    data = _pickled([["a.jpg"], [[(np.float32(1), np.float32(2))] * 68]], 4, "numpy.core")
    for end in (0, 1, 10, len(data) // 2, len(data) - 1):
        with pytest.raises(UserError, match="truncated"):
            _load(tmp_path, data[:end])
    for garbage in (b"hello world", b"\x00" * 100, b"]" * 50 + b"(" * 50, bytes(range(256))):
        with pytest.raises(UserError, match="annot.pkl"):
            _load(tmp_path, garbage)
    with pytest.raises(UserError, match="absent"):
        unpickling.load(tmp_path / "absent.pkl")


def _length(count: int, size: int = 4) -> bytes:
    return count.to_bytes(size, "little")


def _repeated(start: bytes, repeated: bytes, size: int = 100_000) -> bytes:
    """A list of as many of them as go into `size` bytes."""
    return start + b"(" + repeated * (size // len(repeated)) + b"l."


# What a call needs, noted in the memo: the function as 1, its arguments as 2
_DTYPE = b"cnumpy\ndtype\nq\x01(Vf4\nK\x00K\x01tq\x02"
_EMPTY = b"cnumpy.core.multiarray\n_reconstruct\nq\x01(cnumpy\nndarray\nK\x00\x85C\x01btq\x02"
_F4 = b"cnumpy\ndtype\n(Vf4\nK\x00K\x01tR"
_BUFFER = b"cnumpy.core.numeric\n_frombuffer\nq\x01(C\x04abcd" + _F4 + b"(" + b"K\x01" * 32 + b"tVC\ntq\x02"
_STATE = _EMPTY + b"h\x01h\x02Rq\x03(K\x01K\x01\x85" + _F4 + b"\x89C\x04abcdtq\x040"
_PERMUTATION = b"".join(b"h\x05h\x05\x86q\x05h\x06h\x06\x86q\x06" for _ in range(40))  # equal, and never the same
BOMBS = {
    "calls of dtype": (_repeated(_DTYPE, b"h\x01h\x02R"), "calls numpy"),
    "calls of _reconstruct": (_repeated(_EMPTY, b"h\x01h\x02R"), "calls numpy"),
    "calls of _frombuffer": (_repeated(_BUFFER, b"h\x01h\x02R"), "calls numpy"),
    "states of one array": (_STATE + b"h\x04b" * 30_000 + b".", "calls numpy"),
    "states of new arrays": (_repeated(_STATE, b"h\x01h\x02Rh\x04b"), "calls numpy"),
    "arguments": (_DTYPE + b"h\x01(" + b"N" * 10_000 + b"tR.", "TypeError"),
    "places": (b"(" + b"N" * 100_000 + b"l.", "lists, tuples and texts"),
    "memo": (b"N" + b"\x94" * 200_000 + b".", "lists, tuples and texts"),
    "texts": (_repeated(b"", b"\x8c\x02ab"), "lists, tuples and texts"),
    "bytes": (_repeated(b"", b"C\x02ab"), "lists, tuples and texts"),
    "lists of one": (_repeated(b"", b"]Na"), "lists, tuples and texts"),
    "a type that is a tree": (
        b"Nq\x05" + b"h\x05h\x05\x86q\x05" * 40 + b"cnumpy\ndtype\nh\x05\x85R.",
        "a tuple as a numpy type",
    ),
    "axes that are trees": (
        _BUFFER + b"K\x05q\x05K\x06q\x06" + _PERMUTATION + b"h\x01(C\x04abcd" + _F4 + b"K\x01\x85VK\nh\x05h\x06\x86tR.",
        "malformed numpy array",
    ),
    "extension": (b"\x82\x01.", "not a pickle"),
    "binary persistent id": (b"NQ.", "not a pickle"),
    "set": (b"\x8f.", "a dictionary or a set"),
    "memo index": (b"\x80\x04Nr" + _length(2**28) + b".", "the memo index 268,435,456"),
    "written memo index": (b"Np268435456\n.", "the memo index"),
    "lists": (b"]" * 100_000 + b".", "lists, tuples and texts"),
    "lists of marks": (b"(l" * 50_000 + b".", "lists, tuples and texts"),
    "nested tuples": (b"N" + b"\x85" * 100_000 + b".", "lists, tuples and texts"),
    "integer": (b"\x8b" + _length(100_000) + b"1" * 100_000 + b".", "100000 bytes"),
    "written integer": (b"I" + b"9" * 5000 + b"\n.", "5,000 characters"),
    "length": (b"\x80\x05\x96" + _length(2**40, 8) + b".", "truncated"),
    "frame": (b"\x80\x04\x95" + _length(2**60, 8) + b"N.", "truncated"),
    "copies": (
        b"X" + _length(9999) + b"a" * 9999 + b"q\x000c_codecs\nencode\nq\x01(" + b"h\x01h\x00\x85R" * 99 + b"t.",
        "copies",
    ),
    "keys": (b"(I1\nI2\nd.", "a dictionary or a set"),
    "endless empty array": (
        pickle.dumps(np.zeros((5, 0), "f4")).replace(b"K\x05K\x00\x86", b"J\xff\xff\xff\x7fK\x00\x86"),
        "shape",
    ),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_small_file_takes_little_memory_and_time(tmp_path, kind, monkeypatch):
    """Ten times its size and 50 MB: here to scale, with a hundredth of the room that small files have."""
    monkeypatch.setattr(pickle_check, "ROOM", ROOM // 100)
    data, words = BOMBS[kind]
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises(UserError, match=words):
            _load(tmp_path, data)
        assert tracemalloc.get_traced_memory()[1] < 10 * len(data) + 500_000
        assert time.process_time() - start < 10  # a hundred times what it should take
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", ["scalars", "floats", "arrays", "pairs of integers"])
def test_labels_leave_room_for_calls(protocol, kind):
    """Of TIMES a file's size: labels of any number of images are read, whatever ROOM there is for small files."""
    labels = np.random.default_rng(0).uniform(0, 384, (10, 68, 2)).astype(np.float32)
    values = {
        "scalars": [[tuple(pair) for pair in row] for row in labels],
        "floats": [[tuple(pair) for pair in row.tolist()] for row in labels],
        "arrays": list(labels),
        "pairs of integers": [[(int(x), int(y)) for x, y in row] for row in labels],
    }
    names = [f"{i:06d}.jpg" for i in range(10)]
    data = pickle.dumps([names, values[kind]], protocol)
    assert check_opcodes(data) > ROOM + {"arrays": 5 * len(data), "pairs of integers": 0}.get(kind, 2 * len(data))


def test_a_transposed_array_of_protocol_5_is_read(tmp_path):
    labels = np.arange(24, dtype=np.float64).reshape(2, 3, 4).transpose(1, 2, 0)
    data = pickle.dumps(labels, protocol=5)
    assert b"_frombuffer" in data
    found = _load(tmp_path, data)
    assert found.shape == (3, 4, 2) and np.array_equal(found, labels)


def test_only_regular_files_are_opened(tmp_path):
    (tmp_path / "annot.pkl").symlink_to("/dev/zero")
    with pytest.raises(UserError, match="not a regular file"):
        unpickling.load(tmp_path / "annot.pkl")


# ------------------------------------------------------------------------------------------ the challenge's layout


@pytest.fixture
def folder(tmp_path):
    write_challenge(tmp_path / "set", 6)
    return tmp_path / "set"


def _rewrite(folder, change):
    """Alter names and labels of annot.pkl in place."""
    names, labels = parse_annot(folder / "annot.pkl")
    pair = change(names, [np.asarray(row).tolist() for row in labels])
    (folder / "annot.pkl").write_bytes(pickle.dumps(pair))


def test_a_good_set(folder):
    truth = write_challenge(folder, 6)
    found = read_set(folder)
    assert len(found) == 6 and found.names[2] == "000002.jpg" and found.skipped == () and found.boxes is None
    assert found.landmarks.dtype == np.float32 and np.array_equal(found.landmarks, truth)
    assert (found.sizes == 64).all()
    image = found.image(3)
    drawn = [draw_face(rng, 64) for rng in [np.random.default_rng(0)] for _ in range(4)][3][0]
    assert image.dtype == np.uint8 and image.flags.c_contiguous
    assert np.abs(image.astype(int) - drawn).mean() < 6  # RGB and the right picture, up to JPEG


def test_labels_as_arrays_are_the_same_labels(folder):
    before = read_set(folder)
    _rewrite(folder, lambda names, labels: (names, [np.float32(row) for row in labels]))
    assert read_set(folder).fingerprint == before.fingerprint
    _rewrite(folder, lambda names, labels: (names, np.float32(labels)))
    assert read_set(folder).fingerprint == before.fingerprint


def test_subset_and_limit(folder):
    whole = read_set(folder)
    part = whole.subset([4, 1])
    assert part.names == (whole.names[4], whole.names[1])
    assert np.array_equal(part.landmarks[0], whole.landmarks[4]) and np.array_equal(part.image(1), whole.image(1))
    assert read_set(folder, limit=3).names == tuple(whole.names[i] for i in (0, 2, 4))
    assert read_set(folder, limit=3).fingerprint == whole.subset([0, 2, 4]).fingerprint != whole.fingerprint


def test_fingerprint_covers_names_labels_and_sizes(folder, tmp_path):
    first = read_set(folder).fingerprint
    assert len(first) == 16 and int(first, 16) >= 0
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert read_set(tmp_path / "elsewhere").fingerprint == first
    _rewrite(folder, lambda names, labels: (names, [[[x + 1e-3, y] for x, y in row] for row in labels]))
    moved = read_set(folder).fingerprint
    with open(folder / "000001.jpg", "ab") as file:
        file.write(b"\xff\xd9")
    grown = read_set(folder).fingerprint
    os.rename(folder / "000005.jpg", folder / "x.jpg")
    _rewrite(folder, lambda names, labels: (names[:5] + ["x.jpg"], labels))
    assert len({first, moved, grown, read_set(folder).fingerprint}) == 4


def _set_label(value, point=10, axis=0):
    def change(names, labels):
        labels[2][point][axis] = value
        return names, labels

    return lambda folder: _rewrite(folder, change)


def _squeeze(factor, which=slice(None)):
    def change(names, labels):
        labels[which] = (np.array(labels[which]) * factor).tolist()
        return names, labels

    return lambda folder: _rewrite(folder, change)


def _resize(width, height):
    def change(folder):
        path = str(folder / "000002.jpg")
        cv2.imwrite(path, cv2.resize(cv2.imread(path), (width, height)))

    return change


def _cut(folder, part=0.6):
    data = (folder / "000002.jpg").read_bytes()
    (folder / "000002.jpg").write_bytes(data[: int(len(data) * part)])


def _png(cut):
    def change(folder):
        image = cv2.imread(str(folder / "000002.jpg"))
        data = cv2.imencode(".png", image)[1].tobytes()
        (folder / "000002.jpg").write_bytes(data[: len(data) - cut])

    return change


BROKEN_IMAGES = {
    "missing": (lambda f: (f / "000002.jpg").unlink(), "there is no such file"),
    "empty": (lambda f: (f / "000002.jpg").write_bytes(b""), "empty"),
    "not an image": (lambda f: (f / "000002.jpg").write_bytes(b"<html>404</html>"), "not a picture"),
    "truncated": (_cut, "truncated"),
    "cut in the header": (lambda f: _cut(f, 0.05), "header is broken"),
    "cut png": (_png(5), "truncated"),
    "resized": (_resize(48, 48), "48x48 .*64x64"),
    "not square": (_resize(64, 48), "64x48"),
    "too few points": (lambda f: _rewrite(f, lambda n, y: (n, y[:2] + [y[2][:67]] + y[3:])), "67 .*68"),
    "70 points": (lambda f: _rewrite(f, lambda n, y: (n, y[:2] + [y[2] + y[2][:2]] + y[3:])), "70 .*68"),
    "ragged": (lambda f: _rewrite(f, lambda n, y: (n, y[:2] + [[[1.0]] + y[2][1:]] + y[3:])), "pairs"),
    "words": (lambda f: _rewrite(f, lambda n, y: (n, y[:2] + ["face"] + y[3:])), "pairs"),
    "nan": (_set_label(float("nan")), "not finite"),
    "infinite": (_set_label(float("inf")), "not finite"),
    "far right": (_set_label(129.0), " 129, "),
    "far up": (_set_label(-65.0, axis=1), " -65, "),
    "one spot": (_squeeze(0.01, 2), "spread"),
    "outside": (_squeeze(1.9, 2), "inside"),
}


@pytest.mark.parametrize("fault", BROKEN_IMAGES)
def test_broken_images_stop_or_are_skipped(folder, fault):
    change, message = BROKEN_IMAGES[fault]
    change(folder)
    with pytest.raises(UserError, match=message) as error:
        read_set(folder)
    assert "000002.jpg" in str(error.value) and "\n" not in str(error.value)
    kept = read_set(folder, on_bad="skip")
    assert len(kept) == 5 and "000002.jpg" not in kept.names
    assert [name for name, _ in kept.skipped] == ["000002.jpg"] and re.search(message, kept.skipped[0][1])
    assert [kept.image(i).shape for i in range(5)] == [(64, 64, 3)] * 5


def _all_broken(folder):
    for path in folder.glob("*.jpg"):
        path.write_bytes(b"")


BROKEN_SETS = {
    "no folder": (shutil.rmtree, "folder"),
    "no labels": (lambda f: (f / "annot.pkl").unlink(), "annot.pkl"),
    "more names": (lambda f: _rewrite(f, lambda n, y: (n, y[:-1])), "6 names.* 5 labels"),
    "duplicate": (lambda f: _rewrite(f, lambda n, y: (n[:5] + n[:1], y)), "'000000.jpg'"),
    "path": (lambda f: _rewrite(f, lambda n, y: (n[:5] + ["../secret.jpg"], y)), "file name"),
    "backslash": (lambda f: _rewrite(f, lambda n, y: (n[:5] + ["a\\b.jpg"], y)), "file name"),
    "empty name": (lambda f: _rewrite(f, lambda n, y: (n[:5] + [""], y)), "file name"),
    "number name": (lambda f: _rewrite(f, lambda n, y: (n[:5] + [7], y)), "entry 5: "),
    "empty set": (lambda f: _rewrite(f, lambda n, y: ([], [])), "empty"),
    "not a pair": (lambda f: _rewrite(f, lambda n, y: (n, y, 1)), "pair"),
    "all broken": (_all_broken, "empty"),
    "labels of 96 px": (_squeeze(1.5), "size"),
    "labels of 43 px": (_squeeze(2 / 3), "size"),
    "labels of 0..1": (_squeeze(1 / 64), "size"),
}


@pytest.mark.parametrize("on_bad", ["stop", "skip"])
@pytest.mark.parametrize("fault", BROKEN_SETS)
def test_broken_sets_are_refused_either_way(folder, fault, on_bad):
    change, message = BROKEN_SETS[fault]
    change(folder)
    with pytest.raises(UserError, match=message) as error:
        read_set(folder, on_bad=on_bad)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


def test_appended_bytes_and_progressive_jpegs_are_no_damage(folder):
    image = cv2.imread(str(folder / "000001.jpg"))
    cv2.imwrite(str(folder / "000001.jpg"), image, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2])
    with open(folder / "000003.jpg", "ab") as file:
        file.write(b"camera notes" * 10)
    assert len(read_set(folder)) == 6


def test_an_image_that_breaks_after_the_check_is_a_sentence(folder):
    found = read_set(folder)
    (folder / "000002.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="000002.jpg"):
        found.image(2)


def test_a_set_of_mixed_sizes_has_each_image_and_label_in_its_own_pixels(folder):
    names, labels = parse_annot(folder / "annot.pkl")
    sizes = np.array([[64, 64], [300, 200], [90, 120], [64, 64], [40, 50], [128, 128]])
    for i, (width, height) in enumerate(sizes.tolist()):
        path = str(folder / names[i])
        cv2.imwrite(path, cv2.resize(cv2.imread(path), (width, height)))
    _rewrite(
        folder, lambda n, y: (n, [(np.array(row) * size / 64).tolist() for row, size in zip(y, sizes, strict=True)])
    )
    found = read_set(folder)
    assert found.sizes.tolist() == sizes.tolist() and found.image(1).shape == (200, 300, 3)
    assert np.allclose(found.landmarks, np.array(labels) * (sizes / 64)[:, None], atol=1e-4)
    for batch in eval_batches(found, 48, 4):  # what a network sees is in proportion, and maps back
        for view, i in zip(batch.landmarks.numpy(), batch.index.tolist(), strict=True):
            assert np.allclose(from_view(view, found.sizes[i], 48), found.landmarks[i], atol=1e-3)
            scales = np.ptp(view, axis=0) / np.ptp(found.landmarks[i], axis=0)
            assert np.allclose(scales, 48 / sizes[i].max(), rtol=1e-4)


SHARED = [0.0, 0.0]
for _ in range(40):  # 2^40 numbers once it is written out
    SHARED = [SHARED, SHARED]
ODD = {
    "huge integer": [[2**1024, 1.0]] * 68,
    "shared lists": [SHARED] * 68,
    "deep": [[[0.0], [0.0]]] * 68,
    "array without numbers": np.zeros((2**40, 0)),
    "0-d": np.float32(3),
    "nothing": None,
    "objects": np.array([[None, 1.0]] * 68),
    "too large": [[1e300, 1.0]] * 68,
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_labels_are_refused_one_by_one(folder, kind, monkeypatch):
    names, labels = parse_annot(folder / "annot.pkl")
    pair = (names, [*labels[:2], ODD[kind], *labels[3:]])
    monkeypatch.setattr(unpickling, "load", lambda path: pair)  # which refuses some of them already
    with pytest.raises(UserError, match="000002.jpg"):
        read_set(folder)
    assert len(read_set(folder, on_bad="skip")) == 5


@pytest.mark.parametrize(
    "names", [np.array("a.jpg"), np.zeros((2**40, 0)), "a.jpg", ["a\ud800.jpg"] * 6, [["a.jpg"]] * 6]
)
def test_odd_names_are_refused(folder, names, monkeypatch):
    labels = parse_annot(folder / "annot.pkl")[1]
    monkeypatch.setattr(unpickling, "load", lambda path: (names, labels))
    with pytest.raises(UserError, match="annot.pkl"):
        read_set(folder)


def test_unlabelled_folder(tmp_path):
    for name, size in (("b.jpg", (40, 30)), ("a.png", (30, 40)), ("c.JPG", (20, 20))):
        cv2.imwrite(str(tmp_path / name), np.zeros((size[1], size[0], 3), np.uint8))
    (tmp_path / "notes.txt").write_text("x")
    found = read_set(tmp_path, need_labels=False)
    assert found.names == ("a.png", "b.jpg", "c.JPG") and found.landmarks is None
    assert found.sizes.tolist() == [[30, 40], [40, 30], [20, 20]] and found.image(1).shape == (30, 40, 3)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=str(tmp_path / "empty")):
        read_set(tmp_path / "empty", need_labels=False)


# ------------------------------------------------------------------------------------------ Microsoft's layout


@pytest.fixture
def microsoft(tmp_path):
    """Three 128 px pictures whose landmark 30 is a bright spot; the third face touches the right border."""
    folder = tmp_path / "microsoft"
    folder.mkdir()
    rng = np.random.default_rng(3)
    grid = np.stack(np.meshgrid(np.arange(128) + 0.5, np.arange(128) + 0.5), -1)
    for i, shift in enumerate(((0, 0), (-8, 5), (25, 0))):
        points = draw_face(rng, 96)[1] + np.float32(shift) + 12
        spot = np.exp(-((grid - points[30]) ** 2).sum(-1) / (2 * 2.0**2))
        image = np.repeat((40 + 200 * spot)[..., None], 3, axis=2).astype(np.uint8)
        cv2.imwrite(str(folder / f"{i:06d}.png"), image)
        cv2.imwrite(str(folder / f"{i:06d}_seg.png"), image)
        lines = [f"{x:.3f} {y:.3f}" for x, y in points] + ["1 1", "2 2"]
        (folder / f"{i:06d}_ldmks.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_microsoft_layout_is_cropped_to_the_challenges_framing(microsoft):
    found = read_set(microsoft, crop_scale=1.9, crop_lift=0.08)
    assert found.names == ("000000.png", "000001.png", "000002.png") and (found.sizes == 384).all()
    low, high = found.landmarks.min(1), found.landmarks.max(1)
    assert np.allclose((high - low).max(1), 384 / 1.9, atol=0.01)
    assert np.allclose((low + high) / 2, [192, 192 + 0.08 * 384], atol=0.01)
    for i in range(3):
        image = found.image(i)
        assert image.shape == (384, 384, 3) and image.flags.c_contiguous
        weight = np.clip(image[..., 0].astype(float) - 60, 0, None)
        where = (weight[..., None] * (np.stack(np.meshgrid(np.arange(384), np.arange(384)), -1) + 0.5)).sum((0, 1))
        assert np.abs(where / weight.sum() - found.landmarks[i, 30]).max() < 0.5
    assert (found.image(2)[100:300, -20:] == 0).all() and (found.image(2)[100:300, 100] > 0).all()  # black outside


def test_microsoft_framing_follows_the_config(microsoft):
    tight = read_set(microsoft, crop_scale=1.5, crop_lift=0.0)
    assert np.allclose(np.ptp(tight.landmarks, axis=1).max(1), 384 / 1.5, atol=0.01)
    assert tight.fingerprint != read_set(microsoft).fingerprint


def test_microsoft_faults(microsoft):
    path = microsoft / "000001_ldmks.txt"
    lines = path.read_text().splitlines()
    for text, message in (
        ("\n".join(lines[:68]), "68 .*70"),
        ("\n".join(["a b", *lines[1:]]), "000001_ldmks.txt.* numbers"),
        ("\n".join(["nan 1", *lines[1:]]), "finite"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_set(microsoft)
        assert len(read_set(microsoft, on_bad="skip")) == 2
    path.write_text("\n".join(lines))
    (microsoft / "000000.png").unlink()
    with pytest.raises(UserError, match="000000.png"):
        read_set(microsoft)
    assert read_set(microsoft, need_labels=False).names == ("000001.png", "000002.png")


def test_real_facesynthetics(shared_data):
    folder = shared_data / "facesynthetics_30"
    if not folder.is_dir():
        pytest.skip("facesynthetics_30 is not in shared/data")
    found = read_set(folder)
    assert len(found) == 30 and found.image(7).shape == (384, 384, 3)
    assert found.landmarks.min() > 0 and found.landmarks.max() < 384


# ---------------------------------------------------------------------------------------------------- which folders


def test_resolve_prefers_config_then_environment_then_sample(tiny_root, monkeypatch):
    monkeypatch.delenv("DISTILL_DATA", raising=False)
    sample = resolve(DataConfig())
    assert sample.is_sample and sample.root == SAMPLE_ROOT and sample.test == SAMPLE_ROOT / "synthetics_test"
    monkeypatch.setenv("DISTILL_DATA", str(tiny_root))
    named = resolve(DataConfig())
    assert (
        named.val == tiny_root / "synthetics_val"
        and named.test == tiny_root / "synthetics_test"
        and not named.is_sample
    )
    monkeypatch.setenv("DISTILL_DATA", "/nowhere/at/all")
    with pytest.raises(UserError, match="DISTILL_DATA"):
        resolve(DataConfig())
    (tiny_root / "aflw_val").mkdir()
    (tiny_root / "aflw_test").mkdir()
    real = resolve(DataConfig(root=str(tiny_root)))
    assert real.val == tiny_root / "aflw_val" and real.test == tiny_root / "aflw_test"
    assert resolve(DataConfig(root=str(tiny_root), val="synthetics_val")).val == tiny_root / "synthetics_val"


def test_resolve_names_what_is_missing(tiny_root):
    with pytest.raises(UserError, match="data.train: .*'more'"):
        resolve(DataConfig(root=str(tiny_root), train="more"))
    with pytest.raises(UserError, match="data.test: .*'more'"):
        resolve(DataConfig(root=str(tiny_root), test="more"))
    shutil.rmtree(tiny_root / "synthetics_test")
    assert resolve(DataConfig(root=str(tiny_root))).test is None
    shutil.rmtree(tiny_root / "synthetics_val")
    with pytest.raises(UserError, match="data.val: "):
        resolve(DataConfig(root=str(tiny_root)))


def test_resolve_shows_the_folders_that_are_there(tiny_root):
    (tiny_root / "dataset_100000").mkdir()
    with pytest.raises(UserError, match="'photos'.* dataset_100000, "):
        resolve(DataConfig(root=str(tiny_root), train="photos"))


def test_the_bundled_sample():
    train, val = read_set(SAMPLE_ROOT / "synthetics_train"), read_set(SAMPLE_ROOT / "synthetics_val")
    test = read_set(SAMPLE_ROOT / "synthetics_test", need_labels=False)
    assert (len(train), len(val), len(test)) == (480, 100, 20)
    assert all((part.sizes == 256).all() for part in (train, val, test))
    assert sum(path.stat().st_size for path in SAMPLE_ROOT.rglob("*") if path.is_file()) <= 9_000_000
    assert "USC Institute for Creative Technologies" in (SAMPLE_ROOT / "LICENSE-ICT-FaceKit").read_text()
