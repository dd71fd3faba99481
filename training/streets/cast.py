# SPDX-License-Identifier: Apache-2.0
"""Rays against triangles, with Embree through Open3D, which takes a second to load: when asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.streets.mesh import Mesh

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Hits:
    """What each ray meets first; distance is infinite where it meets nothing."""

    distance: Floats  # (N,)
    facing: Floats  # |cosine| between the ray and the surface's normal
    raw: NDArray[np.uint16]
    material: NDArray[np.uint8]
    tint: Floats
    instance: NDArray[np.uint16]

    def nearer(self, other: Hits) -> Hits:
        """Ray by ray the nearer of both."""
        closer = other.distance < self.distance
        names = ('distance', 'facing', 'raw', 'material', 'tint', 'instance')
        return Hits(
            **{name: np.where(closer, getattr(other, name), getattr(self, name)) for name in names}
        )


class Scene:
    """A mesh made ready to be hit."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._origin = mesh.vertices.mean(0)  # float32 rays stay exact near the origin
        import open3d

        self._scene = open3d.t.geometry.RaycastingScene(nthreads=1)
        self._scene.add_triangles(
            _tensor((mesh.vertices - self._origin).astype(np.float32)),
            _tensor(mesh.triangles.astype(np.uint32)),
        )

    def cast(self, rays: NDArray[np.float64]) -> Hits:
        """rays: (N, 6) origins and unit directions in the world."""
        local = rays.astype(np.float32)
        local[:, :3] = rays[:, :3] - self._origin
        answer = self._scene.cast_rays(_tensor(local), nthreads=1)
        distance = answer['t_hit'].numpy()
        normals = answer['primitive_normals'].numpy()
        hit = np.isfinite(distance)
        triangle = np.where(hit, answer['primitive_ids'].numpy(), 0)
        facing = np.abs(np.einsum('ni,ni->n', normals, local[:, 3:]))
        mesh = self._mesh
        return Hits(
            distance=distance,
            facing=facing,
            raw=mesh.raw[triangle],
            material=mesh.material[triangle],
            tint=mesh.tint[triangle],
            instance=mesh.instance[triangle],
        )


def _tensor(array: NDArray[Any]) -> Any:
    import open3d

    make: Any = open3d.core.Tensor  # its stubs leave out the constructor from an array alone
    return make(array)
