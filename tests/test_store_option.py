"""`--store DIR` and `tracking.store=DIR` name the store of every command; a look-up that fails makes nothing."""

from __future__ import annotations

import importlib

import pytest
from running import refusal

from distill.errors import UserError

# a look-up that fails, by every command that takes a store; {} stands for a folder of the test's own
LOOK_UPS = {
    "distill.student": "resume=abcdef",
    "distill.evaluate": "abcdef --data {}",
    "distill.export": "abcdef --out {}/out",
    "distill.predict": "abcdef {} --out {}/out",
    "distill.average": "abcdef --data {}",
    "distill.ablation": "table {}/ablation.yaml --out {}/out",
    "distill.recipe": "--config {}/recipe.yaml",
    "distill.report": "abcdef --out {}/out",
    "distill.submission": "make abcdef --images {} --out {}/solution.zip",
    "distill.handin": "--id R1 --run abcdef --out {}/out",
    "distill.tracking": "moved",
    "search.study": "--config {}/search.yaml --trials 1 --out {}/out",
    "search.best": "abcdef --out {}/out",
}
FILES = {
    "ablation.yaml": "base: base.yaml\nablation: {control: a, cells: {a: {}, b: {train.lr: 1e-3}}}",
    "recipe.yaml": "base: base.yaml\nstages: [{name: a, set: {init: abcdef}}]",
    "search.yaml": "base: base.yaml\nsearch: {space: {train.lr: {float: [1e-3, 1e-2]}}}",
    "base.yaml": "teacher: abcdef\ndistill: {terms: {kl: {loss: heatmap_kl}}}",
}


@pytest.mark.parametrize("command", LOOK_UPS)
def test_a_store_is_named_by_either_option_and_a_failed_look_up_makes_nothing(tmp_path, command):
    module = command if command.startswith("search") or command == "distill.student" else f"{command}.__main__"
    main = importlib.import_module(module).main
    (tmp_path / "files").mkdir()
    for name, text in FILES.items():
        (tmp_path / "files" / name).write_text(text)
    before, store = sorted(tmp_path.rglob("*")), str(tmp_path / "typo")
    argv = LOOK_UPS[command].format(*[tmp_path / "files"] * 2).split()
    answers = {
        refusal(lambda named=named: main([*argv, *named]))
        for named in (["--store", store], [f"tracking.store={store}"])
    }
    assert len(answers) == 1 and store in answers.pop()
    with pytest.raises(UserError):
        main([*argv, "--store", store, "tracking.store=other"])
    assert sorted(tmp_path.rglob("*")) == before
