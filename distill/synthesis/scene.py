"""All vertices and triangles of a picture in one set of buffers: the face first, then what is on and before it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distill.synthesis import array_columns as col
from distill.synthesis.facemodel import FaceModel
from distill.synthesis.kernels import geometry
from distill.synthesis.kernels.shading import Mesh
from distill.synthesis.meshes import Shape
from distill.synthesis.view import View

F4 = np.float32
ROOM = (30000, 60000)  # vertices and triangles beyond the face's


@dataclass(frozen=True)
class Stuff:
    """What a thing is made of."""

    material: int  # M_*
    albedo: np.ndarray  # (3,) or (n, 3) linear
    surface: np.ndarray  # (N_SURFACE,), see meshes.surface


class Scene:
    """`mesh` holds the buffers; the first `vertices` and `triangles` of them are in use."""

    def __init__(self, model: FaceModel):
        v, t = len(model.vertices), len(model.triangles)
        room = v + ROOM[0]
        points, normals, texture, albedo = (np.empty((room, 3), F4) for _ in range(4))
        triangles, materials = np.empty((t + ROOM[1], 3), np.int32), np.empty(t + ROOM[1], np.int8)
        texture[:v], triangles[:t], materials[:t] = model.texture, model.triangles, model.materials
        surface, varyings = np.empty((room, col.N_SURFACE), F4), np.empty((room, col.N_VARYINGS), F4)
        lit = np.empty(room, bool)
        self.mesh = Mesh(points, normals, texture, albedo, surface, triangles, materials, v, varyings, lit)
        self.face = (v, t)
        self.view: View | None = None
        self.vertices, self.triangles = self.face

    def begin(self, view: View) -> None:
        """Leave the face alone in the scene; `view` is how head space lies in the world from now on."""
        self.view = view
        self.vertices, self.triangles = self.face

    def add(self, shape: Shape, stuff: Stuff, texture: np.ndarray | None = None) -> None:
        """A thing in head space; texture: positions (n, 3) that its pattern follows (default: its vertices)."""
        vertices = np.asarray(shape.vertices, F4)
        assert self.view is not None
        texture = vertices if texture is None else texture
        self.add_world(Shape(self.view.place(vertices), shape.triangles), stuff, texture)

    def add_world(self, shape: Shape, stuff: Stuff, texture: np.ndarray | None = None) -> None:
        """A thing in world space."""
        mesh = self.mesh
        new = slice(self.vertices, self.vertices + len(shape.vertices))
        faces = slice(self.triangles, self.triangles + len(shape.triangles))
        triangles = np.asarray(shape.triangles, np.int32)
        mesh.points[new] = shape.vertices
        mesh.texture[new] = shape.vertices if texture is None else texture
        mesh.albedo[new], mesh.surface[new] = stuff.albedo, stuff.surface
        geometry.vertex_normals(mesh.points[new], triangles, mesh.normals[new])
        mesh.triangles[faces] = triangles + np.int32(new.start)
        mesh.materials[faces] = stuff.material
        self.vertices, self.triangles = new.stop, faces.stop
