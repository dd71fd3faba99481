# SPDX-License-Identifier: Apache-2.0
"""Augmentation by another sensor: its intensities, its mounting, its beams, what it loses.

All of it is off unless a configuration asks for it, and then draws nothing from the generator.
"""

from __future__ import annotations

import math

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from training.data.scan import Scan

Rng = np.random.Generator
_SECTOR_DEG = (45.0, 180.0)  # what is left of the turn, at least and at most
_EVERY = (2, 4)  # beam that stays
_FAR_M = 50.0


class SensorChanges(BaseModel):
    """`augment: {sensor: {...}}` of a configuration."""

    model_config = ConfigDict(frozen=True, extra='forbid')

    gain: float = Field(default=1.0, ge=1)  # intensity times 1 / gain to gain
    gamma: float = Field(default=1.0, ge=1)  # and to the power of 1 / gamma to gamma
    no_intensity: float = Field(default=0.0, ge=0, le=1)  # probability of zeros
    height_m: float = Field(default=0.0, ge=0)  # the sensor moves up or down by at most this
    tilt_deg: float = Field(default=0.0, ge=0, le=90)  # its roll and its pitch, both ways
    beams: float = Field(default=0.0, ge=0, le=1)  # probability that each 2nd to 4th stays
    sector: float = Field(default=0.0, ge=0, le=1)  # probability that 45 to 180 degrees stay
    far_drop: float = Field(default=0.0, ge=0, lt=1)  # share lost at 50 m; less nearby

    @property
    def drops(self) -> bool:
        """Whether points may go."""
        return max(self.beams, self.sector, self.far_drop) > 0


def change_sensor(scan: Scan, changes: SensorChanges, rng: Rng) -> Scan:
    """First what needs the sensor in its place, then how it is mounted."""
    if changes.beams and rng.random() < changes.beams:
        every = int(rng.integers(_EVERY[0], _EVERY[1] + 1))
        scan = thin_beams(scan, every, width_deg=rng.uniform(0.3, 0.6))
    if changes.sector and rng.random() < changes.sector:
        width = math.radians(rng.uniform(*_SECTOR_DEG))
        scan = keep_sector(scan, begin=rng.uniform(-math.pi, math.pi), width=width)
    if changes.far_drop:
        scan = drop_far(scan, rng.uniform(0, changes.far_drop), rng)
    if changes.gain > 1 or changes.gamma > 1:
        gain, gamma = (most ** rng.uniform(-1, 1) for most in (changes.gain, changes.gamma))
        scan = change_intensity(scan, gain, gamma)
    if changes.no_intensity and rng.random() < changes.no_intensity:
        scan = change_intensity(scan, 0.0, 1.0)
    if changes.height_m or changes.tilt_deg:
        roll, pitch = np.radians(changes.tilt_deg) * rng.uniform(-1, 1, 2)
        scan = tilt_sensor(scan, roll, pitch, up_m=changes.height_m * rng.uniform(-1, 1))
    return scan


def change_intensity(scan: Scan, gain: float, gamma: float) -> Scan:
    """gain * intensity ** gamma, at most 1 where it was."""
    points = scan.points.copy()
    before = points[:, 3]
    after = gain * np.maximum(before, 0) ** gamma
    points[:, 3] = np.where(before <= 1, np.minimum(after, 1), after)
    return scan.with_points(points)


def tilt_sensor(scan: Scan, roll: float, pitch: float, *, up_m: float) -> Scan:
    """As a sensor sees the scan that is `up_m` higher and tilted by these angles (radians)."""
    x, y, z = scan.points[:, :3].T
    points = scan.points.copy()
    z = z - np.float32(up_m)
    c, s = np.float32(math.cos(pitch)), np.float32(math.sin(pitch))
    points[:, 0], z = c * x - s * z, s * x + c * z
    c, s = np.float32(math.cos(roll)), np.float32(math.sin(roll))
    points[:, 1], points[:, 2] = c * y + s * z, c * z - s * y
    return scan.with_points(points)


def thin_beams(scan: Scan, every: int, *, width_deg: float) -> Scan:
    """Of bands of inclination that are about a beam wide one in `every` stays."""
    x, y, z = scan.points[:, :3].T
    band = np.degrees(np.arctan2(z, np.hypot(x, y))) // width_deg
    return scan.take(band % every == 0)


def keep_sector(scan: Scan, *, begin: float, width: float) -> Scan:
    """The azimuths from `begin` over `width` (radians)."""
    azimuth = np.arctan2(scan.points[:, 1], scan.points[:, 0])
    return scan.take((azimuth - begin) % math.tau < width)


def drop_far(scan: Scan, share: float, rng: Rng) -> Scan:
    """A point at 50 m and beyond goes with the probability `share`, a nearer one with less."""
    distance = np.hypot(scan.points[:, 0], scan.points[:, 1])
    lost = share * np.minimum(distance / _FAR_M, 1)
    return scan.take(rng.random(len(scan), np.float32) >= lost)
