"""Entry point: landmarks for pictures, folders, video and camera, as JSON or CSV and drawn."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from distill import cli
from distill.errors import UserError

if TYPE_CHECKING:
    from distill.predict.job import Predicted


def main(argv: list[str]) -> None:
    """Landmarks of pictures, a film or a camera from the command line."""
    args = _parser().parse_args(argv)
    from distill.predict import boxes
    from distill.predict.job import Options, check_sources, kind_of, list_pictures, predict_pictures

    check_sources(args.sources)
    moving = kind_of(args.sources[0]) in ("video", "camera")
    if args.smooth and not moving:
        raise UserError(f"--smooth is for video; '{args.sources[0]}' is a {kind_of(args.sources[0])}.")
    if args.box_scale is not None and not args.boxes:
        raise UserError("--box-scale is for --boxes FILE; without boxes the whole picture is the crop.")
    options = Options(
        out=args.out,
        format=args.format,
        draw=not args.no_pictures,
        smooth=args.smooth,
        boxes=boxes.read(Path(args.boxes)) if args.boxes else None,
        on_bad=args.on_bad,
        **({} if args.box_scale is None else {"box_scale": args.box_scale}),
    )
    from distill.predict.load import load_student

    # each picture has a thread, and each frame of a video has all of them
    student = load_student(args.model, args.store, threads=None if moving else 1)
    print(f"{student.label}: {student.markup.count} landmarks of {student.markup.name}")
    if moving:
        from distill.predict.video_job import predict_video

        made = predict_video(student, args.sources[0], options)
        _print_video(made, args.smooth)
    else:
        made = predict_pictures(student, list_pictures(args.sources), options)
        _print_pictures(made)
    if made.left_out:
        _print_left_out(made.left_out, args.out)
        sys.exit(1)


SHOWN = 5  # of the pictures that were left out


def _print_pictures(made: Predicted) -> None:
    counted = f"{made.pictures} images" + (f", {made.faces} faces" if made.faces != made.pictures else "")
    drawn = f", pictures in {made.drawn}" if made.drawn else ""
    print(f"{counted} -> {made.landmarks}{drawn}")
    if made.unboxed:
        print(f"  {made.unboxed} images have no box; the whole picture was the crop")
    if made.letterboxed:
        print(f"  {made.letterboxed} images are far from square and have no box: a face fills little of the crop")
    if made.unused_boxes:
        print(f"  {len(made.unused_boxes)} images of the box file are not here, such as '{made.unused_boxes[0]}'")
    print(f"  mean confidence {made.confidence:.2f}, {1000 * made.seconds / made.pictures:.0f} ms an image")


def _print_video(made: Predicted, smoothed: bool) -> None:
    print(f"{made.pictures} frames -> {made.landmarks}" + ("  (smoothed)" if smoothed else ""))
    if made.drawn:
        print(f"  landmarks drawn {made.drawn}")
    print(f"  {made.calm.sentence(made.fps)}")
    print(f"  mean confidence {made.confidence:.2f}, {made.pictures / made.seconds:.1f} frames a second")


def _print_left_out(left_out: dict[str, str], out: Path) -> None:
    print(f"{len(left_out)} left out:", file=sys.stderr)
    for name, reason in list(left_out.items())[:SHOWN]:
        print(f"  {name}: {reason}", file=sys.stderr)
    if len(left_out) > SHOWN:
        print(f"  ... all in {out / 'left_out.txt'}", file=sys.stderr)


def _parser() -> cli.Parser:
    parser = cli.Parser(
        prog="python -m distill.predict",
        description="Predict landmarks and their confidences. An .onnx file, as `python -m distill.export` writes it, "
        "needs no torch. Without face boxes the whole picture is the face's crop.",
    )
    cli.add_model_arguments(parser, onnx=True)
    parser.add_argument(
        "sources",
        metavar="IMAGES",
        nargs="+",
        help="pictures, folders of pictures, one video, or camera:N (Ctrl-C stops)",
    )
    parser.add_argument(
        "--boxes", metavar="FILE", help="face boxes, CSV or JSON: image,x,y,w,h; for a video, frame numbers"
    )
    parser.add_argument(
        "--box-scale", type=float, metavar="K", help="side of the crop over that of the box (default: 1.75)"
    )
    parser.add_argument(
        "--format", choices=("json", "csv"), default="json", help="of the landmarks (default: %(default)s)"
    )
    cli.add_out_argument(parser, "outputs/predictions")
    parser.add_argument("--no-pictures", action="store_true", help="write the landmarks only")
    parser.add_argument("--smooth", action="store_true", help="video: smooth the points with a One-Euro filter")
    cli.add_on_bad_argument(parser)
    return parser


if __name__ == "__main__":
    cli.run(main)
