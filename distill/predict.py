"""Door: landmarks for a folder of images, as JSON and drawn pictures."""

from __future__ import annotations

from pathlib import Path

from distill import cli
from distill.config import TrackingConfig
from distill.errors import UserError
from distill.jobs.references import resolve_model


def main(argv: list[str]) -> None:
    parser = cli.Parser(
        prog="python -m distill.predict",
        description="Predict 68 landmarks and confidences for a folder of face crops; the whole picture is the crop.",
    )
    cli.add_model_arguments(parser)
    parser.add_argument("images", metavar="FOLDER", help="folder of JPEG or PNG images")
    parser.add_argument("--out", metavar="DIR", default="outputs/predictions", help="default: %(default)s")
    parser.add_argument("--no-pictures", action="store_true", help="write landmarks.json only")
    args = parser.parse_args(argv)
    if not Path(args.images).is_dir():
        raise UserError(f"'{args.images}' is not a folder; expected one that holds JPEG or PNG images.")
    reference = resolve_model(args.model, TrackingConfig(store=args.store))
    from distill.data.annotations import read_set
    from distill.jobs import evaluation
    from distill.models.files import load_model

    images = read_set(Path(args.images), need_labels=False)
    found = evaluation.predict_set(load_model(reference.path)[0], images)
    out = Path(args.out)
    evaluation.write_predictions(out, images, found, pictures=not args.no_pictures)
    print(f"{len(images)} images -> {out / 'landmarks.json'}" + ("" if args.no_pictures else f", pictures in {out}"))


if __name__ == "__main__":
    cli.run(main)
