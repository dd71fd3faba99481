# SPDX-License-Identifier: Apache-2.0
"""Where the sensor is at any time: on a car in its lane that pitches and rolls a little."""

from __future__ import annotations

import math

import numpy as np

from training.streets.course import Array
from training.streets.sensors import Sensor
from training.streets.traffic import Traffic

_KNOTS = 25  # poses per turn between which those of single firings are interpolated


class Drive:
    """Poses of the sensor in the world, SemanticKITTI's velodyne axes: x ahead, y left, z up."""

    def __init__(self, traffic: Traffic, sensor: Sensor, rng: np.random.Generator) -> None:
        self._traffic, self._sensor = traffic, sensor
        self._mount = rng.normal(0, math.radians(0.5), 2)  # no sensor sits quite level
        self._periods_s = rng.uniform(0.9, 2.5, 2)
        self._phases = rng.uniform(0, 2 * math.pi, 2)

    def state(self, time_s: float) -> Array:
        """x, y, z, yaw, pitch, roll."""
        traffic, course = self._traffic, self._traffic.road.course
        s = traffic.ego.metres(time_s)
        at = course.locate(s, traffic.ego_t, self._sensor.height_m)
        sway = np.sin(2 * math.pi * time_s / self._periods_s + self._phases)
        shake = math.radians(0.15) * sway + self._mount
        pitch = -math.atan(course.slope(s)) + shake[0]
        return np.array([*at, float(course.yaw(s)), pitch, shake[1]])

    def pose(self, time_s: float) -> Array:
        """(4, 4) sensor to world."""
        return _pose(self.state(time_s))

    def rays(self, time_s: float, directions: Array, delays_s: Array | None) -> Array:
        """(N, 6) origins and directions in the world; delays bend them along the way driven."""
        if delays_s is None:
            pose = self.pose(time_s)
            origins = np.broadcast_to(pose[:3, 3], directions.shape)
            return np.concatenate([origins, directions @ pose[:3, :3].T], 1)
        knots = np.linspace(delays_s.min(), delays_s.max(), _KNOTS)
        poses = np.array([self.pose(time_s + delay) for delay in knots])
        each = np.stack(
            [np.interp(delays_s, knots, column) for column in poses[:, :3].reshape(_KNOTS, 12).T],
            1,
        ).reshape(-1, 3, 4)
        turned = np.einsum('nij,nj->ni', each[:, :, :3], directions)
        turned /= np.linalg.norm(turned, axis=1, keepdims=True)
        return np.concatenate([each[:, :, 3], turned], 1)


def _pose(state: Array) -> Array:
    yaw, pitch, roll = state[3:]
    cy, sy, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
    cr, sr = math.cos(roll), math.sin(roll)
    pose = np.eye(4)
    pose[:3, :3] = (
        np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
        @ np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
        @ np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    )
    pose[:3, 3] = state[:3]
    return pose
