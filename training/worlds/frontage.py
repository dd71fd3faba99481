# SPDX-License-Identifier: Apache-2.0
"""What lies beside a street, from its edge outwards: parking, verge, sidewalk, front, yard."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.worlds.kinds import Locale
from training.worlds.network import OTHER_GROUND, PARKING, ROAD, SIDEWALK, TERRAIN

Rng = np.random.Generator
BARRIERS = ('hedge', 'wall', 'pickets', 'mesh', 'boards', 'rail')
_CHANCE = {  # of each barrier before a front; what is left over: none
    'garden': (0.4, 0.17, 0.09, 0.1, 0.08, 0.0),
    'facade': (0.08, 0.05, 0.02, 0.03, 0.0, 0.0),
    'open': (0.1, 0.05, 0.05, 0.12, 0.0, 0.14),
    'lot': (0.15, 0.14, 0.03, 0.18, 0.03, 0.03),
    'wood': (0.06, 0.03, 0.02, 0.1, 0.0, 0.16),
}


@dataclass(frozen=True, kw_only=True)
class Band:
    """A part of the ground parallel to the edge of a street."""

    name: str  # parking, verge, walk, front, yard
    width_m: float
    raw: int
    material: str
    raised_m: float


@dataclass(frozen=True, kw_only=True)
class Frontage:
    """One side of a street between two others."""

    kind: str  # garden, facade, open, lot, wood
    bands: tuple[Band, ...]
    barrier: str  # one of BARRIERS or '', at the inner edge of the front
    barrier_m: float  # its height
    curb_m: float
    grade: float  # slope of the land behind the front

    def ends(self) -> list[float]:
        """Distance from the street at which each band ends."""
        return np.cumsum([band.width_m for band in self.bands]).tolist()

    def extent(self, name: str) -> tuple[float, float] | None:
        """Where the band of this name begins and ends."""
        begin = 0.0
        for band in self.bands:
            if band.name == name:
                return begin, begin + band.width_m
            begin += band.width_m
        return None

    def begin(self, name: str) -> float:
        """Where a band that is always there begins."""
        extent = self.extent(name)
        assert extent, name
        return extent[0]


def draw_frontage(place: Locale, rng: Rng) -> Frontage:
    kind = str(rng.choice(list(place.fronts), p=list(place.fronts.values())))
    curb = _draw_curb(place, rng)
    bands = []
    if rng.random() < place.parking:
        bands.append(_draw_parking(curb, rng))
    if rng.random() < place.verge:
        bands.append(_band('verge', rng.uniform(0.5, 3.0), TERRAIN, 'grass', curb + 0.01))
    if rng.random() < place.walk:
        bands.append(_draw_walk(curb, rng))
    front = _draw_front(kind, curb, rng)
    bands += [front, _draw_yard(kind, curb, rng)]
    return Frontage(
        kind=kind, bands=tuple(bands), barrier=_draw_barrier(kind, rng),
        barrier_m=_draw_barrier_height(rng), curb_m=curb, grade=_draw_grade(kind, rng),
    )  # fmt: skip


def _draw_curb(place: Locale, rng: Rng) -> float:
    """Every fifth sidewalk lies at the road's level; curbs are rarely above 15 cm."""
    level = 0.22 if place.name in ('residential', 'city') else 0.6
    if rng.random() < level:
        return float(rng.uniform(0.0, 0.02))
    return float(rng.choice([rng.uniform(0.03, 0.09), rng.uniform(0.08, 0.16)]))


def _draw_parking(curb: float, rng: Rng) -> Band:
    """Along the road or across it, at its level or at that of the sidewalk."""
    material = str(rng.choice(['paving', 'asphalt', 'gravel'], p=[0.45, 0.45, 0.1]))
    width = rng.uniform(1.8, 2.4) if rng.random() < 0.7 else rng.uniform(4.4, 5.4)
    return _band('parking', width, PARKING, material, curb if rng.random() < 0.3 else 0.0)


def _draw_walk(curb: float, rng: Rng) -> Band:
    width = rng.uniform(1.2, 2.8) if rng.random() < 0.6 else rng.uniform(2.2, 5.5)
    material = str(rng.choice(['paving', 'asphalt', 'gravel'], p=[0.5, 0.45, 0.05]))
    return _band('walk', width, SIDEWALK, material, curb)


def _draw_front(kind: str, curb: float, rng: Rng) -> Band:
    """From the sidewalk to the houses or to what else is behind."""
    if kind == 'facade':
        raw = int(rng.choice([SIDEWALK, TERRAIN, OTHER_GROUND], p=[0.6, 0.3, 0.1]))
        return _paved('front', rng.uniform(0.05, 1.8), raw, curb)
    if kind == 'lot':
        raw = int(rng.choice([PARKING, OTHER_GROUND, SIDEWALK, ROAD], p=[0.5, 0.3, 0.1, 0.1]))
        return _paved('front', rng.uniform(5, 18), raw, curb * float(rng.choice([0, 1])))
    if kind == 'garden' and rng.random() < 0.25:
        raw = int(rng.choice([OTHER_GROUND, SIDEWALK, PARKING], p=[0.5, 0.2, 0.3]))
        return _paved('front', rng.uniform(2, 8), raw, curb)
    width = rng.uniform(1.0, 7.0) if kind == 'garden' else rng.uniform(0.5, 16.0)
    return _band('front', width, TERRAIN, 'grass', curb + rng.uniform(-0.04, 0.12))


def _draw_yard(kind: str, curb: float, rng: Rng) -> Band:
    """All that lies behind."""
    if rng.random() < (0.22 if kind in ('facade', 'lot') else 0.05):
        raw = int(rng.choice([OTHER_GROUND, PARKING, SIDEWALK], p=[0.6, 0.25, 0.15]))
        return _paved('yard', 500.0, raw, curb)
    return _band('yard', 500.0, TERRAIN, 'grass', curb)


def _paved(name: str, width: float, raw: int, raised: float) -> Band:
    material = {OTHER_GROUND: 'gravel', TERRAIN: 'grass', PARKING: 'asphalt', ROAD: 'asphalt'}
    return _band(name, width, raw, material.get(raw, 'paving'), raised)


def _draw_barrier(kind: str, rng: Rng) -> str:
    chances = _CHANCE[kind]
    return str(rng.choice([*BARRIERS, ''], p=[*chances, 1 - sum(chances)]))


def _draw_barrier_height(rng: Rng) -> float:
    return float(rng.uniform(0.5, 1.2) if rng.random() < 0.35 else rng.uniform(1.0, 3.0))


def _draw_grade(kind: str, rng: Rng) -> float:
    """Banks are for open land; gardens are nearly level."""
    steep = 0.22 if kind in ('open', 'wood') else 0.05
    return float(rng.normal(0, steep)) if rng.random() < 0.7 else 0.0


def _band(name: str, width: float, raw: int, material: str, raised: float) -> Band:
    return Band(
        name=name, width_m=float(width), raw=raw, material=material, raised_m=float(raised)
    )
