"""The training loop and what makes it exact: optimisation, checkpoints, processes."""
