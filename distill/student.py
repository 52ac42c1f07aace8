"""Door: train the compact student, against a teacher or (the control) without one."""

from __future__ import annotations

from distill import cli

DEFAULT = "experiments/distill.yaml"


def main(argv: list[str]) -> None:
    parser = cli.train_parser(
        "student",
        DEFAULT,
        "Distil a compact student from a teacher (teacher=RUN_ID, models:/NAME@ALIAS or FILE; default: the newest "
        "teacher of this data). With --config experiments/student.yaml: the control, the same student without a teacher.",
    )
    asked = cli.read_train_config(parser, argv, DEFAULT)
    if asked is None:
        return
    from distill.jobs import training

    config, given = asked
    result = training.train_student(config if given is None else training.stored_config(config, given))
    cli.tell(result)


if __name__ == "__main__":
    cli.run(main)
