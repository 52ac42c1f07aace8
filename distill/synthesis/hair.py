"""Hair: the style of a person's, and the strands of scalp, brows and beard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from distill.synthesis import array_columns as col
from distill.synthesis import noise
from distill.synthesis.appearance import Appearance
from distill.synthesis.facemodel import FaceModel, unit
from distill.synthesis.kernels import hair_growth
from distill.synthesis.kernels.hair_growth import Roots
from distill.synthesis.sampling import linear, pick

F4 = np.float32
GUIDES = 180
STRANDS = 5200  # of a full head at 520 px; smaller pictures get fewer and wider ones

_FEMALE = {"long": 0.30, "bob": 0.16, "tied": 0.18, "curly": 0.10, "short": 0.08, "wave": 0.18}
_MALE = {"short": 0.40, "buzz": 0.14, "bald": 0.10, "bob": 0.08, "curly": 0.08, "short2": 0.20}


@dataclass
class HairStyle:
    """How a head of hair is grown; `sample_style` draws one."""

    name: str
    points: int = 13  # of a strand
    count: float = 1.0  # of strands, times STRANDS
    width: float = 2.0  # px of a picture of 576
    parameters: np.ndarray | None = None  # (N_HAIR,)


def sample_style(rng: np.random.Generator, female: bool) -> HairStyle:
    """A style by the frequencies above, with its parameters drawn."""
    kinds = _FEMALE if female else _MALE
    name = pick(rng, list(kinds), list(kinds.values()))
    u = rng.uniform
    h = np.zeros(col.N_HAIR)
    h[col.H_PARTING] = 0.0 if rng.random() < 0.5 else u(-3.5, 3.5)
    h[col.H_FRINGE_WIDTH], h[col.H_FRINGE_SIDE], h[col.H_NOISE] = u(2.5, 6.5), u(-0.7, 0.7), u(0.05, 0.18)
    h[col.H_LIFT], h[col.H_THICKNESS], h[col.H_CLUMP], h[col.H_FRIZZ] = (
        u(0.0, 0.3),
        u(0.3, 1.5),
        u(0.2, 0.75),
        u(0.01, 0.06),
    )
    h[col.H_GRAVITY], h[col.H_LENGTH_SPREAD], h[col.H_SWEEP], h[col.H_LENGTH] = (
        u(0.4, 1.0),
        u(0.05, 0.2),
        u(-1.3, 0.25),
        20.0,
    )
    h[col.H_KIND] = col.H_FALLING
    style = HairStyle(name, width=u(1.5, 2.5), parameters=h)
    _shape(style, rng)
    limit = u(52, 88)
    azimuths = [limit * u(0.85, 1.0), limit * u(0.85, 1.0)]
    if rng.random() < 0.18:  # hair that falls into the face on one side
        azimuths[rng.integers(2)] = u(10, 45)
    h[col.H_AZIMUTH_LEFT], h[col.H_AZIMUTH_RIGHT] = azimuths
    if name not in ("buzz", "bald", "curly", "tied") and rng.random() < (0.36 if female else 0.15):
        h[col.H_FRINGE] = u(3.0, 6.5)
    return style


def _shape(style: HairStyle, rng: np.random.Generator) -> None:
    """The parameters of a style by its name."""
    h, u, name = style.parameters, rng.uniform, style.name
    if name in ("long", "wave"):
        h[col.H_LENGTH] = u(20, 38)
        style.points = 16
        if name == "wave":
            h[col.H_CURL], h[col.H_FREQUENCY], h[col.H_CLUMP] = u(0.15, 0.6), u(0.5, 1.3), u(0.5, 0.85)
    elif name == "bob":
        h[col.H_LENGTH] = u(11, 20)
    elif name == "tied":
        h[col.H_KIND] = col.H_TIED
        h[[col.H_BUN_X, col.H_BUN_Y, col.H_BUN_Z]] = rng.normal(0, 0.6), u(0, 11), u(-11.5, -8.5)
        h[[col.H_LENGTH, col.H_LIFT, col.H_THICKNESS, col.H_NOISE, col.H_GRAVITY]] = (
            u(17, 24),
            0.1,
            u(0.2, 0.7),
            0.05,
            0.02,
        )
    elif name == "curly":
        big = rng.random() < 0.5
        h[col.H_KIND] = col.H_RADIAL if big else col.H_FALLING
        h[[col.H_LENGTH, col.H_CURL, col.H_FREQUENCY, col.H_FRIZZ]] = (
            u(3, 9) if big else u(14, 30),
            u(0.3, 0.8),
            u(1.5, 4),
            0.1,
        )
        h[[col.H_GRAVITY, col.H_THICKNESS, col.H_LIFT]] = 0.02 if big else u(0.3, 0.7), u(0.8, 2.2), 1.0 if big else 0.4
        style.points = 14 if big else 22
    elif name in ("short", "short2"):
        h[col.H_KIND] = col.H_SHORT
        h[[col.H_DX, col.H_DY, col.H_DZ]] = u(-1, 1), u(-0.2, 0.6), u(-1.0, 1.0)
        h[[col.H_LENGTH, col.H_LIFT, col.H_NOISE]] = u(1.5, 6.5), u(0.1, 0.75), u(0.1, 0.35)
        h[[col.H_THICKNESS, col.H_GRAVITY]] = u(0.3, 1.2), u(0.05, 0.35)
        style.points, style.count = 7, 1.25
    elif name == "buzz":
        h[col.H_KIND] = col.H_SHORT
        h[[col.H_LENGTH, col.H_LIFT, col.H_NOISE, col.H_THICKNESS, col.H_GRAVITY]] = u(0.3, 1.0), 1.0, 0.4, 0.1, 0.0
        style.points, style.count, style.width = 3, 1.35, 1.3


# ---------------------------------------------------------------------------------------------------- strands


@dataclass
class Strands:
    """Strands of one kind, and how they are drawn."""

    points: np.ndarray  # (n, K, 3) float32, head space
    colour: np.ndarray  # (n, 3) linear
    width: np.ndarray  # (n,) px of the supersampled picture
    brush: tuple[float, float, float, float]  # see kernels.strands.draw_strands


@dataclass
class Barber:
    """Grows all strands of one person."""

    model: FaceModel
    vertices: np.ndarray  # (V, 3) of the face, head space
    normals: np.ndarray  # (V, 3)
    look: Appearance
    size: int  # of the picture, px
    scale: float  # px a cm in a picture of 576
    rng: np.random.Generator

    def __post_init__(self) -> None:
        self.state = np.array([self.rng.integers(1, 2**63)], np.uint64)
        # width of a strand that is 1 px wide in a picture of 576
        self.unit = np.clip(self.scale / 30.0, 0.5, 1.6) * (self.size * 1.25) / 576
        self.fewer = np.clip(self.size / 320, 0.5, 1)  # short hairs are thinned out in small pictures, and wider

    def roots(self, weight: np.ndarray, count: int) -> Roots:
        """`count` roots, or none, with a density by vertex weights (V,)."""
        roots = Roots(np.empty((count, 3), F4), np.empty((count, 3), F4), np.empty(count, np.int32))
        triangles, areas = self.model.skin_triangles, self.model.skin_areas
        found = hair_growth.scatter_roots(self.vertices, self.normals, triangles, areas, weight, self.state, roots)
        return roots if found else Roots(*(part[:0] for part in roots))

    def scalp(self, style: HairStyle, density: np.ndarray, facing: np.ndarray, female: bool) -> list[Strands]:
        """Hair of the head; density (V,) of roots, facing (V,) how far a vertex looks towards the camera."""
        rng = self.rng
        h = style.parameters.astype(F4)
        radii, scratch = np.empty((2, hair_growth.HEAD_MAP, hair_growth.HEAD_MAP), F4)
        hair_growth.head_map(self.vertices, self.model.head_vertices, radii, scratch)
        full = STRANDS * style.count
        if h[col.H_KIND] == col.H_SHORT:  # short hair on the far side cannot be seen
            density = density * (facing > -0.4)
            full *= 0.65
        n = int(np.clip(full * self.size / 520, 0.35 * full, full))
        first = self.roots(density, GUIDES)
        if not len(first.position):
            return []
        points = np.empty((GUIDES, style.points, 3), F4)
        guides = hair_growth.Guides(first.position, points, np.empty(GUIDES, F4), np.empty(GUIDES, F4))
        hair_growth.grow_guides(guides, first.normal, radii, h, self.state)
        all_roots = self.roots(density, n)
        strands, guide_of = np.empty((n, style.points, 3), F4), np.empty(n, np.int32)
        table, state = noise.white(), self.state
        hair_growth.spawn(guides, all_roots.position, all_roots.normal, radii, h, state, table, strands, guide_of)
        colour = self._scalp_colour(guide_of, female)
        width = style.width * self.unit * (0.9 * full / n) * np.exp(0.2 * rng.standard_normal(n, F4))
        return [
            Strands(
                strands, colour, width, (rng.uniform(0.3, 0.75), rng.uniform(0.2, 1.3), rng.uniform(0.75, 0.95), 0.0)
            )
        ]

    def _scalp_colour(self, guide_of: np.ndarray, female: bool) -> np.ndarray:
        """(n, 3) linear: lighter and darker strands, grey ones, dyed ones."""
        rng, look, n = self.rng, self.look, len(guide_of)
        luminance = np.exp(0.24 * rng.standard_normal(GUIDES, F4))[guide_of] * np.exp(0.22 * rng.standard_normal(n, F4))
        colour = look.hair.astype(F4) * luminance[:, None]
        if look.hair_name in ("grey", "white") or (look.age > 0.6 and rng.random() < 0.5):
            colour[rng.random(n) < rng.uniform(0.2, 0.7)] = linear([165, 163, 160])
        if rng.random() < 0.08 and female:
            dyed = (rng.random(GUIDES) < 0.4)[guide_of]
            colour[dyed] = colour[dyed] * 2.2 + 0.05
        return colour

    def bun(self, style: HairStyle) -> Strands:
        """The strands of a bun at the back of the head, around the point that the style gives."""
        rng, n = self.rng, 300
        d = unit(rng.standard_normal((n, 3)))
        tangent = unit(np.cross(d, rng.standard_normal((n, 3))))
        angle = np.linspace(-1.1, 1.1, 7)[None, :, None]
        centre = style.parameters[[col.H_BUN_X, col.H_BUN_Y, col.H_BUN_Z]]
        points = centre + rng.uniform(1.8, 3.4) * (d[:, None] * np.cos(angle) + tangent[:, None] * np.sin(angle))
        colour = self.look.hair * np.exp(0.25 * rng.standard_normal((n, 1)))
        return Strands(points.astype(F4), colour, np.full(n, 4.2 * self.unit), (0.2, 0.6, 1.0, 0.0))

    def brows(self, female: bool) -> Strands:
        """Along the brow, upwards at its inner end."""
        rng, masks = self.rng, self.model.masks
        width = rng.uniform(0.2, 0.45) * (0.75 if female else 1.1)
        profile = width * np.interp(masks[:, col.K_BROW_ALONG], [0, 0.25, 0.8, 1], [0.25, 0.75, 1.0, 0.9])
        weight = np.clip((1.0 - masks[:, col.K_BROW_DISTANCE] / profile) / 0.45, 0, 1).astype(F4)
        up = rng.uniform(-0.1, 0.5)

        def along(roots: Roots) -> np.ndarray:
            t = masks[self.model.skin_triangles[roots.triangle], col.K_BROW_ALONG].mean(1)
            k = np.clip((t - 0.7) / 0.3, 0, 1)
            across = np.sign(roots.position[:, 0]) * (1.0 - 0.6 * k)
            return np.stack([across, up + 0.9 * k - 0.35 * (1 - t), np.full(len(t), -0.4)], 1)

        count = max(60, int(rng.uniform(120, 750) * self.fewer))
        points = self._short(weight, count, along, (rng.uniform(0.45, 0.85), 0.12, 0.12, 0.0), 3)
        width = rng.uniform(1.0, 1.8) * self.unit / self.fewer
        colour = self.look.brow * np.exp(0.2 * rng.standard_normal((len(points), 1)))
        return Strands(points, colour, np.full(len(points), width), (0.0, 0.1, rng.uniform(0.3, 0.8), 0.06))

    def beard(self, density: np.ndarray) -> list[Strands]:
        """Nothing, stubble, or a beard as the look has it; density (V,) of roots."""
        rng, look, fewer = self.rng, self.look, self.fewer
        weight = np.where(density > 0.2, density, 0).astype(F4)
        if look.beard in ("full", "moust", "goatee"):
            length = rng.uniform(0.4, 1.0) if look.beard == "moust" else rng.uniform(0.35, 2.2)
            count = int(rng.uniform(2500, 6000) * fewer * (0.35 if look.beard != "full" else 1))
            shape = length, rng.uniform(0.15, 0.6), rng.uniform(0.15, 0.4), 0.8
            points = self._short(weight, count, _down(0.15), shape, 4)
            colour = look.hair * rng.uniform(0.6, 1.1) * np.exp(0.3 * rng.standard_normal((len(points), 1)))
            width = np.full(len(points), rng.uniform(1.0, 1.7) * self.unit / fewer)
            return [Strands(points, colour, width, (0.3, 0.3, rng.uniform(0.5, 0.9), 0.04))]
        if look.beard == "stubble" and rng.random() < 0.6:
            shape = rng.uniform(0.1, 0.25), 0.4, 0.3, 0.0
            points = self._short(weight, int(4000 * fewer * fewer), _down(0.1), shape, 2)
            colour = look.stubble * 0.6 * np.exp(0.2 * rng.standard_normal((len(points), 1)))
            width = np.full(len(points), 1.1 * self.unit / fewer)
            return [Strands(points, colour, width, (0.0, 0.05, rng.uniform(0.2, 0.5), 0.04))]
        return []

    def _short(
        self,
        weight: np.ndarray,
        count: int,
        along: Callable[[Roots], np.ndarray],
        shape: tuple[float, ...],
        points: int,
    ) -> np.ndarray:
        """Short hairs (n, points, 3), n = count or 0; shape: see hair_growth.short_hairs."""
        roots = self.roots(weight, count)
        strands = np.empty((len(roots.position), points, 3), F4)
        if len(strands):
            directions = np.ascontiguousarray(along(roots), F4)
            hair_growth.short_hairs(roots.position, roots.normal, directions, shape, self.state, strands)
        return strands


def _down(outwards: float) -> Callable[[Roots], np.ndarray]:
    """Directions of a beard's hairs: down, a little outwards and forwards."""

    def along(roots: Roots) -> np.ndarray:
        n = len(roots.position)
        return np.stack([outwards * roots.position[:, 0], np.full(n, -1.0), np.full(n, 0.2)], 1)

    return along
