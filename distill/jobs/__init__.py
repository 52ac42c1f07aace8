"""The jobs behind the doors. Functions that take values and return result objects.

one model
    training.py      train a teacher or a student, in one run
    finishing.py     what every model goes through then: evaluation.py, exporting.py, registering.py, packing.py, card.py, telling.py
    references.py    names of models -> files; starting.py: weights from one model into another
    averaging.py     one model from several
several trainings
    plan.py          one training of many: found, continued, or done; pool.py: trainings in processes, each with its part of the machine
    ablation.py      a grid of cells and seeds; survey.py: what of it is there; table.py: what it came to
    recipe.py        stages, one after the other
from models to people
    students.py, predicting.py    landmarks in Python, in files
    submitting.py, handin/        the challenge's submission, ledger and hand-in
    reporting.py, picturing.py    what the report is made of
"""
