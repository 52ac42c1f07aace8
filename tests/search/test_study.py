"""Whole small studies: what ends how, what MLflow and the study know of each other, and what a stop or a kill leaves."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import sqlalchemy
from running import REPO

from distill import tracking
from distill.errors import UserError
from distill.training import job as training
from search import (
    objective,
    queue,
    runner,
    storage,
    summary,
    worker,
)
from search import space as spaces
from search import study as door

FILE = """
base: {base}
search:
  title: Rates
  trial: {{train.epochs: 2, data.limit: 8}}
  sampler: {{kind: random}}
  pruner: {{kind: median, startup: 1, min_epochs: 1}}
  heartbeat: 1
  space: {{train.lr: {{float: [1.0e-4, 2.0e-2], log: true}}}}
"""


class Here:
    """A search file with a store of its own, whose trials are trained in this process."""

    def __init__(self, tiny, folder: Path, name: str):
        self.tiny, self.folder, self.name = tiny, folder, name
        self.file = folder / "rates.yaml"
        self.url = f"sqlite:///{folder}/optuna.db"
        self.args = ["--config", str(self.file), "--storage", self.url, "--study", name, "--out", str(folder / "out")]
        self.write()

    def write(self, *changes: tuple[str, str]) -> None:
        text = FILE.format(base=self.tiny.control_yaml)
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        self.file.write_text(text)

    @property
    def tracking(self):
        return self.tiny.tracking

    def run(self, trials: int) -> runner.Finished:
        order = runner.Order(self.name, self.url, trials, 1, again="the same command")
        return runner.run(spaces.load(self.file), order, self.folder / "out")

    @property
    def study(self):
        return storage.find_study(self.name, self.url)

    def runs(self) -> dict[str, tracking.RunInfo]:
        found = tracking.runs_tagged(self.tracking, "student", {"optuna.study": self.name})
        return {run.id: run for run in found}

    @property
    def parents(self) -> list[tracking.RunInfo]:
        return tracking.runs_tagged(self.tracking, "study", {"distill.study": self.name})

    def children(self) -> dict[int, tracking.RunInfo]:
        """By trial; no trial has two."""
        runs = self.runs()
        by_trial = {int(run.tags["optuna.trial"]): run for run in runs.values()}
        assert len(by_trial) == len(runs)
        return by_trial

    def silence(self) -> None:
        """As if every worker had been silent for an hour."""
        with sqlalchemy.create_engine(self.url).begin() as connection:
            connection.execute(sqlalchemy.text("UPDATE trial_heartbeats SET heartbeat = datetime('now', '-1 hour')"))


@pytest.fixture
def here(tiny, tmp_path, monkeypatch):
    def work(runner) -> None:
        order = runner.order
        spec = worker.Spec(
            os.getpid(), str(runner.space.path), [], order.study, order.trials, runner.first,
            runner.parent.id, runner.teacher, 1,
        )  # fmt: skip
        worker.work_off(spec, runner.space, order.url)

    monkeypatch.setattr(runner._Runner, "work", work)
    monkeypatch.setattr(runner.finishing, "finish", lambda *_: [])  # has tests of its own
    return Here(tiny, tmp_path, tmp_path.name)


def at_epoch(monkeypatch, number: int, epoch: int, deed) -> None:
    """Have something happen in this trial, once its epoch is trained."""
    real = objective._Work._on_epoch

    def on_epoch(work, reached, values):
        real(work, reached, values)
        if (work.trial.number, reached) == (number, epoch):
            deed()

    monkeypatch.setattr(objective._Work, "_on_epoch", on_epoch)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def signals():
    """SIGTERM ends this process as a worker's does."""
    before = signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    yield
    signal.signal(signal.SIGTERM, before)


# ---------------------------------------------------------------------------------------------------- in one process


def test_a_study_trains_the_recipe_first_and_each_trial_knows_its_run_and_the_run_its_trial(here):
    done = here.run(3)
    assert [row.state for row in done.rows] == ["done", "done", "done"] or "pruned" in [row.state for row in done.rows]
    assert done.rows[0].params == {"train.lr": 0.005} and done.best.value == min(
        row.value for row in done.rows if row.state == "done"
    )
    children = here.children()
    parent = tracking.find_run(here.tracking, done.parent_id)
    assert (parent.job, parent.status, parent.name) == ("study", "FINISHED", here.name)
    assert parent.tags["optuna.storage"] == here.url and here.study.user_attrs["parent_run"] == parent.id
    assert parent.metrics["best/val/nme"] == pytest.approx(done.best.value)
    assert tracking.artifact_path(here.tracking, parent.id, "config.yaml").read_text() == here.file.read_text()
    for row in done.rows:
        run = children[row.number]
        assert run.id == row.run_id and run.name == f"{here.name}-00{row.number}"
        assert run.tags["mlflow.parentRunId"] == parent.id and run.tags["distill.study"] == here.name
        assert run.params["train.lr"] == str(row.params["train.lr"])
        told = [nme for _, nme in tracking.metric_history(here.tracking, run.id, "val/nme")]
        assert [value for _, value in row.curve] == pytest.approx(told) and row.epoch == len(told)
        if row.state == "done":
            assert row.value == pytest.approx(run.metrics["best/val/nme"]) and run.status == "FINISHED"
        about = here.study.trials[row.number].user_attrs
        assert about["seconds"] > 0 and 0 < about["overhead"] < 1

    again = here.run(3)  # nothing is left to do
    assert again.parent_id == done.parent_id and again.rows == done.rows and len(here.children()) == 3
    assert len(here.run(4).rows) == 4 and len(here.children()) == 4, "and it can go on"


def test_a_pruned_trial_ends_killed_with_the_reason(here, monkeypatch):
    monkeypatch.setattr(objective.optuna.Trial, "should_prune", lambda self: self.number == 1)
    done = here.run(2)
    assert [row.state for row in done.rows] == ["done", "pruned"] and done.rows[1].epoch == 1
    run = here.children()[1]
    assert run.status == "KILLED" and run.tags["distill.pruned"].startswith("epoch 1 of 2: val/nme ")
    assert run.id == done.rows[1].run_id and done.rows[1].note == run.tags["distill.pruned"]
    assert here.children()[0].status == "FINISHED", "no trial is pruned at its last epoch"


def test_a_failing_trial_is_told_as_failed_and_stops_nothing(here, monkeypatch):
    def broken():
        raise RuntimeError("out of luck\nand more")

    at_epoch(monkeypatch, 1, 1, broken)
    done = here.run(3)
    assert [row.state for row in done.rows][1] == "failed" and done.rows[1].note == "RuntimeError: out of luck"
    assert "out of luck" in here.children()[1].tags["error"] and here.children()[1].status == "FAILED"
    assert here.children()[2].status in ("FINISHED", "KILLED") and done.best.number != 1


def test_a_value_that_is_no_number_is_a_failure(here, monkeypatch):
    monkeypatch.setattr(objective._Work, "_call", lambda *_: float("nan"))
    done = here.run(1)
    assert done.rows[0].state == "failed" and done.rows[0].note == "The objective val/nme is nan." and done.best is None


WIDTHS = ("train.lr: {float: [1.0e-4, 2.0e-2], log: true}", "model.head.width: {choice: [16, 256]}")


def test_a_refused_trial_costs_nothing_counts_nothing_and_is_told_to_the_sampler(here):
    small, large = (
        objective.costs(here.tiny.config(f"model.head.width={width}"), {objective.BYTES})[objective.BYTES]
        for width in (16, 256)
    )
    bound = (small + large) / 2
    here.write(
        WIDTHS, ("heartbeat: 1", f"constraints: {{model/file_bytes: {bound}}}\n  enqueue: [{{model.head.width: 256}}]")
    )
    done = here.run(2)
    assert [row.state for row in done.rows if row.state != "refused"] == ["done", "done"] or "pruned" in str(done.rows)
    assert done.rows[1].state == "refused" and done.rows[1].note.startswith("model/file_bytes is ")
    assert not done.rows[1].run_id and len(here.children()) == 2
    told = [found.constraints["model/file_bytes"] for found in here.study.trials]
    assert told[1] == pytest.approx(large / bound - 1) and told[0] == pytest.approx(small / bound - 1)


def test_a_space_that_is_all_refused_ends_in_one_sentence(here, monkeypatch):
    monkeypatch.setattr(worker, "MOST_REFUSED", 3)
    here.write(("heartbeat: 1", "constraints: {model/file_bytes: 10}"))
    with pytest.raises(UserError, match="rates.yaml: 3 configurations in a row were refused by 'search.constraints'"):
        here.run(2)


def test_several_objectives_are_told_at_the_end_and_nothing_is_pruned(here):
    here.write(
        WIDTHS, ("heartbeat: 1", "objectives: [val/nme, model/file_bytes]"),
        ("{kind: median, startup: 1, min_epochs: 1}", "{kind: none}"),
    )  # fmt: skip
    done = here.run(2)
    for row in done.rows:
        assert row.state == "done" and not here.study.trials[row.number].intermediate_values
        assert row.values[1] == here.children()[row.number].metrics["model/file_bytes"]
    assert summary.front(here.study)


def test_a_stopped_trial_waits_and_goes_on_in_its_run_under_its_number(here, monkeypatch, signals, capsys):
    with monkeypatch.context() as patch:
        at_epoch(patch, 1, 1, stop)
        with pytest.raises(SystemExit):
            here.run(2)
    assert "1 of 2 trials are done. Continue with: the same command" in capsys.readouterr().out
    assert [row.state for row in summary.rows(here.study)] == ["done", "waiting"]
    (parent,) = here.parents
    cut = here.children()[1]
    assert parent.status == "KILLED" and cut.status == "KILLED"
    done = here.run(2)
    assert [row.number for row in done.rows] == [0, 1] and done.rows[1].run_id == cut.id
    run = here.children()[1]
    assert run.status in ("FINISHED", "KILLED") and "distill.resumed" in run.tags
    assert [step for step, _ in tracking.metric_history(here.tracking, cut.id, "val/nme")] == [1, 2]
    assert [step for step, _ in done.rows[1].curve] == [1, 2]


def kill_in_trial(here, monkeypatch, number: int, signals) -> tracking.RunInfo:
    """Leave the study as a worker that was killed outright in this trial leaves it: running, silent."""
    with monkeypatch.context() as patch:
        at_epoch(patch, number, 1, stop)
        patch.setattr(objective._Work, "leave", lambda _work: None)
        with pytest.raises(SystemExit):
            here.run(2)
    here.silence()
    return here.children()[number]


def test_a_dead_worker_s_trial_goes_on_in_its_run_and_counts_once(here, monkeypatch, signals):
    cut = kill_in_trial(here, monkeypatch, 1, signals)
    done = here.run(2)
    assert [row.state for row in done.rows][:2] == ["done", "retried"] and len(done.rows) == 3
    assert done.rows[2].run_id == cut.id and done.rows[2].params == done.rows[1].params
    children = here.children()  # the run is the copy's now
    assert set(children) == {0, 2} and children[2].id == cut.id and "distill.resumed" in children[2].tags
    assert [step for step, _ in tracking.metric_history(here.tracking, cut.id, "val/nme")] == [1, 2]


def test_where_the_checkpoint_is_not_the_trial_begins_anew_and_the_dead_run_ends(here, monkeypatch, signals):
    cut = kill_in_trial(here, monkeypatch, 0, signals)
    tracking.end_run(here.tracking, cut.id, "RUNNING")  # as a kill leaves it
    (tracking.work_dir(here.tracking, cut.id) / training.CHECKPOINT).unlink()
    done = here.run(1)
    assert [row.state for row in done.rows] == ["retried", "done"]
    runs = here.runs()
    assert len(runs) == 2 and runs[cut.id].status == "KILLED" and runs[done.rows[1].run_id].status == "FINISHED"


def test_a_training_that_ended_is_not_made_again_where_only_the_telling_was_cut(here, monkeypatch):
    def cut(*_args, **_kwargs):
        raise storage.DatabaseAway("The study's database is away.")

    with monkeypatch.context() as patch:
        patch.setattr(objective._Work, "tell", cut)
        with pytest.raises(UserError, match="away"):
            here.run(1)
    (run,) = here.runs().values()
    here.silence()
    done = here.run(1)
    assert done.best.run_id == run.id and done.best.value == pytest.approx(run.metrics["best/val/nme"])
    assert len(here.runs()) == 1


def test_a_trial_that_another_worker_took_over_is_given_up(here, monkeypatch):
    """This machine slept: its trial is another's now, and told by it."""

    def taken():
        found = here.study.trials[0]
        here.study._storage.set_trial_state_values(found._trial_id, objective.TrialState.FAIL)

    at_epoch(monkeypatch, 0, 1, taken)
    done = here.run(1)
    assert [row.state for row in done.rows] == ["retried", "done"]
    assert [run.status for _, run in sorted(here.children().items())] == ["KILLED", "FINISHED"]


# ---------------------------------------------------------------------------------------------------- the door


def test_what_is_wrong_is_told_before_anything_is_made(here):
    args = [*here.args, "--trials", "2"]
    for wrong, words in (
        (["--storage", "postgresql://me:secret@127.0.0.1:9/db"], r"me:\*\*\*@127.0.0.1:9/db cannot be used: .*refused"),
        (["--workers", "-1"], "expected 1 or more, and 0 or more"),
        (["data.root=/nowhere"], "/nowhere"),
        (["data.train=synthetics_test"], "annot"),
        (["--storage", f"sqlite:///{here.tiny.store}/mlflow.db"], "mlflow.db is MLflow's"),
        (["train.nonsense=1"], "nonsense"),
    ):
        with pytest.raises(UserError, match=words):
            door.main([*args, *wrong])
    assert not here.parents and not here.runs() and not (here.folder / "optuna.db").exists()


def test_a_study_whose_space_or_data_changed_is_refused(here, monkeypatch):
    here.run(1)
    args = [*here.args, "--trials", "2"]
    with pytest.raises(UserError, match="'base.train.epochs' is 13, but the study '.*' began with 12"):
        door.main([*args, "train.epochs=13"])
    monkeypatch.setattr(runner.plan, "fingerprints", lambda _: runner.plan.Fingerprints("other", "other"))
    with pytest.raises(UserError, match="the train data here has fingerprint other, the study '.*' began with"):
        door.main(args)
    assert len(here.runs()) == 1 and [run.status for run in here.parents] == ["FINISHED"]


def test_a_dry_run_prints_configurations_and_makes_nothing(here, capsys):
    door.main([*here.args, "--trials", "3", "--dry-run"])
    assert "0.005" in capsys.readouterr().out and not (here.folder / "optuna.db").exists()


def test_the_door_says_what_came_of_it_and_what_to_do_next(here, capsys):
    door.main([*here.args, "--trials", "1"])
    out = capsys.readouterr().out
    assert f"study '{here.name}' of 1 trials, 0 of them done; 1 at a time; kept in {here.url}" in out
    (run_id,) = here.runs()
    assert f"best: trial 0, val/nme {here.runs()[run_id].metrics['best/val/nme']:.6g}, run {run_id}" in out
    assert here.parents[0].id in out
    following = ["search.best", here.name, "--seeds", "3", "--store", str(here.tiny.store), "--storage", here.url]
    assert shlex.join(["python", "-m", *following]) in out


# ---------------------------------------------------------------------------------------------------- real processes


class Command:
    """`python -m search.study` with two workers, in a process of its own."""

    def __init__(self, here: Here, trials: int):
        here.write(("train.epochs: 2", "train.epochs: 8, train.checkpoint_seconds: 0.0001"), ("kind: median, startup: 1, min_epochs: 1", "kind: none"))  # fmt: skip
        self.here, self.log = here, here.folder / "log"
        self.args = [sys.executable, "-m", "search.study", *here.args, "--trials", str(trials), "--workers", "2"]

    def start(self) -> psutil.Popen:
        with open(self.log, "ab") as log:
            environment = os.environ | {"PYTHONPATH": str(REPO), "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "false"}
            return psutil.Popen(
                self.args, cwd=REPO, stdout=log, stderr=subprocess.STDOUT, env=environment,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background ignore it
            )  # fmt: skip

    def wait_until(self, true, process: psutil.Popen) -> None:
        deadline = time.monotonic() + 600
        while not true():
            assert process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def in_mid_trial(self) -> bool:
        try:
            rows = summary.rows(self.here.study)
        except UserError:  # not made yet
            return False
        return any(row.state == "done" for row in rows) and any(row.state == "running" and row.epoch for row in rows)


@pytest.mark.slow
def test_ctrl_c_has_every_worker_save_and_the_same_command_goes_on(here):
    command = Command(here, 4)
    runner = command.start()
    command.wait_until(command.in_mid_trial, runner)
    workers = runner.children(recursive=True)
    runner.send_signal(signal.SIGINT)
    assert runner.wait(120) == 130 and not psutil.wait_procs(workers, timeout=10)[1]
    said = command.log.read_text()
    assert "of 4 trials are done. Continue with: python -m search.study --config" in said and "Traceback" not in said
    rows = summary.rows(here.study)
    assert {row.state for row in rows} <= {"done", "waiting"} and any(row.state == "waiting" for row in rows)
    assert all(run.status != "RUNNING" for run in here.runs().values())
    assert command.start().wait(600) == 0, command.log.read_text()
    rows = summary.rows(here.study)
    assert [row.state for row in rows] == ["done"] * 4 and len(here.children()) == 4
    for row in rows:
        steps = [step for step, _ in tracking.metric_history(here.tracking, row.run_id, "val/nme")]
        assert steps == list(range(1, 9)) and queue.tally(here.study).ended == 4
