"""Command: train the large teacher."""

from __future__ import annotations

from distill import cli

DEFAULT = "experiments/teacher.yaml"
SUMMARY = "Train a teacher on labelled faces and keep it in MLflow."


def main(argv: list[str]) -> None:
    """Train a teacher from the command line."""
    cli.train("teacher", DEFAULT, SUMMARY, argv)


if __name__ == "__main__":
    cli.run(main)
