"""Optuna tunes a recipe against validation NME: a space in YAML, trials that call the command line's own training
function.

The commands are `python -m search.study` (run or join a study), `python -m search.best` (its winner at full length) and
`python -m search.grid` (an ablation file, shared out over machines).

space.py         a search file, read and checked; the config that a point of the space means
storage.py       the database: opening, joining, one process at a time, waiting while it is away; samplers and pruners
objective.py     one trial, from its point to what the study records
worker.py        a process that does trials until there are none left
runner.py        the workers, a line for each trial that ends, the parent run
summary.py       a study's trials as rows, in words and as CSV
outputs.py       best.yaml, trials.csv and pictures.py's pictures
trial_claims.py  which machine is at which training of a grid
release.py       the winner and the recipe as an ablation over seeds; the best one exported and registered
"""
