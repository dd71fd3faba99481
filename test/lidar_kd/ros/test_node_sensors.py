# SPDX-License-Identifier: Apache-2.0
"""Several sensors in one process, over real DDS, and the file that names them."""

from __future__ import annotations

from pathlib import Path
import threading
from typing import Any

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not here: source a distribution or install [ros]')

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from ros_partner import leave_domain, make_scan, scatter, wait_for
from sensor_msgs.msg import PointCloud2

from lidar_kd.errors import ConfigError
from lidar_kd.ros import model_choice, pipeline
from lidar_kd.ros.merged import find_stamp_ns, MergedCloud
from lidar_kd.ros.sensors import (
    flatten_names,
    main,
    read_sensors,
    sensor_nodes,
    split_topics,
)
from lidar_kd.ros.sharing import SharedParts

SENSORS: dict[str, dict[str, Any]] = {
    'front': {'points': '/front/scan'},
    'rear': {'points': '/rear/scan', 'max_points': 50},
}


def test_two_sensors_are_answered_by_one_network_each_in_its_namespace(
    small_bundle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    make = model_choice.make_segmenter

    def count(settings: Any, sensors: int) -> Any:
        made.append(settings.model)
        return make(settings, sensors)

    monkeypatch.setattr(pipeline, 'make_segmenter', count)
    leave_domain()
    context = Context()
    rclpy.init(context=context, args=[])
    common = [Parameter('model', value=small_bundle), Parameter('warm_up_points', value=0)]
    executor = SingleThreadedExecutor(context=context)
    partner = Node('partner', context=context)
    heard: dict[str, list[PointCloud2]] = {name: [] for name in SENSORS}
    scans = {'front': make_scan(scatter(300)), 'rear': make_scan(scatter(200, 1))}
    shared = SharedParts(merged=MergedCloud('/robot', context=context))
    merged: list[PointCloud2] = []
    partner.create_subscription(PointCloud2, '/robot/merged/segmented', merged.append, 5)
    with sensor_nodes(SENSORS, '/robot', common, shared, context=context) as nodes:
        for name in SENSORS:
            topic = f'/robot/{name}/lidar_kd/segmented'
            partner.create_subscription(PointCloud2, topic, heard[name].append, 5)
        for node in (*nodes, partner):
            executor.add_node(node)
        thread = threading.Thread(target=executor.spin)
        thread.start()
        for node in nodes:
            node.start()
        publishers = {
            name: partner.create_publisher(PointCloud2, sensor['points'], 5)
            for name, sensor in SENSORS.items()
        }

        def all_answered() -> bool:
            for name, publisher in publishers.items():
                publisher.publish(scans[name])
            return all(heard.values()) and any(cloud.width == 500 for cloud in merged)

        wait_for(all_answered, 'an answer for each sensor, and one of both')
        executor.shutdown()
        thread.join()
    partner.destroy_node()
    rclpy.shutdown(context=context)
    assert made == [small_bundle]
    for name, scan in scans.items():
        answer = heard[name][0]
        assert (answer.header, answer.width) == (scan.header, scan.width)
    labelled = np.frombuffer(heard['rear'][0].data, np.uint8).reshape(-1, 24)[:, 12] != 255
    assert 0 < labelled.sum() <= 50  # a parameter of its own
    both = next(cloud for cloud in merged if cloud.width == 500)
    assert both.header == min((scan.header for scan in scans.values()), key=find_stamp_ns)
    assert bytes(both.data) == bytes(heard['front'][0].data) + bytes(heard['rear'][0].data)


def test_a_file_can_ask_for_one_cloud_of_all(tmp_path: Path) -> None:
    file = tmp_path / 'sensors.yaml'
    file.write_text('sensors: {front: {points: /a}}\nmerged: true')
    assert read_sensors(file) == ({'front': {'points': '/a'}}, True)
    file.write_text('sensors: {front: {points: /a}}')
    assert read_sensors(file) == ({'front': {'points': '/a'}}, False)


@pytest.mark.parametrize(
    ('text', 'says'),
    [
        ('a: [', 'cannot be read'),
        ('front: {points: /a}', "lists no sensors; write 'sensors:'"),
        ('sensors: {}', 'lists no sensors'),
        ('sensors: {front/left: {points: /a}}', "'front/left' names no namespace"),
        ('sensors: {front: {topic: /a}}', 'front: give the topic of its clouds'),
        ('sensors: {front: /a}', 'front: give the topic of its clouds'),
        ('sensors: {front: {points: /a, imu: 1}}', 'front: imu: give the topic of its IMU'),
        ('{sensors: {a: {points: /a}}, merge: true}', "merge is unknown; beside 'sensors' write"),
        ('{sensors: {a: {points: /a}}, merged: 1}', "merged is '1'; beside 'sensors' write"),
    ],
)
def test_a_file_of_sensors_that_cannot_be_used_is_refused_in_a_sentence(
    text: str, says: str, tmp_path: Path
) -> None:
    file = tmp_path / 'sensors.yaml'
    file.write_text(text)
    with pytest.raises(ConfigError, match=says) as refusal:
        read_sensors(file)
    assert str(file) in str(refusal.value)


def test_a_missing_file_and_no_file_at_all_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['sensors_node']) == 2
    assert main(['sensors_node', 'missing.yaml', '--ros-args', '-p', 'device:=cpu']) == 2
    said = ' '.join(capsys.readouterr().err.split())
    assert 'name the file with the sensors: sensors_node SENSORS.yaml' in said
    assert 'missing.yaml: cannot be read' in said


def test_an_imu_is_a_topic_and_a_parameter() -> None:
    own, remaps = split_topics({'points': '/a', 'imu': '/b', 'max_points': 5})
    assert own == {'max_points': 5, 'use_imu': True}
    assert remaps == ['-r', '~/points:=/a', '-r', '~/imu:=/b']
    assert split_topics({'points': '/a'}) == ({}, ['-r', '~/points:=/a'])


def test_nested_parameters_get_dots() -> None:
    nested = {'crop': {'min_range_m': 1.0}, 'device': 'cpu'}
    assert flatten_names(nested) == {'crop.min_range_m': 1.0, 'device': 'cpu'}
