# SPDX-License-Identifier: Apache-2.0
"""Where a scan lies in another frame, by TF; tf2_ros is imported only when that is asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.clock import JumpThreshold
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode
from rclpy.time import Time
from std_msgs.msg import Header

from lidar_kd.errors import ConfigError, DataError

_BACK = JumpThreshold(
    min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=True
)
_PATIENCE = Duration(seconds=0.05)  # TF of a moving frame comes a little after the scan


class NoTransform(DataError):
    """TF cannot say where the scan lies in the target frame."""


class Frames:
    """Listens to TF; `pose` is called by the worker while the executor keeps on listening."""

    def __init__(self, node: LifecycleNode, target: str) -> None:
        try:
            import tf2_ros
        except ImportError:
            raise ConfigError(
                f"target_frame '{target}' needs tf2_ros: sudo apt install "
                'ros-$ROS_DISTRO-tf2-ros-py, or leave target_frame empty.'
            ) from None
        self.target = target
        self._failure = tf2_ros.TransformException
        self._buffer: Any = tf2_ros.Buffer()
        self._listener: Any = tf2_ros.TransformListener(self._buffer, node)
        # A bag that begins again: what TF knows of its end would refuse what comes now as too old.
        self._jumps: Any = node.get_clock().create_jump_callback(
            _BACK, post_callback=lambda _: self._buffer.clear()
        )

    def pose(self, header: Header) -> NDArray[np.float64]:
        """(4, 4) from the scan's frame to the target, at the scan's stamp."""
        stamp = Time.from_msg(header.stamp)
        try:
            found = self._buffer.lookup_transform(self.target, header.frame_id, stamp, _PATIENCE)
        except self._failure as error:
            raise NoTransform(
                f"TF has no way from '{header.frame_id}' to '{self.target}' at the scan's stamp "
                f'({error}); publish it, or leave target_frame empty.'
            ) from None
        return make_pose(found.transform)

    def destroy(self) -> None:
        self._jumps.unregister()
        self._listener.unregister()


def make_pose(transform: Any) -> NDArray[np.float64]:
    """(4, 4) of a geometry_msgs Transform."""
    shift, turn = transform.translation, transform.rotation
    q = np.array([turn.x, turn.y, turn.z, turn.w])
    x, y, z, w = q / np.linalg.norm(q)
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = shift.x, shift.y, shift.z
    return pose
