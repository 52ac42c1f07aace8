"""`--store DIR` and `tracking.store=DIR` name the store of every command; a look-up that fails makes nothing."""

from __future__ import annotations

import importlib

import pytest
from running import refusal

from distill.errors import UserError

# a look-up that fails, by every command that takes a store; {} stands for a folder of the test's own. Words after a
# module's name tell two of its calls apart.
LOOK_UPS = {
    "distill.student": "resume=abcdef",
    "distill.teacher": "resume=abcdef",
    "distill.profile": "{}/base.yaml resume=abcdef --out {}/out",
    "distill.evaluate": "abcdef --data {}",
    "distill.export": "abcdef --out {}/out",
    "distill.predict": "abcdef {} --out {}/out",
    "distill.average": "abcdef --data {}",
    "distill.ablation": "table {}/ablation.yaml --out {}/out",
    "distill.recipe": "--config {}/recipe.yaml",
    "distill.report": "abcdef --out {}/out",
    "distill.report of an experiment": "--experiment ablations --out {}/out",
    "distill.submission": "make abcdef --images {} --out {}/solution.zip",
    "distill.submission ledger": "ledger",
    "distill.handin": "--id R1 --run abcdef --out {}/out",
    "distill.tracking": "moved",
    "distill.tracking upload": "upload",
    "distill.tracking ui": "ui",
    "search.study": "--config {}/search.yaml --trials 1 --out {}/out",
    "search.best": "abcdef --out {}/out",
    "search.grid": "{}/ablation.yaml --storage sqlite:///{}/grid.db --out {}/out",
}
FILES = {
    "ablation.yaml": "base: base.yaml\nablation: {control: a, cells: {a: {}, b: {train.lr: 1e-3}}}",
    "recipe.yaml": "base: base.yaml\nstages: [{name: a, set: {init: abcdef}}]",
    "search.yaml": "base: base.yaml\nsearch: {space: {train.lr: {float: [1e-3, 1e-2]}}}",
    "base.yaml": "teacher: abcdef\ndistill: {terms: {kl: {loss: heatmap_kl}}}",
}


@pytest.mark.parametrize("command", LOOK_UPS)
def test_a_store_is_named_by_either_option_and_a_failed_look_up_makes_nothing(tmp_path, tiny, monkeypatch, command):
    monkeypatch.setenv("DISTILL_DATA", str(tiny.data))
    module = importlib.import_module(command.split()[0])
    main = module.main if hasattr(module, "main") else importlib.import_module(f"{module.__name__}.__main__").main
    (tmp_path / "files").mkdir()
    for name, text in FILES.items():
        (tmp_path / "files" / name).write_text(text)
    before, store = sorted(tmp_path.rglob("*")), str(tmp_path / "typo")
    argv = LOOK_UPS[command].format(*[tmp_path / "files"] * 3).split()
    answers = {
        refusal(lambda named=named: main([*argv, *named]))
        for named in (["--store", store], [f"tracking.store={store}"])
    }
    assert len(answers) == 1 and store in answers.pop()
    with pytest.raises(UserError):
        main([*argv, "--store", store, "tracking.store=other"])
    assert sorted(tmp_path.rglob("*")) == before
