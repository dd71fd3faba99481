# SPDX-License-Identifier: Apache-2.0
"""Objects, the costmap and the cloud for SLAM over real DDS; parameters out of a file and back."""

from __future__ import annotations

from collections.abc import Sequence
import sys
import threading
from typing import Any

import numpy as np
from pretend_tf import PretendTf
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not here: source a distribution or install [ros]')

from rcl_interfaces.srv import GetParameters
from rclpy.parameter import parameter_value_to_python
from ros_partner import make_scan, NAME, Partner, running_node, scatter, values_of, wait_for
from std_msgs.msg import Float64
import yaml

from lidar_kd.labels import IGNORE, SEMANTICKITTI
from lidar_kd.ros.node import SegmentNode
from lidar_kd.ros.pipeline import Pipeline
from lidar_kd.segmenter import Segmentation

CAR, ROAD = SEMANTICKITTI.names.index('car'), SEMANTICKITTI.names.index('road')


def label_by_height(self: Pipeline, cloud: Any, settings: Any) -> Segmentation:
    """For the network, which has random weights: below 0 m is road, above is a car."""
    z = cloud.points[:, 2]
    labels = np.where(z < 0, ROAD, CAR).astype(np.uint8)
    labels[~np.isfinite(z)] = IGNORE
    ones = np.ones(len(z), np.float32)
    return Segmentation(labels, ones, 0 * ones, {}, {})


@pytest.fixture
def by_height(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pipeline, '_segment', label_by_height)


def make_street() -> np.ndarray:
    """600 points of road 1.5 m below the sensor, 300 of a car's side 8 m ahead."""
    points = scatter(900)
    points['z'] = -1.5
    car = points[600:]
    car['x'], car['y'] = 8.0, np.linspace(-2, 2, 300)
    car['z'] = np.tile(np.linspace(0.1, 1.2, 6), 50)
    return points


def test_markers_show_the_car_with_its_number(
    by_height: None, node: SegmentNode, partner: Partner
) -> None:
    markers = pytest.importorskip('visualization_msgs.msg', reason='no visualization_msgs')
    partner.activate()
    heard = partner.listen(f'/{NAME}/markers', markers.MarkerArray)
    times = partner.listen(f'/{NAME}/debug/processing_time/objects_ms', Float64)
    scan = make_scan(make_street())

    def arrives() -> Any:
        partner.publish(scan)
        return heard and times

    wait_for(arrives, 'markers and their time')
    _, box, words = heard[-1].markers
    assert (box.header, box.id) == (scan.header, 1)
    assert words.text == 'car 1 0.0 m/s'
    assert times[-1].data > 0


def test_labels_do_not_wait_for_objects(
    by_height: None, node: SegmentNode, partner: Partner, monkeypatch: pytest.MonkeyPatch
) -> None:
    markers = pytest.importorskip('visualization_msgs.msg', reason='no visualization_msgs')
    found, find = threading.Event(), Pipeline.find_scene

    def wait_and_find(*arguments: Any) -> Any:
        assert found.wait(60)
        return find(*arguments)

    partner.activate()
    boxes = partner.listen(f'/{NAME}/markers', markers.MarkerArray)
    latencies = partner.listen(f'/{NAME}/debug/objects_latency_ms', Float64)

    def is_heard() -> bool:
        partner.ask(make_scan(make_street()))
        return bool(boxes and latencies)

    wait_for(is_heard, 'the markers of earlier scans')
    monkeypatch.setattr(Pipeline, 'find_scene', wait_and_find)
    scan = make_scan(make_street())
    assert partner.ask(scan).header == scan.header
    assert scan.header not in [each.markers[1].header for each in boxes]
    found.set()
    wait_for(lambda: boxes[-1].markers[1].header == scan.header, 'the markers of this scan')


def test_the_costmap_is_free_where_there_is_road_and_shut_where_the_car_is(
    by_height: None, node: SegmentNode, partner: Partner
) -> None:
    messages = pytest.importorskip('nav_msgs.msg', reason='no nav_msgs')
    partner.activate()
    heard = partner.listen(f'/{NAME}/costmap', messages.OccupancyGrid)
    scan = make_scan(make_street())

    def arrives() -> Any:
        partner.publish(scan)
        return heard

    wait_for(arrives, 'a costmap')
    grid = heard[-1]
    costs = np.array(grid.data, np.int8).reshape(grid.info.height, grid.info.width)
    assert costs.shape == (200, 200)  # 20 m to either side in cells of 0.2 m
    # x = 8.0 m is column 100 + 40, y = -2 .. 2 m rows 90 .. 110
    assert (costs[91:109, 140] == 100).all()
    assert set(np.unique(np.delete(costs, 140, 1))) == {-1, 0}
    assert grid.header == scan.header


def test_the_cloud_for_slam_holds_what_cannot_move_in_the_inputs_layout(
    by_height: None, node: SegmentNode, partner: Partner
) -> None:
    partner.activate()
    points = make_street()
    answer = partner.ask(make_scan(points), 'static')
    assert bytes(answer.data) == points[:600].tobytes()
    assert partner.alter('filters.static.classes', ['static', 'resting']) == ''
    for _ in range(3):  # as many scans as it takes to see that the car rests
        answer = partner.ask(make_scan(points), 'static')
    assert bytes(answer.data) == points.tobytes()


def test_the_labelled_cloud_has_instances_on_request(
    by_height: None, node: SegmentNode, partner: Partner
) -> None:
    partner.activate()
    assert partner.alter('labeled_instances', True) == ''
    answer = partner.ask(make_scan(make_street()), 'labeled')
    field = answer.fields[-1]
    rows = np.frombuffer(answer.data, np.uint8).reshape(900, answer.point_step)
    numbers = rows[:, field.offset : field.offset + 4].copy().view('<u4')[:, 0]
    assert (field.name, np.bincount(numbers).tolist()) == ('instance', [600, 300])


def test_topics_that_cannot_be_offered_are_named_in_diagnostics(
    small_bundle: str, partner: Partner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'vision_msgs', None)
    monkeypatch.delitem(sys.modules, 'lidar_kd.ros.detections', raising=False)
    with running_node(model=small_bundle):
        assert partner.change('configure')
        wait_for(lambda: 'topics' in values_of(partner.diagnose()), 'the sentence')
        said = values_of(partner.diagnose())['topics']
        assert '~/objects' in said
        assert 'ros-$ROS_DISTRO-vision-msgs' in said


def test_stamped_times_need_autowares_messages(
    small_bundle: str, partner: Partner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'autoware_internal_debug_msgs', None)
    with running_node(model=small_bundle, debug_stamped=True):
        assert not partner.change('configure')
        assert 'needs autoware_internal_debug_msgs: build it' in partner.diagnose().message


def test_without_odometry_the_scan_is_labelled_and_nothing_rests(
    by_height: None, small_bundle: str, partner: Partner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'tf2_ros', PretendTf({}))
    classes = ['static', 'resting']
    with running_node(model=small_bundle, fixed_frame='odom', filters__static__classes=classes):
        partner.activate()
        points = make_street()
        for _ in range(4):
            answer = partner.ask(make_scan(points), 'static')
        assert bytes(answer.data) == points[:600].tobytes()


def dump_parameters(partner: Partner) -> dict[str, Any]:
    """What `ros2 param dump` writes, read again."""
    names = sorted(partner.list_parameters() - {'start_type_description_service'})
    request = GetParameters.Request(names=names)
    values = partner.call('get_parameters', GetParameters, request).values
    plain = {name: to_plain(parameter_value_to_python(v)) for name, v in zip(names, values)}
    loaded: dict[str, Any] = yaml.safe_load(yaml.safe_dump(plain))
    return loaded


def to_plain(value: Any) -> Any:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def test_parameters_that_were_dumped_load_while_the_node_runs(
    node: SegmentNode, partner: Partner
) -> None:
    partner.activate()
    before = dump_parameters(partner)
    refused = [said for name in before if (said := partner.alter(name, before[name]))]
    assert refused == []
    assert dump_parameters(partner) == before
    assert 'with the node' in partner.alter('filter_names', ['ground'])
    assert 'is no class and no group' in partner.alter('costmap.costs', ['floor 3'])
