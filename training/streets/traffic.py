# SPDX-License-Identifier: Apache-2.0
"""Everybody who moves: vehicles in their lanes, people on the sidewalks, riders at the edge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import math

import numpy as np

from training.streets import people, vehicles
from training.streets.mesh import join, Mesh
from training.streets.road import MARGIN_M, Road
from training.streets.town import MOVING_FROM

Rng = np.random.Generator
MOVING = {10: 252, 31: 253, 30: 254, 32: 255, 16: 256, 13: 257, 18: 258, 20: 259}
_STEP_LENGTH_M = 1.45  # of two paces
_BEFORE_M = MARGIN_M - 40  # of the road behind the first pose that is used
_VIEW_M = 120.0


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Metres driven as a function of time: a steady speed with slow waves."""

    speed_mps: float
    sway: float = 0.0  # relative
    period_s: float = 9.0

    def metres(self, time_s: float) -> float:
        turn = 2 * math.pi / self.period_s
        return self.speed_mps * (time_s + self.sway * math.sin(turn * time_s) / turn)


@dataclass(frozen=True, kw_only=True)
class Mover:
    """Goes along the road for ever; leaves at one end and comes back at the other."""

    mesh: Mesh
    body: people.Body | None  # a person who walks is built anew for every scan
    start_m: float
    direction: int
    pace: Pace
    aside: Callable[[float], float]  # s -> t
    instance: int

    def place(self, road: Road, time_s: float) -> tuple[float, float]:
        """(s, t) at a time."""
        span = road.blocks[-1].end_m - 40 + _BEFORE_M
        moved = self.start_m + self.direction * self.pace.metres(time_s)
        s = (moved + _BEFORE_M) % span - _BEFORE_M
        return s, self.aside(s)

    def build(self, road: Road, time_s: float) -> Mesh:
        s, t = self.place(road, time_s)
        at = road.course.locate(s, t, road.height(s, t))
        ahead = self.aside(s + 0.5) - self.aside(s - 0.5)
        yaw = float(road.course.yaw(s)) + math.atan(ahead) + (math.pi if self.direction < 0 else 0)
        mesh = self.mesh
        if self.body:
            phase = 2 * math.pi * self.pace.metres(time_s) / _STEP_LENGTH_M + self.instance
            mesh = people.build_person(self.body, phase, 1.0).relabelled(MOVING[people.PERSON])
        return mesh.placed(at, yaw, self.instance)


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """All movers of a sequence and the pace of the one who measures."""

    road: Road
    ego: Pace
    ego_t: float
    movers: tuple[Mover, ...]

    def near(self, time_s: float) -> list[Mover]:
        """Those the sensor may see."""
        s = self.ego.metres(time_s)
        return [m for m in self.movers if abs(m.place(self.road, time_s)[0] - s) < _VIEW_M]

    def build(self, time_s: float, turn_s: float = 0.0) -> Mesh | None:
        """The movers as they stand, or each at the moment when the beams pass it."""
        meshes = [
            mover.build(self.road, time_s + self._delay_s(mover, time_s) * turn_s)
            for mover in self.near(time_s)
        ]
        return join(meshes) if meshes else None

    def _delay_s(self, mover: Mover, time_s: float) -> float:
        """Share of a turn, -0.5 to 0.5, before or after the sensor looks ahead."""
        s, t = mover.place(self.road, time_s)
        return -math.atan2(t - self.ego_t, s - self.ego.metres(time_s)) / (2 * math.pi)


def draw_traffic(road: Road, rng: Rng, enrich: float) -> Traffic:
    kind, half = road.quarter, road.half_m
    ego = Pace(speed_mps=rng.uniform(*kind.speed_mps), sway=0.25, period_s=rng.uniform(7, 14))
    draw = _Draw(road, rng, enrich)
    lane, right = road.lane_m, -half + road.lane_m / 2
    draw.fill_lane(right, 1, ego, keep_clear_m=11.0)
    if kind.lanes > 1:
        draw.fill_lane(right + lane, 1, Pace(speed_mps=ego.speed_mps * rng.uniform(1.05, 1.3)))
        opposite = road.blocks[0].left.find('opposite') or (half, 3 * half)
        for t in (opposite[0] + lane / 2, opposite[0] + 1.5 * lane):
            draw.fill_lane(t, -1, Pace(speed_mps=rng.uniform(*kind.speed_mps)))
    else:
        draw.fill_lane(-right, -1, Pace(speed_mps=rng.uniform(*kind.speed_mps)))
    for sign in (1, -1):
        draw.add_walkers(sign)
        draw.add_cyclists(sign)
    return Traffic(
        road=road, ego=ego, ego_t=right + rng.uniform(-0.05, 0.3), movers=tuple(draw.movers)
    )


class _Draw:
    """Collects movers; numbers them."""

    def __init__(self, road: Road, rng: Rng, enrich: float) -> None:
        self.road, self.rng, self.enrich = road, rng, enrich
        self.movers: list[Mover] = []
        self._span = (-_BEFORE_M, road.blocks[-1].end_m - 40)

    def fill_lane(self, t: float, direction: int, pace: Pace, keep_clear_m: float = 0.0) -> None:
        """All in a lane keep one pace, so that nobody drives into anybody."""
        gap_m = self.road.quarter.gap_m / min(max(self.enrich, 1.0), 4.0) ** 0.5
        s = self._span[0] + self.rng.exponential(gap_m)
        wander = self.rng.normal(0, 0.15)
        while s < self._span[1] - 15:
            if abs(s) > keep_clear_m:
                self._add(self._draw_vehicle(), s, direction, pace, _straight(t + wander))
            s += 14 + self.rng.exponential(gap_m)

    def _draw_vehicle(self) -> Mesh:
        heavy = self.road.quarter.heavy * self.enrich
        city = self.road.quarter.name in ('city', 'suburb')
        choices = [
            (vehicles.build_car, 1.0),
            (vehicles.build_van, 0.1),
            (vehicles.build_truck, 0.55 * heavy),
            (vehicles.build_bus, 0.2 * heavy),
            (vehicles.build_trailer, 0.12 * heavy),
            (vehicles.build_tram, 0.15 * heavy * city),
            (people.build_motorcyclist, 0.01 * self.enrich),
            (people.build_bicyclist, 0.02 * self.enrich * city),
        ]
        weights = np.array([weight for _, weight in choices])
        row = int(self.rng.choice(len(choices), p=weights / weights.sum()))
        return choices[row][0](self.rng)

    def add_walkers(self, sign: int) -> None:
        for s in self._along(self.road.quarter.walkers):
            pace = Pace(speed_mps=self.rng.uniform(0.8, 1.7))
            aside = self._walkway(sign, self.rng.uniform(0.2, 0.8))
            body = people.draw_body(self.rng)
            mesh = people.build_person(body, 0.0, 1.0)
            self._add(mesh, s, int(self.rng.choice([-1, 1])), pace, aside, body)

    def add_cyclists(self, sign: int) -> None:
        for s in self._along(self.road.quarter.cyclists):
            pace = Pace(speed_mps=self.rng.uniform(3, 6.5), sway=0.1)
            on_road = self.rng.random() < 0.6 and not self._parks(sign)
            edge = _straight(sign * (self.road.half_m - 0.35))
            aside = edge if on_road else self._walkway(sign, 0.15)
            self._add(people.build_bicyclist(self.rng), s, -sign, pace, aside)

    def _parks(self, sign: int) -> bool:
        """Cars stand half on the road where a block has a sidewalk but no parking strip."""
        return any(not block.side(sign).find('parking') for block in self.road.blocks)

    def _along(self, per_100m: float) -> list[float]:
        mean = per_100m * (self._span[1] - self._span[0]) / 100 * self.enrich
        return self.rng.uniform(*self._span, self.rng.poisson(mean)).tolist()

    def _walkway(self, sign: int, share: float) -> Callable[[float], float]:
        """Along the sidewalk, slanting over the crossings to that of the next block."""
        places, asides = [], []
        for block in self.road.blocks:
            strip = block.side(sign).find('walk') or (self.road.half_m + 0.5, self.road.half_m + 2)
            places += [block.start_m + block.crossing_m + 0.5, block.end_m - 0.5]
            asides += [sign * (strip[0] + share * (strip[1] - strip[0]))] * 2
        return lambda s: float(np.interp(s, places, asides))

    def _add(
        self, mesh: Mesh, s: float, direction: int, pace: Pace,
        aside: Callable[[float], float], body: people.Body | None = None,
    ) -> None:  # fmt: skip
        moving = mesh.relabelled(MOVING[int(mesh.raw[0])])
        self.movers.append(
            Mover(
                mesh=moving,
                body=body,
                start_m=s,
                direction=direction,
                pace=pace,
                aside=aside,
                instance=MOVING_FROM + len(self.movers) % 5000,
            )
        )


def _straight(t: float) -> Callable[[float], float]:
    return lambda s: t
