# SPDX-License-Identifier: Apache-2.0
"""How a sensor is mounted, and the motion that brings its scans to the pose of training."""

from __future__ import annotations

from collections.abc import Sequence
import math

import numpy as np

from lidar_kd.sensor.ground import Ground, Points, Vector

_SAME_DEG, _SAME_M = 3.0, 0.3  # two scans of one mounting may differ by this
# a pose this near to that of training is left: the network has seen as much in its streets
_LEFT_DEG, _LEFT_M = 1.5, 0.1


def are_alike(one: Ground, other: Ground) -> bool:
    """Whether two grounds may be one sensor's."""
    near = abs(one.height_m - other.height_m) < _SAME_M
    return near and angle_deg(one.normal, other.normal) < _SAME_DEG


def average_grounds(grounds: Sequence[Ground]) -> Ground:
    normal = np.sum([each.normal for each in grounds], 0)
    height_m = float(np.median([each.height_m for each in grounds]))
    share = float(np.mean([each.share for each in grounds]))
    return Ground(normal / np.linalg.norm(normal), height_m, share)


def angle_deg(one: Vector, other: Vector) -> float:
    return math.degrees(math.acos(max(-1.0, min(1.0, float(one @ other)))))


def find_motion(ground: Ground, height_m: float) -> Vector | None:
    """(4, 4) that makes the ground level and the sensor `height_m` above it; None: it is so."""
    tilt_deg = angle_deg(ground.normal, np.array([0.0, 0, 1]))
    higher_m = ground.height_m - height_m
    if tilt_deg < _LEFT_DEG and abs(higher_m) < _LEFT_M:
        return None
    motion = np.eye(4)
    motion[:3, :3] = _turn_up(ground.normal)
    motion[2, 3] = higher_m
    return motion


def _turn_up(normal: Vector) -> Vector:
    """(3, 3) the smallest rotation that brings `normal` to z; half a turn about x comes first
    where it points down.
    """
    if normal[2] < 0:
        over = np.diag([1.0, -1, -1])
        return _turn_up(over @ normal) @ over
    x, y, z = normal
    cross = np.array([[0, 0, -x], [0, 0, -y], [x, y, 0]])
    turn: Vector = np.eye(3) + cross + cross @ cross / (1 + z)
    return turn


def move_points(points: Points, motion: Vector) -> None:
    """In place, the first three columns of points (N, 3+)."""
    turn, shift = motion[:3, :3].astype(np.float32), motion[:3, 3].astype(np.float32)
    x, y, z = (points[:, column].copy() for column in range(3))
    with np.errstate(over='ignore', invalid='ignore'):
        for column in range(3):  # by columns: a matrix product would wake BLAS's threads
            moved = turn[column, 0] * x + turn[column, 1] * y + turn[column, 2] * z
            points[:, column] = moved + shift[column]
