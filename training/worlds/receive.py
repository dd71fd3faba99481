# SPDX-License-Identifier: Apache-2.0
"""From what the rays of a device meet to what it reports: losses, noise, blooming, rain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.streets.cast import Hits
from training.streets.materials import column, MATERIAL
from training.streets.returns import OUTLIER, SimulatedScan
from training.worlds.devices import Device
from training.worlds.ground import Floats
from training.worlds.habits import Habit
from training.worlds.standpoint import Mount

_INTENSITY, _SPREAD, _GLOSS = column('intensity'), column('spread'), column('gloss')
_LOST, _DARK, _ROUGH_M = column('lost'), column('dark'), column('rough_m')
_RETRO = MATERIAL['retro']
# azimuth -> elevation below which the car that carries the sensor hides the street, as in KITTI
_CAR_DEG = np.array([
    (0, -20.5), (15, -21.5), (30, -23), (45, -24), (50, -90), (105, -90), (115, -23), (135, -22),
    (150, -20), (165, -18), (180, -17), (195, -18), (210, -21), (225, -22), (240, -24),
    (245, -90), (275, -90), (282, -19), (297, -19), (305, -90), (315, -24), (330, -22.5),
    (345, -21),
])  # fmt: skip
_EDGE_M, _OUTLIER_M = 0.4, 0.35
Rng = np.random.Generator
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Weather:
    """What is lost or blurred in one scan."""

    lost: float  # share of returns lost anywhere
    lost_per_m: float  # rain and spray: more with every metre
    drops: float  # share of rays that end at a drop nearby
    bloom: bool  # bright things look wider than they are
    noise: float  # times the sensor's own


def draw_weather(rng: Rng) -> Weather:
    rainy = rng.random() < 0.06
    return Weather(
        lost=float(rng.uniform(0, 0.06)) if rng.random() < 0.3 else 0.0,
        lost_per_m=float(rng.uniform(0.002, 0.02)) if rainy else 0.0,
        drops=float(rng.uniform(0, 0.004)) if rainy else 0.0,
        bloom=bool(rng.random() < 0.15),
        noise=float(rng.uniform(0.7, 1.6)),
    )


def receive(hits: Hits, device: Device, mount: Mount, habit: Habit, rng: Rng) -> SimulatedScan:
    weather = draw_weather(rng)
    if weather.bloom:
        hits = bloom(hits, device, int(rng.integers(1, 3)))
    bias, gain = _draw_beams(device, habit, rng)
    signal = _reflect(hits)
    seen = _see(hits, signal, device, rng) & ~_hide(device, mount) & ~_lose(hits, weather, rng)
    kept = np.flatnonzero(seen)
    distance = hits.distance[kept] + bias[device.beam[kept]]
    rough = np.hypot(device.noise_m * weather.noise, _ROUGH_M[hits.material[kept]])
    distance = distance + rng.standard_normal(len(kept), np.float32) * rough
    raw, instance = hits.raw[kept].astype(np.uint32), hits.instance[kept].astype(np.uint32)
    distance, outlier = _mix(hits, kept, distance, device, rng)
    drop = rng.random(len(kept), np.float32) < weather.drops
    distance[drop] = rng.uniform(0.8, 9, int(drop.sum()))
    raw[outlier | drop], instance[outlier | drop] = OUTLIER, 0
    intensity = _shine(hits, kept, signal, habit, gain[device.beam[kept]], rng)
    points = np.column_stack([device.directions[kept] * distance[:, None], intensity])
    return SimulatedScan(points=points.astype(np.float32), labels=instance << np.uint32(16) | raw)


def bloom(hits: Hits, device: Device, reach: int) -> Hits:
    """Rays up to `reach` steps beside a retroreflector report it where it is the nearer."""
    for step in [*range(-reach, 0), *range(1, reach + 1)]:
        beside = Hits(**{name: np.roll(values, step) for name, values in vars(hits).items()})
        same = device.beam == np.roll(device.beam, step)
        wide = same & (beside.material == _RETRO) & (beside.distance < 40)
        distance = np.where(wide, beside.distance, np.inf).astype(np.float32)
        hits = hits.nearer(Hits(**{**vars(beside), 'distance': distance}))
    return hits


def _draw_beams(device: Device, habit: Habit, rng: Rng) -> tuple[Floats, Floats]:
    bias = rng.normal(0.0, device.bias_m, device.beams).astype(np.float32)
    gain = rng.normal(1.0, habit.beam_spread, device.beams).clip(0.6, 1.4).astype(np.float32)
    return bias, gain


def _reflect(hits: Hits) -> Floats:
    """Share of the normal return that comes back at this incidence."""
    gloss, facing = _GLOSS[hits.material], np.maximum(hits.facing, 1e-3)
    matt = 0.55 + 0.45 * np.sqrt(facing)
    return (1 - gloss) * matt + gloss * facing**4


def _see(hits: Hits, signal: Floats, device: Device, rng: Rng) -> Mask:
    """Grazing incidence, dark surfaces and range cost light; too little is no return."""
    distance = np.where(np.isfinite(hits.distance), hits.distance, 1e3)
    light = _INTENSITY[hits.material] * hits.tint * signal * np.sqrt(hits.facing + 0.02)
    light = light * 30 * np.exp(-distance / (1.5 * device.range_m))
    chance = (1 - _LOST[hits.material]) * (1 - np.exp(-light * (60 / (distance + 15))))
    near_enough = (distance > device.near_m) & (distance < device.range_m)
    return near_enough & (rng.random(len(distance), np.float32) < chance)


def _lose(hits: Hits, weather: Weather, rng: Rng) -> Mask:
    distance = np.where(np.isfinite(hits.distance), hits.distance, 0)
    chance = 1 - (1 - weather.lost) * np.exp(-weather.lost_per_m * distance)
    return rng.random(len(distance), np.float32) < chance


def _hide(device: Device, mount: Mount) -> Mask:
    """Rays that meet the roof, rack or mirrors of the sensor's own car."""
    rays = device.directions
    if mount.hood_deg is None:
        return np.zeros(len(rays), bool)
    azimuth = np.degrees(np.arctan2(rays[:, 1], rays[:, 0])) % 360
    edge = np.interp(azimuth, _CAR_DEG[:, 0], _CAR_DEG[:, 1], period=360) - mount.hood_deg
    return rays[:, 2] < np.sin(np.radians(edge.clip(-90, 90)))


def _mix(
    hits: Hits, kept: NDArray[np.int64], distance: Floats, device: Device, rng: Rng
) -> tuple[Floats, Mask]:
    """At an edge a beam may meet both surfaces and report a range between them."""
    following = hits.distance[np.minimum(kept + 1, len(hits.distance) - 1)]
    footprint = min(0.5, 0.15 * device.divergence_rad / device.step_rad)
    gap = np.where(np.isfinite(following), following - hits.distance[kept], 0)
    mixed = (np.abs(gap) > _EDGE_M) & (np.abs(gap) < 8)
    mixed &= rng.random(len(kept), np.float32) < footprint
    moved = np.where(mixed, gap * rng.random(len(kept), np.float32) ** 2, 0).astype(np.float32)
    outlier = (np.abs(moved) > _OUTLIER_M) & (np.abs(gap - moved) > _OUTLIER_M)
    return distance + moved, outlier


def _shine(
    hits: Hits, kept: NDArray[np.int64], signal: Floats, habit: Habit, gain: Floats, rng: Rng
) -> Floats:
    material = hits.material[kept]
    spread = 1 + _SPREAD[material] * rng.standard_normal(len(kept), np.float32)
    value = _INTENSITY[material] * hits.tint[kept] * signal[kept]
    value = (value * gain * habit.shade[material] * spread).clip(0, 1)
    value[rng.random(len(kept), np.float32) < habit.dark * _DARK[material]] = 0
    return habit.apply(value, hits.distance[kept])
