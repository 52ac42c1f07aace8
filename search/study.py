"""Door: run a search file's study, here and with whoever joins it, until it has N trials."""

from __future__ import annotations

import shlex
from pathlib import Path

from distill import cli
from distill.errors import UserError
from search import space as spaces

SUMMARY = (
    "Search around a hand-written recipe for a better one: a study of N trials, each a training under one parent run."
)


def main(argv: list[str]) -> None:
    args = _parser().parse_args(argv)
    if args.trials < 1 or args.workers < 0:
        raise UserError(f"--trials is {args.trials} and --workers {args.workers}; expected 1 or more, and 0 or more.")
    space = spaces.load(args.config, args.overrides)
    if args.dry_run:
        from search import sampling

        print(sampling.to_text(space, sampling.draw(space, args.trials)))
        return
    cli.check_out(args.out)
    cli.check_roots([space.base])

    from search import runner, storage

    name = args.study or space.name
    url = storage.url_of(space.base.tracking, args.storage)
    again = shlex.join(["python", "-m", "search.study", *argv])
    order = runner.Order(name, url, args.trials, args.workers, tuple(args.overrides), again)
    done = runner.run(space, order, args.out)
    print(f"\n{done.told}\n")
    print(f"parent run  {done.parent_id}")
    if done.files:
        print(f"written to  {done.files[0].parent}: {', '.join(file.name for file in done.files)}")
    if done.best:
        storage_too = ["--storage", args.storage] if args.storage else []
        store = ["--store", space.base.tracking.store] if space.base.tracking.store != "mlruns" else []
        print(f"next        {shlex.join(['python', '-m', 'search.best', name, '--seeds', '3', *store, *storage_too])}")


def _parser() -> cli.Parser:
    parser = cli.Parser(
        prog="python -m search.study",
        description=SUMMARY,
        epilog="The same command again continues the study; on another machine, with the same --storage, it joins it. Look at "
        "it with `optuna-dashboard URL`, at its runs with `make ui`.",
    )
    parser.add_argument("--config", metavar="FILE", required=True, help="a search file, see experiments/search/")
    parser.add_argument(
        "--trials", type=int, metavar="N", required=True, help="how many trials the study shall have in all"
    )
    parser.add_argument(
        "--workers", type=int, default=0, metavar="K", help="trials at a time (default: one a GPU, or 1)"
    )
    parser.add_argument("--study", metavar="NAME", default="", help="name of the study (default: the file's)")
    parser.add_argument(
        "--storage", metavar="URL", default="", help="postgresql://USER@HOST/DATABASE or sqlite:///FILE (default: "
        "optuna.db in the store)"
    )  # fmt: skip
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("outputs/search"), help="default: %(default)s")
    parser.add_argument(
        "--dry-run", action="store_true", help="print N configurations as they would be drawn, and stop"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="for the recipe and its trials, e.g. data.root=DIR; or "
        "trial.key=value"
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    cli.run(main)
