"""Labelled face images: reading and checking (annotations, unpickling), augmentation (augment, geometry), batches (loading, cache)."""

from __future__ import annotations

from pathlib import Path

# the bundled sample: 600 rendered faces at 256 px in the challenge's layout (see sample/README.md)
SAMPLE_ROOT = Path(__file__).resolve().parent / "sample"
