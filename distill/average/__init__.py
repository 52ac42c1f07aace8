"""One model from several: the mean of their weights."""

AVERAGES = ("uniform", "greedy")  # how the members are chosen
