"""Entry point: one model from several, by the mean of their weights."""

from __future__ import annotations

from dataclasses import replace

from distill import cli
from distill.average import AVERAGES
from distill.config import TrackingConfig


def main(argv: list[str]) -> None:
    """Average weights of runs or files from the command line."""
    parser = cli.Parser(
        prog="python -m distill.average",
        description="The mean of the weights of a run's last epochs (train.snapshots=N), or of several models of one "
        "architecture: one single model, measured, exported and kept in a run of its own.",
    )
    parser.add_argument(
        "models",
        metavar="RUN|FILE",
        nargs="+",
        help="one run with snapshots; or several run ids, models:/NAME@ALIAS, files",
    )
    parser.add_argument(
        "--method",
        choices=AVERAGES,
        default="greedy",
        help="greedy: from the best one on, those that make the mean no worse on the validation set (default); "
        "uniform: all",
    )
    text = "folder of one labelled set to measure on (default: the run's validation set)"
    parser.add_argument("--data", metavar="DIR", type=cli.folder, help=text)
    parser.add_argument("--name", help="name of the new run")
    cli.add_store_argument(parser)
    args = parser.parse_args(argv)
    from distill.average import job as averaging

    tracking = TrackingConfig(store=args.store)
    config = averaging.source_config(averaging.find_members(args.models, tracking), tracking)
    config = replace(config, tracking=replace(config.tracking, run_name=args.name or ""))
    _print_result(averaging.average(args.models, args.method, config, data=args.data))


def _print_result(averaged) -> None:
    """averaged: an average.job.Averaged."""
    mixture, count = averaged.mixture, len(averaged.members)
    print("\nmembers, NME in percent:")
    for index, (member, error) in enumerate(zip(averaged.members, mixture.errors, strict=True)):
        print(f"  {error:7.3f}  {member.label}{'  kept' if index in mixture.kept else ''}")
    print(f"  {mixture.mean:7.3f}  mean of all {count}")
    print(f"  {averaged.result.report.nme:7.3f}  the result, the mean of {len(mixture.kept)} of {count}")
    cli.print_result(averaged.result)


if __name__ == "__main__":
    cli.run(main)
