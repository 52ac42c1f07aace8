"""Labelled face images, from the disk to batches.

folders.py        which sets a config means
images.py         picture files -> pixels
labels.py         annot.pkl and text labels; unpickling.py and pickle_check.py read what strangers pickled
annotations.py    a checked set of both; disjoint.py: whether two sets are
augment.py        views of a sample: geometry.py, photometric.py, albumentations_step.py (centring.py measures a step)
loading.py        batches; cache.py: decoded images
"""

from __future__ import annotations

from pathlib import Path

# the bundled sample: 600 rendered faces at 256 px in the challenge's layout (see sample/README.md)
SAMPLE_ROOT = Path(__file__).resolve().parent / "sample"
