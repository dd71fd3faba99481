# SPDX-License-Identifier: Apache-2.0
"""The node's topics: an input that finds its own reliability, outputs that know who listens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
import os
from typing import Any, TYPE_CHECKING

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.utilities import get_rmw_implementation_identifier
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header, String

from lidar_kd.cloud import Payload
from lidar_kd.ros.offers import find_offers, find_time_message
from lidar_kd.ros.output_settings import COSTMAP, OutputSettings
from lidar_kd.ros.parameters import overrides_of

if TYPE_CHECKING:
    from lidar_kd.ros.pipeline import Labelled  # loads torch, which the replay does without

DEBUG = (
    'cyclic_time_ms',
    'pipeline_latency_ms',
    'processing_time/preprocess_ms',
    'processing_time/inference_ms',
    'processing_time/postprocess_ms',
    'processing_time/objects_ms',
    'processing_time/total_ms',
)
_LATCHED = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
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


class Outputs:
    """Publishers by name: clouds, objects, the costmap, times, and the latched label info."""

    def __init__(
        self, node: LifecycleNode, clouds: Iterable[str], settings: OutputSettings
    ) -> None:
        self._node = node
        self.offers = find_offers()
        self._time = find_time_message(settings.debug_stamped)
        self._publishers = {name: self._create(PointCloud2, name, 2) for name in clouds}
        for name, (kind, _) in self.offers.scenes.items():
            self._publishers[name] = self._create(kind, name, 2)
        if self.offers.grid:
            self._publishers[COSTMAP] = self._create(self.offers.grid[0], COSTMAP, 2)
        self._times = {name: self._create(self._time, f'debug/{name}', 5) for name in DEBUG}
        self._label_info = node.create_lifecycle_publisher(String, '~/label_info', _LATCHED)

    def _create(self, kind: Any, name: str, depth: int) -> Any:
        topic = f'~/{name}'
        overrides = choose_overrides(self._node, topic, 'publisher')
        return self._node.create_lifecycle_publisher(
            kind, topic, depth, qos_overriding_options=overrides
        )

    def wanted(self) -> frozenset[str]:
        """Names of the outputs that somebody subscribes to."""
        publishers = {**self._publishers, **self._times}
        return frozenset(n for n, p in publishers.items() if p.get_subscription_count())

    def send(self, header: Header, labelled: Labelled, wanted: frozenset[str]) -> None:
        for name, payload in labelled.payloads.items():
            self._publishers[name].publish(make_cloud(header, payload))
        for name, (_, make) in self.offers.scenes.items():
            if name in wanted and labelled.scene:
                self._publishers[name].publish(make(header, labelled.scene, labelled.table))
        if self.offers.grid and labelled.costmap:
            self._publishers[COSTMAP].publish(self.offers.grid[1](header, labelled.costmap))

    def send_times(
        self, header: Header, times: Mapping[str, float], wanted: frozenset[str]
    ) -> None:
        for name in wanted & times.keys():
            message = self._time(data=times[name])
            if hasattr(message, 'stamp'):
                message.stamp = header.stamp
            self._times[name].publish(message)

    def announce(self, label_info: str) -> None:
        self._label_info.publish(String(data=label_info))

    def destroy(self) -> None:
        for publisher in (*self._publishers.values(), *self._times.values(), self._label_info):
            self._node.destroy_lifecycle_publisher(publisher)


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
