# SPDX-License-Identifier: Apache-2.0
"""From rclpy.init to rclpy.shutdown; a signal is the usual end, wherever it strikes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import rclpy
from rclpy._rclpy_pybind11 import RCLError
from rclpy.executors import ExternalShutdownException

from lidar_kd.ros.log_folder import check_log_folder


@contextmanager
def ros_session(arguments: Sequence[str] | None) -> Iterator[None]:
    check_log_folder()
    rclpy.init(args=arguments)
    try:
        yield
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except RCLError:  # what rclpy says where a signal has shut ROS down between two of its calls
        if rclpy.ok():
            raise
    finally:
        if rclpy.ok():
            rclpy.shutdown()
