# SPDX-License-Identifier: Apache-2.0
"""Where the sensor is and how it is mounted: on cars and on small robots, tilted, upside down."""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np

from training.streets.buildings import BUILDING
from training.streets.cast import Scene
from training.streets.mesh import Array
from training.worlds.network import ROAD
from training.worlds.site import Edge, Site

Rng = np.random.Generator
CAR, ANY_MOUNT = 'car', 'any'
MOUNTS = (ANY_MOUNT, CAR)
_REACH_M = 42.0  # from the middle of the tile, so that there is a scene all around
_TRIES = 60
_CROWDED = 0.15  # share of the horizon where something may be near


@dataclass(frozen=True, kw_only=True)
class Mount:
    """How a sensor sits on what carries it."""

    height_m: float  # above the ground
    roll: float
    pitch: float
    yaw: float
    upside_down: bool
    hood_deg: float | None  # how much lower the own car is than KITTI's; None: not in view


def draw_mount(kind: str, rng: Rng) -> Mount:
    """'car': as in KITTI. 'any': 55 % such cars, then robots, roofs, tilted and hanging ones."""
    if kind == CAR or rng.random() < 0.55:
        tilt = rng.normal(0, math.radians(0.7), 2)
        return Mount(
            height_m=float(rng.normal(1.73, 0.05)), roll=float(tilt[0]), pitch=float(tilt[1]),
            yaw=0.0, upside_down=False, hood_deg=float(rng.uniform(-2.5, 1.0)),
        )  # fmt: skip
    most = math.radians(10 if rng.random() < 0.35 else 2.5)
    roll, pitch = rng.uniform(-most, most, 2)
    low = rng.random() < 0.4
    return Mount(
        height_m=float(rng.uniform(0.4, 1.2) if low else rng.uniform(1.2, 2.4)),
        roll=float(roll), pitch=float(pitch), yaw=float(rng.normal(0, 0.3)),
        upside_down=bool(rng.random() < 0.08), hood_deg=None,
    )  # fmt: skip


def turn_of(mount: Mount) -> Array:
    """(3, 3) from the sensor's axes to those of what carries it."""
    c, s = math.cos(mount.pitch), math.sin(mount.pitch)
    pitch = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    c, s = math.cos(mount.roll), math.sin(mount.roll)
    roll = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    turned = yaw_matrix(mount.yaw) @ pitch @ roll
    return turned @ np.diag([1.0, -1.0, -1.0]) if mount.upside_down else turned


def yaw_matrix(yaw: float) -> Array:
    c, s = math.cos(yaw), math.sin(yaw)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def draw_pose(site: Site, scene: Scene, mount: Mount, rng: Rng) -> Array:
    """(4, 4) sensor to world: the first place of some where nothing is in its way."""
    for _ in range(_TRIES):
        pose = _stand(site, mount, *_draw_place(site, mount, rng))
        if is_clear(scene, pose[:3, 3], 1.0 if mount.hood_deg is None else 1.8):
            return pose
    return pose


def is_clear(scene: Scene, eye: Array, near_m: float) -> bool:
    """Not in a bush, in a wall or in a house: few things that near, no roof above."""
    around = np.linspace(0, math.tau, 48, endpoint=False)
    level = np.stack([np.cos(around), np.sin(around), 0 * around], 1)
    ways = np.concatenate([level, [[0.0, 0.0, 1.0]]])
    hits = scene.cast(np.concatenate([np.broadcast_to(eye, ways.shape), ways], 1))
    roofed = np.isfinite(hits.distance[-1]) and hits.raw[-1] == BUILDING
    return not roofed and float((hits.distance[:-1] < near_m).mean()) < _CROWDED


def _stand(site: Site, mount: Mount, at: Array, yaw: float) -> Array:
    """(4, 4) upright on the slope of the land."""
    up = site.ground.normal(at)
    ahead = np.array([math.cos(yaw), math.sin(yaw), 0.0])
    ahead -= up * (ahead @ up)
    ahead /= np.linalg.norm(ahead)
    body = np.stack([ahead, np.cross(up, ahead), up], 1)
    pose = np.eye(4)
    pose[:3, :3] = body @ turn_of(mount)
    pose[:3, 3] = [*at, float(site.ground.height(at))]
    pose[:3, 3] += up * mount.height_m
    return pose


def _draw_place(site: Site, mount: Mount, rng: Rng) -> tuple[Array, float]:
    """Cars in a lane or turning at a mouth; what sits low also beside the street."""
    edges = list(site.edges())
    beside = mount.hood_deg is None and mount.height_m < 1.3 and rng.random() < 0.6
    for _ in range(_TRIES):
        edge = edges[int(rng.integers(len(edges)))]
        s = rng.uniform(*edge.span)
        at = edge.at(s, _draw_aside(edge, beside, rng))
        if np.abs(at).max() < _REACH_M and _is_open(site, at, 1.0 if beside else 2.3):
            return at, _draw_yaw(site, edge, s, beside, rng)
    middle = site.network.streets[0]
    s = middle.length_m / 2
    return middle.locate(s, 0.0), float(middle.yaw(s))


def _draw_aside(edge: Edge, beside: bool, rng: Rng) -> float:
    if beside:
        return float(rng.uniform(0.3, edge.front.begin('front') + 3.0))
    street = edge.street
    if street.median_m:
        return -float(rng.choice([1.8, 5.3]))
    lane = -max(street.half_m / 2, 0.8)
    if street.half_m > 3.2:  # a parked row leaves less
        lane -= rng.uniform(-0.6, 0.8)
    return float(lane + rng.normal(0, 0.25))


def _draw_yaw(site: Site, edge: Edge, s: float, beside: bool, rng: Rng) -> float:
    if beside:
        return float(rng.uniform(0, math.tau))
    ends = min(abs(s - end) for end in edge.span)
    turning = ends < 12 and edge.street.raw == ROAD and len(site.network.streets) > 1
    spread = 0.5 if turning and rng.random() < 0.5 else 0.03
    return edge.along(s) + float(rng.normal(0, spread))


def _is_open(site: Site, at: Array, radius: float) -> bool:
    return all(
        (at[0] - x) ** 2 + (at[1] - y) ** 2 > (0.8 * r + radius) ** 2 for x, y, r in site.taken
    )
