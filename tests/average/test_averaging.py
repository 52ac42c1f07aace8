"""Snapshots of late epochs, and one model made of several."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from distill import metrics, tracking
from distill.average import __main__ as average
from distill.average import job as averaging
from distill.config import HeadConfig, ModelConfig
from distill.data.annotations import read_set
from distill.errors import UserError
from distill.evaluate import job as evaluation
from distill.models.files import load_model, read_description, save_model
from distill.models.landmarker import Landmarker
from distill.training import finalize
from distill.training import job as training

# ---------------------------------------------------------------------------------------------------- snapshots


def snapshots(tiny, result) -> dict[int, dict[str, torch.Tensor]]:
    folder = tracking.artifact_path(tiny.tracking, result.run_id, "snapshots")
    return {int(file.stem.removeprefix("epoch_")): load_file(file) for file in sorted(folder.iterdir())}


@pytest.fixture
def validated(monkeypatch):
    """The weights that a run validates, in turn; with `script`, these val/nme instead of the measured ones."""
    weights, script, real = [], [], training.predict_set

    def predict(model, *args, **kwargs):
        weights.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return real(model, *args, **kwargs)

    measured = metrics.Report.as_metrics
    monkeypatch.setattr(training, "predict_set", predict)
    monkeypatch.setattr(metrics.Report, "as_metrics", lambda *a: {"val/nme": script.pop(0)} if script else measured(*a))
    return weights, script


def test_the_validated_weights_of_the_last_epochs_are_kept(tiny, bare, validated):
    weights, _ = validated
    result = training.train_student(tiny.short("train.epochs=5", "train.snapshots=2"))
    kept = snapshots(tiny, result)
    assert list(kept) == [4, 5]
    for epoch, tensors in kept.items():
        assert all(torch.equal(weights[epoch - 1][name], tensor) for name, tensor in tensors.items())
    file = tracking.artifact_path(tiny.tracking, result.run_id, "snapshots/epoch_004.safetensors")
    about = read_description(file)["about"]
    assert about["epoch"] == 4 and about["run_id"] == result.run_id
    assert about["val/nme"] == pytest.approx(tiny.curve(result.run_id, "val/nme")[3], abs=1e-4)


def test_an_early_stop_keeps_the_last_epochs_that_there_were(tiny, bare, validated):
    validated[1][:] = [9, 5, 6, 7]
    config = tiny.short("train.epochs=6", "train.patience=2", "train.snapshots=3")
    assert list(snapshots(tiny, training.train_student(config))) == [2, 3, 4]


def test_epochs_that_are_not_validated_have_no_snapshot(tiny, bare):
    config = tiny.short("train.epochs=5", "train.val_every=2", "train.snapshots=3")
    assert list(snapshots(tiny, training.train_student(config))) == [4, 5]


# ---------------------------------------------------------------------------------------------------- arithmetic


def test_the_mean_is_numpy_s_and_counters_are_the_first_one_s():
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(3, 2)).astype(np.float32) for _ in range(3)]
    states = [{"weight": torch.from_numpy(a), "batches": torch.tensor(7 + i)} for i, a in enumerate(arrays)]
    mean = averaging.mean_state(states)
    expected = np.mean(np.stack(arrays).astype(np.float64), axis=0).astype(np.float32)
    assert np.array_equal(mean["weight"].numpy(), expected) and mean["weight"].dtype == torch.float32
    assert mean["batches"] == 7
    assert torch.equal(averaging.mean_state(states[:1])["weight"], states[0]["weight"])


def test_greedy_adds_what_does_no_harm_and_goes_on_after_what_does():
    tried = {(0, 1): 5.0, (0, 1, 2): 5.5, (0, 1, 3): 4.0, (0, 1, 3, 4): 4.1}
    assert averaging.greedy([5.0, 6.0, 7.0, 8.0, 9.0], lambda indices: tried[tuple(indices)]) == ([0, 1, 3], 4.0)
    assert averaging.greedy([5.0, 6.0], lambda _: 5.1) == ([0], 5.0)


# ---------------------------------------------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def run(tiny):
    """A student with snapshots, of epochs that differ much."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finalize, "pictures", lambda *_, **__: [])
        return training.train_student(
            tiny.short("train.epochs=6", "train.snapshots=4", "train.min_lr=0.002", "tracking.outputs=light")
        )


def averaged(tiny, *argv: str):
    """By the command; the run that it made."""
    before = {run.id for run in tracking.list_runs(tiny.tracking)}
    average.main([*argv, "--store", str(tiny.store)])
    (made,) = [run for run in tracking.list_runs(tiny.tracking) if run.id not in before]
    return made


def test_uniform_is_the_mean_of_the_snapshots_and_finished_like_a_student(tiny, run, capsys):
    made = averaged(tiny, run.run_id, "--method", "uniform", "--name", "mean")
    kept, file = snapshots(tiny, run), tracking.artifact_path(tiny.tracking, made.id, "model/student.safetensors")
    for name, tensor in load_file(file).items():
        expected = np.mean([member[name].double().numpy() for member in kept.values()], axis=0)
        assert np.array_equal(tensor.numpy(), expected.astype(np.float32)), name
    assert (made.name, made.job, made.status, made.tags["distill.role"]) == ("mean", "student", "FINISHED", "averaged")
    assert made.tags["average.parents"] == run.run_id and made.params["average.method"] == "uniform"
    assert made.params["train.snapshots"] == "4" and made.tags["data.train"] == tiny.info(run).tags["data.train"]
    labelled = read_set(tiny.data / "synthetics_val")
    nme = evaluation.measure(evaluation.predict_set(load_model(file)[0], labelled), labelled).nme
    assert made.metrics["best/val/nme"] == pytest.approx(nme)
    assert made.metrics["average/uniform_nme"] == pytest.approx(nme)
    printed = capsys.readouterr().out
    assert all(f"epoch {epoch}  kept" in printed for epoch in kept) and f"{nme:7.3f}  mean of all 4" in printed
    assert "distill.digest" not in made.tags  # else a plan would take it for the training itself


def test_greedy_is_no_worse_than_its_best_member(tiny, run):
    made = averaged(tiny, run.run_id, "--method", "greedy")
    curve = tiny.curve(run.run_id, "val/nme")[-4:]
    assert made.metrics["best/val/nme"] <= min(curve) + 1e-4
    file = tracking.artifact_path(tiny.tracking, made.id, "evaluation/average.json")
    written = json.loads(file.read_text())
    assert [row["nme"] for row in written["members"]] == pytest.approx(sorted(curve))
    assert written["members"][0]["kept"] and written["nme"] == pytest.approx(made.metrics["best/val/nme"])
    assert made.metrics["average/kept"] == sum(row["kept"] for row in written["members"])


def test_several_runs_and_files_are_averaged_and_measured_on_the_given_set(tiny, run):
    other = training.train_student(tiny.short("train.epochs=1", "tracking.outputs=light", "seed=1"))
    made = averaged(tiny, run.run_id, str(other.model_file), "--data", str(tiny.data / "synthetics_val"))
    written = json.loads(tracking.artifact_path(tiny.tracking, made.id, "evaluation/average.json").read_text())
    errors = sorted([run.report.nme, other.report.nme])
    assert [row["nme"] for row in written["members"]] == pytest.approx(errors)
    assert {row["run_id"] for row in written["members"]} == {run.run_id, ""} and made.status == "FINISHED"
    assert made.tags["average.parents"] == run.run_id and made.metrics["best/val/nme"] <= errors[0] + 1e-4


def test_what_cannot_be_averaged_is_refused_before_a_run_exists(tiny, run, tmp_path):
    plain = training.train_student(tiny.short("train.epochs=1", "tracking.outputs=light"))
    wide = tmp_path / "wide.safetensors"
    save_model(Landmarker(ModelConfig("lcnet_050", input_size=64, head=HeadConfig(stride=8, width=24))), wide, {})
    before = len(tracking.list_runs(tiny.tracking))
    for argv, words in (
        ([plain.run_id], "0 snapshots"),
        ([str(wide)], "wide"),
        ([run.run_id, str(wide)], "model.head.width 16.*'wide'.*24"),
        ([run.run_id, "--data", str(tiny.data / "synthetics_train")], "synthetics_train"),
        ([run.run_id, "--data", "absent"], "'absent'"),
    ):
        with pytest.raises(UserError, match=words):
            average.main([*argv, "--store", str(tiny.store)])
    assert len(tracking.list_runs(tiny.tracking)) == before
