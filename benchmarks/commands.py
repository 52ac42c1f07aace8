"""Whole commands by the clock: a submission of 1790 photographs, a folder predicted, the first training step, --help.

    python benchmarks/commands.py DIR [--count 1790] [--only submission,predict,first-step,help]

DIR holds photographs; they are linked again and again until there are as many as wanted. Every command is a process of
its own, start-up included. `predict` is measured beside what it cannot do without, in one process and taking turns with
it: decoding and the network, on one thread and on as many threads as predict has.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from itertools import cycle
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "experiments" / "cpu" / "student.yaml"
FIRST_STEP = """
import os, sys
from distill.training import loop
step = loop.Trainer.train_step
def first(self, batch):
    step(self, batch)
    print("first step done", flush=True)
    os._exit(0)
loop.Trainer.train_step = first
from distill import student
student.main(sys.argv[1:])
"""
COMMANDS = (
    "teacher student demo evaluate export predict ablation average recipe report submission handin synthesis profile"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--count", type=int, default=1790)
    parser.add_argument("--only", default="submission,predict,first-step,help")
    args = parser.parse_args()
    print(f"{os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}: other work on the machine makes every figure larger")
    with tempfile.TemporaryDirectory() as place:
        for what in args.only.split(","):
            {"submission": submission, "predict": predict, "first-step": first_step, "help": show_help}[what](
                Path(place), linked(args.folder, Path(place), args.count)
            )


def linked(folder: Path, place: Path, count: int) -> Path:
    """A folder of `count` links to the pictures of another one."""
    images = place / "images"
    if not images.is_dir():
        images.mkdir()
        for number, picture in zip(range(count), cycle(sorted(folder.glob("*.jpg"))), strict=False):
            (images / f"{number:05d}.jpg").symlink_to(picture.resolve())
    return images


def run(*command: str, cwd: Path = ROOT) -> tuple[float, float]:
    """Seconds of a python process, by the clock and of CPU time."""
    before, start = os.times(), time.perf_counter()
    subprocess.run([sys.executable, *command], cwd=cwd, check=True, stdout=subprocess.DEVNULL, env=environment())
    wall, after = time.perf_counter() - start, os.times()
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def submission(place: Path, images: Path) -> None:
    wall, cpu = run("-m", "distill.export", "bundled", "--out", str(place / "out"), "--images", str(images))
    print(f"submission by the bundled student: {wall:.1f} s ({cpu:.1f} s of CPU time)")


def predict(place: Path, images: Path) -> None:
    import cv2

    from distill import cores
    from distill.data.images import decode
    from distill.predict.job import Options, list_pictures, predict_pictures
    from distill.predict.load import load_student

    student, files = load_student("bundled", threads=1), list_pictures([str(images)])

    def plain(workers: int) -> None:
        with cores.pool(workers) as pool:
            list(pool.map(lambda path: student(decode(path, upright=True)), files.values()))

    ways = {
        "network and decoding on one thread": lambda: plain(1),
        f"network and decoding on {cores.threads()} threads": lambda: plain(cores.threads()),
        "predict, drawn": lambda: predict_pictures(student, files, Options(out=place / "drawn")),
        "predict, landmarks only": lambda: predict_pictures(student, files, Options(out=place / "bare", draw=False)),
    }
    cv2.setNumThreads(1)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(3):
        for name, way in ways.items():
            start, cpu = time.perf_counter(), time.process_time()
            way()
            times[name].append((time.perf_counter() - start, time.process_time() - cpu))
    for name, found in times.items():
        (wall, cpu), (own, own_cpu) = (sorted(some)[1] for some in (found, next(iter(times.values()))))
        ratios = f"{wall / own:.2f} and {cpu / own_cpu:.2f} of the first line"
        print(f"{name}: {wall:.1f} s ({cpu:.1f} s of CPU time), {ratios}")


def first_step(place: Path, images: Path) -> None:
    given = ["--config", str(CONFIG), f"tracking.store={place / 'mlruns'}", "tracking.register=false"]
    for name in ("in a new store", "in one that is there"):
        wall, cpu = run("-c", FIRST_STEP, *given)
        print(f"first training step of the bundled sample, {name}: {wall:.1f} s ({cpu:.1f} s of CPU time)")


def show_help(place: Path, images: Path) -> None:
    for name in (*(f"distill.{word}" for word in COMMANDS.split()), "search.study", "search.best"):
        found = [run("-m", name, "--help") for _ in range(3)]
        print(
            f"python -m {name} --help: {min(f[0] for f in found):.2f} s ({min(f[1] for f in found):.2f} s of CPU time)"
        )


if __name__ == "__main__":
    main()
