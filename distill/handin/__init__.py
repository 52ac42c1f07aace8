"""The challenge's hand-in: one zip with all that is needed to make the submission again, and its check.

job.py        the zip and its README
pins.py       requirements.txt: what the code needs, at the run's versions
sources.py    the code at the run's revision
steps.py      the commands that trained the run, and those it goes back to
reproduce.py  the check: unpacked elsewhere, installed, predicted again, compared
"""
