# SPDX-License-Identifier: Apache-2.0
"""What to do with a sensor's intensities, so that the ground is as bright as in training.

Measured on real scans with the shipped student: a gain brings back what a plain gain took. On a
sensor of calibrated reflectivity plants are many times as bright as a road; it gets worse by a
gain and by every curve that was tried, and is left as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lidar_kd.sensor.ground import Ground, Points

_NEAR_M, _ON_M = 12.0, 0.15  # of the ground that is looked at
_FEWEST = 50  # points on it
_DARK_SHARE = 0.01  # of the points have any intensity: less is none
# What stands on the ground by the ground itself, as median and third quartile: 1.0 to 1.3 and 1.2
# to 1.7 in KITTI and in simulated streets, 0.2 to 17 and 0.8 to 32 where calibrated.
_MIDDLE, _UPPER = (0.75, 1.6), 2.0
_ABOVE_M, _ABOVE_SHARE = 0.5, 0.1  # of the points at least, or the scan does not tell
_LEFT, _SAME = 1.25, 1.3  # factors: not worth a change; the same but for noise


@dataclass(frozen=True, kw_only=True)
class Brightness:
    """A factor for all intensities, or one value in place of them."""

    gain: float = 1.0
    fill: float | None = None  # where the sensor gives none
    ground: float = 0.0  # as it comes: the median near the sensor
    is_alike: bool = True  # whether what stands on it is as bright by it as in training

    def apply(self, points: Points) -> None:
        """In place, the last column of points (N, 4)."""
        if self.fill is not None:
            points[:, 3] = self.fill
        elif self.gain != 1:
            points[:, 3] *= np.float32(self.gain)


def judge_brightness(points: Points, ground: Ground | None, expected: float) -> Brightness | None:
    """points (N, 4) of a thinned scan; None where it does not tell."""
    intensity = points[:, 3]
    lit = intensity > 0
    if len(points) and lit.mean() < _DARK_SHARE:
        return Brightness(fill=expected)
    if ground is None:
        return None
    near, height = points[:, 0] ** 2 + points[:, 1] ** 2 < _NEAR_M**2, ground.distances(points)
    on_it = intensity[lit & near & (np.abs(height) < _ON_M)]
    above = intensity[lit & (height > _ABOVE_M)]
    if len(on_it) < _FEWEST or len(above) < _ABOVE_SHARE * len(points):
        return None
    level = float(np.median(on_it))
    middle, upper = np.percentile(above, (50, 75)) / level
    if upper > _UPPER or not _MIDDLE[0] < middle < _MIDDLE[1]:
        return Brightness(ground=level, is_alike=False)
    gain = expected / level
    return Brightness(gain=1.0 if 1 / _LEFT < gain < _LEFT else gain, ground=level)


def are_as_bright(one: Brightness, other: Brightness) -> bool:
    if (one.fill, one.is_alike) != (other.fill, other.is_alike):
        return False
    return 1 / _SAME < one.gain / other.gain < _SAME


def average_brightness(found: Sequence[Brightness]) -> Brightness:
    """The one in the middle: all are alike."""
    return sorted(found, key=lambda each: each.gain)[len(found) // 2]
