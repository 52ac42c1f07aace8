"""Entry point: several trainings in stages, from one file."""

from __future__ import annotations

import os
import shlex

from distill import cli
from distill.errors import UserError
from distill.recipe import file as stages


def main(argv: list[str]) -> None:
    """Train a recipe from the command line."""
    parser = cli.Parser(
        prog="python -m distill.recipe",
        description="Train a recipe's stages one after the other, under one parent run. The same command again skips "
        "finished stages and continues the one that was cut.",
    )
    parser.add_argument(
        "--config", metavar="FILE", required=True, help="a recipe, e.g. experiments/recipes/dwpose.yaml"
    )
    cli.add_store_argument(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the stages and what sets them apart, and stop")
    cli.add_overrides_argument(
        parser, "for all stages, e.g. seed=1 data.root=DIR teacher=RUN_ID; for one: stages.NAME.key=value"
    )
    args = parser.parse_args(argv)
    recipe = stages.load(args.config, args.overrides)
    if args.dry_run:
        print(stages.describe(recipe))
        return
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError("A recipe's stages are trained by one process each; expected no torchrun.")
    cli.check_roots(stage.config for stage in recipe.stages)
    from distill.recipe import job

    def announce(stage: stages.Stage) -> None:
        print(f"\n{recipe.name}: stage '{stage.name}'", flush=True)

    try:
        finished = job.run(recipe, announce)
    except (KeyboardInterrupt, SystemExit):
        again = shlex.join(["python", "-m", "distill.recipe", *argv])
        print(f"\nThe recipe stopped. The same command continues all of it: {again}", flush=True)
        raise
    print(f"\n{recipe.name}  (run {finished.parent_id})")
    width = max(len(done.stage.name) for done in finished.stages)
    for done in finished.stages:
        print(f"  {done.stage.name.ljust(width)}  val/nme {done.nme:7.3f} %   {done.how:9}  run {done.run_id}")


if __name__ == "__main__":
    cli.run(main)
