"""Entry point: a page and a PDF about runs, ablations or a whole experiment."""

from __future__ import annotations

from distill import cli
from distill.config import TrackingConfig
from distill.errors import UserError


def main(argv: list[str]) -> None:
    """Read the arguments, write page and PDF, print where they are."""
    parser = cli.Parser(
        prog="python -m distill.report",
        description="Write report.html, one self-contained page, and report.pdf, at most four pages, from MLflow.",
    )
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="run id, its beginning, or name: teachers, students, ablations"
    )
    parser.add_argument(
        "--experiment",
        metavar="NAME",
        default="",
        help="the best student of this MLflow experiment, its control, teacher, ablations",
    )
    cli.add_out_argument(parser, "outputs/report")
    text = "show images of this labelled set, not of the validation set"
    parser.add_argument("--data", metavar="DIR", type=cli.folder, help=text)
    parser.add_argument("--title", metavar="TEXT", default="", help="title of the report")
    cli.add_store_argument(parser)
    parser.add_argument("--no-log", action="store_true", help="do not store the report with the student's run")
    args = parser.parse_args(argv)
    if bool(args.runs) == bool(args.experiment):
        raise UserError("Give either runs or --experiment NAME. See --help.")
    from distill.report.job import report

    written = report(
        args.runs,
        TrackingConfig(store=args.store),
        args.out,
        experiment=args.experiment,
        data=args.data,
        title=args.title,
        keep=not args.no_log,
    )
    print(written.headline)
    print(f"  {written.html}   {written.html.stat().st_size / 1e6:.1f} MB, one file")
    if written.pdf:
        print(f"  {written.pdf.path}   {written.pdf.pages} pages")
        if written.pdf.left_out:
            print(f"  for want of room only in the page: {'; '.join(written.pdf.left_out)}")
    else:
        print("  no PDF: PlutoPrint has no build for this platform; a browser prints the page in the same shape")
    if written.run_id:
        print(f"  both are in the artifacts of run {written.run_id}")


if __name__ == "__main__":
    cli.run(main)
