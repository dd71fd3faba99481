# SPDX-License-Identifier: Apache-2.0
"""Triangles that know what they are: raw label, material, tint, instance; and simple shapes.

Objects stand on z = 0 at the origin and look along x; `Mesh.placed` puts them into the world.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from training.streets.materials import MATERIAL

Array = NDArray[np.float64]
_BOX_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) / 2
_BOX_QUADS = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """vertices: (V, 3) in metres; the others have one row per triangle."""

    vertices: Array
    triangles: NDArray[np.int64]  # (T, 3)
    raw: NDArray[np.uint16]  # SemanticKITTI's raw label id
    material: NDArray[np.uint8]  # row of materials.MATERIALS
    tint: NDArray[np.float32]  # brightness of this object beside its material's
    instance: NDArray[np.uint16]  # 0: not a countable thing

    def __len__(self) -> int:
        return len(self.triangles)

    def placed(self, at: ArrayLike, yaw: float = 0.0, instance: int | None = None) -> Mesh:
        """Turned about z, then moved; `instance` marks all of it as one thing."""
        cos, sin = math.cos(yaw), math.sin(yaw)
        turned = self.vertices @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
        vertices = turned + np.asarray(at, float)
        if instance is None:
            return replace(self, vertices=vertices)
        return replace(self, vertices=vertices, instance=np.full(len(self), instance, np.uint16))

    def relabelled(self, raw: int) -> Mesh:
        return replace(self, raw=np.full(len(self), raw, np.uint16))

    def tinted(self, tint: float) -> Mesh:
        return replace(self, tint=self.tint * np.float32(tint))


def join(meshes: Iterable[Mesh]) -> Mesh:
    parts = list(meshes)
    starts = np.cumsum([0, *(len(part.vertices) for part in parts)])
    triangles = [part.triangles + start for part, start in zip(parts, starts)]
    return Mesh(
        vertices=np.concatenate([part.vertices for part in parts]),
        triangles=np.concatenate(triangles),
        raw=np.concatenate([part.raw for part in parts]),
        material=np.concatenate([part.material for part in parts]),
        tint=np.concatenate([part.tint for part in parts]),
        instance=np.concatenate([part.instance for part in parts]),
    )


def surface(
    vertices: ArrayLike, triangles: ArrayLike, raw: ArrayLike, material: str | NDArray[np.uint8]
) -> Mesh:
    """A mesh of one material, or of one raw id and material per triangle."""
    faces = np.asarray(triangles, np.int64).reshape(-1, 3)
    rows = MATERIAL[material] if isinstance(material, str) else material
    return Mesh(
        vertices=np.asarray(vertices, float),
        triangles=faces,
        raw=np.broadcast_to(np.asarray(raw, np.uint16), len(faces)).copy(),
        material=np.broadcast_to(np.asarray(rows, np.uint8), len(faces)).copy(),
        tint=np.ones(len(faces), np.float32),
        instance=np.zeros(len(faces), np.uint16),
    )


def quads(corners: ArrayLike, raw: ArrayLike, material: str | NDArray[np.uint8]) -> Mesh:
    """(Q, 4, 3) corners around each quad -> two triangles each."""
    points = np.asarray(corners, float).reshape(-1, 4, 3)
    first = 4 * np.arange(len(points))[:, None]
    triangles = np.stack([first + [0, 1, 2], first + [0, 2, 3]], 1)
    return surface(points.reshape(-1, 3), triangles, _twice(raw), _twice_material(material))


def _twice(each: ArrayLike) -> ArrayLike:
    """A value per quad -> one per triangle."""
    return each if np.ndim(each) == 0 else np.repeat(np.ravel(each), 2)


def _twice_material(material: str | NDArray[np.uint8]) -> str | NDArray[np.uint8]:
    return material if isinstance(material, str) else np.repeat(material.ravel(), 2)


def box(size: ArrayLike, centre: ArrayLike, raw: int, material: str) -> Mesh:
    corners = _BOX_CORNERS * np.asarray(size, float) + np.asarray(centre, float)
    return quads(corners[np.array(_BOX_QUADS)], raw, material)


def prism(
    outline: ArrayLike, half_width: float, raw: int, material: str, narrower: float = 0.0
) -> Mesh:
    """An (x, z) outline (star-shaped) between y = -half_width and +half_width.

    `narrower` pulls the top inwards on both sides, as the glass of a car leans in.
    """
    points = np.asarray(outline, float)
    z = points[:, 1]
    half = half_width - narrower * (z - z.min()) / max(float(np.ptp(z)), 1e-6)
    left = np.column_stack([points[:, 0], half, z])
    right = left * [1, -1, 1]
    following = [np.roll(side, -1, axis=0) for side in (left, right)]
    shell = np.stack([left, right, following[1], following[0]], 1)
    caps = []
    for side, after in ((left, following[0]), (right, following[1])):
        middle = np.broadcast_to(side.mean(0), side.shape)
        caps.append(np.stack([side, after, middle, middle], 1))
    return quads(np.concatenate([shell, *caps]), raw, material)


def tube(
    path: ArrayLike, radius: float | tuple[float, float], raw: int, material: str, sides: int = 7
) -> Mesh:
    """A round bar from path[0] to path[1], closed at its end; radii (start, end)."""
    start, end = np.asarray(path, float)
    axis = (end - start) / max(float(np.linalg.norm(end - start)), 1e-9)
    across = np.cross(axis, [1.0, 0, 0] if abs(axis[0]) < 0.9 else [0, 1.0, 0])
    across /= np.linalg.norm(across)
    angle = 2 * math.pi * np.arange(sides) / sides
    ring = np.cos(angle)[:, None] * across + np.sin(angle)[:, None] * np.cross(axis, across)
    first, last = (radius, radius) if isinstance(radius, float | int) else radius
    low, high = start + first * ring, end + last * ring
    wall = np.stack([low, np.roll(low, -1, 0), np.roll(high, -1, 0), high], 1)
    top = np.broadcast_to(end, high.shape)
    lid = np.stack([high, np.roll(high, -1, 0), top, top], 1)
    return quads(np.concatenate([wall, lid]), raw, material)


def ball(centre: ArrayLike, radii: ArrayLike, raw: int, material: str) -> Mesh:
    """An ellipsoid of 8 x 5 patches."""
    lengths = np.linspace(0, 2 * math.pi, 9)[:, None]
    widths = np.linspace(-math.pi / 2, math.pi / 2, 6)[None, :]
    flat = np.cos(widths)
    unit = [flat * np.cos(lengths), flat * np.sin(lengths), np.sin(widths) + 0 * lengths]
    return sheet(np.stack(unit, -1) * np.asarray(radii) + np.asarray(centre), raw, material)


def sheet(points: Array, raw: ArrayLike, material: str | NDArray[np.uint8]) -> Mesh:
    """An (A, B, 3) grid of points as a surface; raw and material may be (A-1, B-1)."""
    rows, columns = points.shape[:2]
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b = index[:-1, :-1].ravel(), index[1:, :-1].ravel()
    c, d = index[1:, 1:].ravel(), index[:-1, 1:].ravel()
    triangles = np.stack([np.stack([a, b, c], 1), np.stack([a, c, d], 1)], 1)
    return surface(points.reshape(-1, 3), triangles, _twice(raw), _twice_material(material))


def flakes(
    centres: Array, size_m: float, rng: np.random.Generator, raw: int, material: str
) -> Mesh:
    """One small triangle of any orientation at each centre: leaves."""
    corners = rng.normal(0, size_m / 2, (len(centres), 3, 3)) + centres[:, None]
    corners[..., 2] = np.maximum(corners[..., 2], 0.02)
    return surface(corners.reshape(-1, 3), np.arange(3 * len(centres)), raw, material)
