# SPDX-License-Identifier: Apache-2.0
"""From rclpy.init to rclpy.shutdown; a signal is the usual end, wherever it strikes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
import gc

import rclpy
from rclpy._rclpy_pybind11 import RCLError, UnknownROSArgsError
from rclpy.executors import ExternalShutdownException

from lidar_kd.errors import ConfigError
from lidar_kd.ros.log_folder import check_log_folder


@contextmanager
def ros_session(arguments: Sequence[str] | None) -> Iterator[None]:
    check_log_folder()
    try:
        rclpy.init(args=arguments)
    except (RCLError, UnknownROSArgsError) as error:
        raise ConfigError(explain_arguments(error)) from None
    spare_imports()
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


def spare_imports() -> None:
    """Python's garbage collection leaves alone what was made until now, which is what importing
    made: to look through all of torch would stop every thread for 0.2 s, once in some 60 scans.
    """
    gc.collect()
    gc.freeze()


def explain_refusal(error: Exception) -> str:
    """A parameter's value that cannot be; YAML and -p take 1 for an integer."""
    sentence = ' '.join(str(error).split())
    if "'INTEGER', expecting type 'DOUBLE'" in sentence.replace('Type.', ''):
        sentence += '; write a number with a point: 1.0 instead of 1.'
    return sentence


def explain_arguments(error: Exception) -> str:
    """What ROS says of its arguments, without where in its sources."""
    sentence = str(error).partition(', at /')[0].removeprefix('failed to initialize rcl: ')
    return f'ROS does not start: {sentence.strip()}; see what follows --ros-args.'
