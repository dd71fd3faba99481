# SPDX-License-Identifier: Apache-2.0
"""The other side of the node in tests: publishes clouds, listens, calls its services, over DDS.

Everything has a context of its own, so the node and its partner meet as two participants do.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
import os
from pathlib import Path
import threading
import time
from typing import Any
from unittest.mock import patch

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
import numpy as np
from numpy.typing import NDArray
from rcl_interfaces.msg import ParameterDescriptor
from rcl_interfaces.srv import DescribeParameters, ListParameters, SetParameters
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import PointCloud2, PointField
import torch

from lidar_kd.bundle import BundleSpec, ModelSpec, save_bundle
from lidar_kd.labels import SEMANTICKITTI
from lidar_kd.models import build_model
from lidar_kd.ros.node import SegmentNode
from lidar_kd.voxels import CartesianGrid

os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'  # Humble talks to the network
NAME = 'lidar_kd'
LIMIT_S = 300.0  # of what must happen, however busy the machine
DOMAINS = 100  # above 101, ports meet those of outgoing connections
TRANSITIONS = {  # and the states they lead to
    'configure': (Transition.TRANSITION_CONFIGURE, 'inactive'),
    'cleanup': (Transition.TRANSITION_CLEANUP, 'unconfigured'),
    'activate': (Transition.TRANSITION_ACTIVATE, 'active'),
    'deactivate': (Transition.TRANSITION_DEACTIVATE, 'inactive'),
}
XYZI = np.dtype([('x', '<f4'), ('y', '<f4'), ('z', '<f4'), ('intensity', '<f4')])


def leave_domain() -> None:
    """The next contexts hear nothing of earlier ones, nor of another checkout's tests."""
    before = int(os.environ.get('ROS_DOMAIN_ID', os.getpid() * 7))
    os.environ['ROS_DOMAIN_ID'] = str(before % DOMAINS + 1)


def write_bundle(path: Path) -> Path:
    """A small network with random weights: labels mean nothing, but every point gets one."""
    torch.manual_seed(0)
    model = build_model('minkunet_quarter', classes=SEMANTICKITTI.num_classes).eval()
    spec = BundleSpec(
        model=ModelSpec(name='minkunet_quarter'),
        grid=CartesianGrid(voxel_m=0.4),
        labels=SEMANTICKITTI,
    )
    save_bundle(path, model, spec)
    return path


def scatter(count: int, seed: int = 0) -> NDArray[np.void]:
    """(count,) points around the sensor."""
    rng = np.random.default_rng(seed)
    points = np.zeros(count, XYZI)
    for name in 'xy':
        points[name] = rng.uniform(-40, 40, count)
    points['z'] = rng.uniform(-2, 2, count)
    points['intensity'] = rng.random(count)
    return points


def make_scan(
    points: NDArray[np.void], *, stamp_ns: int = 0, height: int = 1, frame: str = 'velodyne'
) -> PointCloud2:
    cloud = PointCloud2()
    cloud.header.stamp.sec, cloud.header.stamp.nanosec = divmod(stamp_ns or time.time_ns(), 10**9)
    cloud.header.frame_id = frame
    cloud.height, cloud.width = height, len(points) // height
    cloud.fields = [
        PointField(name=name, offset=4 * column, datatype=PointField.FLOAT32, count=1)
        for column, name in enumerate(XYZI.names or ())
    ]
    cloud.point_step, cloud.row_step = XYZI.itemsize, XYZI.itemsize * cloud.width
    cloud.data = array('B', points.tobytes())
    return cloud


def wait_for(happens: Callable[[], Any], what: str, timeout_s: float = LIMIT_S) -> Any:
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        if result := happens():
            return result
        time.sleep(0.005)
    raise AssertionError(f'not within {timeout_s} s: {what}')


@contextmanager
def spinning(create: Callable[[Context], Node]) -> Iterator[Any]:
    """A node in a context and a thread of its own."""
    context = Context()
    rclpy.init(context=context, args=[])
    node = create(context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin, name='executor')
    thread.start()
    try:
        yield node
    finally:
        executor.shutdown()
        thread.join()
        node.destroy_node()
        rclpy.shutdown(context=context)


@contextmanager
def running_node(**parameters: Any) -> Iterator[SegmentNode]:
    """The node, not configured yet; underscores twice stand for the dots in names."""
    overrides = [
        Parameter(name.replace('__', '.'), value=value)
        for name, value in {'warm_up_points': 0, **parameters}.items()
    ]
    with (
        patch('lidar_kd.ros.node.DIAGNOSE_S', 0.2),  # tests wait for it
        spinning(
            lambda context: SegmentNode(NAME, context=context, parameter_overrides=overrides)
        ) as node,
    ):
        yield node


class Partner(Node):  # type: ignore[misc, unused-ignore]
    """Keeps what it hears by topic."""

    def __init__(
        self, context: Context, *, points: str = f'/{NAME}/points', best_effort: bool = False
    ) -> None:
        super().__init__('partner', context=context)
        self.heard: dict[str, list[Any]] = {}
        policy = ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE
        self._scans = self.create_publisher(
            PointCloud2, points, QoSProfile(depth=5, reliability=policy)
        )
        self._clock_publisher: Any = None
        self._clients_by_name: dict[Any, Any] = {}
        self.listen('/diagnostics', DiagnosticArray)

    def listen(self, topic: str, kind: Any = PointCloud2, *, latched: bool = False) -> list[Any]:
        """What comes on `topic` from now on."""
        kept: list[Any] = self.heard.setdefault(topic, [])
        qos = QoSProfile(depth=20)
        if latched:
            qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
        self.create_subscription(kind, topic, kept.append, qos)
        return kept

    def publish(self, scan: PointCloud2) -> None:
        self._scans.publish(scan)

    def set_time(self, node: Node, time_s: int) -> None:
        """What /clock says from now on; returns when the node has heard it."""
        if self._clock_publisher is None:
            self._clock_publisher = self.create_publisher(Clock, '/clock', 10)

        def is_heard() -> bool:
            self._clock_publisher.publish(Clock(clock=Time(sec=time_s)))
            return bool(node.get_clock().now().nanoseconds == time_s * 10**9)

        wait_for(is_heard, f'the time {time_s}')

    def has_listener(self) -> bool:
        return bool(self._scans.get_subscription_count())

    def find_reliabilities(self) -> list[str]:
        """What those ask for who subscribe to the scans."""
        found = self.get_subscriptions_info_by_topic(self._scans.topic_name)
        return [each.qos_profile.reliability.name for each in found]

    def call(self, service: str, kind: Any, request: Any, patience_s: float = 20.0) -> Any:
        """Once more when the answer is lost, as happens before both sides know each other."""
        client = self._clients_by_name.get(kind)
        if client is None:
            client = self._clients_by_name[kind] = self.create_client(kind, f'/{NAME}/{service}')
            time.sleep(0.1)
        for _ in range(3):
            assert client.wait_for_service(LIMIT_S), service
            done = threading.Event()
            future = client.call_async(request)
            future.add_done_callback(lambda _, done=done: done.set())
            if done.wait(patience_s):
                return future.result()
        raise AssertionError(f'no answer from {service}')

    def change(self, transition: str) -> bool:
        number, goal = TRANSITIONS[transition]
        request = ChangeState.Request(transition=Transition(id=number))
        # asked once more after a lost answer, the node refuses what it has done already
        return self.call('change_state', ChangeState, request).success or self.state() == goal

    def state(self) -> str:
        answer = self.call('get_state', GetState, GetState.Request())
        return str(answer.current_state.label)

    def alter(self, name: str, value: Any) -> str:
        """Sets a parameter of the node; returns why not, or nothing."""
        message = Parameter(name, value=value).to_parameter_msg()
        request = SetParameters.Request(parameters=[message])
        (result,) = self.call('set_parameters', SetParameters, request).results
        return '' if result.successful else str(result.reason)

    def list_parameters(self) -> set[str]:
        request = ListParameters.Request(depth=ListParameters.Request.DEPTH_RECURSIVE)
        return set(self.call('list_parameters', ListParameters, request).result.names)

    def describe(self, name: str) -> ParameterDescriptor:
        request = DescribeParameters.Request(names=[name])
        return self.call('describe_parameters', DescribeParameters, request).descriptors[0]

    def activate(self) -> None:
        assert self.change('configure')
        assert self.change('activate')
        wait_for(self.has_listener, 'the subscription')

    def ask(self, scan: PointCloud2, topic: str = 'segmented') -> PointCloud2:
        """What the node answers to one scan."""
        full = f'/{NAME}/{topic}'
        if full not in self.heard:
            self.listen(full)
            wait_for(lambda: self.count_publishers(full), 'the publisher')
            time.sleep(0.3)  # until the node knows of the subscription, too
        heard = self.heard[full]
        before = len(heard)
        self.publish(scan)
        return wait_for(lambda: len(heard) > before and heard[-1], 'an answer')

    def diagnose(self) -> DiagnosticStatus:
        """The next status that the node sends."""
        told = self.heard['/diagnostics']
        before = len(told)
        wait_for(lambda: len(told) > before, 'diagnostics')
        return told[-1].status[0]


def values_of(status: DiagnosticStatus) -> Mapping[str, str]:
    return {each.key: each.value for each in status.values}
