# SPDX-License-Identifier: Apache-2.0
"""Follows objects from scan to scan: numbers that stay, ages and speeds.

Every object keeps a steady speed but for an acceleration that nobody knows (a Kalman filter on
place and velocity, x and y alike). t tracks, k objects of the newest scan.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lidar_kd.errors import ConfigError, DataError
from lidar_kd.objects.assign import assign
from lidar_kd.objects.find import Objects

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]
_FRESH_VARIANCE = np.diag([0.04, 100.0])  # m^2, (m/s)^2: a new object may be as fast as 10 m/s


@dataclass(frozen=True, kw_only=True)
class TrackSettings:
    """Of the tracker."""

    gate_m: float = 2.0  # an object further from where a track expects it is another one
    other_class_m: float = 1.0  # an object of another class counts as so much further away
    keep_s: float = 0.5  # a track that is not seen for longer ends
    noise_m: float = 0.2  # of the centres of boxes
    acceleration_mps2: float = 3.0  # that tracked objects may have

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value < 1000:
                raise ConfigError(f'tracks: {name} is {value}; it must be within 0..1000.')


@dataclass(frozen=True, kw_only=True, eq=False)
class Tracks:
    """What is known about the objects of a scan from those before, in their order.

    Speeds are over ground where poses are given, else relative to the sensor; the velocity is
    in the axes of the sensor.
    """

    numbers: Ids  # (K,) from 1, never used again
    ages: Ids  # (K,) scans it was seen in; 1 where it is new
    velocity: Floats  # (K, 2) m/s
    yaw: Floats  # (K,) that of the box, turned so that the object drives forwards

    @property
    def speed(self) -> Floats:
        """(K,) m/s"""
        speed: Floats = np.hypot(*self.velocity.T)
        return speed


@dataclass(eq=False)
class _State:
    """The tracks, one row each, in the frame of the poses."""

    numbers: Ids
    ages: Ids
    class_id: NDArray[np.uint8]
    seen_s: Floats
    place: Floats  # (t, 2)
    velocity: Floats  # (t, 2)
    variance: Floats  # (t, 2, 2) of place and velocity along either axis

    def take(self, rows: NDArray[np.bool_]) -> _State:
        return _State(**{name: values[rows] for name, values in vars(self).items()})

    def join(self, other: _State) -> _State:
        pairs = zip(vars(self).items(), vars(other).values())
        return _State(**{name: np.concatenate([mine, its]) for (name, mine), its in pairs})


class Tracker:
    """Feed it every scan in order; `reset` where a recording starts anew."""

    def __init__(self, settings: TrackSettings | None = None) -> None:
        self.settings = settings or TrackSettings()
        self.reset()

    def reset(self) -> None:
        self._state = _new_state(np.zeros((0, 2)), np.zeros(0, np.uint8), 0.0, first=1)
        self._time_s = -np.inf
        self._next = 1

    def update(
        self, objects: Objects, time_s: float, pose: NDArray[np.float64] | None = None
    ) -> Tracks:
        """`pose` is (4, 4) from the sensor to a fixed frame; None: the sensor stands still."""
        if pose is None:
            pose = np.eye(4)
        if not (np.isfinite(pose).all() and np.isfinite(time_s)):
            raise DataError('tracks: the pose or the time is no number; leave this scan out.')
        if time_s < self._time_s:  # a recording that starts again
            self.reset()
        place = (objects.centre @ pose[:3, :3].T + pose[:3, 3])[:, :2]
        self._predict(time_s)
        row_of = self._match(place, objects.class_id)
        self._correct(row_of, place, objects.class_id, time_s)
        return self._describe(self._settle(row_of, place, objects, time_s), objects, pose)

    def _predict(self, time_s: float) -> None:
        """Moves the tracks on to now; those not seen for too long end."""
        alive = time_s - self._state.seen_s <= self.settings.keep_s
        state = self._state = self._state.take(alive)
        step = time_s - self._time_s if alive.any() else 0.0
        self._time_s = time_s
        state.place += step * state.velocity
        move = np.array([[1, step], [0, 1]])
        push = np.array([step**2 / 2, step])
        unknown = self.settings.acceleration_mps2**2 * np.outer(push, push)
        state.variance = move @ state.variance @ move.T + unknown

    def _match(self, place: Floats, class_id: NDArray[np.uint8]) -> Ids:
        """(k,) the track of each object, -1 for a new one."""
        state, settings = self._state, self.settings
        cost = np.linalg.norm(state.place[:, None] - place[None], axis=2)
        cost += np.where(state.class_id[:, None] != class_id[None], settings.other_class_m, 0)
        # a young track does not know yet where its object will be
        gate_m = settings.gate_m + np.sqrt(state.variance[:, :1, 0])
        rows, columns = assign(np.where(cost <= gate_m, cost, np.inf))
        row_of = np.full(len(place), -1)
        row_of[columns] = rows
        return row_of

    def _correct(
        self, row_of: Ids, place: Floats, class_id: NDArray[np.uint8], time_s: float
    ) -> None:
        state, seen = self._state, row_of >= 0
        rows = row_of[seen]
        variance = state.variance[rows]
        gain = variance[:, :, 0] / (variance[:, :1, 0] + self.settings.noise_m**2)
        miss = place[seen] - state.place[rows]
        state.place[rows] += gain[:, :1] * miss
        state.velocity[rows] += gain[:, 1:] * miss
        state.variance[rows] = variance - gain[:, :, None] * variance[:, None, 0, :]
        state.class_id[rows] = class_id[seen]
        state.seen_s[rows] = time_s
        state.ages[rows] += 1

    def _settle(self, row_of: Ids, place: Floats, objects: Objects, time_s: float) -> Ids:
        """Begins new tracks; (k,) the row of each object."""
        new = row_of < 0
        numbers = np.zeros(len(row_of), np.int64)
        numbers[~new] = self._state.numbers[row_of[~new]]
        fresh = _new_state(place[new], objects.class_id[new], time_s, first=self._next)
        numbers[new] = fresh.numbers
        self._next += len(fresh.numbers)
        self._state = self._state.join(fresh)  # numbers stay ascending
        return np.searchsorted(self._state.numbers, numbers)

    def _describe(self, rows: Ids, objects: Objects, pose: Floats) -> Tracks:
        velocity = self._state.velocity[rows] @ pose[:2, :2]  # back into the sensor's axes
        ahead = velocity[:, 0] * np.cos(objects.yaw) + velocity[:, 1] * np.sin(objects.yaw)
        turned = objects.yaw - np.sign(objects.yaw + 1e-12) * np.pi
        return Tracks(
            numbers=self._state.numbers[rows],
            ages=self._state.ages[rows],
            velocity=velocity,
            yaw=np.where(ahead < -0.5, turned, objects.yaw),
        )


def _new_state(place: Floats, class_id: NDArray[np.uint8], time_s: float, *, first: int) -> _State:
    count = len(place)
    return _State(
        numbers=np.arange(first, first + count),
        ages=np.ones(count, np.int64),
        class_id=class_id.copy(),
        seen_s=np.full(count, time_s),
        place=place.copy(),
        velocity=np.zeros((count, 2)),
        variance=np.broadcast_to(_FRESH_VARIANCE, (count, 2, 2)).copy(),
    )
