# SPDX-License-Identifier: Apache-2.0
"""Who moves: drawn anew for every scan, in the lanes, at their edges and on the sidewalks."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from training.streets import people, vehicles
from training.streets.mesh import Array, join, Mesh
from training.streets.traffic import MOVING
from training.worlds.network import ROAD, StreetLine
from training.worlds.site import Edge, MOVING_FROM, Rng, Site

_SEEN_M = 80.0
_CLEAR_M = 6.5  # around the one who measures


class Passing:
    """Collects what moves in one scan."""

    def __init__(self, site: Site, ego: Array, rng: Rng) -> None:
        self._site, self._ego, self._rng = site, ego[:2], rng
        self._meshes: list[Mesh] = []

    def draw(self) -> Mesh | None:
        for street in self._site.network.streets:
            for side in (1, -1):
                self._fill_lane(street, side)
        for edge in self._site.edges():
            self._add_walkers(edge)
            self._add_riders(edge)
        return join(self._meshes) if self._meshes else None

    def _fill_lane(self, street: StreetLine, side: int) -> None:
        place, rng = self._site.place, self._rng
        lanes = [max(street.half_m / 2, 0.9)]
        if street.median_m:
            lanes = [street.half_m - 1.8, street.half_m - 5.3]
        for lane in lanes if street.raw == ROAD else []:
            s = rng.exponential(place.traffic_m)
            while s < street.length_m:
                at = street.locate(s, side * lane + rng.normal(0, 0.2))
                ahead = 0.0 if side < 0 else math.pi
                if np.hypot(*(at - self._ego)) < _SEEN_M:
                    self._add(self._draw_vehicle(), at, float(street.yaw(s)) + ahead)
                s += 12 + rng.exponential(place.traffic_m)

    def _draw_vehicle(self) -> Mesh:
        heavy, enrich = self._site.place.heavy, self._site.enrich
        town = self._site.place.name in ('city', 'residential')
        choices = [
            (vehicles.build_car, 1.0),
            (vehicles.build_van, 0.1),
            (vehicles.build_truck, 0.55 * heavy * enrich),
            (vehicles.build_bus, 0.2 * heavy * enrich),
            (vehicles.build_trailer, 0.12 * heavy * enrich),
            (vehicles.build_tram, 0.15 * heavy * enrich * town),
            (people.build_motorcyclist, 0.03 * enrich),
            (people.build_bicyclist, 0.03 * enrich * town),
        ]
        weights = np.array([weight for _, weight in choices])
        return choices[int(self._rng.choice(len(choices), p=weights / weights.sum()))][0](
            self._rng
        )

    def _add_walkers(self, edge: Edge) -> None:
        for s in self._draw_places(edge, self._site.place.people):
            body = people.draw_body(self._rng)
            walker = people.build_person(body, self._rng.uniform(0, 6.28), 1.0)
            aside = self._rng.uniform(0.2, max(edge.front.begin('front'), 1.0))
            if self._rng.random() < 0.12:  # crosses the street
                aside = -self._rng.uniform(0, edge.street.half_m)
            turn = self._rng.choice([0, math.pi]) + self._rng.normal(0, 0.4)
            self._add(walker, edge.at(s, aside), edge.along(s) + turn)

    def _add_riders(self, edge: Edge) -> None:
        for s in self._draw_places(edge, 0.3 * self._site.place.two_wheelers):
            aside = self._rng.choice([-0.7, max(edge.front.begin('front') - 0.8, 0.3)])
            self._add(people.build_bicyclist(self._rng), edge.at(s, aside), edge.along(s))

    def _draw_places(self, edge: Edge, per_100m: float) -> list[float]:
        mean = per_100m * edge.length_m / 100 * self._site.enrich
        return self._rng.uniform(*edge.span, self._rng.poisson(mean)).tolist()

    def _add(self, mesh: Mesh, at: ArrayLike, yaw: float) -> None:
        """Unless it would stand on the one who measures or outside the tile."""
        place = np.asarray(at, float)
        if np.abs(place).max() > 90 or np.hypot(*(place - self._ego)) < _CLEAR_M:
            return
        if not self._is_clear(place, mesh):
            return
        moving = mesh.relabelled(MOVING[int(mesh.raw[0])])
        number = MOVING_FROM + len(self._meshes) % 5000
        ground = float(self._site.ground.height(place))
        self._meshes.append(moving.placed((*place, ground), yaw, number))

    def _is_clear(self, place: Array, mesh: Mesh) -> bool:
        radius = 0.3 * float(np.ptp(mesh.vertices[:, 0]))
        return all(
            (place[0] - x) ** 2 + (place[1] - y) ** 2 > (r * 0.8 + radius) ** 2
            for x, y, r in self._site.taken
        )
