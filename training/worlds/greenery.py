# SPDX-License-Identifier: Apache-2.0
"""Dense plants: crowns, shrubs and thickets whose leaves stop nearly every ray.

Each is a rough closed surface with leaves around it; streets.plants has the airy ones.
"""

from __future__ import annotations

import math

import numpy as np

from training.streets.mesh import Array, flakes, join, Mesh, sheet, tube
from training.streets.plants import TRUNK, VEGETATION

Rng = np.random.Generator


def build_crown(centre: Array, radii: tuple[float, float, float], rng: Rng) -> Mesh:
    """A lumpy ellipsoid with leaves that stand out from it."""
    around = np.linspace(0, math.tau, 15)[:, None]
    up = np.linspace(-math.pi / 2, math.pi / 2, 9)[None, :]
    unit = [np.cos(up) * np.cos(around), np.cos(up) * np.sin(around), np.sin(up) + 0 * around]
    lumps = rng.uniform(0.65, 1.1, (15, 9, 1))
    lumps[-1] = lumps[0]
    core = sheet(np.stack(unit, -1) * lumps * radii + centre, VEGETATION, 'leaf')
    count = int(90 * radii[0] * radii[2])
    way = rng.normal(size=(count, 3))
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    leaves = centre + way * rng.uniform(0.8, 1.3, (count, 1)) * np.array(radii)
    leaves[:, 2] = np.maximum(leaves[:, 2], 0.03)
    return join([core, flakes(leaves, 0.2, rng, VEGETATION, 'leaf')])


def build_leafy_tree(rng: Rng, scale: float, *, clear_m: float) -> Mesh:
    """A trunk up to `clear_m` and a crown of a few clumps above it."""
    wide, tall = rng.uniform(1.0, 2.4) * scale, rng.uniform(1.2, 3.4) * scale
    radius = rng.uniform(0.05, 0.13) * scale
    lean = np.append(rng.normal(0, 0.05, 2) * clear_m, clear_m + 0.3 * tall)
    parts = [tube(np.array([(0, 0, -0.3), lean]), (1.2 * radius, 0.8 * radius), TRUNK, 'bark', 8)]
    for _ in range(int(rng.integers(1, 4))):
        aside = rng.normal(0, 0.35 * wide, 3) + (0, 0, clear_m + 0.6 * tall)
        parts.append(build_crown(lean * (1, 1, 0) + aside, (wide, wide, 0.6 * tall), rng))
    return join(parts).tinted(rng.uniform(0.8, 1.2))


def build_shrub(rng: Rng, size_m: float) -> Mesh:
    radii = size_m * rng.uniform(0.6, 1.3), size_m * rng.uniform(0.6, 1.3), 0.65 * size_m
    return build_crown(np.array([0, 0, 0.5 * size_m]), radii, rng).tinted(rng.uniform(0.75, 1.2))


def build_thicket(size: tuple[float, float, float], rng: Rng) -> Mesh:
    """size: length along x, depth along y, height; a rough body, lowest at its ends in y."""
    length, depth, height = size
    x = np.linspace(-length / 2, length / 2, max(3, int(length / 0.5)))
    outline = np.array([(-0.5, 0), (-0.5, 0.45), (-0.38, 0.85), (0, 1), (0.38, 0.85), (0.5, 0)])
    points = np.empty((len(x), len(outline), 3))
    points[..., 0] = x[:, None]
    points[..., 1] = outline[:, 0] * depth
    points[..., 2] = outline[:, 1] * height * rng.uniform(0.75, 1.1, (len(x), 1))
    points += rng.normal(0, min(0.18, 0.15 * depth), points.shape)
    points[:, [0, -1], 2] = -0.2
    body = sheet(points, VEGETATION, 'leaf')
    count = int(length * (height + depth) * 14)
    rows, columns = rng.integers(0, len(x), count), rng.integers(1, len(outline) - 1, count)
    leaves = points[rows, columns] + rng.normal(0, 0.3, (count, 3))
    leaves[:, 2] = np.abs(leaves[:, 2])
    return join([body, flakes(leaves, 0.2, rng, VEGETATION, 'leaf')]).tinted(rng.uniform(0.8, 1.2))
