"""Entry point: where a training step's time and memory go, a trace of it, its cost by batch and input size."""

from __future__ import annotations

from distill import cli
from distill.errors import UserError
from distill.schema import shown


def main(argv: list[str]) -> None:
    """Profile the training of an experiment file from the command line."""
    parser = cli.Parser(
        prog="python -m distill.profile",
        description="Take some steps of a training and show where their time goes; no run is kept. Writes "
        "profile.json, trace.json.gz (open it at https://ui.perfetto.dev) and cost.png.",
    )
    parser.add_argument("config", metavar="CONFIG", help="experiment file")
    cli.add_overrides_argument(parser, "e.g. train.batch_size=32 teacher=RUN_ID")
    parser.add_argument("--job", choices=("student", "teacher"), default="student", help="default: %(default)s")
    parser.add_argument(
        "--untrained-teacher",
        metavar="FILE",
        type=cli.file,
        help="experiment file whose model, with random weights, stands for the teacher: it costs the same",
    )
    steps = cli.whole(1, 100_000)
    parser.add_argument("--steps", type=steps, default=10, metavar="N", help="measured steps (default: %(default)s)")
    parser.add_argument("--batches", default="", metavar="N,N,...", help="of cost.png (default: up to the config's)")
    parser.add_argument("--sizes", default="", metavar="S,S,...", help="of cost.png (default: around the config's)")
    cli.add_out_argument(parser, "outputs/profile")
    cli.add_store_argument(parser)
    args = parser.parse_args(argv)
    out = args.out
    batches, sizes = _numbers("--batches", args.batches, 100_000), _numbers("--sizes", args.sizes, 4096)
    config = cli.read_train_config(args.config, args.overrides, "")
    from distill.profile import job

    found = job.profile(config, args.job, out, args.steps, batches, sizes, args.untrained_teacher)
    print(job.to_text(found))
    print(f"  {out}/profile.json  {out}/trace.json.gz  {out}/cost.png")


def _numbers(option: str, text: str, most: int) -> tuple[int, ...]:
    words = text.split(",") if text else []
    if not all(word.isdecimal() and len(word) < 10 and 0 < int(word) <= most for word in words):
        raise UserError(f"{option} is {shown(text)}; expected whole numbers from 1 to {most}, such as 8,16,32.")
    return tuple(map(int, words))


if __name__ == "__main__":
    cli.run(main)
