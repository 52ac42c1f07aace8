"""A few tries of each kind; docs/reliability.md has the counts of many."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import files  # noqa: E402
import runs  # noqa: E402
import tries  # noqa: E402

from distill.data import SAMPLE_ROOT  # noqa: E402
from distill.predict.load import BUNDLED_ONNX  # noqa: E402

QUICK = ("pickles", "images", "checkpoints", "caches", "yaml")


@pytest.mark.parametrize(
    "kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in tries.KINDS]
)
def test_whatever_is_tried_is_right_or_refused_in_one_sentence(kind, tmp_path):
    row = tries.run(kind, min(40, tries.KINDS[kind][0]), np.random.default_rng().integers(2**31), tmp_path)
    assert not row.lost


@pytest.mark.parametrize(
    "whole", [SAMPLE_ROOT / "synthetics_test" / "000580.jpg", BUNDLED_ONNX], ids=lambda p: p.suffix
)
def test_the_tries_find_a_file_that_is_half_written(whole, tmp_path):
    (tmp_path / whole.name).write_bytes(whole.read_bytes())
    runs.check_whole(tmp_path)
    (tmp_path / whole.name).write_bytes(whole.read_bytes()[:-2000])
    with pytest.raises(files.Lost, match=whole.name):
        runs.check_whole(tmp_path)
