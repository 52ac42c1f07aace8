"""Entry point: train the missing cells of an ablation file and write its table."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distill import cli
from distill.ablation import file as grid

if TYPE_CHECKING:
    from distill.ablation.job import Finished

SUMMARY = (
    "Train every cell of an ablation file with every seed, whatever is missing, and compare them with their control."
)


def main(argv: list[str]) -> None:
    """Read the arguments, train or tabulate, print the table. Exit code 1 where a training failed."""
    if argv[:1] == ["cell"]:  # started by `run`, one process a training; not for users
        from distill.runs.workers import work

        work(Path(argv[1]))
        return
    args = _parser().parse_args(argv)
    planned = read(args.file, args.overrides)

    from distill.ablation import job as ablation

    if args.command == "run" and args.dry_run:
        print(ablation.dry_run(planned))
        return
    if args.command == "run":
        again = shlex.join(["python", "-m", "distill.ablation", *argv])
        done = ablation.run(planned, args.out, args.workers, again)
    else:
        done = ablation.show(planned, args.out)
    show(done)


def read(file: str, overrides: Sequence[str]) -> grid.Grid:
    """The grid of a file. Raises UserError where it cannot be trained."""
    planned = grid.load(file, overrides)
    cli.check_roots((*planned.teachers.values(), *planned.cells.values()))
    return planned


def show(done: Finished) -> None:
    """Print the table and where it is. Exit code 1 where a training failed."""
    from distill.ablation import table

    print(f"\n{table.to_text(done.table)}\n")
    print(f"parent run  {done.parent_id or 'none: `run` makes one'}")
    print(f"written to  {done.files[0].parent}: {', '.join(file.name for file in done.files)}")
    cli.stop_if_failed(done.failed)


def _parser() -> cli.Parser:
    parser = cli.Parser(prog="python -m distill.ablation", description=SUMMARY)
    commands = parser.add_subparsers(dest="command", required=True, metavar="run | table")
    run = commands.add_parser("run", help="train what is missing, then write the table; the same command continues")
    cli.add_workers_argument(run)
    run.add_argument("--dry-run", action="store_true", help="print what would be trained, and stop")
    table = commands.add_parser("table", help="write the table of what there is, complete or not")
    for command in (run, table):
        cli.add_store_argument(command)
        command.add_argument("file", metavar="FILE", help="an ablation file, e.g. experiments/ablations/terms.yaml")
        cli.add_overrides_argument(
            command, "for all cells, e.g. data.root=DIR teacher=RUN_ID; or teachers.NAME.key=value"
        )
        cli.add_out_argument(command, "outputs/ablations")
    return parser


if __name__ == "__main__":
    cli.run(main)
