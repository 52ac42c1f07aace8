"""Entry point: render a training set of faces."""

from __future__ import annotations

import os
from pathlib import Path

from distill import cli, cores
from distill.errors import UserError
from distill.synthesis import ELEVATION, LABELS

SIZES = (32, 1024)  # px
LAST = 999_999  # index: names have six digits
HIGHEST = 30.0  # elevation, degrees


def main(argv: list[str]) -> None:
    """Render faces with landmarks into a folder in the challenge's layout."""
    args = _parser().parse_args(argv)
    if not SIZES[0] <= args.size <= SIZES[1] or args.size % 4:
        raise UserError(f"--size is {args.size}; expected a multiple of 4 from {SIZES[0]} to {SIZES[1]}.")
    if not 0 <= args.elevation <= HIGHEST:
        raise UserError(f"--elevation is {args.elevation:g}; expected 0 to {HIGHEST:g} degrees.")
    if args.start + args.count - 1 > LAST:
        raise UserError(
            f"The last image would be {args.start + args.count - 1}; expected --start and --count up to {LAST}."
        )
    if not args.set or Path(args.set).name != args.set:
        raise UserError(f"--set is '{args.set}'; expected the plain name of a folder.")
    root = cli.check_out(args.out)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process is a core
    from distill.synthesis import job, preview

    request = job.Request(
        root / args.set, args.seed, args.size, args.start, args.count, args.jobs, args.elevation, args.labels
    )
    result = job.make(request)
    faces = result.faces
    print(f"{faces.folder}: {len(faces)} images of {args.size} x {args.size} px, {faces.names[0]} to {faces.names[-1]}")
    rate = f" in {result.seconds:.0f} s, {result.rendered / result.seconds:.1f} images/s" if result.rendered else ""
    print(f"  rendered now  {result.rendered}{rate}")
    print(f"  fingerprint   {faces.fingerprint}")
    if args.preview:
        print(f"  preview       {preview.write(faces, root / f'{args.set}.png')}")


def _parser() -> cli.Parser:
    parser = cli.Parser(
        prog="python -m distill.synthesis",
        description="Render faces with their landmarks in the challenge's layout. The same command continues a run "
        "that was cut; a larger --count extends a set. An image depends on seed, index and size alone.",
    )
    parser.add_argument("--count", type=cli.whole(1), default=3000, metavar="N", help="images (default: %(default)s)")
    parser.add_argument(
        "--size", type=int, default=256, metavar="S", help="side in px, a multiple of 4 (default: %(default)s)"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="data root; the set is a folder in it")
    parser.add_argument(
        "--set", default="synthetics_train", metavar="NAME", help="the set's folder (default: %(default)s)"
    )
    parser.add_argument("--seed", type=cli.whole(0), default=20240, metavar="K", help="default: %(default)s")
    parser.add_argument(
        "--start", type=cli.whole(0), default=0, metavar="I", help="first index, for other faces (default: %(default)s)"
    )
    parser.add_argument(
        "--elevation",
        type=float,
        default=ELEVATION,
        metavar="DEG",
        help="spread of the camera's elevation where a head is turned to the side, degrees; 0: always at the height of "
        "the head, as before 2026-11-27 (default: %(default)g)",
    )
    parser.add_argument(
        "--labels",
        choices=LABELS,
        default=LABELS[0],
        help="aflw: as those of AFLW2000-3D were made; vertices: where the camera sees vertices of the mesh, as until "
        "2026-11-27; the pictures are the same (default: %(default)s)",
    )
    parser.add_argument(
        "--jobs",
        type=cli.whole(1),
        default=cores.available(),
        metavar="J",
        help="processes (default: one a core, %(default)s)",
    )
    parser.add_argument("--preview", action="store_true", help="write a contact sheet with landmarks, DIR/NAME.png")
    return parser


if __name__ == "__main__":
    cli.run(main)
