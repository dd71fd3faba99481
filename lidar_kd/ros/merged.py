# SPDX-License-Identifier: Apache-2.0
"""One cloud of what several sensors of a process have labelled: `merged: true` in their file.

It has Autoware's layout, whatever the sensors' own are, and the stamp of its oldest part.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Header

from lidar_kd.cloud import Payload
from lidar_kd.ros.labelled import build_clouds, Labelled, SEGMENTED
from lidar_kd.ros.log import LOG_EVERY_S
from lidar_kd.ros.settings import NodeSettings
from lidar_kd.ros.topics import choose_overrides, make_cloud

SILENT_NS = 500_000_000  # nobody waits for a sensor that has not been heard of for so long
Part = tuple[Header, Payload]


class Merger:
    """Collects a part of each sensor; knows nothing of ROS but the header's stamp and frame."""

    def __init__(self) -> None:
        self._waiting: dict[str, Part] = {}
        self._heard_ns: dict[str, int] = {}

    def find_other_frame(self, sensor: str, frame: str) -> str:
        """The frame in which parts of other sensors wait, where it is not this one."""
        others = {part[0].frame_id for each, part in self._waiting.items() if each != sensor}
        return str(next(iter(others - {frame}), ''))

    def add(self, sensor: str, part: Part) -> list[list[Part]]:
        """What is complete by now: nothing, or the parts of a cloud or two.

        A cloud waits for every sensor that is alive; where one sends its next scan before, the
        cloud does without the others.
        """
        complete = []
        if sensor in self._waiting:
            complete.append(self._take())
        self._waiting[sensor] = part
        self._heard_ns[sensor] = now_ns = find_stamp_ns(part[0])
        alive = {each for each, at in self._heard_ns.items() if abs(now_ns - at) < SILENT_NS}
        if alive <= self._waiting.keys():
            complete.append(self._take())
        return complete

    def _take(self) -> list[Part]:
        parts = [self._waiting[sensor] for sensor in sorted(self._waiting)]
        self._waiting.clear()
        return parts


class MergedCloud:
    """The topic ~/segmented of a node of its own."""

    def __init__(self, namespace: str, **options: Any) -> None:
        self.node = Node('merged', namespace=namespace, **options)
        overrides = choose_overrides(self.node, '~/segmented', 'publisher')
        self._publisher = self.node.create_publisher(
            PointCloud2, '~/segmented', 2, qos_overriding_options=overrides
        )
        self._merger = Merger()

    def is_wanted(self) -> bool:
        return bool(self._publisher.get_subscription_count())

    def add(self, sensor: str, header: Header, labelled: Labelled, settings: NodeSettings) -> None:
        """On the thread that serves all sensors."""
        if other := self._merger.find_other_frame(sensor, header.frame_id):
            self.node.get_logger().warning(
                f"a scan of {sensor} is left out: it is in frame '{header.frame_id}', others are "
                f"in '{other}'; give all sensors one target_frame",
                throttle_duration_sec=LOG_EVERY_S,
            )
            return
        ((_, payload),) = build_clouds(labelled, [SEGMENTED], settings)
        for parts in self._merger.add(sensor, (header, payload)):
            oldest = min((each for each, _ in parts), key=find_stamp_ns)
            joined = join_payloads([each for _, each in parts])
            self._publisher.publish(make_cloud(oldest, joined))


def join_payloads(payloads: Sequence[Payload]) -> Payload:
    """Of one layout, each in one row."""
    data = array('B')
    for each in payloads:
        data.extend(each.data)
    return replace(
        payloads[0],
        data=data,
        width=sum(each.width for each in payloads),
        is_dense=all(each.is_dense for each in payloads),
    )


def find_stamp_ns(header: Any) -> int:
    return int(header.stamp.sec * 10**9 + header.stamp.nanosec)
