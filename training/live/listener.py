# SPDX-License-Identifier: Apache-2.0
"""Receives what the node publishes: labelled clouds, times, diagnostics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
import math
import time
from typing import Any, NamedTuple

from diagnostic_msgs.msg import DiagnosticArray
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Float64, String

from lidar_kd.ros.offers import find_offers
from training.live.outline import Outline

NODE = 'lidar_kd'
STATIC, MARKERS = 'static', 'markers'
STAGES = ('preprocess_ms', 'inference_ms', 'postprocess_ms', 'objects_ms', 'total_ms')


class Received(NamedTuple):
    cloud: Any
    latency_ms: float  # from the header's stamp to its arrival here


class Listener(Node):
    """Keeps what `keep` makes of each labelled cloud; nothing else is worked out while it runs.

    `namespace` is that of the node, and nobody else's.
    """

    def __init__(
        self,
        namespace: str,
        topic: str,
        keep: Callable[[Received], Any],
        others: Mapping[str, Any],
        most: int,
    ) -> None:
        super().__init__('listener', namespace=namespace)
        self.kept: list[Any] = []
        # what comes on other topics, by the nanoseconds of its stamp: the newest `most`
        self.others: dict[str, dict[int, Any]] = {name: {} for name in others}
        self.times_ms: dict[str, list[float]] = defaultdict(list)
        self.status: dict[str, str] = {}  # the latest diagnostics
        self.problem = ''  # what they complain of
        self.is_ready = False
        self._keep, self._most = keep, most
        self._node = f'{self.get_namespace()}/{NODE}'
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        listen = self.create_subscription
        listen(PointCloud2, f'{self._node}/{topic}', self._receive, 5)
        for name, kind in others.items():
            listen(kind, f'{self._node}/{name}', self._make_filer(name), 5)
        listen(DiagnosticArray, '/diagnostics', self._diagnose, 10)
        listen(String, f'{self._node}/label_info', self._become_ready, latched)
        names = ['pipeline_latency_ms', *(f'processing_time/{stage}' for stage in STAGES)]
        for name in names:
            listen(
                Float64, f'{self._node}/debug/{name}', self._make_keeper(name.split('/')[-1]), 50
            )

    def strangers(self) -> list[str]:
        """Full names of the nodes that do not belong to this drive."""
        own = self.get_namespace()
        found = self.get_node_names_and_namespaces()
        return sorted({f'{place.rstrip("/")}/{name}' for name, place in found if place != own})

    def static_of(self, received: Received) -> Any:
        """The cloud on ~/static of the same scan; None where it was lost."""
        return self.others.get(STATIC, {}).get(read_stamp_ns(received.cloud.header))

    def boxes_of(self, received: Received) -> list[Outline]:
        message = self.others.get(MARKERS, {}).get(read_stamp_ns(received.cloud.header))
        return [] if message is None else [read_box(m) for m in message.markers if m.ns == 'boxes']

    def _receive(self, cloud: Any) -> None:
        age_ms = (time.time_ns() - read_stamp_ns(cloud.header)) / 1e6
        self.kept.append(self._keep(Received(cloud, age_ms)))

    def _make_filer(self, name: str) -> Callable[[Any], None]:
        """An array of markers has the header of its first."""

        def file(message: Any) -> None:
            header = message.markers[0].header if name == MARKERS else message.header
            filed = self.others[name]
            filed[read_stamp_ns(header)] = message
            while len(filed) > self._most:
                del filed[next(iter(filed))]

        return file

    def _make_keeper(self, name: str) -> Callable[[Any], None]:
        return lambda message: self.times_ms[name].append(message.data)

    def _diagnose(self, array: Any) -> None:
        for status in array.status:
            if status.name.startswith(f'{self._node}:'):
                self.status = {each.key: each.value for each in status.values}
                self.problem = status.message if status.level == b'\x02' else ''

    def _become_ready(self, _: Any) -> None:
        self.is_ready = True


def read_box(marker: Any) -> Outline:
    """One of ~/markers, whose opacity tells what moves."""
    place, turn = marker.pose.position, marker.pose.orientation
    return Outline(
        x=place.x,
        y=place.y,
        length_m=marker.scale.x,
        width_m=marker.scale.y,
        yaw=2 * math.atan2(turn.z, turn.w),
        is_moving=marker.color.a > 0.5,
    )


def read_stamp_ns(header: Any) -> int:
    return int(header.stamp.sec * 10**9 + header.stamp.nanosec)


def find_kinds(topics: Iterable[str]) -> dict[str, Any]:
    """Topic -> type, of those whose message package is here."""
    known = {
        STATIC: PointCloud2,
        **{name: kind for name, (kind, _) in find_offers().scenes.items()},
    }
    return {name: known[name] for name in topics if name in known}


@contextmanager
def listening(
    namespace: str,
    topic: str,
    keep: Callable[[Received], Any],
    others: Iterable[str] = (),
    most: int = 10_000,
) -> Iterator[tuple[Listener, Callable[[float], None]]]:
    """Yields the listener, and what to call to let it listen for some seconds."""
    rclpy.init(args=[], signal_handler_options=rclpy.signals.SignalHandlerOptions.NO)
    listener = Listener(namespace, topic, keep, find_kinds(others), most)
    executor = SingleThreadedExecutor()
    executor.add_node(listener)

    def listen(seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            executor.spin_once(timeout_sec=left_s)

    try:
        yield listener, listen
    finally:
        executor.shutdown()
        listener.destroy_node()
        rclpy.shutdown()
