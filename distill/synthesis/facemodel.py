"""The morphable face, and what is known of its vertices before anyone's face is made: regions, ambient light, noise."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distill.synthesis import array_columns as col
from distill.synthesis import masks, noise
from distill.synthesis.kernels import geometry, raster

ASSETS = Path(__file__).resolve().parent / "assets"
POINTS = "points68.json"
F4 = np.float32

_CLASSES = {
    "face": col.C_SKIN,
    "head_neck": col.C_SKIN,
    "mouth_socket": col.C_MOUTH,
    "gums_tongue": col.C_GUMS,
    "teeth": col.C_TEETH,
    "eye_socket_l": col.C_SOCKET,
    "eye_socket_r": col.C_SOCKET,
    "sclera_l": col.C_SCLERA,
    "sclera_r": col.C_SCLERA,
    "lashes_l": col.C_LASH,
    "lashes_r": col.C_LASH,
}
_MATERIALS = np.array(
    [col.M_SKIN, col.M_PLAIN, col.M_PLAIN, col.M_PLAIN, col.M_PLAIN, col.M_EYE, col.M_PLAIN], np.int8
)  # of each class


@dataclass(eq=False)
class FaceModel:
    """V vertices in cm: x to the subject's left, y up, z forwards. `load` makes one in about three seconds."""

    vertices: np.ndarray  # (V, 3) float32, the neutral face
    triangles: np.ndarray  # (T, 3) int32, all but the lashes
    materials: np.ndarray  # (T,) int8
    skin_triangles: np.ndarray  # (S, 3) int32
    skin_areas: np.ndarray  # (S,) float32
    lash_triangles: np.ndarray  # (L, 3) int32
    classes: np.ndarray  # (V,) uint8, C_SKIN to C_LASH
    is_skin: np.ndarray  # (V,) bool
    eyes: tuple[np.ndarray, np.ndarray]  # vertices of the left and the right eyeball
    landmarks: np.ndarray  # (68,) vertices about which pictures are framed and things are laid
    label_vertices: np.ndarray  # (68, 4): the points that labels are made of, as weighted means of vertices
    label_weights: np.ndarray  # (68, 4) float32, sums of 1
    head_vertices: np.ndarray  # those that hair collides with
    bust: np.ndarray  # a sample of those that the shadow map must cover
    masks: np.ndarray  # (V, N_MASKS) float32
    fields: np.ndarray  # (V, N_FIELDS) float32, random fields of unit deviation
    texture: np.ndarray  # (V, 3) position on the neutral face; on the eyeballs in units of their radius
    noise: np.ndarray  # the noise volume of the kernels
    expressions: list[str]  # names of the 53 expressions
    modes: np.ndarray  # (154, 3V) int16: 100 identities, 53 expressions, a drop of the brows by 1 cm
    scale: np.ndarray  # (154,) float32, cm a step of each mode

    def shape(self, weights: np.ndarray, out: np.ndarray) -> None:
        """Vertices (V, 3) float32 into out, for the weights (154,) of the modes."""
        geometry.blend(self.vertices.reshape(-1), self.modes, self.scale, weights.astype(F4), out.reshape(-1))

    def label_points(self, vertices: np.ndarray) -> np.ndarray:
        """(68, 3) points of a face of these vertices (V, 3); which they are is in assets/README.md."""
        return np.einsum("pk,pkc->pc", self.label_weights, vertices[self.label_vertices])


def load(path: Path = ASSETS / "ict_facekit.npz") -> FaceModel:
    """The head of ICT-FaceKit as the renderer needs it, from the arrays in the package (centimetres, y up)."""
    with np.load(path) as kit:
        arrays = {key: kit[key] for key in kit.files}
    vertices = arrays["neutral"].astype(F4)
    parts = [str(name) for name in arrays["part_names"]]
    class_of = np.array([_CLASSES[part] for part in parts])
    triangles, triangle_class = arrays["triangles"].astype(np.int32), class_of[arrays["triangle_part"]]
    classes = class_of[arrays["vertex_part"]].astype(np.uint8)
    is_skin = classes == col.C_SKIN
    opaque, skin = (
        triangles[triangle_class != col.C_LASH],
        np.ascontiguousarray(triangles[triangle_class == col.C_SKIN]),
    )
    a, b, c = vertices[skin].transpose(1, 0, 2)
    left, right = (np.where(arrays["vertex_part"] == parts.index(f"sclera_{side}"))[0] for side in "lr")
    eyes = (left, right)
    regions, brow = masks.paint(vertices, arrays["landmark68"].astype(int), is_skin)
    regions[:, col.K_AO] = _ambient(vertices, opaque)
    points = json.loads((path.parent / POINTS).read_text(encoding="utf-8"))
    modes, scale = _modes(arrays["identity"].astype(F4), arrays["expression"].astype(F4), brow)
    return FaceModel(
        vertices=vertices,
        triangles=opaque,
        materials=_MATERIALS[triangle_class[triangle_class != col.C_LASH]],
        skin_triangles=skin,
        skin_areas=(0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1)).astype(F4),
        lash_triangles=triangles[triangle_class == col.C_LASH],
        classes=classes,
        is_skin=is_skin,
        eyes=eyes,
        landmarks=arrays["landmark68_aflw"].astype(int),
        label_vertices=np.array([point["vertices"] for point in points]),
        label_weights=np.array([point["weights"] for point in points], F4),
        head_vertices=np.where(is_skin & (vertices[:, 1] > -12.5) & (np.abs(vertices[:, 0]) < 9.5))[0],
        bust=np.where(vertices[:, 1] > -16)[0][::5],
        masks=regions,
        fields=_fields(vertices, is_skin),
        texture=_texture(vertices, eyes),
        noise=noise.volume(),
        expressions=[str(name) for name in arrays["expression_names"]],
        modes=modes,
        scale=scale,
    )


def unit(x: np.ndarray) -> np.ndarray:
    """Vectors (..., n) of length 1."""
    return x / (np.linalg.norm(x, axis=-1, keepdims=True) + 1e-9)


def _modes(identity: np.ndarray, expression: np.ndarray, brow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All modes in one int16 table, and its scale; brow (V,): how far a brow lowered by 1 cm moves each vertex."""
    drop = np.zeros_like(identity[:1])
    drop[0, :, 1] = -brow
    offsets = np.concatenate([identity, expression, drop]).reshape(len(identity) + len(expression) + 1, -1)
    scale = (np.abs(offsets).max(1) / 32767).astype(F4)
    return np.round(offsets / scale[:, None]).astype(np.int16), scale


def _texture(vertices: np.ndarray, eyes: tuple[np.ndarray, ...]) -> np.ndarray:
    texture = vertices.copy()
    for eye in eyes:
        low, high = vertices[eye].min(0), vertices[eye].max(0)
        texture[eye] = (vertices[eye] - 0.5 * (low + high)) / (0.5 * (high - low).mean())
    return texture


def _ambient(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """(V,) share of the sky that a vertex sees, weighted by the cosine, from depth maps in 90 directions."""
    v = vertices.astype(np.float64)
    normals = np.zeros_like(vertices)
    geometry.vertex_normals(vertices, triangles, normals)
    side = 256
    seen, total = np.zeros(len(v)), np.full(len(v), 1e-6)
    for direction in unit(np.random.RandomState(0).randn(90, 3)):
        across = unit(np.cross(direction, [0.3, 0.8, 0.52]))
        points = np.stack([v @ across, v @ np.cross(direction, across), -(v @ direction)], 1)
        low = points[:, :2].min(0)
        points[:, :2] = (points[:, :2] - low) * ((side - 2) / (points[:, :2].max(0) - low).max()) + 1
        depth = np.full((side, side), 1e9, F4)
        raster.depth_map(points.astype(F4), triangles, 0, depth)
        x, y = points[:, :2].astype(int).clip(0, side - 1).T
        cosine = np.clip(normals @ direction, 0, 1)
        seen += cosine * (points[:, 2] < depth[y, x] + 0.4)
        total += cosine
    return np.clip(seen / total, 0.02, 1)


def _fields(vertices: np.ndarray, is_skin: np.ndarray) -> np.ndarray:
    """(V, N_FIELDS) random fields on the neutral face; mixtures of them give every person another mottling."""
    fields = np.zeros((len(vertices), col.N_FIELDS), F4)
    rng, side, half = np.random.RandomState(5), 48, col.N_FIELDS // 2
    for part, cell in ((0, 2.2), (1, 0.75)):  # size of their features in cm
        volumes = [noise.tileable(side, [(1.3, 1.0), (0.7, 0.35)], 100 + 40 * part + i) for i in range(half)]
        for i, volume in enumerate(volumes):
            p = (vertices / cell * 1.0 + rng.rand(3) * side).astype(np.float64)
            whole = np.floor(p).astype(int)
            t = p - whole
            value = np.zeros(len(p))
            for corner in range(8):  # trilinear
                offset = np.array([corner & 1, corner >> 1 & 1, corner >> 2])
                weight = np.prod(np.where(offset, t, 1 - t), 1)
                value = value + weight * volume[tuple(((whole + offset) % side).T)]
            fields[:, part * half + i] = value / value[is_skin].std()
    return fields
