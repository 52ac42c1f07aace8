"""Any timm backbone with any head; the one model file; the teacher that cannot change."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from landmarkers import landmarker
from safetensors.torch import load_file, save_file
from torch import nn

from distill import profiling
from distill.config import HeadConfig, ModelConfig
from distill.errors import UserError
from distill.models import files
from distill.models.files import check_budget, load_model, predicted_bytes, read_description, save_model
from distill.models.heads import HEADS
from distill.models.landmarker import Landmarker, skeleton, to_input
from distill.models.teacher import FrozenTeacher
from distill.profiling import cost, settled

SIZE = 64
KINDS = ("heatmap", "simcc", "regression")
SLOW = pytest.mark.slow
BACKBONES = [
    "lcnet_050",  # strides 2 to 32
    "convnext_atto",  # strides 4 to 32
    "vit_tiny_patch16_224",  # three levels of one stride; built for the input size
    "mambaout_femto",  # channels last (NHWC) features
    "efficientvit_m1",  # strides 16 to 64
    pytest.param("swin_tiny_patch4_window7_224", marks=SLOW),  # NHWC, built for the input size
    pytest.param("hrnet_w18_small", marks=SLOW),
    pytest.param("hiera_tiny_224", marks=SLOW),
    pytest.param("mobilevitv2_050", marks=SLOW),
]


def model_config(backbone: str = "lcnet_050", kind: str = "heatmap", size: int = SIZE, **head) -> ModelConfig:
    return ModelConfig(backbone=backbone, input_size=size, head=HeadConfig(kind=kind, **{"width": 16, **head}))


def build(backbone: str = "lcnet_050", kind: str = "heatmap", size: int = SIZE, **head) -> Landmarker:
    return landmarker(backbone, size, kind=kind, **head)


def pixels(count: int, size: int = SIZE, seed: int = 0) -> torch.Tensor:
    """(count, size, size, 3) uint8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)


def sentence(error: pytest.ExceptionInfo) -> str:
    """The message, checked to be something that a person can read on one line."""
    text = str(error.value)
    assert "\n" not in text and text[0] not in " ({[" and text.endswith((".", "?")) and "Traceback" not in text
    return text


# ---------------------------------------------------------------------------------------------------- building


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_carries_every_head(backbone, kind):
    model = build(backbone, kind)
    out = model(to_input(pixels(2), SIZE))
    assert out.points.shape == (2, 68, 2) and out.confidence.shape == (2, 68)
    assert torch.isfinite(out.points).all()
    assert (out.confidence >= 0).all() and (out.confidence <= 1).all()
    sides = [level.side for level in model.levels]
    assert sides == sorted(sides, reverse=True), "levels go from fine to coarse"
    assert [level.channels for level in model.levels] == model.backbone.feature_info.channels()
    assert [math.ceil(SIZE / level.stride) for level in model.levels] == sides
    if kind == "regression":
        assert out.logits is None and out.error.shape == (2, 68) and (out.error > 0).all()
    else:
        assert out.error is None
        assert model.codec.encode(out.points).shape == out.logits.shape
    out.points.sum().backward()
    if not (backbone.startswith("hrnet") and kind != "heatmap"):  # its branches of fine levels end where no head looks
        assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize("upsample", ["pyramid", "deconv"])
@pytest.mark.parametrize(("size", "stride"), [(64, 2), (64, 8), (96, 4), (100, 8), (72, 4)])
def test_heatmap_sizes(size, stride, upsample):
    model = build(size=size, stride=stride, upsample=upsample, norm="group")
    out = model(to_input(pixels(1, size), size))
    assert out.logits.shape[-1] == round(size / stride) + 2 * model.codec.grid.pad
    assert torch.isfinite(out.points).all()


def test_a_heatmap_head_can_learn_a_point_outside_the_frame():
    model = build(margin=0.125)
    images, target = to_input(pixels(1), SIZE), torch.full((1, 68, 2), -5.0)
    target[:, 34:] = SIZE + 5.0
    encoded = model.codec.encode(target)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(40):
        optimizer.zero_grad()
        out = model(images)
        (-encoded * out.logits.flatten(2).log_softmax(-1).view_as(encoded)).sum((-2, -1)).mean().backward()
        optimizer.step()
    assert (out.points.detach() - target).abs().max() < 1.0


def test_images_are_normalised_the_models_own_way():
    mine, other = build("lcnet_050"), build("vit_tiny_patch16_224")
    for model in (mine, other):
        cfg = timm.get_pretrained_cfg(model.config.backbone)
        planes = to_input(pixels(2), SIZE)
        by_hand = (planes / 255 - torch.tensor(cfg.mean).view(3, 1, 1)) / torch.tensor(cfg.std).view(3, 1, 1)
        model.eval()
        with torch.no_grad():
            torch.testing.assert_close(
                model.forward_features(planes)[0], model.backbone(by_hand)[0], atol=1e-4, rtol=1e-3
            )
    assert not torch.equal(mine.mean, other.mean)  # the two families really differ


def test_to_input_gives_planes_in_the_same_range_and_order():
    images = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    images[..., 0], images[..., 2] = 255, 7
    for size in (8, 4, 16):
        planes = to_input(images, size)
        assert planes.shape == (1, 3, size, size)
        assert planes.is_contiguous(memory_format=torch.channels_last) or size != 8
        torch.testing.assert_close(planes[0, :, 0, 0], torch.tensor([255.0, 0.0, 7.0]), atol=1e-3, rtol=0)


def test_to_input_keeps_places_by_plain_multiplication():
    images = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    images[:, 40:44, 16:20] = 255  # centre of mass (18, 42) in continuous pixels
    planes = to_input(images, 32)[0, 0]
    centres = torch.arange(32) + 0.5
    x, y = (planes.sum(0) @ centres) / planes.sum(), (planes.sum(1) @ centres) / planes.sum()
    assert (float(x), float(y)) == pytest.approx((9.0, 21.0), abs=0.02)


# ---------------------------------------------------------------------------------------------------- refusals


def test_the_config_admits_the_heads_that_there_are():
    assert set(get_args(get_type_hints(HeadConfig)["kind"])) == set(HEADS)


def test_unknown_backbone_names_the_close_ones():
    with pytest.raises(UserError) as error:
        build("mobilenetv3_smal_100")
    assert "mobilenetv3_small_100" in sentence(error) and "model.backbone" in sentence(error)


def test_an_input_size_that_the_backbone_cannot_take():
    with pytest.raises(UserError) as error:
        build("coat_tiny", size=50)
    assert "model.input_size 50" in sentence(error) and "coat_tiny" in sentence(error)


@pytest.mark.parametrize(
    ("size", "head", "changes", "words"),
    [
        (100, {"stride": 8}, {}, ["model.input_size 100", "model.head.stride 8", "96 or 104"]),
        (250, {"stride": 4}, {}, ["model.input_size 250", "248 or 252"]),
        (
            64,
            {"stride": 8},
            {"backbone": "vit_tiny_patch16_224", "backbone_args": {"patch_size": 14}},
            ["14", "56 or 70"],
        ),
    ],
    ids=["8 of 100", "4 of 250", "patches of 14"],
)
def test_a_heatmap_out_of_scale_with_its_features_is_read_but_not_trained(size, head, changes, words):
    model = Landmarker(replace(model_config(size=size, **head), **changes))
    with pytest.raises(UserError) as error:
        model.check_cells()
    assert all(word in sentence(error) for word in words)


@pytest.mark.parametrize("size", [64, 72, 96, 112])
def test_a_heatmap_in_scale_with_its_features_may_train(size):
    build(size=size, stride=8).check_cells()
    build("efficientvit_m1", size=size, stride=8).check_cells()  # whose finest features have stride 16
    build(size=size, kind="regression").check_cells()


def test_a_backbone_argument_that_it_does_not_know():
    with pytest.raises(UserError) as error:
        Landmarker(replace(model_config(), backbone_args={"nonsense": 1}))
    assert "nonsense" in sentence(error) and "backbone_args" in sentence(error)


def test_a_heatmap_coarser_than_the_coarsest_features():
    config = replace(model_config(stride=16), backbone_args={"out_indices": [0, 1]})
    with pytest.raises(UserError) as error:
        Landmarker(config)
    assert "model.head.stride 16" in sentence(error)


@pytest.mark.parametrize("failure", [LocalEntryNotFoundError("offline"), ConnectionError("no route to host")])
def test_pretrained_without_a_network_is_refused_with_an_alternative(monkeypatch, failure):
    asked = []

    def create(*_, pretrained, **__):
        asked.append(pretrained)
        raise failure

    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(UserError) as error:
        Landmarker(replace(model_config(), pretrained=True))
    assert asked == [True], "asking again would wait for the network a second time"
    text = sentence(error)
    assert "lcnet_050" in text and "model.checkpoint" in text and "model.pretrained=false" in text


def test_pretrained_where_timm_has_no_weights():
    with pytest.raises(UserError) as error:
        Landmarker(replace(model_config("starnet_s050"), pretrained=True))
    assert "starnet_s050" in sentence(error) and "Pretrained weights" in sentence(error)


# ---------------------------------------------------------------------------------------------------- checkpoint files


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_backbone_weights_from_a_local_file(tmp_path, ending):
    torch.manual_seed(5)
    source = timm.create_model("lcnet_050")
    path = tmp_path / f"lcnet.{ending}"
    state = source.state_dict()
    save_file(state, path) if ending == "safetensors" else torch.save(state, path)
    model = Landmarker(replace(model_config(), checkpoint=str(path)))
    loaded = model.backbone.state_dict()
    assert set(loaded) <= set(state)
    assert all(torch.equal(value, state[name]) for name, value in loaded.items())


def test_a_checkpoint_does_not_change_what_is_drawn_for_the_head(tmp_path):
    torch.save(timm.create_model("lcnet_050").state_dict(), tmp_path / "w.pth")
    config = model_config()
    torch.manual_seed(0)
    plain = Landmarker(config)
    torch.manual_seed(0)
    filled = Landmarker(replace(config, checkpoint=str(tmp_path / "w.pth")))
    assert all(torch.equal(a, b) for a, b in zip(plain.head.parameters(), filled.head.parameters(), strict=True))


@pytest.mark.parametrize(
    "content",
    [
        lambda: timm.create_model("mobilenetv3_small_050").state_dict(),  # another model
        lambda: {"foo.bar": torch.zeros(3)},  # nothing that fits: timm would ignore it in silence
        lambda: {"path": Path("a")},  # a pickle that would need more than tensors
        lambda: None,
    ],
    ids=["other-model", "nothing-fits", "pickle", "garbage"],
)
def test_a_wrong_checkpoint_is_refused_by_name(tmp_path, content):
    path = tmp_path / "weights.pth"
    torch.save(content(), path) if content() is not None else path.write_bytes(b"hello" * 100)
    with pytest.raises(UserError) as error:
        Landmarker(replace(model_config(), checkpoint=str(path)))
    assert f"model.checkpoint '{path}'" in sentence(error) and "lcnet_050" in sentence(error)
    with pytest.raises(UserError):
        Landmarker(replace(model_config(), checkpoint=str(path), allow_partial=True))


def without_last_stage(tmp_path: Path) -> Path:
    torch.manual_seed(5)
    state = timm.create_model("lcnet_050").state_dict()
    path = tmp_path / "cut.pth"
    torch.save({name: value for name, value in state.items() if not name.startswith("blocks.5.")}, path)
    return path


def test_a_checkpoint_without_its_last_stage_is_refused_with_the_key_that_allows_it(tmp_path):
    path = without_last_stage(tmp_path)
    with pytest.raises(UserError) as error:
        Landmarker(replace(model_config(), checkpoint=str(path)))
    text = sentence(error)
    assert str(path) in text and "blocks.5.0" in text and "model.allow_partial=true" in text


def test_an_allowed_partial_checkpoint_prints_what_begins_at_random(tmp_path, capsys):
    path = without_last_stage(tmp_path)
    model = Landmarker(replace(model_config(), checkpoint=str(path), allow_partial=True))
    state, printed = torch.load(path, weights_only=True), capsys.readouterr().out
    for name, value in model.backbone.named_parameters():
        assert name not in state or torch.equal(value, state[name])
        if value.dim() > 1:
            assert (name in printed) == (name not in state)


def test_a_missing_checkpoint_file(tmp_path):
    with pytest.raises(UserError) as error:
        Landmarker(replace(model_config(), checkpoint=str(tmp_path / "none.pth")))
    assert "none.pth" in sentence(error) and "does not exist" in sentence(error)


# ---------------------------------------------------------------------------------------------------- the model file


@pytest.mark.parametrize(
    ("backbone", "kind"),
    [*(("lcnet_050", kind) for kind in KINDS), ("mambaout_femto", "heatmap"), ("vit_tiny_patch16_224", "simcc")],
)
def test_saved_and_loaded_models_agree_bit_for_bit(tmp_path, backbone, kind):
    model = build(backbone, kind)
    model.train()(to_input(pixels(4), SIZE))  # moves batch statistics off their defaults
    model.eval()
    about = {"job": "student", "run_id": "abc", "val/nme": 3.14}
    size = save_model(model, tmp_path / "sub" / "m.safetensors", about)
    assert size == (tmp_path / "sub" / "m.safetensors").stat().st_size
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["m.safetensors"], "no temporary file stays"
    again, described = load_model(tmp_path / "sub" / "m.safetensors")
    assert not again.training and described["about"] == about
    images = to_input(pixels(2, seed=1), SIZE)
    with torch.no_grad():
        for a, b in zip(model(images), again(images), strict=True):
            if isinstance(a, torch.Tensor):
                assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("backbone", "kind"), [*(("lcnet_050", k) for k in KINDS), ("mobilenetv3_small_100", "heatmap")]
)
def test_predicted_bytes_are_no_less_than_the_file_and_close(tmp_path, backbone, kind):
    model = build(backbone, kind)
    about = {"run_id": "0" * 32, "role": "distilled", "data": {"train": "f" * 64, "val": "f" * 64}, "epoch": 99}
    actual = save_model(model, tmp_path / "m.safetensors", about)
    assert actual <= predicted_bytes(model) <= 1.02 * actual


def test_the_file_does_not_depend_on_the_memory_format(tmp_path):
    model = build()
    save_model(model, tmp_path / "plain.safetensors", {})
    save_model(model.to(memory_format=torch.channels_last), tmp_path / "last.safetensors", {})
    assert (tmp_path / "plain.safetensors").read_bytes() == (tmp_path / "last.safetensors").read_bytes()


def test_a_file_holds_float32_weights_of_backbone_and_head_only(tmp_path):
    save_model(build(), tmp_path / "m.safetensors", {})
    tensors = load_file(tmp_path / "m.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float32}
    assert {name.split(".")[0] for name in tensors} == {"backbone", "head"}


def test_two_processes_write_one_file_under_names_of_their_own(tmp_path, monkeypatch):
    written, real = [], Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda path, data: written.append(path.name) or real(path, data))
    save_model(build(), tmp_path / "m.safetensors", {})
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]
    assert written and all(str(os.getpid()) in name for name in written)


def test_the_file_remembers_no_path_of_this_machine(tmp_path):
    torch.save(timm.create_model("lcnet_050").state_dict(), tmp_path / "w.pth")
    model = Landmarker(replace(model_config(), checkpoint=str(tmp_path / "w.pth")))
    save_model(model, tmp_path / "m.safetensors", {})
    os.remove(tmp_path / "w.pth")
    assert str(tmp_path) not in json.dumps(read_description(tmp_path / "m.safetensors"))
    load_model(tmp_path / "m.safetensors")  # neither needs the file nor asks for pretrained weights


def test_a_student_over_the_budget_is_refused_with_its_bytes():
    small, large = build("lcnet_050"), build("convnext_atto", width=256)
    assert check_budget(small) < 15_000_000
    with pytest.raises(UserError) as error:
        check_budget(large)
    assert f"{predicted_bytes(large):,} bytes" in sentence(error) and "15,000,000" in sentence(error)
    assert "convnext_atto" in sentence(error)


def test_the_budget_is_fifteen_million_bytes_and_not_one_more(monkeypatch):
    assert files.MAX_BYTES == 15_000_000
    model = build()
    monkeypatch.setattr(files, "MAX_BYTES", predicted_bytes(model))
    check_budget(model)
    monkeypatch.setattr(files, "MAX_BYTES", predicted_bytes(model) - 1)
    with pytest.raises(UserError):
        check_budget(model)


def rewrite(tmp_path: Path, change, metadata=None) -> Path:
    """A saved lcnet_050 whose tensors went through `change`, and its metadata's `distill` through `metadata`."""
    path = tmp_path / "m.safetensors"
    save_model(build(), path, {"job": "student"})
    described, tensors = read_description(path), load_file(path)
    change(tensors)
    described = metadata(described) if metadata else described
    entry = {"distill": described if isinstance(described, str) else json.dumps(described)}
    save_file(tensors, path, metadata={} if described == "" else entry)
    return path


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t.pop("head.out.bias"), "head.out.bias"),
        (lambda t: t.update({"adapters.kl.weight": torch.zeros(2)}), "adapters.kl.weight"),
        (lambda t: t.update({"head.out.bias": t["head.out.bias"].half()}), "head.out.bias"),
        (lambda t: t.update({"head.out.bias": torch.zeros(67)}), "head.out.bias"),
        (lambda t: t.update({"head.out.weight": t["head.out.weight"].to(torch.int8)}), "head.out.weight"),
    ],
    ids=["missing", "unknown", "float16", "shape", "int8"],
)
def test_tensors_that_do_not_fit_are_refused_by_name(tmp_path, change, named):
    path = rewrite(tmp_path, change)
    with pytest.raises(UserError) as error:
        load_model(path)
    assert named in sentence(error) and str(path) in sentence(error)


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        (lambda d: "", "no description"),
        (lambda d: "{broken", "not JSON"),
        (lambda d: [1, 2], "format"),
        (lambda d: d | {"format": 99}, "99"),
        (lambda d: {k: v for k, v in d.items() if k != "model"}, "model"),
        (lambda d: {k: v for k, v in d.items() if k != "num_points"}, "num_points"),
        (lambda d: d | {"num_points": "68"}, "num_points"),
        (lambda d: d | {"about": None}, "about"),
        (lambda d: d | {"model": d["model"] | {"backbone": "no_such_net"}}, "no_such_net"),
        (lambda d: d | {"model": d["model"] | {"colour": "red"}}, "colour"),
        (lambda d: d | {"model": d["model"] | {"backbone": "${"}}, "backbone"),
        (lambda d: d | {"num_points": 5}, "5 points"),
        (lambda d: {k: v for k, v in d.items() if k != "landmarks"} | {"num_points": 5}, "5 points"),
        (lambda d: d | {"landmarks": d["landmarks"] | {"colour": "red"}}, "colour"),
    ],
    ids=[
        "none",
        "no-json",
        "list",
        "format",
        "model",
        "points",
        "points-type",
        "about",
        "net",
        "key",
        "ref",
        "count",
        "old",
        "set",
    ],
)
def test_descriptions_that_do_not_fit_are_refused(tmp_path, metadata, named):
    path = rewrite(tmp_path, lambda t: None, metadata)
    with pytest.raises(UserError) as error:
        load_model(path)
    assert named in sentence(error)


def test_files_that_are_no_model_files(tmp_path):
    (tmp_path / "garbage.safetensors").write_bytes(b"\x00garbage" * 50)
    (tmp_path / "empty.safetensors").write_bytes(b"")
    (tmp_path / "folder.safetensors").mkdir()
    whole = tmp_path / "cut.safetensors"
    save_model(build(), whole, {})
    whole.write_bytes(whole.read_bytes()[:-100])
    for name in ("garbage", "empty", "folder", "cut", "missing"):
        with pytest.raises(UserError) as error:
            load_model(tmp_path / f"{name}.safetensors")
        assert f"{name}.safetensors" in sentence(error)


def test_skeleton_draws_the_same_architecture_without_its_weights(tmp_path, monkeypatch):
    config = replace(model_config(), pretrained=True)
    monkeypatch.setattr("distill.models.landmarker._is_download_error", lambda error: pytest.fail("tried to download"))
    assert [p.shape for p in skeleton(config).parameters()] == [p.shape for p in build().parameters()]


# ---------------------------------------------------------------------------------------------------- the teacher


class Holder(nn.Module):
    def __init__(self, teacher: FrozenTeacher, student: nn.Module):
        super().__init__()
        self.teacher, self.student = teacher, student


def test_a_frozen_teacher_does_not_move_whatever_is_called_on_the_whole():
    teacher, student = FrozenTeacher(build()), nn.Linear(136, 136)
    whole = Holder(teacher, student)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    whole.train()
    teacher.train()
    teacher.train(True)
    assert not any(module.training for module in teacher.modules())
    optimizer = torch.optim.SGD(whole.parameters(), 1.0, weight_decay=0.1)
    for step in range(2):
        out = teacher(pixels(4, seed=step))
        assert not out.points.requires_grad
        student(out.points.flatten(1)).square().mean().backward()
        optimizer.step()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    after = teacher.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_a_teacher_takes_the_students_view_at_its_own_size():
    teacher = FrozenTeacher(build(size=96))
    view = pixels(2, SIZE)
    out = teacher(view)
    direct = teacher.model(to_input(view, 96))
    assert torch.equal(out.points, direct.points)
    assert teacher.model.levels[0].side == 48


# ---------------------------------------------------------------------------------------------------- cost


def test_cost_counts_what_is_there_and_changes_nothing(monkeypatch):
    monkeypatch.setattr(profiling, "settled", settled)  # which tests of whole runs do without
    model = build("lcnet_050", "regression").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    threads = torch.get_num_threads()
    found = cost(model, repeats=2)
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert found.file_bytes == predicted_bytes(model)
    assert found.latency_ms > 0 and math.isfinite(found.latency_ms)
    assert model.training and torch.get_num_threads() == threads
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_latency_is_measured_again_while_it_still_falls():
    for found, expected, used in (([9, 5, 4.9, 1], 4.9, 3), ([5, 8, 1], 5, 2), ([64, 32, 16, 8, 4, 2, 1], 2, 6)):
        rest = iter(found)
        assert settled(lambda: next(rest)) == expected  # noqa: B023
        assert len(list(rest)) == len(found) - used


def test_multiply_accumulates_by_hand():
    model = build("lcnet_050", "regression")
    seen = []

    def count(module, inputs, output):
        if isinstance(module, nn.Conv2d):
            seen.append(output.numel() * module.in_channels // module.groups * math.prod(module.kernel_size))
        elif isinstance(module, nn.Linear):
            seen.append(output.numel() * module.in_features)

    for module in model.modules():
        module.register_forward_hook(count)
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, SIZE, SIZE))
    assert cost(build("lcnet_050", "regression"), repeats=1).mmacs == pytest.approx(sum(seen) / 1e6, rel=1e-6)
