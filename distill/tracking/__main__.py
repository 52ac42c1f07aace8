"""python -m distill.tracking ui [--port PORT] [--store DIR]: look at the runs in a browser.

python -m distill.tracking upload [RUN ...] [--uri URI] [--store DIR]: send what was logged while the server was away.
python -m distill.tracking moved [--store DIR]: after a store was moved or copied, let its runs have their files there.
"""

from __future__ import annotations

import sys
from pathlib import Path

from distill import cli


def parser() -> cli.Parser:
    """Of the three commands."""
    store = cli.Parser(add_help=False)
    cli.add_store_argument(store)
    made = cli.Parser(prog="python -m distill.tracking", description="Show and maintain a store of runs.")
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    ui = commands.add_parser("ui", parents=[store], help="serve MLflow's pages of the runs to a browser")
    ui.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default: %(default)s, this machine only)"
    )
    ui.add_argument("--port", type=cli.whole(1, 65535), default=5000, help="port to listen at (default: %(default)s)")
    ui.add_argument("--uri", default="", help="another store (default: $MLFLOW_TRACKING_URI, else the database in DIR)")
    ui.add_argument("--experiment", metavar="NAME", default="distill", help="shown first (default: %(default)s)")
    up = commands.add_parser("upload", parents=[store], help="send runs that were logged offline; safe to repeat")
    up.add_argument("runs", nargs="*", metavar="RUN", help="run ids or offline-... names (default: all not sent yet)")
    up.add_argument("--uri", default="", help="send to this tracking URI (default: the one in each run's config)")
    commands.add_parser(
        "moved", parents=[store], help="after a store was moved or copied: set the places of artifacts to its new one"
    )
    return made


def main(argv: list[str]) -> None:
    """Exit code 1: something is left to send. Raises UserError."""
    args = parser().parse_args(argv)
    from distill import tracking as track
    from distill.config import TrackingConfig

    if args.command == "ui":
        from distill.tracking.ui import serve

        uri = track.tracking_uri(TrackingConfig(store=args.store, uri=args.uri))
        serve(uri, args.experiment, args.host, args.port)
    elif args.command == "moved":
        from distill.tracking.database import relocate

        counts = relocate(Path(args.store))
        for folder, runs in counts.items():
            print(f"{runs} runs that were in '{folder}' are in '{args.store}' now")
        if not counts:
            print(f"All runs of '{args.store}' have their files there already.")
    elif not track.upload(track.store_root(TrackingConfig(store=args.store)), args.runs, args.uri):
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main)
