# SPDX-License-Identifier: Apache-2.0
"""A small street seen by a 64-beam LiDAR, labelled with SemanticKITTI's train ids.

Boxes, upright cylinders and spheres hit by rays in numpy: enough for a benchmark without data and
for a first demonstration. (The street simulator proper has its own package.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
import math

import numpy as np
from numpy.typing import NDArray

from lidar_kd.labels import SEMANTICKITTI

Array = NDArray[np.floating]
HEIGHT_M = 1.73  # of the sensor above the road
BEAMS, STEPS = 64, 2083  # HDL-64E: elevations from +2 to -24.8 degrees, 0.17 degrees around
RANGE_M = 80.0
NOISE_M = 0.02
CLASS = {name: index for index, name in enumerate(SEMANTICKITTI.names)}


@dataclass
class Street:
    """What the rays can hit; z = 0 is the road."""

    boxes: list[tuple[str, Array, Array]] = field(default_factory=list)  # class, low, high
    cylinders: list[tuple[str, Array, float, float]] = field(default_factory=list)  # foot, r, h
    spheres: list[tuple[str, Array, float]] = field(default_factory=list)  # centre, radius


def make_street(seed: int) -> Street:
    """Houses, parked and moving cars, trees, poles, hedges and people along a straight road."""
    rng = np.random.default_rng(seed)
    street = Street()
    for side in (-1.0, 1.0):
        _houses(street, rng, side)
        _parked_cars(street, rng, side)
        _trees_and_poles(street, rng, side)
        _people(street, rng, side)
    for x in np.arange(-60, 60, 24) + rng.uniform(0, 12):
        lane = 1.8 if rng.random() < 0.5 else -1.8
        if abs(x) > 6 and rng.random() < 0.6:
            _box(street, 'car', (x, lane), (4.4, 1.8, 1.5), 0.25)
    return street


def _box(street: Street, name: str, at: tuple[float, float], size: tuple, lift: float) -> None:
    low = np.array([at[0] - size[0] / 2, at[1] - size[1] / 2, lift])
    high = np.array([at[0] + size[0] / 2, at[1] + size[1] / 2, lift + size[2]])
    street.boxes.append((name, low, high))


def _houses(street: Street, rng: np.random.Generator, side: float) -> None:
    x = -80.0
    while x < 80:
        width, depth, gap = rng.uniform(8, 18), rng.uniform(8, 12), rng.uniform(2, 9)
        y = side * (rng.uniform(12, 16) + depth / 2)
        _box(street, 'building', (x + width / 2, y), (width, depth, rng.uniform(5, 12)), 0)
        if rng.random() < 0.6:
            _box(street, 'fence', (x + width + gap / 2, side * 10.5), (gap, 0.1, 1.3), 0)
        if rng.random() < 0.5:
            hedge = (x + width / 2, side * 10)
            _box(street, 'vegetation', hedge, (width * 0.6, 0.8, rng.uniform(0.8, 1.6)), 0)
        x += width + gap


def _parked_cars(street: Street, rng: np.random.Generator, side: float) -> None:
    for x in np.arange(-60, 60, 6.5) + rng.uniform(0, 3):
        if abs(x) > 5 and rng.random() < 0.35:
            large = rng.random() < 0.1
            size = (7.5, 2.4, 2.9) if large else (4.2, 1.75, rng.uniform(1.3, 1.6))
            _box(street, 'truck' if large else 'car', (x, side * 4.6), size, 0.2)


def _trees_and_poles(street: Street, rng: np.random.Generator, side: float) -> None:
    for x in np.arange(-70, 70, 9.0) + rng.uniform(0, 6):
        foot = np.array([x, side * rng.uniform(7.2, 9)])
        if rng.random() < 0.5:
            height = rng.uniform(2, 3.5)
            street.cylinders.append(('trunk', foot, rng.uniform(0.12, 0.25), height))
            radius = rng.uniform(1.2, 2.2)
            centre = np.append(foot, height + 0.7 * radius)
            street.spheres.append(('vegetation', centre, radius))
        elif rng.random() < 0.7:
            street.cylinders.append(('pole', foot, 0.08, rng.uniform(3, 6)))
            if rng.random() < 0.4:
                sign = np.array([0.05, 0.35, 0.35])
                middle = np.append(foot, 2.4)
                street.boxes.append(('traffic-sign', middle - sign, middle + sign))


def _people(street: Street, rng: np.random.Generator, side: float) -> None:
    for _ in range(rng.integers(2, 7)):
        foot = np.array([rng.uniform(-30, 30), side * rng.uniform(5.8, 7)])
        street.cylinders.append(('person', foot, 0.28, rng.uniform(1.5, 1.9)))


def scan_street(street: Street, seed: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """(N, 4) points in the sensor's frame with intensity 0-1, and their train ids (N,)."""
    rng = np.random.default_rng(seed)
    directions = _directions(rng)
    origin = np.array([rng.uniform(-8, 8), rng.uniform(-1.5, 1.5), HEIGHT_M])
    nearest = np.full(len(directions), RANGE_M)
    label = np.full(len(directions), 255, np.uint8)

    def meet(name: str, distance: Array) -> None:
        closer = (distance > 0.5) & (distance < nearest)
        nearest[closer] = distance[closer]
        label[closer] = CLASS[name]

    _meet_ground(origin, directions, meet)
    for name, low, high in street.boxes:
        meet(name, _to_box(origin, directions, low, high))
    for name, foot, radius, height in street.cylinders:
        meet(name, _to_cylinder(origin, directions, foot, radius, height))
    for name, centre, radius in street.spheres:
        leaves = radius * rng.uniform(0.6, 1.0, len(directions))  # a ragged crown
        meet(name, _to_sphere(origin, directions, centre, leaves))
    seen = (label != 255) & (rng.random(len(label)) > 0.06)
    distance = nearest[seen] + rng.normal(0, NOISE_M, int(seen.sum()))
    points = distance[:, None] * directions[seen]
    intensity = np.clip(0.1 + 0.04 * label[seen] + rng.normal(0, 0.05, len(distance)), 0, 1)
    return np.column_stack([points, intensity]).astype(np.float32), label[seen]


def _directions(rng: np.random.Generator) -> Array:
    elevation = np.radians(np.linspace(2.0, -24.8, BEAMS))[:, None]
    azimuth = np.linspace(-math.pi, math.pi, STEPS, endpoint=False)[None, :]
    azimuth = azimuth + rng.uniform(0, 0.003, (BEAMS, 1))
    flat = np.cos(elevation)
    parts = [flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation) + 0 * azimuth]
    return np.stack(parts, -1).reshape(-1, 3)


def _meet_ground(origin: Array, rays: Array, meet: Callable[[str, Array], None]) -> None:
    """Road, raised sidewalk, terrain: strips along the road, each a level plane."""
    strips = [('road', 0.0, 0.0, 5.6), ('sidewalk', 0.13, 5.6, 7.6), ('terrain', 0.1, 7.6, 200.0)]
    for name, z, inner, outer in strips:
        with np.errstate(divide='ignore', invalid='ignore'):
            distance = (z - origin[2]) / rays[:, 2]
        side = np.abs(origin[1] + distance * rays[:, 1])
        meet(name, np.where((side >= inner) & (side < outer), distance, np.inf))


def _to_box(origin: Array, rays: Array, low: Array, high: Array) -> Array:
    with np.errstate(divide='ignore', invalid='ignore'):
        a, b = (low - origin) / rays, (high - origin) / rays
    enter = np.minimum(a, b).max(1)
    leave = np.maximum(a, b).min(1)
    return np.where(enter < leave, enter, np.inf)


def _to_cylinder(origin: Array, rays: Array, foot: Array, radius: float, height: float) -> Array:
    flat = np.hypot(rays[:, 0], rays[:, 1])
    offset = foot - origin[:2]
    along = (rays[:, :2] @ offset) / flat
    aside = np.abs(rays[:, 0] * offset[1] - rays[:, 1] * offset[0]) / flat
    distance = (along - np.sqrt(np.maximum(radius**2 - aside**2, 0))) / flat
    z = origin[2] + distance * rays[:, 2]
    return np.where((aside < radius) & (z > 0) & (z < height), distance, np.inf)


def _to_sphere(origin: Array, rays: Array, centre: Array, radius: Array) -> Array:
    along = rays @ (centre - origin)
    aside = ((centre - origin) ** 2).sum() - along**2
    depth = radius**2 - aside
    return np.where(depth > 0, along - np.sqrt(np.maximum(depth, 0)), np.inf)
