"""What a person sees who opens `mlflow ui`: descriptions, columns, filters that find something."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from running import refusal
from stores import alias_holder

import distill.tracking.client as store
from distill import tracking
from distill.config import TrackingConfig
from distill.tracking import NOTE
from distill.tracking import __main__ as command
from distill.tracking.ui import serve

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def client(tiny):
    assert tiny.distilled
    return store.connect(tiny.tracking)


def tags_of(client, name):
    return client.get_experiment_by_name(name).tags


def start(config, **tags):
    return tracking.Run.start(config, job="test", run_name="r", params={}, config_yaml="", tags=tags)


def test_an_experiment_opens_as_one_of_model_training_with_its_measure_and_a_description(client):
    tags = tags_of(client, "tiny")
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    assert tags["mlflow.experiment.primaryMetric.name"] == "best/val/nme"
    assert "lower is better" in tags[NOTE]


def test_the_saved_views_sort_by_and_show_what_runs_really_log(tiny, client):
    info = tiny.info(tiny.distilled)
    views = {key: value for key, value in tags_of(client, "tiny").items() if key.startswith("mlflow.sharedViewState.")}
    assert len(views) == 2
    for key, value in views.items():
        view = json.loads(value)
        state = json.loads(view["state"])
        assert view["name"] and isinstance(view["createdAt"], int)
        ordered = {"runs": ("attributes.start_time", False), "students": ("metrics.`best/val/nme`", True)}[
            key.split("-")[-1]
        ]
        assert (state["orderByKey"], state["orderByAsc"]) == ordered
        assert set(state["selectedColumns"]) < set(state["columnOrder"]) == set(state["columnWidths"])
        for column in state["selectedColumns"]:
            kind, name = re.fullmatch(r"(metrics|tags)\.`(.+)`", column).groups()
            assert name in (info.metrics if kind == "metrics" else info.tags), column
        assert f"viewStateShareKey={key.removeprefix('mlflow.sharedViewState.')})" in tags_of(client, "tiny")[NOTE]


@pytest.mark.parametrize("port", ["70000", "0", "-1", "abc", "9" * 30])
def test_a_port_that_is_none_is_refused(tiny, port):
    assert "--port" in refusal(command.main, ["ui", "--port", port, "--store", str(tiny.store)])


def test_a_host_that_is_none_is_refused():
    assert f"'{'x' * 80}'" in refusal(serve, "postgresql://db/runs", "distill", "x" * 80, 5000)


def test_a_description_that_is_there_stays(tiny, client):
    client.create_experiment("own", tags={NOTE: "Ann's runs"})
    with start(TrackingConfig(store=str(tiny.store), experiment="own")):
        pass
    assert tags_of(client, "own")[NOTE] == "Ann's runs"
    assert tags_of(client, "own")["mlflow.experimentKind"] == "custom_model_development"


def test_a_distilled_run_is_described_with_its_result_and_comparisons(tiny):
    info = tiny.info(tiny.distilled)
    result, compared, what = info.tags[NOTE].split("\n\n")
    assert what.startswith("Distilled `distilled`: lcnet_050") and tiny.teacher.run_id in what
    assert f"val/nme {info.metrics['best/val/nme']:.3f} %" in result and "8 images" in result
    assert f"control `{tiny.control.run_id[:8]}`" in compared and f"teacher `{tiny.teacher.run_id[:8]}`" in compared
    assert info.metrics["control/val/nme"] == pytest.approx(tiny.control.report.nme)
    last = [tiny.info(result).metrics["val/nme_last"] for result in (tiny.distilled, tiny.control)]
    assert info.metrics["control/val/difference"] == pytest.approx(last[0] - last[1])
    assert (
        "last epochs" in compared and "epochs chosen on these images" in compared
    )  # with the control, with the teacher
    assert info.metrics["teacher/val/nme"] == pytest.approx(tiny.teacher.report.nme, rel=1e-4)


def test_a_control_is_compared_with_no_other_run(tiny):
    info = tiny.info(tiny.control)
    assert not any(key.startswith(("control/", "teacher/")) for key in info.metrics)
    assert "No teacher; the baseline" in info.tags[NOTE]


def test_the_registry_shows_what_the_aliases_mean_and_how_good_a_version_is(tiny, client):
    holder = alias_holder(tiny.tracking, "distill-student", "newest")
    assert "`champion`" in client.get_registered_model("distill-student").description
    run = tracking.find_run(tiny.tracking, holder[1])
    assert client.get_model_version("distill-student", holder[0]).description == run.tags[NOTE]


def _filters() -> list[str]:
    text = (REPO / "docs" / "mlflow.md").read_text(encoding="utf-8")
    block = re.search(r"```filter\n(.*?)```", text, re.DOTALL)[1]
    return [line.split("  #")[0].strip() for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("text", _filters())
def test_every_filter_of_the_docs_is_understood_and_finds_a_run(client, text):
    experiment = client.get_experiment_by_name("tiny").experiment_id
    # the thresholds of the docs are those of real faces; cartoons after twelve epochs are further off
    runs = client.search_runs([experiment], re.sub(r"nme` < [\d.]+", "nme` < 100", text))
    if "'ablation'" not in text:  # of which this store has none
        assert runs, text
    if "'student'" in text:
        assert {run.data.tags["distill.job"] for run in runs} == {"student"}


def test_the_command_is_kept_as_it_was_typed_without_the_place_of_the_code():
    from distill.tracking.environment import _command

    assert _command([str(REPO / "distill" / "demo.py"), "a b"]) == "python -m distill.demo 'a b'"
    assert _command([str(REPO / "distill" / "submission" / "__main__.py"), "log"]) == "python -m distill.submission log"
    assert _command(["train.py", "x=1"]) == "train.py x=1"
