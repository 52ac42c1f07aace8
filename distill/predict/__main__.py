"""Door: landmarks for pictures, folders, video and camera, as JSON or CSV and drawn."""

from __future__ import annotations

from pathlib import Path

from distill import cli
from distill.errors import UserError


def main(argv: list[str]) -> None:
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
    parser.add_argument("--out", metavar="DIR", default="outputs/predictions", help="default: %(default)s")
    parser.add_argument("--no-pictures", action="store_true", help="write the landmarks only")
    parser.add_argument("--smooth", action="store_true", help="video: calm the points by a One-Euro filter")
    parser.add_argument("--puppet", action="store_true", help="video: a drawn face that does what the face does")
    args = parser.parse_args(argv)
    from distill.predict import boxes
    from distill.predict import job as predicting

    out = cli.check_out(args.out)
    predicting.check_sources(args.sources)
    moving = predicting.kind_of(args.sources[0]) in ("video", "camera")
    for name, given in (("--smooth", args.smooth), ("--puppet", args.puppet)):
        if given and not moving:
            raise UserError(f"{name} is for video; '{args.sources[0]}' is a {predicting.kind_of(args.sources[0])}.")
    if args.box_scale is not None and not args.boxes:
        raise UserError("--box-scale is for --boxes FILE; without boxes the whole picture is the crop.")
    wanted = predicting.Wanted(
        out=out,
        format=args.format,
        draw=not args.no_pictures,
        smooth=args.smooth,
        puppet=args.puppet,
        boxes=boxes.read(Path(args.boxes)) if args.boxes else None,
        **({} if args.box_scale is None else {"box_scale": args.box_scale}),
    )
    from distill.predict.load import load_student

    student = load_student(args.model, args.store)
    print(f"{student.label}: {student.markup.count} landmarks of {student.markup.name}")
    if moving:
        tell_video(predicting.predict_video(student, args.sources[0], wanted), args.smooth)
    else:
        tell_pictures(predicting.predict_pictures(student, predicting.list_pictures(args.sources), wanted))


def tell_pictures(made) -> None:
    """Print what came of pictures (a jobs.predicting.Made)."""
    counted = f"{made.pictures} images" + (f", {made.faces} faces" if made.faces != made.pictures else "")
    drawn = f", pictures in {made.drawn}" if made.drawn else ""
    print(f"{counted} -> {made.landmarks}{drawn}")
    if made.unboxed:
        print(f"  {made.unboxed} images have no box; of those the whole picture was the crop")
    print(f"  mean confidence {made.confidence:.2f}, {1000 * made.seconds / made.pictures:.0f} ms an image")


def tell_video(made, smoothed: bool) -> None:
    """Print what came of a video (a jobs.predicting.Made)."""
    print(f"{made.pictures} frames -> {made.landmarks}" + ("  (smoothed)" if smoothed else ""))
    for what, path in (("landmarks drawn", made.drawn), ("puppet", made.puppet)):
        if path:
            print(f"  {what:15} {path}")
    print(f"  {made.calm.sentence(made.fps)}")
    print(f"  mean confidence {made.confidence:.2f}, {made.pictures / made.seconds:.1f} frames a second")


if __name__ == "__main__":
    cli.run(main)
