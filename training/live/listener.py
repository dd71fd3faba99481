# SPDX-License-Identifier: Apache-2.0
"""Receives what the node publishes: labelled clouds, times, diagnostics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
import time
from typing import Any, NamedTuple

from diagnostic_msgs.msg import DiagnosticArray
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Float64, String

NODE = 'lidar_kd'
STAGES = ('preprocess_ms', 'inference_ms', 'postprocess_ms', 'total_ms')


class Received(NamedTuple):
    cloud: Any
    latency_ms: float  # from the header's stamp to its arrival here


class Listener(Node):
    """Keeps what `keep` makes of each labelled cloud; nothing else is worked out while it runs.

    `namespace` is that of the node, and nobody else's.
    """

    def __init__(self, namespace: str, topic: str, keep: Callable[[Received], Any]) -> None:
        super().__init__('listener', namespace=namespace)
        self.kept: list[Any] = []
        self.times_ms: dict[str, list[float]] = defaultdict(list)
        self.status: dict[str, str] = {}  # the latest diagnostics
        self.problem = ''  # what they complain of
        self.is_ready = False
        self._keep = keep
        self._node = f'{self.get_namespace()}/{NODE}'
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        listen = self.create_subscription
        listen(PointCloud2, f'{self._node}/{topic}', self._receive, 5)
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

    def _receive(self, cloud: Any) -> None:
        stamp = cloud.header.stamp
        age_ms = (time.time_ns() - stamp.sec * 10**9 - stamp.nanosec) / 1e6
        self.kept.append(self._keep(Received(cloud, age_ms)))

    def _make_keeper(self, name: str) -> Callable[[Any], None]:
        return lambda message: self.times_ms[name].append(message.data)

    def _diagnose(self, array: Any) -> None:
        for status in array.status:
            if status.name.startswith(f'{self._node}:'):
                self.status = {each.key: each.value for each in status.values}
                self.problem = status.message if status.level == b'\x02' else ''

    def _become_ready(self, _: Any) -> None:
        self.is_ready = True


@contextmanager
def listening(
    namespace: str, topic: str, keep: Callable[[Received], Any]
) -> Iterator[tuple[Listener, Callable[[float], None]]]:
    """Yields the listener, and what to call to let it listen for some seconds."""
    rclpy.init(args=[], signal_handler_options=rclpy.signals.SignalHandlerOptions.NO)
    listener = Listener(namespace, topic, keep)
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
