# SPDX-License-Identifier: Apache-2.0
"""What spans a street or stands in its way: bridges, arches, stairs, low walls."""

from __future__ import annotations

import math

from training.streets.buildings import BUILDING
from training.streets.furniture import FENCE, OTHER_STRUCTURE
from training.streets.mesh import box, join, Mesh
from training.worlds.site import Edge, Rng, Site

_UNDERPASS = {'city': 0.1, 'residential': 0.05, 'country': 0.06, 'highway': 0.3, 'yard': 0.12}


def place_structures(site: Site) -> None:
    if site.rng.random() < _UNDERPASS[site.place.name]:
        _place_underpass(site)
    for edge in site.edges():
        if site.place.name != 'highway' and site.rng.random() < 0.12:
            _place_stairs(edge)
        if site.rng.random() < 0.08:
            _place_retaining_wall(edge)


def _place_underpass(site: Site) -> None:
    """A bridge over the first street; in yards and cities also the arch of a building."""
    street, rng = site.network.streets[0], site.rng
    s = street.length_m / 2 + rng.uniform(-35, 35)
    at = street.locate(s, 0.0)
    if site.network.outside(at[None])[0] > -0.9 * street.half_m + 0.01:
        return
    arch = site.place.name in ('city', 'yard') and rng.random() < 0.5
    clear_m = rng.uniform(2.6, 3.8) if arch else rng.uniform(3.8, 5.5)
    span = 2 * street.half_m + rng.uniform(1.0, 7.0)
    bridge = build_bridge(span, rng.uniform(4, 14), clear_m, BUILDING if arch else OTHER_STRUCTURE)
    site.put(bridge, at, float(street.yaw(s)) + math.pi / 2)


def build_bridge(span_m: float, wide_m: float, clear_m: float, raw: int) -> Mesh:
    """A deck along x that is `clear_m` above the ground, on walls `span_m` apart."""
    long = span_m + 60
    deck = box((long, wide_m, 0.9), (0, 0, clear_m + 0.45), raw, 'plaster')
    walls = [
        box((1.0, wide_m, clear_m + 1), (x, 0, (clear_m - 1) / 2), raw, 'plaster')
        for x in (-span_m / 2 - 0.5, span_m / 2 + 0.5)
    ]
    rails = [
        box((long, 0.1, 1.0), (0, y, clear_m + 1.4), FENCE, 'metal')
        for y in (-wide_m / 2, wide_m / 2)
    ]
    return join([deck, *walls, *rails])


def _place_stairs(edge: Edge) -> None:
    """A few steps up to a door, or a ramp's side wall, at the inner edge of the front."""
    rng = edge.site.rng
    for s in edge.draw_places(1.5):
        aside = edge.front.begin('yard') - rng.uniform(0.3, 1.2)
        if aside > edge.front.begin('front') and edge.is_free(s, aside):
            yaw = edge.away(s) - math.pi / 2
            edge.site.put(build_stairs(rng.uniform(1, 3), int(rng.integers(2, 7)), rng),
                          edge.at(s, aside), yaw)  # fmt: skip


def build_stairs(wide_m: float, steps: int, rng: Rng) -> Mesh:
    """Steps of 17 cm that rise along y."""
    rise, tread = 0.17, rng.uniform(0.26, 0.34)
    return join(
        box((wide_m, tread, rise * (k + 1)), (0, tread * k, rise * (k + 1) / 2), OTHER_STRUCTURE,
            'paving')
        for k in range(steps)
    )  # fmt: skip


def _place_retaining_wall(edge: Edge) -> None:
    """A low wall that holds the land of the front."""
    aside, rng = edge.front.begin('front') + 0.1, edge.site.rng
    height = rng.uniform(0.25, 0.9)
    s = edge.span[0] + 1.0
    while s < edge.span[1] - 2:
        if edge.is_free([s - 1, s + 1], [aside, aside]).all() and not edge.has_drive(s):
            wall = box((2.05, 0.25, height + 0.4), (0, 0, height / 2 - 0.2), FENCE, 'brick')
            edge.site.put(wall, edge.at(s, aside), float(edge.street.yaw(s)))
        s += 2.0
