"""Which trial is next, what ends how, what a stop or a kill leaves: a study gets exactly N trials, none is lost."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest
from optuna.trial import TrialState
from running import refusal
from sqlalchemy.exc import OperationalError
from studies import FakeTraining, Killed, Study, at_once, write_search

from distill import tracking as track
from search import objective, storage, worker

pytest_plugins = ["studies"]
DATA = Path(__file__).parent / "data"
ENQUEUED = ("heartbeat: 1", "heartbeat: 1\n  enqueue: [{train.lr: 4e-3}]")


@pytest.fixture
def training(monkeypatch):
    monkeypatch.setattr(worker, "PAUSE", 0.02)
    monkeypatch.setattr(objective, "PAUSE", 0.02)
    return FakeTraining(monkeypatch)


def rewritten(study: Study, *changes: tuple[str, str]) -> Study:
    write_search(study.file.parent, *changes)
    return study


def failing(error: BaseException):
    def fail():
        raise error

    return fail


# ---------------------------------------------------------------------------------------------------- how trials end


def test_the_recipe_comes_first_then_what_is_enqueued_then_what_is_drawn(study, training):
    rewritten(study, ENQUEUED)
    rows = study.work(3)
    assert [row.state for row in rows] == ["done"] * 3 and len(training.configs) == 3
    assert [row.params["train.lr"] for row in rows[:2]] == [0.002, 0.004] and 1e-4 <= rows[2].params["train.lr"] <= 2e-2
    for row, config in zip(rows, training.configs, strict=True):
        assert (config.train.lr, config.train.epochs, config.train.threads) == (row.params["train.lr"], 3, 1)
        assert config.tracking.run_name == f"rates-00{row.number}"
        assert config.tracking.tags["optuna.trial"] == str(row.number)
        assert config.tracking.tags["mlflow.parentRunId"] == "parent"
        assert row.values == [6.0] and row.epoch == 3 and row.trial.intermediate_values == {1: 8.0, 2: 6.5, 3: 6.0}
    assert study.work(3) == rows and len(training.configs) == 3, "nothing is left to do"
    assert len(study.work(4)) == 4, "and it can go on"


def test_a_worker_that_begins_while_the_database_is_away_waits_for_it(study, training, monkeypatch):
    real, calls = storage.RDBStorage.__init__, []

    def away_at_first(self, *args, **named):
        calls.append(1)
        if len(calls) < 3:
            raise OperationalError("SELECT", {}, Exception("the database system is shutting down"))
        real(self, *args, **named)

    monkeypatch.setattr(storage.RDBStorage, "__init__", away_at_first)
    assert [row.state for row in study.work(1)] == ["done"] and len(calls) >= 3


def test_a_pruned_trial_keeps_its_reason_and_no_trial_is_pruned_at_its_last_epoch(study, training, monkeypatch):
    asked = []
    monkeypatch.setattr(
        objective.optuna.Trial, "should_prune", lambda trial: asked.append(trial.number) or trial.number == 1
    )
    rows = study.work(2)
    assert [row.state for row in rows] == ["done", "pruned"] and asked == [0, 0, 1]
    assert rows[1].note == "epoch 1 of 3: val/nme 8" and rows[1].values == [8.0] and rows[1].epoch == 1


def test_a_failing_trial_counts_and_stops_nothing(study, training):
    training.at[1, 1] = failing(RuntimeError("out of luck\nand more"))
    rows = study.work(3)
    assert [row.state for row in rows] == ["done", "failed", "done"] and rows[1].note == "RuntimeError: out of luck"


def test_a_value_that_is_not_finite_is_a_failure(study, training):
    training.value = float("nan")
    (row,) = study.work(1)
    assert row.state == "failed" and "val/nme" in row.note


def test_a_worker_whose_gpu_is_lost_ends_after_its_trial(study, training):
    training.at[0, 1] = failing(RuntimeError("CUDA error: an illegal memory access"))
    with pytest.raises(SystemExit) as end:
        study.work(2)
    assert end.value.code == 1 and study.states() == ["failed"]


WIDTHS = ("log: true}}", "log: true}, model.head.width: {choice: [16, 256]}}")


def test_a_refused_trial_trains_nothing_counts_nothing_and_the_sampler_learns_why(study, training):
    bound = "constraints: {model/file_bytes: 2.0e+6}\n  enqueue: [{model.head.width: 256}, {train.lr: 4e-3}]"
    rewritten(study, WIDTHS, ("heartbeat: 1", bound))
    rows = study.work(2)
    refused = [row for row in rows if row.state == "refused"]
    assert refused[0].number == 1 and refused[0].note.startswith("model/file_bytes is ") and not refused[0].run_id
    assert [row.state for row in rows] == ["done", "refused", "done"] and len(training.configs) == 2
    assert rows[0].trial.constraints["model/file_bytes"] < 0 < rows[1].trial.constraints["model/file_bytes"]


def test_a_space_that_is_all_refused_ends_in_one_sentence(study, training, monkeypatch):
    monkeypatch.setattr(worker, "MOST_REFUSED", 3)
    rewritten(study, ("heartbeat: 1", "constraints: {model/file_bytes: 10}"))
    assert "search.constraints" in refusal(lambda: study.work(2)) and study.states() == ["refused"] * 3


def test_of_several_objectives_nothing_is_reported_or_pruned(study, training, monkeypatch):
    monkeypatch.setattr(objective.optuna.Trial, "should_prune", lambda _trial: True)
    rewritten(study, WIDTHS, ("heartbeat: 1", "objectives: [val/nme, model/file_bytes]"))
    for row in study.work(2):
        assert row.state == "done" and not row.trial.intermediate_values and row.epoch == 3
        assert row.values[0] == 6.0 and 1e6 < row.values[1] < 4e6


# ---------------------------------------------------------------------------------------------------- exactly N


def test_workers_at_once_train_as_many_trials_as_wanted_and_no_more(study, training):
    storage.open_study(study.space, study.name, study.url)
    training.at = {(number, 1): lambda: time.sleep(0.05) for number in range(9)}
    at_once(lambda number: study.work(7, number), 3)
    rows = study.rows()
    assert [row.state for row in rows] == ["done"] * 7 == ["done"] * len(training.configs)
    assert len({row.params["train.lr"] for row in rows}) == 7, "each draws from a stream of its own"


def test_a_database_that_does_not_answer_for_a_moment_costs_nothing(study, training, monkeypatch):
    real, failures = storage.turn, [storage.StorageInternalError("gone")]

    def turn(url, name):
        if name and failures:
            raise failures.pop()
        return real(url, name)

    monkeypatch.setattr(storage, "turn", turn)
    assert [row.state for row in study.work(2)] == ["done"] * 2 and not failures


# ---------------------------------------------------------------------------------------------------- stops and kills


def test_a_stopped_trial_goes_on_in_its_run_however_often(study, training):
    rewritten(study, ("retries: 2", "retries: 0"))
    training.at[0, 1] = training.at[1, 2] = failing(SystemExit(143))
    for _ in range(2):
        with pytest.raises(SystemExit) as end:
            study.work(1)
        assert end.value.code == 143 and study.states().count("interrupted") == 1
    rows = study.work(1)
    assert [row.state for row in rows] == ["retried", "retried", "done"]
    assert rows[0].note == "stopped; trial 2 goes on with it"
    assert {row.params["train.lr"] for row in rows} == {0.002}
    first = rows[0].run_id
    assert [config.resume for config in training.configs] == ["", first, first] and rows[2].run_id == first
    assert rows[2].trial.intermediate_values == {1: 8.0, 2: 6.5, 3: 6.0}
    assert training.configs[2].tracking.run_name == "rates-000"


def test_a_killed_worker_s_trial_goes_on_in_its_run_so_often_and_counts_once(study, training):
    training.at = {(0, 1): failing(Killed()), (1, 2): failing(Killed()), (2, 3): failing(Killed())}
    for deaths in range(1, 4):
        with pytest.raises(Killed):
            study.work(1)
        assert study.states().count("running") == 1 and len(training.configs) == deaths
        study.silence()
    rows = study.work(1)
    assert [row.state for row in rows] == ["retried", "retried", "failed"], "the third death is the last"
    assert rows[-1].note == "its worker died" and len(training.configs) == 3


def test_a_worker_killed_while_it_draws_leaves_no_trial_that_runs_for_ever(study, training, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("search.space.suggest", lambda *_: failing(Killed())())
        with pytest.raises(Killed):
            study.work(1)
    assert study.states() == ["running"]
    rows = study.work(1)
    assert [row.state for row in rows] == ["retried", "done"] and rows[1].params == {"train.lr": 0.002}


def test_a_training_that_ended_is_not_made_again_where_only_its_result_was_lost(study, training):
    training.at[0, 3] = failing(Killed())
    with pytest.raises(Killed):
        study.work(1)
    (run,) = training.runs
    training.runs[run] = type(training.runs[run])(
        **{**vars(training.runs[run]), "status": "FINISHED", "metrics": {"best/val/nme": 5.5}}
    )
    study.silence()
    assert study.work(1)[-1].values == [5.5] and len(training.configs) == 1


def test_a_trial_that_another_worker_took_over_is_given_up(study, training):
    def taken():
        storage.find_study(study.name, study.url).tell(0, state=TrialState.FAIL)

    training.at[0, 1] = taken
    rows = study.work(1)
    assert [row.state for row in rows] == ["retried", "done"]
    assert [config.resume for config in training.configs] == ["", rows[0].run_id]


def test_a_run_that_a_silent_worker_still_holds_is_waited_for(study, training):
    training.at[0, 1] = failing(Killed())
    with pytest.raises(Killed):
        study.work(1)
    study.silence()
    held, released = threading.Event(), []

    def hold() -> None:
        with track.hold(track.work_dir(study.space.base.tracking, study.rows()[0].run_id)):
            held.set()
            time.sleep(0.3)
            released.append(len(training.configs))

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    assert study.work(1)[-1].state == "done" and released == [1], "only then it is trained on"
    holder.join()


# ---------------------------------------------------------------------------------------------------- older studies


def test_a_study_of_an_earlier_version_opens_reports_and_goes_on(tmp_path, training):
    """Made before the search used Optuna's own loop: done, refused, pruned, failed, retried, put back, left running."""
    for name in ("base.yaml", "rates.yaml", "optuna.db"):
        shutil.copy(DATA / name, tmp_path)
    study = Study(tmp_path / "rates.yaml")
    before = study.rows()
    states = ["done", "refused", "done", "pruned", "failed", "retried", "waiting", "running"]
    assert [row.state for row in before] == states
    assert [row.number for row in before if row.best] == [2] and before[2].values == [6.0]
    rows = study.work(6)
    assert [row.state for row in rows] == [*states[:6], "done", "retried", "done"]
    assert rows[8].params == rows[5].params and rows[8].run_id != "", "the dead worker's trial was tried again"
    assert [row.values for row in rows[:5]] == [row.values for row in before[:5]]
