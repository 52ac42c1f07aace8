"""Learning from a teacher: methods and their losses, taps, the terms of a config, and the objective they add up to.

Importing any module of this package registers every method of `losses/`.
"""

from distill.distillation import losses  # noqa: F401
