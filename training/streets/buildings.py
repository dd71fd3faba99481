# SPDX-License-Identifier: Apache-2.0
"""Buildings: facades with recessed windows and doors around a solid core, and a roof."""

from __future__ import annotations

import math

import numpy as np

from training.streets.mesh import Array, box, join, Mesh, prism, quads

BUILDING = 50
_RECESS_M = 0.18
Rng = np.random.Generator


def build_building(size: tuple[float, float, float], rng: Rng) -> Mesh:
    """size: (length along x, depth along y, height of the walls); windows on all four sides."""
    length, depth, height = size
    material = str(rng.choice(['plaster', 'brick', 'wood'], p=[0.75, 0.18, 0.07]))
    inner = (length - 2 * _RECESS_M - 0.1, depth - 2 * _RECESS_M - 0.1, height + 1.4)
    parts = [box(inner, (0, 0, height / 2 - 0.7), BUILDING, 'glass')]
    window = (rng.uniform(0.8, 1.5), rng.uniform(1.1, 1.7), rng.uniform(1.9, 3.4))
    for yaw, width, out in _sides(length, depth):
        parts.append(
            _facade(width, height, window, material)
            .placed((0, 0, 0))
            .placed((out * math.sin(yaw), -out * math.cos(yaw), 0), yaw)
        )
    parts += _roof(size, rng)
    parts += _details(size, rng)
    return join(parts).tinted(rng.uniform(0.75, 1.2))


def _sides(length: float, depth: float) -> list[tuple[float, float, float]]:
    """Yaw, width, distance from the middle of each facade."""
    return [
        (0.0, length, depth / 2),
        (math.pi, length, depth / 2),
        (math.pi / 2, depth, length / 2),
        (-math.pi / 2, depth, length / 2),
    ]


def _facade(
    width: float, height: float, window: tuple[float, float, float], material: str
) -> Mesh:
    """In the plane y = 0, facing -y: bays of equal width, storeys of 3 m, a window in each."""
    wide, tall, bay = window
    bays, storeys = max(1, int(width / bay)), max(1, int(height / 2.9))
    step, storey = width / bays, height / storeys
    wide = min(wide, 0.75 * step)
    left = -width / 2 + step * np.arange(bays) + (step - wide) / 2
    low = storey * np.arange(storeys) + 0.9
    u = np.sort(np.concatenate([[-width / 2], left, left + wide, [width / 2]]))
    v = np.sort(
        np.concatenate([[-1.2], low, np.minimum(low + tall, low - 0.9 + storey - 0.2), [height]])
    )
    cells = _cells(u, v)
    is_window = (np.arange(len(u) - 1)[:, None] % 2 == 1) & (np.arange(len(v) - 1) % 2 == 1)
    wall = quads(cells[~is_window], BUILDING, material)
    panes = cells[is_window] + [0, _RECESS_M, 0]
    return join([wall, quads(panes, BUILDING, 'glass')])


def _cells(u: Array, v: Array) -> Array:
    """(U-1, V-1, 4, 3) corners of the grid's cells in the plane y = 0."""
    ends = [(u[:-1], v[:-1]), (u[1:], v[:-1]), (u[1:], v[1:]), (u[:-1], v[1:])]
    grids = [np.meshgrid(x, z, indexing='ij') for x, z in ends]
    return np.stack([np.stack([x, 0 * x, z], -1) for x, z in grids], 2)


def _roof(size: tuple[float, float, float], rng: Rng) -> list[Mesh]:
    length, depth, height = size
    if height > 14 or rng.random() < 0.2:
        return [box((length, depth, 0.3), (0, 0, height + 0.15), BUILDING, 'roof')]
    rise, eaves = depth * rng.uniform(0.25, 0.45), depth / 2 + 0.4
    gable = prism(
        [(-eaves, height - 0.1), (eaves, height - 0.1), (0, height + rise)],
        length / 2 + 0.2,
        BUILDING,
        'roof',
    )
    return [gable.placed((0, 0, 0), math.pi / 2)]


def _details(size: tuple[float, float, float], rng: Rng) -> list[Mesh]:
    """Balconies, a porch, steps: what breaks up a facade towards the street (-y)."""
    length, depth, height = size
    parts = []
    if rng.random() < 0.3:
        x = rng.uniform(-0.3, 0.3) * length
        parts += [
            box((2.6, 1.1, 1.0), (x, -depth / 2 - 0.5, z + 0.4), BUILDING, 'plaster')
            for z in np.arange(2.9, height - 2, 2.9)
        ]
    if rng.random() < 0.5:
        x = rng.uniform(-0.35, 0.35) * length
        parts.append(box((1.8, 1.2, 0.45), (x, -depth / 2 - 0.5, 0.1), BUILDING, 'brick'))
        parts.append(box((2.0, 1.2, 0.12), (x, -depth / 2 - 0.5, 2.5), BUILDING, 'roof'))
    if rng.random() < 0.2:
        bay = min(3.0, 0.3 * length)
        parts.append(
            box(
                (bay, 0.9, height * 0.7), (0, -depth / 2 - 0.4, height * 0.35), BUILDING, 'plaster'
            )
        )
    return parts
