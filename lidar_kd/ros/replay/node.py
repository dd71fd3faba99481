# SPDX-License-Identifier: Apache-2.0
"""Publishes recorded scans as if a sensor did.

ros2 run lidar_kd replay_node --ros-args -p path:=SCANS; without a ROS distribution
python -m lidar_kd.ros.replay.node --ros-args -p path:=SCANS. Every cloud is stamped with the time
of its publication; source.py knows where the clouds come from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
import sys
import time
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Header

from lidar_kd.cli.console import Console
from lidar_kd.errors import ConfigError, LidarKdError
from lidar_kd.ros.replay.layouts import LAYOUTS
from lidar_kd.ros.replay.source import AUTO, open_source
from lidar_kd.ros.session import explain_refusal, ros_session
from lidar_kd.ros.topics import make_cloud

RELIABILITIES = {
    'reliable': ReliabilityPolicy.RELIABLE,
    'best_effort': ReliabilityPolicy.BEST_EFFORT,
}
FRAME_ID = 'lidar'  # where neither the bag nor the user names one
_LISTENERS_S = 0.05  # how often it is looked whether they came
_FAREWELL = Duration(seconds=2)  # for the last clouds to arrive
_FAREWELL_S = 0.5  # the same where nobody says that they did
_LOG_EVERY_S = 5.0


def _parameter(default: Any, description: str, *, upper: float = 0) -> Any:
    """With `upper` its range is 0 to upper."""
    return field(default=default, metadata={'description': description, 'upper': upper})


@dataclass(frozen=True, kw_only=True)
class ReplaySettings:
    """The node's parameters; they are read once."""

    path: str = _parameter(
        '',
        "A sequence in SemanticKITTI's layout, a scan, a folder of scans (.bin .pcd .ply .npy) or "
        'a rosbag.',
    )
    layout: str = _parameter(
        AUTO, f'Of the points: {", ".join(LAYOUTS)}; auto: xyzi, but bags as recorded.'
    )
    topic: str = _parameter('', 'Topic of a bag; empty: the only one with clouds.')
    rate_hz: float = _parameter(
        0.0, "Scans per second; 0: the sensor's, 10 or what the bag was recorded at.", upper=1000.0
    )
    loop: bool = _parameter(True, 'Begin again after the last scan; false: end.')
    start: int = _parameter(0, 'Number of the first scan to publish.', upper=10**9)
    scans: int = _parameter(0, 'How many to publish from there on; 0: all.', upper=10**9)
    truth: bool = _parameter(
        False, "Also publish a sequence's labels, as train ids in the field truth (uint8)."
    )
    frame_id: str = _parameter('', f"Of the clouds; empty: the bag's, else {FRAME_ID}.")
    reliability: str = _parameter('reliable', f'QoS: {" or ".join(RELIABILITIES)}.')
    depth: int = _parameter(5, 'QoS: clouds kept for slow listeners.', upper=1000)
    listeners: int = _parameter(0, 'Begin when so many subscribe.', upper=100)


class ReplayNode(Node):
    """Publishes on `points`; `done` once a replay without loop has ended.

    `receive` gets the clouds as they are, in the place of a listener; others get copies.
    """

    def __init__(
        self,
        name: str = 'replay',
        *,
        receive: Callable[[PointCloud2], None] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(name, **options)
        self._receive = receive
        self.settings = settings = declare_settings(self)
        self._source = open_source(
            settings.path, layout=settings.layout, topic=settings.topic, truth=settings.truth
        )
        if settings.start >= len(self._source):
            raise ConfigError(
                f'start is {settings.start}, but {settings.path} has {len(self._source)} scans; '
                'choose a smaller number.'
            )
        self.done = False
        self.published = 0
        self._number = settings.start
        self._end = min(len(self._source), settings.start + (settings.scans or len(self._source)))
        self._next = self._source.read(self._number)
        self._publisher = self.create_publisher(PointCloud2, 'points', choose_qos(settings))
        self._rate_hz = settings.rate_hz or self._source.rate_hz
        # A steady clock: a replay goes on while the time of ROS stands still.
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = self.create_timer(_LISTENERS_S, self._await_listeners, clock=self._steady)

    def finish(self) -> None:
        """Waits until the last clouds have arrived."""
        if self.settings.reliability == 'reliable':
            self._publisher.wait_for_all_acked(_FAREWELL)
        else:
            time.sleep(_FAREWELL_S)  # what lies in shared memory goes with the process

    def _await_listeners(self) -> None:
        missing = self.settings.listeners - self._publisher.get_subscription_count()
        if missing > 0:
            self.get_logger().info(
                f'waiting for {missing} more listeners on {self._publisher.topic_name}',
                throttle_duration_sec=_LOG_EVERY_S,
            )
            return
        self.destroy_timer(self._timer)
        # rcl counts the periods from here on, so delays of single clouds do not add up.
        self._timer = self.create_timer(1 / self._rate_hz, self._publish, clock=self._steady)
        self.get_logger().info(
            f'publishing {self._end - self._number} scans of {self.settings.path} on '
            f'{self._publisher.topic_name} at {self._rate_hz:.2f} Hz'
        )

    def _publish(self) -> None:
        payload, recorded_frame = self._next
        header = Header(
            stamp=self.get_clock().now().to_msg(),
            frame_id=self.settings.frame_id or recorded_frame or FRAME_ID,
        )
        self._send(make_cloud(header, payload))
        self.published += 1
        self._number += 1
        if self._number == self._end:
            self._number = self.settings.start
            self.done = not self.settings.loop
        if self.done:
            self._timer.cancel()
        else:
            self._prepare()

    def _send(self, cloud: PointCloud2) -> None:
        if self._receive:
            self._receive(cloud)
        if not self._receive or self._publisher.get_subscription_count():
            self._publisher.publish(cloud)

    def _prepare(self) -> None:
        """The next cloud is ready when its time comes; for one that cannot be read, the last."""
        try:
            self._next = self._source.read(self._number)
        except LidarKdError as error:
            self.get_logger().warning(
                f'the scan before is published again: {error}', throttle_duration_sec=_LOG_EVERY_S
            )


def declare_settings(node: Node) -> ReplaySettings:
    values = {}
    for each in fields(ReplaySettings):
        descriptor = make_read_only(each.default, **each.metadata)
        values[each.name] = node.declare_parameter(each.name, each.default, descriptor).value
    settings = ReplaySettings(**values)
    if settings.reliability not in RELIABILITIES:
        raise ConfigError(
            f"reliability '{settings.reliability}' is unknown; use {' or '.join(RELIABILITIES)}."
        )
    return settings


def make_read_only(default: Any, *, description: str, upper: float) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(description=description, read_only=True)
    if upper and isinstance(default, float):
        descriptor.floating_point_range = [FloatingPointRange(from_value=0.0, to_value=upper)]
    elif upper:
        descriptor.integer_range = [IntegerRange(from_value=0, to_value=int(upper), step=1)]
    return descriptor


def choose_qos(settings: ReplaySettings) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=max(settings.depth, 1),
        reliability=RELIABILITIES[settings.reliability],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        with ros_session(arguments):
            replay()
    except (LidarKdError, ParameterException, OSError) as error:
        return Console().fail(ConfigError(explain_refusal(error)))
    return 0


def replay() -> None:
    """Until the last scan, or a signal."""
    node = ReplayNode()
    try:
        while rclpy.ok() and not node.done:
            rclpy.spin_once(node)
        if node.done:
            node.finish()
    finally:
        node.destroy_node()


if __name__ == '__main__':
    sys.exit(main())
