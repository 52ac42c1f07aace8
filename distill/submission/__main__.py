"""Entry point: make, check, score and log the challenge's submissions."""

from __future__ import annotations

import datetime
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from distill import cli
from distill.config import TrackingConfig
from distill.errors import UserError
from distill.submission import file as submission

SHOWN = 20  # problems of an invalid file


def main(argv: list[str]) -> None:
    """Make, check, score and log submissions from the command line."""
    args = _parser().parse_args(argv)
    args.run_command(args)


def make(args) -> None:
    """Write a submission of a model for a folder of images."""
    from distill.models.references import resolve_model

    if Path(args.out).is_dir():
        raise UserError(f"--out '{args.out}' is a folder; expected the name of a zip.")
    cli.check_out(Path(args.out).parent)
    reference = resolve_model(args.model, TrackingConfig(store=args.store))
    from distill.data.annotations import read_set
    from distill.submission import job as submitting

    images = read_set(args.images, need_labels=False, on_bad=args.on_bad, decode=True)
    path = submitting.make(reference.path, images, Path(args.out))
    print(f"{path}: {len(images)} rows of {submission.FIELDS} fields by {reference.label}, read back and checked")
    print(f"  sha256 {submission.sha256(path)}")
    cli.stop_if_left_out(images.skipped)


def check(args) -> None:
    """Prints what is wrong, or what the file holds; exit code 1 for an invalid file."""
    file = args.file
    names: Sequence[str] | None = None
    if args.images:
        from distill.data.annotations import picture_names

        names = picture_names(args.images)
    elif args.names:
        names = submission.read_names(Path(args.names))
    alone = "only the form was checked; --images DIR or --names FILE check the image names too"
    problems = submission.check(file, names)
    if problems:
        for problem in problems[:SHOWN]:
            print(problem)
        if len(problems) > SHOWN:
            print(f"... and {len(problems) - SHOWN} more")
        print(
            f"{file}: invalid, {len(problems)} problem{'s' if len(problems) > 1 else ''}"
            + ("" if names else f" ({alone})")
        )
        sys.exit(1)
    found, points = submission.read(file)
    print(
        f"{file}: valid, {len(found)} row{'s' if len(found) > 1 else ''} of {submission.FIELDS} fields "
        f"in one file '{submission.MEMBER}'"
    )
    (x0, y0), (x1, y1) = points.min(axis=(0, 1)), points.max(axis=(0, 1))
    print(f"  x {x0:.1f} to {x1:.1f}, y {y0:.1f} to {y1:.1f}; sha256 {submission.sha256(file)}")
    print(f"  each of the {len(names)} images is there once, and no other" if names else f"  {alone}")


def score(args) -> None:
    """Print NME and the spread of public and private scores on labelled images."""
    file = args.file
    from distill.data.annotations import read_set
    from distill.submission import job as submitting

    labelled = read_set(args.data)
    if labelled.boxes is not None:
        raise UserError(
            f"--data '{args.data}' is in Microsoft's layout, whose labels are read in a crop of each picture; expected "
            "the challenge's layout (annot.pkl), in whose pixels a submission is."
        )
    found = submitting.score(file, labelled, seed=args.seed)
    report, split = found.report, found.split
    print(f"{file} on {labelled.folder.name}: {report.count} images, errors in percent of sqrt(W * H)")
    print(f"  NME {report.nme:.4f}   median {report.median:.4f}   95th percentile {report.p95:.4f}")
    print("  " + "   ".join(f"{name} {value:.3f}" for name, value in report.by_region.items()))
    if split is None:
        print("  one image cannot be split into public and private ones")
        return
    print(
        f"  public {split.public}, private {split.private} images, {submitting.SPLITS} random splits: "
        f"the public score has a standard deviation of {split.deviation:.4f}"
    )
    print(
        f"  public minus private: {split.low:+.4f} to {split.high:+.4f} in 95 % of the splits; "
        f"on average {split.gap:.4f} apart, at most {split.widest:.4f}"
    )


def log(args) -> None:
    """Enter a public score into the ledger."""
    file = args.file
    from distill.submission import job as submitting

    logged = submitting.log(
        file, args.public, TrackingConfig(store=args.store), run=args.run, date=args.date, note=args.note
    )
    entry = logged.entry
    what = f"logged, public score {entry.public:g} %"
    if logged.before is not None:
        what = f"was logged before; its public score is now {entry.public:g} % (it was {logged.before:g} %)"
    print(f"{file}: {what}, {entry.date.isoformat()}")
    made = f"made by run {entry.run_id} ({entry.run_name})"
    print(f"  {made if entry.run_id else 'no run of this store is known to have made it; name one with --run'}")
    for warning in logged.warnings:
        print(f"warning: {warning}", file=sys.stderr)


def show_ledger(args) -> None:
    """Print all entries, oldest first."""
    from distill import tracking as track
    from distill.submission import job as submitting

    tracking = TrackingConfig(store=args.store)
    if not track.exists(tracking):
        raise UserError(f"There is no ledger in {track.redact(track.tracking_uri(tracking))}, which does not exist.")
    known = submitting.entries(tracking)
    if not known:
        print("Nothing was submitted yet: log a file with `python -m distill.submission log FILE --public NME`.")
        return
    best = min(entry.public for entry in known)
    print(f"{'date':10}  {'public %':>8}   {'val %':>6}  {'file':16}  {'sha256':8}  run")
    for entry in known:
        val = "-" if math.isnan(entry.val) else f"{entry.val:.3f}"
        run = f"{entry.run_id[:8]} {entry.run_name}" if entry.run_id else "-"
        mark = "*" if entry.public == best else " "
        line = (
            f"{entry.date.isoformat()}  {entry.public:>8g} {mark} {val:>6}  {entry.file:16}  {entry.sha256[:8]}  {run}"
        )
        print(line + (f"  {entry.note}" if entry.note else ""))
    today = datetime.date.today()
    count = sum(entry.date == today for entry in known)
    print(
        f"{len(known)} of {submitting.IN_ALL} in all, {count} of {submitting.A_DAY} today ({today.isoformat()}); * best"
    )


# ---------------------------------------------------------------------------------------------------- arguments


def _parser() -> cli.Parser:
    parser = cli.Parser(prog="python -m distill.submission", description="Make, check, score and log solution.zip.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run, summary: str) -> cli.Parser:
        added = commands.add_parser(name, help=summary, description=summary)
        added.set_defaults(run_command=run)
        return added

    added = command("make", make, "predict a folder of images into a submission")
    cli.add_model_arguments(added)
    added.add_argument("--images", metavar="DIR", type=cli.folder, required=True, help="the images to predict")
    cli.add_on_bad_argument(added)
    added.add_argument("--out", metavar="FILE", default="solution.zip", help="default: %(default)s")

    added = command("check", check, "all that is wrong with a submission, and where; exit code 1 for an invalid one")
    added.add_argument("file", metavar="FILE", type=cli.file, help="a zip with solution.txt in it")
    group = added.add_mutually_exclusive_group()
    group.add_argument(
        "--images", metavar="DIR", type=cli.folder, help="it must hold the images of this folder, each once"
    )
    group.add_argument("--names", metavar="FILE", help="it must hold the images that this file names, one a line")

    added = command("score", score, "NME where there are labels, and how far public and private score may lie apart")
    added.add_argument("file", metavar="FILE", type=cli.file, help="a zip with solution.txt in it")
    added.add_argument("--data", metavar="DIR", type=cli.folder, required=True, help="folder of one labelled set")
    added.add_argument("--seed", type=cli.whole(0), default=0, help="of the random splits (default: %(default)s)")

    added = command("log", log, "enter what was submitted, and its public score, in the ledger")
    added.add_argument("file", metavar="FILE", type=cli.file, help="the zip as it was submitted")
    added.add_argument("--public", metavar="NME", type=float, required=True, help="public score in percent, as 2.31")
    added.add_argument("--run", default="", help="the run that made it (default: the one that exported these bytes)")
    added.add_argument("--date", type=_date, help="when, as 2026-11-22 (default: today)")
    added.add_argument("--note", metavar="TEXT", help="a remark for the ledger")
    cli.add_store_argument(added)

    cli.add_store_argument(command("ledger", show_ledger, "what was submitted, when, with which run"))
    return parser


def _date(text: str) -> datetime.date:
    try:
        if len(text) == len("2026-11-22"):
            return datetime.date.fromisoformat(text)
    except ValueError:
        pass
    raise UserError(f"--date '{text}' is not a date; expected one as 2026-11-22.")


if __name__ == "__main__":
    cli.run(main)
