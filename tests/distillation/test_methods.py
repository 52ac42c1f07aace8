"""The registry of methods, their adapters, and the relations within a batch: by hand, and promises that all methods
keep."""

from __future__ import annotations

import math

import pytest
import torch
from test_losses import draw
from torch import nn

from distill.distillation import methods
from distill.distillation.losses import feature, relation
from distill.distillation.losses.feature import FeatureMethod, MGDAdapter, ReviewKDAdapter, VIDAdapter
from distill.distillation.losses.relation import RelationMethod
from distill.distillation.methods import METHODS, Outputs
from distill.errors import UserError

VECTORS = {name: method.loss for name, method in METHODS.items() if isinstance(method, RelationMethod)}
TAPPED = [name for name, method in METHODS.items() if method.most_taps]


# ---------------------------------------------------------------------------------------------------- relations


def test_pkt_by_hand():
    # the student's two images look the same: each has neighbours (1/2, 1/2); the teacher's are at right angles: (2/3,
    # 1/3)
    value = relation.pkt(torch.tensor([[1.0, 2.0], [2.0, 4.0]]), torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    assert float(value) == pytest.approx(2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3), rel=1e-5)


def test_sp_by_hand():
    # rows (1, 0), (0, 1) against (1, 1) / sqrt 2 twice: 2 - sqrt 2 each
    value = relation.sp(torch.tensor([[2.0, 0.0], [0.0, 5.0]]), torch.tensor([[1.0, 2.0], [1.0, 2.0]]))
    assert float(value) == pytest.approx(2 - math.sqrt(2), rel=1e-5)


def triangles() -> tuple[torch.Tensor, torch.Tensor]:
    """The student's three images lie in an equilateral triangle, the teacher's in one of sides 3, 4 and 5."""
    student = torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, math.sqrt(3)]])
    return student + 10, torch.tensor([[0.0, 0.0, 1.0], [3.0, 0.0, 1.0], [0.0, 4.0, 1.0]])


def test_rkd_by_hand():
    # distances over their mean: 1, 1, 1 against 3/4, 1, 5/4, in six of nine places
    distances = 6 / 9 * 0.5 * (0.25**2 + 0 + 0.25**2) / 3
    # cosines 1/2 each against 0, 3/5, 4/5, in six of twenty-seven places
    angles = 6 / 27 * 0.5 * (0.5**2 + 0.1**2 + 0.3**2) / 3
    assert float(relation.rkd(*triangles(), distance_weight=1, angle_weight=0)) == pytest.approx(distances, rel=1e-4)
    assert float(relation.rkd(*triangles(), distance_weight=0, angle_weight=1)) == pytest.approx(angles, rel=1e-4)
    assert float(relation.rkd(*triangles())) == pytest.approx(25 * distances + 50 * angles, rel=1e-4)


def test_rkd_is_invariant_to_rotation_shift_and_size():
    points = draw(6, 2)
    turned = 5 * points @ torch.tensor([[0.6, 0.8], [-0.8, 0.6]]) + 7
    assert float(relation.rkd(turned, points)) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("loss", VECTORS.values(), ids=VECTORS.keys())
def test_relational_losses_keep_their_promises(loss):
    teacher = (2 * draw(8, 12)).requires_grad_()
    assert float(loss(3 * teacher.detach(), teacher)) == pytest.approx(0, abs=1e-4)
    student = draw(8, 5, seed=1).requires_grad_()
    value = loss(student, teacher)
    assert value.dim() == 0 and 1e-3 < value < 30
    value.backward()
    assert torch.isfinite(student.grad).all() and (student.grad != 0).any()
    assert teacher.grad is None
    # which image comes first is nobody's business
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss(student[order], teacher[order]), value)


@pytest.mark.parametrize(
    "vectors",
    [draw(1, 5), torch.ones(4, 5), torch.zeros(4, 5), draw(1, 5).expand(2, 5).clone()],
    ids=["one image", "all alike", "dead", "a pair alike"],
)
@pytest.mark.parametrize("loss", VECTORS.values(), ids=VECTORS.keys())
def test_relational_losses_are_finite_where_there_are_no_relations(loss, vectors):
    student = vectors.clone().requires_grad_()
    for teacher in (vectors, draw(len(vectors), 3, seed=1)):
        student.grad = None
        value = loss(student, teacher)
        value.backward()
        assert torch.isfinite(value) and torch.isfinite(student.grad).all()


def test_one_image_alone_has_nothing_to_relate_to():
    for loss in VECTORS.values():
        student = draw(1, 5).requires_grad_()
        value = loss(student, draw(1, 7, seed=1))
        value.backward()
        assert value.item() == pytest.approx(0, abs=1e-6) and student.grad.abs().sum().item() == 0


def test_vectors_keep_where_things_are_and_bound_the_size():
    maps = torch.zeros(2, 3, 16, 16)
    maps[0, :, 0, 0], maps[1, :, 15, 15] = 1, 1
    assert relation.vectors(maps).shape == (2, 3 * 16)
    first, second = relation.vectors(maps)
    assert not torch.equal(first, second)
    together = relation.vectors(maps, cells=1)
    assert together.shape == (2, 3) and torch.equal(together[0], together[1])
    small = draw(2, 3, 3, 3)
    torch.testing.assert_close(relation.vectors(small), small.flatten(1))


def test_a_single_process_gathers_what_it_has():
    own = draw(3, 4).requires_grad_()
    assert relation.gathered(own) is own


# ---------------------------------------------------------------------------------------------------- adapters


def test_the_adapter_of_mgd_hides_whole_cells_while_training_and_draws_them_from_torchs_generator():
    adapter = MGDAdapter(4, 4, mask=0.65)
    nn.init.dirac_(adapter.align.weight), nn.init.zeros_(adapter.align.bias)
    adapter.generate = nn.Identity()
    maps = 1 + draw(8, 4, 32, 32).abs()
    torch.manual_seed(3)
    seen = adapter(maps)
    hidden = (seen == 0).all(1)
    assert torch.equal(hidden, (seen == 0).any(1)), "all channels of a cell, or none"
    assert hidden.float().mean().item() == pytest.approx(0.65, abs=0.02)
    torch.testing.assert_close(seen[:, 0][~hidden], maps[:, 0][~hidden])
    assert not torch.equal(adapter(maps), seen)
    torch.manual_seed(3)
    assert torch.equal(adapter(maps), seen)
    torch.testing.assert_close(adapter.eval()(maps), maps)


def test_the_adapter_of_vid_is_that_of_its_authors_code():
    wrapper = pytest.importorskip("torchdistill.models.wrapper")
    theirs, ours = wrapper.Regressor4VID(3, 5, 5, eps=1e-5, init_pred_var=5.0), VIDAdapter(3, 5)
    for a, b in zip(ours.mean.parameters(), theirs.regressor.parameters(), strict=True):
        b.data.copy_(a)
    mean, variance = theirs(draw(2, 3, 4, 4))
    torch.testing.assert_close(ours(draw(2, 3, 4, 4)).mean, mean)
    torch.testing.assert_close(ours(draw(2, 3, 4, 4)).variance, variance.flatten())


def test_the_adapter_of_vid_starts_at_variance_five_and_trains_it():
    adapter = VIDAdapter(3, 5)
    said = adapter(draw(2, 3, 4, 4))
    assert said.mean.shape == (2, 5, 4, 4) and said.variance.tolist() == pytest.approx([5.0] * 5)
    teacher = 2 * torch.ones(2, 5, 4, 4)
    optimizer = torch.optim.Adam(adapter.parameters(), 0.1)
    for _ in range(80):
        optimizer.zero_grad()
        value = feature.vid(adapter(draw(2, 3, 4, 4)), teacher)
        value.backward()
        optimizer.step()
    assert value < 0 and (adapter(draw(2, 3, 4, 4)).variance < 0.5).all()
    with torch.no_grad():
        adapter.spread.fill_(-100)
    assert (adapter(draw(2, 3, 4, 4)).variance > 1e-6).all(), "no channel becomes infinitely sure"


def test_the_adapter_of_reviewkd_gives_every_level_what_the_coarser_ones_saw():
    adapter = ReviewKDAdapter([3, 4, 5], [6, 7, 8], width=16)
    maps = [draw(2, 3, 8, 8), draw(2, 4, 4, 4), draw(2, 5, 3, 3).requires_grad_()]
    found = adapter(maps)
    assert [f.shape for f in found] == [(2, 6, 8, 8), (2, 7, 4, 4), (2, 8, 3, 3)]
    found[0].sum().backward()
    assert float(maps[2].grad.abs().sum()) > 0
    maps[0] = maps[0].clone().requires_grad_()
    adapter(maps)[2].sum().backward()
    assert maps[0].grad is None, "and not the other way round"


# ---------------------------------------------------------------------------------------------------- all methods


def compared(name: str, count: int = 4, scale: float = 1.0, **args: float):
    """A method's loss as a function of one student's map, with its adapter in place; and that adapter."""
    method = METHODS[name]
    torch.manual_seed(0)
    adapter = method.build_adapter([4], [6], args)
    teacher = Outputs(None, None, {"tap": scale * draw(count, 6, 8, 8, seed=1).relu()})
    loss = lambda s: method(Outputs(None, None, {"tap": s}), teacher, adapter or nn.Identity(), args)  # noqa: E731
    return loss, adapter


def test_every_tapped_method_is_looked_at_below():
    assert set(TAPPED) == {"fitnet", "at", "cwd", "dist", "mgd", "vid", "reviewkd", "pkd", "pkt", "sp", "rkd"}


@pytest.mark.parametrize("name", TAPPED)
def test_a_students_map_and_its_adapter_learn_by_plain_gradient_descent(name):
    loss, adapter = compared(name)
    maps = draw(4, 4, 8, 8).requires_grad_()
    learned = [maps, *(adapter.parameters() if adapter else ())]
    values = []
    for step in range(20):
        torch.manual_seed(step)  # another mask each time
        value = loss(maps)
        gradients = torch.autograd.grad(value, learned)
        values.append(value.item())
        with torch.no_grad():  # a step of a length that suits every method's scale
            for tensor, gradient in zip(learned, gradients, strict=True):
                tensor -= 0.1 * tensor.norm().clamp_min(0.1) * gradient / gradient.norm()
    assert sum(values[-3:]) / 3 < 0.85 * sum(values[:3]) / 3


@pytest.mark.parametrize("name", TAPPED)
def test_neither_value_nor_gradient_depends_on_the_memory_format(name):
    loss, _ = compared(name)
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        maps = draw(4, 4, 8, 8).to(memory_format=layout).requires_grad_()
        torch.manual_seed(1)
        value = loss(maps)
        found.append((value, *torch.autograd.grad(value, maps)))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("name", TAPPED)
def test_a_batch_of_one_gives_finite_numbers(name):
    loss, adapter = compared(name, count=1)
    maps = draw(1, 4, 8, 8).requires_grad_()
    value = loss(maps)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(maps.grad).all()
    assert adapter is None or all(torch.isfinite(p.grad).all() for p in adapter.parameters())


@pytest.mark.parametrize("name", TAPPED)
def test_an_adapters_parameters_are_all_used_in_every_pass(name):
    loss, adapter = compared(name)
    loss(draw(4, 4, 8, 8).requires_grad_()).backward()
    # DDP waits for the gradient of each
    assert adapter is None or all(p.grad is not None for p in adapter.parameters())
    assert (adapter is not None) == (METHODS[name].adapter is not None)


@pytest.mark.parametrize("name", [name for name in TAPPED if name != "cwd"])
def test_a_weight_means_the_same_whatever_the_scale_of_the_teachers_features(name):
    """CWD alone asks for the logits' own scale: its softmax is sharp or flat with it."""
    values = []
    for scale in (1.0, 30.0):
        loss, adapter = compared(name, scale=scale)
        for p in adapter.parameters() if adapter else ():
            nn.init.zeros_(p)  # zeros, at either scale
        torch.manual_seed(1)
        values.append(loss(draw(4, 4, 8, 8)).item())
    assert values[0] == pytest.approx(values[1], rel=1e-3)
    assert 1e-3 < values[0] < 30


@pytest.mark.parametrize("loss", [feature.fitnet, feature.mgd, lambda s, t: feature.hcl([s], [t])])
def test_nothing_is_learned_from_a_dead_map_of_the_teacher(loss):
    student, teacher = draw(8, 4, 8, 8).requires_grad_(), 2 * draw(8, 4, 8, 8, seed=1)
    teacher[3] = 0
    others = [image for image in range(8) if image != 3]
    value = loss(student, teacher)
    value.backward()
    torch.testing.assert_close(value, loss(student[others], teacher[others]) * 7 / 8)
    assert student.grad[3].abs().sum() == 0 and (student.grad[others] != 0).any()
    assert loss(student, torch.zeros_like(teacher)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", TAPPED)
def test_compiled_whole_it_gives_the_same_value(name):
    loss, _ = compared(name)
    maps = draw(4, 4, 8, 8)
    torch._dynamo.reset()
    torch.manual_seed(1)
    plain = loss(maps)
    torch.manual_seed(1)
    torch.testing.assert_close(torch.compile(loss, backend="eager", fullgraph=True)(maps), plain)


# ---------------------------------------------------------------------------------------------- names and arguments


def test_what_a_method_takes_comes_from_its_functions():
    assert METHODS["rkd"].arguments() == {"distance_weight": 25.0, "angle_weight": 50.0, "cells": 4}
    assert METHODS["mgd"].arguments() == {"mask": 0.65}
    assert METHODS["reviewkd"].arguments() == {"width": 128}
    assert (
        METHODS["heatmap_mse"].arguments() == METHODS["coordinate"].arguments() == METHODS["fitnet"].arguments() == {}
    )


@pytest.mark.parametrize("name", METHODS)
def test_every_default_argument_would_pass_the_check(name):
    METHODS[name].checked_args("x", METHODS[name].arguments())


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("rkd", {"cells": 2.5}, ["args.cells' is 2.5", "whole number"]),
        ("sp", {"cells": 0}, ["args.cells' is 0", "1 or more"]),
        ("reviewkd", {"width": True}, ["args.width' is True"]),
        ("mgd", {"mask": 1.0}, ["args.mask' is 1.0", "below 1"]),
        ("mgd", {"cells": 2}, ["args.cells' is unknown", "one of mask"]),
        ("rkd", {"angle_weight": -1}, ["args.angle_weight' is -1", "0 or more"]),
        ("at", {"power": math.inf}, ["args.power' is inf"]),
        ("heatmap_kl", {"temperature": "hot"}, ["args.temperature' is 'hot'", "a number"]),
        ("fitnet", {"student": 3}, ["args.student is unknown", "no arguments"]),
    ],
)
def test_an_argument_that_cannot_be_is_refused_in_one_sentence(name, args, words):
    with pytest.raises(UserError) as error:
        METHODS[name].checked_args("distill.terms.mine.args", args)
    text = str(error.value)
    assert "distill.terms.mine.args" in text and text.endswith(".") and "\n" not in text
    assert all(word in text for word in words), text


def test_an_argument_in_exponent_notation_is_a_number():
    assert METHODS["heatmap_kl"].checked_args("x", {"temperature": "2e0"}) == {"temperature": 2.0}


def test_an_unknown_name_is_refused_with_those_there_are_and_the_close_one():
    with pytest.raises(UserError) as error:
        methods.find("distill.terms.mine.loss", "reviewk")
    text = str(error.value)
    assert text.startswith("distill.terms.mine.loss 'reviewk' is unknown (did you mean reviewkd?)")
    assert all(name in text for name in METHODS) and "\n" not in text
    with pytest.raises(UserError, match="'qqq'"):
        methods.find("distill.terms.mine.loss", "qqq")


def test_names_of_older_configs_lead_to_the_papers_names():
    for old, new in {"attention": "at", "channel": "cwd", "heatmap_channel": "heatmap_cwd"}.items():
        assert methods.find("x", old) is METHODS[new] and methods.title(old) == METHODS[new].title
        assert old not in METHODS


def test_a_method_is_declared_in_one_place_and_a_name_is_taken_once():
    try:

        @FeatureMethod.register("mine", "my own")
        def mine(student, teacher, power=2.0):
            return (student - teacher).abs().pow(power).mean()

        method = methods.find("x", "mine")
        assert method.loss is mine and method.arguments() == {"power": 2.0} and method.title == "my own"
        with pytest.raises(UserError, match="'x.power'"):
            method.checked_args("x", {"power": "a"})
        with pytest.raises(ValueError, match="mine"):
            FeatureMethod.register("mine", "again")(mine)
    finally:
        del METHODS["mine"]


def test_a_relation_can_be_of_angles_alone_and_dist_of_channels_alone():
    METHODS["rkd"].checked_args("x", {"distance_weight": 0})
    METHODS["dist"].checked_args("x", {"intra": 0})
    student, teacher = triangles()
    whole = METHODS["rkd"].loss(student, teacher, distance_weight=3.0, angle_weight=2.0)
    parts = [relation.rkd(student, teacher, distance_weight=3.0, angle_weight=0)]
    parts.append(relation.rkd(student, teacher, distance_weight=0, angle_weight=2.0))
    torch.testing.assert_close(whole, sum(parts))
