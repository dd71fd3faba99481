# SPDX-License-Identifier: Apache-2.0
"""What stands beside the road: poles, lamps, signs, fences, bins, shelters."""

from __future__ import annotations

import math

import numpy as np

from training.streets.mesh import Array, box, join, Mesh, prism, quads, surface, tube

OTHER_STRUCTURE, FENCE, POLE, SIGN, OTHER_OBJECT = 52, 51, 80, 81, 99
Rng = np.random.Generator


def build_lamp(rng: Rng) -> Mesh:
    """A lamp on an arm over the road; it looks along x."""
    height, reach = rng.uniform(4, 8.5), rng.choice([0.0, rng.uniform(0.8, 2.0)])
    radius = rng.uniform(0.06, 0.11)
    parts = [tube([(0, 0, -0.2), (0, 0, height)], (radius, 0.7 * radius), POLE, 'steel')]
    if reach:
        parts.append(tube([(0, 0, height), (reach, 0, height + 0.3)], 0.04, POLE, 'steel', 5))
    head = (0.6, 0.25, 0.12) if reach else (0.35, 0.35, 0.4)
    parts.append(box(head, (reach, 0, height + 0.25), POLE, 'metal'))
    return join(parts)


def build_pole(rng: Rng) -> Mesh:
    """A bollard, a wooden mast, or a bare post."""
    height, radius = ((0.9, 0.08), (rng.uniform(6, 9), 0.15), (rng.uniform(2, 4), 0.05))[
        int(rng.choice(3, p=[0.45, 0.25, 0.3]))
    ]
    material = 'wood' if radius > 0.1 else 'steel'
    return tube([(0, 0, -0.2), (0, 0, height)], (radius, 0.8 * radius), POLE, material)


def build_sign(rng: Rng) -> Mesh:
    """One or two plates on a post; they face x, their backs reflect little."""
    height = rng.uniform(2.1, 2.8)
    parts = [tube([(0, 0, -0.2), (0, 0, height + 0.35)], 0.04, POLE, 'steel', 6)]
    for row in range(int(rng.choice([1, 2], p=[0.75, 0.25]))):
        parts.append(_plate(height - 0.65 * row, rng))
    return join(parts)


def _plate(height: float, rng: Rng) -> Mesh:
    sides, radius = ((12, 0.32), (3, 0.42), (4, 0.35))[int(rng.integers(3))]
    angle = 2 * math.pi * (np.arange(sides) + 0.5) / sides + math.pi / 2
    y, z = radius * np.cos(angle), height + radius * np.sin(angle)
    centre = np.zeros(sides)
    around = np.stack(
        [
            np.stack([centre, y, z], 1),
            np.stack([centre, np.roll(y, -1), np.roll(z, -1)], 1),
            np.tile([0, 0, height], (sides, 1)),
        ],
        1,
    )
    faces = [
        surface((around + [x, 0, 0]).reshape(-1, 3), np.arange(3 * sides), SIGN, material)
        for x, material in ((0.06, 'retro' if rng.random() < 0.35 else 'sign'), (0.05, 'sign'))
    ]
    return join(faces)


def build_board(rng: Rng) -> Mesh:
    """A direction board on two posts."""
    width, height = rng.uniform(1.6, 3.2), rng.uniform(1.0, 1.8)
    foot = rng.uniform(1.5, 2.2)
    posts = [
        tube([(0, y, -0.2), (0, y, foot + height)], 0.06, POLE, 'steel', 6)
        for y in (-0.35 * width, 0.35 * width)
    ]
    return join([*posts, box((0.06, width, height), (0.08, 0, foot + height / 2), SIGN, 'sign')])


def build_gantry(span_m: float, rng: Rng) -> Mesh:
    """A gantry with boards across a highway; it faces x, its foot at the origin, arm along y."""
    posts = [tube([(0, y, -0.2), (0, y, 6.8)], 0.22, POLE, 'steel') for y in (0, span_m)]
    beam = tube([(0, 0, 6.6), (0, span_m, 6.6)], 0.25, POLE, 'steel', 6)
    boards = [
        box((0.1, 3.2, 2.2), (0.3, y, 6.6), SIGN, 'sign')
        for y in np.arange(2.4, span_m - 1.6, 4.2)
        if rng.random() < 0.8
    ]
    return join([*posts, beam, *boards])


def build_clutter(rng: Rng) -> Mesh:
    """What has no class of its own: bins, benches, cabinets, traffic lights."""
    kind = int(rng.integers(4))
    if kind == 0:
        size = rng.uniform((0.5, 0.5, 0.9), (0.8, 1.2, 1.3))
        return box(size, (0, 0, size[2] / 2), OTHER_OBJECT, 'panel')
    if kind == 1:
        seat = box((0.45, 1.6, 0.07), (0, 0, 0.45), OTHER_OBJECT, 'wood')
        back = box((0.07, 1.6, 0.4), (-0.22, 0, 0.75), OTHER_OBJECT, 'wood')
        legs = [box((0.4, 0.08, 0.45), (0, y, 0.22), OTHER_OBJECT, 'steel') for y in (-0.6, 0.6)]
        return join([seat, back, *legs])
    if kind == 2:
        return box((0.35, 1.1, 1.25), (0, 0, 0.62), OTHER_OBJECT, 'panel')
    post = tube([(0, 0, -0.2), (0, 0, 3.3)], 0.06, POLE, 'steel')
    return join([post, box((0.25, 0.3, 0.9), (0.15, 0, 2.8), OTHER_OBJECT, 'metal')])


def build_shed(rng: Rng) -> Mesh:
    """What is built but no house: sheds, containers, stairs, kiosks."""
    length, depth, height = rng.uniform((1.2, 1.0, 0.6), (4.0, 2.5, 2.6))
    material = str(rng.choice(['wood', 'panel', 'brick']))
    return box((length, depth, height), (0, 0, height / 2), OTHER_STRUCTURE, material)


def build_shelter() -> Mesh:
    """A bus shelter, open towards x."""
    panes = [box((0.06, 3.6, 2.0), (-0.7, 0, 1.2), OTHER_STRUCTURE, 'glass')]
    panes += [box((1.2, 0.06, 2.0), (-0.1, y, 1.2), OTHER_STRUCTURE, 'glass') for y in (-1.8, 1.8)]
    roof = box((1.7, 3.9, 0.12), (0, 0, 2.35), OTHER_STRUCTURE, 'metal')
    posts = [
        tube([(-0.7, y, 0), (-0.7, y, 2.4)], 0.05, OTHER_STRUCTURE, 'steel', 5)
        for y in (-1.8, 1.8)
    ]
    return join([*panes, roof, *posts])


def build_fence(feet: Array, kind: str, height_m: float) -> Mesh:
    """A fence along (K, 3) feet: 'wall' and 'boards' are closed, the others let rays through."""
    spans = [_SPANS[kind](float(np.hypot(*(b - a)[:2])), height_m) for a, b in zip(feet, feet[1:])]
    placed = []
    for span, a, b in zip(spans, feet, feet[1:]):
        yaw = math.atan2(b[1] - a[1], b[0] - a[0])
        placed.append(span.placed((*a[:2], min(a[2], b[2])), yaw))
    return join(placed)


def _span_wall(length: float, height: float) -> Mesh:
    return box((length, 0.2, height + 0.4), (length / 2, 0, height / 2 - 0.2), FENCE, 'brick')


def _span_boards(length: float, height: float) -> Mesh:
    return box((length, 0.05, height), (length / 2, 0, height / 2 + 0.05), FENCE, 'wood')


def _span_pickets(length: float, height: float) -> Mesh:
    at = np.arange(0.06, length, 0.14)
    slats = _upright(at, 0.07, (0.05, height))
    rails = [
        box((length, 0.05, 0.08), (length / 2, 0, z), FENCE, 'wood')
        for z in (0.25 * height, 0.8 * height)
    ]
    return join([quads(slats, FENCE, 'wood'), *rails, _post(height)])


def _span_mesh(length: float, height: float) -> Mesh:
    """Wire: thin uprights and rows, most rays pass."""
    uprights = _upright(np.arange(0, length, 0.2), 0.035, (0.05, height))
    rows = [
        box((length, 0.01, 0.03), (length / 2, 0, z), FENCE, 'metal')
        for z in np.arange(0.1, height + 0.01, 0.22)
    ]
    return join([quads(uprights, FENCE, 'metal'), *rows, _post(height)])


def _span_rail(length: float, height: float) -> Mesh:
    """A guard rail: a folded band on posts."""
    z = 0.6 * height
    outline = [
        (-0.04, z - 0.03),
        (0.04, z + 0.06),
        (-0.02, z + 0.15),
        (0.04, z + 0.24),
        (-0.04, z + 0.32),
    ]
    band = prism(outline, length / 2, FENCE, 'metal').placed((0, length / 2, 0), 0)
    turned = band.placed((0, 0, 0), -math.pi / 2)
    return join([turned, _post(height * 0.9)])


def _post(height: float) -> Mesh:
    return box((0.08, 0.08, height + 0.3), (0, 0, height / 2 - 0.1), FENCE, 'metal')


def _upright(at: Array, width: float, z: tuple[float, float]) -> Array:
    low, high = np.full_like(at, z[0]), np.full_like(at, z[1])
    left, right = at - width / 2, at + width / 2
    ends = [(left, low), (right, low), (right, high), (left, high)]
    return np.stack([np.stack([x, 0 * x, height], 1) for x, height in ends], 1)


_SPANS = {
    'wall': _span_wall,
    'boards': _span_boards,
    'pickets': _span_pickets,
    'mesh': _span_mesh,
    'rail': _span_rail,
}
