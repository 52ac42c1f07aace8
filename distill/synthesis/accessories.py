"""What is on and before a face: torso, collars, hats, glasses, earrings, hands, things held. Mostly in head space."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from distill.synthesis import array_columns as col
from distill.synthesis.appearance import Appearance
from distill.synthesis.facemodel import FaceModel, unit
from distill.synthesis.meshes import Shape, bow, loop, sheet, sphere, surface, tube
from distill.synthesis.sampling import colour, linear, pick
from distill.synthesis.scene import Scene, Stuff

F4 = np.float32
_ROUND = np.linspace(0, 2 * np.pi, 40)


# ---------------------------------------------------------------------------------------------------- torso


def torso(scene: Scene, rng: np.random.Generator, look: Appearance) -> None:
    """Shoulders, bare or clothed, and sometimes a collar, scarf or hood."""
    bare = look.neck < -25 and rng.random() < 0.8
    t = np.linspace(0, 1, 18)[:, None]
    shoulders = rng.uniform(17, 23)
    rx = 5.5 + (shoulders - 5.5) * np.minimum(1, t / 0.55) ** 0.75
    rz = 5.0 + 5.5 * np.minimum(1, t / 0.55)
    y = -14.3 - 4.2 * t**1.6 - 30 * np.maximum(0, t - 0.55)
    shape = sheet(np.stack([rx * np.cos(_ROUND), y - 1.2 * np.sin(_ROUND), rz * np.sin(_ROUND) - 1.0], -1))
    v = shape.vertices
    opening = rng.uniform(0.2, 1.3) if rng.random() < 0.3 else 9  # V neck, or an open jacket over a shirt
    inner = colour(rng, 0.5) if rng.random() < 0.6 else np.full(3, rng.uniform(0.4, 0.9))
    albedo = np.where((v[:, 1:2] > look.neck) | bare, look.tone, look.cloth)
    if opening < 5 and not bare:
        inside = (v[:, 2] > 0) & (np.abs(v[:, 0]) < opening + 0.25 * (v[:, 1] + 34).clip(0))
        albedo = np.where(inside[:, None], inner, albedo)
    made = surface(0.05 if bare else 0.03, 10, 0.9, 0.7 if bare else 0)
    scene.add(shape, Stuff(col.M_SKIN if bare else col.M_CLOTH, albedo, made))
    k = rng.random()
    if not bare and k <= 0.34:
        _collar(scene, rng, look, k, inner)


def _collar(scene: Scene, rng: np.random.Generator, look: Appearance, k: float, inner: np.ndarray) -> None:
    own = look.cloth * rng.uniform(0.6, 1.1) if rng.random() < 0.6 else inner
    if k < 0.16:  # standing collar or turtle neck
        r = rng.uniform(6.0, 7.6)
        low, high = -15.5, rng.uniform(-13.0, -10.6)
        h = np.linspace(0, 1, 5)[:, None]
        gap = 1 + 0.12 * rng.random() * h
        y = low + (high - low) * h - (1.4 + 0.8 * h) * np.sin(_ROUND)
        points = np.stack([r * gap * np.cos(_ROUND), y, (r - 0.6) * gap * np.sin(_ROUND) - 1.6], -1)
        scene.add(sheet(points), Stuff(col.M_CLOTH, own, surface(0.03, 10, 0.8)))
    elif k < 0.25:  # scarf, now and then up to the mouth
        top = rng.uniform(-13.5, -11.0) if rng.random() < 0.75 else rng.uniform(-9.0, -5.5)
        for i in range(2):
            path = loop(top - 1.8 * i, -0.6, 7.0 + i, 7.2 + i + max(0, top + 11) * 0.6, 1.2, 36)
            path = path + 0.35 * rng.standard_normal((36, 3))
            path[-1] = path[0]
            shape = tube(path, rng.uniform(1.6, 2.3), 12)
            scene.add(shape, Stuff(col.M_KNIT if rng.random() < 0.3 else col.M_CLOTH, own, surface(0.02, 10, 0.8)))
    else:  # hood, or long coat collar, behind the neck
        thick = 1.2 + 2.0 * np.clip(-np.sin(np.linspace(0, 2 * np.pi, 36)), 0, 1)
        shape = tube(loop(-13.2, -2.5, 9.0, 7.0, -1.5, 36), thick, 12)
        scene.add(shape, Stuff(col.M_CLOTH, look.cloth * 0.9, surface(0.02, 10, 0.75)))


# ---------------------------------------------------------------------------------------------------- head


class Hat(NamedTuple):
    """What is worn on the head, and the hair that it leaves no room for."""

    kind: str  # none, beanie, brim, cap, band, scarf, hood
    bald: np.ndarray | None  # (V,) bool, where no hair grows


_HATS = {"none": 0.83, "beanie": 0.03, "brim": 0.035, "cap": 0.04, "band": 0.02, "scarf": 0.025, "hood": 0.02}


def hat(scene: Scene, model: FaceModel, vertices: np.ndarray, normals: np.ndarray, rng: np.random.Generator) -> Hat:
    """A hat, band or head scarf, or none, over the face's vertices and normals (V, 3)."""
    kind = pick(rng, list(_HATS), list(_HATS.values()))
    if kind == "none":
        return Hat(kind, None)
    own = colour(rng) * pick(rng, [1.0, 0.4], [0.6, 0.4])
    x, y, z = model.vertices.T
    level, slope = rng.uniform(7.6, 10.0), rng.uniform(0.05, 0.35)
    above = y - (level + (z - 9.0) * slope)
    if kind == "band":
        covered = (above > 0) & (above < rng.uniform(1.5, 4))
    elif kind in ("scarf", "hood"):
        oval = np.hypot(x / rng.uniform(6.2, 7.6), (y - 1.3) / rng.uniform(8.0, 9.8))
        covered = ~((oval < 1) & (z > 1.0)) & (y > -18)
    else:
        covered = above > 0
    covered &= model.is_skin
    off = rng.uniform(0.5, 1.6)
    folds = model.fields[:, :4] @ rng.standard_normal(4) * (0.14 if kind != "hood" else 0.3)
    points = vertices + normals * (off + (1.0 if kind == "hood" else 0) + folds)[:, None]
    if kind in ("beanie", "brim", "cap"):
        points[:, 1] += np.clip(above, 0, None) * rng.uniform(0.0, 0.35)
    triangles = model.skin_triangles[covered[model.skin_triangles].all(1)]
    used = np.unique(triangles)
    number = np.zeros(len(vertices), np.int32)
    number[used] = np.arange(len(used))
    material = col.M_KNIT if kind == "beanie" and rng.random() < 0.7 else col.M_CLOTH
    albedo = np.tile(own, (len(used), 1))
    if kind in ("brim", "cap") and rng.random() < 0.5:  # hat band or front panel
        albedo[above[used] < 1.6] = colour(rng) * 0.7
    shape = Shape(points[used], number[triangles])
    scene.add(shape, Stuff(material, albedo, surface(0.04, 10, 0.9)), model.vertices[used])
    if kind in ("brim", "cap"):
        _brim(scene, rng, kind, level, own)
    return Hat(kind, covered if kind != "band" else None)


def _brim(scene: Scene, rng: np.random.Generator, kind: str, level: float, own: np.ndarray) -> None:
    """All around, or before the forehead."""
    a = np.linspace(0, 2 * np.pi, 48) if kind == "brim" else np.linspace(0.15 * np.pi, 0.85 * np.pi, 24)
    wide = rng.uniform(3, 8) if kind == "brim" else rng.uniform(5, 7)
    drop, curl = rng.uniform(-0.3, 0.35), rng.uniform(0, 0.5) * (kind == "brim")
    q = np.linspace(0, 1, 6)[:, None]
    out = wide * q * (np.sin(a) ** 0.7 if kind == "cap" else 1)
    x, z = (7.6 + out) * np.cos(a), (9.3 + out) * np.sin(a) + 0.3
    y = level + 0.3 + (z - 9.0) * 0.2 - drop * wide * q + curl * wide * q**2 * np.cos(a) ** 2
    scene.add(sheet(np.stack([x, y, z], -1)), Stuff(col.M_CLOTH, own * rng.uniform(0.5, 1.1), surface(0.03, 10, 0.8)))


class Glasses(NamedTuple):
    """Frame and lenses; the lenses are blended over the finished face."""

    kind: str  # none, clear, sun
    lenses: list[Shape]


def glasses(scene: Scene, landmarks: np.ndarray, rng: np.random.Generator) -> Glasses:
    """Frames into the scene, or none; the lenses are drawn later. landmarks: (68, 3)"""
    kind = pick(rng, ["none", "clear", "sun"], [0.83, 0.11, 0.06])
    if kind == "none":
        return Glasses(kind, [])
    right, left = landmarks[36:42].mean(0), landmarks[42:48].mean(0)
    rx, ry = rng.uniform(2.2, 2.9), rng.uniform(1.3, 2.4) + (0.3 if kind == "sun" else 0)
    power, frame = rng.uniform(1.6, 4.5), rng.uniform(0.06, 0.28)
    z = max(right[2], left[2]) + rng.uniform(1.5, 2.0)
    stuff = Stuff(
        col.M_PLAIN, colour(rng) * 0.5 if rng.random() < 0.35 else linear([25, 22, 20]), surface(0.5, 40, 0.9)
    )
    dy, wrap = rng.uniform(-0.5, 0.1), rng.uniform(0.02, 0.06)
    rim = rng.random() < 0.92
    cos, sin = np.cos(_ROUND), np.sin(_ROUND)
    outline_x = np.sign(cos) * np.abs(cos) ** (2 / power)
    outline_y = np.sign(sin) * np.abs(sin) ** (2 / power)
    fan = np.stack([np.zeros(39), np.arange(1, 40), np.arange(2, 41)], 1).astype(np.int32)
    lenses = []
    for eye, side in ((right, -1), (left, 1)):
        x = eye[0] + side * 0.15
        px = x + rx * outline_x
        outline = np.stack([px, eye[1] + dy + ry * outline_y, z - wrap * px**2], 1)
        if rim:
            scene.add(tube(outline, frame), stuff)
        centre = np.array([[x, eye[1] + dy, z - wrap * x**2 + 0.15]])
        lenses.append(Shape(np.concatenate([centre, outline]).astype(F4), fan))
        hinge = np.array([x + side * rx, eye[1] + dy + 0.5 * ry, z - wrap * (x + side * rx) ** 2])
        ear = np.array([side * 7.4, hinge[1] + 0.2, -0.5])
        temple = np.array([hinge, [side * 7.3, hinge[1] + 0.1, hinge[2] - 2.5], ear, ear + [0, -1.2, -1.0]])
        steps = np.linspace(0, 3, 12)
        temple = np.stack([np.interp(steps, np.arange(4), temple[:, j]) for j in range(3)], 1)
        scene.add(tube(temple, max(0.1, frame), 6), stuff)
    x0, x1 = right[0] + rx - 0.15, left[0] - rx + 0.15
    x = np.linspace(x0, x1, 8)
    y = right[1] + dy + 0.35 * ry + 0.25 * (1 - (x / (abs(x0) + 0.2)) ** 2)
    scene.add(tube(np.stack([x, y, z - wrap * x**2], 1), max(0.1, frame * 0.8)), stuff)
    return Glasses(kind, lenses)


def earrings(scene: Scene, rng: np.random.Generator) -> None:
    """Add one pair, studs or drops, to the scene."""
    own = linear([200, 180, 120]) if rng.random() < 0.5 else colour(rng)
    drop, r = rng.uniform(0.2, 1.5), rng.uniform(0.2, 0.55)
    for side in (-1, 1):
        ear = np.array([side * 8.0, -1.6, -0.3])
        if drop > 1.0:
            shape = tube([ear, ear - [0, 1.2, 0], ear - [0, drop + 1.5, 0]], [0.1, 0.15, r * 0.8], 8)
        else:
            shape = sphere(ear - [0, drop, 0], r, 7)
        scene.add(shape, Stuff(col.M_PLAIN, own, surface(1.0, 60, 0.9)))


# ---------------------------------------------------------------------------------------------------- hands

_TOUCHED = (3, 5, 8, 11, 13, 48, 54, 57, 31, 1, 15)  # landmarks that a hand may lie on
_HELD = {"cheek": 0.62, "top": 0.12, "phone": 0.14, "mic": 0.07, "cup": 0.05}


def before_face(scene: Scene, landmarks: np.ndarray, look: Appearance, rng: np.random.Generator) -> None:
    """Now and then one or two hands, and what they hold; landmarks (68, 3) in the world."""
    view = scene.view
    skin = Stuff(col.M_SKIN, look.tone * [0.97, 0.88, 0.88], surface(look.oil, 12, 0.9, 0.8, 0.05))
    middle = view.place(np.zeros((1, 3), F4))[0]
    k = rng.random()
    if k > 0.155:
        return
    for _ in range(2 if k < 0.02 else 1):
        kind = pick(rng, list(_HELD), list(_HELD.values()))
        if kind == "top":  # to the forehead or hair
            at = landmarks[pick(rng, [17, 19, 24, 26], [1] * 4)]
            target = at + (view.head @ np.array([0, rng.uniform(1, 5), -1])).astype(F4)
        elif kind == "phone":
            target = landmarks[pick(rng, [1, 2, 14, 15], [1] * 4)]
        elif kind in ("mic", "cup"):
            target = landmarks[57]
        else:
            target = landmarks[pick(rng, _TOUCHED, [1] * 11)]
        towards = unit(np.array([target[0] - middle[0], -2.0, 6.0]) + rng.standard_normal(3))
        if kind in ("phone", "mic", "cup"):
            for shape, own in _held(kind, target, towards, rng):
                scene.add_world(shape, Stuff(col.M_PLAIN, own, surface(0.3, 30, 0.9)))
            target = target + towards * 1.2 - np.array([0, rng.uniform(2, 5), 0])
            if rng.random() < 0.3:
                continue
        up = None
        if rng.random() < 0.75:
            up = rng.standard_normal(3) * 0.5 + [-(target[0] - middle[0]) * 0.05, 1.0, 0]
        for shape in _hand(target, towards, rng, up):
            scene.add_world(shape, skin)


def _hand(target: np.ndarray, out: np.ndarray, rng: np.random.Generator, up: np.ndarray | None) -> list[Shape]:
    """A tapered palm, four jointed fingers, a thumb and a forearm; the finger tips lie near target (3,), seen from the
    direction out (3,); up: where the fingers point. World space."""
    k = rng.uniform(0.92, 1.08)
    angle = rng.uniform(0, 2 * np.pi)
    along = unit(np.array([np.cos(angle), np.sin(angle), 0.2]) if up is None else np.asarray(up, float))
    along = unit(along - out * (along @ out))
    across = np.cross(along, out) * (1 if rng.random() < 0.5 else -1)
    curl, spread = rng.uniform(0.1, 1.3), rng.uniform(0.95, 1.25)
    knuckles = target + out * 1.2 - along * 6.5 * k * (1 - 0.3 * curl) + out * (0.8 + 0.8 * curl)
    shapes = []
    joints = [0, 0.3, 0.42, 0.55, 0.75, 0.93, 1]
    q = np.linspace(0, 1, 12)
    for finger, length in enumerate((6.4, 7.3, 6.9, 5.4)):
        root = knuckles + across * (finger - 1.5) * 1.85 * k - along * 0.25 * abs(finger - 1.2)
        bend = curl * rng.uniform(0.8, 1.2)
        d = along + across * (finger - 1.5) * 0.12 * (spread - 1) * 4
        tip = root + d * length * k * (1 - 0.35 * bend) - out * (0.5 + 1.8 * bend)
        middle = root + d * length * k * 0.62 + out * (0.3 + 0.9 * bend)
        radius = 0.86 * k * np.interp(q, joints, [1.05, 0.95, 1.03, 0.93, 0.92, 0.72, 0.2])
        shapes.append(tube(bow(root, middle, tip), radius, 10))
    wrist = knuckles - along * 8.2 * k
    shapes.append(_palm(wrist, knuckles + along * 0.6, across, out, k))
    base = wrist + along * 2.0 + across * 2.6 * k
    tip = base + along * 5.0 * k + across * rng.uniform(0.5, 3.5) + out * rng.uniform(-1.0, 0.8)
    middle = base + along * 2.2 + across * 2.4 + out * 0.4
    shapes.append(tube(bow(base, middle, tip), 1.0 * k * np.interp(q, [0, 0.5, 0.9, 1], [1.4, 1.0, 0.75, 0.2]), 10))
    elbow = wrist - along * 16 + out * rng.uniform(-1, 4) + np.array([0, -7, 0])
    arm = (1 - q[:, None]) * (wrist + along * 1.0) + q[:, None] * elbow
    shapes.append(tube(arm, np.interp(q, [0, 0.1, 1], [2.4, 2.5, 4.0]), 16))
    return shapes


def _palm(wrist: np.ndarray, end: np.ndarray, across: np.ndarray, out: np.ndarray, k: float) -> Shape:
    """A flat tube, wider than thick."""
    path = np.linspace(0, 1, 9)[:, None] * (end - wrist) + wrist
    round_, triangles = tube(path, 1.0, 18)
    centre = np.repeat(path, 19, 0)
    d = round_ - centre
    wide = np.interp(np.linspace(0, 1, 9), [0, 0.2, 0.7, 0.95, 1], [2.5, 3.3, 4.0, 3.9, 3.4]).repeat(19)[:, None] * k
    return Shape(centre + (d @ across)[:, None] * across * wide + (d @ out)[:, None] * out * 1.35, triangles)


def _held(kind: str, target: np.ndarray, out: np.ndarray, rng: np.random.Generator) -> list[tuple[Shape, np.ndarray]]:
    """A phone, microphone or cup near target (3,), with its colour. World space."""
    up = unit(np.array([rng.uniform(-0.6, 0.6), 1.0, rng.uniform(-0.3, 0.6)]))
    dark = np.full(3, rng.uniform(0.01, 0.08))
    q = np.linspace(0, 1, 6)[:, None]
    if kind == "phone":
        radius = np.array([0.3, 1, 1, 1, 1, 0.3]) * rng.uniform(2.2, 2.9)
        shape = tube(target + out * 1.5 + up * np.linspace(-1, 1, 6)[:, None] * 5.5, radius, 12, 0.3)
        return [(shape, dark if rng.random() < 0.6 else colour(rng))]
    if kind == "mic":
        head = target + out * rng.uniform(2, 6) - up * rng.uniform(0, 3)
        ball = sphere(head, rng.uniform(1.8, 2.6))
        return [
            (ball, dark * 2),
            (tube([head, head - up * 9 + out * 3, head - up * 18 + out * 6], [1.6, 1.2, 1.0], 12), dark),
        ]
    radius = np.r_[0.2, 3.0, 3.3, 3.6, 3.8, 0.3] * rng.uniform(0.8, 1.1)
    return [(tube(target + out * 3.5 + up * (q - 0.75) * 9, radius, 20), colour(rng))]
