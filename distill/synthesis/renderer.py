"""One picture from (seed, index, size): the people, the scene, its light, the camera."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from distill.synthesis import ELEVATION, LABELS, accessories, backgrounds, camera, sampling
from distill.synthesis import array_columns as col
from distill.synthesis.accessories import Glasses, Hat
from distill.synthesis.appearance import Appearance, sample_appearance
from distill.synthesis.facemodel import FaceModel
from distill.synthesis.hair import Barber, HairStyle, Strands, sample_style
from distill.synthesis.kernels import geometry, raster, shading
from distill.synthesis.kernels import picture as kernels
from distill.synthesis.kernels import shadow as shadows
from distill.synthesis.kernels import skin as skins
from distill.synthesis.kernels.shading import Frame, Light
from distill.synthesis.kernels.shadow import Shadow
from distill.synthesis.kernels.strands import draw_strands
from distill.synthesis.person import rotation, sample_weights
from distill.synthesis.sampling import colour, stream
from distill.synthesis.scene import Scene
from distill.synthesis.view import View, sample_light

VERSION = 2
"""Of what (seed, index, size, elevation) gives; every change of a picture raises it."""
STEEPEST = 35.0  # elevation of the camera, degrees

GRID = 2**18  # labels are multiples of its inverse, so that no processor's rounding shows in a fingerprint
SHADOW = 176  # side of the shadow map, texels
F4 = np.float32


@dataclass
class Subject:
    """What the landmarks depend on, and nothing else."""

    female: bool
    open_mouth: float  # 0..1 and above: how far the mouth lets light in
    view: View
    anchors: np.ndarray  # (68, 2) in a picture of side 1: vertices by which it is exposed and covered
    landmarks: np.ndarray  # (68, 2) the labels, likewise


class Renderer:
    """`render` gives a picture and its landmarks. An instance keeps its buffers, so one is for one thread."""

    def __init__(self, model: FaceModel, elevation: float = ELEVATION, labels: str = LABELS[0]):
        """elevation: standard deviation of the camera's, degrees, where the head is turned to the side; see View.

        labels, no matter for the picture: `aflw`, made as those of AFLW2000-3D (FaceModel.label_points,
        View.project_parallel), or `vertices`, where the camera sees the vertices FaceModel.landmarks.
        """
        self.model, self.elevation, self.labels = model, elevation, labels
        self.vertices, self.normals = (np.empty_like(model.vertices) for _ in range(2))  # of the face, head space
        self.scene = Scene(model)
        self.face = skins.Face(model.masks, model.fields, model.classes)
        self.scalp, self.beard = np.empty((2, len(model.vertices)), F4)  # density of hair roots
        self.shadow_maps = np.empty((3, SHADOW, SHADOW), F4)
        self.frames: dict[int, tuple[Frame, np.ndarray]] = {}  # by size, with the resolved picture

    def render(self, seed: int, index: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """A picture (size, size, 3) uint8 RGB, and its landmarks (68, 2) float32 in pixels; (0, 0) is the outer corner
        of the top-left pixel.

        They depend on the arguments alone; the landmarks on seed and index, up to the factor size, a multiple of 4.
        """
        subject = self.subject(seed, index)
        style, look, hat, glasses, rng = self._dress(subject, seed, index)
        strands = self._strands(subject, style, look, hat, size, stream(seed, index, sampling.HAIR))
        light, axes = sample_light(rng)
        shadow = self._shadow(axes, strands)
        frame, out = self._draw(subject, look, light, shadow, strands, size)
        rng = stream(seed, index, sampling.BACKDROP)
        self._lashes_and_lenses(subject, look, light, glasses, frame, rng)
        anchors, landmarks = subject.anchors * F4(size), subject.landmarks * F4(size)
        self._expose(look, anchors, frame, out, rng)
        rng = stream(seed, index, sampling.CAMERA)
        if rng.random() < 0.07:
            camera.occlude(out, anchors, rng)
        return camera.develop(out, anchors, rng), landmarks

    def subject(self, seed: int, index: int) -> Subject:
        """Identity, expression, pose and crop; the face's vertices lie in `self.vertices` then."""
        model, rng = self.model, stream(seed, index, sampling.SHAPE)
        female = rng.random() < 0.58
        weights, (yaw, pitch) = sample_weights(rng, female, model.expressions)
        model.shape(weights, self.vertices)
        elevation = self.elevation * stream(seed, index, sampling.ELEVATION).normal()
        view = View(rng, self.vertices[model.landmarks], np.clip(elevation, -STEEPEST, STEEPEST))
        turn = rotation(yaw, -pitch, 0).T.astype(F4)
        for eye in model.eyes:  # turned about their centres
            ball = self.vertices[eye]
            centre = 0.5 * (ball.min(0) + ball.max(0))
            self.vertices[eye] = (ball - centre) @ turn + centre
        anchors = landmarks = view.project(view.place(self.vertices[model.landmarks]), 1.0)[:, :2]
        if self.labels == "aflw":
            exact = view.project_parallel(view.place(model.label_points(self.vertices)))
            landmarks = (np.round(exact * GRID) / GRID).astype(F4)
        expression = dict(zip(model.expressions, weights[100:], strict=False))
        open_mouth = expression["jawOpen"] * 2.0 + 0.5 * expression["mouthUpperUp_L"]
        return Subject(female, open_mouth, view, anchors, landmarks)

    def _dress(
        self, subject: Subject, seed: int, index: int
    ) -> tuple[HairStyle, Appearance, Hat, Glasses, np.random.Generator]:
        """The face's colours, and all that is on it, into the scene. The generator is the scene's, further on."""
        model, vertices, normals, view = self.model, self.vertices, self.normals, subject.view
        rng = stream(seed, index, sampling.LOOK)
        geometry.vertex_normals(vertices, model.triangles, normals)
        style = sample_style(rng, subject.female)
        look = sample_appearance(model, rng, subject.female, subject.open_mouth, style.name == "bald")
        mesh, count = self.scene.mesh, len(vertices)
        mesh.points[:count] = view.place(self._under_cloth(look))
        mesh.normals[:count] = view.place(normals, vertices)
        skins.face_look(self.face, look.person, mesh.normals, mesh.albedo, mesh.surface, self.scalp, self.beard)
        rng = stream(seed, index, sampling.SCENE)
        self.scene.begin(view)
        accessories.torso(self.scene, rng, look)
        hat = accessories.hat(self.scene, model, vertices, normals, rng)
        glasses = accessories.glasses(self.scene, vertices[model.landmarks], rng)
        if subject.female and rng.random() < 0.25:
            accessories.earrings(self.scene, rng)
        self.worn = self.scene.vertices
        accessories.before_face(self.scene, mesh.points[model.landmarks], look, rng)
        return style, look, hat, glasses, rng

    def _under_cloth(self, look: Appearance) -> np.ndarray:
        """Vertices (V, 3) where cloth, which begins at the neckline, stands off the skin."""
        if look.neck <= -25:
            return self.vertices
        x, y = np.abs(self.model.vertices[:, 0]), np.where(self.model.is_skin, self.model.vertices[:, 1], F4(99))
        clothed = y + F4(look.neck_slope) * x < look.neck + 0.4
        return self.vertices + F4(0.3) * self.normals * clothed[:, None]

    def _strands(
        self, subject: Subject, style: HairStyle, look: Appearance, hat: Hat, size: int, rng: np.random.Generator
    ) -> list[tuple[Strands, np.ndarray]]:
        """Hair, brows and beard, each with its points in the world."""
        view, count = subject.view, len(self.vertices)
        barber = Barber(self.model, self.vertices, self.normals, look, size, view.scale, rng)
        strands: list[Strands] = []
        if style.name != "bald":
            density = self.scalp if hat.bald is None else self.scalp * ~hat.bald
            strands += barber.scalp(style, density, self.scene.mesh.normals[:count, 2], subject.female)
            if style.name == "tied" and hat.kind not in ("scarf", "hood"):
                strands.append(barber.bun(style))
        strands.append(barber.brows(subject.female))
        strands += barber.beard(self.beard)
        return [(each, view.place(each.points)) for each in strands]

    def _shadow(self, axes: np.ndarray, strands: list[tuple[Strands, np.ndarray]]) -> Shadow:
        """The key light's shadow map over head, things and hair; axes (3, 3)."""
        scene, model = self.scene, self.model
        points = scene.mesh.points[: scene.vertices]
        covered = np.concatenate([points[model.bust], points[self.worn :]]) @ axes[:2].T
        low = covered.min(0) - F4(2.5)
        maps = self.shadow_maps
        shadow = Shadow(maps, axes, low, F4(SHADOW / (covered.max(0) + 2.5 - low).max()))
        seen = np.empty_like(points)
        shadows.seen_by_light(points, shadow, seen)
        maps[0].fill(1e9)
        raster.depth_map(seen, model.skin_triangles, len(model.skin_triangles), maps[0])
        raster.depth_map(seen, scene.mesh.triangles[len(model.triangles) : scene.triangles], 0, maps[0])
        for each, world in strands:
            if each.points.shape[1] > 5:
                shadows.add_strands(world, shadow)
        box = np.ones((3, 3), np.uint8)
        cv2.erode(maps[0], box, maps[1])
        cv2.dilate(maps[0], box, maps[2])
        return shadow

    def _draw(
        self,
        subject: Subject,
        look: Appearance,
        light: Light,
        shadow: Shadow,
        strands: list[tuple[Strands, np.ndarray]],
        size: int,
    ) -> tuple[Frame, np.ndarray]:
        """Head, things and hair into the frame of this size; and the buffer for its picture."""
        model, scene, view = self.model, self.scene, subject.view
        frame, out = self._frame(size)
        side = frame.owner.shape[0]
        frame.inverse_depth.fill(0)
        frame.owner.fill(-1)
        frame.image.fill(0)
        self.screen = view.project(scene.mesh.points[: scene.vertices], side)
        triangles = scene.mesh.triangles[: scene.triangles]
        raster.z_buffer(self.screen, triangles, len(model.triangles), *frame[:3])
        look.picture[col.P_KEY_X : col.P_KEY_Z + 1] = view.head.T @ light.directions[0]
        scene.mesh.lit.fill(False)
        shading.shade(frame, scene.mesh, light, shadow, view.camera, look.picture, model.noise)
        for each, world in strands:
            screen = view.project(world, side)
            own = np.ascontiguousarray(each.colour, F4), each.width.astype(F4), np.array(each.brush, F4)
            draw_strands(world, screen, *own, light, shadow, view.camera, frame)
        return frame, out

    def _frame(self, size: int) -> tuple[Frame, np.ndarray]:
        """Buffers supersampled by 1.25, and those of the picture."""
        if size not in self.frames:
            s = size * 5 // 4
            depth, owner = np.empty((s, s), F4), np.empty((s, s), np.int32)
            frame = Frame(depth, owner, np.empty((s, s, 2), F4), np.empty((s, s, 4), F4))
            self.frames[size] = frame, np.empty((size, size, 3), F4)
        return self.frames[size]

    def _lashes_and_lenses(
        self, subject: Subject, look: Appearance, light: Light, glasses: Glasses, frame: Frame, rng: np.random.Generator
    ) -> None:
        view = subject.view
        lash = np.tile((look.hair * 0.15).astype(F4), (len(self.vertices), 1))
        alpha = F4(rng.uniform(0.1, 0.4) * (1.1 if subject.female else 0.6))
        raster.blend_layer(self.screen, self.model.lash_triangles, lash, alpha, frame.inverse_depth, frame.image)
        if not glasses.lenses:
            return
        dark = glasses.kind == "sun"
        opacity = F4(rng.uniform(0.75, 0.99) if dark else rng.uniform(0.0, 0.15))
        own = colour(rng) * 0.05 if dark else 0.5 * light.sky
        reflection = rng.uniform(0, 0.35)
        for lens in glasses.lenses:
            world = view.place(lens.vertices)
            normals = np.empty_like(world)
            geometry.vertex_normals(world, lens.triangles, normals)
            height = (lens.vertices[:, 1] - lens.vertices[0, 1]) * 0.15
            sky = np.clip(0.5 + 0.5 * normals[:, 1] + height, 0, 1)
            tint = (own + reflection * light.sky * sky[:, None] ** 3).astype(F4)
            screen = view.project(world, frame.owner.shape[0])
            raster.blend_layer(screen, lens.triangles, tint, opacity, frame.inverse_depth, frame.image)

    def _expose(
        self, look: Appearance, landmarks: np.ndarray, frame: Frame, out: np.ndarray, rng: np.random.Generator
    ) -> None:
        """The frame over a background, with the exposure that suits the face, into out (n, n, 3) linear."""
        size = out.shape[0]
        behind = backgrounds.background(rng, size).astype(F4, copy=False)
        x0, y0 = (np.clip(landmarks.min(0), 0, size - 16) * 1.25).astype(int)
        x1, y1 = (np.clip(landmarks.max(0), 16, size) * 1.25).astype(int)
        wanted = 0.28 * np.exp(0.42 * rng.standard_normal()) * (look.tone.mean() / 0.40) ** 0.45
        gain = wanted / max(kernels.mean_luminance(frame.image, x0, y0, x1, y1), 1e-3)
        kernels.resolve(frame.image, np.ascontiguousarray(behind), F4(gain), F4(rng.uniform(0.4, 1.3)), out)
