"""Door: train the large teacher."""

from __future__ import annotations

from distill import cli

DEFAULT = "experiments/teacher.yaml"


def main(argv: list[str]) -> None:
    parser = cli.train_parser("teacher", DEFAULT, "Train a teacher on labelled faces and keep it in MLflow.")
    asked = cli.read_train_config(parser, argv, DEFAULT)
    if asked is None:
        return
    from distill.jobs import training

    config, given = asked
    result = training.train_teacher(config if given is None else training.stored_config(config, given))
    cli.tell(result)


if __name__ == "__main__":
    cli.run(main)
