"""What a search costs beside training: seconds a trial outside the training function, over a short study of real
trainings.

    python benchmarks/search_overhead.py [--trials 20] [--storage postgresql://...] [key=value ...]

Counted is all that a worker does beside training itself: its turn, the sampler, building and measuring the network
for the constraints, the study's part in every epoch (reports, pruning), storing. Imports are not, nor making the
study. The study is made anew in a folder of its own, on the bundled sample.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from search import objective, storage, summary, worker
from search import space as spaces

SMALL = Path(__file__).resolve().parent.parent / "experiments" / "search" / "tiny.yaml"
LIMIT = 1.0  # seconds that a trial may cost beside its training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=SMALL, help="a search file (default: %(default)s)")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--storage", default="", help="URL (default: an sqlite file)")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_args()
    os.environ.setdefault("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    with tempfile.TemporaryDirectory() as folder:
        overrides = [*args.overrides, f"tracking.store={folder}"]
        space = spaces.load(args.config, overrides)
        url = storage.url_of(folder, args.storage)
        name = f"overhead-{time.strftime('%Y%m%d-%H%M%S')}"
        spec = worker.Spec(os.getpid(), str(args.config), overrides, name, args.trials, 0, "", "", 0)
        storage.open_study(space, name, url)
        trained = timed_trainings()
        start = time.perf_counter()
        worker.work(spec, space, url)
        seconds = time.perf_counter() - start
        rows = summary.rows(storage.find_study(name, url), space)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{summary.counted(rows)} in {seconds:.0f} s; load average {load} on {len(os.sched_getaffinity(0))} cores")
    print(
        f"overhead a trial: mean {(seconds - sum(trained)) / len(rows):.3f} s (at most {LIMIT:g}); "
        f"training: mean {statistics.mean(trained):.2f} s"
    )


def timed_trainings() -> list[float]:
    """Seconds of each training from now on, less what the study does inside it."""
    seconds: list[float] = []
    train, on_epoch = objective.train_student, objective._Attempt._on_epoch

    def reported(*args) -> None:
        start = time.perf_counter()
        try:
            on_epoch(*args)
        finally:
            seconds[-1] -= time.perf_counter() - start

    def timed(*args):
        seconds.append(0.0)
        start = time.perf_counter()
        try:
            return train(*args)
        finally:
            seconds[-1] += time.perf_counter() - start

    objective.train_student, objective._Attempt._on_epoch = timed, reported
    return seconds


if __name__ == "__main__":
    main()
