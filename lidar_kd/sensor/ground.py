# SPDX-License-Identifier: Apache-2.0
"""The ground around a sensor, found in one scan: how high, how tilted, which way up it hangs.

The ground is the plane that holds a good part of the lowest points of all square metres around
and has next to nothing beneath it. Sensors may hang upside down: the same is then asked of the
scan turned over. Takes about 2 ms for 120,000 points on one core.
"""

from __future__ import annotations

from dataclasses import dataclass
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float32]
Vector = NDArray[np.float64]

REACH_M = 25.0  # to both sides; beyond, roads bend
_CELLS = 50  # along each side, of a metre
_NEAR_M = 0.7  # nearer points are the sensor's carrier, or no echo at all
_TALL_M = 10.0
_LOOKED_AT = 20_000  # points of a scan
_FEWEST_CELLS = 80  # with points: a room has fewer, and a table top in it looks like ground
_PLANES = 192  # tried
_TRIED_ON = 320  # cells
_HALF_M = 10.0  # from where on a cell counts less than half: streets bend and slope
_STEEPEST = math.cos(math.radians(35))
_BASE_M = 4.0  # twice the area that the three points of a plane span, at least (m^2)
_ON_M, _NARROWING_M = 0.12, (0.25, 0.15, 0.12)  # from the plane, while tried and while refined
_FEWEST_ON_IT, _FLAT = 20, 1e7  # cells; condition: beyond, they lie along one line
_KERB_M, _BENEATH_M = 0.15, 0.2
_FALLING = 0.07  # slope at which the ground may fall away farther out
_LEAST_SHARE, _MOST_BENEATH = 0.2, 0.06  # of the cells: on the plane, and below it
_LOWEST_M, _LOWEST_TURNED_M, _HIGHEST_M = -0.6, 0.3, 6.0  # heights of the frame above it
_CLEARLY = 2.0  # times the share: a ceiling holds less of a hall than its floor


@dataclass(frozen=True, eq=False)
class Ground:
    """The plane `normal . x + height_m = 0` in the frame of the scan."""

    normal: Vector  # (3,) of length 1, away from the earth
    height_m: float  # of the frame's origin above the plane
    share: float = 1.0  # of the square metres around that lie on it

    @property
    def is_upside_down(self) -> bool:
        return bool(self.normal[2] < 0)

    @property
    def roll_deg(self) -> float:
        """Of the sensor about its x axis (forwards); 180 where it hangs upside down."""
        return math.degrees(math.atan2(self.normal[1], self.normal[2]))

    @property
    def pitch_deg(self) -> float:
        """Of the sensor about its y axis (to the left): positive looks down."""
        return math.degrees(math.asin(max(-1.0, min(1.0, -float(self.normal[0])))))

    def distances(self, points: Points) -> Points:
        """(N,) heights of points (N, 3+) above it."""
        x, y, z = points[:, 0], points[:, 1], points[:, 2]
        a, b, c = self.normal.astype(np.float32)
        heights: Points = a * x + b * y + c * z + np.float32(self.height_m)
        return heights


def tilt_normal(roll_deg: float, pitch_deg: float) -> Vector:
    """(3,) which way is up in the frame of a sensor with this roll and pitch."""
    roll, pitch = math.radians(roll_deg), math.radians(pitch_deg)
    flat = math.cos(pitch)
    return np.array([-math.sin(pitch), flat * math.sin(roll), flat * math.cos(roll)])


def thin_out(scan: Points) -> Points:
    """Some 20,000 of its points (N, 4), without those that are far away or at the sensor."""
    # an odd step: beams and columns come in powers of two
    points = scan[:: max(1, len(scan) // _LOOKED_AT) | 1]
    x, y, z = np.abs(points[:, :3]).T
    with np.errstate(over='ignore', invalid='ignore'):
        far_enough = x * x + y * y > _NEAR_M**2
    kept: Points = points[(x < REACH_M) & (y < REACH_M) & (z < _TALL_M) & far_enough]
    return kept


def find_ground(points: Points) -> Ground | None:
    """`points` (N, 3+) of a thinned scan; None where no plane is surely the ground."""
    cells = _number_cells(points)
    upright = _find_below(points[:, :3], cells, _LOWEST_M)
    if upright and _CLEARLY * upright.share >= 1:
        return upright
    turned = points[:, :3] * np.array([1, -1, -1], np.float32)
    hanging = _find_below(turned, cells, _LOWEST_TURNED_M)
    if hanging is None or (upright and hanging.share < _CLEARLY * upright.share):
        return upright
    return Ground(hanging.normal * [1, -1, -1], hanging.height_m, hanging.share)


def _number_cells(points: Points) -> NDArray[np.int32]:
    """(N,) which square metre a point lies in."""
    size = 2 * REACH_M / _CELLS
    column, row = ((points[:, axis] + REACH_M) / size for axis in range(2))
    return column.astype(np.int32).clip(0, _CELLS - 1) * _CELLS + row.astype(np.int32)


def _find_below(points: Points, cells: NDArray[np.int32], lowest_m: float) -> Ground | None:
    floor = _take_lowest(points, cells)
    if len(floor) < _FEWEST_CELLS:
        return None
    plane = _try_planes(floor, np.random.default_rng(0))
    plane = plane and _refine(floor, plane)
    if plane is None:
        return None
    away = plane.distances(floor)
    weight = _weigh(floor)
    share = float(weight[np.abs(away) < _KERB_M].sum() / weight.sum())
    beneath_m = _BENEATH_M + _FALLING * np.hypot(floor[:, 0], floor[:, 1])
    beneath = float(weight[away < -beneath_m].sum() / weight.sum())
    sure = share >= _LEAST_SHARE and beneath <= _MOST_BENEATH
    if not sure or not lowest_m <= plane.height_m <= _HIGHEST_M:
        return None
    return Ground(plane.normal, plane.height_m, share)


def _take_lowest(points: Points, cells: NDArray[np.int32]) -> Points:
    """(M, 3) the lowest point of every cell that has one."""
    z = points[:, 2]
    lowest = np.full(_CELLS * _CELLS, np.inf, np.float32)
    np.minimum.at(lowest, cells, z)
    rows = np.flatnonzero(z == lowest[cells])
    chosen = np.full(_CELLS * _CELLS, -1)
    chosen[cells[rows]] = rows
    taken: Points = points[chosen[chosen >= 0]]
    return taken


def _weigh(floor: Points) -> NDArray[Any]:
    """(M,) how much a cell tells of the ground that the sensor stands on."""
    x, y = floor[:, 0] / _HALF_M, floor[:, 1] / _HALF_M
    weight: NDArray[Any] = 1 / (1 + x * x + y * y)
    return weight


def _draw(floor: Points, shape: tuple[int, ...], rng: np.random.Generator) -> Points:
    """(*shape, 3) cells by their weight, some more than once."""
    upto = np.cumsum(_weigh(floor))
    drawn: Points = floor[np.searchsorted(upto[:-1], rng.random(shape, np.float32) * upto[-1])]
    return drawn


def _try_planes(floor: Points, rng: np.random.Generator) -> Ground | None:
    """RANSAC: of planes through three points the one with most on it and least beneath it."""
    first, second, third = _draw(floor, (3, _PLANES), rng)
    normals = np.cross(second - first, third - first)
    lengths = np.sqrt((normals * normals).sum(1))
    normals *= (np.sign(normals[:, 2]) / np.maximum(lengths, 1e-6))[:, None]
    usable = (lengths > _BASE_M) & (normals[:, 2] > _STEEPEST)
    if not usable.any():
        return None
    normals, first = normals[usable], first[usable]
    heights = -(normals * first).sum(1)
    some = _draw(floor, (_TRIED_ON,), rng)
    # not `@`: BLAS would wake threads of its own for this little
    away = np.einsum('pi,ni->pn', normals, some) + heights[:, None]
    score = (np.abs(away) < _ON_M).mean(1) - 2 * (away < -2 * _ON_M).mean(1)
    best = score.argmax()
    return Ground(normals[best].astype(np.float64), float(heights[best]))


def _refine(floor: Points, plane: Ground) -> Ground | None:
    """Least squares over what lies on the plane, near points first, in ever narrower bands."""
    for band_m in _NARROWING_M:
        near = floor[np.abs(plane.distances(floor)) < band_m]
        root = np.sqrt(_weigh(near))
        terms = np.stack([near[:, 0], near[:, 1], np.ones(len(near))]) * root
        products = np.einsum('in,jn->ij', terms, terms)
        if len(near) < _FEWEST_ON_IT or np.linalg.cond(products) > _FLAT:
            return None
        slope_x, slope_y, offset = np.linalg.solve(products, terms @ (near[:, 2] * root))
        length = math.sqrt(slope_x**2 + slope_y**2 + 1)
        plane = Ground(np.array([-slope_x, -slope_y, 1]) / length, -offset / length)
    return plane
