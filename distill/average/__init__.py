"""One model from several: the mean of their weights."""

from typing import Literal, get_args

Method = Literal["uniform", "greedy"]  # how the members are chosen: all, or those that make the mean no worse
AVERAGES: tuple[str, ...] = get_args(Method)
