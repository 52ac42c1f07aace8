"""What a search costs beside training: seconds a trial outside the training function, over a short study of real trainings.

    python benchmarks/search_overhead.py [--trials 20] [--storage postgresql://...] [key=value ...]

Counted is all that a worker does from one trial's end to the next one's but training itself: its turn, the sampler, building
and measuring the network for the constraints, the study's part in every epoch (reports, pruning), telling. Imports are not,
nor making the study. The study is made anew in a folder of its own, on the bundled sample.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from search import objective, queue, storage, worker
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
        url = storage.url_of(space.base.tracking, args.storage)
        name = f"overhead-{time.strftime('%Y%m%d-%H%M%S')}"
        spec = worker.Spec(os.getpid(), str(args.config), overrides, name, args.trials, 0, "", "", 0)
        start = time.perf_counter()
        worker.work_off(spec, space, url)
        seconds = time.perf_counter() - start
        study = storage.find_study(name, url)
        ended = [found.user_attrs for found in study.trials if queue.REFUSED not in found.user_attrs]
    spent = [about["overhead"] for about in ended]
    trained = [about[objective.SECONDS] for about in ended]
    failed = [about[queue.ERROR] for about in ended if queue.ERROR in about]
    print(
        f"{len(ended)} trials in {seconds:.0f} s, {sum(trained):.0f} s of it training{': ' * bool(failed)}{'; '.join(failed)}"
    )
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"load average {load} on {len(os.sched_getaffinity(0))} cores")
    print(
        f"overhead a trial: mean {statistics.mean(spent):.3f} s, median {statistics.median(spent):.3f}, largest {max(spent):.3f} "
        f"(at most {LIMIT:g}); training: mean {statistics.mean(trained):.2f} s"
    )


if __name__ == "__main__":
    main()
