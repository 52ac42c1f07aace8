"""Every loss: a value worked out by hand, zero where it should be, gradient to the student only, halves that add up."""

from __future__ import annotations

import math

import pytest
import torch

from distill.losses import feature, heatmap, landmark

AXES = {"heatmap": ((-2, -1), (6, 5, 7, 7)), "simcc": ((-1,), (6, 5, 2, 11))}  # dims, shape of logits


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def halves(loss, *tensors: torch.Tensor) -> None:
    """What DDP does: the mean of the two halves' losses must be the loss of the whole batch."""
    half = len(tensors[0]) // 2
    parts = [loss(*(t[:half] for t in tensors)), loss(*(t[half:] for t in tensors))]
    torch.testing.assert_close(sum(parts) / 2, loss(*tensors))


# ---------------------------------------------------------------------------------------------------- coordinates


def two_points(*offsets: tuple[float, float]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    target = torch.full((1, len(offsets), 2), 0.5)
    return target + torch.tensor([offsets]), target, torch.ones(1, len(offsets))


def test_l1_by_hand():
    assert float(landmark.l1(*two_points((0.03, -0.01), (0, 0)))) == pytest.approx((0.04 / 2) / 2, rel=1e-4)


def test_smooth_l1_by_hand():
    # 0.004 < beta: 0.5 * 0.004^2 / 0.01; 0.03 > beta: 0.03 - 0.005
    expected = (0.5 * 0.004**2 / 0.01 + 0.025) / 2
    assert float(landmark.smooth_l1(*two_points((0.004, 0.03)))) == pytest.approx(expected, rel=1e-3)


def test_wing_by_hand():
    # 0.01 < width: w ln(1 + x / e); 0.1 > width: x - w + w ln(1 + w / e)
    near = 0.04 * math.log(1 + 0.01 / 0.008)
    far = 0.1 - 0.04 + 0.04 * math.log(1 + 0.04 / 0.008)
    assert float(landmark.wing(*two_points((0.01, 0.1)))) == pytest.approx((near + far) / 2, rel=1e-3)


def test_wing_is_continuous_where_its_two_branches_meet():
    below, above = (float(landmark.wing(*two_points((x, 0.0)))) for x in (0.04 - 1e-6, 0.04 + 1e-6))
    assert below == pytest.approx(above, abs=1e-5)


def test_nme_by_hand():
    # a 3-4-5 triangle, and a point that is right
    assert float(landmark.nme(*two_points((0.03, 0.04), (0, 0)))) == pytest.approx(0.05 / 2, rel=1e-4)


@pytest.mark.parametrize("loss", landmark.LOSSES.values(), ids=landmark.LOSSES.keys())
def test_coordinate_losses_keep_their_promises(loss):
    target = torch.rand(6, 5, 2)
    weight = torch.rand(6, 5)
    assert float(loss(target.clone(), target, weight)) == pytest.approx(0, abs=2e-6)
    pred = (target + 0.05 * draw(6, 5, 2)).requires_grad_()
    value = loss(pred, target, weight)
    assert value > 0
    value.backward()
    assert torch.isfinite(pred.grad).all() and (pred.grad != 0).all()
    halves(loss, pred.detach(), target, weight)


@pytest.mark.parametrize("loss", landmark.LOSSES.values(), ids=landmark.LOSSES.keys())
def test_gradient_is_finite_for_a_point_that_is_exactly_right(loss):
    target = torch.rand(2, 3, 2)
    pred = target.clone().requires_grad_()
    loss(pred, target, torch.ones(2, 3)).backward()
    assert torch.isfinite(pred.grad).all()


@pytest.mark.parametrize("loss", landmark.LOSSES.values(), ids=landmark.LOSSES.keys())
def test_a_point_of_weight_zero_says_nothing_but_counts_in_the_mean(loss):
    pred, target, ones = two_points((0.1, 0.1), (0.1, 0.1))
    pred.requires_grad_()
    half = loss(pred, target, torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(half, loss(pred, target, ones) / 2)
    half.backward()
    assert (pred.grad[0, 1] == 0).all() and (pred.grad[0, 0] != 0).all()


def test_expected_error_learns_the_distance_and_leaves_the_coordinates_alone():
    pred, target, weight = two_points((0.03, 0.04), (0, 0.1))
    pred.requires_grad_()
    right = torch.tensor([[0.05, 0.1]])
    assert float(landmark.expected_error(right, pred, target, weight)) == pytest.approx(0, abs=1e-4)
    error = torch.tensor([[0.01, 0.5]], requires_grad=True)
    landmark.expected_error(error, pred, target, weight).backward()
    assert pred.grad is None
    assert error.grad[0, 0] < 0 < error.grad[0, 1]  # too small: grow; too large: shrink


# ---------------------------------------------------------------------------------------------------- heatmaps


def one_map(*logits: float) -> torch.Tensor:
    return torch.tensor(logits, dtype=torch.float32).view(1, 1, 1, -1)


def test_heatmap_kl_by_hand():
    # teacher (1/2, 1/2), student (3/4, 1/4): KL = 1/2 ln(2/3) + 1/2 ln 2
    value = heatmap.heatmap_kl(one_map(math.log(3), 0), one_map(0, 0), (-2, -1))
    assert float(value) == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2), rel=1e-5)


def test_heatmap_kl_temperature_by_hand():
    # at T = 2 the student's logits 2 ln 3 become ln 3, and the value grows by T^2
    warm = heatmap.heatmap_kl(one_map(2 * math.log(3), 0), one_map(0, 0), (-2, -1), temperature=2.0)
    cold = heatmap.heatmap_kl(one_map(math.log(3), 0), one_map(0, 0), (-2, -1), temperature=1.0)
    assert float(warm) == pytest.approx(4 * float(cold), rel=1e-5)


def test_heatmap_mse_by_hand():
    # (1/4 - 1/2)^2 twice, over the teacher's power 1/4 + 1/4
    value = heatmap.heatmap_mse(one_map(math.log(3), 0), one_map(0, 0), (-2, -1))
    assert float(value) == pytest.approx(2 * (1 / 16) / (1 / 2), rel=1e-5)


def test_heatmap_channel_by_hand():
    # the teacher's two logits +-1 have standard deviation sqrt 2; divided by it they differ by sqrt 2; the student is flat
    p = 1 / (1 + math.exp(-math.sqrt(2)))
    expected = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    value = heatmap.heatmap_channel(one_map(0, 0), one_map(1, -1), (-2, -1))
    assert float(value) == pytest.approx(expected, rel=1e-4)


def test_heatmap_channel_weighs_sharp_and_flat_maps_alike():
    student, teacher = draw(2, 3, 8, 8), draw(2, 3, 8, 8, seed=1)
    small = heatmap.heatmap_channel(student, teacher, (-2, -1))
    torch.testing.assert_close(heatmap.heatmap_channel(10 * student, 10 * teacher, (-2, -1)), small)


def test_one_dimensional_maps_sum_over_their_two_axes():
    student, teacher = torch.tensor([[[[math.log(3), 0.0]] * 2]]), torch.zeros(1, 1, 2, 2)
    one_axis = heatmap.heatmap_kl(one_map(math.log(3), 0), one_map(0, 0), (-2, -1))
    torch.testing.assert_close(heatmap.heatmap_kl(student, teacher, (-1,)), 2 * one_axis)


def test_cross_entropy_by_hand():
    target = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    value = heatmap.cross_entropy(one_map(math.log(3), 0), target, torch.ones(1, 1), (-2, -1))
    assert float(value) == pytest.approx(-math.log(3 / 4), rel=1e-5)


def test_label_mse_by_hand():
    target = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    value = heatmap.mse(one_map(math.log(3), 0), target, torch.ones(1, 1), (-2, -1))
    assert float(value) == pytest.approx(2 / 16, rel=1e-5)


@pytest.mark.parametrize("kind", AXES)
@pytest.mark.parametrize("loss", heatmap.LABEL_LOSSES.values(), ids=heatmap.LABEL_LOSSES.keys())
def test_label_losses_keep_their_promises(loss, kind):
    dims, shape = AXES[kind]
    target = torch.softmax(draw(*shape).flatten(-len(dims)), -1).view(shape)
    weight = torch.rand(shape[:2])
    assert float(loss(target.log(), target, weight, dims)) == pytest.approx(0, abs=1e-5)
    logits = draw(*shape, seed=1).requires_grad_()
    loss(logits, target, weight, dims).backward()
    assert torch.isfinite(logits.grad).all() and (logits.grad != 0).any()
    halves(lambda a, b, w: loss(a, b, w, dims), logits.detach(), target, weight)
    weight[:, 0] = 0
    logits.grad = None
    loss(logits, target, weight, dims).backward()
    assert (logits.grad[:, 0] == 0).all() and (logits.grad[:, 1] != 0).any()


@pytest.mark.parametrize("kind", AXES)
@pytest.mark.parametrize("loss", heatmap.LOSSES.values(), ids=heatmap.LOSSES.keys())
def test_heatmap_terms_keep_their_promises(loss, kind):
    dims, shape = AXES[kind]
    teacher = (3 * draw(*shape)).requires_grad_()
    same = teacher.detach() + 5.0  # logits up to a constant are the same map
    assert float(loss(same, teacher, dims)) == pytest.approx(0, abs=1e-5)
    student = (3 * draw(*shape, seed=1)).requires_grad_()
    value = loss(student, teacher, dims)
    assert value.dim() == 0 and value > 0
    value.backward()
    assert torch.isfinite(student.grad).all() and (student.grad != 0).any()
    assert teacher.grad is None
    halves(lambda s, t: loss(s, t, dims), student.detach(), teacher.detach())


@pytest.mark.parametrize("loss", [heatmap.heatmap_kl, heatmap.heatmap_channel])
def test_temperature_moves_attention_from_the_peak_to_the_tails(loss):
    teacher = draw(1, 1, 9, 9)
    teacher[0, 0, 4, 4] = 12.0

    def tail_over_peak(temperature: float) -> torch.Tensor:
        student = torch.zeros_like(teacher, requires_grad=True)
        loss(student, teacher, (-2, -1), temperature=temperature).backward()
        return student.grad[0, 0, 0].std() / student.grad[0, 0, 4, 4].abs()

    assert tail_over_peak(8.0) > 1.5 * tail_over_peak(1.0)


# ---------------------------------------------------------------------------------------------------- features


def test_fitnet_by_hand():
    # (3 - 1)^2 over the teacher's mean square 1
    student, teacher = torch.full((1, 2, 2, 2), 3.0), torch.ones(1, 2, 2, 2)
    assert float(feature.fitnet(student, teacher)) == pytest.approx(4.0)
    assert float(feature.fitnet(torch.zeros_like(teacher), 7 * teacher)) == pytest.approx(1.0)


def test_attention_by_hand():
    # one cell alight in each, at different places: two unit vectors at right angles
    student, teacher = torch.zeros(1, 3, 2, 2), torch.zeros(1, 5, 2, 2)
    student[0, :, 0, 0] = 2.0
    teacher[0, 1, 1, 1] = -9.0
    assert float(feature.attention(student, teacher)) == pytest.approx(2.0)


def test_channel_by_hand():
    # teacher (1/2, 1/2), student (3/4, 1/4) at T = 4, times T^2
    student, teacher = torch.tensor([4 * math.log(3), 0]).view(1, 1, 1, 2), torch.zeros(1, 1, 1, 2)
    expected = 16 * (0.5 * math.log(2 / 3) + 0.5 * math.log(2))
    assert float(feature.channel(student, teacher)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", feature.LOSSES.values(), ids=feature.LOSSES.keys())
def test_feature_terms_keep_their_promises(loss):
    teacher = (2 * draw(6, 4, 5, 5)).requires_grad_()
    assert float(loss(teacher.detach().clone(), teacher)) == pytest.approx(0, abs=1e-6)
    student = draw(6, 4, 5, 5, seed=1).requires_grad_()
    value = loss(student, teacher)
    assert value.dim() == 0 and value > 0
    value.backward()
    assert torch.isfinite(student.grad).all() and (student.grad != 0).any()
    assert teacher.grad is None


@pytest.mark.parametrize("loss", feature.LOSSES.values(), ids=feature.LOSSES.keys())
def test_feature_terms_are_a_mean_over_images(loss):
    # images of very different strength: a batch-wide normaliser would not add up
    scale = torch.tensor([0.1, 0.2, 0.5, 2.0, 5.0, 9.0]).view(6, 1, 1, 1)
    halves(loss, draw(6, 4, 5, 5), scale * draw(6, 4, 5, 5, seed=1))


@pytest.mark.parametrize("loss", [*feature.LOSSES.values(), *(heatmap.LOSSES.values())])
def test_losses_do_not_depend_on_the_memory_format(loss):
    student, teacher = draw(2, 4, 6, 6).requires_grad_(), draw(2, 4, 6, 6, seed=1)
    more = ((-2, -1),) if loss in heatmap.LOSSES.values() else ()
    plain = loss(student, teacher, *more)
    last = student.detach().to(memory_format=torch.channels_last).requires_grad_()
    strided = loss(last, teacher.to(memory_format=torch.channels_last), *more)
    torch.testing.assert_close(strided, plain)
    plain.backward(), strided.backward()
    torch.testing.assert_close(last.grad, student.grad)


@pytest.mark.parametrize("loss", [*feature.LOSSES.values(), *(heatmap.LOSSES.values())])
def test_a_dead_teacher_map_gives_finite_numbers(loss):
    student = draw(2, 4, 6, 6).requires_grad_()
    value = loss(student, torch.zeros(2, 4, 6, 6), *(((-2, -1),) if loss in heatmap.LOSSES.values() else ()))
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(student.grad).all()
