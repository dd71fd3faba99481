# SPDX-License-Identifier: Apache-2.0
"""Objects as visualization_msgs/MarkerArray: RViz and Foxglove show boxes and words."""

from __future__ import annotations

import copy
from functools import lru_cache
import math
from typing import Any

from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, Pose, Vector3
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from lidar_kd.labels import ClassTable
from lidar_kd.ros.poses import BoxRecord, list_boxes
from lidar_kd.ros.scene import SeenObjects

_LIFETIME = Duration(nanosec=500_000_000)  # boxes do not outlive the node
_WORDS_M = 0.6  # height of a letter
_MOST_NUMBER = 0x7FFFFFFF  # a marker's id has 32 bits and a sign


def make_markers(header: Header, scene: SeenObjects, table: ClassTable) -> MarkerArray:
    """What was shown before is taken away first."""
    # Making a marker takes 20 times as long as copying one.
    blank = Marker(header=header, lifetime=_LIFETIME)
    markers = [_fill(blank, action=Marker.DELETEALL)]
    for box in list_boxes(scene, table):
        number = box.number & _MOST_NUMBER
        colour = _colour(table.palette[box.class_id], 0.7 if box.is_moving else 0.4)
        markers.append(
            _fill(
                blank, ns='boxes', id=number, type=Marker.CUBE, pose=box.pose, scale=box.size,
                color=colour,
            )
        )  # fmt: skip
        markers.append(
            _fill(
                blank, ns='words', id=number, type=Marker.TEXT_VIEW_FACING, pose=_above(box),
                scale=Vector3(z=_WORDS_M), color=_colour((255, 255, 255), 1.0),
                text=describe_box(box),
            )
        )  # fmt: skip
    return MarkerArray(markers=markers)


def describe_box(box: BoxRecord) -> str:
    """Class, number and speed."""
    if box.velocity is None:
        return box.name
    return f'{box.name} {box.number} {math.hypot(*box.velocity):.1f} m/s'


def _fill(blank: Any, **values: Any) -> Any:
    marker = copy.copy(blank)
    for name, value in values.items():
        setattr(marker, name, value)
    return marker


@lru_cache(maxsize=256)  # messages may share what nobody changes
def _colour(rgb: tuple[int, int, int], alpha: float) -> ColorRGBA:
    red, green, blue = (value / 255 for value in rgb)
    return ColorRGBA(r=red, g=green, b=blue, a=alpha)


def _above(box: BoxRecord) -> Pose:
    place = box.pose.position
    return Pose(position=Point(x=place.x, y=place.y, z=place.z + box.size.z / 2 + _WORDS_M))
