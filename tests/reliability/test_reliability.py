"""A few tries of each kind; docs/reliability.md has the counts of many."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import tries  # noqa: E402

QUICK = ("pickles", "images", "checkpoints", "caches", "yaml")


@pytest.mark.parametrize(
    "kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in tries.KINDS]
)
def test_whatever_is_tried_is_right_or_refused_in_one_sentence(kind, tmp_path):
    row = tries.run(kind, min(40, tries.KINDS[kind][0]), np.random.default_rng().integers(2**31), tmp_path)
    assert not row.lost
