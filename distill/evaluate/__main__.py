"""Entry point: measure a model on a labelled set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill import cli
from distill.config import Config, TrackingConfig
from distill.models.references import config_of, resolve_model

if TYPE_CHECKING:
    from distill.metrics import Report
    from distill.metrics.calibration import Reliability

NORMALIZERS = ("image", "bbox", "interocular")


def main(argv: list[str]) -> None:
    """Measure a model on a labelled set from the command line."""
    parser = cli.Parser(
        prog="python -m distill.evaluate",
        description="NME in percent by region and yaw, CED, worst images: JSON and pictures.",
    )
    cli.add_model_arguments(parser)
    text = "folder of one labelled set (default: the validation set of the model's run)"
    parser.add_argument("--data", metavar="DIR", type=cli.folder, help=text)
    cli.add_out_argument(parser, "outputs/evaluation")
    parser.add_argument(
        "--normalizer", choices=NORMALIZERS, default="image", help="image: sqrt(W*H), the challenge's 384 (default)"
    )
    parser.add_argument("--flip", action="store_true", help="average with the mirror image (twice the work)")
    cli.add_on_bad_argument(parser)
    args = parser.parse_args(argv)
    tracking = TrackingConfig(store=args.store)
    reference = resolve_model(args.model, tracking)
    from distill.evaluate import job as evaluation
    from distill.models.files import load_model

    model, described = load_model(reference.path)
    labelled = evaluation.read_for(model.markup, config_of(reference, tracking) or Config(), args.data, args.on_bad)
    predictions = evaluation.predict_set(model, labelled, flip=args.flip)
    report = evaluation.measure(predictions, labelled, args.normalizer)
    label = reference.label + (" (flip)" if args.flip else "")
    facts = {
        "model": args.model,
        "about": described["about"],
        "data": labelled.folder.name,
        "fingerprint": labelled.fingerprint,
        "images": len(labelled),
        "flip": args.flip,
        "mean_confidence": float(predictions.confidence.mean()),
    }
    held = evaluation.expected_errors(described, predictions, labelled, f"Model '{args.model}'")
    if held:
        facts["expected_errors"] = held.to_dict()
    evaluation.write_json(
        args.out / "report.json",
        facts | report.to_dict() | {"names": list(labelled.names), "left_out": dict(labelled.skipped)},
    )
    evaluation.pictures(args.out / "pictures", labelled, {label: predictions}, {label: report}, expected=held)
    print(f"{label} on {labelled.folder.name}: {len(labelled)} images, errors in percent of '{args.normalizer}'")
    _print_report(report, evaluation.confidence_lines(report), held)
    print(f"  {args.out / 'report.json'}, pictures in {args.out / 'pictures'}")
    cli.stop_if_left_out(labelled.skipped)


def _print_report(report: Report, shifts: list[str], held: Reliability | None) -> None:
    print(f"  NME {report.nme:.3f}   median {report.median:.3f}   95th percentile {report.p95:.3f}")
    print(f"  failures above 8 %: {100 * report.failure_rate:.1f} % of images   AUC to 8 %: {report.auc:.3f}")
    print("  " + "   ".join(f"{name} {value:.2f}" for name, value in report.by_region.items()))
    for angle, bins in (("yaw", report.by_yaw), ("roll", report.by_roll)):
        cells = [(name.replace("_", " "), cell) for name, cell in bins.items() if cell]
        if cells:
            print(f"  {angle} " + "   ".join(f"{name}: {cell['nme']:.2f} ({cell['count']})" for name, cell in cells))
    print("  by confidence, and how far towards the middle:", *shifts, sep="\n    ")
    if held:
        print(
            f"  expected error {held.expected:.2f}, true {held.true:.2f} (of the image side); rank correlation "
            f"{held.by_image.rank_correlation:.2f} by image, {held.by_point.rank_correlation:.2f} by point"
        )


if __name__ == "__main__":
    cli.run(main)
