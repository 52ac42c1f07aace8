"""What is handed out: one float32 student under 15 MB and nobody else's weights, ONNX that agrees, a checked
solution.zip."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import draw_face, write_challenge
from safetensors.torch import load_file, save_file

from distill.config import HeadConfig, ModelConfig, TrackingConfig
from distill.data.annotations import read_set
from distill.errors import UserError
from distill.evaluate.job import predict_set
from distill.export import job as exporting
from distill.export import solve as solving
from distill.models import references
from distill.models.files import load_model, read_description, save_model
from distill.models.landmarker import Landmarker, reparameterized, to_input
from distill.predict.runtime import load_onnx
from distill.submission import file as submission
from distill.tracking import MODEL_FOLDER, Run

ABOUT = {"job": "student", "role": "distilled", "run_id": "f" * 32, "val/nme": 3.3}
SIZE = 64


def make(folder: Path, kind: str = "heatmap", backbone: str = "lcnet_050", about: dict = ABOUT, **head) -> Path:
    """A model file whose batch statistics and outputs are not those of a model that never saw an image."""
    torch.manual_seed(0)
    model = Landmarker(ModelConfig(backbone=backbone, input_size=SIZE, head=HeadConfig(kind=kind, width=16, **head)))
    with torch.no_grad():
        model.train()(to_input(faces(8), SIZE))
        if kind == "heatmap":  # peaks instead of a flat map
            model.head.out.weight.mul_(3 / model.eval()(to_input(faces(8), SIZE)).logits.std())
    save_model(model, folder / "given.safetensors", about)
    return folder / "given.safetensors"


def faces(count: int, size: int = SIZE, seed: int = 3) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.stack([draw_face(rng, size)[0] for _ in range(count)]))


def altered(given: Path, folder: Path, change, about: dict | None = None) -> Path:
    tensors, described = load_file(given), read_description(given)
    change(tensors)
    described["about"] |= about or {}
    save_file(tensors, folder / "altered.safetensors", metadata={"distill": json.dumps(described)})
    return folder / "altered.safetensors"


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("given"))


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images") / "aflw_test"
    write_challenge(folder, 5, size=96, seed=7, labelled=False)
    return folder


@pytest.fixture(scope="module")
def exported(given, images, tmp_path_factory) -> exporting.Export:
    return exporting.export(given, tmp_path_factory.mktemp("out") / "deep" / "er", read_set(images, need_labels=False))


# ---------------------------------------------------------------------------------------------------- what is written


def test_the_exported_file_is_the_trained_student(given, exported):
    assert exported.weights.read_bytes() == given.read_bytes()
    assert exported.weights.stat().st_size <= 15_000_000
    names = {path.name for path in exported.weights.parent.iterdir()}
    assert names == {"student.safetensors", "student.onnx", "solution.zip"}, "no temporary file, no external data"


@pytest.mark.parametrize("count", [1, 3])
def test_onnx_agrees_with_torch_on_images(exported, count):
    model, _ = load_model(exported.weights)
    session = onnxruntime.InferenceSession(str(exported.onnx), providers=["CPUExecutionProvider"])
    pictures = faces(count, seed=count)
    points, confidence = session.run(["points", "confidence"], {"image": pictures.numpy()})
    with torch.no_grad():
        expected = model(to_input(pictures, SIZE))
    assert points.shape == (count, 68, 2) and confidence.shape == (count, 68)
    assert np.abs(points - expected.points.numpy()).max() < 0.01
    assert np.abs(confidence - expected.confidence.numpy()).max() < 1e-3
    assert points.std() > 1, "the model says something, in pixels"
    assert 0 <= exported.parity < 0.01


def test_the_onnx_file_stands_alone_and_describes_itself(exported, tmp_path):
    alone = shutil.copy(exported.onnx, tmp_path / "alone.onnx")
    graph = onnx.load(alone)
    onnx.checker.check_model(graph)
    kept = {entry.key: entry.value for entry in graph.metadata_props}
    assert json.loads(kept["distill"])["about"] == ABOUT
    used = {initializer.data_type for initializer in graph.graph.initializer}
    assert onnx.TensorProto.FLOAT in used and not used & {onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8}
    assert "BatchNormalization" not in {node.op_type for node in graph.graph.node}, "folded into convolutions"
    session = onnxruntime.InferenceSession(str(alone), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["image"]
    assert [o.name for o in session.get_outputs()] == ["points", "confidence"]


def test_solution_zip_has_the_predictions_of_the_model_in_the_challenge_s_format(exported, images):
    with zipfile.ZipFile(exported.submission) as archive:
        assert archive.namelist() == ["solution.txt"]
        rows = archive.read("solution.txt").decode().splitlines()
    assert len(rows) == 5 and all(len(row.split(" ")) == 137 for row in rows)
    pictures = read_set(images, need_labels=False)
    assert submission.check(exported.submission, pictures.names) == []
    names, points = submission.read(exported.submission)
    assert sorted(names) == sorted(p.name for p in images.glob("*.jpg"))
    expected = predict_set(load_model(exported.weights)[0], pictures).points
    np.testing.assert_allclose(points, expected, atol=1e-3)  # pixels of the 96 px images, not of the 64 px input


def test_branches_of_training_are_one_convolution_when_exported():
    torch.manual_seed(0)
    model = Landmarker(ModelConfig("repghostnet_050", input_size=SIZE, head=HeadConfig(kind="heatmap", width=16)))
    with torch.no_grad():
        model.train()(to_input(faces(8), SIZE))
        model.head.out.weight.mul_(3 / model.eval()(to_input(faces(8), SIZE)).logits.std())
        folded = reparameterized(model)
        before, after = (m(to_input(faces(3), SIZE)).points for m in (model, folded))
    assert before.std() > 1 and (before - after).abs().max() < 1e-3  # pixels
    count = [sum(p.numel() for p in m.parameters()) for m in (model, folded)]
    assert count[1] < count[0] and not folded.training


def test_digits_of_a_submission_do_not_depend_on_the_number_of_threads(exported, images, monkeypatch):
    pictures, found = read_set(images, need_labels=False), []
    monkeypatch.setattr(solving, "BATCH", 2)
    for count in ("1", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", count)
        found.append(solving.solve(exported.onnx, pictures))
    assert np.array_equal(*found)


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("simcc", {"decode": "dark"}),
        ("heatmap", {"decode": "dark"}),
        ("simcc", {}),
        ("regression", {}),
        ("heatmap", {"upsample": "deconv", "norm": "group"}),
        ("heatmap", {"backbone": "vit_tiny_patch16_224"}),
        pytest.param("heatmap", {"backbone": "mambaout_femto"}, marks=pytest.mark.slow),
        pytest.param("heatmap", {"backbone": "fasternet_t0"}, marks=pytest.mark.slow),
        pytest.param("heatmap", {"backbone": "mobilenetv4_conv_small"}, marks=pytest.mark.slow),
    ],
)
def test_every_head_exports(tmp_path, kind, head):
    model, described = load_model(make(tmp_path, kind, **head))
    path, worst = exporting.to_onnx(model, tmp_path / "m.onnx", described)
    assert path.is_file() and worst < 0.01
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    pictures = faces(3)
    with torch.no_grad():
        expected = model(to_input(pictures, SIZE)).points.numpy()
    assert np.abs(session.run(["points"], {"image": pictures.numpy()})[0] - expected).max() < 0.01


def another_graph(path: Path) -> Callable[..., None]:
    """What an exporter with a bug would write: the graph of another model."""
    return lambda _model, _example, file, **_options: file.write(path.read_bytes())


def test_an_onnx_file_that_disagrees_is_refused_and_not_left_behind(given, exported, tmp_path, monkeypatch):
    model, described = load_model(given)
    with torch.no_grad():
        model.head.out.bias.copy_(torch.linspace(-1, 1, 68))
        model.head.mix[0].weight.mul_(1.5)
    monkeypatch.setattr(torch.onnx, "export", another_graph(exported.onnx))
    with pytest.raises(UserError, match=r"ONNX.* differs .*\d px"):
        exporting.to_onnx(model, tmp_path / "m.onnx", described)
    assert not list(tmp_path.iterdir())


def test_a_model_that_predicts_nan_does_not_pass_the_agreement_check(given, exported, tmp_path, monkeypatch):
    model, described = load_model(given)
    with torch.no_grad():
        model.head.out.bias.fill_(float("nan"))
    monkeypatch.setattr(torch.onnx, "export", another_graph(exported.onnx))
    with pytest.raises(UserError, match="differs"):
        exporting.to_onnx(model, tmp_path / "m.onnx", described)


# ---------------------------------------------------------------------------------------------------- the rules


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.update({"head.out.weight": t["head.out.weight"].half()}), ["head.out.weight", "F16", "float32"]),
        (lambda t: t.update({"head.out.weight": t["head.out.weight"].bfloat16()}), ["head.out.weight", "BF16"]),
        (lambda t: t.update({"head.out.weight": t["head.out.weight"].to(torch.int8)}), ["head.out.weight", "I8"]),
        (lambda t: t.update({"head.out.weight": t["head.out.weight"].double()}), ["head.out.weight", "F64"]),
        (lambda t: t.update({"adapters.fit.weight": torch.zeros(2)}), ["adapters.fit.weight", "adapter"]),
        (lambda t: t.update({"distiller.adapters.fit.weight": torch.zeros(2)}), ["distiller.adapters.fit.weight"]),
        (lambda t: t.update({"teacher.backbone.conv.weight": torch.zeros(2)}), ["teacher.backbone.conv.weight"]),
        (lambda t: t.update({f"1.{k}": v.clone() for k, v in list(t.items())}), ["1.", "ensemble"]),
        (lambda t: [t.update({f"models.{i}.{k}": t[k].clone() for k in list(t)[:3]}) for i in (0, 1)], ["models.0"]),
        (lambda t: t.clear(), ["no weights"]),
    ],
    ids=["float16", "bfloat16", "int8", "float64", "adapter", "distiller", "teacher", "ensemble", "models", "empty"],
)
def test_files_that_break_a_rule_are_refused_before_anything_is_written(given, tmp_path, change, words):
    bad = altered(given, tmp_path, change)
    with pytest.raises(UserError) as error:
        exporting.export(bad, tmp_path / "out", None)
    text = str(error.value)
    assert str(bad) in text and "\n" not in text and all(word in text for word in words), text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["backbone.second.weight", "head.teacher.weight"])
def test_weights_that_hide_below_backbone_or_head_are_refused_too(given, tmp_path, name):
    bad = altered(given, tmp_path, lambda t: t.update({name: torch.zeros(2)}))
    with pytest.raises(UserError, match=name):
        exporting.export(bad, tmp_path / "out", None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("job", ["teacher", "", None, ["student"]])
def test_only_a_file_that_is_described_as_a_students_is_exported(given, tmp_path, job):
    bad = altered(given, tmp_path, lambda t: None, {"job": job, "run_id": "abc123"})
    with pytest.raises(UserError, match="abc123"):
        exporting.export(bad, tmp_path / "out", None)
    assert not (tmp_path / "out").exists()


HOSTILE = {"nested": "[" * 50_000, "digits": "1" * 5_000, "large": '"' + "x" * 2_000_000 + '"', "text": "{"}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_description_is_one_sentence_in_both_kinds_of_model_file(tmp_path, text):
    save_file({"head.weight": torch.zeros(2)}, tmp_path / "a.safetensors", metadata={"distill": text})
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])],
        "a",
        [value],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.helper.set_model_props(model, {"distill": text})
    onnx.save(model, tmp_path / "a.onnx")
    for read, name in ((read_description, "a.safetensors"), (load_onnx, "a.onnx")):
        with pytest.raises(UserError, match=name):
            read(tmp_path / name)


def test_a_file_of_fifteen_million_bytes_passes_and_one_more_does_not(given, monkeypatch):
    assert exporting.MAX_BYTES == 15_000_000
    size = given.stat().st_size
    monkeypatch.setattr(exporting, "MAX_BYTES", size)
    exporting.check_rules(given)
    monkeypatch.setattr(exporting, "MAX_BYTES", size - 1)
    with pytest.raises(UserError, match=f"{size:,} .*{size - 1:,} "):
        exporting.check_rules(given)


def test_a_file_over_the_budget_is_really_refused(tmp_path):
    large = make(tmp_path, backbone="convnext_atto", kind="regression")
    padded = altered(large, tmp_path, lambda t: t.update({"head.more": torch.zeros(1_000_000)}))
    assert padded.stat().st_size > 15_000_000
    with pytest.raises(UserError, match="15,000,000"):
        exporting.check_rules(padded)


def test_exporting_a_file_onto_itself_keeps_it(given, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "to_onnx", lambda model, path, described: (path, 0.0))
    own = shutil.copy(given, tmp_path / "student.safetensors")
    before = Path(own).read_bytes()
    made = exporting.export(Path(own), tmp_path, None)
    assert made.weights.read_bytes() == before and made.submission is None


def test_an_older_students_submission_does_not_stay_beside_a_new_one(given, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "to_onnx", lambda model, path, described: (path, 0.0))
    (tmp_path / "solution.zip").write_bytes(b"of another student")
    exporting.export(given, tmp_path, None)
    assert [path.name for path in tmp_path.glob("s*")] == ["student.safetensors"]


# ---------------------------------------------------------------------------------------------------- references


@pytest.fixture(scope="module")
def store(tmp_path_factory, given) -> tuple[TrackingConfig, dict[str, str]]:
    """A store with two teachers of one training set, one of another, an unfinished one, and a student without a
    file."""
    tracking = TrackingConfig(store=str(tmp_path_factory.mktemp("store") / "mlruns"), experiment="refs")
    ids = {}
    for name, job, data in (
        ("old", "teacher", "aaa"),
        ("new", "teacher", "aaa"),
        ("other", "teacher", "bbb"),
        ("pupil", "student", "aaa"),
        ("two", "student", "aaa"),
        ("broken", "teacher", "aaa"),
    ):
        tags = {"data.train": data, "distill.role": job}
        run = Run.start(tracking, job=job, run_name=name, params={}, config_yaml="", tags=tags)
        ids[name] = run.id
        try:
            with run:
                for i in range({"pupil": 0, "two": 2}.get(name, 1)):
                    file = shutil.copy(given, run.work / f"{name}{i}.safetensors")
                    run.log_artifact(Path(file), MODEL_FOLDER)
                if name == "broken":
                    raise RuntimeError("killed")
        except RuntimeError:
            pass
    return tracking, ids


def test_a_file_is_a_reference(given):
    found = references.resolve_model(str(given), TrackingConfig(store="nowhere"))
    assert found.path == given and found.run_id == ""
    assert not Path("nowhere").exists(), "no store is made for looking"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.safetensors"):
        references.resolve_model(str(tmp_path / "none.safetensors"), TrackingConfig())


def test_bundled_is_the_file_in_the_package_or_a_sentence(monkeypatch, tmp_path, given):
    monkeypatch.setattr(references, "BUNDLED", tmp_path / "student.safetensors")
    with pytest.raises(UserError, match="bundled"):
        references.resolve_model("bundled", TrackingConfig())
    shutil.copy(given, tmp_path / "student.safetensors")
    assert references.resolve_model("bundled", TrackingConfig()).path == tmp_path / "student.safetensors"


def test_a_run_by_id_by_its_beginning_and_by_name(store):
    tracking, ids = store
    for reference in (ids["old"], ids["old"][:8], "old"):
        found = references.resolve_model(reference, tracking)
        assert found.run_id == ids["old"] and found.path.name == "old0.safetensors" and found.path.is_file()


def test_references_that_lead_nowhere(store):
    tracking, ids = store
    for reference, words in (
        ("nosuchrun", "nosuchrun"),
        ("models:/none@champion", "models:/none@champion"),
        ("models:/", "models:/"),
        (ids["pupil"], MODEL_FOLDER),
        ("two", "2 model files"),
    ):
        with pytest.raises(UserError) as error:
            references.resolve_model(reference, tracking)
        assert words in str(error.value) and "\n" not in str(error.value)


def test_the_default_teacher_is_the_newest_finished_one_of_this_data(store):
    tracking, ids = store
    assert references.resolve_teacher("", tracking, "aaa").run_id == ids["new"]
    assert references.resolve_teacher("", tracking, "bbb").run_id == ids["other"]
    assert references.resolve_teacher("old", tracking, "aaa").run_id == ids["old"]


def test_a_missing_teacher_is_refused_with_the_command_that_trains_one(store):
    with pytest.raises(UserError) as error:
        references.resolve_teacher("", store[0], "ccc")
    text = str(error.value)
    assert "python -m distill.teacher" in text and "teacher=" in text and "\n" not in text
