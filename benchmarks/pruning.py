"""What a pruner would have spared of a study that was not pruned, and what it would have found.

    python benchmarks/pruning.py STUDY [--store mlruns] [--storage URL] [--orders 200]

A training is deterministic, so a trial that is cut would have had the curve that the whole one has: the study's own
points are replayed, epoch by epoch, through Optuna's pruners, first in their own order and then in others, because an
early trial is compared with few. What a sampler would have drawn from the pruned results is not replayed: it would
have been other points.
"""

from __future__ import annotations

import random
import statistics

import optuna

from distill import cli
from distill.errors import UserError
from search import storage
from search.space import Pruner

PRUNERS = (
    Pruner(kind="hyperband", min_epochs=1, factor=4),
    Pruner(kind="hyperband", min_epochs=2, factor=5),
    Pruner(kind="hyperband", min_epochs=1, factor=3),
    Pruner(kind="median", min_epochs=1),
    Pruner(kind="median", min_epochs=2),
)


def replay(curves: list[list[float]], pruner: Pruner) -> tuple[int, float]:
    """Epochs trained, and the best value found, of curves (one value an epoch) in this order."""
    study = optuna.create_study(pruner=storage.make_pruner(pruner, len(curves[0])))
    trained = 0
    for curve in curves:
        trial = study.ask()
        state = optuna.trial.TrialState.COMPLETE
        for epoch, value in enumerate(curve, start=1):
            trained += 1
            trial.report(value, epoch)
            if epoch < len(curve) and trial.should_prune():
                state = optuna.trial.TrialState.PRUNED
                break
        study.tell(trial, min(curve) if state == optuna.trial.TrialState.COMPLETE else None, state=state)
    return trained, study.best_value


def main(argv: list[str]) -> None:
    parser = cli.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("study")
    parser.add_argument("--store", default="mlruns")
    parser.add_argument("--storage", default="", help="URL (default: optuna.db in the store)")
    parser.add_argument("--orders", type=int, default=200, help="random orders of the trials (default: %(default)s)")
    args = parser.parse_args(argv)
    study = storage.find_study(args.study, storage.url_of(args.store, args.storage))
    reports = [trial.intermediate_values for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    longest = max((len(report) for report in reports), default=0)
    curves = [[report[epoch] for epoch in sorted(report)] for report in reports if len(report) == longest > 1]
    if len(curves) < 5:
        raise UserError(
            f"The study '{args.study}' has {len(curves)} whole curves; expected 5 or more, trained without pruning."
        )
    whole, best = longest * len(curves), min(map(min, curves))
    print(f"{len(curves)} trials of {longest} epochs, {whole} in all; best {best:.3f}")
    for pruner in PRUNERS:
        trained, found = replay(curves, pruner)
        orders = [replay(random.Random(seed).sample(curves, len(curves)), pruner) for seed in range(args.orders)]
        spared = [1 - epochs / whole for epochs, _ in orders]
        same = statistics.mean(value == best for _, value in orders)
        worse = statistics.mean(value - best for _, value in orders)
        settings = f"{pruner.kind}, min_epochs {pruner.min_epochs}" + f", factor {pruner.factor}" * (
            pruner.kind == "hyperband"
        )
        print(
            f"{settings:36} spares {1 - trained / whole:4.0%}, finds {found:.3f}; {args.orders} orders: spares "
            f"{statistics.mean(spared):4.0%} +- {statistics.stdev(spared):.0%}, the same best in {same:4.0%}, "
            f"on average {worse:+.3f}"
        )


if __name__ == "__main__":
    cli.run(main)
