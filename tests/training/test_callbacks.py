"""Callbacks are called when a run starts and after every epoch, and may end the training."""

from __future__ import annotations

import pytest
from running import REPO

from distill import config as configs
from distill import tracking
from distill.training import job as training
from distill.training.loop import Abandoned


def test_callbacks_get_the_run_at_once_and_each_epoch_as_it_is_logged(tiny, bare):
    heard = []

    def on_start(run_id):
        heard.append(("start", run_id, tracking.find_run(tiny.tracking, run_id).status))

    result = training.train_student(
        tiny.short("seed=71"),
        training.Callbacks(on_start, lambda epoch, values: heard.append((epoch, values["val/nme"]))),
    )
    assert heard[0] == ("start", result.run_id, "RUNNING")
    assert [epoch for epoch, _ in heard[1:]] == [1, 2]
    # MLflow keeps seven digits
    assert [nme for _, nme in heard[1:]] == pytest.approx(tiny.curve(result.run_id, "val/nme"), rel=1e-6)


def test_an_abandoned_training_ends_killed_with_the_reason_and_cannot_be_resumed(tiny, bare):
    runs = []

    def give_up(epoch, _values):
        if epoch == 2:
            raise Abandoned("not worth it")

    with pytest.raises(Abandoned, match="not worth it"):
        training.train_student(tiny.config("train.epochs=5", "seed=72"), training.Callbacks(runs.append, give_up))
    run = tracking.find_run(tiny.tracking, runs[0])
    assert run.status == "KILLED" and run.tags["distill.abandoned"] == "not worth it" and "error" not in run.tags
    assert len(tiny.curve(run.id, "val/nme")) == 2, "the epochs before it are kept"
    assert not (tracking.work_dir(tiny.tracking, run.id) / training.CHECKPOINT).exists()


def test_a_callback_that_breaks_makes_the_run_fail_with_its_error(tiny, bare):
    runs = []

    def broken(_epoch, _values):
        raise RuntimeError("the callback broke")

    with pytest.raises(RuntimeError, match="the callback broke"):
        training.train_student(tiny.short("seed=73"), training.Callbacks(runs.append, broken))
    run = tracking.find_run(tiny.tracking, runs[0])
    assert run.status == "FAILED" and "the callback broke" in run.tags["error"]


def test_a_recipe_computes_the_same_and_records_nothing_of_where_it_ran(tmp_path):
    config = configs.load(
        REPO / "experiments/cpu/distill.yaml",
        [
            "data.root=/somewhere",
            "teacher=abc",
            "train.threads=3",
            "tracking.store=/there",
            "train.device=cpu",
            "seed=4",
        ],
    )
    file = tmp_path / "recipe.yaml"
    file.write_text(configs.to_recipe(config))
    again = configs.load(file)
    assert configs.digest(configs.load(file, ["teacher=abc"])) == configs.digest(config)
    assert (again.name, again.teacher, again.data.root, again.train.threads) == (config.name, "", "", 0)
    assert again.train.checkpoint_seconds == 300 and again.tracking == configs.TrackingConfig()
