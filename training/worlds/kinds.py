# SPDX-License-Identifier: Apache-2.0
"""The kinds of places a scene may show, and what is likely in each of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Span = tuple[float, float]
Rng = np.random.Generator


@dataclass(frozen=True, kw_only=True)
class Place:
    """Chances and ranges; densities are per 100 m of one side."""

    name: str
    share: float  # of the scenes
    half_m: Span  # from the middle of a street to its edge
    bend: float  # largest curvature, 1/m
    climb: float  # largest slope
    side_streets: Span  # how many
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
        Place(
            name='residential', share=0.42, half_m=(2.2, 4.3), bend=0.012, climb=0.07,
            side_streets=(1, 4),
            fronts={'garden': 0.52, 'facade': 0.2, 'open': 0.1, 'lot': 0.08, 'wood': 0.1},
            walk=0.85, parking=0.22, verge=0.15, parked=0.26, drives_m=20, trees=7, poles=3.5, signs=3.0,
            clutter=4, people=0.5, two_wheelers=0.5, traffic_m=140, heavy=0.06, height_m=(3.5, 9),
        ),
        Place(
            name='city', share=0.24, half_m=(2.8, 6.0), bend=0.006, climb=0.04,
            side_streets=(1, 4),
            fronts={'facade': 0.55, 'garden': 0.18, 'open': 0.12, 'lot': 0.15},
            walk=0.97, parking=0.4, verge=0.2, parked=0.4, drives_m=35, trees=5, poles=4, signs=4.5,
            clutter=7, people=1.6, two_wheelers=1.4, traffic_m=60, heavy=0.08, height_m=(6, 18),
        ),
        Place(
            name='country', share=0.14, half_m=(2.3, 3.8), bend=0.012, climb=0.08,
            side_streets=(0, 2),
            fronts={'open': 0.4, 'wood': 0.32, 'garden': 0.18, 'lot': 0.1},
            walk=0.2, parking=0.04, verge=0.6, parked=0.05, drives_m=80, trees=7, poles=2, signs=2,
            clutter=0.6, people=0.1, two_wheelers=0.1, traffic_m=130, heavy=0.1, height_m=(3.5, 9),
        ),
        Place(
            name='highway', share=0.08, half_m=(8.5, 14.0), bend=0.003, climb=0.03,
            side_streets=(0, 0), fronts={'open': 0.55, 'wood': 0.45},
            walk=0.0, parking=0.0, verge=0.5, parked=0.0, drives_m=1000, trees=3, poles=0.8, signs=2,
            clutter=0.1, people=0.0, two_wheelers=0.02, traffic_m=55, heavy=0.25, height_m=(4, 9),
        ),
        Place(  # courtyards, paths and parks: nothing that a car drives on
            name='yard', share=0.12, half_m=(0.8, 3.0), bend=0.02, climb=0.06,
            side_streets=(0, 3),
            fronts={'open': 0.35, 'facade': 0.25, 'garden': 0.2, 'lot': 0.2},
            walk=0.15, parking=0.1, verge=0.2, parked=0.05, drives_m=60, trees=9, poles=2.5, signs=0.8,
            clutter=5, people=2.2, two_wheelers=1.8, traffic_m=400, heavy=0.0, height_m=(3.5, 16),
        ),
    )
}  # fmt: skip


def draw_place(name: str, rng: Rng) -> Place:
    """That of a name, or for 'mixed' any, as often as its share."""
    if name != 'mixed':
        return PLACES[name]
    shares = np.array([place.share for place in PLACES.values()])
    return list(PLACES.values())[int(rng.choice(len(shares), p=shares / shares.sum()))]
