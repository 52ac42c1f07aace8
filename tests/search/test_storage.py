"""Where studies are kept: databases are named, made and refused; a study is joined by all who search the same space."""

from __future__ import annotations

import pytest
import sqlalchemy
from optuna.exceptions import StorageInternalError
from running import refusal
from studies import inside_at_once, opened_by_three, write_search

from distill import tracking as track
from search import space as spaces
from search import storage

pytest_plugins = ["studies"]
AWAY = "postgresql+psycopg://me:secret@127.0.0.1:9/db"


def test_a_database_is_named_in_the_ways_that_people_know(tmp_path):
    assert storage.url_of(tmp_path) == f"sqlite:///{tmp_path}/optuna.db"
    assert storage.url_of("x", f"sqlite:///{tmp_path}/a.db") == f"sqlite:///{tmp_path}/a.db"
    for scheme in ("postgres", "postgresql", "postgresql+psycopg"):
        assert storage.url_of("x", f"{scheme}://me:pass@host/db") == "postgresql+psycopg://me:pass@host/db"
    assert "secret" not in track.redact(f"{AWAY}?password=secret")


@pytest.mark.parametrize(
    "given", ["mysql://me:pass@host/db", "optuna.db", "sqlite://", "postgresql://me:pass@host", "://"]
)
def test_a_database_of_another_kind_is_refused_without_its_password(given):
    assert "pass" not in refusal(lambda: storage.url_of("x", given))


def test_a_folder_that_is_not_there_is_refused_and_not_made(tmp_path):
    refusal(lambda: storage.url_of("x", f"sqlite:///{tmp_path}/typo/a.db"))
    storage.url_of(tmp_path / "typo")
    assert not list(tmp_path.iterdir())


def test_a_store_in_a_folder_of_any_name_has_its_database_there(tmp_path):
    folder = tmp_path / "q?1 %20%41 #{x}"
    folder.mkdir()
    space = spaces.load(write_search(tmp_path))
    study = storage.open_study(space, "rates", storage.url_of(folder))
    assert (folder / "optuna.db").is_file() and (folder / "optuna.db.lock").is_file() and len(study.trials) == 1
    assert {path.name for path in tmp_path.iterdir()} == {folder.name, "base.yaml", "rates.yaml"}
    assert storage.find_study("rates", storage.url_of(folder)).user_attrs["space"] == space.described()


def test_a_server_that_does_not_answer_is_one_sentence(study):
    message = refusal(lambda: storage.open_study(study.space, "rates", AWAY))
    assert "127.0.0.1:9/db" in message and "refused" in message and "secret" not in message


def test_a_file_that_is_no_database_and_one_of_mlflow_are_refused_and_left_as_they_were(study, tmp_path):
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"no database at all" * 100)
    assert "garbage.db" in refusal(lambda: storage.open_study(study.space, "rates", f"sqlite:///{garbage}"))
    assert garbage.read_bytes() == b"no database at all" * 100
    foreign = f"sqlite:///{tmp_path}/mlflow.db"
    engine = sqlalchemy.create_engine(foreign)
    with engine.begin() as connection:
        for table in ("alembic_version", "experiments"):
            connection.execute(sqlalchemy.text(f"CREATE TABLE {table} (id TEXT)"))
    assert "MLflow's" in refusal(lambda: storage.open_study(study.space, "rates", foreign))
    assert sqlalchemy.inspect(engine).get_table_names() == ["alembic_version", "experiments"]


def test_a_hiccup_is_waited_out_and_an_absence_is_reported():
    failures = [StorageInternalError("gone"), StorageInternalError("still gone")]

    def call():
        if failures:
            raise failures.pop()
        return "there"

    assert storage.patiently(call) == "there"
    failures += [StorageInternalError("gone")] * 9
    with pytest.raises(storage.DatabaseAway):
        storage.patiently(call, seconds=0.1)
    assert len(failures) >= 7, "it gives up in time"


# ---------------------------------------------------------------------------------------------------- studies


def test_a_study_that_is_not_there_leaves_nothing_behind(study, tmp_path):
    folder = tmp_path / "none"
    assert "rates" in refusal(lambda: storage.find_study("rates", storage.url_of(folder))) and not folder.exists()
    storage.open_study(study.space, "rates", study.url)
    assert "rates" in refusal(lambda: storage.find_study("other", study.url))


def test_a_study_is_joined_by_name_and_its_first_trials_are_enqueued_once(study, tmp_path):
    write_search(tmp_path, ("heartbeat: 1", "enqueue: [{train.lr: 4e-3}]"))
    for worker in range(2):
        joined = storage.open_study(study.space, "rates", study.url, worker)
    assert [trial.system_attrs["fixed_params"] for trial in joined.trials] == [{"train.lr": 0.002}, {"train.lr": 0.004}]


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("[1e-4, 2e-2]", "[1e-4, 1e-2]", "space.train.lr.float"),
        ("train.epochs: 3", "train.epochs: 4", "trial.train.epochs"),
        ("log: true}", "log: true}, train.ema: {float: [0.9, 0.999]}", "space.train.ema.float"),
        ("title: Rates", "set: {train.weight_decay: 0.03}", "base.train.weight_decay"),
    ],
)
def test_a_study_of_a_changed_space_is_refused_by_the_key_that_changed(study, tmp_path, old, new, key):
    storage.open_study(study.space, "rates", study.url)
    write_search(tmp_path, (old, new))
    assert f"'{key}' is " in refusal(lambda: storage.open_study(study.space, "rates", study.url))


def test_how_a_study_is_watched_and_sampled_may_change(study, tmp_path):
    storage.open_study(study.space, "rates", study.url)
    write_search(tmp_path, ("heartbeat: 1", "heartbeat: 9"), ("kind: random", "kind: tpe"))
    assert len(storage.open_study(study.space, "rates", study.url).trials) == 1


def test_a_study_that_a_killed_process_only_began_is_finished_by_the_next(study, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(storage.optuna.Study, "enqueue_trial", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            storage.open_study(study.space, "rates", study.url)
    storage.open_study(study.space, "rates", study.url)
    assert study.states() == ["waiting"]


@pytest.mark.slow
def test_processes_that_make_one_study_at_once_make_one(tmp_path):
    url = storage.url_of(tmp_path)
    assert opened_by_three(write_search(tmp_path), url, "rates") == [0, 0, 0]
    assert len(storage.find_study("rates", url).trials) == 1


def test_a_turn_is_one_process_s_at_a_time(tmp_path):
    assert inside_at_once(storage.url_of(tmp_path), "rates", seconds=0.02) == [1, 1, 1, 1]
