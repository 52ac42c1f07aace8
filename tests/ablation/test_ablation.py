"""An ablation trains what is missing and nothing twice, whatever ends it; its table comes back from MLflow alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from running import REPO, in_this_process, refusal

from distill import tracking
from distill.ablation import __main__ as entry
from distill.ablation import file as grid
from distill.ablation import job as ablation
from distill.ablation.table import Table
from distill.errors import UserError
from distill.runs import find_or_train, workers
from distill.runs.workers import Share
from distill.tracking import Held
from distill.training import checkpoint
from distill.training import job as training

FILE = """
base: control.yaml
ablation:
  title: Two rates, two losses
  seeds: [0, 1]
  control: control
  set: {train.epochs: 2, data.limit: 8, train.weight_decay: 0.0321}
  teachers:
    small: {set: {name: teacher, train.epochs: 1, data.limit: 8, train.weight_decay: 0.0321}}
  cells:
    control: {}
    heatmap: {teacher: "@small", distill.terms.kl: {loss: heatmap_kl}}
"""


@pytest.fixture
def here(tiny, bare, monkeypatch):
    """The tiny folder with an ablation file in it, whose cells are trained in this process."""
    monkeypatch.setattr(ablation, "work_off", in_this_process)
    (tiny.folder / "two.yaml").write_text(FILE)
    return tiny


def load(here, *overrides: str) -> grid.Grid:
    return grid.load(here.folder / "two.yaml", overrides)


# ---------------------------------------------------------------------------------------------------- in one process


def test_an_ablation_from_file_to_table_and_again(here, tmp_path, monkeypatch, capsys):
    trained = []
    for name in ("train_teacher", "train_student"):
        real = getattr(training, name)
        monkeypatch.setattr(training, name, lambda config, real=real: trained.append(config) or real(config))
    assert "0 finished, 0 to continue, 5 new" in ablation.dry_run(load(here)) and not trained

    # another one's: a command trains the control of seed 0 beforehand, under a name of its own
    before = training.train_student(load(here).trainings[0].config).run_id
    done = ablation.run(load(here), tmp_path, 1)
    assert not done.failed and len(trained) == 5
    rows = {row.cell: row for row in done.table.rows}
    assert rows["control"].runs[0] == before and not done.table.missing
    teacher = tracking.find_run(here.tracking, rows["heatmap"].runs[0]).tags["teacher.run_id"]
    assert tracking.find_run(here.tracking, teacher).job == "teacher"

    # the runs' own numbers, by hand
    for row in rows.values():
        for seed, run_id in row.runs.items():
            info = tracking.find_run(here.tracking, run_id)
            assert info.metrics["best/val/nme"] == pytest.approx(row.nme[seed]) and info.params["seed"] == str(seed)
            assert info.metrics["val/nme_last"] == pytest.approx(row.last[seed])
    images = {cell: np.mean([per_image(here, run) for run in row.runs.values()], axis=0) for cell, row in rows.items()}
    difference = rows["heatmap"].difference
    assert difference.mean == pytest.approx((images["heatmap"] - images["control"]).mean())
    assert rows["heatmap"].agreement > 0 and rows["control"].agreement is None
    assert rows["control"].megabytes > 0 and rows["control"].minutes > 0

    # children lie under their parent, the adopted one where it was
    parent = tracking.find_run(here.tracking, done.parent_id)
    assert (parent.job, parent.status, parent.name) == ("ablation", "FINISHED", "two")
    assert parent.metrics["nme/heatmap"] == pytest.approx(rows["heatmap"].mean)
    children = tracking.runs_tagged(here.tracking, "student", {"mlflow.parentRunId": parent.id})
    assert {run.id for run in children} == {*rows["control"].runs.values(), *rows["heatmap"].runs.values()} - {before}
    assert {run.tags["distill.cell"] for run in children} == {"control", "heatmap"}

    # from MLflow alone, and by the command
    kept = tracking.artifact_path(here.tracking, done.parent_id, ablation.TABLE_FILE)
    assert Table.from_dict(json.loads(kept.read_text())) == done.table
    shutil.rmtree(tmp_path / "two")
    entry.main(["table", str(here.folder / "two.yaml"), "--out", str(tmp_path)])
    assert f"{difference.mean:+.3f}" in capsys.readouterr().out
    written = {path.name for path in (tmp_path / "two").iterdir()}
    assert written == {"table.md", "table.csv", "table.json", "ablation.png"}

    # the same command again trains nothing, in the same parent
    again = ablation.run(load(here), tmp_path, 1)
    assert (again.parent_id, again.table, len(trained)) == (done.parent_id, done.table, 5)
    more = load(here, "train.epochs=1")  # another grid
    assert "5 new" not in ablation.dry_run(more) and "4 new" in ablation.dry_run(more)  # the teacher is the same


def per_image(here, run_id: str) -> np.ndarray:
    return np.array(
        json.loads(tracking.artifact_path(here.tracking, run_id, "evaluation/last_report.json").read_text())[
            "per_image"
        ]
    )


def test_a_failing_cell_stops_no_other_and_is_tried_again(here, tmp_path, monkeypatch, capsys):
    (here.folder / "fails.yaml").write_text(
        "base: control.yaml\nablation:\n  control: a\n  set: {train.epochs: 1, data.limit: 8}\n"
        "  cells: {a: {train.lr: 0.0011}, b: {train.lr: 0.0012}, c: {train.lr: 0.0013}}"
    )
    real = training.train_student

    def failing(config):
        if config.train.lr == 0.0012:
            raise UserError("The loss is nan.")
        return real(config)

    command = ["run", str(here.folder / "fails.yaml"), "--out", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(training, "train_student", failing)
        with pytest.raises(SystemExit) as ended:
            entry.main(command)
    out, err = capsys.readouterr()
    assert ended.value.code == 1 and "b, seed 0: The loss is nan." in err and "Missing, 1 of 3: b s0" in out
    (parent,) = tracking.runs_tagged(here.tracking, "ablation", {"distill.ablation": "fails"})
    assert parent.status == "FAILED"
    entry.main(command)
    assert "Missing" not in capsys.readouterr().out
    assert tracking.find_run(here.tracking, parent.id).status == "FINISHED"


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("model.backbone: convnext_base", "at most 15,000,000"),
        (
            'teacher: "@small", distill.terms.f: {loss: fitnet, student: "level:9", teacher: "level:2"}',
            "distill.terms.f.student",
        ),
        ("distill.terms.f: {loss: nonsense}, teacher: '@small'", "nonsense"),
        ("augment.photometric.x: {name: Nothing}", "Nothing"),
        ("teacher: absent, distill.terms.kl: {loss: heatmap_kl}", "absent"),
    ],
)
def test_what_cannot_be_trained_is_reported_before_the_first_cell_starts(here, tmp_path, cell, words):
    (here.folder / "wrong.yaml").write_text(FILE.replace("    heatmap: {", f"    wrong: {{{cell}}}\n    heatmap: {{"))
    before = len(tracking.list_runs(here.tracking))
    assert words in refusal(lambda: ablation.run(grid.load(here.folder / "wrong.yaml"), tmp_path, 1))
    assert len(tracking.list_runs(here.tracking)) == before


def test_the_newest_teacher_stays_the_one_it_was_when_the_grid_began(here, tmp_path):
    text = "base: control.yaml\nablation:\n  control: a\n  set: {train.epochs: 1, data.limit: 7}\n"
    (here.folder / "newest.yaml").write_text(text + "  cells: {a: {}, b: {distill.terms.kl: {loss: heatmap_kl}}}")
    first = training.train_teacher(here.short("data.limit=7", "train.epochs=1", "seed=11"))
    planned = grid.load(here.folder / "newest.yaml")
    done = ablation.run(planned, tmp_path, 1)
    training.train_teacher(here.short("data.limit=7", "train.epochs=1", "seed=12"))  # newer
    again = ablation.run(planned, tmp_path, 1)
    assert again.table == done.table and again.parent_id == done.parent_id
    assert tracking.find_run(here.tracking, done.table.rows[1].runs[0]).tags["teacher.run_id"] == first.run_id


def test_the_machine_is_shared_out(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert workers.shares(3, "auto", 0) == [Share(2, {"OMP_NUM_THREADS": "2"})] * 3
    assert [share.environment["CUDA_VISIBLE_DEVICES"] for share in workers.shares(3, "auto", 2)] == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert [share.environment["CUDA_VISIBLE_DEVICES"] for share in workers.shares(2, "cuda", 2)] == ["4", "6"]
    assert "CUDA_VISIBLE_DEVICES" not in workers.shares(2, "cpu", 2)[0].environment
    assert workers.shares(99, "cpu", 0)[0].threads == 1


def test_ctrl_c_shows_how_to_continue(here, tmp_path, monkeypatch, capsys):
    def interrupted(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(ablation, "work_off", interrupted)
    with pytest.raises(KeyboardInterrupt):
        entry.main(["run", str(here.folder / "two.yaml"), "train.epochs=3", "--out", str(tmp_path)])
    command = f"python -m distill.ablation run '{here.folder}/two.yaml' train.epochs=3"
    assert f"Continue with: {command}" in capsys.readouterr().out
    (parent, *_) = tracking.runs_tagged(here.tracking, "ablation", {"distill.ablation": "two"})
    assert parent.status == "KILLED"


def test_the_last_words_of_a_log(tmp_path):
    log = tmp_path / "log"
    log.write_text("a 10%\ra 20%\nerror: The loss is nan.\nwarning: late\n")
    assert workers.last_words(log) == "The loss is nan."
    assert workers.last_words(log, log.read_text().index("warning")) == "warning: late"
    log.write_text('Traceback\n  File "x"\nRuntimeError: out of memory\n')
    assert workers.last_words(log) == "RuntimeError: out of memory"
    assert workers.last_words(tmp_path / "absent")


# ---------------------------------------------------------------------------------------------------- real processes

# twelve cells with a checkpoint after every batch, long enough to be cut in the middle
TWELVE = """
base: control.yaml
ablation:
  title: Twelve cells
  seeds: [0]
  control: lr=0.001 flip=0.0
  set: {train.epochs: 6, data.limit: 16, train.checkpoint_seconds: 0.0001}
  grid:
    train.lr: [0.001, 0.002, 0.003, 0.004]
    augment.flip: [0.0, 0.25, 0.5]
"""


@pytest.fixture
def twelve(tiny, tmp_path):
    """The twelve cells with a store of their own."""
    (tiny.folder / "twelve.yaml").write_text(TWELVE)
    return Command(tiny.folder / "twelve.yaml", tmp_path)


@pytest.fixture
def four(tiny, tmp_path):
    """A third of them."""
    (tiny.folder / "four.yaml").write_text(TWELVE.replace("[0.0, 0.25, 0.5]", "[0.0]"))
    return Command(tiny.folder / "four.yaml", tmp_path)


class Command:
    """`python -m distill.ablation run` with two workers, in a process of its own."""

    def __init__(self, file: Path, folder: Path):
        self.store = folder / "mlruns"
        self.overrides = [f"tracking.store={self.store}", f"data.root={file.parent / 'data'}"]
        self.grid = grid.load(file, self.overrides)
        self.tracking = self.grid.cells[self.grid.control].tracking
        self.args = [
            sys.executable,
            "-m",
            "distill.ablation",
            "run",
            str(file),
            *self.overrides,
            "--workers",
            "2",
            "--out",
            str(folder / "out"),
        ]
        self.log = folder / "log"

    def start(self) -> psutil.Popen:
        with open(self.log, "ab") as log:
            environment = os.environ | {"PYTHONPATH": str(REPO), "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "false"}
            return psutil.Popen(self.args, cwd=REPO, stdout=log, stderr=subprocess.STDOUT, env=environment)

    def finish(self) -> None:
        assert self.start().wait(900) == 0, self.log.read_text()

    def mid_cell(self, process: psutil.Popen, finished: int) -> str:
        """Wait until so many cells are done and another one is in the middle; the run id of that one."""
        deadline = time.monotonic() + 900
        while True:
            assert process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            if self.log.read_text().count("  trained  ") >= finished:
                for file in self.store.glob(f"work/*/{training.CHECKPOINT}"):
                    if 0 < self.steps(file) < 8:
                        return file.parent.name
            time.sleep(0.02)

    @staticmethod
    def steps(file: Path) -> int:
        try:
            return checkpoint.load(file)["progress"]["step"]
        except UserError:  # finished a moment ago
            return 0

    def runs(self) -> list[tracking.RunInfo]:
        return tracking.list_runs(self.tracking, "student")


def check_complete(twelve: Command, cut: str) -> None:
    runs = {run.id: run for run in twelve.runs()}
    finished = [run for run in runs.values() if run.status == "FINISHED"]
    assert len(finished) == 12 and len({run.tags["distill.digest"] for run in finished}) == 12  # none twice
    left = [run for run in runs.values() if run.status != "FINISHED"]  # died before a first checkpoint
    assert all(run.status == "KILLED" and "val/nme" not in run.metrics for run in left)
    assert runs[cut].status == "FINISHED" and "distill.resumed" in runs[cut].tags
    steps = [step for step, _ in tracking.metric_history(twelve.tracking, cut, "val/nme")]
    assert steps == [1, 2, 3, 4, 5, 6]
    (parent,) = tracking.runs_tagged(twelve.tracking, "ablation", {})
    assert parent.status == "FINISHED"
    kept = tracking.artifact_path(twelve.tracking, parent.id, ablation.TABLE_FILE)
    made = Table.from_dict(json.loads(kept.read_text()))
    assert not made.missing and {id for row in made.rows for id in row.runs.values()} == {run.id for run in finished}


def gone(processes: list[psutil.Process], seconds: float) -> bool:
    return not psutil.wait_procs(processes, timeout=seconds)[1]


@pytest.mark.slow
def test_twelve_cells_killed_outright_and_finished_by_the_same_command(twelve):
    runner = twelve.start()
    cut = twelve.mid_cell(runner, finished=2)
    everyone = [runner, *runner.children(recursive=True)]
    for process in everyone:
        process.send_signal(signal.SIGKILL)
    assert gone(everyone, 60)
    assert tracking.find_run(twelve.tracking, cut).status == "RUNNING"
    twelve.finish()
    check_complete(twelve, cut)


@pytest.mark.slow
def test_workers_save_and_stop_when_their_runner_is_killed_outright(four):
    runner = four.start()
    cut = four.mid_cell(runner, finished=1)
    workers = runner.children(recursive=True)
    assert workers
    runner.kill()
    assert gone([runner, *workers], 120)
    assert tracking.find_run(four.tracking, cut).status in ("KILLED", "FINISHED")
    four.finish()
    assert len([run for run in four.runs() if run.status == "FINISHED"]) == 4


@pytest.mark.slow
def test_a_signal_saves_every_worker_and_shows_how_to_continue(four):
    runner = four.start()
    cut = four.mid_cell(runner, finished=1)
    runner.terminate()
    assert runner.wait(300) == 128 + signal.SIGTERM
    assert "Continue with: python -m distill.ablation run" in four.log.read_text()
    assert "Traceback" not in four.log.read_text()
    (parent,) = tracking.runs_tagged(four.tracking, "ablation", {})
    assert parent.status == "KILLED" and tracking.find_run(four.tracking, cut).status in ("KILLED", "FINISHED")
    four.finish()
    assert len([run for run in four.runs() if run.status == "FINISHED"]) == 4


@pytest.mark.slow
def test_two_commands_at_once_share_the_cells(four):
    runners = [four.start(), four.start()]
    assert [runner.wait(900) for runner in runners] == [0, 0], four.log.read_text()
    runs = four.runs()
    assert [run.status for run in runs] == ["FINISHED"] * 4 and len({run.tags["distill.digest"] for run in runs}) == 4
    assert len(tracking.runs_tagged(four.tracking, "ablation", {})) == 1


def test_a_worker_leaves_what_another_process_is_at(tiny, tmp_path, monkeypatch):
    """The exit code tells the runner to come back later."""
    spec = tmp_path / "spec.json"
    from distill import config as configs

    values = {
        "runner": os.getppid(),
        "name": "a",
        "job": "student",
        "config": configs.to_dict(tiny.short()),
        "tags": {},
    }
    spec.write_text(json.dumps(values | {"result": str(tmp_path / "result")}))

    def held(*_args, **_kwargs):
        raise Held("busy")

    monkeypatch.setattr(find_or_train, "settle", held)
    monkeypatch.setattr(workers, "follow", lambda _runner: None)  # this process is no worker
    with pytest.raises(SystemExit) as ended:
        entry.main(["cell", str(spec)])
    assert ended.value.code == workers.BUSY
