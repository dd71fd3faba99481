# SPDX-License-Identifier: Apache-2.0
"""The replay node over real DDS: order, rate, stamps, parameters, and how it ends."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
import os
from pathlib import Path
import re
import runpy
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest

from lidar_kd.cloud import decode

pytest.importorskip('rclpy', reason='ROS 2 is not here: source a distribution or install [ros]')
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import PointCloud2

from lidar_kd.ros.replay.node import main, ReplayNode, ReplaySettings


@pytest.fixture(autouse=True)
def _own_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is heard of other tests that run on this machine."""
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    monkeypatch.delenv('ROS_LOCALHOST_ONLY', raising=False)  # Jazzy warns that it is old
    monkeypatch.setenv('ROS_DOMAIN_ID', str(1 + (os.getpid() * 13 + 51) % 100))


@pytest.fixture
def sequence(tmp_path: Path) -> Path:
    """Four scans; scan n has n + 1 points, all on the road."""
    for name in ('velodyne', 'labels'):
        (tmp_path / name).mkdir()
    for n in range(4):
        points = np.full((n + 1, 4), [1, 2, 3, 0.5], np.float32)
        points.tofile(tmp_path / 'velodyne' / f'{n:06}.bin')
        np.full(n + 1, 40, np.uint32).tofile(tmp_path / 'labels' / f'{n:06}.label')
    return tmp_path


class Listener:
    """A node that keeps what it hears."""

    def __init__(self, context: Context) -> None:
        self.node = Node('listener', context=context)
        self.clouds: list[PointCloud2] = []

    def subscribe(self) -> None:
        qos = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
        self.node.create_subscription(PointCloud2, 'points', self.clouds.append, qos)

    def has_heard(self, count: int) -> bool:
        return len(self.clouds) == count

    @property
    def stamps_ns(self) -> list[int]:
        stamps = [cloud.header.stamp for cloud in self.clouds]
        return [stamp.sec * 10**9 + stamp.nanosec for stamp in stamps]


@contextmanager
def replaying(path: Path, **parameters: Any) -> Iterator[tuple[ReplayNode, Listener, Any]]:
    """The node, a listener that does not listen yet, and their executor."""
    context = Context()
    rclpy.init(context=context)
    executor = SingleThreadedExecutor(context=context)
    values = {'path': str(path), 'listeners': 1, 'rate_hz': 100.0} | parameters
    overrides = [Parameter(name, value=value) for name, value in values.items()]
    node = ReplayNode(context=context, parameter_overrides=overrides)
    listener = Listener(context)
    try:
        executor.add_node(node)
        executor.add_node(listener.node)
        yield node, listener, executor
    finally:
        executor.shutdown()
        node.destroy_node()
        listener.node.destroy_node()
        rclpy.shutdown(context=context)


def spin_until(executor: Any, happens: Callable[[], bool], timeout_s: float = 15.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not happens():
        assert time.monotonic() < end_s, 'what was waited for did not happen'
        executor.spin_once(timeout_sec=0.1)


def test_scans_come_in_order_once_somebody_listens_and_the_replay_ends(sequence: Path) -> None:
    with replaying(sequence, loop=False, truth=True) as (node, listener, executor):
        for _ in range(5):
            executor.spin_once(timeout_sec=0.05)
        assert node.published == 0
        listener.subscribe()
        spin_until(executor, lambda: len(listener.clouds) == 4)
        assert node.done
        node.finish()
        assert node.published == 4
    clouds = [decode(cloud) for cloud in listener.clouds]
    assert [len(cloud) for cloud in clouds] == [1, 2, 3, 4]
    assert clouds[3].rows['truth'].tolist() == [8] * 4  # the road's train id
    assert {cloud.header.frame_id for cloud in listener.clouds} == {'lidar'}


def test_a_loop_returns_to_the_first_scan_that_was_asked_for(sequence: Path) -> None:
    with replaying(sequence, start=2, frame_id='roof') as (node, listener, executor):
        listener.subscribe()
        spin_until(executor, lambda: len(listener.clouds) >= 5)
    assert [cloud.width for cloud in listener.clouds[:5]] == [3, 4, 3, 4, 3]
    assert not node.done
    assert listener.clouds[0].header.frame_id == 'roof'


def test_no_more_scans_are_published_than_were_asked_for(sequence: Path) -> None:
    with replaying(sequence, start=1, scans=2, loop=False) as (node, listener, executor):
        listener.subscribe()
        spin_until(executor, lambda: node.done and len(listener.clouds) >= 2)
    assert [cloud.width for cloud in listener.clouds] == [2, 3]
    assert node.published == 2


def test_stamps_are_the_times_of_publication_and_a_late_cloud_delays_no_other(
    sequence: Path,
) -> None:
    with replaying(sequence, rate_hz=20.0, use_sim_time=True) as (node, listener, executor):
        node._steady = node.get_clock()  # the test says what time it is
        clock = listener.node.create_publisher(ClockMessage, '/clock', 10)

        def set_time(time_ms: int) -> None:
            """Until the node has heard it."""

            def is_heard() -> bool:
                clock.publish(ClockMessage(clock=Time(nanoseconds=time_ms * 10**6).to_msg()))
                executor.spin_once(timeout_sec=0.05)
                return bool(node.get_clock().now().nanoseconds == time_ms * 10**6)

            spin_until(executor, is_heard)

        set_time(1000)
        waiting = node._timer
        listener.subscribe()
        spin_until(executor, lambda: node._timer is not waiting)
        # Due at 1050, 1100, 1150, 1200 ms. The first comes 30 ms late, the third 40; were the
        # period counted from the last cloud, there would be none at 1100 and 1200.
        for number, time_ms in enumerate((1080, 1100, 1190, 1200), 1):
            set_time(time_ms)
            spin_until(executor, partial(listener.has_heard, number))
        assert node.published == 4
    assert listener.stamps_ns == [time_ms * 10**6 for time_ms in (1080, 1100, 1190, 1200)]


def test_an_organised_layout_is_published_as_it_is(sequence: Path) -> None:
    with replaying(sequence, layout='ouster', start=3) as (_, listener, executor):
        listener.subscribe()
        spin_until(executor, lambda: len(listener.clouds) > 0)
    cloud = listener.clouds[0]
    assert (cloud.height, cloud.width, cloud.point_step, cloud.row_step) == (128, 1, 48, 48)
    decoded = decode(cloud)
    assert int(decoded.valid.sum()) == 4
    np.testing.assert_allclose(decoded.points[decoded.valid], [[1, 2, 3, 0.5]] * 4, atol=1e-3)


def test_a_scan_that_disappears_does_not_stop_the_replay(sequence: Path) -> None:
    with replaying(sequence) as (_, listener, executor):
        (sequence / 'velodyne' / '000002.bin').unlink()
        listener.subscribe()
        spin_until(executor, lambda: len(listener.clouds) >= 6)
    assert [cloud.width for cloud in listener.clouds[:6]] == [1, 2, 2, 4, 1, 2]


def test_every_parameter_is_described(sequence: Path) -> None:
    with replaying(sequence) as (node, _, _):
        for name in (each.name for each in fields(ReplaySettings)):
            descriptor = node.describe_parameter(name)
            assert len(descriptor.description) > 10
            assert descriptor.read_only


@pytest.mark.parametrize(
    ('parameters', 'sentence'),
    [
        ([], 'path is empty'),
        (['path:=missing'], 'missing: no such folder'),
        (['path:={sequence}', 'start:=4'], 'start is 4, but .* has 4 scans'),
        (['path:={sequence}', 'reliability:=maybe'], "reliability 'maybe' is unknown"),
        (['path:={sequence}', 'layout:=velodine'], "layout 'velodine' is unknown"),
        (['path:={sequence}', 'rate_hz:=fast'], 'rate_hz'),
        (['path:={sequence}', 'rate_hz:=-1.0'], 'rate_hz'),
    ],
)
def test_bad_input_ends_with_one_sentence_and_exit_code_2(
    sequence: Path, parameters: list[str], sentence: str, capfd: pytest.CaptureFixture[str]
) -> None:
    given = [word for each in parameters for word in ('-p', each.format(sequence=sequence))]
    assert main(['--ros-args', *given]) == 2
    errors = capfd.readouterr().err.splitlines()
    assert len(errors) == 1
    assert errors[0].startswith('error: ')
    assert re.search(sentence, errors[0])


@pytest.mark.parametrize('end', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_replay_in_order(sequence: Path, end: signal.Signals) -> None:
    command = [
        sys.executable,
        '-m',
        'lidar_kd.ros.replay.node',
        '--ros-args',
        '-p',
        f'path:={sequence}',
    ]
    root = Path(__file__).resolve().parents[3]
    process = subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert 'publishing 4 scans' in process.stderr.readline()
    process.send_signal(end)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert 'Traceback' not in errors  # rcl may mention a log message that the signal cut off


def read_literal(path: Path, name: str) -> Any:
    """A constant of a file that cannot be imported here."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == name:
            return ast.literal_eval(node.value)
    raise AssertionError(f'{path} has no {name}')


def test_the_launch_file_has_the_parameters_of_the_node_with_their_defaults() -> None:
    path = Path(__file__).resolve().parents[3] / 'launch' / 'replay.launch.py'
    described = {name: default for name, (default, _) in read_literal(path, 'PARAMETERS').items()}
    assert described == {each.name: each.default for each in fields(ReplaySettings)}


def test_the_launch_file_describes_its_arguments() -> None:
    pytest.importorskip('launch_ros', reason='launch is not on PyPI: source a distribution')
    path = Path(__file__).resolve().parents[3] / 'launch' / 'replay.launch.py'
    arguments = runpy.run_path(str(path))['generate_launch_description']().get_launch_arguments()
    assert {'path', 'points', 'namespace'} <= {each.name for each in arguments}
    assert all(each.description for each in arguments)
