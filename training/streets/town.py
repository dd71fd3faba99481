# SPDX-License-Identifier: Apache-2.0
"""Fills a block: houses, barriers, plants, poles, and what is parked or stands there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
import math

import numpy as np

from training.streets import furniture, people, plants, vehicles
from training.streets.buildings import build_building
from training.streets.mesh import join, Mesh
from training.streets.road import Block, build_ground, Road

Rng = np.random.Generator
_THINGS_PER_BLOCK = 900  # instance ids; what moves has its own range above
MOVING_FROM = 60_000


@dataclass
class Plot:
    """One side of a block while it is being filled."""

    road: Road
    block: Block
    sign: int  # 1: left, -1: right
    rng: Rng
    enrich: float
    meshes: list[Mesh] = field(default_factory=list)
    things: int = 0

    def put(self, mesh: Mesh, s: float, aside: float, turn: float = 0.0) -> None:
        """`turn` is seen from the road: 0 looks along it, pi/2 away from it."""
        t = self.sign * aside
        at = self.road.course.locate(s, t, self.road.height(s, t, self.block))
        self.meshes.append(mesh.placed(at, float(self.road.course.yaw(s)) + self.sign * turn))

    def put_thing(self, mesh: Mesh, s: float, aside: float, turn: float = 0.0) -> None:
        self.put(mesh, s, aside, turn)
        self.things += 1
        number = self.block.index * _THINGS_PER_BLOCK + 2 * self.things + (self.sign > 0)
        self.meshes[-1] = self.meshes[-1].placed((0, 0, 0), 0, 1 + number % (MOVING_FROM - 1))

    def strip(self, *names: str) -> tuple[float, float]:
        """The first of these strips that exists, else the ground next to the road."""
        for name in names:
            if found := self.block.side(self.sign).find(name):
                return found
        edge = self.road.half_m
        return edge, edge + 1.5

    def along(self, per_100m: float, rare: bool = False) -> Iterator[float]:
        """Random places s along the block; rare things follow `enrich`."""
        low, high = self.block.span
        mean = per_100m * (high - low) / 100 * (self.enrich if rare else 1.0)
        yield from self.rng.uniform(low, high, self.rng.poisson(mean))

    def within(self, strip: tuple[float, float]) -> float:
        return float(self.rng.uniform(*strip))


def build_block(road: Road, block: Block, rng: Rng, enrich: float) -> Mesh:
    """Everything in a block that does not move."""
    meshes = [build_ground(road, block)]
    for sign in (1, -1):
        plot = Plot(road=road, block=block, sign=sign, rng=rng, enrich=enrich)
        for fill in _FILLERS:
            fill(plot)
        meshes += plot.meshes
    return join(meshes)


def _place_houses(plot: Plot) -> None:
    kind, rng = plot.road.quarter, plot.rng
    if not kind.houses[1]:
        return
    low, high = plot.block.span
    line = plot.strip('front')[1]
    s = low + rng.uniform(*kind.house_gap_m) * rng.uniform(0, 0.5)
    while s < high - kind.houses[0]:
        length = min(rng.uniform(*kind.houses), high - s)
        depth, height = rng.uniform(8, 13), rng.uniform(*kind.house_height_m)
        back = rng.uniform(0, 3) if kind.name == 'city' else rng.uniform(0, 9)
        house = build_building((length, depth, height), rng)
        plot.put(house, s + length / 2, line + back + depth / 2, 0.0 if plot.sign > 0 else math.pi)
        if rng.random() < 0.5:
            _place_behind(plot, s + length / 2, line + back + depth)
        s += length + rng.uniform(*kind.house_gap_m)


def _place_behind(plot: Plot, s: float, line: float) -> None:
    """A garage, a second house or trees in the yard."""
    rng = plot.rng
    size = (rng.uniform(5, 12), rng.uniform(5, 10), rng.uniform(2.6, 8))
    if rng.random() < 0.6:
        plot.put(build_building(size, rng), s + rng.uniform(-6, 6), line + rng.uniform(12, 30))
    for _ in range(int(rng.poisson(3))):
        tree = plants.build_tree(rng, rng.uniform(1.0, 2.2))
        plot.put(tree, s + rng.uniform(-10, 10), line + rng.uniform(3, 14))


def _place_background(plot: Plot) -> None:
    """Houses, tall trees and thickets far behind, seen through the gaps in front of them."""
    rng, line = plot.rng, plot.strip('front')[1]
    for s in plot.along(2.0 if plot.road.quarter.houses[1] else 0.3):
        size = rng.uniform(8, 22), rng.uniform(8, 14), rng.uniform(4, 14)
        plot.put(build_building(size, rng), s, line + rng.uniform(28, 65), rng.uniform(-0.5, 0.5))
    for s in plot.along(4.0):
        plot.put(plants.build_tree(rng, rng.uniform(1.5, 3.0)), s, line + rng.uniform(14, 60))
    for s in plot.along(2.5):
        wood = plants.build_wood(10.0, 5.0, rng.uniform(1.5, 8.0), rng)
        plot.put(wood, s, line + rng.uniform(16, 60), rng.uniform(-1.5, 1.5))


def _place_barrier(plot: Plot) -> None:
    """Along the front, with gaps where one may enter."""
    barrier, rng = plot.block.side(plot.sign).barrier, plot.rng
    if not barrier:
        return
    low, high = plot.block.span
    line = plot.strip('front')[0] + (0.25 if barrier != 'rail' else -0.6)
    line = max(line, plot.road.half_m + (0.3 if barrier == 'rail' else 1.2))
    noise_wall = plot.road.quarter.name == 'highway' and barrier == 'boards'
    height = rng.uniform(2.5, 4.0) if noise_wall else rng.uniform(0.8, 2.3)
    s = low
    while s < high - 4:
        end = high if barrier == 'rail' else min(high, s + rng.uniform(8, 30))
        _build_barrier(plot, barrier, (s, end), line, 0.8 if barrier == 'rail' else height)
        s = end + rng.uniform(2.5, 5.0)


def _build_barrier(
    plot: Plot, barrier: str, span: tuple[float, float], line: float, height: float
) -> None:
    if barrier == 'hedge':
        thick = plot.rng.uniform(0.5, 1.1)
        for s in np.arange(span[0], span[1] - 2, 4.0):
            hedge = plants.build_hedge(min(4.1, span[1] - s), thick, height, plot.rng)
            plot.put(hedge, s + 2, line + thick / 2)
        return
    s = np.append(np.arange(span[0], span[1] - 1.5, 3.0), span[1])
    t = plot.sign * line
    feet = plot.road.course.locate(s, t, plot.road.height(s, np.full_like(s, t), plot.block))
    plot.meshes.append(furniture.build_fence(feet, barrier, height))


def _place_median(plot: Plot) -> None:
    """Guard rails between the carriageways of a highway."""
    median = plot.block.side(plot.sign).find('median')
    if median:
        for line in (median[0] + 0.6, median[1] - 0.6):
            _build_barrier(plot, 'rail', plot.block.span, line, 0.8)


def _place_plants(plot: Plot) -> None:
    kind, rng = plot.road.quarter, plot.rng
    size = rng.uniform(0.8, 1.7)
    for s in plot.along(kind.trees):
        inner, outer = plot.strip(*(('verge', 'front') if rng.random() < 0.6 else ('front',)))
        inner, outer = max(inner, plot.road.half_m + 0.7), max(outer, plot.road.half_m + 1.4)
        plot.put(
            plants.build_tree(rng, size * rng.uniform(0.8, 1.2)), s, plot.within((inner, outer))
        )
    for s in plot.along(kind.bushes):
        inner, outer = plot.strip('front')
        bush = plants.build_bush(rng, rng.uniform(0.35, 1.3))
        plot.put(bush, s, plot.within((max(inner + 0.8, plot.road.half_m + 2.8), outer + 3)))
    if rng.random() < kind.wood:
        _place_wood(plot)
    if rng.random() < 0.6 * kind.wood:
        _place_wild(plot)


def _place_wood(plot: Plot) -> None:
    low, high = plot.block.span
    line, height = plot.strip('front')[1] + plot.rng.uniform(-2, 8), plot.rng.uniform(3, 14)
    line = max(line, plot.road.half_m + 3)
    for s in np.arange(low + 5, high - 4, 10.0):
        if plot.rng.random() < 0.85:
            wood = plants.build_wood(10.5, 7.0, height * plot.rng.uniform(0.6, 1.2), plot.rng)
            plot.put(wood, s, line + 3.5, 0.0 if plot.sign > 0 else math.pi)


def _place_wild(plot: Plot) -> None:
    """Weeds and thickets that nobody trims, close to the road."""
    rng = plot.rng
    low, high = plot.block.span
    line = max(plot.strip('front')[0] + 0.3, plot.road.half_m + 1.0) + rng.uniform(0, 4)
    height = rng.uniform(0.4, 2.8)
    for s in np.arange(low + 3, high - 3, 5.0):
        if rng.random() < 0.7:
            depth = rng.uniform(0.6, 3.0)
            wild = plants.build_wood(5.5, depth, height * rng.uniform(0.5, 1.4), rng)
            plot.put(wild, s, line + depth / 2, 0.0 if plot.sign > 0 else math.pi)


def _place_furniture(plot: Plot) -> None:
    kind, rng = plot.road.quarter, plot.rng
    beside = plot.strip('verge', 'walk')[0] + 0.45
    facing = math.pi / 2 * plot.sign + math.pi / 2  # signs face those who come
    lamp_or_pole = (furniture.build_lamp, furniture.build_pole)
    for s in plot.along(kind.poles):
        plot.put(lamp_or_pole[int(rng.random() < 0.45)](rng), s, beside, -math.pi / 2)
    for s in plot.along(kind.signs):
        board = kind.name == 'highway' or rng.random() < 0.06
        sign = (furniture.build_board if board else furniture.build_sign)(rng)
        plot.put(sign, s, beside + 1.5 * board, plot.sign * (math.pi - facing))
    for s in plot.along(kind.clutter):
        plot.put(furniture.build_clutter(rng), s, plot.strip('walk')[1] - 0.3, -math.pi / 2)
    for s in plot.along(0.4 * kind.clutter):
        plot.put(furniture.build_shed(rng), s, plot.strip('front')[1] + rng.uniform(-1, 3))
    if kind.name == 'city' and rng.random() < 0.25:
        plot.put(furniture.build_shelter(), sum(plot.block.span) / 2, plot.strip('walk')[1], -1.57)
    if kind.name == 'highway' and plot.sign < 0 and rng.random() < 0.4:
        gantry = furniture.build_gantry(2 * plot.road.half_m + 2, rng)
        plot.put(gantry, sum(plot.block.span) / 2, plot.road.half_m + 1, 0.0)


def _draw_parked(plot: Plot) -> Mesh:
    build = [vehicles.build_car, vehicles.build_van, vehicles.build_truck]
    build += [vehicles.build_trailer, vehicles.build_bus]
    weights = np.array([0.82, 0.1, 0.03, 0.04, 0.01]) * [1, 1, *[plot.enrich] * 3]
    return build[int(plot.rng.choice(5, p=weights / weights.sum()))](plot.rng)


def _place_parked(plot: Plot) -> None:
    """In the parking strip, or half on the sidewalk where there is none."""
    rng, strip = plot.rng, plot.block.side(plot.sign).find('parking')
    low, high = plot.block.span
    if strip and strip[1] - strip[0] > 4:
        for s in np.arange(low + 2, high - 2, 2.7):
            if rng.random() < plot.road.quarter.parked:
                turn = float(rng.choice([-1, 1])) * math.pi / 2
                plot.put_thing(vehicles.build_car(rng), s, sum(strip) / 2 + 0.2, turn)
        return
    on_curb = plot.road.quarter.parked > 0.35 and plot.block.side(plot.sign).find('walk')
    if not strip and not on_curb:
        return
    taken = plot.road.quarter.parked * (1.0 if strip else 0.25) * rng.uniform(0.4, 1.4)
    aside = sum(strip) / 2 if strip else plot.road.half_m + 0.5
    s = low + 4.0
    while s < high - 3:
        if rng.random() < taken:
            vehicle = _draw_parked(plot) if strip else vehicles.build_car(rng)
            half = float(np.ptp(vehicle.vertices[:, 0])) / 2
            if s + 2 * half < high:
                turn = 0.0 if rng.random() < 0.85 else math.pi
                plot.put_thing(vehicle, s + half, aside + rng.normal(0, 0.08), turn)
            s += 2 * half - 4.5
        s += rng.uniform(5.2, 6.4)


def _place_two_wheelers(plot: Plot) -> None:
    kind, rng = plot.road.quarter, plot.rng
    for s in plot.along(kind.bicycles / 3, rare=True):  # they stand together
        aside = plot.strip('walk')[1] - 0.5
        for index in range(int(rng.integers(1, 6))):
            turn = math.pi / 2 + rng.normal(0, 0.1)
            plot.put_thing(vehicles.build_bicycle(rng), s + 0.6 * index, aside, turn)
    for s in plot.along(kind.motorcycles, rare=True):
        aside = plot.within(plot.strip('parking', 'walk'))
        plot.put_thing(vehicles.build_motorcycle(rng), s, aside, rng.uniform(0.5, 2.5))


def _place_people(plot: Plot) -> None:
    """Those who stand: on the sidewalk, or with their bicycle at the crossing."""
    kind, rng = plot.road.quarter, plot.rng
    for s in plot.along(0.4 * kind.walkers, rare=True):
        for _ in range(int(rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1]))):
            body = people.build_person(people.draw_body(rng), 0.8, rng.uniform(0, 0.25))
            aside = plot.within(plot.strip('walk'))
            plot.put_thing(body, s + rng.normal(0, 0.6), aside, rng.uniform(0, 6.28))
    for build in (people.build_bicyclist, people.build_motorcyclist):
        if rng.random() < 0.06 * kind.cyclists * plot.enrich:
            place = plot.block.start_m + plot.block.crossing_m + rng.uniform(0.5, 2)
            plot.put_thing(
                build(rng), place, plot.road.half_m + rng.uniform(0.3, 1.0), -math.pi / 2
            )


def _place_side_street(plot: Plot) -> None:
    """Cars that wait in the side street or are parked further back."""
    rng, block = plot.rng, plot.block
    if block.crossing_m < 5.5:
        return
    middle = block.start_m + block.crossing_m / 2
    for aside in np.arange(plot.road.half_m + 4.5, 45, 7.0):
        if rng.random() < 0.5 * plot.road.quarter.parked:
            turn = float(rng.choice([-1, 1])) * math.pi / 2
            at = middle + math.copysign(block.crossing_m / 2 - 1.3, turn * plot.sign)
            plot.put_thing(_draw_parked(plot), at, aside, turn)


_FILLERS = (
    _place_houses,
    _place_background,
    _place_barrier,
    _place_median,
    _place_plants,
    _place_furniture,
    _place_parked,
    _place_two_wheelers,
    _place_people,
    _place_side_street,
)
