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
    args = parser.parse_args(argv)
    if args.images and not Path(args.images).is_dir():
        raise UserError(f"--images '{args.images}' is not a folder.")
    out = cli.check_out(args.out)
    reference = resolve_model(args.model, TrackingConfig(store=args.store))
    from distill.data.annotations import read_set
    from distill.export import job as exporting

    images = read_set(Path(args.images), need_labels=False) if args.images else None
    made = exporting.export(reference.path, out, images)
    print(f"{made.weights}: {made.weights.stat().st_size:,} bytes, float32")
    print(f"{made.onnx}: {made.onnx.stat().st_size:,} bytes, within {made.parity:.6f} px of the torch student")
    if made.submission:
        print(f"{made.submission}: {len(images)} rows of 137 fields, read back and checked")


if __name__ == "__main__":
    cli.run(main)
