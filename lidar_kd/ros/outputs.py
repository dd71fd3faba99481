# SPDX-License-Identifier: Apache-2.0
"""The node's outputs, which know who listens."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Header, String

from lidar_kd.ros.costmap import draw_costmap
from lidar_kd.ros.labelled import build_clouds, Labelled
from lidar_kd.ros.offers import find_offers, find_time_message
from lidar_kd.ros.output_settings import COSTMAP, OutputSettings
from lidar_kd.ros.scene import SeenObjects
from lidar_kd.ros.settings import NodeSettings
from lidar_kd.ros.topics import choose_overrides, make_cloud

DEBUG = (
    'cyclic_time_ms',
    'pipeline_latency_ms',
    'objects_latency_ms',
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

    def send_labels(
        self, header: Header, labelled: Labelled, wanted: Collection[str], settings: NodeSettings
    ) -> None:
        """What needs no objects; each is sent before the next one is built."""
        for name, payload in build_clouds(labelled, wanted, settings):
            self._publishers[name].publish(make_cloud(header, payload))
        if self.offers.grid and COSTMAP in wanted:
            points, labels = labelled.cloud.points, labelled.result.labels
            costmap = draw_costmap(points, labels, labelled.table, settings)
            self._publishers[COSTMAP].publish(self.offers.grid[1](header, costmap))

    def send_objects(
        self, header: Header, labelled: Labelled, scene: SeenObjects, wanted: Collection[str],
        settings: NodeSettings,
    ) -> None:  # fmt: skip
        for name, payload in build_clouds(labelled, wanted, settings, scene):
            self._publishers[name].publish(make_cloud(header, payload))
        for name, (_, make) in self.offers.scenes.items():
            if name in wanted:
                self._publishers[name].publish(make(header, scene, labelled.table))

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
