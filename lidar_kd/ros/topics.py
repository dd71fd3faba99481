# SPDX-License-Identifier: Apache-2.0
"""The node's input, which finds its own reliability, and what all topics have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import os
from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import HistoryPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.utilities import get_rmw_implementation_identifier
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from lidar_kd.cloud import Payload
from lidar_kd.ros.parameters import overrides_of

POLICIES = (
    QoSPolicyKind.DEPTH,
    QoSPolicyKind.DURABILITY,
    QoSPolicyKind.HISTORY,
    QoSPolicyKind.RELIABILITY,
)
_PROFILE_VARIABLES = ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE')
_FAST_DDS = (
    'clouds above 0.5 MB need the Fast DDS profile: set FASTDDS_DEFAULT_PROFILES_FILE (before '
    'Kilted FASTRTPS_DEFAULT_PROFILES_FILE) to config/node/fastdds_large_clouds.xml on both sides'
)
_FAST_DDS_PROFILE = 'does it run with the Fast DDS profile that this node has?'
_LASER_SCAN = (
    "a scan in one plane shows no classes; connect a 3D LiDAR's PointCloud2 (its driver often "
    'publishes both)'
)
_CYCLONE_DDS = (
    "big clouds overflow the socket's buffer: sudo sysctl -w net.core.rmem_max=2147483647, then "
    "SocketReceiveBufferSize in Cyclone DDS's configuration"
)


class Input:
    """The subscription; with `reliability` auto it follows the publishers that come and go."""

    def __init__(
        self, node: LifecycleNode, receive: Callable[[PointCloud2], None], reliability: str
    ) -> None:
        self._node = node
        self._receive = receive
        self._overrides = choose_overrides(node, '~/points', 'subscription')
        told = QoSPolicyKind.RELIABILITY in self._overrides.policy_kinds
        self._follows = reliability == 'auto' and not told
        reliable = reliability == 'reliable'
        self._policy = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        self._subscription = self._subscribe()
        self.adapt()

    def adapt(self) -> None:
        """Subscribes anew when the publishers now allow, or forbid, reliable delivery."""
        offered = {each.qos_profile.reliability for each in self._publishers()}
        if not self._follows or not offered or offered == {self._policy}:
            return
        reliable = offered == {ReliabilityPolicy.RELIABLE}
        policy = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        if policy != self._policy:
            self.destroy()
            self._policy = policy
            self._subscription = self._subscribe()
            self._node.get_logger().info(
                f'publishers of {self.topic} changed: {policy.name.lower()} from now on'
            )

    @property
    def topic(self) -> str:
        return str(self._subscription.topic_name)

    def explain_silence(self) -> str:
        """What was heard of instead of scans, and what to do."""
        publishers = self._publishers()
        opening = f'{len(publishers)} publishers'
        if not publishers:
            return f'{opening}: start the driver, or remap: points:=TOPIC'
        offered = {each.qos_profile.reliability for each in publishers}
        if self._policy == ReliabilityPolicy.RELIABLE and offered != {self._policy}:
            return f'{opening}, incompatible QoS: they are best effort, set reliability to auto'
        kinds = {each.topic_type for each in publishers} - {'sensor_msgs/msg/PointCloud2'}
        if 'sensor_msgs/msg/LaserScan' in kinds:
            return f'{opening} of type sensor_msgs/msg/LaserScan: {_LASER_SCAN}'
        if kinds:
            return f'{opening} of type {", ".join(sorted(kinds))}: it must be PointCloud2'
        remedy = explain_losses(get_rmw_implementation_identifier(), os.environ)
        return f'{opening}: is the sensor running? {remedy}'

    def destroy(self) -> None:
        self._node.destroy_subscription(self._subscription)

    def _publishers(self) -> list[Any]:
        found: list[Any] = self._node.get_publishers_info_by_topic(self.topic)
        return found

    def _subscribe(self) -> Any:
        # A burst is taken at once: the mailbox behind decides what is newest, and counts the rest.
        qos = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=5, reliability=self._policy)
        return self._node.create_subscription(
            PointCloud2,
            '~/points',
            self._receive,
            qos,
            qos_overriding_options=self._overrides,
        )


def choose_overrides(node: LifecycleNode, topic: str, entity: str) -> QoSOverridingOptions:
    """The policies given as qos_overrides./TOPIC.publisher (or subscription).POLICY; no others are
    declared: a subscription that follows its publishers must stay free to change.
    """
    prefix = f'qos_overrides.{node.resolve_topic_name(topic)}.{entity}.'
    given = [kind for kind in POLICIES if f'{prefix}{kind.name.lower()}' in overrides_of(node)]
    return QoSOverridingOptions(given)


def explain_losses(middleware: str, environment: Mapping[str, str]) -> str:
    """Why big clouds of a publisher that is there may not arrive, by its rmw's name."""
    if 'fastrtps' in middleware:
        has_profile = any(environment.get(name) for name in _PROFILE_VARIABLES)
        return _FAST_DDS_PROFILE if has_profile else _FAST_DDS
    if 'cyclonedds' in middleware:
        return _CYCLONE_DDS
    return f'does {middleware} lose big clouds? try a reliable publisher'


def make_cloud(header: Header, payload: Payload) -> PointCloud2:
    cloud = PointCloud2(
        header=header,
        height=payload.height,
        width=payload.width,
        fields=[PointField(**field._asdict()) for field in payload.fields],
        is_bigendian=payload.is_bigendian,
        point_step=payload.point_step,
        row_step=payload.row_step,
        is_dense=payload.is_dense,
    )
    # Into the slot itself: since Jazzy the setter and the constructor copy, each of them anew.
    cloud._data = payload.data
    return cloud
