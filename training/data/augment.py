# SPDX-License-Identifier: Apache-2.0
"""Augmentation: each step a small pure function of scans, and one that draws what is done.

Every number comes from the generator passed in, so that (seed, epoch, index) decides about a scan
and not the worker it happens in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import math

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt

from lidar_kd.labels import ClassTable
from training.data.paste import cut_instances, paste_on_ground
from training.data.scan import join_scans, Scan
from training.data.sensor_changes import change_sensor, SensorChanges

Probability = float
Rng = np.random.Generator


class Augmentation(BaseModel):
    """What may be done to a scan in training; the mixes take a second scan of the same set."""

    model_config = ConfigDict(frozen=True, extra='forbid')

    rotation_deg: float = Field(default=180.0, ge=0, le=180)  # about z, up to this both ways
    flip: bool = True  # along x and along y, each every other time
    scale: float = Field(default=0.05, ge=0, lt=1)  # factors from 1 - scale to 1 + scale
    jitter_m: NonNegativeFloat = 0.0  # standard deviation per coordinate
    jitter_limit_m: NonNegativeFloat = 0.05  # no coordinate moves further
    drop: float = Field(default=0.0, ge=0, lt=1)  # at most this share of the points
    polarmix: Probability = Field(default=0.0, ge=0, le=1)
    lasermix: Probability = Field(default=0.0, ge=0, le=1)
    mix3d: Probability = Field(default=0.0, ge=0, le=1)
    paste: NonNegativeInt = 0  # at most so many objects of the hard classes, onto road
    sensor: SensorChanges = SensorChanges()  # as another one, or another mounting, would see it

    @property
    def mixes(self) -> bool:
        """Whether a scan may hold parts of another; relations between scans then mean little."""
        return max(self.polarmix, self.lasermix, self.mix3d) > 0

    @property
    def brings_points(self) -> bool:
        """Whether a scan may get points of another, with their labels."""
        return self.mixes or self.paste > 0

    @property
    def keeps_rows(self) -> bool:
        """Whether a scan's points may move, but none comes or goes."""
        return not (self.brings_points or self.drop or self.sensor.drops)


NO_AUGMENTATION = Augmentation(rotation_deg=0, flip=False, scale=0)


def augment(
    scan: Scan,
    settings: Augmentation,
    rng: Rng,
    *,
    table: ClassTable,
    draw_scan: Callable[[], Scan],
    bank: Sequence[Scan] = (),
) -> Scan:
    """`draw_scan` gives another scan of the set; `bank` holds objects to paste, cut from scans.

    What needs the sensor in its place (pasting, PolarMix, LaserMix) comes before the motions.
    The past that fusion added goes along; a scan's own points become the same with it or without.
    """
    if settings.paste:
        objects = bank or cut_instances(draw_scan(), table.hard_ids)
        scan = _paste(scan, objects, settings.paste, table, rng)
    if rng.random() < settings.polarmix:
        scan = polar_mix(scan, draw_scan(), table.hard_ids, rng)
    if rng.random() < settings.lasermix:
        scan = laser_mix(scan, draw_scan(), rng)
    scan = change_sensor(scan, settings.sensor, rng)
    scan = move_randomly(scan, settings, rng)
    if rng.random() < settings.mix3d:
        scan = join_scans(scan, move_randomly(draw_scan(), settings, rng))
    if settings.jitter_m:
        scan = jitter(scan, settings.jitter_m, settings.jitter_limit_m, rng)
    if settings.drop:
        scan = drop(scan, rng.uniform(0, settings.drop), rng)
    return scan


def move_randomly(scan: Scan, settings: Augmentation, rng: Rng) -> Scan:
    """Turn, mirror and scale the whole scan: one matrix."""
    angle = math.radians(settings.rotation_deg) * rng.uniform(-1, 1)
    along_x, along_y = rng.random(2) < 0.5 * settings.flip
    factor = 1 + settings.scale * rng.uniform(-1, 1)
    return transform(scan, factor * flip_matrix(along_x, along_y) @ turn_matrix(angle))


def transform(scan: Scan, matrix: NDArray[np.floating]) -> Scan:
    """x' = matrix x for every point; the intensity stays."""
    points = scan.points.copy()
    # not `@`: BLAS brings threads of its own, which then wait for each other in every worker
    np.einsum('nj,ij->ni', scan.points[:, :3], matrix.astype(np.float32), out=points[:, :3])
    return scan.with_points(points)


def turn_matrix(angle: float) -> NDArray[np.float64]:
    """About z, anticlockwise seen from above, in radians."""
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def flip_matrix(along_x: bool, along_y: bool) -> NDArray[np.float64]:
    """Mirrors x, y or both."""
    return np.diag([-1.0 if along_x else 1.0, -1.0 if along_y else 1.0, 1.0])


def jitter(scan: Scan, sigma_m: float, limit_m: float, rng: Rng) -> Scan:
    """Every coordinate moves by a normal amount, at most by the limit; not those of the past."""
    own = slice(None) if scan.past is None else ~scan.past
    points = scan.points.copy()
    noise = rng.standard_normal(points[own, :3].shape, np.float32)
    noise *= np.float32(sigma_m)
    points[own, :3] += noise.clip(-limit_m, limit_m, out=noise)
    return scan.with_points(points)


def drop(scan: Scan, share: float, rng: Rng) -> Scan:
    """Every point goes with the probability `share`; none of the past."""
    own = slice(None) if scan.past is None else ~scan.past
    kept = np.ones(len(scan), np.bool_)
    kept[own] = rng.random(len(kept[own]), np.float32) >= share
    return scan.take(kept)


def polar_mix(scan: Scan, other: Scan, classes: NDArray[np.uint8], rng: Rng) -> Scan:
    """PolarMix: half the time a sector is swapped; the objects of `classes` come along turned."""
    if rng.random() < 0.5:
        scan = swap_sector(scan, other, start=rng.uniform(-math.pi, math.pi), width=math.pi)
    angles = math.tau / 3 * (np.arange(3) + rng.random(3) * [0, 1, 1])  # as seen, and two more
    return paste_turned(scan, other, classes, angles)


def swap_sector(scan: Scan, other: Scan, *, start: float, width: float) -> Scan:
    """The azimuths from `start` over `width` (radians) come from the other scan."""
    return join_scans(
        scan.take(~_in_sector(scan, start, width)), other.take(_in_sector(other, start, width))
    )


def paste_turned(
    scan: Scan, other: Scan, classes: NDArray[np.uint8], angles: Sequence[float] | NDArray
) -> Scan:
    """Adds the other scan's points of some classes, once per angle, turned about the sensor."""
    objects = other.take(np.isin(other.labels, classes))
    if len(objects):
        for angle in angles:
            scan = join_scans(scan, transform(objects, turn_matrix(angle)))
    return scan


def laser_mix(scan: Scan, other: Scan, rng: Rng) -> Scan:
    """LaserMix: bands of inclination come from both scans in turns."""
    return swap_bands(scan, other, bands=int(rng.integers(3, 7)), first=int(rng.integers(2)))


def swap_bands(scan: Scan, other: Scan, *, bands: int, first: int = 0) -> Scan:
    """Equal bands of inclination from the lowest beam up; with first = 0 the lowest is ours.

    Points that are not finite lie in no band: ours stay, and the other's stay away.
    """
    ours, theirs = _inclination(scan), _inclination(other)
    both = np.concatenate([ours[scan.is_own], theirs[other.is_own]])
    low, high = np.nanmin(both, initial=math.inf), np.nanmax(both, initial=-math.inf)
    width = max(float(high - low), 1e-6) / bands
    place = [np.clip((angle - low) // width, 0, bands - 1) % 2 for angle in (ours, theirs)]
    return join_scans(scan.take(place[0] != 1 - first), other.take(place[1] == 1 - first))


def _paste(scan: Scan, objects: Sequence[Scan], most: int, table: ClassTable, rng: Rng) -> Scan:
    road = np.array([i for i, name in enumerate(table.names) if name in _ROADS], np.uint8)
    ground = table.group_ids('ground')
    for _ in range(rng.integers(most + 1) if objects else 0):
        chosen = objects[int(rng.integers(len(objects)))]
        scan = paste_on_ground(scan, chosen, onto=road, ground=ground, rng=rng)
    return scan


_ROADS = ('road', 'driveable_surface')


def _in_sector(scan: Scan, start: float, width: float) -> NDArray[np.bool_]:
    azimuth = np.arctan2(scan.points[:, 1], scan.points[:, 0])
    return (azimuth - start) % math.tau < width


def _inclination(scan: Scan) -> NDArray[np.float32]:
    """NaN where a point is not finite."""
    x, y, z = scan.points[:, :3].T
    angle = np.arctan2(z, np.hypot(x, y))
    angle[~np.isfinite(scan.points[:, :3]).all(1)] = np.nan
    return angle
