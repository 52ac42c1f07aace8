"""Command: train the compact student, against a teacher or (the control) without one."""

from __future__ import annotations

from distill import cli

DEFAULT = "experiments/distill.yaml"
SUMMARY = (
    "Distil a compact student from a teacher (teacher=RUN_ID, models:/NAME@ALIAS or FILE; default: the newest "
    "teacher of this data). With --config experiments/student.yaml: the control, the same student without a teacher."
)


def main(argv: list[str]) -> None:
    """Train a student from the command line."""
    cli.train("student", DEFAULT, SUMMARY, argv)


if __name__ == "__main__":
    cli.run(main)
