# SPDX-License-Identifier: Apache-2.0
"""Trees, bushes and hedges: clouds of leaves that let some of the rays through."""

from __future__ import annotations

import math

import numpy as np

from training.streets.mesh import Array, box, flakes, join, Mesh, tube

VEGETATION, TRUNK = 70, 71
Rng = np.random.Generator


def build_tree(rng: Rng, scale: float = 1.0) -> Mesh:
    """A trunk that may lean, branches inside the crown, a crown of clumps."""
    clear = rng.uniform(1.2, 3.6) * min(scale, 1.2)
    crown = rng.uniform(1.2, 3.4) * scale
    tall = crown * rng.uniform(0.8, 2.2)
    radius = rng.uniform(0.03, 0.14) * scale + 0.02
    lean: Array = np.append(rng.normal(0, 0.07, 2) * clear, clear)
    top = np.array([*lean[:2], clear + tall])
    trunk = tube(np.array([(0, 0, -0.3), lean]), (1.25 * radius, radius), TRUNK, 'bark', 9)
    stems = [tube([lean, (lean + top) / 2], (radius, 0.5 * radius), TRUNK, 'bark', 6)]
    if rng.random() < 0.3:  # forked: a second stem leans away
        aside = (lean + top) / 2 + np.append(rng.normal(0, 0.5 * crown, 2), 0)
        stems.append(tube([0.4 * lean, aside], (0.8 * radius, 0.4 * radius), TRUNK, 'bark', 6))
    middle = np.array([*lean[:2], clear + 0.95 * tall])
    leaves = _clump(middle, (crown, crown, tall), rng.uniform(35, 90), rng)
    parts = [trunk, *stems, *_branches(lean, crown, radius, rng), leaves]
    return join(parts).tinted(rng.uniform(0.75, 1.25))


def _branches(fork: Array, crown: float, radius: float, rng: Rng) -> list[Mesh]:
    angles = rng.uniform(0, 2 * math.pi, 4)
    ends = [
        fork + crown * np.array([0.6 * math.cos(a), 0.6 * math.sin(a), rng.uniform(0.3, 0.8)])
        for a in angles
    ]
    return [tube([fork, end], (0.5 * radius, 0.03), VEGETATION, 'bark', 5) for end in ends]


def _clump(centre: Array, radii: tuple[float, float, float], per_m2: float, rng: Rng) -> Mesh:
    """Leaves around twigs in an ellipsoid; the number follows the area that rays meet."""
    area = math.pi * radii[0] * radii[2]
    twigs = max(8, int(area * 4))
    direction = rng.normal(size=(twigs, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    reach = rng.uniform(0.25, 1.0, (twigs, 1)) ** 0.5
    twig = centre + direction * reach * np.array(radii)
    count = int(area * per_m2)
    leaves = twig[rng.integers(0, twigs, count)] + rng.normal(0, 0.22, (count, 3))
    leaves[:, 2] = np.maximum(leaves[:, 2], 0.03)
    return flakes(leaves, 0.22, rng, VEGETATION, 'leaf')


def build_bush(rng: Rng, size_m: float) -> Mesh:
    radii = (size_m * rng.uniform(0.7, 1.2), size_m * rng.uniform(0.7, 1.2), size_m * 0.7)
    bush = _clump(np.array([0, 0, 0.6 * size_m]), radii, rng.uniform(70, 150), rng)
    return bush.tinted(rng.uniform(0.7, 1.25))


def build_hedge(length_m: float, thick_m: float, height_m: float, rng: Rng) -> Mesh:
    """A trimmed hedge along x: a dense core, leaves on all faces."""
    core = (length_m, 0.55 * thick_m, 0.85 * height_m)
    solid = box(core, (0, 0, core[2] / 2), VEGETATION, 'leaf')
    count = int(length_m * (2 * height_m + thick_m) * 45)
    u, v = rng.uniform(-0.5, 0.5, count), rng.uniform(0, 1, count)
    around = v * (2 * height_m + thick_m)
    y = np.clip(around - height_m, 0, thick_m) - thick_m / 2
    z = np.minimum(np.minimum(around, 2 * height_m + thick_m - around), height_m)
    centres = np.column_stack([u * length_m, y, z]) + rng.normal(0, 0.08, (count, 3))
    return join([solid, flakes(centres, 0.13, rng, VEGETATION, 'leaf')])


def build_wood(length_m: float, depth_m: float, height_m: float, rng: Rng) -> Mesh:
    """The edge of a wood or a thicket along x: leaves from the ground up, trunks within."""
    count = int(length_m * height_m * 60)
    twigs = max(20, int(length_m * height_m * 1.2))
    xyz = rng.uniform((-0.5, -0.5, 0), (0.5, 0.5, 1), (twigs, 3))
    twig = xyz * (length_m, depth_m, height_m * rng.uniform(0.55, 1, (twigs, 1))[:, 0].mean())
    leaves = twig[rng.integers(0, twigs, count)] + rng.normal(0, 0.4, (count, 3))
    leaves[:, 2] = np.abs(leaves[:, 2])
    places = rng.uniform((-0.5, 0.0), (0.5, 0.4), (max(1, int(length_m / 9)), 2))
    stems = [
        tube(
            [(x * length_m, y * depth_m, -0.3), (x * length_m, y * depth_m, 0.7 * height_m)],
            (rng.uniform(0.04, 0.1), 0.04),
            TRUNK,
            'bark',
            6,
        )
        for x, y in places
    ]
    return join([*stems, flakes(leaves, 0.26, rng, VEGETATION, 'leaf')])
