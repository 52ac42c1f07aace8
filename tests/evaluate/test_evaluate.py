"""`python -m distill.evaluate` measures on the validation set of the model's run, read as the training read it."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest
from conftest import write_challenge

from distill.data.annotations import read_set
from distill.errors import UserError
from distill.evaluate import __main__ as evaluate
from distill.evaluate.job import read_for
from distill.landmarks import IBUG68


def test_the_default_set_is_the_runs_own(tiny, tmp_path):
    evaluate.main([tiny.control.run_id, "--store", str(tiny.store), "--out", str(tmp_path)])
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["nme"] == pytest.approx(tiny.control.report.nme, abs=1e-4)
    assert report["fingerprint"] == read_set(tiny.data / "synthetics_val").fingerprint


def test_a_set_that_is_not_here_any_more_is_one_sentence_that_names_the_option(tiny, tmp_path, monkeypatch):
    moved = tmp_path / "moved"
    config = tiny.config(f"data.root={moved}")
    monkeypatch.setattr(evaluate, "config_of", lambda *_: config)
    with pytest.raises(UserError, match="--data"):
        evaluate.main([tiny.control.run_id, "--store", str(tiny.store), "--out", str(tmp_path / "out")])


def test_the_crop_of_microsofts_layout_is_that_of_the_config(tiny, tmp_path):
    points = write_challenge(tmp_path / "challenge", 2, size=512)
    folder = tmp_path / "microsoft"
    folder.mkdir()
    for i, label in enumerate(points):
        image = cv2.imread(str(tmp_path / "challenge" / f"00{i:04d}.jpg"))
        cv2.imwrite(str(folder / f"{i:06d}.png"), image)
        np.savetxt(folder / f"{i:06d}_ldmks.txt", np.vstack([label, label[:2]]), fmt="%.3f")
    shutil.rmtree(tmp_path / "challenge")
    usual, wide = (read_for(IBUG68, tiny.config(*more), folder) for more in ((), ("data.crop_scale=2.5",)))
    extent = [np.ptp(found.landmarks[0], axis=0).max() for found in (usual, wide)]
    assert extent[0] / extent[1] == pytest.approx(2.5 / 1.9, rel=0.01)
