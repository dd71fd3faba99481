# SPDX-License-Identifier: Apache-2.0
"""The quarters a drive may go through, and the cross-section of the road in each of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lidar_kd.errors import ConfigError

ROAD, PARKING, SIDEWALK, OTHER_GROUND, TERRAIN, MARKING = 40, 44, 48, 49, 72, 60
Span = tuple[float, float]
Rng = np.random.Generator


@dataclass(frozen=True, kw_only=True)
class Quarter:
    """What is drawn for a road; densities are per 100 m of one side unless they say otherwise."""

    name: str
    share: float  # of the sequences when no quarter is asked for
    lanes: int  # per direction
    lane_m: Span
    speed_mps: Span
    bend: float  # 1/m
    climb: float
    block_m: Span  # between two crossings
    parking: float  # chance of a parking strip
    parked: float  # share of its places that are taken
    verge: float  # chance of a strip of grass before the sidewalk
    walk: float  # chance of a sidewalk
    walk_m: Span
    front_m: Span  # from the sidewalk to the houses
    paved_front: float  # chance that this strip is paved
    barriers: dict[str, float]  # chance of what stands between sidewalk and front
    houses: Span  # length of one along the road; (0, 0): none
    house_gap_m: Span
    house_height_m: Span
    trees: float
    bushes: float
    wood: float  # chance that a wood stands behind
    poles: float
    signs: float
    clutter: float
    walkers: float
    cyclists: float
    bicycles: float  # parked
    motorcycles: float
    gap_m: float  # mean distance of moving vehicles in a lane
    heavy: float  # share of trucks and buses among them


_TOWN = {'hedge': 0.34, 'wall': 0.09, 'pickets': 0.11, 'mesh': 0.14, 'boards': 0.1}
_CENTRE = {'wall': 0.11, 'mesh': 0.13, 'pickets': 0.06, 'boards': 0.05, 'hedge': 0.26}
QUARTERS = {
    quarter.name: quarter
    for quarter in (
        Quarter(
            name='city',
            share=0.32,
            lanes=1,
            lane_m=(3.4, 5.2),
            speed_mps=(4, 10),
            bend=0.005,
            climb=0.045,
            block_m=(45, 110),
            parking=0.42,
            parked=0.28,
            verge=0.25,
            walk=1.0,
            walk_m=(2.0, 5.0),
            front_m=(0.0, 7.0),
            paved_front=0.45,
            barriers=_CENTRE,
            houses=(10, 26),
            house_gap_m=(0, 12),
            house_height_m=(7, 17),
            trees=8,
            bushes=40,
            wood=0.3,
            poles=4,
            signs=5.0,
            clutter=7.0,
            walkers=1.0,
            cyclists=0.25,
            bicycles=1.8,
            motorcycles=0.2,
            gap_m=60,
            heavy=0.07,
        ),
        Quarter(
            name='suburb',
            share=0.38,
            lanes=1,
            lane_m=(3.3, 4.8),
            speed_mps=(5, 11),
            bend=0.006,
            climb=0.06,
            block_m=(50, 130),
            parking=0.25,
            parked=0.2,
            verge=0.2,
            walk=1.0,
            walk_m=(1.8, 4.5),
            front_m=(2.0, 10.0),
            paved_front=0.25,
            barriers=_TOWN,
            houses=(9, 18),
            house_gap_m=(4, 22),
            house_height_m=(4, 10),
            trees=10,
            bushes=75,
            wood=0.55,
            poles=3,
            signs=3.5,
            clutter=5.0,
            walkers=0.25,
            cyclists=0.12,
            bicycles=0.5,
            motorcycles=0.08,
            gap_m=120,
            heavy=0.06,
        ),
        Quarter(
            name='country',
            share=0.2,
            lanes=1,
            lane_m=(2.8, 3.6),
            speed_mps=(11, 20),
            bend=0.006,
            climb=0.08,
            block_m=(140, 260),
            parking=0.05,
            parked=0.3,
            verge=0.9,
            walk=0.35,
            walk_m=(1.5, 2.5),
            front_m=(1.0, 9.0),
            paved_front=0.0,
            barriers={'mesh': 0.15, 'pickets': 0.08, 'wall': 0.05, 'rail': 0.2, 'hedge': 0.2},
            houses=(10, 20),
            house_gap_m=(70, 200),
            house_height_m=(4, 10),
            trees=9,
            bushes=90,
            wood=0.8,
            poles=2,
            signs=2.5,
            clutter=0.8,
            walkers=0.05,
            cyclists=0.05,
            bicycles=0.0,
            motorcycles=0.0,
            gap_m=110,
            heavy=0.1,
        ),
        Quarter(
            name='highway',
            share=0.1,
            lanes=2,
            lane_m=(3.5, 3.8),
            speed_mps=(20, 28),
            bend=0.0012,
            climb=0.03,
            block_m=(250, 400),
            parking=0.0,
            parked=0.0,
            verge=1.0,
            walk=0.0,
            walk_m=(1, 2),
            front_m=(4.0, 9.0),
            paved_front=0.0,
            barriers={'rail': 0.55, 'boards': 0.03},
            houses=(0, 0),
            house_gap_m=(1, 2),
            house_height_m=(4, 10),
            trees=4,
            bushes=45,
            wood=0.85,
            poles=0.7,
            signs=2.0,
            clutter=0.2,
            walkers=0.0,
            cyclists=0.0,
            bicycles=0.0,
            motorcycles=0.0,
            gap_m=55,
            heavy=0.25,
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class Strip:
    """A part of the cross-section, parallel to the road."""

    name: str  # parking, verge, walk, front, yard, median, opposite
    width_m: float
    raw: int
    material: str
    raised_m: float


@dataclass(frozen=True, kw_only=True)
class Side:
    """The strips of one side of a block, from the edge of the road outwards."""

    road_m: float  # from the middle of the road to its edge
    strips: tuple[Strip, ...]
    barrier: str  # hedge, a kind of fence, or none; at the inner edge of the front

    def edges(self) -> list[float]:
        """Distances from the middle: edge of the road, then the end of each strip."""
        return np.cumsum([self.road_m, *(strip.width_m for strip in self.strips)]).tolist()

    def find(self, name: str) -> tuple[float, float] | None:
        """Where the strip of this name begins and ends."""
        for strip, inner, outer in zip(self.strips, self.edges(), self.edges()[1:]):
            if strip.name == name:
                return inner, outer
        return None


def quarter(name: str) -> Quarter:
    if name not in QUARTERS:
        raise ConfigError(f"unknown quarter '{name}'; known are {', '.join(QUARTERS)}.")
    return QUARTERS[name]


def draw_side(kind: Quarter, road_m: float, left: bool, rng: Rng) -> Side:
    curb = float(rng.uniform(0.02, 0.16)) if kind.walk > 0.5 else 0.0
    strips = []
    if kind.name == 'highway' and left:
        strips += _carriageway(road_m, rng)
    if rng.random() < kind.parking:
        strips.append(_draw_parking(curb, rng))
    if rng.random() < kind.verge:
        strips.append(_strip('verge', rng.uniform(0.8, 3.0), TERRAIN, 'grass', curb + 0.02))
    if rng.random() < kind.walk:
        material = str(rng.choice(['paving', 'asphalt']))
        strips.append(_strip('walk', rng.uniform(*kind.walk_m), SIDEWALK, material, curb))
    strips += [_draw_front(kind, curb, rng), _draw_yard(kind, curb, rng)]
    names = [*kind.barriers, '']
    chances = [*kind.barriers.values(), 1 - sum(kind.barriers.values())]
    return Side(road_m=road_m, strips=tuple(strips), barrier=str(rng.choice(names, p=chances)))


def _carriageway(road_m: float, rng: Rng) -> list[Strip]:
    """The other direction of a highway, behind the median."""
    return [
        _strip('median', rng.uniform(2.5, 5.0), TERRAIN, 'grass', 0.0),
        _strip('opposite', 2 * road_m, ROAD, 'asphalt', 0.0),
    ]


def _draw_parking(curb: float, rng: Rng) -> Strip:
    """Along the road, at its level or, one in four, on the level of the sidewalk."""
    material = str(rng.choice(['paving', 'asphalt', 'gravel'], p=[0.5, 0.4, 0.1]))
    width = rng.uniform(1.9, 2.4) if rng.random() < 0.8 else rng.uniform(4.6, 5.2)
    return _strip('parking', width, PARKING, material, curb if rng.random() < 0.25 else 0.0)


def _draw_front(kind: Quarter, curb: float, rng: Rng) -> Strip:
    width = rng.uniform(*kind.front_m)
    if rng.random() >= kind.paved_front:
        return _strip('front', width, TERRAIN, 'grass', curb + rng.uniform(0, 0.1))
    raw = int(rng.choice([SIDEWALK, OTHER_GROUND, PARKING], p=[0.3, 0.6, 0.1]))
    return _strip('front', width, raw, 'gravel' if raw == OTHER_GROUND else 'paving', curb)


def _draw_yard(kind: Quarter, curb: float, rng: Rng) -> Strip:
    """All that lies behind."""
    if rng.random() >= 0.6 * kind.paved_front:
        return _strip('yard', 500.0, TERRAIN, 'grass', curb)
    raw = int(rng.choice([SIDEWALK, OTHER_GROUND, PARKING], p=[0.3, 0.5, 0.2]))
    return _strip('yard', 500.0, raw, 'asphalt', curb)


def _strip(name: str, width: float, raw: int, material: str, raised: float) -> Strip:
    return Strip(
        name=name, width_m=float(width), raw=raw, material=material, raised_m=float(raised)
    )
