# SPDX-License-Identifier: Apache-2.0
"""Receives what the node publishes: labelled clouds, times, diagnostics."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
import math
import struct
import time
from typing import Any, NamedTuple

from diagnostic_msgs.msg import DiagnosticArray
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Float64, String

from lidar_kd.ros.offers import find_offers
from lidar_kd.ros.session import spare_imports
from training.live.outline import Outline

NODE = 'lidar_kd'
STATIC, MARKERS = 'static', 'markers'
LATENCIES = 'pipeline_latency_ms', 'objects_latency_ms'
STAGES = ('preprocess_ms', 'inference_ms', 'postprocess_ms', 'objects_ms', 'total_ms')


class Received(NamedTuple):
    """A labelled cloud as it was sent: to read it can wait until the drive is over."""

    raw: bytes
    latency_ms: float  # from the header's stamp to its arrival here

    @property
    def cloud(self) -> Any:
        return deserialize_message(self.raw, PointCloud2)


class Listener(Node):
    """Keeps what `keep` makes of each labelled cloud; nothing else is worked out while it runs.

    Messages become objects afterwards: two hundred markers would take this process 10 ms of a core
    that the network could use. `namespace` is that of the node, and nobody else's.
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
        # what comes on other topics, as it was sent: the newest `most`
        self.raw = {name: deque[bytes](maxlen=most) for name in others}
        self._unpacked: dict[str, dict[int, Any]] = {}
        self.times_ms: dict[str, list[float]] = defaultdict(list)
        self.status: dict[str, str] = {}  # the latest diagnostics
        self.problem = ''  # what they complain of
        self.is_ready = False
        self._keep, self._kinds = keep, others
        self._node = f'{self.get_namespace()}/{NODE}'
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        listen = self.create_subscription
        listen(PointCloud2, f'{self._node}/{topic}', self._receive, 5, raw=True)
        for name, kind in others.items():
            listen(kind, f'{self._node}/{name}', self._make_collector(name), 5, raw=True)
        listen(DiagnosticArray, '/diagnostics', self._diagnose, 10)
        listen(String, f'{self._node}/label_info', self._become_ready, latched)
        names = [*LATENCIES, *(f'processing_time/{stage}' for stage in STAGES)]
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
        return self._unpack(STATIC).get(read_stamp_ns(received.raw))

    def boxes_of(self, received: Received) -> list[Outline]:
        message = self._unpack(MARKERS).get(read_stamp_ns(received.raw))
        return [] if message is None else [read_box(m) for m in message.markers if m.ns == 'boxes']

    def _unpack(self, topic: str) -> dict[int, Any]:
        """What came on it until it was asked for first, by the nanoseconds of its stamp."""
        if topic not in self._unpacked:
            # an array of markers has its length before the header of its first
            start = 8 if topic == MARKERS else 4
            self._unpacked[topic] = {
                read_stamp_ns(raw, start): deserialize_message(raw, self._kinds[topic])
                for raw in self.raw.get(topic, ())
            }
        return self._unpacked[topic]

    def _receive(self, raw: bytes) -> None:
        age_ms = (time.time_ns() - read_stamp_ns(raw)) / 1e6
        self.kept.append(self._keep(Received(raw, age_ms)))

    def _make_collector(self, topic: str) -> Callable[[bytes], None]:
        return lambda raw: self.raw[topic].append(raw)  # rclpy asks for a Python signature

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


def read_stamp_ns(raw: bytes, start: int = 4) -> int:
    """Of a serialised message with its first header at `start`; before lies CDR's own."""
    order = '<' if raw[1] & 1 else '>'
    sec, nanosec = struct.unpack_from(f'{order}iI', raw, start)
    return int(sec * 10**9 + nanosec)


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
    with listening_to([namespace], topic, keep, others, most) as ((listener,), listen):
        yield listener, listen


@contextmanager
def listening_to(
    namespaces: Iterable[str],
    topic: str,
    keep: Callable[[Received], Any],
    others: Iterable[str] = (),
    most: int = 10_000,
) -> Iterator[tuple[list[Listener], Callable[[float], None]]]:
    """The same for several nodes: a listener for each."""
    rclpy.init(args=[], signal_handler_options=rclpy.signals.SignalHandlerOptions.NO)
    kinds = find_kinds(others)
    listeners = [Listener(namespace, topic, keep, kinds, most) for namespace in namespaces]
    executor = SingleThreadedExecutor()
    for listener in listeners:
        executor.add_node(listener)
    spare_imports()

    def listen(seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            executor.spin_once(timeout_sec=left_s)

    try:
        yield listeners, listen
    finally:
        executor.shutdown()
        for listener in listeners:
            listener.destroy_node()
        rclpy.shutdown()
