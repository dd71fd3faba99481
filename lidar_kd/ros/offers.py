# SPDX-License-Identifier: Apache-2.0
"""The topics whose message packages this machine has, and a sentence about the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lidar_kd.errors import ConfigError


@dataclass(kw_only=True)
class Offers:
    """Topic -> type of message and the function that makes it of header, scene and table."""

    scenes: dict[str, tuple[Any, Callable[..., Any]]] = field(default_factory=dict)
    grid: tuple[Any, Callable[..., Any]] | None = None  # of header and costmap
    missing: dict[str, str] = field(default_factory=dict)  # topic -> package

    def explain_missing(self) -> str:
        """Empty where nothing is."""
        if not self.missing:
            return ''
        packages = sorted(set(self.missing.values()))
        names = ' '.join(f'ros-$ROS_DISTRO-{each.replace("_", "-")}' for each in packages)
        topics = ', '.join(f'~/{topic}' for topic in self.missing)
        return f'not offered: {topics}; they need {names} (apt install)'


def find_offers() -> Offers:
    """Each is tried by itself: none is needed for labels."""
    offers = Offers()
    try:
        from visualization_msgs.msg import MarkerArray

        from lidar_kd.ros.markers import make_markers

        offers.scenes['markers'] = MarkerArray, make_markers
    except ImportError:
        offers.missing['markers'] = 'visualization_msgs'
    try:
        from vision_msgs.msg import Detection3DArray

        from lidar_kd.ros.detections import make_detections

        offers.scenes['objects'] = Detection3DArray, make_detections
    except ImportError:
        offers.missing['objects'] = 'vision_msgs'
    _offer_autoware(offers)
    try:
        from nav_msgs.msg import OccupancyGrid

        from lidar_kd.ros.grid import make_grid

        offers.grid = OccupancyGrid, make_grid
    except ImportError:
        offers.missing['costmap'] = 'nav_msgs'
    return offers


def _offer_autoware(offers: Offers) -> None:
    try:
        from autoware_perception_msgs.msg import DetectedObjects, TrackedObjects

        from lidar_kd.ros.autoware import make_detected_objects, make_tracked_objects

        offers.scenes['detected_objects'] = DetectedObjects, make_detected_objects
        offers.scenes['tracked_objects'] = TrackedObjects, make_tracked_objects
    except ImportError:
        for topic in ('detected_objects', 'tracked_objects'):
            offers.missing[topic] = 'autoware_perception_msgs'


def find_time_message(stamped: bool) -> Any:
    """Of the topics below ~/debug."""
    if not stamped:
        from std_msgs.msg import Float64

        return Float64
    try:
        from autoware_internal_debug_msgs.msg import Float64Stamped
    except ImportError:
        raise ConfigError(
            'debug_stamped needs autoware_internal_debug_msgs: build it in your Autoware '
            'workspace and source that, or set debug_stamped to false.'
        ) from None
    return Float64Stamped
