# SPDX-License-Identifier: Apache-2.0
"""The kinds of places a scene may show, and what is likely in each of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Span = tuple[float, float]
Rng = np.random.Generator


@dataclass(frozen=True, kw_only=True)
class Locale:
    """Chances and ranges; densities are per 100 m of one side."""

    name: str
    share: float  # of the scenes
    half_m: Span  # from the middle of a street to its edge
    bend: float  # largest curvature, 1/m
    climb: float  # largest slope
    side_streets: tuple[int, int]  # how many
    fronts: dict[str, float]  # chance of each kind of frontage
    walk: float  # chance of a sidewalk
    parking: float  # chance of a parking strip
    verge: float  # chance of grass between road and sidewalk
    parked: float  # share of the places at the kerb that are taken
    drives_m: float  # mean distance of driveways
    trees: float
    poles: float
    signs: float
    clutter: float
    people: float
    two_wheelers: float
    traffic_m: float  # mean distance of those who drive
    heavy: float  # share of trucks and buses among them
    height_m: Span  # of houses


PLACES = {
    place.name: place
    for place in (
        Locale(
            name='residential', share=0.45, half_m=(2.5, 4.8), bend=0.012, climb=0.07,
            side_streets=(1, 4),
            fronts={'garden': 0.52, 'facade': 0.15, 'open': 0.11, 'lot': 0.05, 'wood': 0.17},
            walk=0.92, parking=0.09, verge=0.15, parked=0.17, drives_m=24, trees=8,
            poles=2.4, signs=3.5, clutter=3, people=0.5, two_wheelers=0.35, traffic_m=140,
            heavy=0.12, height_m=(3.5, 9),
        ),
        Locale(
            name='city', share=0.24, half_m=(3.0, 6.3), bend=0.006, climb=0.04,
            side_streets=(1, 4),
            fronts={'facade': 0.45, 'garden': 0.27, 'open': 0.12, 'lot': 0.09, 'wood': 0.07},
            walk=0.97, parking=0.2, verge=0.2, parked=0.3, drives_m=40, trees=6,
            poles=3, signs=5, clutter=5, people=1.6, two_wheelers=1.0, traffic_m=60,
            heavy=0.14, height_m=(6, 18),
        ),
        Locale(
            name='country', share=0.14, half_m=(2.3, 3.8), bend=0.012, climb=0.08,
            side_streets=(0, 2),
            fronts={'open': 0.4, 'wood': 0.32, 'garden': 0.18, 'lot': 0.1},
            walk=0.3, parking=0.04, verge=0.6, parked=0.05, drives_m=80, trees=8,
            poles=1.5, signs=2, clutter=0.6, people=0.1, two_wheelers=0.1, traffic_m=130,
            heavy=0.1, height_m=(3.5, 9),
        ),
        Locale(
            name='highway', share=0.08, half_m=(8.5, 14.0), bend=0.003, climb=0.03,
            side_streets=(0, 0), fronts={'open': 0.55, 'wood': 0.45},
            walk=0.0, parking=0.0, verge=0.5, parked=0.0, drives_m=1000, trees=4,
            poles=0.8, signs=2, clutter=0.1, people=0.0, two_wheelers=0.02, traffic_m=55,
            heavy=0.25, height_m=(4, 9),
        ),
        Locale(  # courtyards, paths and parks: nothing that a car drives on
            name='yard', share=0.09, half_m=(0.8, 3.0), bend=0.02, climb=0.06,
            side_streets=(0, 3),
            fronts={'open': 0.35, 'facade': 0.25, 'garden': 0.2, 'lot': 0.2},
            walk=0.15, parking=0.1, verge=0.2, parked=0.05, drives_m=60, trees=9,
            poles=2, signs=0.8, clutter=4, people=2.2, two_wheelers=1.8, traffic_m=400,
            heavy=0.0, height_m=(3.5, 16),
        ),
    )
}  # fmt: skip


def draw_locale(name: str, rng: Rng) -> Locale:
    """That of a name, or for 'mixed' any, as often as its share."""
    if name != 'mixed':
        return PLACES[name]
    shares = np.array([place.share for place in PLACES.values()])
    return list(PLACES.values())[int(rng.choice(len(shares), p=shares / shares.sum()))]
