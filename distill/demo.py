"""Entry point: teacher, control and distilled student on the bundled sample, then evaluation and export."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from distill import cli
from distill import config as configs

if TYPE_CHECKING:
    from distill.tracking import RunInfo

EXPERIMENTS = Path("experiments/demo")
MODELS = {"teacher": "teacher", "control": "student", "distilled": "distill"}  # label -> experiment file


def main(argv: list[str]) -> None:
    """The whole story on the bundled sample: teacher, control, distilled student, evaluation, export."""
    parser = cli.Parser(
        prog="python -m distill.demo",
        description="Train a small teacher, a control and a distilled student on the bundled sample; evaluate and "
        "export. A few minutes on two CPU cores. It shows how the parts fit, not what they can reach. Interrupted, the "
        "same command continues.",
    )
    parser.add_argument("--out", metavar="DIR", default="outputs/demo", help="default: %(default)s")
    cli.add_store_argument(parser)
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="for all three runs, e.g. seed=1 train.epochs=2"
    )
    args = parser.parse_args(argv)
    out = cli.check_out(args.out)
    files = {label: cli.experiment_file(EXPERIMENTS / f"{name}.yaml", "run it there") for label, name in MODELS.items()}
    recipes = {label: configs.load(file, args.overrides) for label, file in files.items()}

    from distill.data import SAMPLE_ROOT

    runs: dict[str, RunInfo] = {}
    for label, config in recipes.items():
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, root=str(SAMPLE_ROOT)))
        if config.distill.terms:
            config = dataclasses.replace(config, teacher=runs["teacher"].id)
        runs[label] = _trained(label, config)
    _evaluate_and_export(runs["distilled"].id, out, config.tracking.store, SAMPLE_ROOT)
    _print_summary(runs, config.tracking, out)


def _trained(label: str, config: configs.Config) -> RunInfo:
    """The finished run of this recipe: found in the store, continued from its checkpoint, or trained."""
    from distill import tracking
    from distill.runs.find_or_train import Cell, settle

    outcome = settle(Cell(label, "teacher" if label == "teacher" else "student", config))
    if outcome.how == "found":
        print(f"{label}: trained before, run {outcome.run_id}")
    return tracking.find_run(config.tracking, outcome.run_id)


def _evaluate_and_export(run_id: str, out: Path, store: str, sample: Path) -> None:
    from distill.evaluate import __main__ as evaluate
    from distill.export import __main__ as export

    print("\nEvaluate:")
    evaluate.main(
        [run_id, "--data", str(sample / "synthetics_val"), "--out", str(out / "evaluation"), "--store", store]
    )
    print("\nExport:")
    export.main([run_id, "--images", str(sample / "synthetics_test"), "--out", str(out), "--store", store])


def _print_summary(runs: dict[str, RunInfo], tracking: configs.TrackingConfig, out: Path) -> None:
    from distill.metrics import compare_runs
    from distill.tracking import read_errors

    print(f"\n{'':12}{'val NME %':>10}{'MB':>8}{'ms (1 CPU thread)':>20}   run")
    for label, run in runs.items():
        nme, size, latency = (run.metrics[key] for key in ("best/val/nme", "model/file_bytes", "model/latency_ms"))
        print(f"{label:12}{nme:>10.3f}{size / 1e6:>8.2f}{latency:>20.1f}   {run.id}")
    distilled, control = ([read_errors(tracking, runs[label].id)] for label in ("distilled", "control"))
    print(f"\nDistilled minus control: {compare_runs(distilled, control)}")
    print(f"\nstudent     {out / 'student.safetensors'} and {out / 'student.onnx'}")
    print(f"submission  {out / 'solution.zip'}")
    print(f"pictures    {out / 'evaluation' / 'pictures'}; all runs: make ui")


if __name__ == "__main__":
    cli.run(main)
