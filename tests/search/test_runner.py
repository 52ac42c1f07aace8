"""A study from its command to its results: real workers, the parent run, what is refused before anything is made."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from running import REPO, refusal

from distill import tracking
from distill.errors import UserError
from search import runner, storage, summary, worker
from search import study as command

FILE = """
base: {base}
search:
  title: Rates
  trial: {{train.epochs: 1, data.limit: 8}}
  sampler: {{kind: random}}
  pruner: {{kind: none}}
  heartbeat: 5
  space: {{train.lr: {{float: [1.0e-4, 2.0e-2], log: true}}}}
"""


class Here:
    """A search file over the tiny data and its store, with a database of its own."""

    def __init__(self, tiny, folder: Path):
        self.tiny, self.folder, self.name = tiny, folder, folder.name
        self.file, self.url = folder / "rates.yaml", f"sqlite:///{folder}/optuna.db"
        self.args = [
            "--config",
            str(self.file),
            "--storage",
            self.url,
            "--study",
            self.name,
            "--out",
            str(folder / "out"),
        ]
        self.file.write_text(FILE.format(base=tiny.control_yaml))

    def rows(self) -> list[summary.TrialRow]:
        return summary.rows(storage.find_study(self.name, self.url))

    def runs(self) -> dict[int, tracking.RunInfo]:
        """By trial; no trial has two."""
        runs = tracking.runs_tagged(self.tiny.tracking, "student", {"optuna.study": self.name})
        by_trial = {int(run.tags["optuna.trial"]): run for run in runs}
        assert len(by_trial) == len(runs)
        return by_trial

    @property
    def parents(self) -> list[tracking.RunInfo]:
        return tracking.runs_tagged(self.tiny.tracking, "study", {"distill.study": self.name})


@pytest.fixture
def here(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    return Here(tiny, tmp_path)


def test_a_worker_process_trains_a_study_whose_runs_and_trials_know_each_other(here, capsys):
    """The real thing: `python -m search.worker`, two trainings of one epoch, MLflow, files."""
    command.main([*here.args, "--trials", "2"])
    printed = capsys.readouterr().out
    assert f"study '{here.name}' of 2 trials, 0 of them done; 1 at a time; kept in {here.url}" in printed
    rows, runs = here.rows(), here.runs()
    (parent,) = here.parents
    assert [row.state for row in rows] == ["done", "done"] and rows[0].params == {"train.lr": 0.005}
    assert (parent.status, parent.name, parent.tags["optuna.storage"]) == ("FINISHED", here.name, here.url)
    best = min(row.value for row in rows)
    assert parent.metrics["best/val/nme"] == pytest.approx(best)
    assert tracking.artifact_path(here.tiny.tracking, parent.id, "config.yaml").read_text() == here.file.read_text()
    for row in rows:
        run = runs[row.number]
        assert (run.id, run.name, run.status) == (row.run_id, f"{here.name}-00{row.number}", "FINISHED")
        assert run.tags["mlflow.parentRunId"] == parent.id and run.params["train.lr"] == str(row.params["train.lr"])
        assert row.value == pytest.approx(run.metrics["best/val/nme"]) and row.trial.intermediate_values == {
            1: row.value
        }
    assert f"best: trial {min(rows, key=lambda row: row.value).number}, val/nme {best:.6g}" in printed
    assert parent.id in printed and (here.folder / "out" / here.name / "best.yaml").is_file()
    following = ["search.best", here.name, "--seeds", "3", "--store", str(here.tiny.store), "--storage", here.url]
    assert shlex.join(["python", "-m", *following]) in printed
    assert not list((here.tiny.store / "work" / "studies").rglob("*.json")), "no spec is left"


# ---------------------------------------------------------------------------------------------------- workers


class FakeProcess:
    """A worker that has ended, or that runs until it is stopped."""

    def __init__(self, code: int | None, log: Path):
        self.log, self.log_start, self.stopped = log, 0, False
        self.popen = SimpleNamespace(returncode=code, poll=lambda: code, terminate=self.stop, wait=lambda: 0)
        log.write_text("error: the reason\n")

    def stop(self):
        self.stopped = True


@pytest.fixture
def ends(tmp_path, monkeypatch):
    """Have workers end with these codes, one after the other; returns what `work` raises, and the processes."""

    def ends(*codes: int | None, parts: int = 1):
        started = []

        def launch(*_args):
            started.append(FakeProcess(codes[len(started)], tmp_path / f"{len(started)}.log"))
            return started[-1]

        space = SimpleNamespace(search=SimpleNamespace(title="t", objectives=["val/nme"]))
        watch = SimpleNamespace(space=space, total=3, ended=set(), rows=lambda: [])
        spec = worker.Spec(0, "", [], "", 3, 0, "", "", 0)
        with monkeypatch.context() as patch:
            patch.setattr(runner.workers, "launch", launch)
            patch.setattr(runner, "GLANCE", 0.0)
            try:
                runner.work([spec] * parts, [None] * parts, "sqlite://", tmp_path, watch)
            except UserError as error:
                return str(error), started
        return None, started

    return ends


def test_a_worker_that_dies_is_replaced_and_workers_that_keep_dying_are_not(ends):
    assert ends(-9, 1, 0)[0] is None
    printed, started = ends(*[-9] * 9)
    assert "keep dying" in printed and "the reason" in printed and len(started) == runner.MOST_DEATHS + 1


def test_an_error_that_only_a_person_can_mend_ends_the_study_and_stops_the_others(ends):
    printed, started = ends(None, runner.USER_ERROR, parts=2)
    assert printed == "the reason" and started[0].stopped


# ---------------------------------------------------------------------------------------------------- the command


def test_what_is_wrong_is_refused_before_anything_is_made(here, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for wrong, words in (
        (["train.device=cuda"], "train.device"),
        (["--storage", "postgresql://me:secret@127.0.0.1:9/db"], "127.0.0.1:9/db"),
        (["--workers", "-1"], "--workers"),
        (["data.root=/nowhere"], "/nowhere"),
        (["data.train=synthetics_test"], "annot"),
        (["teacher=nobody", "distill.terms.kl.loss=heatmap_kl"], "nobody"),
        (["--store", "here", "tracking.store=there"], "there"),
    ):
        assert words in refusal(lambda wrong=wrong: command.main([*here.args, "--trials", "2", *wrong]))
    assert not (here.folder / "optuna.db").exists() and not here.parents


def test_a_study_goes_on_with_its_space_its_data_and_its_store_only(here, monkeypatch):
    monkeypatch.setattr(runner, "work", lambda *_: None)
    args = [*here.args, "--trials", "1"]
    command.main(args)
    assert "base.train.weight_decay" in refusal(lambda: command.main([*args, "train.weight_decay=0.03"]))
    others = SimpleNamespace(train="other", val="other")
    monkeypatch.setattr(runner, "fingerprints", lambda _data: others)
    assert "train data" in refusal(lambda: command.main(args))
    assert [run.status for run in here.parents] == ["FINISHED"]


def test_a_dry_run_prints_configurations_and_makes_nothing(here, capsys):
    for store in ([], ["--store", str(here.folder / "mlruns")]):
        command.main([*here.args, "--trials", "3", "--dry-run", *store])
    blocks = capsys.readouterr().out.split("\n\n")
    assert "the recipe" in blocks[0] and "0.005" in blocks[0] and "*" not in blocks[0] and "* train.lr" in blocks[1]
    assert {path.name for path in here.folder.iterdir()} == {"rates.yaml"}


# ---------------------------------------------------------------------------------------------------- real signals


@pytest.mark.slow
def test_ctrl_c_has_every_worker_save_and_the_same_command_goes_on(here):
    text = here.file.read_text()
    here.file.write_text(text.replace("train.epochs: 1", "train.epochs: 8, train.checkpoint_seconds: 0.0001"))
    log = here.folder / "log"

    def start() -> psutil.Popen:
        with open(log, "ab") as file:
            environment = os.environ | {"PYTHONPATH": str(REPO), "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "false"}
            return psutil.Popen(
                [sys.executable, "-m", "search.study", *here.args, "--trials", "4", "--workers", "2"],
                cwd=REPO,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background ignore it
            )

    def in_mid_trial() -> bool:
        try:
            rows = here.rows()
        except UserError:  # not made yet
            return False
        return any(row.state == "done" for row in rows) and any(row.state == "running" and row.epoch for row in rows)

    process, deadline = start(), time.monotonic() + 600
    while not in_mid_trial():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    workers = process.children(recursive=True)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130 and not psutil.wait_procs(workers, timeout=10)[1]
    printed = log.read_text()
    assert (
        "of 4 trials are done. Continue with: python -m search.study --config" in printed and "Traceback" not in printed
    )
    states = [row.state for row in here.rows()]
    assert set(states) == {"done", "interrupted"} and len(states) <= 4
    assert all(run.status != "RUNNING" for run in here.runs().values())
    cut = {row.run_id for row in here.rows() if row.state == "interrupted"}
    assert start().wait(600) == 0, log.read_text()
    rows = [row for row in here.rows() if row.state != "retried"]
    assert [row.state for row in rows] == ["done"] * 4 and len(here.runs()) == 4
    assert cut <= {row.run_id for row in rows}, "they went on in their runs"
    for row in rows:
        steps = [step for step, _ in tracking.metric_history(here.tiny.tracking, row.run_id, "val/nme")]
        assert steps == list(range(1, 9))
