# SPDX-License-Identifier: Apache-2.0
"""Where the objects of a simulated drive are, from their meshes: what boxes are held against."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
import math

import numpy as np
from numpy.typing import NDArray

from training.streets.mesh import Mesh
from training.streets.sequence import Sequence

_ANGLES = np.radians(np.arange(0, 90, 0.5))
_STEP_S = 0.05  # velocities are the difference of two places so far apart
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class TrueBox:
    """The smallest rectangle around an object, in the world."""

    centre: Floats  # (2,)
    size: Floats  # (2,) length and width
    yaw: float  # of the length, modulo half a turn
    velocity: Floats  # (2,) m/s


class TrueBoxes:
    """Of everything on a drive that has a number."""

    def __init__(self, sequence: Sequence) -> None:
        self._sequence = sequence
        self._standing = lru_cache(maxsize=None)(self._find_standing)

    def at(self, time_s: float) -> dict[int, TrueBox]:
        """Object number -> box."""
        boxes: dict[int, TrueBox] = {}
        # The simulator keeps its meshes to itself, and another public name in it would make
        # other folders of all data that exist.
        for block in self._sequence._blocks_near(time_s):
            boxes |= self._standing(block)
        return boxes | self._find_moving(time_s)

    def _find_standing(self, block: int) -> dict[int, TrueBox]:
        return _boxes_of(self._sequence._block(block))

    def _find_moving(self, time_s: float) -> dict[int, TrueBox]:
        traffic = self._sequence.traffic
        boxes = {}
        for mover in traffic.near(time_s):
            before, after = (
                _bound(mover.build(traffic.road, time_s + step).vertices, np.zeros(2)).centre
                for step in (-_STEP_S / 2, _STEP_S / 2)
            )
            vertices = mover.build(traffic.road, time_s).vertices
            boxes[mover.instance] = _bound(vertices, (after - before) / _STEP_S)
        return boxes


def _boxes_of(mesh: Mesh) -> dict[int, TrueBox]:
    boxes = {}
    for number in np.unique(mesh.instance[mesh.instance > 0]):
        corners = np.unique(mesh.triangles[mesh.instance == number])
        boxes[int(number)] = _bound(mesh.vertices[corners], np.zeros(2))
    return boxes


def _bound(vertices: Floats, velocity: Floats) -> TrueBox:
    """By trying all angles."""
    xy = np.asarray(vertices, np.float64)[:, :2]
    middle = xy.mean(0)
    cos, sin = np.cos(_ANGLES), np.sin(_ANGLES)
    axes = np.stack([np.stack([cos, sin], 1), np.stack([-sin, cos], 1)])  # (2, a, 2)
    places = axes @ (xy - middle).T  # (2, a, n)
    low, high = places.min(2), places.max(2)
    best = int(np.prod(high - low, axis=0).argmin())
    extents = (high - low)[:, best]
    centre = middle + axes[:, best].T @ ((low + high)[:, best] / 2)
    yaw = float(_ANGLES[best]) + (math.pi / 2 if extents[1] > extents[0] else 0)
    return TrueBox(centre=centre, size=np.sort(extents)[::-1], yaw=yaw, velocity=velocity)
