"""How a head stands before the camera, and the light on it."""

from __future__ import annotations

import numpy as np

from distill.synthesis.facemodel import unit
from distill.synthesis.kernels import geometry
from distill.synthesis.kernels.shading import Light
from distill.synthesis.person import rotation, sample_pose

F4 = np.float32
PIVOT = np.array([0, -9.0, -2.0], F4)  # about which head and torso turn, cm
AIM = np.array([[0, 1.0, 4.0]], F4)  # the camera looks at this point of the head


class View:
    """Rotations of head and torso, perspective, and the crop around the landmarks.

    focal, shift_x and shift_y project to a picture of side 1.
    """

    def __init__(self, rng: np.random.Generator, landmarks: np.ndarray, elevation: float = 0.0):
        """landmarks: (68, 3) float32, head space. elevation: of the camera, degrees, positive: it looks down.

        A head's pitch is a turn about its own axis from ear to ear: seen from the side it turns the picture in its
        plane, and no face would be seen from above or below. So elevation comes in as the head turns away, in full
        from 60 degrees of yaw on, and not at all up to 30, where it would only add to the pitch.
        """
        head, torso = sample_pose(rng)
        share = np.clip((np.degrees(abs(head[0])) - 30) / 30, 0, 1)
        raised = rotation(0, np.radians(elevation * share), 0)
        self.head, self.torso = ((raised @ rotation(*turns)).astype(F4) for turns in (head, torso))
        near, far = np.log(90), np.log(350)
        self.distance = np.exp(rng.uniform(near, far)) if rng.random() < 0.9 else rng.uniform(45, 90)  # cm
        self.camera = (self.place(AIM)[0] + [0, 0, self.distance]).astype(F4)
        self.focal, self.shift_x, self.shift_y = 1.0, 0.0, 0.0
        points = self.project(self.place(landmarks), 1.0)[:, :2].astype(np.float64)
        low, high = points.min(0), points.max(0)
        # scale and centre of the crop follow the labelled validation photographs (see assets/README.md)
        size = np.clip(rng.normal(0.509, 0.046), 0.38, 0.66)
        centre = np.array([0.5, 0.580]) + np.clip(rng.standard_normal(2) * [0.024, 0.023], -0.07, 0.07)
        if rng.random() < 0.12:
            centre = centre + rng.uniform(-0.05, 0.05, 2)
        self.focal = float(size / np.sqrt(np.prod(high - low)))
        self.shift_x, self.shift_y = map(float, centre - self.focal * (low + high) / 2)

    @property
    def scale(self) -> float:
        """Pixels a cm at the face, in a picture of 576."""
        return self.focal / self.distance * 576

    def place(self, points: np.ndarray, directions_at: np.ndarray | None = None) -> np.ndarray:
        """Head space to world, (..., 3) float32; directions, where the points that they belong to are given."""
        out = np.empty(points.shape, F4)
        flat = points.reshape(-1, 3)
        reference = flat if directions_at is None else directions_at.reshape(-1, 3)
        turn = directions_at is not None
        geometry.place(flat, self.head, self.torso, PIVOT, out.reshape(-1, 3), turn, reference)
        return out

    def project(self, points: np.ndarray, side: int | float) -> np.ndarray:
        """World to a picture of the given side in px: (..., 3) = x, y, depth in cm."""
        out = np.empty(points.shape, F4)
        focal, x, y = F4(self.focal * side), F4(self.shift_x * side), F4(self.shift_y * side)
        geometry.project(points.reshape(-1, 3), self.camera, focal, x, y, out.reshape(-1, 3))
        return out

    def project_parallel(self, points: np.ndarray) -> np.ndarray:
        """World points (n, 3) to a picture of side 1, (n, 2), as if seen from far away: scaled and moved as a whole so
        that they lie closest (least squares) to where the camera sees them.

        So are the labels of AFLW2000-3D: a face model fitted by a scaled parallel projection to photographs, which are
        taken from near (Zhu et al., "Face Alignment Across Large Poses: A 3D Solution", CVPR 2016, eq. 2).
        """
        seen = self.project(points, 1.0)[:, :2].astype(np.float64)
        flat = points[:, :2].astype(np.float64) * [1, -1]
        flat -= flat.mean(0)
        scale = (flat * (seen - seen.mean(0))).sum() / (flat**2).sum()
        return scale * flat + seen.mean(0)


def sample_light(rng: np.random.Generator) -> tuple[Light, np.ndarray]:
    """A key light, often a second one and one from behind, sky and ground; and the axes (3, 3) of the shadow map.

    Colours stay close to neutral, as a camera balances white on the face.
    """
    directions, colours = [], []

    def add(azimuth: float, elevation: float, intensity: float, warmth: float) -> None:
        a, e = np.radians(azimuth), np.radians(elevation)
        directions.append([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)])
        colours.append(intensity * np.array([1 + 0.25 * warmth, 1.0, 1 - 0.35 * warmth]))

    hard = rng.random() < 0.22
    ambient = rng.uniform(0.12, 0.85) * (0.4 if hard else 1)
    azimuth = rng.uniform(-110, 110) if hard else rng.normal(0, 42)
    add(azimuth, rng.uniform(-5, 65), rng.uniform(0.6, 1.3) * (1.5 if hard else 1), rng.normal(0.08, 0.15))
    if rng.random() < 0.6:
        add(rng.uniform(-90, 90), rng.uniform(-20, 50), rng.uniform(0.1, 0.6), rng.normal(0.05, 0.25))
    if rng.random() < 0.35:
        side = 1 if rng.random() < 0.5 else -1
        add(side * rng.uniform(110, 160), rng.uniform(0, 50), rng.uniform(0.5, 2.0), rng.normal(0, 0.25))
    warmth = rng.normal(0.0, 0.18)
    sky = ambient * np.array([1 + 0.2 * warmth, 1, 1 - 0.3 * warmth]).clip(0.2)
    ground = sky * rng.uniform(0.25, 0.8) * (0.8 + 0.35 * rng.random(3))
    light = Light(np.array(directions, F4), np.array(colours, F4), sky.astype(F4), ground.astype(F4))
    right = unit(np.cross([0.02, 1.0, 0.03], directions[0]))
    return light, np.stack([right, np.cross(directions[0], right), directions[0]]).astype(F4)
