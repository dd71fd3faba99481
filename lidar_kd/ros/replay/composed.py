# SPDX-License-Identifier: Apache-2.0
"""Replay and node in one process.

ros2 run lidar_kd replay_segment_node --ros-args -p replay:path:=SCANS -p lidar_kd:device:=cpu

The node gets every cloud as the object that the replay has made, without a copy; rclpy would send
it through the middleware also within a process. Whoever subscribes to the replay's `points` gets
them as from any driver.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
import logging
import time
from typing import Any

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import SingleThreadedExecutor

from lidar_kd.cli.console import Console
from lidar_kd.errors import ConfigError, LidarKdError
from lidar_kd.ros.log import ToRos
from lidar_kd.ros.node import SegmentNode
from lidar_kd.ros.replay.node import ReplayNode
from lidar_kd.ros.session import explain_refusal, ros_session

LAST_SCAN_S = 0.5  # for the worker to label it and for its answer to arrive


@contextmanager
def composed_nodes(**options: Any) -> Iterator[tuple[ReplayNode, SegmentNode]]:
    """The options are those of rclpy's nodes, for both."""
    node = SegmentNode(**options)
    try:
        replay = ReplayNode(receive=node.receive, **options)
        try:
            yield replay, node
        finally:
            replay.destroy_node()
    finally:
        node.destroy_node()


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        with ros_session(arguments):
            logging.getLogger('lidar_kd').addHandler(ToRos(rclpy.logging.get_logger('lidar_kd')))
            replay_and_segment()
    except (LidarKdError, ParameterException, OSError) as error:
        return Console().fail(ConfigError(explain_refusal(error)))
    return 0


def replay_and_segment() -> None:
    """Until the last scan is labelled, or a signal."""
    with composed_nodes() as (replay, node):
        if node.settings.autostart:
            node.start()
        executor = SingleThreadedExecutor()
        for each in (replay, node):
            executor.add_node(each)
        while rclpy.ok() and not replay.done:
            executor.spin_once()
        if replay.done:
            replay.finish()
            time.sleep(LAST_SCAN_S)
