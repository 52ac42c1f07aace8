"""Entry point: the student file under 15 MB, its ONNX form, and the submission."""

from __future__ import annotations

from distill import cli
from distill.config import Config, TrackingConfig
from distill.models.references import config_of, resolve_model


def main(argv: list[str]) -> None:
    """Write the files of a student from the command line."""
    parser = cli.Parser(
        prog="python -m distill.export",
        description="Check a student against the challenge's rules; write student.safetensors, student.onnx and "
        "solution.zip.",
    )
    cli.add_model_arguments(parser)
    cli.add_out_argument(parser)
    text = "also predict this folder of images into solution.zip"
    parser.add_argument("--images", metavar="DIR", type=cli.folder, help=text)
    cli.add_on_bad_argument(parser)
    parser.add_argument(
        "--calibrate",
        metavar="DIR",
        type=cli.folder,
        help="fit each point's expected error on these labelled renders, which the student has not seen, and keep it "
        "in the files",
    )
    args = parser.parse_args(argv)
    tracking = TrackingConfig(store=args.store)
    reference = resolve_model(args.model, tracking)
    from distill.data.annotations import read_set
    from distill.evaluate.job import read_for
    from distill.export import job as exporting
    from distill.models.files import markup_of, read_description

    images = held_out = None
    if args.images:
        images = read_set(args.images, need_labels=False, on_bad=args.on_bad, decode=True)
    if args.calibrate:
        markup = markup_of(reference.path, read_description(reference.path))
        held_out = read_for(markup, config_of(reference, tracking) or Config(), args.calibrate, args.on_bad)
    made = exporting.export(reference.path, args.out, images, held_out)
    print(f"{made.weights}: {made.weights.stat().st_size:,} bytes, float32")
    print(f"{made.onnx}: {made.onnx.stat().st_size:,} bytes, within {made.parity:.6f} px of the torch student")
    if held_out:
        print(
            f"expected errors fitted on {len(held_out)} images of {held_out.folder.name}, "
            f"fingerprint {held_out.fingerprint}"
        )
    if made.submission:
        print(f"{made.submission}: {len(images)} rows of 137 fields, read back and checked")
    cli.stop_if_left_out([image for used in (held_out, images) if used for image in used.skipped])


if __name__ == "__main__":
    cli.run(main)
