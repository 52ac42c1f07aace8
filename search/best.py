"""Door: train a study's best configuration at full length, over seeds and beside its recipe, and hand out the best one."""

from __future__ import annotations

import shlex
from pathlib import Path

from distill import cli
from distill.ablation import file as grid
from distill.config import TrackingConfig
from distill.errors import UserError

SUMMARY = (
    "Train the best configuration of a study and its recipe at full length over the same seeds; export the best one by "
    "validation with its submission, and register it."
)


def main(argv: list[str]) -> None:
    args = _parser().parse_args(argv)
    if args.seeds < 1 or args.workers < 0:
        raise UserError(
            f"--seeds is {args.seeds} and --workers {args.workers}; expected 1 or more seeds, and 0 or more."
        )

    cli.check_out(args.out)
    from search import retrain, storage

    study = storage.find_study(args.study, storage.url_of(TrackingConfig(store=args.store), args.storage))
    asked = retrain.order(study)
    planned = grid.load(retrain.write_files(asked, args.seeds, args.store, args.out), args.overrides)
    folder = planned.path.parent
    cli.check_roots([planned.cells[planned.control]])

    from distill.ablation import job as ablation
    from distill.ablation import table
    from search import release

    again = shlex.join(["python", "-m", "search.best", *argv])
    done = ablation.run(planned, folder, args.workers, again)
    print(f"\n{table.to_text(done.table)}\n")
    cli.stop_if_failed(done.failed)
    print(f"{release.beats(done.table, asked.cell)}\n")
    print(release.to_text(release.hand_out(done.table, asked.cell, planned.cells[asked.cell], folder / "export")))
    print(f"parent run  {done.parent_id}")
    print(f"written to  {folder}")


def _parser() -> cli.Parser:
    parser = cli.Parser(
        prog="python -m search.best",
        description=SUMMARY,
        epilog="The same command again continues; what is trained already is found, not trained again.",
    )
    parser.add_argument("study", metavar="STUDY", help="name of the study, see python -m search.study")
    parser.add_argument("--seeds", type=int, metavar="N", default=3, help="seeds 0 to N-1 (default: %(default)s)")
    parser.add_argument("--store", metavar="DIR", default="mlruns", help="where runs are kept (default: %(default)s)")
    parser.add_argument("--storage", metavar="URL", default="", help="of the study (default: optuna.db in the store)")
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="trainings at a time (default: one a GPU, or 1)"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("outputs/search"), help="default: %(default)s")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="for all trainings, e.g. data.root=DIR teacher=RUN_ID"
    )
    return parser


if __name__ == "__main__":
    cli.run(main)
