# SPDX-License-Identifier: Apache-2.0
"""The line of a road through the world.

Everything is laid out along the road - s metres along it, t metres to its left - and then put
into the world (x, y, z), where the road bends, climbs and falls.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
_STEP_M = 0.5


@dataclass(frozen=True, kw_only=True)
class Course:
    """Sampled every half metre from `start_m`."""

    start_m: float
    heading: Array
    xy: Array  # (K, 2)
    z: Array

    @classmethod
    def draw(
        cls, rng: np.random.Generator, span: tuple[float, float], bend: float, climb: float
    ) -> Course:
        """bend: largest curvature in 1/m; climb: largest slope; both are sums of slow waves."""
        s = np.arange(span[0], span[1] + _STEP_M, _STEP_M)
        curvature = _waves(rng, s, (90, 160, 420)) * bend
        slope = _waves(rng, s, (140, 300, 700)) * climb
        heading = np.cumsum(curvature) * _STEP_M
        heading -= np.interp(0.0, s, heading)
        xy = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], 1), 0) * _STEP_M
        return cls(start_m=float(s[0]), heading=heading, xy=xy, z=np.cumsum(slope) * _STEP_M)

    def locate(self, s: ArrayLike, t: ArrayLike, height: ArrayLike = 0.0) -> Array:
        """Road coordinates -> (..., 3) world coordinates."""
        s, t, height = np.broadcast_arrays(s, t, height)
        heading = self._at(s, self.heading)
        x = self._at(s, self.xy[:, 0]) - t * np.sin(heading)
        y = self._at(s, self.xy[:, 1]) + t * np.cos(heading)
        return np.stack([x, y, self._at(s, self.z) + height], -1)

    def yaw(self, s: ArrayLike) -> Array:
        return self._at(np.asarray(s, float), self.heading)

    def slope(self, s: float) -> float:
        ends = self._at(np.array([s - 1.5, s + 1.5]), self.z)
        return float((ends[1] - ends[0]) / 3.0)

    def _at(self, s: Array, values: Array) -> Array:
        place = (np.asarray(s, float) - self.start_m) / _STEP_M
        return np.interp(place, np.arange(len(values)), values)


def _waves(rng: np.random.Generator, s: Array, lengths_m: tuple[float, ...]) -> Array:
    """A sum of sines within -1..1."""
    weights = rng.uniform(0.2, 1.0, len(lengths_m))
    phases = rng.uniform(0, 2 * np.pi, len(lengths_m))
    lengths = np.array(lengths_m) * rng.uniform(0.8, 1.25, len(lengths_m))
    waves = np.sin(2 * np.pi * s[:, None] / lengths + phases)
    return waves @ (weights / weights.sum())
