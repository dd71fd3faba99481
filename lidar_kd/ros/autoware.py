# SPDX-License-Identifier: Apache-2.0
"""Objects as autoware_perception_msgs/DetectedObjects and TrackedObjects."""

from __future__ import annotations

from typing import Any

from autoware_perception_msgs.msg import (
    DetectedObject,
    DetectedObjectKinematics,
    DetectedObjects,
    ObjectClassification,
    Shape,
    TrackedObject,
    TrackedObjectKinematics,
    TrackedObjects,
)
from std_msgs.msg import Header
from unique_identifier_msgs.msg import UUID

from lidar_kd import labels
from lidar_kd.labels import ClassTable
from lidar_kd.ros.poses import BoxRecord, list_boxes
from lidar_kd.ros.scene import SeenObjects

# by Autoware's ids of segmented points; objects have others
_KINDS = {
    labels.CAR: 'CAR',
    labels.TRUCK: 'TRUCK',
    labels.BUS: 'BUS',
    labels.MOTORCYCLE: 'MOTORCYCLE',
    labels.BICYCLE: 'BICYCLE',
    labels.PEDESTRIAN: 'PEDESTRIAN',
    labels.ANIMAL: 'ANIMAL',
    labels.HAZARD: 'HAZARD',
}


def make_detected_objects(
    header: Header, scene: SeenObjects, table: ClassTable
) -> DetectedObjects:
    found = [
        DetectedObject(
            existence_probability=box.confidence,
            classification=_classify(box, table),
            kinematics=_move_detected(box),
            shape=_shape(box),
        )
        for box in list_boxes(scene, table)
    ]
    return DetectedObjects(header=header, objects=found)


def make_tracked_objects(header: Header, scene: SeenObjects, table: ClassTable) -> TrackedObjects:
    """Empty where TF could not say where the scan was taken: nothing was tracked."""
    tracked = [
        TrackedObject(
            object_id=UUID(uuid=list(box.number.to_bytes(16, 'big'))),
            existence_probability=box.confidence,
            classification=_classify(box, table),
            kinematics=_move_tracked(box),
            shape=_shape(box),
        )
        for box in (list_boxes(scene, table) if scene.tracks is not None else ())
    ]
    return TrackedObjects(header=header, objects=tracked)


def _classify(box: BoxRecord, table: ClassTable) -> list[Any]:
    """Distributions of 2025 and before know neither animals nor hazards."""
    kind = _KINDS.get(table.autoware_ids[box.class_id], 'UNKNOWN')
    label = getattr(ObjectClassification, kind, ObjectClassification.UNKNOWN)
    return [ObjectClassification(label=label, probability=box.confidence)]


def _move_detected(box: BoxRecord) -> DetectedObjectKinematics:
    kinematics = DetectedObjectKinematics(has_twist=box.velocity is not None)
    _fill_kinematics(kinematics, box)
    return kinematics


def _move_tracked(box: BoxRecord) -> TrackedObjectKinematics:
    kinematics = TrackedObjectKinematics(is_stationary=box.is_resting)
    _fill_kinematics(kinematics, box)
    return kinematics


def _fill_kinematics(kinematics: Any, box: BoxRecord) -> None:
    """Front and back are told apart once the object drives."""
    kind = type(kinematics)
    sign = kind.AVAILABLE if box.is_moving else kind.SIGN_UNKNOWN
    kinematics.orientation_availability = sign
    kinematics.pose_with_covariance.pose = box.pose
    if box.velocity is not None:
        linear = kinematics.twist_with_covariance.twist.linear
        linear.x, linear.y = box.velocity


def _shape(box: BoxRecord) -> Any:
    return Shape(type=Shape.BOUNDING_BOX, dimensions=box.size)
