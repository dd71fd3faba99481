# SPDX-License-Identifier: Apache-2.0
"""Objects as vision_msgs/Detection3DArray (4.x, of Humble and newer)."""

from __future__ import annotations

from typing import Any

from std_msgs.msg import Header
from vision_msgs.msg import (
    BoundingBox3D,
    Detection3D,
    Detection3DArray,
    ObjectHypothesis,
    ObjectHypothesisWithPose,
)

from lidar_kd.labels import ClassTable
from lidar_kd.ros.poses import BoxRecord, list_boxes
from lidar_kd.ros.scene import SeenObjects


def make_detections(header: Header, scene: SeenObjects, table: ClassTable) -> Detection3DArray:
    """`id` is the track's number, `class_id` the class's name."""
    detections = [_detect(header, box) for box in list_boxes(scene, table)]
    return Detection3DArray(header=header, detections=detections)


def _detect(header: Header, box: BoxRecord) -> Any:
    result = ObjectHypothesisWithPose(
        hypothesis=ObjectHypothesis(class_id=box.name, score=box.confidence)
    )
    result.pose.pose = box.pose
    return Detection3D(
        header=header,
        results=[result],
        bbox=BoundingBox3D(center=box.pose, size=box.size),
        id=str(box.number),
    )
