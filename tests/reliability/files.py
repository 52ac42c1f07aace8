"""Tries on files: what comes from outside is damaged, and read as the commands read it."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from conftest import draw_face, write_challenge
from PIL import Image

from distill.data import images
from distill.data.annotations import read_set
from distill.errors import UserError
from distill.submission import file as submission

REPO = Path(__file__).resolve().parent.parent.parent
EXTREMES = (
    b"\x00",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\xff" * 4,
    b"\xff" * 8,
    b"\x00\x00\x00\x10",
    b"\xff\xff\xff\x7f",
    b"9" * 40,
)


def mutated(
    rng: np.random.Generator, data: bytes, end: int | None = None, parts: tuple[bytes, ...] = EXTREMES
) -> bytes:
    """1 to 8 changes among the first `end` bytes: a byte, an extreme or one of `parts`, a piece left out, repeated or
    moved; one in six is cut short.
    """
    made = bytearray(data)
    for _ in range(rng.integers(1, 9)):
        limit = max(1, min(end or len(made), len(made)))
        at, length = int(rng.integers(limit)), int(rng.integers(1, 64))
        kind = rng.integers(5)
        if kind == 0:
            made[at : at + 1] = bytes([rng.integers(256)])
        elif kind == 1:
            part = parts[rng.integers(len(parts))]
            made[at : at + len(part) * int(rng.integers(2))] = part
        elif kind == 2:
            del made[at : at + length]
        else:
            to = int(rng.integers(limit))
            made[to : to + length * (kind - 3)] = made[at : at + length]
    return bytes(made[: rng.integers(len(made) + 1)] if rng.integers(6) == 0 else made)


def reading(file: Path, data: bytes, call: Callable[[], object]) -> Callable[[], object]:
    """Write the bytes, then call."""

    def tried() -> object:
        file.write_bytes(data)
        return call()

    return tried


class Lost(BaseException):
    """Why a try did not survive; no `except Exception` swallows it."""


def expect(right: object, what: str) -> None:
    if not right:
        raise Lost(what)


# ---------------------------------------------------------------------------------------------------- data


class _Runs:
    def __init__(self, call: Callable, *args: object):
        self.reduction = (call, args)

    def __reduce__(self):
        return self.reduction


_ACTS = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "socket.connect",
    "os.remove",
    "ctypes.dlopen",
)


def pickles(rng: np.random.Generator, folder: Path) -> Iterator[tuple[str, Callable]]:
    """annot.pkl of every protocol, of lists, tuples and arrays, three of them hostile: no call, no file, no socket."""
    watching = False

    def watch(event: str, args: tuple) -> None:
        if watching and (
            event in _ACTS or (event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"))
        ):
            raise Lost(f"a pickle did {event} {args}")

    sys.addaudithook(watch)
    labels = write_challenge(folder / "set", 4)
    names = [f"00{i:04d}.jpg" for i in range(4)]
    rows = [[(float(x), float(y)) for x, y in row] for row in labels]
    scalars = [[(np.float32(x), np.float64(y)) for x, y in row] for row in labels]
    values = [
        [names, rows],
        (names, labels),
        [np.array(names, object), list(labels)],
        [names, scalars],
        [names, labels.astype(">f8").transpose(1, 2, 0)],
        [names, [_Runs(os.system, "touch ran")]],
        [names, [_Runs(eval, "open('ran', 'w')")]],
        [_Runs(bytes, 10**9), rows],
    ]
    bases = [pickle.dumps(value, protocol) for value in values for protocol in range(6)]
    opcodes = tuple(bytes([code.code.encode("latin1")[0]]) for code in __import__("pickletools").opcodes)
    file = folder / "set" / "annot.pkl"

    def read() -> None:
        nonlocal watching
        watching = True
        try:
            read_set(folder / "set", on_bad="skip")
        finally:
            watching = False

    while True:
        base = int(rng.integers(len(bases)))
        data = mutated(rng, bases[base], parts=EXTREMES + opcodes)
        yield f"base {base}, {data[:40]!r}", reading(file, data, read)


def pictures(rng: np.random.Generator, folder: Path) -> Iterator[tuple[str, Callable]]:
    """Five formats and odd modes, four in five damaged: the same pixels by every reader, or refused by all."""
    from distill.predict.pictures import to_rgb

    face = Image.fromarray(draw_face(rng, 64)[0])
    bases: dict[str, bytes] = {}

    def add(name: str, picture: Image.Image, kind: str, **more: Any) -> None:
        buffer = io.BytesIO()
        picture.save(buffer, kind, **more)
        bases[name] = buffer.getvalue()

    for kind in ("JPEG", "PNG", "BMP", "WEBP", "TIFF"):
        add(kind, face, kind)
    for mode in ("L", "1", "P", "LA", "RGBA", "I;16"):
        add(
            f"PNG {mode}",
            Image.fromarray(np.full((40, 50), 300, np.uint16)) if mode == "I;16" else face.convert(mode),
            "PNG",
        )
    for mode in ("L", "CMYK", "YCbCr"):
        add(f"JPEG {mode}", face.convert(mode), "JPEG")
    add("progressive", face, "JPEG", progressive=True)
    add("CMYK TIFF", face.convert("CMYK"), "TIFF")
    add("packed TIFF", face, "TIFF", compression="tiff_lzw")
    add("animated", face, "WEBP", save_all=True, append_images=[face.rotate(90)])
    add("GIF", face, "GIF")
    add("one pixel", face.resize((1, 1)), "PNG")
    add("a line", face.resize((2000, 1)), "PNG")
    file, kinds = folder / "a.jpg", list(bases)

    def read() -> None:
        pixels = images.read(file)
        expect(pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3, f"shape {pixels.shape}")
        upright = to_rgb(file)
        expect(upright.shape[:2] in (pixels.shape[:2], pixels.shape[1::-1]), f"{upright.shape} and {pixels.shape}")
        width, height = images.size(file)
        expect((height, width) == pixels.shape[:2], f"header {width}x{height}, pixels {pixels.shape}")

    while True:
        kind = kinds[rng.integers(len(kinds))]
        whole = rng.integers(5) == 0
        data = bases[kind] if whole else mutated(rng, bases[kind], end=int(rng.choice([40, 400, 10**6])))
        yield kind + " whole" * bool(whole), reading(file, data, read)


# ---------------------------------------------------------------------------------------------------- our own files


def checkpoints(rng: np.random.Generator, folder: Path) -> Iterator[tuple[str, Callable]]:
    """Half are changed as bytes, half hold other values than they should; read as `resume=` reads them."""
    import torch

    from distill import config as configs
    from distill.training import checkpoint

    torch.manual_seed(0)
    config = configs.load(None, [f"tracking.store={folder}"])
    state = {
        "job": "teacher",
        "config": configs.to_dict(config),
        "data": {"train": "0" * 16, "val": "1" * 16},
        "progress": {"epoch": 1, "step": 6, "batch": 0},
        "model": {"w": torch.randn(50, 50), "n": torch.arange(3)},
        "teacher_run": "",
    }
    file = folder / "work" / ("a" * 32) / checkpoint.CHECKPOINT
    file.parent.mkdir(parents=True)
    checkpoint.save(file, state)
    whole = file.read_bytes()
    odd = (None, 7, "x", [], {}, b"\xff", 2**70, float("nan"), {"train": 3}, [[[]]], torch.zeros(0))

    def read() -> None:
        call = [f"resume={'a' * 8}", f"tracking.store={folder}"]
        stored = checkpoint.stored_config(call)
        found = checkpoint.unfinished(stored, "teacher", checkpoint.find_checkpoint(stored))
        checkpoint.check_data(found, state["data"])
        expect(torch.equal(found.state["model"]["w"], state["model"]["w"]), "other weights, silently")

    while True:
        if rng.integers(2):
            yield "bytes", reading(file, mutated(rng, whole), read)
            continue
        key, value = str(rng.choice([k for k in state if k != "model"])), odd[rng.integers(len(odd))]
        buffer = io.BytesIO()
        made: Any = {"version": 1, **state, key: value}
        if rng.integers(3) == 0:
            del made[key]
        torch.save(value if rng.integers(8) == 0 else made, buffer)
        yield f"{key} = {value!r}", reading(file, buffer.getvalue(), read)


def caches(rng: np.random.Generator, folder: Path) -> Iterator[tuple[str, Callable]]:
    """The note changed, or the pixels cut, grown or gone: rebuilt to the very images. (Bytes changed in place inside
    the pixel file are not looked for.)
    """
    from distill.data.cache import open_or_build

    write_challenge(folder / "set", 4)
    found = read_set(folder / "set")
    pixels = [found.image(i) for i in range(4)]
    made = open_or_build(found, folder / "cache", progress=False)
    note, whole = made.path.with_suffix(".json"), made.path.read_bytes()
    text = note.read_bytes()

    def tried(change: Callable[[], object]) -> Callable[[], None]:
        def call() -> None:
            change()
            cache = open_or_build(found, folder / "cache", progress=False)
            expect(all(np.array_equal(cache.image(i), pixels[i]) for i in range(4)), "other pixels")
            expect(not list((folder / "cache").glob("*.part")), "a part is left")

        return call

    while True:
        data, cut = mutated(rng, text), int(rng.integers(2 * len(whole)))
        changes: dict[str, Callable[[], object]] = {
            "note": lambda data=data: note.write_bytes(data),
            "length": lambda cut=cut: os.truncate(made.path, cut),
            "gone": made.path.unlink,
            "cut build": lambda cut=cut: (note.unlink(), made.path.with_suffix(".part").write_bytes(whole[:cut])),
        }
        kind = str(rng.choice(list(changes)))
        yield kind, tried(changes[kind])


def _model(folder: Path) -> tuple[Any, Path]:
    import torch

    from distill.config import HeadConfig, ModelConfig
    from distill.models.files import save_model
    from distill.models.landmarker import Landmarker

    torch.manual_seed(0)
    model = Landmarker(
        ModelConfig(backbone="lcnet_050", input_size=64, head=HeadConfig(kind="heatmap", width=16))
    ).eval()
    path = folder / "whole.safetensors"
    save_model(model, path, {"job": "student", "role": "distilled", "val/nme": 3.3})
    return model, path


def _odd_description(rng: np.random.Generator, described: dict) -> str:
    """One value of the description, at any depth, exchanged or left out."""
    made = json.loads(json.dumps(described))
    place, key = made, ""
    while True:
        key = str(rng.choice(list(place)))
        if not isinstance(place[key], dict) or not place[key] or rng.integers(3) == 0:
            break
        place = place[key]
    odd = [None, 7, -1, 10**9, 2**70, 1e308, "x", "\0", [], {}, [[[]]] * 3, True, "[" * 5000, {"x": {}}, 0]
    if rng.integers(4):
        place[key] = odd[rng.integers(len(odd))]
    else:
        del place[key]
    return json.dumps(made)


def safetensors(rng: np.random.Generator, folder: Path) -> Iterator[tuple[str, Callable]]:
    """The header's bytes, the description's values, the length. (Bytes of weights have no checksum in the format.)"""
    from safetensors import safe_open
    from safetensors.torch import save

    from distill.models.files import load_model, read_description

    _, path = _model(folder)
    whole, described = path.read_bytes(), read_description(path)
    header = 8 + int.from_bytes(whole[:8], "little")
    with safe_open(str(path), framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    file = folder / "model.safetensors"
    while True:
        if rng.integers(2):
            data, what = mutated(rng, whole, end=int(rng.choice([8, header]))), "bytes"
        else:
            what = _odd_description(rng, described)
            data = save(tensors, metadata={"distill": what})
        yield what[-200:], reading(file, data, lambda: load_model(file))


def onnx(rng: np.random.Generator, folder: Path) -> Iterator[tuple[str, Callable]]:
    """Bytes anywhere, or the description's values: finite points inside the reach of the picture, or refused."""
    import onnx as library

    from distill.export import job as exporting
    from distill.predict.load import load_student

    _, path = _model(folder)
    whole = exporting.export(path, folder / "out", None)
    source = next((folder / "out").glob("*.onnx"))
    whole, model = source.read_bytes(), library.load(source)
    (entry,) = [item for item in model.metadata_props if item.key == "distill"]
    described, face, file = json.loads(entry.value), draw_face(rng, 64)[0], folder / "student.onnx"

    def read() -> None:
        from distill.predict.job import face_in

        face_in(load_student(file), face, None, 1.0)

    while True:
        if rng.integers(2):
            yield "bytes", reading(file, mutated(rng, whole, end=int(rng.choice([2000, len(whole)]))), read)
        else:
            entry.value = _odd_description(rng, described)
            yield entry.value[-200:], reading(file, model.SerializeToString(), read)


def _alias_bomb() -> bytes:
    lines = [b"a%d: &a%d [%s]\n" % (i, i, b",".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 9)]
    return b"a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + b"".join(lines)


_YAML = (
    b"!!python/object/apply:os.system ['touch ran']",
    b"&a [*a, *a]",
    b"*a",
    b"{a: &b {c: *b}}",
    b"9" * 5000,
    b"[" * 3000,
    b"{" * 3000,
    b".inf",
    b".nan",
    b"1e999",
    b"2020-99-99",
    b"!!binary x",
    b"? [a]\n: b",
    b"\t",
    b"\x00",
    b"\xff\xfe",
    b"- ",
    b": ",
    b"#",
    b"'",
    b'"',
    b"|\n",
    b"<<: *x",
    b"!!set {a, b}",
    b"base: /dev/zero\n",
    b"base: .\n",
    b"\xe2\x80\xa8",
    b"~",
    _alias_bomb(),
)


def yaml(rng: np.random.Generator, folder: Path) -> Iterator[tuple[str, Callable]]:
    """The experiment files, with tags, alias bombs, nesting, huge numbers, and other bytes: a config, or refused."""
    from distill import config as configs

    shutil.copytree(REPO / "experiments", folder / "experiments")
    bases = [
        path
        for path in sorted((folder / "experiments").rglob("*.yaml"))
        if path.parent.name in ("experiments", "cpu", "gpu")
    ]
    texts = [path.read_bytes() for path in bases]
    while True:
        i = int(rng.integers(len(bases)))
        file = bases[i].with_name("tried.yaml")
        data = mutated(rng, texts[i], parts=_YAML)
        yield f"{bases[i].name}: {data[:300]!r}", reading(file, data, lambda file=file: configs.load(file))


def zips(rng: np.random.Generator, folder: Path) -> Iterator[tuple[str, Callable]]:
    """solution.zip: bytes, text, paths, links, bombs, several members: fine and read alike by `check` and `read`, or
    a list of problems.
    """
    names = ["a.jpg", "b.jpg", "c.jpg"]
    path = submission.write(folder / "whole.zip", names, rng.uniform(-20, 400, (3, 68, 2)))
    whole, file = path.read_bytes(), folder / "solution.zip"
    text = zipfile.ZipFile(path).read("solution.txt")
    bombs = (b"x\n" * 20_000_000, b" " * 50_000_000, b"9" * 50_000_000, b"\n" * 70_000_000)
    members = (
        "solution.txt",
        "../solution.txt",
        "/etc/solution.txt",
        "a/solution.txt",
        "SOLUTION.TXT",
        "solution.txt/",
        "\xe4.txt",
    )

    def pack(*entries: tuple[str, bytes], link: bool = False) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", int(rng.choice([0, 8, 12, 14]))) as archive:
            for name, data in entries:
                info = zipfile.ZipInfo(name)
                info.compress_type, info.external_attr = archive.compression, (0o120777 << 16 if link else 0)
                archive.writestr(info, data)
        return buffer.getvalue()

    def read() -> None:
        problems = submission.check(file, names)
        expect(len(problems) < 2000 and all("\n" not in one for one in problems), f"{len(problems)} problems")
        if problems:
            raise UserError(problems[0][:500])
        submission.read(file)

    while True:
        kind, member = rng.integers(6), members[rng.integers(len(members))]
        if kind < 2:
            yield "bytes", reading(file, mutated(rng, whole), read)
        elif kind == 2:
            yield "text", reading(file, pack(("solution.txt", mutated(rng, text))), read)
        elif kind == 3:
            yield f"member {member}", reading(file, pack((member, text), link=bool(rng.integers(2))), read)
        elif kind == 4:
            yield "members", reading(file, pack((member, text), ("solution.txt", text)), read)
        else:
            yield "bomb", reading(file, pack(("solution.txt", bombs[rng.integers(len(bombs))])), read)
