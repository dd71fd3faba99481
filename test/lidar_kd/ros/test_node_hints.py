# SPDX-License-Identifier: Apache-2.0
"""How the sensor is mounted, told to the node by TF and by an IMU."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
from pretend_tf import PretendTf
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not here: source a distribution or install [ros]')

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode
from ros_partner import leave_domain, wait_for
from sensor_msgs.msg import Imu
from std_msgs.msg import Header

from lidar_kd.errors import ConfigError
from lidar_kd.ros.frames import Frames
from lidar_kd.ros.settings import NodeSettings

HALF = math.sqrt(0.5)


KNOWN = {
    ('footprint', 'lidar'): ((HALF, 0.0, 0.0, HALF), (0.3, 0.0, 1.2)),  # rolled by 90 degrees
    ('lidar', 'imu'): ((0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.1)),  # half a turn about z
}


@pytest.fixture
def tf(monkeypatch: pytest.MonkeyPatch) -> PretendTf:
    tf = PretendTf(KNOWN)
    monkeypatch.setitem(sys.modules, 'tf2_ros', tf)
    return tf


@pytest.fixture
def node(tf: PretendTf) -> Any:
    leave_domain()
    context = Context()
    rclpy.init(context=context, args=[])
    node = LifecycleNode('told', context=context)
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)


def push(frame: str, x: float, y: float, z: float, *, at_s: float = 1.0) -> Imu:
    message = Imu(header=Header(frame_id=frame))
    message.header.stamp.sec = int(at_s)
    message.header.stamp.nanosec = int(at_s % 1 * 1e9)
    message.linear_acceleration.x = x
    message.linear_acceleration.y = y
    message.linear_acceleration.z = z
    return message


def test_tf_to_the_ground_tells_height_and_tilt(node: LifecycleNode) -> None:
    frames = Frames(node, NodeSettings(ground_frame='footprint'))
    ground = frames.find_hints(Header(frame_id='lidar')).ground
    assert ground is not None
    assert ground.height_m == pytest.approx(1.2)
    # rolled by +90 degrees about x its y axis points up
    np.testing.assert_allclose(ground.normal, [0, 1, 0], atol=1e-9)
    assert ground.roll_deg == pytest.approx(90)
    assert frames.find_hints(Header(frame_id='unheard_of')).ground is None
    frames.destroy()


def test_no_scan_waits_for_the_mounting(node: LifecycleNode, tf: PretendTf) -> None:
    """TF's latest, at once: where it knows nothing, a scan would else lose its 50 ms each time."""
    frames = Frames(node, NodeSettings(ground_frame='nowhere', use_imu=True))
    assert frames._gravity is not None
    frames._gravity.receive(push('elsewhere', 0.0, 0.0, 9.8))
    header = Header(frame_id='lidar')
    header.stamp.sec = 7
    hints = frames.find_hints(header)
    assert (hints.ground, hints.up) == (None, None)
    assert tf.asked == [(0, 0), (0, 0)]
    frames.destroy()


def test_gravity_is_turned_into_the_frame_of_the_scan(node: LifecycleNode) -> None:
    frames = Frames(node, NodeSettings(use_imu=True))
    assert frames.find_hints(Header(frame_id='lidar')).up is None  # none came yet
    assert frames._gravity is not None
    frames._gravity.receive(push('imu', 3.0, 0.0, 4.0))
    up = frames.find_hints(Header(frame_id='lidar')).up
    assert up is not None
    np.testing.assert_allclose(up, [-0.6, 0, 0.8], atol=1e-9)
    frames._gravity.receive(push('lidar', 0.0, 0.0, 9.8))
    up = frames.find_hints(Header(frame_id='lidar')).up
    assert up is not None
    np.testing.assert_allclose(up, [0, 0, 1], atol=1e-9)  # its own frame, no TF; begun anew
    frames._gravity.receive(push('elsewhere', 0.0, 0.0, 9.8))
    assert frames.find_hints(Header(frame_id='lidar')).up is None
    frames.destroy()


def test_gravity_is_the_mean_of_what_an_imu_feels(node: LifecycleNode) -> None:
    frames = Frames(node, NodeSettings(use_imu=True))
    gravity = frames._gravity
    assert gravity is not None
    for k in range(10):  # half of the time it is pushed forwards, half of it backwards
        gravity.receive(push('imu', 5.0 * (-1) ** k, 0.0, 9.8, at_s=1 + 0.01 * k))
    gravity.receive(push('imu', math.nan, 0.0, 0.0, at_s=1.1))
    gravity.receive(push('imu', math.inf, 0.0, 0.0, at_s=1.11))
    assert gravity.up is not None
    assert gravity.up[1][2] > 0.99
    for k in range(3000):  # for half a minute the other way up: what was is forgotten
        gravity.receive(push('imu', 0.0, 0.0, -9.8, at_s=2 + 0.01 * k))
    np.testing.assert_allclose(gravity.up[1], [0, 0, -1], atol=0.01)
    frames.destroy()


def test_an_imu_that_feels_nothing_tells_nothing(node: LifecycleNode) -> None:
    frames = Frames(node, NodeSettings(use_imu=True))
    assert frames._gravity is not None
    frames._gravity.receive(push('imu', 0.0, 0.0, 0.0))
    assert frames._gravity.up is None
    frames.destroy()


def test_accelerations_arrive_over_ros(node: LifecycleNode) -> None:
    frames = Frames(node, NodeSettings(use_imu=True))
    publisher = node.create_publisher(Imu, '/told/imu', 1)
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)

    def heard() -> bool:
        publisher.publish(push('imu', 0.0, 9.8, 0.0))
        executor.spin_once(timeout_sec=0.05)
        assert frames._gravity is not None
        return frames._gravity.up is not None

    wait_for(heard, 'an acceleration')
    assert frames._gravity is not None
    assert frames._gravity.up is not None
    np.testing.assert_allclose(frames._gravity.up[1], [0, 1, 0])
    frames.destroy()
    executor.shutdown()


@pytest.mark.parametrize('asked', [{'ground_frame': 'footprint'}, {'use_imu': True}])
def test_without_tf2_a_sentence_says_what_it_needs(
    node: LifecycleNode, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'tf2_ros', None)
    with pytest.raises(ConfigError, match=f'{next(iter(asked))} needs tf2_ros: sudo apt'):
        Frames(node, NodeSettings(**asked))
