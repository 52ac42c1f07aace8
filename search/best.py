"""Entry point: train a study's best configuration at full length, over seeds and beside its recipe, and release the
best.
"""

from __future__ import annotations

import shlex

from distill import cli

SUMMARY = (
    "Train the best configuration of a study and its recipe at full length over the same seeds; export the best one by "
    "validation with its submission, and register it."
)


def main(argv: list[str]) -> None:
    """Read the arguments, train what is missing, print the comparison and what was released."""
    args = _parser().parse_args(argv)
    from distill.ablation import file as ablation_file
    from search import release, storage

    study = storage.find_study(args.study, storage.url_of(args.store, args.storage))
    chosen = release.candidate(study)
    ablation = ablation_file.load(release.write_ablation(chosen, args.seeds, args.store, args.out), args.overrides)
    folder = ablation.path.parent
    cli.check_roots([ablation.cells[ablation.control]])

    from distill.ablation import job, table

    done = job.run(ablation, folder, args.workers, shlex.join(["python", "-m", "search.best", *argv]))
    print(f"\n{table.to_text(done.table)}\n")
    cli.stop_if_failed(done.failed)
    print(f"{release.beats(done.table, chosen.cell)}\n")
    released = release.release(done.table, chosen.cell, ablation.cells[chosen.cell], folder / "export")
    print(release.to_text(released))
    print(f"parent run  {done.parent_id}")
    print(f"written to  {folder}")


def _parser() -> cli.Parser:
    parser = cli.Parser(
        prog="python -m search.best",
        description=SUMMARY,
        epilog="The same command again continues; what is trained already is found, not trained again.",
    )
    parser.add_argument("study", metavar="STUDY", help="name of the study, see python -m search.study")
    parser.add_argument(
        "--seeds", type=cli.whole(1, 1000), metavar="N", default=3, help="seeds 0 to N-1 (default: %(default)s)"
    )
    cli.add_store_argument(parser)
    parser.add_argument("--storage", metavar="URL", default="", help="of the study (default: optuna.db in the store)")
    cli.add_workers_argument(parser)
    cli.add_out_argument(parser, "outputs/search")
    cli.add_overrides_argument(parser, "for all trainings, e.g. data.root=DIR teacher=RUN_ID")
    return parser


if __name__ == "__main__":
    cli.run(main)
