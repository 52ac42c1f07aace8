"""The methods against torchdistill (MIT), another hand's implementation, where it has them; same numbers, same
gradients.

Where our reduction differs, the test states the constant between the two.
"""

from __future__ import annotations

import pytest
import torch
from test_losses import draw

from distill.distillation.losses import feature, heatmap, relation

theirs = pytest.importorskip("torchdistill.losses.mid_level")

IO = ("m", "output", "m", "output")  # their losses read student and teacher from dicts of module path and direction
PAIR = {"pair": {"student": {"path": "m", "io": "output"}, "teacher": {"path": "m", "io": "output"}}}
COUNT, CHANNELS, SIDE = 6, 5, 8


def same(ours, reference, factor: float, *shape: int, unit: bool = False) -> None:
    """ours(student, teacher) * factor is the reference, in value and in gradient. unit: teacher's maps of mean square
    1."""
    start, teacher = draw(*shape), 2 * draw(*shape, seed=1) + 1
    if unit:
        teacher = teacher / teacher.square().flatten(1).mean(1).sqrt().view(-1, *[1] * (teacher.dim() - 1))
    found = []
    for loss in (lambda s, t: factor * ours(s, t), lambda s, t: reference(*({"m": {"output": x}} for x in (s, t)))):
        student = start.clone().requires_grad_()
        value = loss(student, teacher.clone())
        found.append((value, *torch.autograd.grad(value, student)))
    torch.testing.assert_close(found[0], found[1], rtol=2e-4, atol=1e-6)
    assert found[0][0] > 0


def test_fitnet_is_the_mean_squared_error_of_maps_of_unit_power():
    simple = theirs.SimpleLossWrapper(
        torch.nn.MSELoss(),
        input={"is_from_teacher": False, "module_path": "m", "io": "output"},
        target={"is_from_teacher": True, "module_path": "m", "io": "output"},
    )
    reference = lambda s, t: simple(s, t, None)  # noqa: E731
    same(feature.fitnet, reference, 1, COUNT, CHANNELS, SIDE, SIDE, unit=True)


def test_at_sums_over_positions_where_theirs_is_a_mean():
    reference = theirs.ATLoss(PAIR, mode="code")
    same(feature.at, reference, 1 / SIDE**2, COUNT, CHANNELS, SIDE, SIDE)


def test_heatmap_kl_has_the_factor_of_hintons_temperature():
    reference = theirs.KDLoss(*IO, temperature=3.0, alpha=0)
    ours = lambda s, t: heatmap.heatmap_kl(s[:, None, None], t[:, None, None], (-2, -1), temperature=3.0)  # noqa: E731
    same(ours, reference, 1 / 3.0**2, COUNT, SIDE**2)


def test_cwd_is_that_kl_of_every_channel():
    reference = theirs.KDLoss(*IO, temperature=4.0, alpha=0)

    def ours(student, teacher):
        return feature.cwd(*(maps.view(COUNT, CHANNELS, SIDE, SIDE) for maps in (student, teacher)))

    same(ours, reference, 1 / 4.0**2, COUNT * CHANNELS, SIDE**2)


def test_dist_of_probabilities_is_theirs_of_logits():
    reference = theirs.DISTLoss(*IO, beta=2.0, gamma=0.5)

    def ours(student, teacher):
        """Images stand at positions, classes at channels."""
        maps = (x.softmax(1).T.reshape(1, CHANNELS, 1, -1) for x in (student, teacher))
        return feature.dist(*maps, inter=2.0, intra=0.5)

    same(ours, reference, 1, 12, CHANNELS)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dist_at_a_temperature_is_theirs_of_the_logits_at_all_positions(temperature):
    whole = theirs.DISTLoss(*IO, beta=2.0, gamma=0.5, tau=temperature)

    def reference(student, teacher):
        """As the authors' code for segmentation: positions of all images stand where images stand in classification."""
        rows = ({"m": {"output": x["m"]["output"].transpose(1, 3).reshape(-1, CHANNELS)}} for x in (student, teacher))
        return whole(*rows)

    ours = lambda s, t: feature.dist(s, t, inter=2.0, intra=0.5, temperature=temperature)  # noqa: E731
    same(ours, reference, 1, COUNT, CHANNELS, SIDE, SIDE)


def test_vid_is_theirs_for_maps_of_unit_power():
    variance = torch.rand(CHANNELS, generator=torch.Generator().manual_seed(2)) + 0.5
    loss = theirs.VIDLoss(PAIR)
    reference = lambda s, t: loss({"m": {"output": (s["m"]["output"], variance.view(1, -1, 1, 1))}}, t)  # noqa: E731
    ours = lambda s, t: feature.vid(feature.Gaussian(s, variance), t)  # noqa: E731
    same(ours, reference, 1, COUNT, CHANNELS, SIDE, SIDE, unit=True)


@pytest.mark.parametrize("side", [8, 4, 7, 2])
def test_hcl_is_theirs_for_one_level_of_unit_power(side):
    loss = theirs.HierarchicalContextLoss(*IO)
    reference = lambda s, t: loss({"m": {"output": (s["m"]["output"], None)}}, t)  # noqa: E731
    same(lambda s, t: feature.hcl([s], [t]), reference, 1, COUNT, CHANNELS, side, side, unit=True)


def test_pkt_sums_over_neighbours_where_theirs_is_a_mean():
    same(relation.pkt, theirs.PKTLoss(*IO), 1 / COUNT, COUNT, 10)


def test_sp_is_theirs_times_the_batch_and_whole_maps_are_flattened(monkeypatch):
    # theirs gives rows unit sums of absolute values; the paper (eq. 2) divides by the Euclidean norm
    euclidean = lambda x, _: torch.nn.functional.normalize(x, 2)  # noqa: E731
    monkeypatch.setattr(theirs, "normalize", euclidean)
    reference = theirs.SPKDLoss("m", "m", reduction="batchmean")
    same(lambda s, t: relation.sp(s.flatten(1), t.flatten(1)), reference, 1 / COUNT, COUNT, CHANNELS, SIDE, SIDE)


def test_rkd_is_theirs():
    reference = theirs.RKDLoss("m", "m", dist_factor=25.0, angle_factor=50.0, reduction="mean")
    same(relation.rkd, reference, 1, COUNT, 10)
