# SPDX-License-Identifier: Apache-2.0
"""LiDARs by name: which way each beam looks, how fast it turns, how well it measures.

Elevations are those of the makers' manuals (HDL-64E: upper block of 32 beams 1/3 degree apart,
lower block 1/2 degree apart). Beams are listed from the highest to the lowest.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import NDArray

from lidar_kd.errors import ConfigError

# The manual's table for the VLP-32C: dense around the horizon.
_VLP32_DEG = (
    *(15, 10.333, 7, 4.667, 3.333, 2.333, 1.667, 1.333, 1, 0.667, 0.333, 0, -0.333, -0.667, -1),
    *(-1.333, -1.667, -2, -2.333, -2.667, -3, -3.333, -3.667, -4, -4.667, -5.333, -6.148, -7.254),
    *(-8.843, -11.31, -15.639, -25),
)


@dataclass(frozen=True, kw_only=True)
class Sensor:
    """One model on its mount."""

    name: str
    elevations_deg: tuple[float, ...]
    steps: int  # firings of each beam per turn at 10 Hz
    height_m: float  # above the road
    range_m: float
    near_m: float  # closer returns are not reported
    noise_m: float  # standard deviation of one range
    bias_m: float  # standard deviation over beams of the range error that each beam keeps
    divergence_rad: float

    @property
    def beams(self) -> int:
        return len(self.elevations_deg)

    def directions(self) -> NDArray[np.float64]:
        """(beams * steps, 3) unit vectors, beam by beam, anticlockwise from straight ahead."""
        up = np.radians(self.elevations_deg)[:, None]
        around = self.azimuths()[None, :] + self._stagger()[:, None]
        flat = np.cos(up)
        parts = [flat * np.cos(around), flat * np.sin(around), np.sin(up) + 0 * around]
        return np.stack(parts, -1).reshape(-1, 3)

    def azimuths(self) -> NDArray[np.float64]:
        return 2 * math.pi * (np.arange(self.steps) + 0.5) / self.steps

    def delays_s(self, turn_s: float = 0.1) -> NDArray[np.float64]:
        """(beams * steps,) time of each firing; 0 when it looks ahead, it turns clockwise."""
        ahead = (self.azimuths() + math.pi) % (2 * math.pi) - math.pi
        return np.tile(-ahead / (2 * math.pi) * turn_s, self.beams)

    def _stagger(self) -> NDArray[np.float64]:
        """Beams do not fire in one plane: each is a fraction of a step aside."""
        return (np.arange(self.beams) * 0.382 % 1.0 - 0.5) * 2 * math.pi / self.steps


def _even(top_deg: float, bottom_deg: float, beams: int) -> tuple[float, ...]:
    return tuple(np.linspace(top_deg, bottom_deg, beams).round(4).tolist())


SENSORS = {
    sensor.name: sensor
    for sensor in (
        Sensor(
            name='hdl64',
            elevations_deg=_even(2.0, -8.3333, 32) + _even(-8.5333, -24.3333, 32),
            steps=2160,  # as in KITTI, which turns it a little slower than 10 Hz
            height_m=1.73,
            range_m=80.0,
            near_m=0.9,
            noise_m=0.02,
            bias_m=0.018,
            divergence_rad=0.002,
        ),
        Sensor(
            name='vlp16',
            elevations_deg=_even(15.0, -15.0, 16),
            steps=1800,
            height_m=1.8,
            range_m=100.0,
            near_m=0.5,
            noise_m=0.015,
            bias_m=0.005,
            divergence_rad=0.003,
        ),
        Sensor(
            name='vlp32',
            elevations_deg=_VLP32_DEG,
            steps=1800,
            height_m=1.84,
            range_m=150.0,
            near_m=0.5,
            noise_m=0.015,
            bias_m=0.005,
            divergence_rad=0.003,
        ),
        Sensor(
            name='os1-128',
            elevations_deg=_even(22.5, -22.5, 128),
            steps=1024,
            height_m=1.8,
            range_m=120.0,
            near_m=0.5,
            noise_m=0.015,
            bias_m=0.004,
            divergence_rad=0.003,
        ),
        Sensor(  # 0.125 degrees apart around the horizon, wider towards both ends
            name='hesai128',
            elevations_deg=_even(15.0, 2.5, 26) + _even(2.0, -6.0, 65) + _even(-6.5, -24.5, 37),
            steps=1800,
            height_m=1.8,
            range_m=200.0,
            near_m=0.5,
            noise_m=0.012,
            bias_m=0.004,
            divergence_rad=0.002,
        ),
    )
}


def sensor(name: str) -> Sensor:
    if name not in SENSORS:
        raise ConfigError(f"unknown sensor '{name}'; known are {', '.join(SENSORS)}.")
    return SENSORS[name]
