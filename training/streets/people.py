# SPDX-License-Identifier: Apache-2.0
"""People: standing, walking, riding. They look along x."""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np

from training.streets.mesh import Array, ball, box, join, Mesh, tube
from training.streets.vehicles import build_bicycle, build_motorcycle

PERSON, BICYCLIST, MOTORCYCLIST = 30, 31, 32
Rng = np.random.Generator


@dataclass(frozen=True, kw_only=True)
class Body:
    """What stays the same while a person moves."""

    height_m: float
    girth: float
    bag: bool
    tint: float


def draw_body(rng: Rng) -> Body:
    child = rng.random() < 0.12
    height = rng.uniform(1.1, 1.45) if child else rng.normal(1.72, 0.08)
    return Body(
        height_m=float(np.clip(height, 1.0, 1.98)),
        girth=float(rng.uniform(0.85, 1.25)),
        bag=bool(rng.random() < 0.3),
        tint=float(rng.uniform(0.6, 1.25)),
    )


def build_person(body: Body, phase: float, stride: float) -> Mesh:
    """Legs and arms swing with `phase`; stride 0 stands, 1 walks."""
    h, g = body.height_m, body.girth
    swing = 0.26 * h * stride * math.sin(phase)
    hip, shoulder = 0.5 * h, 0.82 * h
    parts = [_torso((0, hip), (0.02, shoulder), g)]
    for side in (-1, 1):
        foot = (side * swing, side * 0.1, 0.06)
        knee = (0.6 * side * swing + 0.04 * stride, side * 0.1, 0.27 * h)
        parts += _limb([(0, side * 0.1, hip), knee, foot], 0.08 * g, 'cloth')
        hand = (-0.7 * side * swing, side * 0.27 * g, 0.48 * h)
        parts += _limb([(0, side * 0.21 * g, shoulder), hand], 0.05 * g, 'cloth')
    parts.append(_head((0.03, h)))
    if body.bag:
        parts.append(box((0.2, 0.32, 0.42), (-0.2, 0, 0.68 * h), PERSON, 'cloth'))
    return join(parts).tinted(body.tint)


def _torso(hip: tuple[float, float], shoulder: tuple[float, float], girth: float) -> Mesh:
    middle = ((hip[0] + shoulder[0]) / 2, 0, (hip[1] + shoulder[1]) / 2)
    length = math.hypot(shoulder[0] - hip[0], shoulder[1] - hip[1])
    trunk = ball((0, 0, 0), (0.15 * girth, 0.22 * girth, 0.6 * length), PERSON, 'cloth')
    lean = math.atan2(shoulder[0] - hip[0], shoulder[1] - hip[1])
    return _pitched(trunk, lean).placed(middle)


def _pitched(mesh: Mesh, angle: float) -> Mesh:
    cos, sin = math.cos(angle), math.sin(angle)
    turn: Array = np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
    return Mesh(**{**vars(mesh), 'vertices': mesh.vertices @ turn})


def _limb(joints: list[tuple[float, float, float]], radius: float, material: str) -> list[Mesh]:
    return [
        tube([start, end], (radius, 0.8 * radius), PERSON, material, 6)
        for start, end in zip(joints, joints[1:])
    ]


def _head(at: tuple[float, float], radius: float = 0.11) -> Mesh:
    return ball(
        (at[0], 0, at[1] - 1.3 * radius), (radius, 0.9 * radius, 1.3 * radius), PERSON, 'skin'
    )


def _rider(body: Body, seat: tuple[float, float], bars: tuple[float, float], feet: float) -> Mesh:
    """Somebody who sits at `seat` (x, z) and holds `bars`."""
    shoulder = (seat[0] + 0.22, seat[1] + 0.3 * body.height_m)
    parts = [_torso(seat, shoulder, body.girth), _head((shoulder[0] + 0.08, shoulder[1] + 0.32))]
    for side in (-1, 1):
        hand = (bars[0], side * 0.26, bars[1])
        parts += _limb([(shoulder[0], side * 0.2, shoulder[1] - 0.05), hand], 0.055, 'cloth')
        low = feet + 0.1 * side
        knee = (seat[0] + 0.38, side * 0.12, 0.5 * (seat[1] + low) + 0.12)
        parts += _limb(
            [(seat[0], side * 0.1, seat[1]), knee, (0.05, side * 0.1, low)],
            0.08 * body.girth,
            'cloth',
        )
    return join(parts).tinted(body.tint)


def build_bicyclist(rng: Rng) -> Mesh:
    rider = _rider(draw_body(rng), (-0.22, 0.95), (0.36, 1.02), 0.3)
    return join([build_bicycle(rng), rider]).relabelled(BICYCLIST)


def build_motorcyclist(rng: Rng) -> Mesh:
    rider = _rider(draw_body(rng), (-0.25, 0.85), (0.32, 1.05), 0.35)
    return join([build_motorcycle(rng), rider]).relabelled(MOTORCYCLIST)
