"""Named terms between a student and a teacher: finite, felt by the student only, refused in one sentence where
impossible."""

from __future__ import annotations

import copy

import pytest
import torch
from landmarkers import landmarker
from safetensors.torch import load_file

from distill.config import HeadConfig, LossConfig, ModelConfig, TermConfig
from distill.distillation import taps
from distill.distillation.distiller import Distiller, check_terms, weight_at
from distill.distillation.losses.feature import FeatureMethod
from distill.distillation.losses.heatmap import HeatmapMethod
from distill.distillation.methods import METHODS
from distill.distillation.objective import Objective, Supervision
from distill.errors import UserError
from distill.landmarks import IBUG68
from distill.models.files import save_model
from distill.models.landmarker import Landmarker, Prediction, to_input
from distill.models.teacher import FrozenTeacher

TAPS = {"student": "level:3", "teacher": "level:2"}
HEATMAP = [name for name, method in METHODS.items() if isinstance(method, HeatmapMethod)]
ONE_TAP = [name for name, method in METHODS.items() if method.most_taps == 1]
# a sum over images, without chance
ALONE = [name for name, method in METHODS.items() if type(method) is FeatureMethod and name != "mgd"]


def model(backbone: str, size: int, kind: str = "heatmap", seed: int = 0, **head) -> Landmarker:
    return landmarker(backbone, size, seed, kind=kind, **head)


def student(kind: str = "heatmap", seed: int = 0, **head) -> Landmarker:
    return model("lcnet_050", 64, kind, seed, **head)


def teacher(kind: str = "heatmap", **head) -> FrozenTeacher:
    """Another family, another input size, another grid."""
    return FrozenTeacher(
        model("convnext_atto", 96, kind, seed=1, **{"stride": 8, "margin": 0.0625, "sigma": 0.03, **head})
    )


def batch(count: int = 4, size: int = 64, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)
    return images, torch.rand(count, 68, 2, generator=generator) * size


def objective(
    pupil: Landmarker, master: FrozenTeacher | None = None, loss: LossConfig | None = None, **terms
) -> Objective:
    distiller = Distiller(terms, pupil, master) if terms else None
    return Objective(pupil, Supervision(loss or LossConfig()), distiller)


def gradients(module: torch.nn.Module) -> float:
    return sum(float(p.grad.abs().sum()) for p in module.parameters() if p.grad is not None)


@pytest.fixture(scope="module")
def pair() -> tuple[Landmarker, FrozenTeacher]:
    return student(), teacher()


# ---------------------------------------------------------------------------------------------------- terms


@pytest.mark.parametrize("kind", ["heatmap", "simcc"])
@pytest.mark.parametrize("loss", HEATMAP)
def test_every_heatmap_term_trains_the_student(loss, kind):
    whole = objective(student(kind), teacher(kind), kd=TermConfig(loss=loss))
    _, raw, weights, _ = whole(*batch(), 0.0)
    assert set(raw) == {"coordinate", "heatmap", "kd"} == set(weights)
    assert torch.isfinite(raw["kd"]) and raw["kd"] > 0
    raw["kd"].backward()
    assert gradients(whole.student.backbone) > 0 and gradients(whole.student.head) > 0
    assert all(p.grad is None for p in whole.distiller.teacher.parameters())


@pytest.mark.parametrize("loss", ONE_TAP)
@pytest.mark.parametrize(
    "taps",
    [
        {"student": "level:3", "teacher": "level:2"},  # 4 cells, 6 cells: the teacher's map is pooled
        {"student": "level:0", "teacher": "level:3"},  # 32 cells, 3 cells: and enlarged
        {"student": "backbone.blocks.2", "teacher": "backbone.stages_1"},
        {"student": "head.mix", "teacher": "head.mix"},
    ],
    ids=["levels", "levels-far", "backbone-modules", "head-modules"],
)
def test_every_feature_term_trains_the_student_at_levels_and_modules(pair, loss, taps):
    pupil, master = pair
    pupil.zero_grad()
    whole = objective(pupil, master, kd=TermConfig(loss=loss, **taps))
    raw = whole(*batch(), 0.0).raw
    assert torch.isfinite(raw["kd"]) and raw["kd"] > 0
    raw["kd"].backward()
    assert gradients(pupil.backbone) > 0
    assert (gradients(whole.distiller) > 0) == (METHODS[loss].adapter is not None), "adapters train too"
    assert all(p.grad is None for p in master.parameters())


@pytest.mark.parametrize("kinds", [("heatmap", "simcc"), ("simcc", "regression"), ("regression", "heatmap")])
def test_coordinates_are_distilled_between_heads_of_any_kind_and_size(kinds):
    pupil, master = student(kinds[0]), teacher(kinds[1])
    whole = objective(pupil, master, kd=TermConfig(loss="coordinate"))
    images, landmarks = batch()
    raw = whole(images, landmarks, 0.0).raw
    raw["kd"].backward()
    assert raw["kd"] > 0 and gradients(pupil.backbone) > 0 and gradients(pupil.head) > 0
    assert all(p.grad is None for p in master.parameters())
    with torch.no_grad():  # fractions of the side, whatever the two sizes; a mean weighed by confidence, face by face
        pupil.train()
        mine, theirs = pupil(to_input(images, 64)).points / 64, master(images)
        distance = (mine - theirs.points / 96).norm(dim=-1)
        weight = theirs.confidence / theirs.confidence.sum(1, keepdim=True)
    torch.testing.assert_close(raw["kd"].detach(), (distance * weight).sum(1).mean(), rtol=1e-3, atol=1e-5)


def test_points_that_the_student_cannot_represent_do_not_count():
    pupil, master = student().eval(), teacher("regression")
    whole = objective(pupil, master, kd=TermConfig(loss="coordinate"))
    values = []
    for far in (20.0, 50.0):  # sides away
        with torch.no_grad():
            master.model.head.out.bias[0] = far
        values.append(whole(*batch(), 0.0).raw["kd"])
    torch.testing.assert_close(*values)


def test_several_levels_are_reviewed_together(pair):
    pupil, master = pair
    pupil.zero_grad()
    term = TermConfig(loss="reviewkd", student="head.mix, level:2,level:3", teacher="head.mix,level:2 , level:3")
    whole = objective(pupil, master, kd=term)
    raw = whole(*batch(), 0.0).raw
    raw["kd"].backward()
    assert torch.isfinite(raw["kd"]) and gradients(pupil.backbone) > 0
    assert all(p.grad is not None for p in whole.distiller.parameters())
    assert all(p.grad is None for p in master.parameters())


def test_a_student_that_is_its_teacher_has_nothing_to_learn():
    pupil = student()
    master = FrozenTeacher(copy.deepcopy(pupil))
    terms = {name: TermConfig(loss=name) for name in HEATMAP}
    terms |= {name: TermConfig(loss=name, student="level:3", teacher="level:3") for name in ("pkt", "sp", "rkd")}
    terms["points"] = TermConfig(loss="coordinate")
    terms["attention"] = TermConfig(loss="at", student="level:3", teacher="level:3")
    whole = objective(pupil.eval(), master, **terms)
    raw = whole(*batch(), 0.0).raw
    for name in terms:
        assert raw[name].item() == pytest.approx(0, abs=1e-5)


def test_a_student_comes_to_predict_its_teachers_points():
    pupil, master = student(), teacher()
    whole = objective(
        pupil, master, LossConfig(coordinate_weight=0, heatmap_weight=0), kl=TermConfig(loss="heatmap_kl")
    )
    images, _ = batch(2)
    with torch.no_grad():
        master.model.head.out.weight.mul_(20000)  # an untrained teacher says too little to be told apart from nothing
        wanted = master(images).points / 96
    optimizer = torch.optim.Adam(whole.parameters(), 0.01)
    for _ in range(70):
        optimizer.zero_grad()
        total, raw, _, _ = whole(images, torch.zeros(2, 68, 2), 0.0)
        total.backward()
        optimizer.step()
    got = pupil(to_input(images, 64)).points / 64
    flat = 0.5 * torch.ones_like(wanted)
    assert (got - wanted).abs().mean() < 0.5 * (flat - wanted).abs().mean()


def test_several_terms_keep_their_names_weights_and_sum():
    terms = {
        "kl": TermConfig(loss="heatmap_kl", weight=2.0),
        "kl_warm": TermConfig(loss="heatmap_kl", weight=0.5, args={"temperature": 4}),
        "fit": TermConfig(loss="fitnet", weight=3.0, schedule="linear", final=0.0, **TAPS),
    }
    whole = objective(student(), teacher(), LossConfig(coordinate_weight=5.0, heatmap_weight=0.25), **terms)
    total, raw, weights, _ = whole(*batch(), 0.5)
    assert weights == {"coordinate": 5.0, "heatmap": 0.25, "kl": 2.0, "kl_warm": 0.5, "fit": 1.5}
    torch.testing.assert_close(total, sum(raw[name] * weights[name] for name in raw))
    assert raw["kl"] != raw["kl_warm"]


def test_adapters_belong_to_the_distiller_and_not_to_the_student(tmp_path):
    pupil = student()
    names = set(pupil.state_dict())
    whole = objective(pupil, teacher(), fit=TermConfig(loss="fitnet", **TAPS), cwd=TermConfig(loss="cwd", **TAPS))
    adapters = {name for name in whole.state_dict() if "adapters" in name}
    assert len(adapters) == 4  # two 1x1 convolutions, weight and bias
    assert {id(p) for p in whole.distiller.parameters()} <= {id(p) for p in whole.parameters()}
    assert set(pupil.state_dict()) == names
    save_model(pupil, tmp_path / "m.safetensors", {})
    assert not [name for name in load_file(tmp_path / "m.safetensors") if "adapter" in name or "teacher" in name]


def test_adapter_sizes_come_from_a_dry_forward_that_leaves_no_trace():
    pupil = student().train()
    before = {name: value.clone() for name, value in pupil.state_dict().items()}
    distiller = Distiller({"fit": TermConfig(loss="fitnet", student="level:1", teacher="level:0")}, pupil, teacher())
    assert distiller.adapters["fit"].weight.shape == (40, 32, 1, 1)
    assert pupil.training
    assert all(torch.equal(before[name], value) for name, value in pupil.state_dict().items())
    assert not any(module._forward_hooks for module in pupil.modules()), "hooks are taken off again"


# ---------------------------------------------------------------------------------------------------- the teacher


def test_nothing_that_happens_to_the_objective_moves_the_teacher():
    master = teacher(norm="batch")
    before = {name: value.clone() for name, value in master.state_dict().items()}
    whole = objective(
        student(),
        master,
        kl=TermConfig(loss="heatmap_kl"),
        fit=TermConfig(loss="fitnet", student="head.mix", teacher="head.mix"),
    )
    whole.train()
    whole.requires_grad_(True)
    optimizer = torch.optim.SGD(whole.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    student_before = whole.student.head.out.weight.detach().clone()
    for step in range(3):
        total = whole(*batch(seed=step), step / 3).total
        total.backward()
        optimizer.step()
        whole.train()
        master.train()
    assert not torch.equal(student_before, whole.student.head.out.weight), "the student did train"
    assert all(p.grad is None for p in master.parameters())
    assert not any(module.training for module in master.modules())
    after = master.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    # and it is no part of what is optimised, moved, wrapped or saved
    assert not {id(p) for p in master.parameters()} & {id(p) for p in whole.parameters()}
    assert not [name for name in whole.state_dict() if "teacher" in name]
    assert not any(module is master for module in whole.modules())


def test_a_teacher_in_the_objective_gets_the_view_at_its_own_size():
    whole = objective(student(), teacher(), kl=TermConfig(loss="heatmap_kl"))
    images, _ = batch(size=80)  # samples of neither's size
    prediction = whole.distiller.teacher_outputs(images).prediction
    direct = whole.distiller.teacher.model(to_input(images, 96))
    assert torch.equal(prediction.points, direct.points)


def test_labels_are_scaled_from_the_view_to_the_students_input():
    pupil = student().eval()
    images, landmarks = batch(size=128)
    raw = objective(pupil)(images, landmarks, 0.0).raw
    with torch.no_grad():
        points = pupil(to_input(images, 64)).points
    torch.testing.assert_close(raw["coordinate"], (points / 64 - landmarks / 128).abs().mean())


# ---------------------------------------------------------------------------------------------------- labels


def test_region_weights_by_hand():
    pupil = student("regression").eval()
    loss = LossConfig(region_weights={"jaw": 3.0, "mouth": 0.0})
    images, landmarks = batch()
    raw = objective(pupil, loss=loss)(images, landmarks, 0.0).raw
    with torch.no_grad():
        error = (pupil(to_input(images, 64)).points / 64 - landmarks / 64).abs().mean(-1)
    weight = torch.ones(68)
    weight[list(IBUG68.regions["jaw"])], weight[list(IBUG68.regions["mouth"])] = 3.0, 0.0
    torch.testing.assert_close(raw["coordinate"], (error * weight).mean() / weight.mean())


@pytest.mark.parametrize("kind", ["heatmap", "simcc", "regression"])
@pytest.mark.parametrize("coordinate", ["l1", "smooth_l1", "wing", "nme"])
def test_supervised_terms_of_every_head(pair, kind, coordinate):
    pupil = pair[0] if kind == "heatmap" else student(kind)
    images, landmarks = batch()
    total, raw, _, outside = objective(pupil, loss=LossConfig(coordinate=coordinate))(images, landmarks, 0.0)
    assert set(raw) == {"coordinate", "expected_error" if kind == "regression" else "heatmap"}
    assert torch.isfinite(total) and float(outside) == 0.0


def test_points_beyond_the_grid_are_counted_and_left_out_of_the_loss():
    pupil = student().eval()
    images, landmarks = batch()
    landmarks[:, 0] = -1000.0
    total, _, _, outside = objective(pupil)(images, landmarks, 0.0)
    assert float(outside) == pytest.approx(1 / 68)
    landmarks[:, 0] = 5000.0
    other = objective(pupil)(images, landmarks, 0.0).total
    torch.testing.assert_close(total, other)


def test_losses_are_means_over_the_batch_so_that_processes_add_up():
    pupil, master = student(norm="group").eval(), teacher()
    terms = {name: TermConfig(loss=name) for name in HEATMAP}
    terms |= {name: TermConfig(loss=name, **TAPS) for name in ALONE}
    terms["points"] = TermConfig(loss="coordinate")
    terms["review"] = TermConfig(loss="reviewkd", student="level:2,level:3", teacher="level:1,level:2")
    whole = objective(pupil, master, LossConfig(region_weights={"jaw": 2.0}), **terms)
    images, landmarks = batch(6)
    landmarks[0, :5] = -1000.0  # unequal counts of learnable points
    _, raw, _, outside = whole(images, landmarks, 0.0)
    parts = [whole(images[i : i + 3], landmarks[i : i + 3], 0.0) for i in (0, 3)]
    for name in raw:
        torch.testing.assert_close((parts[0].raw[name] + parts[1].raw[name]) / 2, raw[name], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close((parts[0].outside + parts[1].outside) / 2, outside)


def test_channels_last_and_plain_memory_agree():
    pupil = student().eval()
    whole = objective(pupil, teacher(), kl=TermConfig(loss="heatmap_kl"), at=TermConfig(loss="at", **TAPS))
    plain = whole(*batch(), 0.0).total
    pupil.to(memory_format=torch.channels_last)
    last = whole(*batch(), 0.0).total
    torch.testing.assert_close(last, plain, rtol=1e-3, atol=1e-5)


def test_losses_are_computed_in_float32_under_autocast():
    whole = objective(
        student(),
        teacher(),
        kl=TermConfig(loss="heatmap_kl"),
        fit=TermConfig(loss="fitnet", **TAPS),
        mid=TermConfig(loss="at", student="head.mix", teacher="head.mix"),
    )
    with torch.autocast("cpu", torch.bfloat16):
        total, raw, _, _ = whole(*batch(), 0.0)
    assert total.dtype == torch.float32 and {value.dtype for value in raw.values()} == {torch.float32}
    total.backward()
    assert gradients(whole.student) > 0


# ---------------------------------------------------------------------------------------------------- schedules


@pytest.mark.parametrize(
    ("term", "values"),
    [
        (TermConfig(weight=2.0), (2.0, 2.0, 2.0)),
        (TermConfig(weight=2.0, schedule="linear"), (2.0, 1.0, 0.0)),
        (TermConfig(weight=2.0, schedule="linear", final=0.5), (2.0, 1.5, 1.0)),
        (TermConfig(weight=2.0, schedule="cosine"), (2.0, 1.0, 0.0)),
        (TermConfig(weight=2.0, schedule="cosine", final=0.5), (2.0, 1.5, 1.0)),
        (TermConfig(weight=2.0, schedule="warmup", warmup=1.0), (0.0, 1.0, 2.0)),
        (TermConfig(weight=2.0, schedule="warmup", warmup=0.25), (0.0, 2.0, 2.0)),
    ],
)
def test_schedules_at_the_beginning_the_middle_and_the_end(term, values):
    assert [weight_at(term, progress) for progress in (0.0, 0.5, 1.0)] == pytest.approx(values)


def test_a_cosine_is_no_straight_line():
    assert weight_at(TermConfig(schedule="cosine"), 0.25) > weight_at(TermConfig(schedule="linear"), 0.25)


# ---------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("term", "field", "words"),
    [
        (TermConfig(loss="heatmap_klx"), "loss", ["heatmap_klx", "mean heatmap_kl", "fitnet"]),
        (TermConfig(loss="coordinate", student="level:0"), "student", ["level:0", "no tap"]),
        (TermConfig(loss="heatmap_kl", teacher="level:0"), "teacher", ["level:0", "no tap"]),
        (
            TermConfig(loss="fitnet", student="level:0,level:1", teacher="level:0"),
            "student",
            ["2 taps", "compares one"],
        ),
        (
            TermConfig(loss="reviewkd", student="level:0,level:1", teacher="level:0"),
            "teacher",
            ["1 taps", "2", "as many"],
        ),
        (
            TermConfig(loss="reviewkd", student="level:2,level:1", teacher="level:0,level:1"),
            "student",
            ["fine to coarse"],
        ),
        (TermConfig(loss="reviewkd", student="level:0,", teacher="level:0"), "student", ["level:0,", "empty tap"]),
        (TermConfig(loss="reviewkd", student="level:0,level:9", teacher="level:0,level:1"), "student", ["level:9"]),
        (TermConfig(loss="fitnet", teacher="level:1"), "student", ["empty", "stride:N"]),
        (TermConfig(loss="fitnet", student="level:1"), "teacher", ["empty", "level:N"]),
        (TermConfig(loss="fitnet", student="level:5", teacher="level:0"), "student", ["level:0 to level:4"]),
        (TermConfig(loss="fitnet", student="level:0", teacher="level:4"), "teacher", ["level:0 to level:3"]),
        (TermConfig(loss="fitnet", student="level:x", teacher="level:0"), "student", ["level:x"]),
        (TermConfig(loss="fitnet", student="level:-1", teacher="level:0"), "student", ["level:-1"]),
        (
            TermConfig(loss="fitnet", student="stride:64", teacher="level:0"),
            "student",
            ["lcnet_050", "2, 4, 8, 16, 32"],
        ),
        (
            TermConfig(loss="fitnet", student="stride:4", teacher="stride:2"),
            "teacher",
            ["convnext_atto", "4, 8, 16, 32"],
        ),
        (TermConfig(loss="fitnet", student="stride:x", teacher="level:0"), "student", ["stride:x"]),
        (TermConfig(loss="reviewkd", student="level:1,level:1", teacher="level:0,level:1"), "student", ["differ"]),
        (TermConfig(loss="fitnet", student="backbone.block.2", teacher="level:0"), "student", ["backbone.blocks.2"]),
        (TermConfig(loss="fitnet", student="level:0", teacher="backbone.nowhere"), "teacher", ["backbone.nowhere"]),
        (TermConfig(loss="fitnet", student="head", teacher="backbone"), "teacher", ["list", "feature map"]),
        (TermConfig(loss="fitnet", student="backbone.blocks", teacher="level:0"), "student", ["forward pass"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_is_refused_in_one_sentence_that_names_the_term(pair, term, field, words):
    with pytest.raises(UserError) as error:
        Distiller({"mine": term}, *pair)
    text = str(error.value)
    assert text.startswith(f"distill.terms.mine.{field} ") and text.endswith(".") and "\n" not in text
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    "term",
    [
        TermConfig(loss="fitnett"),
        TermConfig(loss="heatmap_kl", args={"temperature": 0}),
        TermConfig(loss="fitnet", student="stride:64", teacher="stride:16"),
    ],
)
def test_much_of_a_term_is_checked_before_there_is_a_teacher(pair, term):
    check_terms({"mine": TermConfig(loss="fitnet", student="stride:16", teacher="stride:999")}, pair[0])
    with pytest.raises(UserError, match="distill.terms.mine."):
        check_terms({"mine": term}, pair[0])


def test_arguments_are_checked_when_the_distiller_is_built(pair):
    for args, name in (({"temprature": 2}, "temprature"), ({"dims": 2}, "dims"), ({"temperature": 0}, "temperature")):
        with pytest.raises(UserError, match=rf"distill.terms.mine.args\.{name}\b"):
            Distiller({"mine": TermConfig(loss="heatmap_kl", args=args)}, *pair)


@pytest.mark.parametrize(
    ("mine", "theirs"), [("heatmap", "simcc"), ("simcc", "heatmap"), ("regression", "heatmap"), ("regression",) * 2]
)
def test_heatmap_terms_need_the_same_kind_of_head(mine, theirs):
    with pytest.raises(UserError) as error:
        Distiller({"kl": TermConfig(loss="heatmap_kl")}, student(mine), teacher(theirs))
    text = str(error.value)
    assert text.startswith("distill.terms.kl ") and mine in text and theirs in text and "\n" not in text


def test_channels_last_features_come_by_level_by_stride_and_by_module(pair):
    master = FrozenTeacher(model("mambaout_femto", 64, seed=1))
    terms = {
        name: TermConfig(loss="fitnet", student="level:2", teacher=tap)
        for name, tap in {"level": "level:1", "stride": "stride:8", "module": "backbone.stages_1"}.items()
    }
    whole = objective(pair[0], master, **terms)
    assert [adapter.out_channels for adapter in whole.distiller.adapters.values()] == [96] * 3
    maps = whole.distiller.teacher_outputs(batch()[0]).maps
    assert maps.keys() == {"level:1", "stride:8", "backbone.stages_1"}
    assert maps["level:1"].shape == (4, 96, 8, 8)
    assert all(torch.equal(found, maps["level:1"]) for found in maps.values())
    assert torch.isfinite(whole(*batch(), 0.0).total)


def test_a_module_inside_swin_gives_its_map_with_the_channels_first():
    small = {"embed_dim": 8, "depths": [1] * 4, "num_heads": [1] * 4, "window_size": 2}
    config = ModelConfig("swin_tiny_patch4_window7_224", input_size=64, head=HeadConfig(width=16), backbone_args=small)
    swin = Landmarker(config, IBUG68).eval()
    module, stride = (taps.find("x", tap, swin) for tap in ("backbone.layers_1", "stride:8"))
    assert (module.channels, module.side) == (stride.channels, stride.side) == (16, 8)
    with torch.no_grad(), taps.recording(swin, [module, stride]) as maps:
        swin(to_input(batch(2)[0], 64))
    assert maps["backbone.layers_1"].shape == (2, 16, 8, 8)
    assert torch.equal(maps["backbone.layers_1"], maps["stride:8"])


@pytest.mark.parametrize(
    ("backbone", "tap", "level", "channels", "side"),
    [
        ("lcnet_050", "stride:16", 3, 128, 4),
        ("convnext_atto", "stride:16", 2, 160, 4),
        ("vit_tiny_patch16_224", "stride:16", 2, 192, 4),  # three levels have this stride
        ("convnext_atto", "backbone.stages_1", None, 80, 8),
        ("convnext_atto", "backbone.stages_1.blocks.0.mlp", None, 80, 8),  # channels last, inside a model that is not
    ],
)
def test_a_tap_leads_to_a_map_of_known_channels_and_side(backbone, tap, level, channels, side):
    found = taps.find("x", tap, model(backbone, 64))
    assert (found.level, found.channels, found.side) == (level, channels, side)


def test_a_map_that_is_no_square_of_cells_is_refused():
    with pytest.raises(UserError, match="backbone.model.blocks.0"):
        taps.find("x", "backbone.model.blocks.0", model("vit_tiny_patch16_224", 64))


def test_feature_terms_work_between_heads_of_different_kinds():
    whole = objective(student("regression"), teacher("simcc"), fit=TermConfig(loss="fitnet", **TAPS))
    raw = whole(*batch(), 0.0).raw
    assert torch.isfinite(raw["fit"]) and raw["fit"] > 0


def test_recording_ends_with_its_block_even_when_that_raises(pair):
    pupil, _ = pair
    found = [taps.find("x", name, pupil) for name in ("head.mix", "level:1", "stride:8")]
    with pytest.raises(RuntimeError), taps.recording(pupil, found):
        raise RuntimeError
    with taps.recording(pupil, found) as maps:
        assert isinstance(pupil(to_input(batch(2)[0], 64)), Prediction)
    shapes = {name: tuple(found.shape) for name, found in maps.items()}
    assert shapes == {
        "head.mix": (2, 16, *shapes["head.mix"][2:]),
        "level:1": (2, 32, 16, 16),
        "stride:8": (2, 64, 8, 8),
    }
    assert not any(module._forward_hooks for module in pupil.modules())
