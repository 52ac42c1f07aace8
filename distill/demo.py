"""Door: the whole way on the bundled sample: teacher, control, distilled student, evaluation, export."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from distill import cli
from distill import config as configs

EXPERIMENTS, FILES = Path("experiments/demo"), ("teacher", "student", "distill")


def main(argv: list[str]) -> None:
    parser = cli.Parser(
        prog="python -m distill.demo",
        description="Train a small teacher, a control and a distilled student on the bundled sample; evaluate and export. "
        "Some minutes on two CPU cores; shows the way, not the quality.",
    )
    parser.add_argument("--out", metavar="DIR", default="outputs/demo", help="default: %(default)s")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="for all three runs, e.g. seed=1 train.epochs=2"
    )
    args = parser.parse_args(argv)
    out = cli.check_out(args.out)
    files = [cli.experiment_file(EXPERIMENTS / f"{name}.yaml", "run it there") for name in FILES]
    teacher, control, distilled = (configs.load(file, args.overrides) for file in files)

    from distill import metrics
    from distill.data import SAMPLE_ROOT
    from distill.evaluate import __main__ as evaluate
    from distill.export import __main__ as export
    from distill.training import job as training

    def on_sample(config: configs.Config, **fields) -> configs.Config:
        return dataclasses.replace(config, data=dataclasses.replace(config.data, root=str(SAMPLE_ROOT)), **fields)

    store = distilled.tracking.store
    taught = training.train_teacher(on_sample(teacher))
    alone = training.train_student(on_sample(control))
    student = training.train_student(on_sample(distilled, teacher=taught.run_id))

    print("\nEvaluate:")
    evaluate.main(
        [
            student.run_id,
            "--data",
            str(SAMPLE_ROOT / "synthetics_val"),
            "--out",
            str(out / "evaluation"),
            "--store",
            store,
        ]
    )
    print("\nExport:")
    export.main([student.run_id, "--out", str(out), "--images", str(SAMPLE_ROOT / "synthetics_test"), "--store", store])

    print(f"\n{'':12}{'val NME %':>10}{'MB':>8}{'ms (1 CPU thread)':>20}   run")
    for label, result in (("teacher", taught), ("control", alone), ("distilled", student)):
        cost = result.cost
        print(
            f"{label:12}{result.report.nme:>10.3f}{cost.file_bytes / 1e6:>8.2f}{cost.latency_ms:>20.1f}   {result.run_id}"
        )
    gain = metrics.paired_bootstrap(student.report.per_image, alone.report.per_image)
    print(
        f"\nDistilled minus control: {gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}], {gain.p_statement} (bootstrap over "
        f"{student.report.count} images, one seed, rendered faces: a demonstration, not a result)"
    )
    print(f"\nstudent     {out / 'student.safetensors'} and {out / 'student.onnx'}")
    print(f"submission  {out / 'solution.zip'}")
    print(f"pictures    {out / 'evaluation' / 'pictures'}, and those of every run in MLflow:")
    print("            make ui      (then open http://127.0.0.1:5000)")


if __name__ == "__main__":
    cli.run(main)
