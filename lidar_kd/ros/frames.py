# SPDX-License-Identifier: Apache-2.0
"""Where a scan lies in other frames, by TF; tf2_ros is imported only when that is asked for.

And how its sensor is mounted, by TF and an IMU.
"""

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
from lidar_kd.ros.gravity import Gravity
from lidar_kd.ros.log import LOG_EVERY_S
from lidar_kd.ros.settings import NodeSettings
from lidar_kd.sensor import Ground, MountingHints

_BACK = JumpThreshold(
    min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=True
)
Pose = NDArray[np.float64]
_PATIENCE = Duration(seconds=0.05)  # TF of a moving frame comes a little after the scan
_AT_ONCE = Duration()  # a mounting hardly changes: the latest will do, and no scan waits for it


class NoTransform(DataError):
    """TF cannot say where the scan lies in the target frame."""


class Frames:
    """Listens to TF where a parameter names a frame; the worker asks, the executor listens."""

    def __init__(self, node: LifecycleNode, settings: NodeSettings) -> None:
        self._node = node
        self._target, self._fixed = settings.target_frame, settings.fixed_frame
        self._ground = settings.ground_frame
        self._jumps: Any = None
        self._gravity: Gravity | None = None
        for name in ('target_frame', 'fixed_frame', 'ground_frame', 'use_imu'):
            if getattr(settings, name):
                self._listen(node, name)
                break
        if settings.use_imu:
            self._gravity = Gravity(node)

    def _listen(self, node: LifecycleNode, asked_by: str) -> None:
        try:
            import tf2_ros
        except ImportError:
            raise ConfigError(
                f'{asked_by} needs tf2_ros: sudo apt install ros-$ROS_DISTRO-tf2-ros-py, '
                f'or leave {asked_by} empty (use_imu: false).'
            ) from None
        self._failure = tf2_ros.TransformException
        self._buffer: Any = tf2_ros.Buffer()
        self._listener: Any = tf2_ros.TransformListener(self._buffer, node)
        # A bag that begins again: what TF knows of its end would refuse what comes now as too old.
        self._jumps = node.get_clock().create_jump_callback(
            _BACK, post_callback=lambda _: self._buffer.clear()
        )

    def place(self, header: Header) -> tuple[Header, Pose | None]:
        """The header of what is published, and what brings the scan there; None: it is there."""
        if not self._target:
            return header, None
        pose = self._find(header, self._target, 'target_frame')
        return Header(stamp=header.stamp, frame_id=self._target), pose

    def locate(self, header: Header) -> Pose | None:
        """From the header's frame to the fixed one; None, and a warning, where TF has no way."""
        if not self._fixed or header.frame_id == self._fixed:
            return np.eye(4)  # a sensor that stands still, for all we know
        try:
            return self._find(header, self._fixed, 'fixed_frame')
        except NoTransform as error:
            self._warn(f'no speeds: {error}')
            return None

    def find_hints(self, header: Header) -> MountingHints:
        """How the sensor of this scan is mounted, as far as TF and the IMU know."""
        return MountingHints(ground=self._find_below(header), up=self._find_up(header))

    def _find_below(self, header: Header) -> Ground | None:
        if not self._ground:
            return None
        try:
            pose = self._find_latest(header.frame_id, self._ground, 'ground_frame')
        except NoTransform as error:
            self._warn(f'mounting: as the scans show it: {error}')
            return None
        return Ground(pose[2, :3].copy(), float(pose[2, 3]))

    def _find_up(self, header: Header) -> Pose | None:
        """(3,) in the frame of the scan."""
        if self._gravity is None or (found := self._gravity.up) is None:
            return None
        frame, up = found
        if frame == header.frame_id:
            return up
        try:
            turn = self._find_latest(frame, header.frame_id, 'use_imu')
        except NoTransform as error:
            self._warn(f'mounting: without the IMU: {error}')
            return None
        return turn[:3, :3] @ up

    def _warn(self, what: str) -> None:
        self._node.get_logger().warning(what, throttle_duration_sec=LOG_EVERY_S)

    def destroy(self) -> None:
        if self._gravity is not None:
            self._gravity.destroy()
        if self._jumps is not None:
            self._jumps.unregister()
            self._listener.unregister()

    def _find(self, header: Header, frame: str, parameter: str) -> Pose:
        """(4, 4) from the header's frame at its stamp."""
        when = Time.from_msg(header.stamp), _PATIENCE
        return self._ask(header.frame_id, frame, when, parameter)

    def _find_latest(self, source: str, frame: str, parameter: str) -> Pose:
        """(4, 4) as TF last heard of it."""
        return self._ask(source, frame, (Time(), _AT_ONCE), parameter)

    def _ask(self, source: str, frame: str, when: tuple[Time, Duration], parameter: str) -> Pose:
        try:
            found = self._buffer.lookup_transform(frame, source, *when)
        except self._failure as error:
            raise NoTransform(
                f"TF has no way from '{source}' to '{frame}' ({error}); publish it, or do without "
                f'{parameter}.'
            ) from None
        return make_pose(found.transform)


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
