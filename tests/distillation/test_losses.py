"""Every loss: a value worked out by hand, zero where it should be, gradient to the student only, halves that add up."""

from __future__ import annotations

import math

import pytest
import torch

from distill.distillation.losses import coordinate, feature, heatmap, relation
from distill.distillation.losses.feature import FeatureMethod
from distill.distillation.losses.heatmap import HeatmapMethod
from distill.distillation.methods import METHODS

HEATMAP = {name: method.loss for name, method in METHODS.items() if isinstance(method, HeatmapMethod)}
# those of two maps alone; vid compares what its adapter gives
MAPS = {name: method.loss for name, method in METHODS.items() if type(method) is FeatureMethod and name != "vid"}
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
    assert float(coordinate.l1(*two_points((0.03, -0.01), (0, 0)))) == pytest.approx((0.04 / 2) / 2, rel=1e-4)


def test_smooth_l1_by_hand():
    # 0.004 < beta: 0.5 * 0.004^2 / 0.01; 0.03 > beta: 0.03 - 0.005
    expected = (0.5 * 0.004**2 / 0.01 + 0.025) / 2
    assert float(coordinate.smooth_l1(*two_points((0.004, 0.03)))) == pytest.approx(expected, rel=1e-3)


def test_wing_by_hand():
    # 0.01 < width: w ln(1 + x / e); 0.1 > width: x - w + w ln(1 + w / e)
    near = 0.04 * math.log(1 + 0.01 / 0.008)
    far = 0.1 - 0.04 + 0.04 * math.log(1 + 0.04 / 0.008)
    assert float(coordinate.wing(*two_points((0.01, 0.1)))) == pytest.approx((near + far) / 2, rel=1e-3)


def test_wing_is_continuous_where_its_two_branches_meet():
    below, above = (float(coordinate.wing(*two_points((x, 0.0)))) for x in (0.04 - 1e-6, 0.04 + 1e-6))
    assert below == pytest.approx(above, abs=1e-5)


def test_smooth_wing_by_hand():
    # 2e-5 < inner: its square times (w + e) / (2 t (e + t)); 0.1 > width: slope 1 from where the logarithm ends
    width, epsilon, inner = 0.04, 0.008, 4e-5
    factor = (width + epsilon) / (2 * inner * (epsilon + inner))
    to_width = (width + epsilon) * (math.log(1 + width / epsilon) - math.log(1 + inner / epsilon))
    expected = (factor * (2e-5) ** 2 + factor * inner**2 + to_width + 0.1 - width) / 2
    assert float(coordinate.smooth_wing(*two_points((2e-5, 0.1)))) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("place", [4e-5, 0.04])
def test_neither_value_nor_slope_of_smooth_wing_jumps(place):
    distance = torch.tensor([0.999 * place, 1.001 * place], dtype=torch.float64, requires_grad=True)
    pred = torch.stack((distance, torch.zeros(2)), -1)[None]
    below, above = (coordinate.smooth_wing(pred[:, i], torch.zeros(1, 2), torch.ones(1)) for i in (0, 1))
    assert below.item() == pytest.approx(above.item(), rel=0.01)
    (below + above).backward()
    assert float(distance.grad[0]) == pytest.approx(float(distance.grad[1]), rel=0.01)


def test_nme_by_hand():
    # a 3-4-5 triangle, and a point that is right
    assert float(coordinate.nme(*two_points((0.03, 0.04), (0, 0)))) == pytest.approx(0.05 / 2, rel=1e-4)


@pytest.mark.parametrize("loss", coordinate.LOSSES.values(), ids=coordinate.LOSSES.keys())
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


@pytest.mark.parametrize("loss", coordinate.LOSSES.values(), ids=coordinate.LOSSES.keys())
def test_gradient_is_finite_for_a_point_that_is_exactly_right(loss):
    target = torch.rand(2, 3, 2)
    pred = target.clone().requires_grad_()
    loss(pred, target, torch.ones(2, 3)).backward()
    assert torch.isfinite(pred.grad).all()


@pytest.mark.parametrize("loss", coordinate.LOSSES.values(), ids=coordinate.LOSSES.keys())
def test_a_point_of_weight_zero_has_no_gradient_but_counts_in_the_mean(loss):
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
    assert float(coordinate.expected_error(right, pred, target, weight)) == pytest.approx(0, abs=1e-4)
    error = torch.tensor([[0.01, 0.5]], requires_grad=True)
    coordinate.expected_error(error, pred, target, weight).backward()
    assert pred.grad is None
    assert error.grad[0, 0] < 0 < error.grad[0, 1]  # too small: grow; too large: shrink


def test_teacher_distance_weighs_the_points_of_a_face_by_the_teachers_confidence():
    pred, target, _ = two_points((0.03, 0.04), (0, 0.1))
    # distances 0.05 and 0.1, trusted three to one
    value = coordinate.teacher_distance(pred, target, torch.tensor([[0.6, 0.2]]))
    assert float(value) == pytest.approx((3 * 0.05 + 0.1) / 4, rel=1e-4)
    # half as sure of everything: the same; sure of nothing: nothing, and no NaN
    torch.testing.assert_close(coordinate.teacher_distance(pred, target, torch.tensor([[0.3, 0.1]])), value)
    assert float(coordinate.teacher_distance(pred, target, torch.zeros(1, 2))) == 0


def test_teacher_distance_is_felt_by_the_student_only():
    target, weight = torch.rand(6, 5, 2, requires_grad=True), torch.rand(6, 5, requires_grad=True)
    assert float(coordinate.teacher_distance(target.detach().clone(), target, weight)) == pytest.approx(0, abs=2e-6)
    pred = (target.detach() + 0.05 * draw(6, 5, 2)).requires_grad_()
    coordinate.teacher_distance(pred, target, weight).backward()
    assert torch.isfinite(pred.grad).all() and (pred.grad != 0).all()
    assert target.grad is None and weight.grad is None
    halves(coordinate.teacher_distance, pred.detach(), target.detach(), weight.detach())


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


def test_heatmap_cwd_by_hand():
    # the teacher's two logits +-1 have standard deviation sqrt 2; divided by it they differ by sqrt 2; the student is
    # flat
    p = 1 / (1 + math.exp(-math.sqrt(2)))
    expected = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    value = heatmap.heatmap_cwd(one_map(0, 0), one_map(1, -1), (-2, -1))
    assert float(value) == pytest.approx(expected, rel=1e-4)


def test_heatmap_cwd_weighs_sharp_and_flat_maps_alike():
    student, teacher = draw(2, 3, 8, 8), draw(2, 3, 8, 8, seed=1)
    small = heatmap.heatmap_cwd(student, teacher, (-2, -1))
    torch.testing.assert_close(heatmap.heatmap_cwd(10 * student, 10 * teacher, (-2, -1)), small)


def test_one_dimensional_maps_sum_over_their_two_axes():
    student, teacher = torch.tensor([[[[math.log(3), 0.0]] * 2]]), torch.zeros(1, 1, 2, 2)
    one_axis = heatmap.heatmap_kl(one_map(math.log(3), 0), one_map(0, 0), (-2, -1))
    torch.testing.assert_close(heatmap.heatmap_kl(student, teacher, (-1,)), 2 * one_axis)


def axes(x: tuple[float, ...], y: tuple[float, ...]) -> torch.Tensor:
    """Logits of one point on a one-dimensional head."""
    return torch.tensor([x, y], dtype=torch.float32).view(1, 1, 2, -1)


def test_losses_of_one_dimensional_heads_by_hand():
    # x: teacher (1/2, 1/2), student (3/4, 1/4); y: teacher (3/4, 1/4), student (1/2, 1/2)
    three = math.log(3)
    student, teacher = axes((three, 0), (0, 0)), axes((0, 0), (three, 0))
    kl = 0.5 * math.log(2 / 3) + 0.5 * math.log(2) + 0.75 * math.log(3 / 2) + 0.25 * math.log(1 / 2)
    assert float(heatmap.heatmap_kl(student, teacher, (-1,))) == pytest.approx(kl, rel=1e-5)
    # squared differences 2 / 16 on each axis, over the teacher's power there: 1/2 and 10/16
    squares = (2 / 16) / (1 / 2) + (2 / 16) / (10 / 16)
    assert float(heatmap.heatmap_mse(student, teacher, (-1,))) == pytest.approx(squares, rel=1e-5)
    # each axis in units of the teacher's own deviation there, sqrt 2 and 10 sqrt 2: both become +-1 / sqrt 2
    p = 1 / (1 + math.exp(-math.sqrt(2)))
    one_axis = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    value = heatmap.heatmap_cwd(axes((0, 0), (0, 0)), axes((1, -1), (10, -10)), (-1,))
    assert float(value) == pytest.approx(2 * one_axis, rel=1e-4)


def test_heatmap_lskd_by_hand():
    # two logits of any distance, standardised, are +-1 / sqrt 2, so at temperature 1 they differ by sqrt 2
    p = 1 / (1 + math.exp(-math.sqrt(2)))
    expected = p * math.log(p / (1 - p)) + (1 - p) * math.log((1 - p) / p)
    value = heatmap.heatmap_lskd(one_map(1, 9), one_map(7, -7), (-2, -1), temperature=1.0)
    assert float(value) == pytest.approx(expected, rel=1e-4)


def test_heatmap_lskd_is_invariant_to_scale():
    teacher = draw(2, 3, 8, 8)
    assert float(heatmap.heatmap_lskd(7 * teacher + 3, teacher, (-2, -1))) == pytest.approx(0, abs=1e-5)


def test_heatmap_kl_is_the_logit_loss_of_dwpose_on_one_dimensional_heads():
    student, teacher, beta = draw(4, 5, 2, 11), draw(4, 5, 2, 11, seed=1), 0.5
    # as its authors compute it: axis by axis, summed over bins, mean over points and images
    theirs = sum(
        torch.nn.functional.kl_div(
            torch.log_softmax(beta * student[:, :, axis], -1),
            torch.softmax(beta * teacher[:, :, axis], -1),
            reduction="none",
        )
        .sum(-1)
        .mean()
        for axis in (0, 1)
    )
    ours = heatmap.heatmap_kl(student, teacher, (-1,), temperature=1 / beta)
    torch.testing.assert_close(ours * beta**2, theirs)


def test_cross_entropy_by_hand():
    target = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    value = heatmap.cross_entropy(one_map(math.log(3), 0), target, torch.ones(1, 1), (-2, -1))
    assert float(value) == pytest.approx(-math.log(3 / 4), rel=1e-5)


def test_label_mse_by_hand():
    target = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    value = heatmap.mse(one_map(math.log(3), 0), target, torch.ones(1, 1), (-2, -1))
    assert float(value) == pytest.approx(2 / 16, rel=1e-5)


def test_awing_by_hand():
    # in units of the target's peak 0.8: target (1, 1/4), student 0.625 twice; both cells are near the peak
    target = torch.tensor([0.8, 0.2]).view(1, 1, 1, 2)
    cells = [14 * math.log(1 + 0.375 ** (2.1 - y)) for y in (1, 0.25)]
    value = heatmap.awing(one_map(0, 0), target, torch.ones(1, 1), (-2, -1))
    assert float(value) == pytest.approx(11 * sum(cells) / 1.25, rel=1e-4)

    def linear(distance: float, y: float) -> float:
        ratio = 0.5 ** (2.1 - y)
        slope = 14 / (1 + ratio) * (2.1 - y) * 0.5 ** (1.1 - y)
        return slope * (distance - 0.5) + 14 * math.log(1 + ratio)

    # a student that is sure of the wrong cell: distances 1 and 3/4, beyond the threshold 1/2
    value = heatmap.awing(one_map(-40, 0), torch.tensor([1.0, 0.25]).view(1, 1, 1, 2), torch.ones(1, 1), (-2, -1))
    assert float(value) == pytest.approx(11 * (linear(1, 1) + linear(0.75, 0.25)) / 1.25, rel=1e-4)


def sure(*cells: int, of: int = 5) -> torch.Tensor:
    """Logits (of,) of a distribution that is equal over these cells and nothing elsewhere."""
    return torch.full((of,), -40.0).index_fill(0, torch.tensor(cells), 0.0)


def test_star_by_hand():
    # x: half at 0, half at 2, so mean 1 and deviation 1, the target at 2; y: right
    logits = torch.stack((sure(0, 2), sure(1)))[None, None]
    target = torch.stack((sure(2), sure(1)))[None, None].softmax(-1)
    value = heatmap.star(logits, target, torch.ones(1, 1), (-1,))
    assert float(value) == pytest.approx(math.log(2) + 1 - 0.1 / 2, rel=1e-4)


def test_star_weighs_an_error_along_the_map_less_than_one_across():
    logits = torch.full((1, 1, 5, 5), -40.0)
    logits[..., 1, 1] = logits[..., 3, 3] = 0.0  # about (2, 2), of variance 2 along the diagonal and none across
    found = []
    for row, column in ((3, 3), (1, 3)):  # each sqrt 2 from the mean
        target = torch.zeros(1, 1, 5, 5)
        target[..., row, column] = 1
        given = logits, target, torch.ones(1, 1), (-2, -1)
        found.append(float(heatmap.star(*given) - heatmap.cross_entropy(*given)))
    assert found == pytest.approx([1 - 0.05, math.sqrt(2 * 12) - 0.05], rel=1e-3)


def test_laplace_by_hand():
    # as above: variance 1 of the map along x, that of a cell (1/12) in everything
    logits = torch.stack((sure(0, 2), sure(1)))[None, None]
    target = torch.stack((sure(2), sure(1)))[None, None].softmax(-1)
    value = heatmap.laplace(logits, target, torch.ones(1, 1), (-1,))
    assert float(value) == pytest.approx(0.5 * math.log(13) + math.sqrt(3 * 12 / 13), rel=1e-4)


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
@pytest.mark.parametrize("loss", HEATMAP.values(), ids=HEATMAP.keys())
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


@pytest.mark.parametrize("loss", [heatmap.heatmap_kl, heatmap.heatmap_cwd])
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


def test_at_by_hand():
    # one cell alight in each, at different places: two unit vectors at right angles
    student, teacher = torch.zeros(1, 3, 2, 2), torch.zeros(1, 5, 2, 2)
    student[0, :, 0, 0] = 2.0
    teacher[0, 1, 1, 1] = -9.0
    assert float(feature.at(student, teacher)) == pytest.approx(2.0)


def test_cwd_by_hand():
    # teacher (1/2, 1/2), student (3/4, 1/4) at T = 4, times T^2
    student, teacher = torch.tensor([4 * math.log(3), 0]).view(1, 1, 1, 2), torch.zeros(1, 1, 1, 2)
    expected = 16 * (0.5 * math.log(2 / 3) + 0.5 * math.log(2))
    assert float(feature.cwd(student, teacher)) == pytest.approx(expected, rel=1e-5)


def test_dist_by_hand():
    # two positions of two channels; the student has the first's order right and the second's wrong
    teacher = torch.tensor([[0.0, 0.0], [1.0, 1.0]]).view(1, 2, 1, 2)
    student = torch.tensor([[5.0, 7.0], [9.0, 3.0]]).view(1, 2, 1, 2)
    # over channels: 1 - 1 and 1 + 1; over positions the teacher's channels are constant, which nothing correlates with
    assert float(feature.dist(student, teacher)) == pytest.approx((0 + 2) / 2 + 1)
    assert float(feature.dist(student, teacher, inter=3.0, intra=0.5)) == pytest.approx(3 * 1 + 0.5)


def test_pkd_is_one_less_pearsons_correlation_of_each_channel():
    student, teacher = draw(3, 2, 4, 4), draw(3, 2, 4, 4, seed=1)
    expected = 0
    for channel in (0, 1):
        pair = torch.stack((student[:, channel].flatten(), teacher[:, channel].flatten()))
        expected += (1 - float(torch.corrcoef(pair)[0, 1])) / 2
    assert float(relation.pkd(student, teacher)) == pytest.approx(expected, rel=1e-4)
    turned = torch.stack((3 * teacher[:, 0] + 7, -teacher[:, 1]), 1)  # one channel is right, the other opposite
    assert float(relation.pkd(turned, teacher)) == pytest.approx(1, rel=1e-4)


def test_dist_is_invariant_to_scale_and_offset():
    teacher = draw(2, 4, 3, 3)
    assert float(feature.dist(7 * teacher + 3, teacher)) == pytest.approx(0, abs=1e-5)
    assert float(feature.dist(-teacher, teacher)) == pytest.approx(4, rel=1e-5)


def test_vid_by_hand():
    # (3 - 1)^2 over the teacher's mean square 1, at variance 2
    gaussian = feature.Gaussian(torch.full((1, 2, 2, 2), 3.0), torch.tensor([2.0, 2.0]))
    assert float(feature.vid(gaussian, torch.ones(1, 2, 2, 2))) == pytest.approx(0.5 * (math.log(2) + 4 / 2))
    silent = feature.Gaussian(torch.zeros(1, 2, 2, 2), torch.ones(2))
    assert float(feature.vid(silent, 7 * torch.ones(1, 2, 2, 2))) == pytest.approx(0.5)


def test_vid_is_lowest_where_mean_and_variance_are_right():
    teacher = draw(6, 4, 5, 5).requires_grad_()
    noise = draw(6, 4, 5, 5, seed=1)
    power = teacher.detach().square().mean((1, 2, 3)).sqrt().view(-1, 1, 1, 1)
    mean = (teacher.detach() + 0.5 * power * noise).requires_grad_()
    log_variance = torch.full((4,), math.log(0.25), requires_grad=True)  # what the noise is, in units of the power
    best = feature.vid(feature.Gaussian(mean, log_variance.exp()), teacher)
    best.backward()
    assert teacher.grad is None and (mean.grad != 0).all()
    for shift in (-0.5, 0.5):
        assert feature.vid(feature.Gaussian(mean, (log_variance + shift).exp()), teacher) > best
    assert feature.vid(feature.Gaussian(teacher.detach(), log_variance.exp()), teacher) < best


def test_hcl_by_hand():
    # a constant difference is seen at all of its sides
    student, teacher = torch.full((1, 2, 8, 8), 3.0), torch.ones(1, 2, 8, 8)
    assert float(feature.hcl([student], [teacher])) == pytest.approx(4.0)
    # a chequered one of +-1 only in the map itself: 1 of the weights 1 + 1/2 + 1/4 + 1/8 (sides 8, 4, 2, 1)
    chequer = (torch.arange(8)[:, None] + torch.arange(8)[None]) % 2 * 2.0 - 1
    fine = feature.hcl([teacher + chequer], [teacher])
    assert float(fine) == pytest.approx(1 / 1.875)
    # levels count alike, whatever their size and strength
    both = feature.hcl([teacher + chequer, 30 * torch.ones(1, 3, 2, 2)], [teacher, 10 * torch.ones(1, 3, 2, 2)])
    assert float(both) == pytest.approx((1 / 1.875 + 4) / 2)


def test_hcl_is_felt_by_the_student_only():
    teacher = [(3 * draw(6, 4, 9, 9)).requires_grad_(), draw(6, 5, 3, 3).requires_grad_()]
    assert float(feature.hcl([t.detach() for t in teacher], teacher)) == 0
    student = [draw(6, 4, 9, 9, seed=1).requires_grad_(), draw(6, 5, 3, 3, seed=1).requires_grad_()]
    feature.hcl(student, teacher).backward()
    assert all((s.grad != 0).any() and torch.isfinite(s.grad).all() for s in student)
    assert all(t.grad is None for t in teacher)
    halves(lambda a, b, c, d: feature.hcl([a, b], [c, d]), *(x.detach() for x in (*student, *teacher)))


@pytest.mark.parametrize(("side", "cells"), [(8, 4), (9, 4), (5, 4), (3, 4), (7, 1), (10, 3), (4, 4)])
def test_pooled_is_the_adaptive_average(side, cells):
    maps = draw(2, 3, side, side + 2).to(memory_format=torch.channels_last)
    expected = torch.nn.functional.adaptive_avg_pool2d(maps, (min(side, cells), min(side + 2, cells)))
    torch.testing.assert_close(feature.pooled(maps, cells), expected)


@pytest.mark.parametrize("loss", MAPS.values(), ids=MAPS.keys())
def test_feature_terms_keep_their_promises(loss):
    teacher = (2 * draw(6, 4, 5, 5)).requires_grad_()
    assert float(loss(teacher.detach().clone(), teacher)) == pytest.approx(0, abs=1e-6)
    student = draw(6, 4, 5, 5, seed=1).requires_grad_()
    value = loss(student, teacher)
    assert value.dim() == 0 and value > 0
    value.backward()
    assert torch.isfinite(student.grad).all() and (student.grad != 0).any()
    assert teacher.grad is None


@pytest.mark.parametrize("loss", MAPS.values(), ids=MAPS.keys())
def test_feature_terms_are_a_mean_over_images(loss):
    # images of very different strength: a batch-wide normaliser would not add up
    scale = torch.tensor([0.1, 0.2, 0.5, 2.0, 5.0, 9.0]).view(6, 1, 1, 1)
    halves(loss, draw(6, 4, 5, 5), scale * draw(6, 4, 5, 5, seed=1))


@pytest.mark.parametrize("loss", [*MAPS.values(), *HEATMAP.values()], ids=[*MAPS, *HEATMAP])
def test_losses_do_not_depend_on_the_memory_format(loss):
    student, teacher = draw(2, 4, 6, 6).requires_grad_(), draw(2, 4, 6, 6, seed=1)
    more = ((-2, -1),) if loss in HEATMAP.values() else ()
    plain = loss(student, teacher, *more)
    last = student.detach().to(memory_format=torch.channels_last).requires_grad_()
    strided = loss(last, teacher.to(memory_format=torch.channels_last), *more)
    torch.testing.assert_close(strided, plain)
    plain.backward(), strided.backward()
    torch.testing.assert_close(last.grad, student.grad)


@pytest.mark.parametrize("loss", [*MAPS.values(), *HEATMAP.values()], ids=[*MAPS, *HEATMAP])
def test_a_dead_teacher_map_gives_finite_numbers(loss):
    student = draw(2, 4, 6, 6).requires_grad_()
    value = loss(student, torch.zeros(2, 4, 6, 6), *(((-2, -1),) if loss in HEATMAP.values() else ()))
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(student.grad).all()
