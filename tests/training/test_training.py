"""Promises of a whole training run: what it learns from, what it leaves behind, and when it refuses or stops."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import shutil
import sys
import zipfile

import numpy as np
import pytest
import torch
from running import TERMS, same_weights
from safetensors.torch import load_file

from distill import cli, tracking
from distill import config as configs
from distill.distillation.losses import coordinate as landmark_losses
from distill.errors import UserError
from distill.models.files import load_model, read_description
from distill.models.landmarker import to_input
from distill.models.references import resolve_teacher
from distill.training import checkpoint, finalize, loop
from distill.training import job as training
from distill.training.distributed import Processes


def digest(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---------------------------------------------------------------------------------------------------- what is tracked


def test_the_run_holds_all_outputs_of_its_config(tiny):
    result, config = tiny.distilled, tiny.config(f"teacher={tiny.teacher.run_id}", distilled=True)
    info = tiny.info(result)
    assert (info.status, info.job, info.name) == ("FINISHED", "student", "distilled-lcnet_050-s0")
    assert {key: str(value) for key, value in configs.flatten(config).items()}.items() <= info.params.items()

    def file(path):
        return tracking.artifact_path(tiny.tracking, info.id, path)

    assert configs.load(file("config.yaml")) == config
    environment = json.loads(file("environment.json").read_text())
    assert environment["packages"]["torch"] == info.tags["env.torch"] and environment["hardware"]["cores"] >= 1
    assert set(environment["code"]) == {"revision", "branch", "dirty"} and "code.dirty" in info.tags
    assert info.tags["distill.role"] == "distilled" and info.tags["teacher.run_id"] == tiny.teacher.run_id
    inputs = tracking.client.connect(tiny.tracking).get_run(info.id).inputs.dataset_inputs
    assert {d.tags[0].value: d.dataset.digest for d in inputs} == {
        "training": info.tags["data.train"],
        "validation": info.tags["data.val"],
    }
    assert len(info.tags["data.train"]) == 16 and info.tags["data.train"] != info.tags["data.val"]

    for key in (
        "train/lr",
        "train/images_per_second",
        "train/loss",
        "val/nme",
        "val/median",
        "val/p95",
        "val/failure_rate",
        "val/auc",
        "val/region/jaw",
        "val/region/mouth",
    ):
        assert len(tiny.curve(info.id, key)) == 12, key
    rates = tiny.curve(info.id, "train/lr")
    assert rates[0] == pytest.approx(config.train.lr) and rates == sorted(rates, reverse=True) and rates[-1] < 1e-4
    assert any(key.startswith("val/yaw/") for key in info.metrics)
    assert any(key.startswith("val/inwards/") for key in info.metrics)
    model = load_model(result.model_file)[0]
    assert info.metrics["model/parameters"] == sum(p.numel() for p in model.parameters())
    assert info.metrics["model/file_bytes"] == pytest.approx(result.model_file.stat().st_size, rel=0.05)
    assert info.metrics["data/train_images"] == 24 and info.metrics["data/skipped"] == 0
    assert info.metrics["best/val/nme"] == pytest.approx(result.report.nme)

    pictures = {path.stem for path in file("pictures").iterdir() if path.read_bytes().startswith(b"\x89PNG")}
    assert {"overlays", "learning_curves", "teacher_against_student", "worst", "ced"} <= pictures
    assert digest(file("model/student.safetensors")) == digest(result.model_file)
    assert file("onnx/student.onnx").stat().st_size > 100_000
    assert json.loads(file("evaluation/report.json").read_text())["nme"] == pytest.approx(result.report.nme)
    with zipfile.ZipFile(file("submission/solution.zip")) as archive:
        rows = archive.read("solution.txt").decode().splitlines()
    assert len(rows) == 4 and {len(row.split(" ")) for row in rows} == {137}


def test_light_outputs_are_the_model_and_its_numbers_alone(tiny, monkeypatch, capsys):
    """For many short cells: what takes long after training is left out, and what is measured is not."""
    full = tiny.info(tiny.distilled).metrics.keys()  # trained with its pictures, if this test is the first to want it
    monkeypatch.setattr(finalize, "pictures", None)
    config = tiny.short("tracking.outputs=light", "train.epochs=1", f"teacher={tiny.teacher.run_id}", distilled=True)
    result = training.train_student(config)
    folder = tracking.artifact_path(tiny.tracking, result.run_id, "model").parent
    kept = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert kept == {
        "config.yaml",
        "environment.json",
        "model/student.safetensors",
        "evaluation/report.json",
        "evaluation/last_report.json",
        "evaluation/val_predictions.npz",
        "evaluation/agreement.json",
    }
    compared = {"control/val/nme", "control/val/difference"}  # where the store has the control of a run
    measured = tiny.info(result).metrics.keys()
    # the bins of confidence that have points are those of each model
    assert {n for n in measured - compared if "/inwards/" not in n} == {
        n for n in full - compared if "/inwards/" not in n
    }
    assert any("/inwards/" in name for name in measured)
    assert (result.pictures, result.submission) == ([], None) and configs.digest(config) == configs.digest(
        dataclasses.replace(config, tracking=tiny.tracking)
    )
    cli.print_result(result)
    assert "submission" not in capsys.readouterr().out


def test_the_finished_student_is_in_the_registry(tiny, bare, tmp_path):
    store = f"tracking.store={tmp_path}"  # its own, since any student of the shared one becomes the newest
    first = training.train_student(tiny.config("train.epochs=2", store))
    second = training.train_student(tiny.config("train.epochs=1", store))
    where = tiny.config(store).tracking
    assert tracking.resolve_registry(where, "models:/distill-student@newest")[0] == second.run_id
    assert first.report.nme < second.report.nme  # so the second one is newer and not better
    run_id, folder = tracking.resolve_registry(where, "models:/distill-student@champion")
    assert run_id == first.run_id
    assert same_weights(folder / "student.safetensors", first.model_file)


def test_every_term_is_logged_raw_and_weighted_every_epoch(tiny):
    run = tiny.distilled.run_id
    raw, weighted = (
        {name: tiny.curve(run, f"train/{kind}/{name}") for name in ("coordinate", "heatmap", *TERMS)}
        for kind in ("raw", "weighted")
    )
    assert {len(curve) for curve in (*raw.values(), *weighted.values())} == {12}
    total = np.sum(list(weighted.values()), axis=0)
    assert total == pytest.approx(tiny.curve(run, "train/loss"), rel=1e-5)
    for name, weight in (("coordinate", 20), ("heatmap", 1), ("kl", 1.5), ("attention", 0.1)):
        assert weighted[name] == pytest.approx([weight * value for value in raw[name]], rel=1e-5)
    share = np.divide(weighted["hint"], raw["hint"])  # a cosine from 0.5 to 0
    assert share[0] == pytest.approx(0.5, rel=0.02) and share[-1] < 0.01 and (np.diff(share) < 0).all()
    assert raw["kl"][-1] < 0.5 * raw["kl"][0]  # it comes to resemble its teacher


def test_training_learns_and_keeps_the_best_epoch(tiny):
    for result in (tiny.teacher, tiny.control, tiny.distilled):
        curve = tiny.curve(result.run_id, "val/nme")
        assert result.report.nme == pytest.approx(min(curve))
        last = tracking.read_errors(tiny.tracking, result.run_id).last  # beside it, what no image chose
        assert tiny.info(result).metrics["val/nme_last"] == pytest.approx(curve[-1]) == last.mean()
        assert result.report.nme < 0.7 * curve[0]  # some 5 % after 20 %: no processor's rounding comes near this bound
        about = read_description(result.model_file)["about"]
        assert about["epoch"] == 1 + int(np.argmin(curve)) and about["run_id"] == result.run_id


# ------------------------------------------------------------------------------------------ control and teacher


def test_control_differs_in_the_terms_alone(tiny):
    control, distilled = tiny.info(tiny.control), tiny.info(tiny.distilled)
    different = {
        key for key in control.params | distilled.params if control.params.get(key) != distilled.params.get(key)
    }
    assert {key for key in different if not key.startswith("distill.terms")} == {"name", "teacher"}
    assert not [key for key in control.metrics if key.rpartition("/")[2] in TERMS]
    assert control.tags["distill.role"] == "control" and control.tags["teacher.run_id"] == ""
    a, b = load_file(tiny.control.model_file), load_file(tiny.distilled.model_file)
    assert {name: t.shape for name, t in a.items()} == {
        name: t.shape for name, t in b.items()
    }  # no adapter, no teacher


def built(config, job: str = "student") -> training.Training:
    return training.build(config, job, Processes(0, 1, torch.device("cpu")))


def test_student_and_pixels_do_not_depend_on_the_teacher(tiny):
    """The teacher, larger, gets the same views at its own size."""
    plain = "augment.photometric={}"
    control = built(tiny.short(plain))
    distilled = built(tiny.short(plain, f"teacher={tiny.teacher.model_file}", distilled=True))
    state = distilled.objective.student.state_dict()
    assert all(torch.equal(state[name], value) for name, value in control.objective.student.state_dict().items())
    one, other = next(iter(control.loader)), next(iter(distilled.loader))
    assert torch.equal(one.images, other.images) and torch.equal(one.landmarks, other.landmarks)
    assert one.teacher_images is None and other.teacher_images.shape == (4, 96, 96, 3)
    shrunk = to_input(other.teacher_images, 64).permute(0, 2, 3, 1)
    assert (shrunk - one.images).abs().mean() < 0.3 * (shrunk.flip(0) - one.images).abs().mean()
    given = built(tiny.short("data.size=80", f"teacher={tiny.teacher.model_file}", distilled=True))
    batch = next(iter(given.loader))
    assert batch.images.shape[1] == 80 and batch.teacher_images is None


def test_a_teacher_is_named_by_run_registry_or_file(tiny):
    fingerprint = tiny.info(tiny.teacher).tags["data.train"]
    run_id, file = tiny.teacher.run_id, tiny.teacher.model_file
    for reference in (run_id, run_id[:8], "models:/distill-teacher@newest", str(file)):
        found = resolve_teacher(reference, tiny.tracking, fingerprint)
        assert digest(found.path) == digest(file)
        assert found.run_id == ("" if reference == str(file) else run_id)
    for wrong in ("0" * 32, "models:/distill-teacher@nobody", "absent.safetensors"):
        with pytest.raises(UserError):
            resolve_teacher(wrong, tiny.tracking, fingerprint)


def test_default_teacher_is_the_newest_of_the_same_data(tiny, tmp_path):
    """In a store of its own, whose newest teachers are of other data, or assistants: teachers that have one
    themselves."""
    config = tiny.short(f"tracking.store={tmp_path / 'mlruns'}", distilled=True)
    data = tiny.info(tiny.teacher).tags["data.train"]

    def stored(fingerprint: str, role: str = "teacher") -> str:
        tags = {"data.train": fingerprint, "distill.role": role}
        with tracking.Run.start(
            config.tracking, job="teacher", run_name="", params={}, config_yaml="", tags=tags
        ) as run:
            run.log_artifact(tiny.teacher.model_file, tracking.MODEL_FOLDER)
        return run.id

    stored("other")
    with pytest.raises(UserError, match="distill.teacher"):
        built(config)
    stored(data)
    newer = stored(data)
    stored("other")
    stored(data, role="assistant")
    assert built(config).teacher_run == newer


# ---------------------------------------------------------------------------------------------------- numbers


def test_same_seed_same_weights_whatever_the_workers(tiny, bare):
    first = training.train_teacher(tiny.short())
    again = training.train_teacher(tiny.short("data.workers=1"))
    assert same_weights(first.model_file, again.model_file)
    assert tiny.curve(first.run_id, "train/loss") == tiny.curve(again.run_id, "train/loss")
    one, other = (built(tiny.short(f"seed={seed}"), "teacher").objective.student for seed in (0, 1))
    assert not torch.equal(one.head.out.weight, other.head.out.weight)


def test_a_training_by_the_clock_ends_and_shows_its_epochs(tiny, bare):
    """A budget that is over after the first step: one epoch, cut short, validated and kept."""
    result = training.train_student(tiny.short("train.minutes=1e-6", "seed=61"))
    info = tiny.info(result)
    assert (info.status, info.metrics["train/epochs"], info.tags["train.precision"]) == ("FINISHED", 1.0, "float32")
    assert result.report.nme == pytest.approx(tiny.curve(result.run_id, "val/nme")[0])


# ---------------------------------------------------------------------------------------------------- divergence


def test_divergence_ends_the_run_and_harms_nothing(tiny, bare, monkeypatch, capsys):
    """By the command: one line that names every term, exit code 2, run FAILED, the last checkpoint whole."""
    real, calls = landmark_losses.LOSSES["nme"], []

    def broken(points, target, weight):
        calls.append(1)
        return real(points, target, weight) * (math.nan if len(calls) > 9 else 1)  # six batches an epoch

    monkeypatch.setitem(landmark_losses.LOSSES, "nme", broken)
    monkeypatch.chdir(tiny.folder)
    overrides = ["train.epochs=3", "tracking.register=false", "train.checkpoint_seconds=0.0001"]
    monkeypatch.setattr(sys, "argv", ["teacher", "--config", str(tiny.control_yaml), *overrides])
    from distill import teacher

    with pytest.raises(SystemExit) as stopped:
        cli.run(teacher.main)
    assert stopped.value.code == 2 and len(calls) == 10
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "epoch 2, batch 4" in line and "coordinate=" in line and "heatmap=" in line and "nan" in line
    run = tracking.list_runs(tiny.tracking)[0]
    assert run.status == "FAILED" and "heatmap=" in run.tags["error"]
    state = checkpoint.load(tracking.work_dir(tiny.tracking, run.id) / training.CHECKPOINT)
    assert (state["progress"]["epoch"], state["progress"]["batch"]) == (1, 3)
    assert all(torch.isfinite(t).all() for part in ("objective", "average") for t in state[part].values())


# ---------------------------------------------------------------------------------------------------- refusals


@pytest.fixture
def other_root(tiny, tmp_path):
    shutil.copytree(tiny.data, tmp_path / "data")
    return tmp_path / "data"


def refused(tiny, match, *overrides, job=training.train_teacher):
    """The run is refused with this sentence, and leaves no run behind."""
    before = len(tracking.list_runs(tiny.tracking))
    with pytest.raises(UserError, match=match) as error:
        job(tiny.short(*overrides))
    assert "\n" not in str(error.value)
    assert len(tracking.list_runs(tiny.tracking)) == before


def test_the_photographs_are_never_trained_on(tiny, other_root):
    with pytest.raises(UserError, match="data.train.*AFLW"):
        tiny.config("data.train=aflw_val")
    (other_root / "synthetics_val").rename(other_root / "aflw_val")
    os.symlink("aflw_val", other_root / "photos")
    refused(tiny, "never trained on", f"data.root={other_root}", "data.train=photos")


def test_validation_images_are_never_trained_on(tiny, other_root):
    refused(tiny, "same folder", f"data.root={other_root}", "data.val=synthetics_train")
    # one photograph of the validation set, renamed and relabelled, among the training images
    train, val = other_root / "synthetics_train", other_root / "synthetics_val"
    shutil.copyfile(next(val.glob("*.jpg")), train / "000003.jpg")
    refused(tiny, "same content", f"data.root={other_root}")


def test_bad_images_stop_or_are_skipped_counted_and_reported(tiny, bare, other_root, capsys):
    for name in ("000003.jpg", "000007.jpg"):
        file = other_root / "synthetics_train" / name
        file.write_bytes(file.read_bytes()[:-200])
    refused(tiny, "000003.jpg.*truncated", f"data.root={other_root}")
    result = training.train_teacher(tiny.short(f"data.root={other_root}", "data.on_bad=skip"))
    assert "2 of 24 training images are left out, such as '000003.jpg'" in capsys.readouterr().out
    info = tiny.info(result)
    assert info.tags["data.skipped_images"] == "2" and info.metrics["data/skipped"] == 2
    assert info.metrics["data/train_images"] == 22
    assert info.tags["data.train"] != tiny.info(tiny.teacher).tags["data.train"]
    shutil.copyfile(other_root / "synthetics_train" / "000003.jpg", next((other_root / "synthetics_val").glob("*.jpg")))
    refused(tiny, "truncated", f"data.root={other_root}", "data.on_bad=skip")  # of the validation set all must count


def test_a_student_over_budget_is_refused_before_it_trains(tiny):
    refused(tiny, "15,000,000", "model.backbone=convnext_pico", job=training.train_student)


def test_what_cannot_be_is_refused_before_a_run_exists(tiny, monkeypatch):
    refused(tiny, "batch_size is 25.*24", "train.batch_size=25")
    refused(tiny, "nowhere", "data.root=nowhere")
    refused(tiny, "no multiple of model.head.stride", "model.input_size=100")
    monkeypatch.setattr(training, "read_labelled", None)  # names are checked before images are decoded
    refused(tiny, "no_such_net", "model.backbone=no_such_net")
    refused(tiny, "NoSuchStep", "augment.photometric={x: {name: NoSuchStep}}")
    refused(tiny, "absent.safetensors", "init=absent.safetensors")


def test_results_are_plain_values(tiny):
    """What the commands print and the search reads."""
    result = tiny.control
    assert isinstance(result, training.TrainResult) and dataclasses.asdict(result.cost)["file_bytes"] < 15_000_000
    assert result.submission.is_file() and all(path.is_file() for path in result.pictures)
    assert loop.SELECT == "val/nme" and result.minutes > 0
