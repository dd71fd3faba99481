# SPDX-License-Identifier: Apache-2.0
"""What stands on the streets and beside them: parked vehicles, racks, poles, signs, clutter."""

from __future__ import annotations

import math

import numpy as np

from training.streets import furniture, people, vehicles
from training.streets.mesh import Mesh
from training.worlds.network import PARKING
from training.worlds.site import Edge, Rng, Site

_BUILDERS = (
    vehicles.build_car, vehicles.build_van, vehicles.build_truck, vehicles.build_trailer,
    vehicles.build_bus,
)  # fmt: skip


def place_parked(site: Site) -> None:
    for edge in site.edges():
        strip = edge.front.extent('parking')
        if strip and strip[1] - strip[0] > 4:
            _park_across(edge, sum(strip) / 2)
        else:
            _park_along(edge, strip)
        if edge.front.kind == 'lot':
            _fill_lot(edge)


def draw_parked(rng: Rng, enrich: float) -> Mesh:
    weights = np.array([0.77, 0.11, 0.05, 0.055, 0.015]) * [1, 1, *[enrich] * 3]
    return _BUILDERS[int(rng.choice(5, p=weights / weights.sum()))](rng)


def _park_along(edge: Edge, strip: tuple[float, float] | None) -> None:
    """In the strip; without one on the road at the curb, half on the sidewalk, or on it."""
    rng, parked = edge.site.rng, edge.site.place.parked
    if not strip and rng.random() > 1.2 * parked + 0.1:
        return
    chance = min(parked * (1.6 if strip else 1.0) * rng.uniform(0.4, 1.6), 0.95)
    on_road = -1.0 if edge.street.half_m > 2.7 else -0.4
    aside = (
        sum(strip) / 2 if strip else float(rng.choice([on_road, 0.1, 0.9], p=[0.6, 0.25, 0.15]))
    )
    s = edge.span[0] + 3
    while s < edge.span[1] - 3:
        if rng.random() < chance and not edge.has_drive(s):
            vehicle = draw_parked(rng, edge.site.enrich)
            half = float(np.ptp(vehicle.vertices[:, 0])) / 2
            _park(edge, vehicle, s + half - 2.2, aside, 0.0 if rng.random() < 0.85 else math.pi)
            s += 2 * half - 4.5
        s += rng.uniform(5.0, 6.6)


def _park(edge: Edge, vehicle: Mesh, s: float, aside: float, turn: float) -> None:
    """Where no other street is in the way."""
    if not edge.is_free([s - 3, s + 3], [max(aside, 0.0)] * 2, 0.6).all():
        return
    rng, place = edge.site.rng, edge.at(s, aside + edge.site.rng.normal(0, 0.1))
    if edge.site.take(place, 1.2):
        yaw = edge.along(s) + turn + rng.normal(0, 0.03)
        edge.site.put_thing(vehicle, place, yaw)


def _park_across(edge: Edge, aside: float) -> None:
    rng = edge.site.rng
    slant = float(rng.choice([0.0, 0.0, 0.5, -0.5]))
    chance = min(1.6 * edge.site.place.parked + 0.1, 0.9)
    for s in np.arange(edge.span[0] + 2, edge.span[1] - 2, 2.7 / math.cos(slant)):
        if rng.random() < chance:
            turn = float(rng.choice([-1, 1])) * math.pi / 2 + slant
            _park(edge, draw_parked(rng, 0.3), s, aside + 0.2, turn)


def _fill_lot(edge: Edge) -> None:
    """Rows of cars on a lot, and what else stands there."""
    rng, site = edge.site.rng, edge.site
    low, high = edge.front.begin('front'), edge.front.begin('yard')
    full, yaw = rng.uniform(0.05, 0.7), float(rng.choice([0, math.pi / 2]))
    for aside in np.arange(low + 3, high - 1, 6.5):
        for s in np.arange(edge.span[0] + 3, edge.span[1] - 3, 2.8):
            at = edge.at(s, aside)
            on_lot = int(site.ground.raw_at(at)) == PARKING
            wanted = rng.random() < full * (1 if on_lot else 0.15)
            if wanted and edge.is_free(s, aside, 1.0) and site.take(at, 1.25):
                turn = yaw + float(rng.choice([0, math.pi])) + rng.normal(0, 0.05)
                site.put_thing(draw_parked(rng, site.enrich), at, edge.along(s) + turn)
    for s in edge.draw_places(2.0):
        at = edge.at(s, rng.uniform(low, high))
        if edge.is_free(s, low + 1) and site.take(at, 1.5):
            site.put(furniture.build_shed(rng), at, rng.uniform(0, 6))


def place_two_wheelers(site: Site) -> None:
    """In racks, leaning at walls, alone at the curb; motorcycles between cars."""
    for edge in site.edges():
        for s in edge.draw_places(site.place.two_wheelers, rare=True):
            _place_rack(edge, s)
        for s in edge.draw_places(0.25 * site.place.two_wheelers, rare=True):
            aside = float(site.rng.uniform(-0.8, edge.front.begin('front') + 0.5))
            if edge.is_free(s, max(aside, 0.0)) and site.take(edge.at(s, aside), 0.7):
                motorcycle = vehicles.build_motorcycle(site.rng)
                site.put_thing(motorcycle, edge.at(s, aside), site.rng.uniform(0, 6.28))


def _place_rack(edge: Edge, s: float) -> None:
    rng, site = edge.site.rng, edge.site
    aside = edge.front.begin('front') + rng.uniform(-1.2, 0.3)
    leaning = rng.random() < 0.3  # one behind the other along a wall
    step, turn = (1.9, 0.0) if leaning else (0.55, math.pi / 2)
    for number in range(int(rng.choice([1, 2, 4, 8], p=[0.35, 0.3, 0.2, 0.15]))):
        place = s + step * number
        if aside > 0 and edge.is_free(place, aside) and not edge.has_drive(place):
            yaw = edge.along(place) + turn + rng.normal(0, 0.12)
            site.put_thing(vehicles.build_bicycle(rng), edge.at(place, aside), yaw)


def place_furniture(site: Site) -> None:
    for edge in site.edges():
        _place_poles(edge)
        _place_clutter(edge)


def _place_poles(edge: Edge) -> None:
    """Lamps, masts, bollards in rows; signs that face those who come."""
    rng, site = edge.site.rng, edge.site
    for s in edge.draw_places(site.place.poles):
        aside = _beside(edge)
        build = furniture.build_lamp if rng.random() < 0.5 else furniture.build_pole
        if edge.is_free(s, aside):
            site.put(build(rng), edge.at(s, aside), edge.away(s) + math.pi)
    for s in edge.draw_places(0.6 * site.place.poles):
        if rng.random() < 0.3:
            for step in range(int(rng.integers(3, 8))):  # bollards
                if edge.is_free(s + 1.6 * step, 0.35):
                    bollard = furniture.build_pole(np.random.default_rng(7))
                    site.put(bollard, edge.at(s + 1.6 * step, 0.35), 0.0)
    for s in edge.draw_places(site.place.signs):
        aside, board = _beside(edge), site.place.name == 'highway' or rng.random() < 0.06
        sign = (furniture.build_board if board else furniture.build_sign)(rng)
        if edge.is_free(s, aside):
            site.put(sign, edge.at(s, aside + 1.2 * board), edge.along(s) + math.pi)


def _beside(edge: Edge) -> float:
    """At the curb or at the inner edge of the sidewalk."""
    inner = edge.front.begin('front')
    return 0.45 if edge.site.rng.random() < 0.45 else max(inner - 0.3, 0.45)


def _place_clutter(edge: Edge) -> None:
    """Bins, benches, cabinets; shelters at bus stops; sheds in gardens."""
    rng, site = edge.site.rng, edge.site
    inner = edge.front.begin('front')
    for s in edge.draw_places(site.place.clutter):
        aside = max(inner + rng.uniform(-0.6, 0.8), 0.6)
        if edge.is_free(s, aside):
            site.put(furniture.build_clutter(rng), edge.at(s, aside), edge.away(s) + math.pi)
    for s in edge.draw_places(0.25 * site.place.clutter):
        aside = edge.front.begin('yard') + rng.uniform(-1, 4)
        if edge.is_free(s, aside) and site.take(edge.at(s, aside), 1.3):
            site.put(furniture.build_shed(rng), edge.at(s, aside), edge.away(s))
    if site.place.name == 'city' and rng.random() < 0.15:
        s = rng.uniform(*edge.span)
        if edge.is_free(s, inner):
            site.put(furniture.build_shelter(), edge.at(s, inner), edge.away(s) + math.pi)


def place_standing(site: Site) -> None:
    """People who stand and talk, alone or in groups."""
    rng = site.rng
    for edge in site.edges():
        for s in edge.draw_places(0.5 * site.place.people, rare=True):
            for _ in range(int(rng.choice([1, 2, 4], p=[0.6, 0.3, 0.1]))):
                aside = rng.uniform(0.3, edge.front.begin('front') + 1.0)
                body = people.build_person(people.draw_body(rng), 0.8, rng.uniform(0, 0.25))
                at = edge.at(s + rng.normal(0, 0.7), aside)
                site.put_thing(body, at, rng.uniform(0, 6.28))
