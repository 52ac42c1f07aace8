"""What ablations, recipes and searches share: find a finished run or train it, worker processes, experiment files."""
