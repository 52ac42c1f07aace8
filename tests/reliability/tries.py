"""Hostile and broken input, and runs cut or starved, tried many times: counts for docs/reliability.md.

    python tests/reliability/tries.py KIND ... [--count N] [--seed S]

One row of a Markdown table a kind. A try ends in a right result, or is refused by one sentence (UserError; of a
command, exit code 2 without a traceback); anything else is lost: another exception, a wrong result, a file
half-written, more than SECONDS or MEGABYTES. Exit code 1 where one is lost. Its description goes to stderr, what was
fed in stays under `--keep DIR`. Ctrl-C ends a kind with what it has counted so far.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

import files  # noqa: E402
import runs  # noqa: E402

from distill.errors import UserError  # noqa: E402

SECONDS = 10  # of CPU time, of one try on a file
LONG = 300  # of one on a run; of this process, which compares
MEGABYTES = 200  # by which the most memory of this process may grow in one try

Try = tuple[str, Callable[[], object]]  # what is tried, for people; a call that raises UserError, Lost, or returns
Tries = Callable[[np.random.Generator, Path], Iterator[Try]]  # without end; in a folder of its own


@dataclass
class Row:
    """The counts of a kind."""

    kind: str
    right: int = 0
    refused: int = 0
    lost: list[str] = field(default_factory=list)
    longest: float = 0.0  # seconds of CPU time
    most: float = 0.0  # megabytes that a try added to the process's peak

    def __str__(self) -> str:
        tried = self.right + self.refused + len(self.lost)
        counts = f"{tried:,} | {self.right:,} | {self.refused:,} | {len(self.lost)}"
        return f"| {self.kind} | {counts} | {self.longest:.1f} | {self.most:.0f} |"


def run(kind: str, count: int, seed: int, folder: Path) -> Row:
    """Try `count` times, each outcome counted."""
    row, (tries, seconds) = Row(kind), KINDS[kind][1:]
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, _too_long)
    source = tries(np.random.default_rng(seed), folder)
    for number in range(count):
        what, call = next(source)
        before, start = _peak(), time.process_time()
        signal.setitimer(signal.ITIMER_PROF, seconds)  # of CPU time, whatever else the machine does
        signal.alarm(30 * seconds)
        lost, refused = "", False
        try:
            call()
        except UserError as error:
            refused = True
            if "\n" in str(error) or len(str(error)) > 2000:
                lost = f"{len(str(error))} characters of error, not a sentence"
        except KeyboardInterrupt:  # enough: what was counted so far
            break
        except BaseException as error:
            lost = f"{type(error).__name__}: {str(error)[:300]}"
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)
        row.longest, grown = max(row.longest, time.process_time() - start), _peak() - before
        if number:  # the first one imports
            row.most = max(row.most, grown)
            lost = lost or (f"{grown:.0f} MB" if grown > MEGABYTES else "")
        if lost:
            row.lost.append(f"{what}: {lost}")
        elif refused:
            row.refused += 1
        else:
            row.right += 1
    return row


def _too_long(*_args: object) -> None:
    raise files.Lost("took too long")


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def kinds() -> dict[str, tuple[int, Tries, int]]:
    """Name -> a count of some two minutes of one core, the tries, the seconds of CPU time that one may take."""
    return {
        "pickles": (10_000, files.pickles, SECONDS),
        "images": (2_000, files.pictures, SECONDS),
        "checkpoints": (200, files.checkpoints, SECONDS),
        "caches": (200, files.caches, SECONDS),
        "safetensors": (200, files.safetensors, SECONDS),
        "onnx": (200, files.onnx, SECONDS),
        "yaml": (200, files.yaml, SECONDS),
        "zips": (200, files.zips, SECONDS),
        **{f"kills-{job}": (3, runs.kills(job), LONG) for job in ("teacher", "student", "grid", "study")},
        "disk": (20, runs.disks, LONG),
        "memory": (12, runs.memories, LONG),
        "read-only": (6, runs.read_only, LONG),
        "loader-worker": (3, runs.loader_workers, LONG),
        "store": (1, runs.stores, LONG),
        "crowd": (1, runs.crowds, LONG),
        "numbers": (24, runs.numbers, LONG),
        "poison": (3, runs.poison, LONG),
    }


KINDS = kinds()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="+", choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--count", type=int, help="tries of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a folder for what is fed in, instead of a temporary one")
    args = parser.parse_args()
    print("| kind | tried | right | refused | lost | longest, s | most, MB |\n|---|---|---|---|---|---|---|")
    lost = 0
    for kind in args.kinds:
        folder = args.keep / kind if args.keep else Path(tempfile.mkdtemp(prefix=f"{kind}-"))
        folder.mkdir(parents=True, exist_ok=True)
        try:
            row = run(kind, args.count or KINDS[kind][0], args.seed, folder)
        finally:
            if not args.keep:
                shutil.rmtree(folder, ignore_errors=True)
        print(row, flush=True)
        lost += len(row.lost)
        for line in row.lost[:20]:
            print(f"  lost: {line}", file=sys.stderr)
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    main()
