"""Who is in the picture: identity, expression, pose. No picture size anywhere, so labels scale with it exactly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# mean identity weights, found by fitting the model to the labels of the validation photographs (see assets/README.md)
_MEAN_IDENTITY = np.array(
    [-0.20, -0.96, 0.05, 1.03, -0.55, 0.41, -0.74, -0.01, 0.82, 0.01,
     -0.82, 0.27, -0.63, -0.05, 0.15, -0.10, 0.20, -0.51, 0.41, -0.57]
)  # fmt: skip
_BROW_DROP = (0.23, 0.08)  # mean and deviation, cm: the model's brows sit too high above the eyes without it


def sample_weights(rng: np.random.Generator, female: bool, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the model's modes, (100 identities + 53 expressions + brow drop,) float64, and the gaze (yaw, pitch)
    in radians. names: the expressions'."""
    identity = rng.standard_normal(100) * rng.uniform(0.6, 1.0)
    identity[:20] += _MEAN_IDENTITY * (1.0 if female else 0.75)
    expression, gaze = _Expression(rng, names).sample()
    return np.concatenate([np.clip(identity, -2.6, 2.6), expression, [rng.normal(*_BROW_DROP)]]), gaze


class _Expression:
    def __init__(self, rng: np.random.Generator, names: Sequence[str]):
        self.rng, self.names = rng, names
        self.index = {name: i for i, name in enumerate(names)}
        self.weights = np.zeros(len(names))

    def add(self, name: str, weight: float) -> None:
        self.weights[self.index[name]] += weight

    def both(self, name: str, weight: float, asymmetry: float = 0.25) -> None:
        """The left and the right one, a little unlike."""
        for side in ("_L", "_R"):
            self.add(name + side, weight * (1 + asymmetry * self.rng.uniform(-1, 1)))

    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        """(53,) weights in 0..1, and the gaze (yaw, pitch) in radians."""
        self._mood()
        self._extras()
        self._lids()
        gaze = self._gaze()
        return np.clip(self.weights, 0, 1.0), gaze

    def _mood(self) -> None:
        rng, both, add = self.rng, self.both, self.add
        k = rng.random()
        if k < 0.30:  # near neutral
            both("mouthSmile", rng.uniform(0, 0.3))
            add("jawOpen", max(0, rng.normal(0, 0.05)))
        elif k < 0.68:
            self._smile()
        elif k < 0.84:  # talking, shouting, surprise
            add("jawOpen", rng.uniform(0.08, 0.85) ** 1.2)
            if rng.random() < 0.4:
                add("mouthFunnel", rng.uniform(0, 0.7))
            if rng.random() < 0.5:
                both("browInnerUp", rng.uniform(0, 0.9))
                both("browOuterUp", rng.uniform(0, 0.9))
                both("eyeWide", rng.uniform(0, 0.8))
            if rng.random() < 0.3:
                both("mouthSmile", rng.uniform(0, 0.8))
        elif k < 0.92:  # frown, sad, angry
            both("browDown", rng.uniform(0.2, 1))
            both("mouthFrown", rng.uniform(0, 0.8))
            both("noseSneer", rng.uniform(0, 0.7))
            add("mouthShrugLower", rng.uniform(0, 0.6))
            if rng.random() < 0.4:
                both("mouthPress", rng.uniform(0, 0.8))
        else:
            self._lips()

    def _smile(self) -> None:
        """Closed, or showing teeth."""
        rng, both = self.rng, self.both
        w = rng.uniform(0.3, 1.0)
        both("mouthSmile", w)
        both("cheekSquint", w * rng.uniform(0.2, 0.8))
        both("eyeSquint", w * rng.uniform(0, 0.6))
        if rng.random() < 0.65:
            t = rng.uniform(0.3, 1.0)
            both("mouthUpperUp", t * 0.6)
            both("mouthLowerDown", t * 0.5)
            self.add("jawOpen", t * rng.uniform(0.02, 0.3))
        both("mouthStretch", rng.uniform(0, 0.3))

    def _lips(self) -> None:
        """Pout, kiss, lips rolled in, cheeks blown up."""
        rng = self.rng
        k = rng.random()
        if k < 0.5:
            self.add("mouthPucker", rng.uniform(0.3, 1))
        elif k < 0.75:
            self.add("mouthRollLower", rng.uniform(0, 0.8))
            self.add("mouthRollUpper", rng.uniform(0, 0.8))
        else:
            self.both("cheekPuff", rng.uniform(0.2, 0.9))

    def _extras(self) -> None:
        """Five small movements of any kind, and brows and nose that are never quite at rest."""
        rng, both = self.rng, self.both
        for i in rng.permutation(len(self.names))[:5]:
            name = self.names[i]
            if not (name.startswith(("eyeLook", "eyeBlink")) or name in ("jawOpen", "mouthClose")):
                self.weights[i] += rng.uniform(0, 0.35)
        if rng.random() < 0.25:
            both("browInnerUp", rng.uniform(0, 0.6))
        if rng.random() < 0.25:
            both("browOuterUp", rng.uniform(0, 0.6))
        if rng.random() < 0.2:
            both("browDown", rng.uniform(0, 0.6))
        both("noseSneer", rng.uniform(0, 0.35))
        both("browDown", rng.uniform(0, 0.3))

    def _lids(self) -> None:
        rng = self.rng
        if rng.random() < 0.10:
            self.both("eyeBlink", rng.uniform(0.3, 1.0), 0.05)
        elif rng.random() < 0.04:  # a wink
            self.add("eyeBlink_L" if rng.random() < 0.5 else "eyeBlink_R", rng.uniform(0.6, 1.0))
        else:
            self.both("eyeBlink", max(0, rng.normal(0.05, 0.1)), 0.1)

    def _gaze(self) -> np.ndarray:
        """The lids follow it."""
        yaw, pitch = np.radians(self.rng.normal(0, 9)), np.radians(self.rng.normal(-1, 5))
        self.add("eyeLookOut_L" if yaw > 0 else "eyeLookIn_L", abs(yaw) * 1.5)
        self.add("eyeLookIn_R" if yaw > 0 else "eyeLookOut_R", abs(yaw) * 1.5)
        self.both("eyeLookUp" if pitch > 0 else "eyeLookDown", abs(pitch) * 2, 0)
        return np.array([yaw, pitch])


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """(3, 3) rotation of a head that is pitched, then turned by yaw, then rolled; radians."""
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def sample_pose(rng: np.random.Generator) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Head and torso (yaw, pitch, roll), radians.

    As published for AFLW2000-3D as a whole: 35 % of |yaw| above 30 degrees, 15 % above 60; 6 % of |roll| above 30, up
    to upside down (then the body turns along).
    """
    k = rng.random()
    if k < 0.65:
        yaw = abs(rng.normal(0, 15))
        yaw = yaw if yaw < 35 else rng.uniform(0, 30)
    elif k < 0.84:
        yaw = rng.uniform(28, 60)
    else:
        yaw = rng.uniform(58, 92)
    yaw = np.radians(yaw * (1 if rng.random() < 0.5 else -1))
    pitch = rng.normal(11, 11) if rng.random() < 0.85 else rng.uniform(-30, 35)
    pitch = np.radians(np.clip(pitch, -30, 42))
    tilted = rng.random() < 0.065
    if tilted:
        roll = 30 + 150 * rng.random() ** 2.2
        roll *= 1 if rng.random() < 0.5 else -1
    else:
        roll = rng.normal(0, 11) if rng.random() < 0.88 else rng.uniform(-31, 31)
        roll = np.clip(roll, -31, 31)
    roll = np.radians(roll)
    torso_yaw = yaw * rng.uniform(0.1, 0.8) + np.radians(rng.normal(0, 12))
    torso_yaw = yaw + np.clip(torso_yaw - yaw, -np.radians(55), np.radians(55))
    torso_roll = roll * rng.uniform(0, 0.5)
    if tilted and abs(roll) > np.radians(40):  # necks do not bend that far
        torso_roll = roll - np.sign(roll) * np.radians(rng.uniform(0, 30))
    return (yaw, pitch, roll), (torso_yaw, pitch * rng.uniform(0, 0.4), torso_roll)
