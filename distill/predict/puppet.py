"""A drawn face that does what a face on video does: motion retargeting in its simplest form.

`motion` measures what the face does, against its own rest; here that moves the parts of a head drawn with OpenCV. Parts lie
on an ellipsoid and turn with it, so that a turn of the head is seen as one.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from distill import headpose
from distill.predict import motion
from distill.predict.motion import Motion

# The head's own space: x to the right of the picture, y up, z towards the viewer; the outer eye corners are 1.1 apart.
_RADII = np.array([0.86, 1.12, 0.95])
_EYE = np.array([0.36, 0.10])  # centre of the right one, and half its width
_EYE_WIDTH = 0.18
_BROW_ABOVE = 0.27
_MOUTH = np.array([0.0, -0.56])
_MOUTH_WIDTH = 0.27

_BACKGROUND, _SHIRT = (235, 228, 214), (66, 120, 146)
_SKIN, _SHADE, _LINE = (246, 200, 160), (228, 172, 132), (92, 52, 40)
_HAIR, _WHITE, _IRIS, _PUPIL = (88, 58, 44), (252, 252, 250), (64, 122, 96), (24, 24, 28)
_LIP, _INSIDE, _TONGUE = (206, 92, 88), (96, 30, 36), (222, 116, 116)
_SHIFT = 4  # binary digits after the point in what cv2 draws


@dataclass(frozen=True)
class Pose:
    """What the drawn face shows. Turns in degrees as in distill.headpose; 0 everywhere but in the eyes is rest."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    left_eye: float = 1.0  # 0 closed, 1 at rest, up to 1.6 wide open
    right_eye: float = 1.0
    left_brow: float = 0.0  # raised by this much, eye distances
    right_brow: float = 0.0
    mouth_open: float = 0.0  # height of the gap, eye distances
    mouth_width: float = 1.0  # over that at rest
    smile: float = 0.0  # height of the corners


class Retargeter:
    """Carries a face's motion over to the drawn one, frame by frame; learns the face's rest on the way."""

    def __init__(self) -> None:
        self._rest = motion.Rest()

    def __call__(self, points: np.ndarray) -> Pose:
        """(68, 2) points of one frame -> the pose to draw. Raises UserError as motion.measure does."""
        seen = motion.measure(points)
        return retarget(seen, self._rest.update(seen))


def retarget(seen: Motion, rest: Motion) -> Pose:
    """What the drawn face has to show where a face with this rest moves so."""

    def opening(now: float, usual: float) -> float:
        # a closed eye's lids still lie apart by some of their usual distance, in any model's points
        return float(np.clip((now / max(usual, 1e-3) - 0.35) / 0.65, 0.0, 1.6))

    return Pose(
        yaw=float(np.clip(seen.yaw, -70, 70)),
        pitch=float(np.clip(seen.pitch, -40, 40)),
        roll=seen.roll,
        left_eye=opening(seen.left_eye, rest.left_eye),
        right_eye=opening(seen.right_eye, rest.right_eye),
        left_brow=float(np.clip(seen.left_brow - rest.left_brow, -0.12, 0.2)),
        right_brow=float(np.clip(seen.right_brow - rest.right_brow, -0.12, 0.2)),
        # a mouth's rest is closed, whatever this one did most of the time
        mouth_open=float(np.clip(seen.mouth_open - motion.at_rest().mouth_open - 0.01, 0.0, 0.7)),
        mouth_width=float(np.clip(seen.mouth_width / max(rest.mouth_width, 1e-3), 0.6, 1.4)),
        smile=float(np.clip(seen.smile - rest.smile, -0.12, 0.2)),
    )


def draw(pose: Pose, size: int) -> np.ndarray:
    """The face in this pose, (size, size, 3) uint8 RGB."""
    return _Drawing(pose, size).picture()


class _Drawing:
    """One picture being drawn, from back to front."""

    def __init__(self, pose: Pose, size: int):
        self.pose, self.size = pose, size
        self.turn = headpose.rotation(pose.yaw, pose.pitch, pose.roll)
        self.unit = 0.3 * size  # pixels of one unit of the head's space
        self.canvas = np.full((size, size, 3), _BACKGROUND, np.uint8)

    def picture(self) -> np.ndarray:
        self._body()
        ears = [np.array([side * _RADII[0] * 0.98, 0.0, -0.1]) for side in (-1, 1)]
        around = _sphere()
        hair = around[(around[:, 1] > -0.35 + 0.9 * np.clip(around[:, 2], 0, 1))] * _RADII * 1.12
        self._fill(_hull(self._project(hair)), _HAIR)
        far = [ear for ear in ears if (self.turn @ ear)[2] <= 0]
        near = [ear for ear in ears if (self.turn @ ear)[2] > 0]
        for ear in far:
            self._ear(ear)
        head = _hull(self._project(around * _RADII))
        self._fill(head, _SKIN)
        plain = self.canvas.copy()
        self._features()
        fringe = around[(around[:, 1] > 0.62) & (around[:, 2] > -0.4)] * _RADII * 1.05
        mask = np.zeros(self.canvas.shape[:2], np.uint8)
        cv2.fillPoly(mask, [_fixed(head)], 255, cv2.LINE_AA, _SHIFT)
        inside = mask[..., None] / 255.0  # nothing of the face stands out beyond the head
        self.canvas = (plain * (1 - inside) + self.canvas * inside).astype(np.uint8)
        self._fill(_hull(self._project(fringe)), _HAIR)
        for ear in near:
            self._ear(ear)
        return self.canvas

    def _body(self) -> None:
        s = self.size
        self._fill(np.array([[0.41, 0.7], [0.59, 0.7], [0.6, 1.0], [0.4, 1.0]]) * s, _SHADE)
        shoulders = np.array(
            [[0.1, 1.01], [0.16, 0.93], [0.38, 0.875], [0.5, 0.92], [0.62, 0.875], [0.84, 0.93], [0.9, 1.01]]
        )
        self._fill(shoulders * s, _SHIRT)

    def _ear(self, at: np.ndarray) -> None:
        t = np.linspace(0, 2 * np.pi, 24)
        rim = at + np.stack([0.05 * np.sin(t), 0.22 * np.sin(t), 0.13 * np.cos(t)], axis=1)
        outline = _hull(self._project(rim))
        self._fill(outline, _SHADE)
        self._stroke(outline, 0.012, _LINE, closed=True)

    def _features(self) -> None:
        pose = self.pose
        for side, opening, raised in ((-1, pose.left_eye, pose.left_brow), (1, pose.right_eye, pose.right_brow)):
            centre = _EYE * [side, 1]
            if (self.turn @ _on_head(centre[None])[0])[2] > 0.12:  # else on the far side of the head
                self._eye(centre, opening)
                self._brow(centre, side, raised)
        self._nose()
        self._mouth()

    def _eye(self, centre: np.ndarray, opening: float) -> None:
        t = np.linspace(-1, 1, 17)
        arch = 1 - t**2
        upper = centre + np.stack([_EYE_WIDTH * t, 0.125 * opening * arch], axis=1)
        lower = centre + np.stack([_EYE_WIDTH * t, -(0.02 + 0.05 * opening) * arch], axis=1)
        upper[:, 1] -= 0.02 * (1 - min(opening, 1.0)) * arch  # a closed lid comes to lie on the lower one
        outline = self._project(_on_head(np.concatenate([upper, lower[::-1]])))
        if opening > 0.08:
            mask = np.zeros(self.canvas.shape[:2], np.uint8)
            cv2.fillPoly(mask, [_fixed(outline)], 255, cv2.LINE_AA, _SHIFT)
            behind, inside = self.canvas, mask[..., None] / 255.0
            self.canvas = np.full_like(behind, _WHITE)
            for radius, colour in ((0.1, _IRIS), (0.05, _PUPIL)):
                self._fill(self._project(_on_head(_disc(centre + [0, 0.03], radius))), colour)
            self._fill(self._project(_on_head(_disc(centre + [0.035, 0.07], 0.02))), _WHITE)
            self.canvas = (behind * (1 - inside) + self.canvas * inside).astype(np.uint8)
        self._stroke(self._project(_on_head(upper)), 0.035, _LINE)
        self._stroke(self._project(_on_head(lower)), 0.012, _LINE)

    def _brow(self, centre: np.ndarray, side: int, raised: float) -> None:
        t = np.linspace(-1, 1, 11)
        arch = _BROW_ABOVE + 1.3 * raised + 0.07 * (1 - t**2) - 0.02 * side * t
        self._stroke(self._project(_on_head(centre + np.stack([0.23 * t, arch], axis=1))), 0.055, _HAIR)

    def _nose(self) -> None:
        tip = _on_head(np.array([[0.0, -0.24]]))[0] + [0, 0, 0.2]
        wings = _on_head(np.array([[-0.12, -0.27], [0.12, -0.27]])) + [0, 0, 0.04]
        bridge = _on_head(np.array([[0.0, 0.04]]))[0]
        under = _on_head(np.array([[0.0, -0.32]]))[0] + [0, 0, 0.08]
        self._fill(_hull(self._project(np.stack([bridge, *wings, tip, under]))), _SHADE)
        self._stroke(self._project(np.stack([wings[0], under, wings[1]])), 0.02, _LINE)
        self._fill(self._project(tip + np.pad(_disc(np.zeros(2), 0.045), ((0, 0), (0, 1)))), _SKIN)

    def _mouth(self) -> None:
        pose = self.pose
        t = np.linspace(-1, 1, 21)
        arch = 1 - t**2
        half = _MOUTH_WIDTH * pose.mouth_width
        middle = _MOUTH[1] + 1.3 * pose.smile * t**2
        x = half * t
        gap = 1.1 * pose.mouth_open * arch
        upper = _on_head(np.stack([x, middle + 0.25 * gap], axis=1))
        lower = _on_head(np.stack([x, middle - 0.75 * gap], axis=1))
        above = _on_head(
            np.stack([x, middle + 0.25 * gap + 0.07 * arch * (1 - 0.25 * np.exp(-((t / 0.2) ** 2)))], axis=1)
        )
        below = _on_head(np.stack([x, middle - 0.75 * gap - 0.09 * arch], axis=1))
        self._fill(self._project(np.concatenate([above, below[::-1]])), _LIP)
        if pose.mouth_open > 0.02:
            self._fill(self._project(np.concatenate([upper, lower[::-1]])), _INSIDE)
            core = np.abs(t) < 0.7
            teeth = upper - np.stack([0 * t, np.minimum(0.06, 0.35 * gap), 0 * t], axis=1)
            tongue = lower + np.stack([0 * t, np.minimum(0.12, 0.4 * gap) * (arch - 0.5).clip(0), 0 * t], axis=1)
            self._fill(self._project(np.concatenate([lower[core], tongue[core][::-1]])), _TONGUE)
            self._fill(self._project(np.concatenate([upper[core], teeth[core][::-1]])), _WHITE)
        else:
            self._stroke(self._project(upper), 0.02, _LINE)

    def _project(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) in the head's space -> (N, 2) pixels."""
        turned = points @ self.turn.T
        return turned[:, :2] * [self.unit, -self.unit] + [0.5 * self.size, 0.48 * self.size]

    def _fill(self, outline: np.ndarray, colour: tuple[int, int, int]) -> None:
        cv2.fillPoly(self.canvas, [_fixed(outline)], colour, cv2.LINE_AA, _SHIFT)

    def _stroke(self, line: np.ndarray, width: float, colour: tuple[int, int, int], closed: bool = False) -> None:
        thickness = max(1, round(width * self.unit))
        cv2.polylines(self.canvas, [_fixed(line)], closed, colour, thickness, cv2.LINE_AA, _SHIFT)


def _on_head(at: np.ndarray) -> np.ndarray:
    """(N, 2) x and y -> (N, 3) on the front of the head."""
    depth = 1 - ((at / _RADII[:2]) ** 2).sum(axis=1)
    return np.column_stack([at, _RADII[2] * np.sqrt(np.clip(depth, 0, None))])


def _sphere() -> np.ndarray:
    """(N, 3) points all over the unit sphere."""
    along, up = np.meshgrid(np.linspace(0, 2 * np.pi, 48, endpoint=False), np.linspace(-np.pi / 2, np.pi / 2, 25))
    return np.stack([np.cos(up) * np.sin(along), np.sin(up), np.cos(up) * np.cos(along)], axis=-1).reshape(-1, 3)


def _disc(centre: np.ndarray, radius: float) -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    return centre + radius * np.stack([np.cos(t), np.sin(t)], axis=1)


def _hull(points: np.ndarray) -> np.ndarray:
    return cv2.convexHull(points.astype(np.float32))[:, 0]


def _fixed(points: np.ndarray) -> np.ndarray:
    # cv2 counts from pixel centres, this package from their corners
    return np.rint((points - 0.5) * 2**_SHIFT).astype(np.int32)
