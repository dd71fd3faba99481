# SPDX-License-Identifier: Apache-2.0
"""One process and one network for several sensors: `ros2 run lidar_kd sensors_node sensors.yaml`.

The file names each sensor, its topic, and what of the node's parameters is its own:

sensors:
  front: {points: /front/points, target_frame: base_link}
  rear: {points: /rear/points, target_frame: base_link, crop: {min_range_m: 1.0}}
merged: true

Each gets a namespace of its name with all topics of the node: /front/lidar_kd/labeled. What all
have in common comes from --params-file. With `merged` all labelled points also come as one cloud,
/merged/segmented.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
import logging
from pathlib import Path
import re
import sys
from typing import Any

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.utilities import remove_ros_args
import yaml

from lidar_kd.cli.console import Console
from lidar_kd.errors import ConfigError, LidarKdError
from lidar_kd.ros.log import ToRos
from lidar_kd.ros.merged import MergedCloud
from lidar_kd.ros.node import SegmentNode
from lidar_kd.ros.session import explain_refusal, ros_session
from lidar_kd.ros.sharing import Networks, SharedParts

TOPICS = ('points', 'imu')
USAGE = 'sensors_node SENSORS.yaml [NAMESPACE] --ros-args ...'


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv if arguments is None else arguments)
    try:
        own = remove_ros_args(words)[1:]
        if len(own) not in (1, 2):
            raise ConfigError(f'name the file with the sensors: {USAGE}')
        sensors, merged = read_sensors(Path(own[0]))
        with ros_session(words):
            logging.getLogger('lidar_kd').addHandler(ToRos(rclpy.logging.get_logger('lidar_kd')))
            serve_sensors(sensors, own[1] if len(own) == 2 else '', merged=merged)
    except (LidarKdError, ParameterException) as error:
        return Console().fail(ConfigError(explain_refusal(error)))
    return 0


def serve_sensors(
    sensors: Mapping[str, Mapping[str, Any]], namespace: str, *, merged: bool
) -> None:
    """Until a signal or an error ends it."""
    executor = SingleThreadedExecutor()
    cloud_of_all = MergedCloud(namespace) if merged else None
    shared = SharedParts(networks=Networks(len(sensors)), merged=cloud_of_all)
    with sensor_nodes(sensors, namespace, shared=shared) as nodes:
        for node in nodes:
            executor.add_node(node)
            if node.settings.autostart:
                node.start()
        if rclpy.ok():  # no signal came meanwhile
            executor.spin()


@contextmanager
def sensor_nodes(
    sensors: Mapping[str, Mapping[str, Any]],
    namespace: str = '',
    common: Sequence[Parameter] = (),
    shared: SharedParts | None = None,
    **options: Any,
) -> Iterator[list[SegmentNode]]:
    """One node for each sensor; all share network and thread."""
    shared = shared or SharedParts(networks=Networks(len(sensors)))
    nodes = list[SegmentNode]()
    try:
        for name, settings in sensors.items():
            own, topics = split_topics(settings)
            overrides = [Parameter(key, value=value) for key, value in flatten_names(own).items()]
            nodes.append(
                SegmentNode(
                    namespace=f'{namespace.rstrip("/")}/{name}',
                    shared=shared,
                    cli_args=['--ros-args', *topics],
                    parameter_overrides=[*common, *overrides],
                    **options,
                )
            )
        yield nodes
    finally:
        for node in nodes:
            node.destroy_node()
        shared.turns.close()
        if shared.merged:
            shared.merged.node.destroy_node()


def read_sensors(path: Path) -> tuple[dict[str, dict[str, Any]], bool]:
    """Name -> its topic as `points`, and parameters of the node; whether to merge their clouds."""
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f'{path}: cannot be read ({" ".join(str(error).split())}).') from None
    sensors = content.get('sensors') if isinstance(content, dict) else None
    if not isinstance(sensors, dict) or not sensors:
        raise ConfigError(
            f"{path}: lists no sensors; write 'sensors:', then NAME: {{points: ...}}."
        )
    for name, settings in sensors.items():
        if not re.fullmatch(r'[A-Za-z]\w*', str(name), re.ASCII):
            raise ConfigError(f"{path}: '{name}' names no namespace; use letters, digits and _.")
        if not isinstance(settings, dict) or not isinstance(settings.get('points'), str):
            raise ConfigError(f'{path}: {name}: give the topic of its clouds: points: /TOPIC.')
        if not isinstance(settings.get('imu', ''), str):
            raise ConfigError(f'{path}: {name}: imu: give the topic of its IMU: imu: /TOPIC.')
    merged = content.get('merged', False)
    others = ', '.join(str(key) for key in content if key not in ('sensors', 'merged'))
    if others or not isinstance(merged, bool):
        wrong = f'{others} is unknown' if others else f"merged is '{merged}'"
        raise ConfigError(f"{path}: {wrong}; beside 'sensors' write 'merged: true' or nothing.")
    return sensors, merged


def split_topics(settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A sensor's parameters, and the remaps of its topics: `points`, `imu` where it has one."""
    own = {key: value for key, value in settings.items() if key not in TOPICS}
    if 'imu' in settings:
        own['use_imu'] = True
    remaps = [f'~/{key}:={settings[key]}' for key in TOPICS if key in settings]
    return own, [word for remap in remaps for word in ('-r', remap)]


def flatten_names(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """Nested names with dots, as ROS has them."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f'{prefix}{key}'
        flat.update(flatten_names(value, f'{name}.') if isinstance(value, dict) else {name: value})
    return flat
