"""The best of a study is trained as the study says, compared with its recipe, released, and called champion on evidence
only.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import optuna
import pytest
import yaml
from optuna.distributions import FloatDistribution
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from running import in_this_process
from stores import alias_holder

from distill import config as configs
from distill import tracking
from distill.ablation import file as grid
from distill.ablation import job as ablation_job
from distill.config import TrackingConfig
from distill.errors import UserError
from distill.training import job as training
from search import best as command
from search import release, storage


def kept_in(store: Path):
    store.mkdir(exist_ok=True)
    return RDBStorage(storage.url_of(store))


def make_study(recipe, trials, name: str = "rates", where=None) -> optuna.Study:
    """A study as search.study leaves it: (value, config) a trial; no value: it failed."""
    study = optuna.create_study(study_name=name, storage=where)
    study.set_user_attr("recipe", configs.to_dict(recipe))
    for value, config in trials:
        study.add_trial(
            optuna.create_trial(
                state=TrialState.FAIL if value is None else TrialState.COMPLETE,
                value=value,
                params={"train.lr": config.train.lr},
                distributions={"train.lr": FloatDistribution(1e-5, 1.0)},
                user_attrs={"config": configs.to_dict(config)},
            )
        )
    return study


def cells_of(study, out: Path, seeds: int = 2) -> tuple[grid.Grid, release.Candidate]:
    chosen = release.candidate(study)
    return grid.load(release.write_ablation(chosen, seeds, str(out / "mlruns"), out)), chosen


# ---------------------------------------------------------------------------------------------------- the ablation file

BASE = """
name: base
seed: 4
teacher: 0123456789abcdef
data: {root: somewhere, workers: 3, limit: 100}
model: {head: {width: 16}}
augment:
  photometric:
    noise: {name: GaussNoise, p: 0.5, args: {std_range: [0.01, 0.05]}}
    blur: {name: GaussianBlur, p: 0.2}
distill:
  terms:
    kl: {loss: heatmap_kl, weight: 2}
    hint: {loss: fitnet, weight: 0.5, schedule: cosine, student: "level:2", teacher: "level:2"}
"""


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "base.yaml").write_text(BASE)
    return lambda *overrides: configs.load(tmp_path / "base.yaml", overrides)


@pytest.mark.parametrize(
    "changes",
    [
        ["train.lr=1.0e-05", "model.head.width=32"],
        ["distill.terms={}"],
        ["distill.terms={hint: {loss: fitnet, weight: 0.5, student: 'level:1', teacher: 'level:1'}}"],
        ["augment.photometric={}"],
        ["augment.photometric={blur: {name: GaussianBlur, p: 0.2}, noise: {name: GaussNoise}}"],
        ["distill.terms.kl.args={temperature: 2}", "teacher=fedcba9876543210", "loss.region_weights={jaw: 1.5}"],
    ],
)
def test_both_cells_compute_what_the_study_meant(recipe, tmp_path, changes):
    study = make_study(recipe(), [(6.0, recipe()), (5.0, recipe(*changes)), (7.0, recipe("train.lr=1"))])
    planned, chosen = cells_of(study, tmp_path)
    assert (chosen.cell, chosen.trial.number, planned.control, planned.seeds) == ("best", 1, "recipe", (0, 1))
    for cell, meant in (("recipe", recipe("seed=0")), ("best", recipe("seed=0", *changes))):
        assert configs.digest(planned.cells[cell]) == configs.digest(meant)
    assert json.dumps(configs.to_dict(planned.cells["best"])["augment"]) == json.dumps(
        configs.to_dict(recipe(*changes))["augment"]
    )
    where = planned.cells["recipe"]
    assert (where.data.root, where.data.workers, where.tracking.store) == ("somewhere", 3, str(tmp_path / "mlruns"))
    alone = configs.load(tmp_path / "rates" / "best.yaml")
    assert alone.data.root == "" and alone.teacher == "" and alone.data.limit == 100


def test_the_files_move_together_to_wherever_and_name_nothing_of_the_study(recipe, tmp_path):
    study = make_study(recipe(), [(5.0, recipe("train.lr=0.01"))])
    planned, _ = cells_of(study, tmp_path)
    shutil.copytree(planned.path.parent, tmp_path / "elsewhere")
    assert grid.load(tmp_path / "elsewhere" / "rates-best.yaml").digest == planned.digest


def test_both_have_the_teacher_that_the_study_began_with(recipe, tmp_path):
    study = make_study(recipe("teacher="), [(5.0, recipe("teacher=", "train.lr=0.01"))])
    study.set_user_attr("teacher", "cafe0123")
    planned, _ = cells_of(study, tmp_path)
    assert {config.teacher for config in planned.cells.values()} == {"cafe0123"}


def test_a_recipe_that_nothing_beat_is_retrained_alone(recipe, tmp_path):
    study = make_study(recipe(), [(5.0, recipe()), (6.0, recipe("train.lr=0.1"))])
    planned, chosen = cells_of(study, tmp_path)
    assert list(planned.cells) == ["recipe"] and chosen.cell == "recipe"


# ---------------------------------------------------------------------------------------------------- bad input


def test_bad_input_is_one_sentence_before_anything_is_trained(recipe, tmp_path):
    store = tmp_path / "mlruns"
    made = kept_in(store)
    make_study(recipe(), [(5.0, recipe("train.lr=0.01"))], "rates", made)
    make_study(recipe(), [(None, recipe()), (None, recipe())], "failed", made)
    optuna.create_study(study_name="foreign", storage=made)
    for argv, printed in (
        (["nothing"], "There is no study 'nothing' in"),
        (["rates", "--seeds", "0"], "--seeds: '0'"),
        (["foreign"], "'foreign' has no recipe"),
        (["failed"], "'failed' has no best configuration"),
        (["rates", "data.root=/not/there"], "Data root '/not/there'"),
        (["rates", "train.speed=3"], "train.speed"),
    ):
        with pytest.raises(UserError) as error:
            command.main([*argv, "--store", str(store), "--out", str(tmp_path / "out")])
        assert printed in str(error.value) and "\n" not in str(error.value)
    assert not (store / "mlflow.db").exists()


# ---------------------------------------------------------------------------------------------------- whole


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> TrackingConfig:
    """A store of its own: what is registered here is nobody else's champion."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield TrackingConfig(store=str(tmp_path_factory.mktemp("best") / "mlruns"), experiment="tiny")


def champion(place, name: str = "distill-student") -> str | None:
    holder = alias_holder(place, name, "champion")
    return holder and holder[1]


def test_from_a_study_to_a_champion_and_again(tiny, bare, place, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ablation_job, "work_off", in_this_process)
    monkeypatch.setattr(release, "pack", lambda *_: [])
    trained = []
    real = training.train_student
    monkeypatch.setattr(training, "train_student", lambda config, *more: trained.append(config) or real(config, *more))

    store = f"tracking.store={place.store}"
    recipe, better = (tiny.config(store, "data.limit=12", f"train.epochs={epochs}") for epochs in (1, 3))
    make_study(recipe, [(19.0, recipe), (15.0, better)], "epochs", kept_in(Path(place.store)))
    before = training.train_student(
        tiny.config(store, "data.limit=12", "train.epochs=1", "tracking.register=false")
    ).run_id
    argv = ["epochs", "--seeds", "1", store, "--out", str(tmp_path)]
    command.main(argv)
    printed = capsys.readouterr().out
    assert len(trained) == 2, "the recipe's seed 0 was there"
    table = json.loads((tmp_path / "epochs" / "epochs-best" / "table.json").read_text())
    rows = {row["cell"]: row for row in table["rows"]}
    assert rows["recipe"]["runs"]["0"] == before and "with one seed" in printed

    seed, nme = min(rows["best"]["nme"].items(), key=lambda item: item[1])
    winner = tracking.find_run(place, rows["best"]["runs"][seed])
    assert f"seed {seed}, run {winner.id}: val/nme {nme:.3f} %" in printed
    for path in ("onnx/student.onnx", "submission/solution.zip", "model/student.safetensors"):
        assert tracking.artifact_path(place, winner.id, path).is_file()
    assert winner.tags["submission.set"] == "synthetics_test" and winner.tags["submission.images"] == "4"
    kept = tracking.artifact_path(place, winner.id, "submission/solution.zip")
    assert kept.read_bytes() == (tmp_path / "epochs" / "export" / "solution.zip").read_bytes()
    assert champion(place) == winner.id and "version 1; 'champion' moved to it: there was none" in printed
    assert alias_holder(place, "distill-student", "newest") == ("1", winner.id)

    command.main(argv)
    again = capsys.readouterr().out
    assert len(trained) == 2, "nothing is trained twice"
    assert "version 1; 'champion' did NOT move to it: this run holds it already" in again


# ---------------------------------------------------------------------------------------------------- in words

ERRORS = np.random.default_rng(0).uniform(4, 9, 60)
NOISE = np.random.default_rng(1).normal(0, 1, 60)


def test_whether_the_recipe_is_beaten_is_claimed_on_enough_evidence_only():
    from distill.ablation.table import Result, tabulate
    from distill.metrics import RunErrors

    def printed(difference, cell="best", seeds=3) -> str:
        results = [
            Result(name, seed, f"{name}{seed}", RunErrors(ERRORS + shift + seed / 100))
            for name, shift in (("recipe", 0), ("best", difference))
            for seed in range(seeds)
        ]
        cells = {"recipe": {}, "best": {}}
        made = tabulate("x", "x", cells, "recipe", list(range(seeds)), {"train": "a", "val": "b"}, results)
        return release.beats(made, cell)

    assert printed(-0.3 + 0.1 * NOISE).startswith("The best configuration beats the recipe: val/nme ")
    assert printed(0.3 + 0.1 * NOISE).startswith("The best configuration does NOT beat the recipe")
    assert printed(NOISE - NOISE.mean()).startswith("The best configuration does NOT clearly beat the recipe")
    assert "one seed is no evidence" in printed(-0.3 + 0.1 * NOISE, seeds=1)
    assert "No trial of the study was better" in printed(0.0, "recipe")


def test_the_written_files_hold_plain_yaml(recipe, tmp_path):
    study = make_study(recipe(), [(5.0, recipe("distill.terms={}"))])
    planned, _ = cells_of(study, tmp_path)
    written = yaml.safe_load(planned.path.read_text())
    assert written["base"] == "recipe.yaml" and written["ablation"]["cells"]["best"] == {"distill.terms": {}}
    assert not list(tmp_path.rglob("*.tmp"))
