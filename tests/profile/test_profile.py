"""python -m distill.profile: the parts of the trainer's own step, memory, a trace and a picture."""

from __future__ import annotations

import gzip
import json

import pytest
import torch

from distill.errors import UserError
from distill.profile import clock
from distill.profile.__main__ import main
from distill.training import loop


def test_a_profile_names_the_parts_of_a_step_and_writes_its_files(tiny, tmp_path, capsys):
    given = [str(tiny.distilled_yaml), "--untrained-teacher", str(tiny.control_yaml), "--steps", "2"]
    main([*given, "--batches", "2,4", "--sizes", "32,64", "--out", str(tmp_path)])
    kept = json.loads((tmp_path / "profile.json").read_text())
    parts = {
        "data wait",
        "copy",
        "student forward",
        "teacher",
        "losses",
        "backward",
        "clipping",
        "optimiser",
        "average",
    }
    assert parts | {"logging", "other"} == kept["seconds"].keys() and min(kept["seconds"].values()) > 0
    assert kept["images"] == 4 and kept["models"].keys() == {"student", "teacher"}
    weights = kept["models"]["student"]["parameters"] * 4 / 1e6
    assert kept["megabytes"]["weights"] > weights and kept["megabytes"]["optimiser state"] > 1.9 * weights
    sizes = {(p["size"], p["batch"]): p["kept"] for p in kept["points"]}
    assert sizes.keys() == {(32, 2), (32, 4), (64, 2), (64, 4)}
    assert sizes[32, 2] < sizes[32, 4] < sizes[64, 4], "more pixels, more to keep"
    names = {event.get("name") for event in json.loads(gzip.open(tmp_path / "trace.json.gz").read())["traceEvents"]}
    assert parts <= names
    assert (tmp_path / "cost.png").stat().st_size > 5000
    assert "student forward" in capsys.readouterr().out
    assert "timed_call" not in {torch.Tensor.backward.__name__, loop.clip_gradients.__name__}


def test_a_part_within_another_counts_for_itself_alone(monkeypatch):
    now = iter([0.0, 1.0, 4.0, 10.0])
    monkeypatch.setattr(clock.time, "perf_counter", lambda: next(now))
    watch = clock.Clock(torch.device("cpu"))
    with watch.part("outer"), watch.part("inner"):
        pass
    assert watch.seconds == {"inner": 3.0, "outer": 7.0}


@pytest.mark.parametrize("given", [["--batches", "8,x"], ["--sizes", "0"], ["--steps", "0"]])
def test_wrong_numbers_are_named(tiny, given):
    with pytest.raises(UserError, match=given[0]):
        main([str(tiny.control_yaml), *given])
