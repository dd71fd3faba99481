# SPDX-License-Identifier: Apache-2.0
"""Which way is up, by an IMU's accelerations: their mean, for a robot brakes and turns.

Its orientation is not looked at: many drivers fill in one that means nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Imu

_REMEMBERED_S = 5.0
_SHORTEST_S, _LONGEST_S = 1e-3, 0.1  # between two messages, whatever the stamps say
_LEAST = 0.05  # length: accelerations come in m/s2 or, from some drivers, in g
_LATEST = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT
)


class Gravity:
    """Listens to ~/imu; `up` is its frame and a unit vector in it, None before the first."""

    def __init__(self, node: LifecycleNode) -> None:
        self._node = node
        self.up: tuple[str, NDArray[np.float64]] | None = None  # replaced, never changed
        self._mean = np.zeros(3)
        self._seen_s, self._last_s = 0.0, 0.0
        self._subscription = node.create_subscription(Imu, '~/imu', self.receive, _LATEST)

    def receive(self, message: Any) -> None:
        pushed, stamp = message.linear_acceleration, message.header.stamp
        push = np.array([pushed.x, pushed.y, pushed.z])  # at rest it points up
        if not np.isfinite(push).all():
            return
        self._average(push, stamp.sec + 1e-9 * stamp.nanosec, message.header.frame_id)
        length = float(np.linalg.norm(self._mean))
        if length > _LEAST:
            self.up = message.header.frame_id, self._mean / length

    def _average(self, push: NDArray[np.float64], now_s: float, frame: str) -> None:
        """The plain mean at first, then one that forgets."""
        if self.up is not None and self.up[0] != frame:
            self._seen_s = 0.0
        step_s = min(max(now_s - self._last_s, _SHORTEST_S), _LONGEST_S)
        if not self._seen_s:
            step_s = _SHORTEST_S  # nobody knows how long it was so
        self._last_s = now_s
        self._seen_s = min(self._seen_s + step_s, _REMEMBERED_S)
        self._mean = self._mean + step_s / self._seen_s * (push - self._mean)

    def destroy(self) -> None:
        self._node.destroy_subscription(self._subscription)
