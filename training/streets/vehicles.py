# SPDX-License-Identifier: Apache-2.0
"""Vehicles, each drawn at random within what is common on the road; they look along x.

Raw ids are those of standing vehicles. A closed van is a car and a box van a truck in
SemanticKITTI; caravans and trailers are other-vehicles, as are buses and trams.
"""

from __future__ import annotations

import math

import numpy as np

from training.streets.mesh import Array, ball, box, join, Mesh, prism, tube

CAR, BICYCLE, BUS, MOTORCYCLE, TRAM, TRUCK, OTHER = 10, 11, 13, 15, 16, 18, 20
Rng = np.random.Generator
Point = tuple[float, float, float]


def build_car(rng: Rng) -> Mesh:
    """Small car to estate: a body, leaning glass, wheels, mirrors and number plates."""
    length, half, height = rng.uniform(3.6, 4.8), rng.uniform(0.81, 0.92), rng.uniform(1.38, 1.7)
    front, rear, belt = length / 2, -length / 2, rng.uniform(0.82, 0.95)
    nose, bonnet = front - rng.uniform(0.02, 0.15), front - rng.uniform(0.85, 1.3)
    tail = rear + (rng.uniform(0.5, 0.9) if rng.random() < 0.35 else 0.08)
    sill, lip = rng.uniform(0.18, 0.28), rng.uniform(0.6, 0.75)
    body = [(rear, sill), (front - 0.1, sill), (front, 0.45), (nose, lip), (bonnet, belt)]
    body += [(tail, belt + 0.05), (rear, belt - 0.1)]
    roof = (bonnet - rng.uniform(0.6, 1.0), tail + rng.uniform(0.15, 0.55))
    glass = [(bonnet + 0.05, belt - 0.02), (roof[0], height - 0.04), (roof[1], height - 0.04)]
    lean = rng.uniform(0.12, 0.22)
    top = box(
        (roof[0] - roof[1], 2 * (half - lean), 0.05), (sum(roof) / 2, 0, height), CAR, 'paint'
    )
    parts = [
        prism(body, half, CAR, 'paint'),
        prism([*glass, (tail, belt - 0.02)], half - 0.03, CAR, 'glass', lean),
        top,
        *_pillars(roof, (bonnet, tail), (belt, height), half - lean / 2),
        *_wheels((front - 0.8, rear + 0.75), half - 0.1, 0.31, CAR),
        *_plates(length, CAR),
    ]
    parts += [
        box((0.12, 0.2, 0.14), (bonnet - 0.5, y, belt + 0.1), CAR, 'paint')
        for y in (-half - 0.08, half + 0.08)
    ]
    return join(parts).tinted(_colour(rng))


def _colour(rng: Rng) -> float:
    """Dark cars swallow light, silver and white ones return it."""
    return float(rng.choice([0.35, 0.7, 1.1, 1.6], p=[0.35, 0.25, 0.25, 0.15]))


def _pillars(
    roof: tuple[float, float], ends: tuple[float, float], z: tuple[float, float], y: float
) -> list[Mesh]:
    middle = (roof[0] + roof[1]) / 2
    lines = [(ends[0], roof[0]), (middle, middle), (ends[1], roof[1])]
    return [
        tube(
            [(low, side * (y + 0.07), z[0]), (high, side * (y - 0.05), z[1])],
            0.05,
            CAR,
            'paint',
            4,
        )
        for low, high in lines
        for side in (-1, 1)
    ]


def _wheels(axles: tuple[float, ...], half: float, radius: float, raw: int) -> list[Mesh]:
    return [
        tube(
            [(x, side * (half - 0.1), radius), (x, side * (half + 0.1), radius)],
            radius,
            raw,
            'tyre',
            10,
        )
        for x in axles
        for side in (-1, 1)
    ]


def _plates(length: float, raw: int) -> list[Mesh]:
    return [
        box((0.02, 0.5, 0.11), (x, 0, 0.48), raw, 'retro')
        for x in (-length / 2 - 0.02, length / 2 + 0.02)
    ]


def build_van(rng: Rng) -> Mesh:
    """A closed van or people carrier: one tall body."""
    length, half, height = rng.uniform(4.6, 6.0), rng.uniform(0.93, 1.02), rng.uniform(1.85, 2.6)
    front, rear = length / 2, -length / 2
    outline = [(rear, 0.3), (front - 0.1, 0.3), (front, 0.6), (front - 0.5, 1.05)]
    outline += [(front - 1.2, height - 0.1), (front - 1.6, height), (rear, height)]
    glass = [(front - 0.48, 1.12), (front - 1.1, height - 0.25), (front - 2.2, height - 0.25)]
    parts = [
        prism(outline, half, CAR, 'paint', 0.08),
        prism([*glass, (front - 2.2, 1.15)], half + 0.005, CAR, 'glass', 0.06),
        *_wheels((front - 0.85, rear + 0.95), half - 0.12, 0.34, CAR),
        *_plates(length, CAR),
    ]
    return join(parts).tinted(_colour(rng))


def build_truck(rng: Rng) -> Mesh:
    """A cab and a box, a tipper or a long trailer behind a gap."""
    height, half = rng.uniform(2.4, 2.9), rng.uniform(1.05, 1.25)
    box_m = float(rng.choice([3.6, 5.5, 7.2, 12.5], p=[0.35, 0.3, 0.2, 0.15]))
    top = height + (rng.uniform(0.2, 1.1) if rng.random() < 0.8 else -0.9)
    cab_m, floor = rng.uniform(1.7, 2.3), rng.uniform(0.75, 1.1)
    front, middle = (cab_m + box_m) / 2, (box_m - cab_m) / 2
    cab = [(middle, 0.45), (front, 0.45), (front, 1.25), (front - 0.2, height), (middle, height)]
    glass = [(front + 0.01, 1.4), (front - 0.17, height - 0.3), (front - 0.9, height - 0.3)]
    rear = middle - box_m
    parts = [
        prism(cab, half - 0.05, TRUCK, 'panel'),
        prism([*glass, (front - 0.9, 1.4)], half - 0.03, TRUCK, 'glass'),
        box(
            (box_m - 0.2, 2 * half, top - floor),
            (rear + box_m / 2, 0, (top + floor) / 2),
            TRUCK,
            'panel',
        ),
        box((cab_m + box_m - 0.6, 0.9, 0.25), (0, 0, floor - 0.12), TRUCK, 'steel'),
        *_wheels((front - 1.1, rear + 1.0, rear + 2.2), half - 0.15, 0.48, TRUCK),
        box((0.08, 2 * half, 0.12), (rear, 0, 0.55), TRUCK, 'steel'),
    ]
    return join(parts).tinted(rng.uniform(0.6, 1.3))


def build_bus(rng: Rng) -> Mesh:
    length, height = rng.uniform(9.5, 13.0), rng.uniform(2.9, 3.3)
    return _coach(length, (1.25, height), BUS, rng)


def build_tram(rng: Rng) -> Mesh:
    """Two coupled cars on rails."""
    cars = [_coach(11.5, (1.25, 3.4), TRAM, rng).placed((x, 0, 0.05)) for x in (-6.0, 6.0)]
    return join([*cars, box((0.6, 2.0, 2.6), (0, 0, 1.9), TRAM, 'cloth')])


def _coach(length: float, section: tuple[float, float], raw: int, rng: Rng) -> Mesh:
    (half, height), front = section, length / 2
    outline = [(-front, 0.35), (front, 0.35), (front, 1.1), (front - 0.15, height)]
    panes = [(-front + 0.3, 1.25), (front - 0.3, 1.25), (front - 0.35, height - 0.6)]
    parts = [
        prism([*outline, (-front, height)], half, raw, 'panel'),
        prism([*panes, (-front + 0.3, height - 0.6)], half + 0.01, raw, 'glass'),
        box((0.03, 2 * half - 0.3, 1.3), (front + 0.01, 0, 1.9), raw, 'glass'),
        *_wheels((front - 2.5, -front + 2.8), half - 0.12, 0.48, raw),
    ]
    parts += [
        box((0.12, 2 * half + 0.03, height - 1.6), (x, 0, height / 2 + 0.4), raw, 'panel')
        for x in np.arange(-front + 1.5, front - 1, 1.6)
    ]
    return join(parts).tinted(rng.uniform(0.7, 1.3))


def build_trailer(rng: Rng) -> Mesh:
    """A caravan or a small trailer, unhitched."""
    if rng.random() < 0.6:
        length, height = rng.uniform(4.5, 6.0), rng.uniform(2.3, 2.6)
        front = length / 2
        outline = [(-front, 0.5), (front, 0.5), (front - 0.1, 1.2), (front - 0.5, height)]
        outline += [(-front + 0.2, height)]
        shell = [
            prism(outline, 1.1, OTHER, 'panel'),
            box((1.2, 2.24, 0.6), (0, 0, 1.6), OTHER, 'glass'),
        ]
    else:
        front, floor = rng.uniform(0.9, 1.6), rng.uniform(0.5, 0.65)
        high = rng.uniform(0.35, 1.1)
        shell = [box((2 * front, 1.4, high), (0, 0, floor + high / 2), OTHER, 'panel')]
    drawbar = tube([(front - 0.1, 0, 0.5), (front + 1.2, 0, 0.45)], 0.07, OTHER, 'steel', 5)
    wheels = _wheels((-0.1,), 0.75, 0.3, OTHER)
    return join([*shell, drawbar, *wheels]).tinted(rng.uniform(0.7, 1.4))


def build_bicycle(rng: Rng) -> Mesh:
    """Bars are as thick as the beam is wide: a thinner bar would be seen by half of it."""
    wheel, base = rng.uniform(0.31, 0.36), rng.uniform(0.5, 0.56)
    saddle, bars = rng.uniform(0.85, 1.0), rng.uniform(0.95, 1.1)
    crank: Point = (-0.05, 0, 0.3)
    head: Point = (base - 0.15, 0, bars - 0.15)
    seat: Point = (-0.22, 0, saddle)
    lines = [(seat, crank), (crank, head), (seat, head), (crank, (-base, 0, wheel))]
    lines += [(seat, (-base, 0, wheel)), ((base, 0, wheel), (head[0] - 0.05, 0, bars))]
    lines += [((head[0], -0.28, bars), (head[0], 0.28, bars))]
    frame = [tube(line, 0.022, BICYCLE, 'steel', 4) for line in lines]
    rims = [_rim((x, 0, wheel), wheel, 0.028, BICYCLE) for x in (-base, base)]
    bag = [box((0.3, 0.3, 0.22), (-base, 0, 0.85), BICYCLE, 'cloth')] if rng.random() < 0.3 else []
    saddle_box = box((0.26, 0.14, 0.07), (-0.24, 0, saddle), BICYCLE, 'cloth')
    return join([*frame, *rims, saddle_box, *bag])


def _rim(centre: Point, radius: float, thick: float, raw: int) -> Mesh:
    angle = 2 * math.pi * np.arange(13) / 12
    ring: Array = np.array(centre) + radius * np.stack(
        [np.cos(angle), 0 * angle, np.sin(angle)], 1
    )
    ring[:, 2] = np.maximum(ring[:, 2], 0.01)
    spokes = [tube([centre, ring[i]], 0.008, raw, 'steel', 3) for i in range(0, 12, 2)]
    parts = [tube(ring[i : i + 2], thick, raw, 'tyre', 4) for i in range(12)]
    return join([*parts, *spokes])


def build_motorcycle(rng: Rng) -> Mesh:
    """A motorcycle or a scooter."""
    base, wheel = rng.uniform(0.58, 0.72), rng.uniform(0.26, 0.32)
    seat = rng.uniform(0.72, 0.85)
    body = [(-base - 0.2, seat - 0.05), (-0.3, 0.3), (0.25, 0.3), (base - 0.1, 0.75)]
    body += [(0.3, seat + 0.22), (0, seat + 0.08), (-base, seat + 0.1)]
    bars = (base - 0.3, 0, 1.05)
    parts = [
        prism(body, rng.uniform(0.13, 0.2), MOTORCYCLE, 'paint'),
        *(
            tube([(x, -0.06, wheel), (x, 0.06, wheel)], wheel, MOTORCYCLE, 'tyre', 12)
            for x in (-base, base)
        ),
        tube([(base, 0, wheel), bars], 0.06, MOTORCYCLE, 'steel', 5),
        tube([(bars[0], -0.36, 1.05), (bars[0], 0.36, 1.05)], 0.025, MOTORCYCLE, 'steel', 4),
        ball((base - 0.1, 0, 0.95), (0.1, 0.12, 0.12), MOTORCYCLE, 'glass'),
        box((0.02, 0.2, 0.2), (-base - 0.25, 0, 0.55), MOTORCYCLE, 'retro'),
    ]
    return join(parts).tinted(rng.uniform(0.5, 1.4))
