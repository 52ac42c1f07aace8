"""Losses on heatmaps, against labels and against a teacher. Pure functions, mean-reduced over B * P.

Logits are (B, P, H, W), or (B, P, 2, bins) for one-dimensional heads: `dims` are the axes of one distribution,
(-2, -1) or (-1,). A map's distribution is the softmax of its logits over those axes. No gradient flows to the teacher.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.distillation.methods import Method, Outputs, Positive
from distill.errors import UserError
from distill.models.landmarker import Landmarker


def _flat(values: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Put the axes of one distribution into one last axis."""
    return values.flatten(-2) if len(dims) == 2 else values


def _per_point(values: Tensor) -> Tensor:
    """(B, P) or (B, P, 2) -> (B, P): the two axes of a one-dimensional head count as one point."""
    return values.sum(-1) if values.dim() == 3 else values


# ---------------------------------------------------------------------------- against labels


def cross_entropy(logits: Tensor, target: Tensor, weight: Tensor, dims: tuple[int, ...]) -> Tensor:
    """-sum target log softmax(logits), less the target's own entropy, so that a perfect student reaches 0 (a KL).

    target: probabilities shaped like logits. weight: (B, P).
    """
    target = _flat(target, dims)
    log_p = torch.log_softmax(_flat(logits, dims), dim=-1)
    divergence = (torch.xlogy(target, target) - target * log_p).sum(-1)
    return (_per_point(divergence) * weight).mean()


def mse(logits: Tensor, target: Tensor, weight: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Squared difference of distributions, relative to the target's own power (0 at equality, about 1 for a flat
    map)."""
    target = _flat(target, dims)
    p = torch.softmax(_flat(logits, dims), dim=-1)
    value = (p - target).square().sum(-1) / target.square().sum(-1)
    return (_per_point(value) * weight).mean()


def awing(logits: Tensor, target: Tensor, weight: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Adaptive Wing (https://arxiv.org/abs/1904.07399) of maps in units of the target's peak, with the paper's
    constants.

    Cells where the target, dilated by one cell, is at least 0.2 count eleven times. The sum over cells is divided by
    the target's own, not by the number of cells, so that the value does not depend on the size of the grid.
    """
    alpha, omega, epsilon, theta, more = 2.1, 14.0, 1.0, 0.5, 10.0
    peak = target.amax(dims, keepdim=True)
    y = target / peak
    p = torch.softmax(_flat(logits, dims), dim=-1).reshape(logits.shape) / peak
    distance, power = (y - p).abs(), alpha - y
    ratio = (theta / epsilon) ** power
    slope = omega / (1 + ratio) * power * ratio / theta
    far = slope * distance - (theta * slope - omega * torch.log1p(ratio))
    value = torch.where(distance < theta, omega * torch.log1p((distance / epsilon) ** power), far)
    near = _dilated(y, dims) >= 0.2
    value = _flat(value * (1 + more * near), dims).sum(-1) / _flat(y, dims).sum(-1)
    return (_per_point(value) * weight).mean()


def _dilated(maps: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The largest value among each cell and its neighbours."""
    flat = maps.flatten(0, 1)
    pool = F.max_pool2d if len(dims) == 2 else F.max_pool1d
    return pool(flat, 3, stride=1, padding=1).view(maps.shape)


def star(logits: Tensor, target: Tensor, weight: Tensor, dims: tuple[int, ...], beta: float = 0.1) -> Tensor:
    """`cross_entropy` plus the STAR loss (https://arxiv.org/abs/2306.02763): the distance of the map's mean from the
    target's along the two principal axes of the map, each in units of the map's deviation along it.

    Where labels are ambiguous along a contour the map is long in that direction, and an error in it weighs less. The
    distance is smooth L1 (quadratic below `beta` deviations); no gradient flows through axes and deviations, which is
    the paper's "detach restriction". On one-dimensional heads the axes are x and y.
    """
    mean, covariance = _moments(torch.softmax(_flat(logits, dims), dim=-1).reshape(logits.shape), dims)
    wanted, _ = _moments(target, dims)
    with torch.no_grad():
        xx, xy, yy = covariance.unbind(-1)
        angle = 0.5 * torch.atan2(2 * xy, xx - yy)
        root = (0.25 * (xx - yy).square() + xy.square()).sqrt()
        variances = torch.stack((0.5 * (xx + yy) + root, 0.5 * (xx + yy) - root), dim=-1)
        deviations = variances.clamp_min(1 / 12).sqrt()  # not below that of a single cell
    x, y = (wanted - mean).unbind(-1)
    along = torch.stack((x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()), dim=-1) / deviations
    value = F.smooth_l1_loss(along, torch.zeros_like(along), beta=beta, reduction="none").sum(-1)
    return cross_entropy(logits, target, weight, dims) + (value * weight).mean()


def laplace(logits: Tensor, target: Tensor, weight: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Negative log-likelihood of the target's mean under a Laplace distribution with the map's mean and covariance S
    (the location part of LUVLi, https://arxiv.org/abs/2004.02980): ln sqrt|S| + sqrt(3 d' S^-1 d). An error weighs less
    where the map is wide, and a wide map costs something itself.

    The same of the target is subtracted, so that equality is 0; maps that are sharper and right go below 0. A cell's
    own variance is added to S, which bounds it. Beyond its covariance the map's shape is free.
    """
    mean, covariance = _moments(torch.softmax(_flat(logits, dims), dim=-1).reshape(logits.shape), dims)
    wanted, narrow = _moments(target, dims)
    cell = torch.tensor((1 / 12, 0.0, 1 / 12), dtype=logits.dtype, device=logits.device)
    (xx, xy, yy), (tt, tu, uu) = ((moments + cell).unbind(-1) for moments in (covariance, narrow))
    area, least = xx * yy - xy.square(), tt * uu - tu.square()
    x, y = (wanted - mean).unbind(-1)
    squared = (yy * x.square() - 2 * xy * x * y + xx * y.square()) / area
    value = 0.5 * (area / least).log() + (3 * squared + 1e-12).sqrt()
    return (value * weight).mean()


def _moments(maps: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Distributions -> means (B, P, 2), x first, and covariances (B, P, 3) as xx, xy, yy, in cells and squared cells.

    On one-dimensional heads x and y are independent.
    """
    x, y = (maps.sum(-2), maps.sum(-1)) if len(dims) == 2 else maps.unbind(2)
    cells = torch.arange(maps.shape[-1], dtype=maps.dtype, device=maps.device)
    rows = torch.arange(y.shape[-1], dtype=maps.dtype, device=maps.device)
    mean_x, mean_y = (x * cells).sum(-1), (y * rows).sum(-1)
    off_x, off_y = cells - mean_x.unsqueeze(-1), rows - mean_y.unsqueeze(-1)
    xy = torch.einsum("bphw,bph,bpw->bp", maps, off_y, off_x) if len(dims) == 2 else torch.zeros_like(mean_x)
    covariance = torch.stack(((x * off_x.square()).sum(-1), xy, (y * off_y.square()).sum(-1)), dim=-1)
    return torch.stack((mean_x, mean_y), dim=-1), covariance


LABEL_LOSSES: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": cross_entropy,
    "mse": mse,
    "awing": awing,
    "star": star,
    "laplace": laplace,
}


# ---------------------------------------------------------------------------- against a teacher


class HeatmapMethod(Method):
    """The loss is given both heads' logits on the student's grid, and the axes of one distribution."""

    needs_logits = True

    def inputs(self, student: Outputs, teacher: Outputs, adapter: nn.Module) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        codec = student.model.codec
        target = codec.resampled(teacher.prediction.logits.float(), teacher.model.codec)
        return student.prediction.logits.float(), target, codec.dims

    def check(self, field: str, student: Landmarker, teacher: Landmarker) -> None:
        kinds = [model.config.head.kind for model in (student, teacher)]
        if student.codec is None or kinds[0] != kinds[1]:
            raise UserError(
                f"{field} compares heatmaps, but the student's head is {kinds[0]} and the teacher's {kinds[1]}; "
                f"expected both to be heatmap, or both simcc."
            )


@HeatmapMethod.register("heatmap_mse", "squared difference of the heatmaps")
def heatmap_mse(student: Tensor, teacher: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Squared difference of the two distributions, relative to the teacher's own power; on one-dimensional heads
    summed over the two axes, each relative to its own."""
    ones = torch.ones(student.shape[:2], dtype=student.dtype, device=student.device)
    return mse(student, torch.softmax(_flat(teacher.detach(), dims), dim=-1).reshape(teacher.shape), ones, dims)


@HeatmapMethod.register("heatmap_kl", "KL divergence of the heatmaps' spatial softmax")
def heatmap_kl(student: Tensor, teacher: Tensor, dims: tuple[int, ...], temperature: Positive = 1.0) -> Tensor:
    """T^2 KL(teacher || student) of the softmax of logits / T (Hinton et al., https://arxiv.org/abs/1503.02531).

    On one-dimensional heads (SimCC, https://arxiv.org/abs/2107.03332) it is the logit loss of DWPose
    (https://arxiv.org/abs/2307.15880): summed over the two axes, every point counts, its beta being 1 / T; only T^2 is
    ours.
    """
    log_s = torch.log_softmax(_flat(student, dims) / temperature, dim=-1)
    log_t = torch.log_softmax(_flat(teacher.detach(), dims) / temperature, dim=-1)
    divergence = (log_t.exp() * (log_t - log_s)).sum(-1)
    return temperature**2 * _per_point(divergence).mean()


@HeatmapMethod.register("heatmap_cwd", "channel-wise distillation (CWD) of the heatmaps")
def heatmap_cwd(student: Tensor, teacher: Tensor, dims: tuple[int, ...], temperature: Positive = 4.0) -> Tensor:
    """Channel-wise distillation (CWD, https://arxiv.org/abs/2011.13256) of standardised maps.

    Each map is divided by temperature / 4 times the teacher map's own standard deviation before the softmax, so that
    one temperature suits sharp and flat maps (4, the default, leaves a unit deviation; no T^2 factor, the scale being
    free). What is transferred is the shape of the whole map, tails included, where `heatmap_kl` sees mostly the peak.
    """
    s, t = _flat(student, dims), _flat(teacher.detach(), dims)
    scale = t.std(dim=-1, keepdim=True).clamp_min(1e-4) * temperature / 4.0
    log_s, log_t = torch.log_softmax(s / scale, dim=-1), torch.log_softmax(t / scale, dim=-1)
    return _per_point((log_t.exp() * (log_t - log_s)).sum(-1)).mean()


@HeatmapMethod.register("heatmap_lskd", "KL divergence of standardised heatmaps (LSKD)")
def heatmap_lskd(student: Tensor, teacher: Tensor, dims: tuple[int, ...], temperature: Positive = 2.0) -> Tensor:
    """`heatmap_kl` of logits standardised on each side over each map (LSKD, https://arxiv.org/abs/2403.01427).

    The student need not reach the scale of the teacher's logits. temperature: the paper's base temperature, in standard
    deviations.
    """

    def standardised(logits: Tensor) -> Tensor:
        flat = _flat(logits, dims)
        return ((flat - flat.mean(-1, keepdim=True)) / (flat.std(-1, keepdim=True) + 1e-7)).reshape(logits.shape)

    return heatmap_kl(standardised(student), standardised(teacher.detach()), dims, temperature)
