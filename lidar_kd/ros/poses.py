# SPDX-License-Identifier: Apache-2.0
"""Where the objects of a scene are and how large: what all messages about boxes share."""

from __future__ import annotations

from collections.abc import Iterator
import math
from typing import Any, NamedTuple

from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
import numpy as np
from numpy.typing import NDArray

from lidar_kd.labels import ClassTable
from lidar_kd.ros.scene import SeenObjects


class BoxRecord(NamedTuple):
    """One object."""

    pose: Any  # geometry_msgs/Pose, x along the length
    size: Any  # geometry_msgs/Vector3: length, width, height
    class_id: int  # train id
    name: str  # of the class
    confidence: float
    number: int
    velocity: tuple[float, float] | None  # along the box and across it, m/s
    is_moving: bool  # for certain
    is_resting: bool  # likewise


def list_boxes(scene: SeenObjects, table: ClassTable) -> Iterator[BoxRecord]:
    objects, tracks = scene.objects, scene.tracks
    yaws = objects.yaw if tracks is None else tracks.yaw
    rows = zip(
        objects.centre.tolist(), objects.size.tolist(), yaws.tolist(), objects.class_id.tolist(),
        objects.confidence.tolist(), scene.numbers.tolist(), scene.moving.tolist(),
        scene.resting.tolist(),
    )  # fmt: skip
    for row, (centre, size, yaw, class_id, confidence, number, moving, resting) in enumerate(rows):
        x, y, z = centre
        yield BoxRecord(
            pose=Pose(position=Point(x=x, y=y, z=z), orientation=turn_by(yaw)),
            size=Vector3(x=size[0], y=size[1], z=size[2]),
            class_id=class_id,
            name=table.names[class_id],
            confidence=min(max(confidence, 0.0), 1.0),
            number=number,
            velocity=None if tracks is None else turn_back(tracks.velocity[row], yaw),
            is_moving=moving,
            is_resting=resting,
        )


def turn_by(yaw: float) -> Quaternion:
    """About z."""
    return Quaternion(z=math.sin(yaw / 2), w=math.cos(yaw / 2))


def turn_back(vector: NDArray[np.float64], yaw: float) -> tuple[float, float]:
    """Into axes that are turned by yaw."""
    x, y = vector.tolist()
    cos, sin = math.cos(yaw), math.sin(yaw)
    return x * cos + y * sin, y * cos - x * sin
