# SPDX-License-Identifier: Apache-2.0
"""Where the streets of a scene run, and how far every place is from their edges.

A street is a bending line through the tile; side streets begin on it at any angle. Distances to
the edges of all streets are joined with a fillet, so that kerbs are round at the corners.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import ArrayLike

from training.streets.mesh import Array
from training.worlds.kinds import Locale

TILE_M = 96.0  # half the edge of the tile that is a scene
GRID_M = 0.75
_STEP_M = 2.0
_ENDLESS_M = 150.0
_CLEAR_M = 28.0  # between the mouths of side streets
ROAD, PARKING, SIDEWALK, OTHER_GROUND, TERRAIN, MARKING = 40, 44, 48, 49, 72, 60
Rng = np.random.Generator


@dataclass(frozen=True, kw_only=True)
class StreetLine:
    """A line with a width and a surface; `s` runs along it, `t` to its left."""

    line: Array  # (K, 2), every two metres
    heading: Array  # (K,)
    half_m: float
    median_m: float  # half the width of the strip in its middle; 0: none
    raw: int
    material: str
    starts: bool  # on another street, and not at the edge of the tile

    @property
    def length_m(self) -> float:
        return _STEP_M * (len(self.line) - 1)

    def locate(self, s: ArrayLike, t: ArrayLike) -> Array:
        """(..., 2) places."""
        s, t = np.broadcast_arrays(np.asarray(s, float), np.asarray(t, float))
        at, knots = s / _STEP_M, np.arange(len(self.line))
        yaw = self.yaw(s)
        x = np.interp(at, knots, self.line[:, 0]) - t * np.sin(yaw)
        y = np.interp(at, knots, self.line[:, 1]) + t * np.cos(yaw)
        return np.stack([x, y], -1)

    def yaw(self, s: ArrayLike) -> Array:
        at = np.asarray(s, float) / _STEP_M
        return np.interp(at, np.arange(len(self.line)), self.heading)

    def measure(self, places: Array) -> tuple[Array, Array]:
        """(N, 2) places -> their s and t."""
        short = self.line.astype(np.float32)
        nearest = np.argmin((short**2).sum(1) - 2 * places.astype(np.float32) @ short.T, axis=1)
        away, yaw = places - self.line[nearest], self.heading[nearest]
        along = away[:, 0] * np.cos(yaw) + away[:, 1] * np.sin(yaw)
        across = away[:, 1] * np.cos(yaw) - away[:, 0] * np.sin(yaw)
        return nearest * _STEP_M + along, across

    def outside(self, s: Array, t: Array) -> Array:
        """Metres from its edge; negative on it."""
        beyond = np.maximum(np.maximum(-s, s - self.length_m), 0)
        return np.hypot(t, beyond) - self.half_m


@dataclass(frozen=True, kw_only=True)
class Network:
    """All streets of a scene; the first one passes near the middle of the tile."""

    place: Locale
    streets: tuple[StreetLine, ...]
    fillet_m: float

    def outside(self, places: Array) -> Array:
        """(N,) metres from the nearest edge of all streets together."""
        joined = np.full(len(places), 1e3)
        for street in self.streets:
            joined = _round_union(joined, street.outside(*street.measure(places)), self.fillet_m)
        return joined


def draw_network(place: Locale, rng: Rng) -> Network:
    main = _draw_main(place, rng)
    streets = [main]
    low, high = place.side_streets
    middle = main.length_m / 2
    mouths: list[float] = []
    for _ in range(int(rng.integers(low, high + 1))):
        s = middle + rng.uniform(-60, 60)
        if all(abs(s - other) > _CLEAR_M for other in mouths):
            mouths.append(s)
            streets += _draw_sides(place, main, s, rng)
    return Network(place=place, streets=tuple(streets), fillet_m=float(rng.uniform(2.0, 8.0)))


def _draw_main(place: Locale, rng: Rng) -> StreetLine:
    yaw, t = rng.uniform(0, math.tau), rng.uniform(-6, 6)
    begin = -_ENDLESS_M * np.array([math.cos(yaw), math.sin(yaw)])
    begin += t * np.array([-math.sin(yaw), math.cos(yaw)])
    return _draw_street(place, begin, yaw, 2 * _ENDLESS_M, rng, starts=False)


def _draw_sides(place: Locale, main: StreetLine, s: float, rng: Rng) -> list[StreetLine]:
    """A mouth to one side, or a crossing."""
    at, yaw = main.locate(s, 0.0), float(main.yaw(s))
    angle = yaw + math.pi / 2 + rng.normal(0, 0.25)
    turns = (0.0, math.pi) if rng.random() < 0.4 else (float(rng.choice([0.0, math.pi])),)
    return [_draw_street(place, at, angle + turn, _ENDLESS_M, rng, starts=True) for turn in turns]


def _draw_street(
    place: Locale, begin: Array, yaw: float, length: float, rng: Rng, *, starts: bool
) -> StreetLine:
    s = np.arange(0, length + _STEP_M, _STEP_M)
    wave = np.sin(math.tau * s / rng.uniform(90, 260) + rng.uniform(0, math.tau))
    heading = np.cumsum(wave * place.bend * rng.uniform(0.0, 1.0)) * _STEP_M
    heading += yaw - (0.0 if starts else np.interp(length / 2, s, heading))
    steps = np.stack([np.cos(heading), np.sin(heading)], 1)[:-1] * _STEP_M
    line = begin + np.concatenate([np.zeros((1, 2)), np.cumsum(steps, 0)])
    raw, material = _draw_surface(place, starts, rng)
    return StreetLine(
        line=line, heading=heading, half_m=float(rng.uniform(*place.half_m)),
        median_m=float(rng.uniform(0.5, 2.5)) if place.name == 'highway' else 0.0,
        raw=raw, material=material, starts=starts,
    )  # fmt: skip


def _draw_surface(place: Locale, starts: bool, rng: Rng) -> tuple[int, str]:
    """Asphalt as a rule; drives into yards and paths through parks are no road."""
    if place.name == 'yard':
        raw = int(rng.choice([SIDEWALK, OTHER_GROUND, ROAD, PARKING], p=[0.5, 0.25, 0.15, 0.1]))
        return raw, str(rng.choice(['asphalt', 'paving', 'gravel']))
    if starts and rng.random() < 0.1:
        return int(rng.choice([PARKING, OTHER_GROUND, SIDEWALK])), 'paving'
    return ROAD, 'paving' if rng.random() < 0.07 else 'asphalt'


def _round_union(first: Array, second: Array, radius: float) -> Array:
    """Of two signed distances; where both are near, an arc of this radius joins the edges."""
    corner = np.hypot(np.maximum(radius - first, 0), np.maximum(radius - second, 0))
    return np.maximum(radius, np.minimum(first, second)) - corner


def grid_places() -> tuple[Array, int]:
    """The (N * N, 2) nodes of the tile and N."""
    ticks = np.arange(-TILE_M, TILE_M + GRID_M / 2, GRID_M)
    x, y = np.meshgrid(ticks, ticks, indexing='ij')
    return np.stack([x.ravel(), y.ravel()], 1), len(ticks)
