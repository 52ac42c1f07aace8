"""Optuna tunes a recipe against validation NME: a space in YAML, trials that call the command line's own training function.

The commands are `python -m search.study` (run or join a study) and `python -m search.best` (its winner at full length).

    space.py        a search file, read and checked; what a point of the space is as a config
      parameters.py, tree.py, settings.py, changes.py    its parts: nodes, their reading, the small sections, dotted keys
    sampling.py     drawing points: Optuna's samplers and pruners
    storage.py      the database: opening, joining, taking turns, waiting while it is away
    queue.py        which trial comes next, and how many are done
    trial.py        one trial, from its point to what the study is told
    worker.py       a process that does trials until there are none left
    running.py      the runner: workers, the live table, the parent run
    summary.py      a study's trials in people's words
    watching.py     the live table
    finishing.py    best.yaml, trials.csv, pictures
    retraining.py   the winner and the recipe as an ablation over seeds
    handout.py      the winner exported, registered, and champion or not
"""
