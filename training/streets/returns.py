# SPDX-License-Identifier: Apache-2.0
"""From what the rays meet to what the sensor reports: losses, noise, intensity, mixed returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.streets.cast import Hits
from training.streets.materials import column
from training.streets.sensors import Sensor
from training.streets.variety import Finish

OUTLIER = 1
_INTENSITY, _SPREAD, _GLOSS = column('intensity'), column('spread'), column('gloss')
_LOST, _DARK, _ROUGH_M = column('lost'), column('dark'), column('rough_m')
# azimuth -> elevation below which the sensor's own car hides the street, as on KITTI's car
_CAR_DEG = (
    *((0, -20.5), (15, -21.5), (30, -23), (45, -24), (50, -90), (105, -90), (115, -23)),
    *((135, -22), (150, -20), (165, -18), (180, -17), (195, -18), (210, -21), (225, -22)),
    *((240, -24), (245, -90), (275, -90), (282, -19), (297, -19), (305, -90), (315, -24)),
    *((330, -22.5), (345, -21)),
)
_EDGE_M = 0.4  # neighbours further apart in range than this have an edge between them
_OUTLIER_M = 0.35  # a mixed return this far from both surfaces belongs to neither
_DARK_OUTLIERS = 0.5  # share of them that the sensor reports without intensity
Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class SimulatedScan:
    """One turn of the sensor."""

    points: Floats  # (N, 4): x, y, z, intensity in the sensor's frame
    labels: NDArray[np.uint32]  # instance << 16 | raw id


def report(
    hits: Hits, directions: Floats, sensor: Sensor, finish: Finish, rng: np.random.Generator
) -> SimulatedScan:
    """directions: (beams * steps, 3) in the sensor's frame."""
    signal = _signal(hits)
    free = ~_behind_the_car(directions, finish.hood_deg)
    kept = np.flatnonzero(free & _returned(hits, signal, sensor, rng))
    beam = kept // sensor.steps
    rough = _ROUGH_M[hits.material[kept]]
    noise = rng.standard_normal(len(kept), np.float32) * np.hypot(sensor.noise_m, rough)
    distance = hits.distance[kept] + noise + finish.bias_m[beam]
    raw, instance = hits.raw[kept].astype(np.uint32), hits.instance[kept].astype(np.uint32)
    distance, outlier = _mix(hits.distance, kept, distance, sensor, rng)
    raw[outlier], instance[outlier] = OUTLIER, 0
    gain = finish.gain[beam] * finish.shade[hits.material[kept]]
    intensity = _intensity(hits, kept, signal, gain, rng)
    intensity[outlier & (rng.random(len(kept), np.float32) < _DARK_OUTLIERS)] = 0
    points = np.column_stack([directions[kept] * distance[:, None], intensity])
    return SimulatedScan(points=points.astype(np.float32), labels=instance << np.uint32(16) | raw)


def _signal(hits: Hits) -> Floats:
    """Share of the normal return that comes back at this incidence: matt (Lambert) or glossy."""
    gloss, facing = _GLOSS[hits.material], np.maximum(hits.facing, 1e-3)
    matt = 0.55 + 0.45 * np.sqrt(facing)
    return (1 - gloss) * matt + gloss * facing**4


def _returned(
    hits: Hits, signal: Floats, sensor: Sensor, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Grazing incidence, dark surfaces and range all cost light; too little is no return."""
    distance = np.where(np.isfinite(hits.distance), hits.distance, 1e3)
    reflected = _INTENSITY[hits.material] * hits.tint * signal
    light = reflected * np.sqrt(hits.facing + 0.02) * np.exp(-distance / 120) * 30
    chance = (1 - _LOST[hits.material]) * (1 - np.exp(-light * (60 / (distance + 15))))
    near_enough = (distance > sensor.near_m) & (distance < sensor.range_m)
    seen = rng.random(len(distance), np.float32) < chance
    return near_enough & seen


def _behind_the_car(directions: Floats, lower_deg: float) -> NDArray[np.bool_]:
    """Rays that meet the roof, rack or mirrors of the sensor's own car."""
    azimuth = np.degrees(np.arctan2(directions[:, 1], directions[:, 0])) % 360
    at, below = np.array(_CAR_DEG, float).T
    edge = np.interp(azimuth, at, below, period=360) - lower_deg
    return directions[:, 2] < np.sin(np.radians(edge))


def _mix(
    ranges: Floats, kept: NDArray[np.int64], distance: Floats, sensor: Sensor,
    rng: np.random.Generator,
) -> tuple[Floats, NDArray[np.bool_]]:  # fmt: skip
    """At an edge a beam may meet both surfaces and report a range between them."""
    following = ranges[np.minimum(kept + 1, len(ranges) - 1)]
    step = 2 * np.pi / sensor.steps
    footprint = min(0.5, 0.15 * sensor.divergence_rad / step)
    gap = following - ranges[kept]
    edge = np.isfinite(following) & (np.abs(gap) > _EDGE_M) & (np.abs(gap) < 8)
    mixed = edge & (rng.random(len(kept), np.float32) < footprint)
    share = rng.random(len(kept), np.float32) ** 2
    moved = np.where(mixed, gap * share, 0).astype(np.float32)
    outlier = (np.abs(moved) > _OUTLIER_M) & (np.abs(gap - moved) > _OUTLIER_M)
    return distance + moved, outlier


def _intensity(
    hits: Hits, kept: NDArray[np.int64], signal: Floats, gain: Floats, rng: np.random.Generator
) -> Floats:
    """In hundredths, as the sensor writes it; part of the returns have none."""
    material = hits.material[kept]
    spread = 1 + _SPREAD[material] * rng.standard_normal(len(kept), np.float32)
    value = _INTENSITY[material] * hits.tint[kept] * signal[kept] * gain * spread
    value = value.clip(0, 0.99).round(2)
    value[rng.random(len(kept), np.float32) < _DARK[material]] = 0
    return value
