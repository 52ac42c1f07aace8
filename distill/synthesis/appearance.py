"""What a person looks like: skin, hair and eye colours, make-up, beard, cloth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distill.synthesis import array_columns as col
from distill.synthesis.facemodel import FaceModel
from distill.synthesis.kernels.skin import Person
from distill.synthesis.sampling import SKIN, colour, linear, pick

F4 = np.float32
HAIR = {
    "black": (26, 22, 20), "darkbrown": (52, 37, 29), "brown": (88, 62, 43), "lightbrown": (130, 95, 65),
    "blonde": (190, 152, 100), "platinum": (222, 200, 160), "red": (140, 66, 36), "grey": (140, 138, 136),
    "white": (210, 208, 205),
}  # fmt: skip
HAIR_OF_DARK_SKIN = (0.72, 0.18, 0.03, 0, 0.01, 0, 0, 0.04, 0.02)
HAIR_OF_LIGHT_SKIN = (0.22, 0.25, 0.19, 0.10, 0.12, 0.03, 0.07, 0.01, 0.01)
IRIS = linear(
    [(74, 48, 30), (98, 66, 38), (120, 92, 52), (96, 108, 70)]
    + [(92, 122, 142), (120, 148, 170), (110, 118, 122), (50, 34, 26)]
)
IRIS_OF_DARK_SKIN = (0.4, 0.15, 0.03, 0.01, 0.01, 0, 0, 0.4)
IRIS_OF_LIGHT_SKIN = (0.2, 0.18, 0.12, 0.1, 0.14, 0.1, 0.04, 0.12)
BEARDS = {"none": 0.42, "stubble": 0.28, "moust": 0.07, "goatee": 0.08, "full": 0.15}


@dataclass
class Appearance:
    """Colours are linear RGB, (3,)."""

    person: Person  # for the kernels that colour the face
    picture: np.ndarray  # (N_PICTURE,) for those that shade; the key light's direction is still missing
    tone: np.ndarray
    hair: np.ndarray
    hair_name: str
    brow: np.ndarray
    beard: str  # none, stubble, moust, goatee, full
    stubble: np.ndarray
    age: float  # 0..1
    oil: float  # of the skin
    neck: float  # height of the neckline, cm in head space
    neck_slope: float
    cloth: np.ndarray


def sample_appearance(
    model: FaceModel, rng: np.random.Generator, female: bool, open_mouth: float, bald: bool
) -> Appearance:
    """open_mouth: 0..1, how much light falls into the mouth."""
    u = rng.uniform
    age = rng.beta(1.6, 2.4)
    tone = _tone(rng)
    light = float(np.clip((tone.mean() - 0.12) / 0.38, 0, 1))
    q = np.zeros(col.N_LOOK)
    q[col.L_TONE : col.L_TONE + 3] = tone
    _blood_and_make_up(q, rng, female, tone)
    hair_name, hair = _hair_colour(rng, tone, age)
    fair = hair_name in ("blonde", "platinum")
    brow = hair * (u(0.2, 0.7) if fair or hair_name == "white" else u(0.35, 0.9))
    q[col.L_HAIR : col.L_HAIR + 3], q[col.L_BROW : col.L_BROW + 3] = hair, brow
    q[col.L_RECEDE] = 0 if female else max(0.0, rng.normal(-0.5 + age * 2, 1.2))
    q[col.L_HAIR_UP] = u(-0.6, 0.7)
    q[col.L_SCALP] = u(0.65, 0.92) if not bald else (u(0, 0.35) if rng.random() < 0.5 else 0.0)
    q[col.L_BROWS] = u(0.0, 0.35) * (0.6 if fair else 1.0)
    q[col.L_AO_POWER], q[col.L_OIL], q[col.L_LIP_GLOSS] = u(0.6, 1.1), u(0.03, 0.26), u(0.05, 0.5)
    q[col.L_GLOSS], q[col.L_SCATTER] = u(8, 22), u(0.5, 1.0)
    q[col.L_FRECKLES] = light * max(0, rng.normal(-0.3, 0.5))
    q[col.L_BUMP] = u(0.0, 0.08)
    old = max(0, age - 0.4)
    q[col.L_WRINKLES], q[col.L_FOLD] = old * u(0, 1.6), u(0, 0.12) + old * u(0, 0.35)
    beard = _beard(q, rng, female)
    q[col.L_TEETH], q[col.L_SCLERA] = u(0.7, 1.05), u(0.75, 1.0)
    q[col.L_MOUTH_OPEN] = 0.25 + 0.75 * min(1, open_mouth)
    neck = pick(rng, [-11.0, -13.0, -14.5, -17.0, -30.0], [0.12, 0.25, 0.25, 0.2, 0.18])
    q[col.L_NECK], q[col.L_NECK_SLOPE] = neck, 0.35 * (-1 if rng.random() < 0.6 else 0.2)
    stubble = hair * 0.5 + tone * np.array([0.12, 0.13, 0.16])
    redness, pigment = _mottling(rng)
    moles = _moles(model, rng)
    iris = IRIS[pick(rng, range(len(IRIS)), IRIS_OF_LIGHT_SKIN if light > 0.4 else IRIS_OF_DARK_SKIN)]
    picture, cloth = _picture(rng, iris, stubble)
    person = Person(*(np.asarray(x, F4) for x in (q, redness, pigment, moles)))
    oil, slope = q[col.L_OIL], q[col.L_NECK_SLOPE]
    return Appearance(person, picture, tone, hair, hair_name, brow, beard, stubble, age, oil, neck, slope, cloth)


def _tone(rng: np.random.Generator) -> np.ndarray:
    t = rng.beta(1.0, 2.2) * (len(SKIN) - 1.01)
    i = int(t)
    tone = SKIN[i] * (1 - (t - i)) + SKIN[i + 1] * (t - i)
    return tone * np.exp(rng.standard_normal() * 0.08) * np.exp(rng.standard_normal(3) * [0.04, 0.025, 0.06])


def _blood_and_make_up(q: np.ndarray, rng: np.random.Generator, female: bool, tone: np.ndarray) -> None:
    u = rng.uniform
    blood = u(0.1, 0.55)
    q[col.L_BLOOD_CHEEK], q[col.L_BLOOD_NOSE] = blood * u(0.3, 1.2), blood * u(0.2, 1.0)
    q[col.L_BLOOD_EAR], q[col.L_BLOOD_CHIN] = blood * 0.5, 0.4 * blood * rng.random()
    q[col.L_UNDER_EYE] = u(0, 0.32)
    q[col.L_MOTTLE], q[col.L_PIGMENT] = u(0.03, 0.17), u(0.02, 0.10)
    if female and rng.random() < 0.6:  # even skin, lids, lips
        q[[col.L_MOTTLE, col.L_PIGMENT]] *= 0.6
        q[col.L_SHADOW : col.L_SHADOW + 3] = colour(rng, 0.6) * 0.48
        q[col.L_LID], q[col.L_EYELINE] = u(0.1, 0.75), u(0.3, 0.9)
        lip = linear([rng.integers(120, 215), rng.integers(20, 90), rng.integers(35, 100)])
        q[col.L_LIPS] = u(0.25, 0.95)
    else:
        q[col.L_EYELINE] = u(0.1, 0.45)
        lip = tone * np.array([0.85, 0.48, 0.5])
        q[col.L_LIPS] = u(0.4, 1.0)
    q[col.L_LIP : col.L_LIP + 3] = lip


def _hair_colour(rng: np.random.Generator, tone: np.ndarray, age: float) -> tuple[str, np.ndarray]:
    name = pick(rng, list(HAIR), HAIR_OF_DARK_SKIN if tone.mean() < 0.12 else HAIR_OF_LIGHT_SKIN)
    if age > 0.6 and rng.random() < 0.35:
        name = "grey" if rng.random() < 0.5 else "white"
    hair = linear(HAIR[name]) * np.exp(0.15 * rng.standard_normal()) * np.exp(0.05 * rng.standard_normal(3))
    return name, colour(rng) if rng.random() < 0.012 else hair


def _beard(q: np.ndarray, rng: np.random.Generator, female: bool) -> str:
    beard = "none" if female else pick(rng, list(BEARDS), list(BEARDS.values()))
    q[col.L_BEARD] = beard in ("stubble", "full")
    q[col.L_MOUSTACHE] = beard in ("stubble", "full", "moust") or (beard == "goatee" and rng.random() < 0.7)
    q[col.L_GOATEE] = beard == "goatee"
    shadow = rng.uniform(0.15, 0.6)
    q[col.L_STUBBLE] = {"none": 0, "stubble": shadow, "moust": 0.6, "goatee": 0.6, "full": 0.75}[beard]
    return beard


def _mottling(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Mixtures (N_FIELDS,) of the model's random fields, of unit deviation, with slow and fast parts."""
    redness, pigment = rng.standard_normal(col.N_FIELDS), rng.standard_normal(col.N_FIELDS)
    half = col.N_FIELDS // 2
    for mix, slow, fast in ((redness, 0.8, 0.6), (pigment, 0.6, 0.8)):
        mix[:half] *= slow / np.linalg.norm(mix[:half])
        mix[half:] *= fast / np.linalg.norm(mix[half:])
    return redness, pigment


def _moles(model: FaceModel, rng: np.random.Generator) -> np.ndarray:
    """(n, 4) x, y, z, radius on the neutral face, cm."""
    moles = np.zeros((max(0, int(rng.normal(1.0, 2.5))), 4))
    if len(moles):
        v = model.vertices
        face = np.where(model.is_skin & (v[:, 2] > 3) & (np.abs(v[:, 1]) < 9))[0]
        moles[:, :3] = v[face[rng.integers(0, len(face), len(moles))]]
        moles[:, 3] = rng.uniform(0.12, 0.24, len(moles))
    return moles


def _picture(rng: np.random.Generator, iris: np.ndarray, stubble: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Constants of shading (N_PICTURE,), and the colour of the cloth."""
    u = rng.uniform
    p = np.zeros(col.N_PICTURE, F4)
    p[col.P_NOISE_LOW], p[col.P_NOISE_HIGH] = u(0.01, 0.04), u(0.005, 0.03)
    p[col.P_OFFSET] = rng.integers(0, col.VOLUME)
    p[col.P_IRIS], p[col.P_PUPIL] = u(0.37, 0.43), u(0.11, 0.22)
    p[col.P_IRIS_R : col.P_IRIS_R + 3] = iris * np.exp(0.2 * rng.standard_normal())
    p[col.P_STUBBLE_R : col.P_STUBBLE_R + 3] = stubble
    cloth = pick(rng, [colour(rng), np.full(3, u(0.005, 0.04)), np.full(3, u(0.5, 0.9))], [0.66, 0.22, 0.12])
    p[col.P_CLOTH_R : col.P_CLOTH_R + 3] = cloth
    p[col.P_PATTERN_R : col.P_PATTERN_R + 3] = colour(rng)
    angle = rng.random() * 3.14
    p[col.P_FREQUENCY : col.P_PATTERN] = u(0.8, 6), np.cos(angle), np.sin(angle)
    p[col.P_PATTERN] = pick(rng, [0, 1, 2, 3], [0.68, 0.12, 0.07, 0.13])
    p[col.P_FOLDS] = u(0.15, 0.6)
    return p, cloth
