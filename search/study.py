"""Entry point: run a search file's study, here and with whoever joins it, until it has N trials."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from distill import cli

if TYPE_CHECKING:
    from search.space import Space

SUMMARY = (
    "Search around a hand-written recipe for a better one: a study of N trials, each a training under one parent run."
)


def main(argv: list[str]) -> None:
    """Read the arguments, run the study, print its results."""
    args = _parser().parse_args(argv)
    from search import space as spaces

    space = spaces.load(args.config, args.overrides)
    if args.dry_run:
        print(_dry_run(space, args.trials))
        return
    cli.check_roots([space.base])

    from search import runner, storage

    name, store = args.study or space.path.stem, space.base.tracking.store
    again = shlex.join(["python", "-m", "search.study", *argv])
    url = storage.url_of(store, args.storage)
    done = runner.run(space, runner.Order(name, url, args.trials, args.workers, tuple(args.overrides), again), args.out)
    print(f"\n{done.text}\n")
    print(f"parent run  {done.parent_id}")
    if done.files:
        print(f"written to  {done.files[0].parent}: {', '.join(file.name for file in done.files)}")
    if done.best:
        place = [
            *(["--store", store] if store != "mlruns" else []),
            *(["--storage", args.storage] if args.storage else []),
        ]
        print(f"next        {shlex.join(['python', '-m', 'search.best', name, '--seeds', '3', *place])}")


def _dry_run(space: Space, count: int) -> str:
    """The first `count` points that a study would try without any results: those enqueued, then random ones.

    Each with its number and its config's digest; what differs from the recipe is marked with *. Nothing is trained and
    no cost is measured, so some may be refused by the constraints.
    """
    import optuna

    from distill import config as configs
    from search import space as spaces
    from search import storage

    study = optuna.create_study(sampler=storage.make_sampler(space))
    for point in space.enqueue:
        study.enqueue_trial(point)
    recipe, blocks = space.enqueue[0], []
    for number in range(count):
        trial = study.ask()
        point = spaces.suggest(trial, space)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)  # nothing to learn from
        kind = "the recipe" if point == recipe else "enqueued" if number < len(space.enqueue) else "drawn"
        blocks.append(f"{number}  {kind}  (config {configs.digest(space.config(point))})")
        for name, value in point.items():
            shown = f"{value:.4g}" if isinstance(value, float) else value
            blocks[-1] += f"\n  {'*' if name not in recipe or value != recipe[name] else ' '} {name}: {shown}"
    return "\n\n".join(blocks)


def _parser() -> cli.Parser:
    parser = cli.Parser(
        prog="python -m search.study",
        description=SUMMARY,
        epilog="The same command again continues the study; on another machine, with the same --storage, it joins it. "
        "Look at it with `optuna-dashboard URL`, at its runs with `make ui`.",
    )
    parser.add_argument("--config", metavar="FILE", required=True, help="a search file, see experiments/search/")
    text = "how many trials the study shall have in all"
    parser.add_argument("--trials", type=cli.whole(1), metavar="N", required=True, help=text)
    cli.add_workers_argument(parser, "trials")
    parser.add_argument("--study", metavar="NAME", default="", help="name of the study (default: the file's)")
    cli.add_store_argument(parser)
    parser.add_argument(
        "--storage",
        metavar="URL",
        default="",
        help="postgresql://USER@HOST/DATABASE or sqlite:///FILE (default: optuna.db in the store)",
    )
    cli.add_out_argument(parser, "outputs/search")
    parser.add_argument(
        "--dry-run", action="store_true", help="print N configurations as they would be drawn, and stop"
    )
    cli.add_overrides_argument(parser, "for the recipe and its trials, e.g. data.root=DIR; or trial.key=value")
    return parser


if __name__ == "__main__":
    cli.run(main)
