"""Entry point: the student file under 15 MB, its ONNX form, and the submission."""

from __future__ import annotations

from pathlib import Path

from distill import cli
from distill.config import TrackingConfig
from distill.errors import UserError
from distill.models.references import resolve_model


def main(argv: list[str]) -> None:
    parser = cli.Parser(
        prog="python -m distill.export",
        description="Check a student against the challenge's rules; write student.safetensors, student.onnx and "
        "solution.zip.",
    )
    cli.add_model_arguments(parser)
    parser.add_argument("--out", metavar="DIR", required=True, help="where the files go")
    parser.add_argument("--images", metavar="DIR", help="also predict this folder of images into solution.zip")
    cli.add_on_bad_argument(parser)
    args = parser.parse_args(argv)
    if args.images and not Path(args.images).is_dir():
        raise UserError(f"--images '{args.images}' is not a folder.")
    out = cli.check_out(args.out)
    reference = resolve_model(args.model, TrackingConfig(store=args.store))
    from distill.data.annotations import read_set
    from distill.export import job as exporting

    images = None
    if args.images:
        images = read_set(args.images, need_labels=False, on_bad=args.on_bad, decode=True)
    made = exporting.export(reference.path, out, images)
    print(f"{made.weights}: {made.weights.stat().st_size:,} bytes, float32")
    print(f"{made.onnx}: {made.onnx.stat().st_size:,} bytes, within {made.parity:.6f} px of the torch student")
    if made.submission:
        print(f"{made.submission}: {len(images)} rows of 137 fields, read back and checked")
        cli.stop_if_left_out(images.skipped)


if __name__ == "__main__":
    cli.run(main)
