# SPDX-License-Identifier: Apache-2.0
"""The ground of a scene: land, curbs, ramps, markings, as rasters that rays are traced through.

The land is smooth and coarse; what is raised on it (curbs, verges, worn edges) is a fine raster
of cells, each with its label, material and tint. `Surface.trace` meets both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.streets.cast import Hits, Scene
from training.streets.mesh import Array, Mesh, sheet
from training.worlds.network import GRID_M, TILE_M

CELL_M = 0.15
SHELL_M = 0.4  # nothing of the relief is higher
_SAMPLES = 20  # along a ray within the shell
_BISECTIONS = 5
_FINE = round(2 * TILE_M / CELL_M)
Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Relief:
    """(X, Y) cells of the tile."""

    height: Floats  # above the land
    raw: NDArray[np.uint16]
    material: NDArray[np.uint8]
    tint: Floats


class Surface:
    """Land and relief of one scene."""

    def __init__(self, land: Array, relief: Relief) -> None:
        """land: (N, N) heights at the nodes of network.grid_places."""
        self._land, self.relief = land.astype(np.float32), relief
        self._top = (refine(land) + relief.height).ravel()  # of the cells, for a first search
        self._scene = Scene(_shell(land))

    def height(self, places: Array) -> Array:
        """(..., 2) -> (...) of the surface."""
        return self.land(places) + self.relief.height[_cells(places)]

    def land(self, places: Array) -> Array:
        """The same without the relief."""
        at = ((np.asarray(places) + TILE_M) / GRID_M).clip(0, len(self._land) - 1.001)
        low = at.astype(np.int64)
        (u, v), (i, j) = np.moveaxis(at - low, -1, 0), np.moveaxis(low, -1, 0)
        z = self._land
        return (z[i, j] * (1 - u) + z[i + 1, j] * u) * (1 - v) + (
            z[i, j + 1] * (1 - u) + z[i + 1, j + 1] * u
        ) * v

    def normal(self, place: Array) -> Array:
        """Unit normal of the land, over the length of a car."""
        x, y = np.array([1.4, 0.0]), np.array([0.0, 1.4])
        slope = [(self.land(place + step) - self.land(place - step)) / 2.8 for step in (x, y)]
        normal = np.array([-slope[0], -slope[1], 1.0])
        unit: Array = normal / np.linalg.norm(normal)
        return unit

    def raw_at(self, places: Array) -> NDArray[np.uint16]:
        return self.relief.raw[_cells(places)]

    def trace(self, rays: Array, nearest: Floats) -> Hits:
        """As cast.Scene.cast, with the relief: from the shell above it down along each ray.

        Beyond `nearest`, where something stands in the way, rays are not followed.
        """
        hits = self._scene.cast(rays)
        chosen = np.flatnonzero(np.isfinite(hits.distance) & (hits.distance < nearest))
        start, facing = hits.distance[chosen], np.maximum(hits.facing[chosen], 5e-3)
        depth = np.minimum(1.25 * SHELL_M / facing + 0.2, 40.0)
        distance = self._descend(rays[chosen], start, depth)
        result = np.full(len(rays), np.inf, np.float32)
        result[chosen] = distance
        finite = np.isfinite(distance)
        places = rays[chosen, :2] + rays[chosen, 3:5] * np.where(finite, distance, 0)[:, None]
        cells = _cells(places)
        raw, material = np.zeros(len(rays), np.uint16), np.zeros(len(rays), np.uint8)
        tint = np.ones(len(rays), np.float32)
        raw[chosen], material[chosen] = self.relief.raw[cells], self.relief.material[cells]
        tint[chosen] = self.relief.tint[cells]
        return Hits(
            distance=result, facing=hits.facing, raw=raw, material=material, tint=tint,
            instance=np.zeros(len(rays), np.uint16),
        )  # fmt: skip

    def _descend(self, rays: Array, start: Floats, depth: Floats) -> Array:
        """Distance at which each ray first is below the surface; infinite where it never is."""
        low, high = start.astype(float), np.full(len(start), np.inf)
        step, short = depth / _SAMPLES, rays.astype(np.float32)
        for number in range(1, _SAMPLES + 1):
            open_ = np.flatnonzero(np.isinf(high))
            if not len(open_):
                break
            at = (start[open_] + number * step[open_]).astype(np.float32)
            below = self._is_below(short[open_], at)
            high[open_[below]] = at[below]
            low[open_[~below]] = at[~below]
        hit = np.flatnonzero(np.isfinite(high))
        low, found, along = low[hit], high[hit], rays[hit]
        for _ in range(_BISECTIONS):
            middle = (low + found) / 2
            below = self._clearance(along, middle) < 0
            low, found = np.where(below, low, middle), np.where(below, middle, found)
        high[hit] = (low + found) / 2
        return high

    def _is_below(self, rays: Floats, at: Floats) -> NDArray[np.bool_]:
        """By the middle of the cell, which is a centimetre off at most."""
        x, y = rays[:, 0] + rays[:, 3] * at, rays[:, 1] + rays[:, 4] * at
        scale, half = np.float32(1 / CELL_M), np.float32(TILE_M)
        i = ((x + half) * scale).clip(0, _FINE - 1).astype(np.int32)
        j = ((y + half) * scale).clip(0, _FINE - 1).astype(np.int32)
        below: NDArray[np.bool_] = rays[:, 2] + rays[:, 5] * at < self._top[i * _FINE + j]
        return below

    def _clearance(self, rays: Array, at: Array) -> Array:
        places = rays[:, :2] + rays[:, 3:5] * at[:, None]
        clearance: Array = rays[:, 2] + rays[:, 5] * at - self.height(places)
        return clearance


def _cells(places: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    cells = ((np.asarray(places) + TILE_M) / CELL_M).astype(np.int64).clip(0, _FINE - 1)
    return cells[..., 0], cells[..., 1]


def _shell(land: Array) -> Mesh:
    """The land raised above all of its relief, at every second node."""
    coarse = land[::2, ::2]
    ticks = np.linspace(-TILE_M, TILE_M, len(land))[::2]
    x, y = np.meshgrid(ticks, ticks, indexing='ij')
    return sheet(np.stack([x, y, coarse + SHELL_M], -1), 0, 'asphalt')


def cell_ticks() -> Array:
    """Where the middles of the cells lie along each axis."""
    ticks: Array = (np.arange(_FINE, dtype=float) + 0.5) * CELL_M - TILE_M
    return ticks


def refine(coarse: Array) -> Floats:
    """Values at the coarse nodes -> at the middles of the cells, linearly."""
    at = (cell_ticks() + TILE_M) / GRID_M
    low = at.astype(np.int64).clip(0, len(coarse) - 2)
    share = (at - low).astype(np.float32)
    coarse = coarse.astype(np.float32)
    rows = coarse[low] * (1 - share)[:, None] + coarse[low + 1] * share[:, None]
    fine: Floats = rows[:, low] * (1 - share) + rows[:, low + 1] * share
    return fine
