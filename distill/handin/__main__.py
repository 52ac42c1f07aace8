"""Entry point: build the zip to hand in; check that it reproduces its own submission."""

from __future__ import annotations

import sys
from pathlib import Path

from distill import cli
from distill.config import TrackingConfig
from distill.errors import UserError


def main(argv: list[str]) -> None:
    """Write or check a hand-in from the command line."""
    parser = cli.Parser(
        prog="python -m distill.handin",
        description="Build ID.zip from a student's run: README, pinned environment, model, submission, report and "
        "code. --check unpacks it elsewhere and makes the submission again; exit code 1 where a digit differs.",
    )
    parser.add_argument("--id", metavar="ID", help="whose it is: R07654321 makes R07654321.zip")
    parser.add_argument("--run", metavar="RUN", help="run id or name of the student")
    parser.add_argument("--out", metavar="DIR", default="outputs/handin", help="default: %(default)s")
    parser.add_argument("--report", metavar="FILE", type=cli.file, help="your PDF (default: the run's, or a new one)")
    text = "test images, for --check and for a run that has no submission yet"
    parser.add_argument("--images", metavar="DIR", type=cli.folder, help=text)
    cli.add_store_argument(parser)
    parser.add_argument(
        "--check", metavar="ZIP", nargs="?", const="", help="check this zip, or with --run the one that was just built"
    )
    parser.add_argument(
        "--no-install", action="store_true", help="check with the running interpreter, not a fresh environment"
    )
    args = parser.parse_args(argv)
    building = bool(args.id or args.run)
    _refuse(args, building)
    if building:
        cli.check_out(args.out)
    path = _build(args) if building else Path(args.check)
    if args.check is not None:
        _check(path, args.images, install=not args.no_install)


def _refuse(args, building: bool) -> None:
    """Wrong calls, before anything heavy is imported."""
    if building and not (args.id and args.run):
        raise UserError("Give both --id ID and --run RUN. See --help.")
    if building and args.check:
        raise UserError("Give either --check ZIP alone or --id and --run with a bare --check. See --help.")
    if not building and not args.check:
        raise UserError("Give --id ID and --run RUN to build a hand-in, or --check ZIP. See --help.")
    if args.check is not None and not args.images:
        raise UserError("--check needs --images DIR, the test images that the submission is of.")
    if args.no_install and args.check is None:
        raise UserError("--no-install goes with --check. See --help.")
    if args.check and not Path(args.check).is_file():
        raise UserError(f"--check '{args.check}' is not a file; expected a hand-in's zip.")


def _build(args) -> Path:
    from distill.handin import job as building

    made = building.build(
        args.id, args.run, Path(args.out), TrackingConfig(store=args.store), report=args.report, images=args.images
    )
    print(
        f"{made.path}: {made.path.stat().st_size:,} bytes, {made.files} files, of run {made.run.id} ({made.run.name})"
    )
    print("  " + "   ".join(f"{name} {size:,}" for name, size in sorted(made.bytes.items())))
    print(f"  {made.statement}")
    return made.path


def _check(path: Path, images: Path, install: bool) -> None:
    from distill.handin import reproduce

    found = reproduce.check(path, images, install, progress=lambda text: print(f"  {text}", flush=True))
    if found.problems:
        for problem in found.problems:
            print(f"{path}: {problem}")
        sys.exit(1)
    print(f"{path}: reproduced, {found.rows} rows, {found.numbers:,} numbers the same to the last digit")


if __name__ == "__main__":
    cli.run(main)
