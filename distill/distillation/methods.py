"""The ways to learn from a teacher, by the names that `distill.terms.NAME.loss` knows.

A method is a pure loss function and, where student and teacher do not speak of the same channels, an adapter: a module that
trains with the student, stands between its tap and the loss, and is never part of it.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.distillation.losses import coordinate, feature, heatmap, relation
from distill.distillation.losses.feature import Gaussian
from distill.errors import UserError

# ------------------------------------------------------------------------------------------------- adapters


def projection(student: int, teacher: int) -> nn.Conv2d:
    """(B, student, h, w) -> (B, teacher, h, w), linear."""
    return nn.Conv2d(student, teacher, 1)


class Generation(nn.Module):
    """The student's map, its cells hidden at random, -> the whole map of the teacher (MGD)."""

    def __init__(self, student: int, teacher: int, mask: float = 0.65):
        """mask: share of cells hidden, all channels of a cell together (while training; the paper's 0.65 for dense tasks)."""
        super().__init__()
        self.mask = mask
        self.align = projection(student, teacher)
        self.generate = nn.Sequential(
            nn.Conv2d(teacher, teacher, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(teacher, teacher, 3, padding=1)
        )

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.align(maps)
        if self.training:
            maps = maps * (torch.rand_like(maps[:, :1]) >= self.mask)
        return self.generate(maps)


class Variational(nn.Module):
    """The student's map -> a Gaussian over the teacher's: a mean by three 1x1 convolutions, a variance per channel (VID)."""

    def __init__(self, student: int, teacher: int):
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(student, teacher, 1), nn.ReLU(inplace=True),
            nn.Conv2d(teacher, teacher, 1), nn.ReLU(inplace=True),
            nn.Conv2d(teacher, teacher, 1),
        )  # fmt: skip
        self.log_variance = nn.Parameter(torch.zeros(teacher))

    def forward(self, maps: Tensor) -> Gaussian:
        # the floor keeps a channel that is easily told from outweighing all others
        return Gaussian(self.mean(maps), self.log_variance.exp() + 1e-3)


class Review(nn.Module):
    """The student's maps, fine to coarse -> the teacher's, each level reviewing what the coarser ones saw (ReviewKD's ABF).

    Group norms instead of the paper's batch norms: no image's value depends on the others, one may be alone in its batch.
    """

    def __init__(self, student: list[int], teacher: list[int], width: int = 128):
        """student, teacher: channels of each level. width: channels in which levels are fused."""
        super().__init__()
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.GroupNorm(1, width)) for channels in student
        )
        self.attention = nn.ModuleList(nn.Conv2d(2 * width, 2, 1) for _ in pairwise(student))
        self.out = nn.ModuleList(nn.Conv2d(width, channels, 3, padding=1) for channels in teacher)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        found: list[Tensor] = []
        coarser: Tensor | None = None
        for level in reversed(range(len(maps))):
            own = self.lateral[level](maps[level])
            if coarser is not None:
                # nearest, because the backward pass of the bilinear one is not deterministic on CUDA
                above = F.interpolate(coarser, own.shape[-2:], mode="nearest")
                share = torch.sigmoid(self.attention[level](torch.cat((own, above), dim=1)))
                own = own * share[:, :1] + above * share[:, 1:]
            coarser = own
            found.insert(0, self.out[level](own))
        return found


# ------------------------------------------------------------------------------------------------- the methods


@dataclass(frozen=True)
class Method:
    """`sees` says what the loss is given of student and teacher:

    points      both heads' points, as fractions of the side, and the teacher's confidence
    heatmaps    both heads' logits, on the student's grid
    maps        one tapped map each, the teacher's brought to the student's h and w
    levels      several tapped maps each, fine to coarse, likewise
    vectors     one tapped map each as a vector an image, over the global batch
    """

    loss: Callable[..., Tensor]
    sees: Literal["points", "heatmaps", "maps", "levels", "vectors"]
    adapter: Callable[..., nn.Module] | None = None  # (student's channels, teacher's channels, **arguments) -> module

    @property
    def taps(self) -> bool:
        """Whether a term of this method names features, and not the heads' outputs."""
        return self.sees in ("maps", "levels", "vectors")

    def arguments(self) -> dict[str, Any]:
        """What `distill.terms.NAME.args` may hold: name -> default."""
        found: dict[str, Any] = {}
        for part in self._parts():
            found |= _defaults(part)
        return found

    def own(self, part: Callable, args: dict[str, Any]) -> dict[str, Any]:
        """Those of a term's args that `part` (loss, adapter or relation.vectors) takes."""
        return {key: value for key, value in args.items() if key in _defaults(part)}

    def _parts(self) -> list[Callable]:
        return [self.loss, *filter(None, [self.adapter]), *([relation.vectors] if self.sees == "vectors" else [])]


def _defaults(part: Callable) -> dict[str, Any]:
    parameters = inspect.signature(part).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


METHODS: dict[str, Method] = {
    "coordinate": Method(coordinate.teacher_distance, "points"),
    "heatmap_mse": Method(heatmap.heatmap_mse, "heatmaps"),
    "heatmap_kl": Method(heatmap.heatmap_kl, "heatmaps"),
    "heatmap_channel": Method(heatmap.heatmap_channel, "heatmaps"),
    "fitnet": Method(feature.fitnet, "maps", projection),
    "attention": Method(feature.attention, "maps"),
    "channel": Method(feature.channel, "maps", projection),
    "dist": Method(feature.dist, "maps", projection),
    "mgd": Method(feature.mgd, "maps", Generation),
    "vid": Method(feature.vid, "maps", Variational),
    "reviewkd": Method(feature.hcl, "levels", Review),
    "pkt": Method(relation.pkt, "vectors"),
    "sp": Method(relation.sp, "vectors"),
    "rkd": Method(relation.rkd, "vectors"),
}
SHARES = frozenset({"mask"})  # arguments that are a share, below 1


def find(field: str, name: str) -> Method:
    """The method of that name. Raises UserError, with those there are and any that is close."""
    if name not in METHODS:
        close = difflib.get_close_matches(name, METHODS, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise UserError(f"{field}.loss '{name}' is unknown{hint}; expected one of {', '.join(sorted(METHODS))}.")
    return METHODS[name]


def check_args(field: str, name: str, args: dict[str, Any]) -> None:
    """Raises UserError for an argument that the method does not take, or of a value that cannot be."""
    known = METHODS[name].arguments()
    for key, value in args.items():
        if key not in known:
            raise UserError(f"{field}.args.{key} is unknown; {name} takes {', '.join(known) or 'no arguments'}.")
        whole = isinstance(known[key], int)
        kind = int if whole else int | float
        if isinstance(value, bool) or not isinstance(value, kind) or not value > 0:
            raise UserError(f"{field}.args.{key} is {value!r}; expected a {'whole ' * whole}number above 0.")
        if key in SHARES and value >= 1:
            raise UserError(f"{field}.args.{key} is {value!r}; expected a share between 0 and 1.")
