# SPDX-License-Identifier: Apache-2.0
"""Objects and costmaps as messages; stand-ins where a package is in no wheel."""

from __future__ import annotations

from collections.abc import Iterator
import importlib
import math
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not here: source a distribution or install [ros]')

from std_msgs.msg import Header

from lidar_kd.labels import NUSCENES, SEMANTICKITTI
from lidar_kd.objects import Objects, Tracks
from lidar_kd.ros.costmap import Costmap
from lidar_kd.ros.scene import SeenObjects

HEADER = Header(frame_id='lidar')
CAR, PERSON = (SEMANTICKITTI.names.index(name) for name in ('car', 'person'))
STAND_INS = {  # types, and the attributes that are messages themselves
    'vision_msgs': {
        'BoundingBox3D': (), 'Detection3D': (), 'Detection3DArray': (), 'ObjectHypothesis': (),
        'ObjectHypothesisWithPose': ('pose',),
    },
    'autoware_perception_msgs': {
        'DetectedObject': (), 'DetectedObjects': (), 'Shape': (), 'TrackedObject': (),
        'TrackedObjects': (), 'ObjectClassification': (),
        'DetectedObjectKinematics': ('pose_with_covariance', 'twist_with_covariance'),
        'TrackedObjectKinematics': ('pose_with_covariance', 'twist_with_covariance'),
    },
}  # fmt: skip
CONSTANTS = {
    'Shape': {'BOUNDING_BOX': 0},
    'ObjectClassification': {'UNKNOWN': 0, 'CAR': 1, 'TRUCK': 2, 'BUS': 3, 'PEDESTRIAN': 7},
    'DetectedObjectKinematics': {'UNAVAILABLE': 0, 'SIGN_UNKNOWN': 1, 'AVAILABLE': 2},
    'TrackedObjectKinematics': {'UNAVAILABLE': 0, 'SIGN_UNKNOWN': 1, 'AVAILABLE': 2},
}


class StandIn:
    """A message that takes any field; those of `parts` are there from the start."""

    parts: tuple[str, ...] = ()

    def __init__(self, **values: Any) -> None:
        for name in self.parts:
            linear = SimpleNamespace(x=0.0, y=0.0)
            part = SimpleNamespace(pose=None, twist=SimpleNamespace(linear=linear))
            setattr(self, name, part)
        vars(self).update(values)


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The packages that are on no wheel, and our files that import them, for one test."""
    for package, types in STAND_INS.items():
        module = ModuleType(f'{package}.msg')
        for name, parts in types.items():
            kind = type(name, (StandIn,), {'parts': parts, **CONSTANTS.get(name, {})})
            setattr(module, name, kind)
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
        monkeypatch.setitem(sys.modules, f'{package}.msg', module)
    for name in ('detections', 'autoware'):
        monkeypatch.delitem(sys.modules, f'lidar_kd.ros.{name}', raising=False)
    yield
    for name in ('detections', 'autoware'):
        sys.modules.pop(f'lidar_kd.ros.{name}', None)


def make_scene(*, tracked: bool = True) -> SeenObjects:
    """A car of 4 x 2 x 1.5 m that drives backwards along its box, and a person who stands."""
    objects = Objects(
        instances=np.array([1, 1, 2, 0], np.uint32),
        class_id=np.array([CAR, PERSON], np.uint8),
        centre=np.array([[10.0, 2.0, 0.5], [5.0, -1.0, 0.75]]),
        size=np.array([[4.0, 2.0, 1.5], [0.6, 0.6, 1.7]]),
        yaw=np.array([math.pi / 2, 0.0]),
        points=np.array([2, 1]),
        confidence=np.array([0.75, 0.5], np.float32),
    )
    tracks = Tracks(
        numbers=np.array([41, 7]),
        ages=np.array([9, 9]),
        velocity=np.array([[0.0, -3.0], [0.0, 0.25]]),
        yaw=np.array([-math.pi / 2, 0.0]),  # turned round: it drives along -y
    )
    return SeenObjects(objects=objects, tracks=tracks if tracked else None, moving_mps=1.0)


def test_markers_are_boxes_and_words_that_replace_those_before() -> None:
    pytest.importorskip('visualization_msgs', reason='visualization_msgs is not here')
    from visualization_msgs.msg import Marker

    from lidar_kd.ros.markers import make_markers

    first, car, words, *person = make_markers(HEADER, make_scene(), SEMANTICKITTI).markers
    assert first.action == Marker.DELETEALL
    assert (car.ns, car.id, car.type, car.header) == ('boxes', 41, Marker.CUBE, HEADER)
    assert (car.scale.x, car.scale.y, car.scale.z) == (4.0, 2.0, 1.5)
    assert (car.pose.position.x, car.pose.position.y, car.pose.position.z) == (10.0, 2.0, 0.5)
    turn = car.pose.orientation
    assert 2 * math.atan2(turn.z, turn.w) == pytest.approx(-math.pi / 2)
    assert (words.text, words.type) == ('car 41 3.0 m/s', Marker.TEXT_VIEW_FACING)
    assert words.pose.position.z > 0.5 + 1.5 / 2  # above the box
    assert [each.id for each in person] == [7, 7]
    assert person[1].text == 'person 7 0.2 m/s'
    assert person[0].color.a < car.color.a  # who moves stands out


def test_markers_without_tracks_say_the_class_alone() -> None:
    pytest.importorskip('visualization_msgs', reason='visualization_msgs is not here')
    from lidar_kd.ros.markers import make_markers

    markers = make_markers(HEADER, make_scene(tracked=False), SEMANTICKITTI).markers
    assert [each.text for each in markers if each.text] == ['car', 'person']


def test_detections_carry_class_score_box_and_number(stand_ins: None) -> None:
    from lidar_kd.ros.detections import make_detections

    message = make_detections(HEADER, make_scene(), SEMANTICKITTI)
    car, person = message.detections
    assert (message.header, car.header, car.id, person.id) == (HEADER, HEADER, '41', '7')
    (result,) = car.results
    assert (result.hypothesis.class_id, result.hypothesis.score) == ('car', 0.75)
    assert result.pose.pose is car.bbox.center
    assert (car.bbox.size.x, car.bbox.center.position.x) == (4.0, 10.0)


def test_autoware_gets_its_own_labels_and_speeds_along_the_box(stand_ins: None) -> None:
    from lidar_kd.ros.autoware import make_detected_objects, make_tracked_objects

    car, person = make_tracked_objects(HEADER, make_scene(), SEMANTICKITTI).objects
    assert [each.classification[0].label for each in (car, person)] == [1, 7]
    assert car.classification[0].probability == car.existence_probability == 0.75
    assert bytes(car.object_id.uuid) == bytes(15) + bytes([41])
    twist = car.kinematics.twist_with_covariance.twist.linear
    assert (twist.x, twist.y) == pytest.approx((3.0, 0.0))  # it drives forwards
    assert (car.kinematics.orientation_availability, car.kinematics.is_stationary) == (2, False)
    standing = person.kinematics
    assert (standing.orientation_availability, standing.is_stationary) == (1, True)
    assert (car.shape.type, car.shape.dimensions.z) == (0, 1.5)
    detected, _ = make_detected_objects(HEADER, make_scene(), SEMANTICKITTI).objects
    assert detected.kinematics.has_twist is True
    assert detected.kinematics.pose_with_covariance.pose.position.y == 2.0


def test_autoware_gets_no_tracks_where_nothing_was_tracked(stand_ins: None) -> None:
    from lidar_kd.ros.autoware import make_detected_objects, make_tracked_objects

    scene = make_scene(tracked=False)
    assert make_tracked_objects(HEADER, scene, SEMANTICKITTI).objects == []
    found = make_detected_objects(HEADER, scene, SEMANTICKITTI).objects
    assert [each.kinematics.has_twist for each in found] == [False, False]


def test_a_class_that_an_older_autoware_does_not_know_is_unknown(stand_ins: None) -> None:
    from lidar_kd.ros.autoware import make_detected_objects

    scene = make_scene()
    scene.objects.class_id[:] = NUSCENES.names.index('barrier')  # a HAZARD, of 2025
    found = make_detected_objects(HEADER, scene, NUSCENES).objects
    assert [each.classification[0].label for each in found] == [0, 0]


def test_the_grid_has_the_costs_row_by_row_from_its_corner() -> None:
    pytest.importorskip('nav_msgs', reason='nav_msgs is not here')
    from lidar_kd.ros.grid import make_grid

    costs = np.array([[0, 50], [100, -1]], np.int8)
    grid = make_grid(HEADER, Costmap(costs=costs, cell_m=0.5, origin_m=-0.5))
    assert list(grid.data) == [0, 50, 100, -1]
    assert (grid.info.width, grid.info.height, grid.info.resolution) == (2, 2, 0.5)
    assert (grid.info.origin.position.x, grid.info.origin.position.y) == (-0.5, -0.5)
    assert grid.info.origin.orientation.w == 1.0


def test_what_is_missing_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    offers = importlib.import_module('lidar_kd.ros.offers')
    for name in ('markers', 'detections', 'autoware', 'grid'):
        monkeypatch.delitem(sys.modules, f'lidar_kd.ros.{name}', raising=False)
    packages = ('visualization_msgs', 'vision_msgs', 'autoware_perception_msgs', 'nav_msgs')
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.setitem(sys.modules, f'{package}.msg', None)
    found = offers.find_offers()
    assert (found.scenes, found.grid) == ({}, None)
    assert found.explain_missing() == (
        'not offered: ~/markers, ~/objects, ~/detected_objects, ~/tracked_objects, ~/costmap; '
        'they need ros-$ROS_DISTRO-autoware-perception-msgs ros-$ROS_DISTRO-nav-msgs '
        'ros-$ROS_DISTRO-vision-msgs ros-$ROS_DISTRO-visualization-msgs (apt install)'
    )


def test_everything_is_offered_where_every_package_is(stand_ins: None) -> None:
    for package in ('visualization_msgs', 'nav_msgs'):
        pytest.importorskip(package, reason=f'{package} is not here')
    offers = importlib.import_module('lidar_kd.ros.offers').find_offers()
    topics = {'markers', 'objects', 'detected_objects', 'tracked_objects'}
    assert (set(offers.scenes), offers.missing, offers.explain_missing()) == (topics, {}, '')
