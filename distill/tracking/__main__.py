"""python -m distill.tracking upload [FOLDER ...] [--uri URI]: send what was logged while the server was away.

python -m distill.tracking moved [--store DIR]: after a store was moved or copied, let its runs have their files there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from distill.errors import UserError
from distill.tracking.offline import upload
from distill.tracking.relocate import relocate


def main(argv: list[str] | None = None) -> int:
    """Exit code 0: everything is on the server; 1: something is left to send; 2: bad input."""
    parser = argparse.ArgumentParser(prog="python -m distill.tracking", description="Look after a store of runs.")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("upload", help="send spooled runs to their server; safe to repeat")
    up.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="spool folders (default: all in the store)")
    up.add_argument("--uri", default="", help="send to this tracking URI (default: the one each run was meant for)")
    up.add_argument("--store", type=Path, default=Path("mlruns"), help="local store (default: %(default)s)")
    moved = commands.add_parser("moved", help="after a store was moved or copied: artifacts are where it is now")
    moved.add_argument("--store", type=Path, default=Path("mlruns"), help="the store (default: %(default)s)")
    args = parser.parse_args(argv)
    try:
        if args.command == "moved":
            counts = relocate(args.store)
            for folder, runs in counts.items():
                print(f"{runs} runs that were in '{folder}' are in '{args.store}' now")
            if not counts:
                print(f"All runs of '{args.store}' have their files there already.")
            return 0
        folders = args.folders or sorted(path.parent for path in args.store.glob("offline/*/events.jsonl"))
        if not folders:
            print(f"Nothing is spooled in {args.store / 'offline'}.")
        return 0 if upload(folders, uri=args.uri) else 1
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
