"""Entry point: an ablation file's trainings, shared out over several machines."""

from __future__ import annotations

import shlex

from distill import cli
from distill.ablation import __main__ as command

SUMMARY = (
    "Train every cell of an ablation file with every seed, as `distill.ablation run` does, together with the machines "
    "that run the same command with the same --storage; then write its table."
)


def main(argv: list[str]) -> None:
    """Read the arguments, train, print the table. Exit code 1 where a training failed."""
    args = _parser().parse_args(argv)
    planned = command.read(args.file, args.overrides)

    from distill.ablation import job as ablation
    from search import storage
    from search.trial_claims import SharedClaims

    url = storage.url_of(planned.cells[planned.control].tracking.store, args.storage)
    again = shlex.join(["python", "-m", "search.grid", *argv])
    command.show(ablation.run(planned, args.out, args.workers, again, lambda: SharedClaims(planned, url)))


def _parser() -> cli.Parser:
    parser = cli.Parser(
        prog="python -m search.grid",
        description=SUMMARY,
        epilog="All machines need one MLflow server (MLFLOW_TRACKING_URI) and the same data. Who is at what: "
        "`optuna-dashboard URL`.",
    )
    cli.add_store_argument(parser)
    parser.add_argument("file", metavar="FILE", help="an ablation file, e.g. experiments/ablations/terms.yaml")
    parser.add_argument(
        "--storage",
        metavar="URL",
        required=True,
        help="postgresql://USER@HOST/DATABASE, or sqlite:///FILE for the processes of one machine",
    )
    cli.add_workers_argument(parser)
    cli.add_out_argument(parser, "outputs/ablations")
    cli.add_overrides_argument(parser, "for all cells, e.g. data.root=DIR teacher=RUN_ID")
    return parser


if __name__ == "__main__":
    cli.run(main)
