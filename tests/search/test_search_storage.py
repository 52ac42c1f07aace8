"""Where studies are kept, who has the turn, and which trial comes next: nothing is counted twice, nothing is lost."""

from __future__ import annotations

import pytest
import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from studies import inside_at_once, opened_by_three

from distill import tracking as track
from distill.errors import UserError
from search import queue, storage
from search import space as spaces

FILE = """
base: base.yaml
search:
  trial: {train.epochs: 3}
  sampler: {kind: random}
  enqueue: [{train.lr: 0.004}]
  heartbeat: 1
  retries: 2
  space: {train.lr: {float: [1.0e-4, 0.02], log: true}}
"""


@pytest.fixture
def space(tmp_path):
    (tmp_path / "base.yaml").write_text(f"train: {{lr: 0.002}}\ntracking: {{store: '{tmp_path}/mlruns'}}\n")
    (tmp_path / "rates.yaml").write_text(FILE)
    return spaces.load(tmp_path / "rates.yaml")


@pytest.fixture
def url(space):
    return storage.url_of(space.base.tracking)


@pytest.fixture
def study(space, url):
    return storage.open_study(space, "rates", url)


def take(study, space, url, total=100) -> queue.Next:
    return queue.take(study, space, total, url, space.base.tracking)


def silence(url: str) -> None:
    """As if every worker had been silent for an hour."""
    with sqlalchemy.create_engine(url).begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE trial_heartbeats SET heartbeat = datetime('now', '-1 hour')"))


def states(study) -> list[str]:
    return [trial.state.name for trial in study.get_trials()]


# ---------------------------------------------------------------------------------------------------- databases


def test_a_database_is_named_in_the_ways_that_people_know(space, tmp_path):
    tracking = space.base.tracking
    assert storage.url_of(tracking) == f"sqlite:///{tmp_path}/mlruns/optuna.db"
    assert storage.url_of(tracking, f"sqlite:///{tmp_path}/a.db") == f"sqlite:///{tmp_path}/a.db"
    for scheme in ("postgres", "postgresql", "postgresql+psycopg"):
        assert storage.url_of(tracking, f"{scheme}://me:pass@host/db") == "postgresql+psycopg://me:pass@host/db"
    assert "secret" not in storage.redacted("postgresql+psycopg://me:secret@host/db?password=secret")


@pytest.mark.parametrize(
    "given", ["mysql://me:pass@host/db", "optuna.db", "sqlite://", "postgresql://me:pass@host", "://"]
)
def test_a_database_of_another_kind_is_refused_without_its_password(space, given):
    with pytest.raises(UserError, match="expected sqlite:///FILE or postgresql") as error:
        storage.url_of(space.base.tracking, given)
    assert "pass" not in str(error.value)


def test_a_file_in_a_folder_that_is_not_there_is_refused_and_the_folder_is_not_made(space, tmp_path):
    with pytest.raises(UserError, match="in a folder that exists"):
        storage.url_of(space.base.tracking, f"sqlite:///{tmp_path}/typo/a.db")
    assert not (tmp_path / "typo").exists()


def test_an_unreachable_server_is_told_in_one_sentence(space):
    with pytest.raises(
        UserError, match=r"^The database postgresql\+psycopg://me:\*\*\*@127.0.0.1:9/db cannot be used: .*refused"
    ):
        storage.open_study(space, "rates", "postgresql+psycopg://me:secret@127.0.0.1:9/db")


def test_a_file_that_is_no_database_and_one_of_mlflow_are_refused_and_left_as_they_were(space, tmp_path):
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"no database at all" * 100)
    with pytest.raises(UserError, match="garbage.db cannot be used: file is not a database"):
        storage.open_study(space, "rates", f"sqlite:///{garbage}")
    assert garbage.read_bytes() == b"no database at all" * 100
    foreign = f"sqlite:///{tmp_path}/mlflow.db"
    engine = sqlalchemy.create_engine(foreign)
    with engine.begin() as connection:
        for table in ("alembic_version", "experiments"):
            connection.execute(sqlalchemy.text(f"CREATE TABLE {table} (id TEXT)"))
    with pytest.raises(UserError, match="mlflow.db is MLflow's"):
        storage.open_study(space, "rates", foreign)
    assert sqlalchemy.inspect(engine).get_table_names() == ["alembic_version", "experiments"]


def test_a_hiccup_is_waited_out_and_an_absence_is_told(monkeypatch):
    failures = [StorageInternalError("gone"), StorageInternalError("still gone")]

    def call():
        if failures:
            raise failures.pop()
        return "there"

    assert storage.patiently(call) == "there"
    failures += [StorageInternalError("gone")] * 9
    with pytest.raises(storage.DatabaseAway, match="gone"):
        storage.patiently(call, seconds=0.1)


# ---------------------------------------------------------------------------------------------------- studies


def test_a_study_is_joined_by_name_and_its_first_trials_are_enqueued_once(space, url):
    for worker in range(3):
        study = storage.open_study(space, "rates", url, worker)
    assert states(study) == ["WAITING"] * 2
    assert [take(study, space, url).values for _ in range(2)] == [{"train.lr": 0.002}, {"train.lr": 0.004}]
    assert storage.find_study("rates", url).user_attrs["space"] == space.described()
    with pytest.raises(UserError, match="There is no study 'other' in .*; it has rates"):
        storage.find_study("other", url)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[1.0e-4, 0.02]", "[1.0e-4, 0.01]", r"'space.train.lr.*' is .*0\.01.* began with .*0\.02"),
        ("train.epochs: 3", "train.epochs: 4", "'trial.train.epochs' is 4, .* began with 3"),
        ("log: true}", "log: true}, train.ema: {float: [0.9, 0.999]}", "'space.train.ema.*' is .* began with nothing"),
    ],
)
def test_a_study_of_a_changed_space_is_refused_by_the_key_that_changed(study, space, url, old, new, words):
    space.path.write_text(FILE.replace(old, new))
    with pytest.raises(UserError, match=words):
        storage.open_study(spaces.load(space.path), "rates", url)


def test_how_a_study_is_watched_and_sampled_may_change(study, space, url):
    space.path.write_text(FILE.replace("heartbeat: 1", "heartbeat: 9").replace("kind: random", "kind: tpe"))
    again = storage.open_study(spaces.load(space.path), "rates", url)
    assert len(again.trials) == 2


def test_a_study_that_a_killed_process_only_began_is_finished_by_the_next(space, url, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(storage.optuna.Study, "enqueue_trial", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            storage.open_study(space, "rates", url)
    assert states(storage.open_study(space, "rates", url)) == ["WAITING"] * 2


def test_processes_that_make_one_study_at_once_make_one(space, url):
    assert opened_by_three(space.path, url, "rates") == [0, 0, 0]
    assert states(storage.find_study("rates", url)) == ["WAITING"] * 2


def test_a_turn_is_one_process_s_at_a_time(url, study):
    assert inside_at_once(url, "rates", seconds=0.02) == [1, 1, 1, 1]


# ---------------------------------------------------------------------------------------------------- the queue


def test_a_study_gets_as_many_trials_as_asked_for_and_no_more(study, space, url):
    first, second = (take(study, space, url, total=3) for _ in range(2))
    study.tell(first.trial, 5.0)
    third = take(study, space, url, total=3)
    assert 1e-4 <= third.values["train.lr"] <= 0.02 and third.trial.number == 2
    assert take(study, space, url, total=3) == queue.Next(None, {}, False), "others are at the last ones"
    study.tell(second.trial, state=TrialState.PRUNED)
    third.trial.set_user_attr("error", "it diverged")
    study.tell(third.trial, state=TrialState.FAIL)
    assert take(study, space, url, total=3) == queue.Next(None, {}, True)
    assert take(study, space, url, total=4).trial.number == 3


def test_a_refused_trial_is_none_of_them(study, space, url):
    found = take(study, space, url, total=1)
    found.trial.set_user_attr("refused", "too large")
    study.tell(found.trial, state=TrialState.PRUNED)
    assert queue.tally(study).ended == 0 and take(study, space, url, total=1).trial.number == 1


def test_a_dead_worker_s_trial_goes_on_as_a_copy_so_often_and_counts_once(study, space, url):
    found, other = take(study, space, url, total=2), take(study, space, url, total=2)
    study.tell(other.trial, 7.0)
    found.trial.set_user_attr("run_id", "abc")
    found.trial.report(9.0, 1)
    for number in (2, 3):
        silence(url)
        copy = take(study, space, url, total=2)
        assert (copy.trial.number, copy.values) == (number, found.values)
        frozen = study.get_trials()[number]
        assert frozen.user_attrs == {"run_id": "abc", "retry_of": 0} and frozen.intermediate_values == {1: 9.0}
    silence(url)
    after = take(study, space, url, total=2)
    assert after.complete, "its third death is its last: it has failed"
    assert queue.tally(study) == queue.Tally(ended=2, running=0)
    assert states(study) == ["FAIL", "COMPLETE", "FAIL", "FAIL"]


def test_a_trial_whose_process_lives_is_not_taken_over_however_silent(study, space, url):
    found = take(study, space, url, total=1)
    found.trial.set_user_attr("run_id", "abc")
    with track.hold(track.work_dir(space.base.tracking, "abc")):
        silence(url)
        assert take(study, space, url, total=1) == queue.Next(None, {}, False)
    silence(url)
    assert take(study, space, url, total=2).trial is not None and states(study)[0] == "FAIL"


def test_a_trial_that_is_put_back_keeps_its_number_and_is_the_next(study, space, url):
    found = take(study, space, url)
    found.trial.report(9.0, 1)
    queue.put_back(found.trial)
    again = take(study, space, url)
    assert (again.trial.number, again.values) == (0, found.values) and states(study) == ["RUNNING", "WAITING"]


def test_a_stop_or_a_kill_while_a_trial_is_drawn_leaves_none_that_runs_for_ever(study, space, url, monkeypatch):
    def stopped(*_):
        raise SystemExit(143)

    with monkeypatch.context() as patch:
        patch.setattr(queue.sampling, "suggest", stopped)
        with pytest.raises(SystemExit):
            take(study, space, url)
    assert states(study) == ["WAITING"] * 2
    take(study, space, url)
    silence(url)  # killed outright, at the first moment at which it ran
    take(study, space, url)
    assert states(study)[0] == "FAIL"
