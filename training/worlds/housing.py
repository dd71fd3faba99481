# SPDX-License-Identifier: Apache-2.0
"""Houses along the streets, what clings to their facades, and barriers before their gardens."""

from __future__ import annotations

from dataclasses import replace
import math

import numpy as np
from numpy.typing import NDArray

from training.streets import furniture, plants
from training.streets.buildings import build_building, BUILDING
from training.streets.materials import MATERIAL
from training.streets.mesh import Array, box, join, Mesh, tube
from training.worlds.site import Edge, Site

Rng = np.random.Generator
_BACK_M = {'facade': (0.0, 0.6), 'garden': (0.0, 4.0), 'lot': (0.0, 8.0), 'open': (4.0, 30.0)}
_BLINDS = 0.75  # share of the windows that do not look like glass: curtains, shutters
_GAP_M = {'facade': (0.0, 3.0), 'garden': (1.5, 11.0), 'lot': (4.0, 30.0), 'open': (15.0, 60.0)}


def place_houses(site: Site) -> None:
    for edge in site.edges():
        if edge.front.kind != 'wood' and site.place.name != 'highway':
            _line_with_houses(edge)


def _line_with_houses(edge: Edge) -> None:
    rng, kind = edge.site.rng, edge.front.kind
    line = edge.front.begin('yard')
    s = edge.span[0] + rng.uniform(0, 6)
    row = kind == 'facade' and rng.random() < 0.6  # one wall without gaps
    while s < edge.span[1] - 6:
        length = rng.uniform(7, 24)
        back = 0.0 if row else rng.uniform(*_BACK_M[kind])
        _put_house(edge, s + length / 2, line + back, length)
        s += length + (0.0 if row else rng.uniform(*_GAP_M[kind]))


def _put_house(edge: Edge, s: float, aside: float, length: float) -> None:
    rng, site = edge.site.rng, edge.site
    depth, height = rng.uniform(7, 13), rng.uniform(*site.place.height_m)
    ends = [s - length / 2, s, s + length / 2]
    if not edge.is_free(ends * 2, [aside] * 3 + [aside + depth] * 3, 1.5).all():
        return
    middle = edge.at(s, aside + depth / 2)
    if not site.take(middle, 0.42 * min(length, depth) + 0.08 * length):
        return
    house = draw_blinds(build_building((length, depth, height), rng), rng)
    dressed = join([house, *dress_facade((length, depth, height), rng)])
    site.put(dressed, middle, edge.away(s) - math.pi / 2)
    if rng.random() < 0.35:
        _put_behind(edge, s, aside + depth)


def _put_behind(edge: Edge, s: float, aside: float) -> None:
    """A garage, a second house in the yard."""
    rng, site = edge.site.rng, edge.site
    size = rng.uniform(4, 12), rng.uniform(4, 9), rng.uniform(2.4, 8)
    s, aside = s + rng.uniform(-8, 8), aside + rng.uniform(5, 20)
    if edge.is_free(s, aside, 1.0) and site.take(edge.at(s, aside), 0.6 * max(size[:2])):
        yaw = edge.away(s) - math.pi / 2 + rng.normal(0, 0.15)
        site.put(draw_blinds(build_building(size, rng), rng), edge.at(s, aside), yaw)


def draw_blinds(house: Mesh, rng: Rng) -> Mesh:
    """Most windows return light as a wall does, for curtains and blinds hang behind them."""
    pane = rng.random((len(house) + 1) // 2).repeat(2)[: len(house)] < _BLINDS
    glass = house.material == MATERIAL['glass']
    material = np.where(pane & glass, MATERIAL['plaster'], house.material).astype(np.uint8)
    return replace(house, material=material)


def dress_facade(size: tuple[float, float, float], rng: Rng) -> list[Mesh]:
    """What stands out from the wall towards the street (-y) or lies behind it."""
    length, depth, height = size
    wall = -depth / 2
    parts = []
    for x in np.arange(-length / 2 + 0.4, length / 2, rng.uniform(5, 12)):
        if rng.random() < 0.5:  # drainpipes
            parts.append(tube([(x, wall - 0.1, 0), (x, wall - 0.1, height)], 0.06, BUILDING,
                              'metal', 5))  # fmt: skip
    for _ in range(int(rng.poisson(0.14 * length))):
        parts.append(_bay(rng.uniform(-0.45, 0.45) * length, wall, height, rng))
    if rng.random() < 0.25:  # an awning or a canopy
        x, wide = rng.uniform(-0.3, 0.3) * length, rng.uniform(2, 5)
        parts.append(box((wide, 1.4, 0.08), (x, wall - 0.7, 2.6), BUILDING, 'cloth'))
    if rng.random() < 0.4:  # a plinth
        parts.append(box((length, depth + 0.24, 0.9), (0, 0, 0.1), BUILDING, 'brick'))
    return parts


def _bay(x: float, wall: float, height: float, rng: Rng) -> Mesh:
    """A bay, a stair, a light well, a box at the wall."""
    kind = int(rng.integers(4))
    if kind == 0:
        deep = rng.uniform(0.3, 1.4)
        return box((rng.uniform(1.5, 4), deep, height * 0.8), (x, wall - deep / 2, height * 0.4),
                   BUILDING, 'plaster')  # fmt: skip
    if kind == 1:
        steps = [box((1.4, 1.2 - 0.3 * k, 0.18), (x, wall - 0.6 + 0.15 * k, 0.09 + 0.18 * k),
                     BUILDING, 'brick') for k in range(4)]  # fmt: skip
        return join(steps)
    if kind == 2:
        return box((0.9, 0.25, 0.7), (x, wall - 0.12, rng.uniform(0.8, 1.6)), BUILDING, 'metal')
    deep, tall = rng.uniform(0.6, 2.5), rng.uniform(2.2, 3.0)
    return box((rng.uniform(2, 4), deep, tall), (x, wall - deep / 2, tall / 2), BUILDING, 'brick')


def place_barriers(site: Site) -> None:
    for edge in site.edges():
        if edge.front.barrier:
            _build_barrier(edge)


def _build_barrier(edge: Edge) -> None:
    """Along the inner edge of the front, with gaps at driveways and some elsewhere."""
    rng, front = edge.site.rng, edge.front
    aside = front.begin('front') + 0.15 if front.barrier != 'rail' else 0.5
    s = np.arange(edge.span[0], edge.span[1], 2.0)
    opening = rng.random(len(s)) < 0.04
    closed = edge.is_free(s, np.full(len(s), aside)) & ~opening
    if front.barrier != 'rail':
        closed &= np.array([not edge.has_drive(at) for at in s], bool)
    for begin, end in runs(closed):
        if end - begin >= 2:
            _build_run(edge, s[begin:end], aside)


def _build_run(edge: Edge, s: Array, aside: float) -> None:
    rng, site, front = edge.site.rng, edge.site, edge.front
    if front.barrier == 'hedge':
        thick = rng.uniform(0.5, 1.3)
        for a, b in zip(s, s[1:]):
            tall = front.barrier_m * rng.uniform(0.9, 1.1)
            hedge = plants.build_hedge(b - a + 0.3, thick, tall, rng)
            middle = edge.at((a + b) / 2, aside + thick / 2)
            site.put(hedge, middle, float(edge.street.yaw((a + b) / 2)))
        return
    feet = edge.at(s, aside)
    feet = np.column_stack([feet, site.ground.height(feet)])
    height = 0.8 if front.barrier == 'rail' else front.barrier_m
    site.meshes.append(furniture.build_fence(feet, front.barrier, height))


def runs(closed: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Begins and ends of what is true without a gap."""
    padded = np.concatenate([[False], closed, [False]]).astype(np.int8)
    change = np.diff(padded)
    return list(zip(np.flatnonzero(change > 0).tolist(), np.flatnonzero(change < 0).tolist()))
