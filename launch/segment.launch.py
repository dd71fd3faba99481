# SPDX-License-Identifier: Apache-2.0
"""The front door: `ros2 launch lidar_kd segment.launch.py points:=/velodyne_points`.

`points` is the only argument one needs; `--show-args` lists the others. With RViz:
`rviz:=true fixed_frame:=velodyne`.
"""

from collections.abc import Mapping
import os
from pathlib import Path
import re

from ament_index_python.packages import get_package_prefix, PackageNotFoundError
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    OpaqueFunction,
    SetEnvironmentVariable,
)
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import Node

# in the checkout and in share/lidar_kd
CONFIG = Path(__file__).resolve().parents[1] / 'config' / 'node'
NAME = 'lidar_kd'
SHOWN = ('labeled', 'obstacles', 'static', 'markers', 'costmap')  # in the RViz file
ARGUMENTS = {
    'points': ('/points', 'Topic with the PointCloud2 scans.'),
    'imu': ('', "Topic of the sensor's IMU, for where no ground is in view; empty: none."),
    'model': ('', 'Bundle (.safetensors), or auto; empty: what params_file says, else auto.'),
    'params_file': (str(CONFIG / 'segment.yaml'), 'Parameters of the node.'),
    'device': ('', 'auto, cpu, cuda or cuda:N; empty: what params_file says.'),
    'rviz': ('false', 'Also start RViz with the labelled cloud.'),
    'fixed_frame': (
        'lidar',
        "RViz's fixed frame: that of your clouds, or target_frame; lidar is the replay's.",
    ),
    'bag': ('', 'Also play this bag, in a loop, with its clock.'),
    'labelled_bag': ('', 'Label all of bag into this new one instead, without node or player.'),
    'use_sim_time': ('', 'Time from /clock; empty: true with bag, else what params_file says.'),
    'sensors': (
        '',
        'File with several sensors, which one process and one network then serve, in place of '
        'points; docs/robot.md shows one.',
    ),
    'autoware': (
        'false',
        "Topics, ids and times as Autoware's ptv3 node has them: put it in that one's place.",
    ),
    'namespace': ('', 'Namespace of the node.'),
    'log_level': ('info', 'debug, info, warn, error or fatal.'),
    'autostart': (
        '',
        'Configure and activate; false leaves that to a lifecycle manager; empty: what '
        'params_file says, else true.',
    ),
}
# what ptv3 calls it; its input is `points`
AUTOWARE_TOPICS = {
    '~/segmented': '~/output/pointcloud/segmentation',
    '~/labeled': '~/output/pointcloud/visualization',
    '~/obstacles': '~/output/pointcloud/filtered',
    '~/detected_objects': '~/output/objects',
}
AUTOWARE_PARAMETERS = {'output_classes': 'autoware', 'debug_stamped': True}
FLAGS = {'true': True, '1': True, 'false': False, '0': False}

IS_OLD = os.environ.get('ROS_DISTRO') in ('humble', 'iron', 'jazzy')
PROFILE = str(CONFIG / 'fastdds_large_clouds.xml')
ENVIRONMENT = {
    # Fast DDS 3, of Kilted and newer, renamed it and warns of the old name
    f'FAST{"RTPS" if IS_OLD else "DDS"}_DEFAULT_PROFILES_FILE': PROFILE,
}


def read_arguments(context: LaunchContext) -> dict[str, str]:
    return {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}


def choose_parameters(values: Mapping[str, str]) -> dict[str, str | bool]:
    """Only what was given: it goes before params_file and a parent's SetParameter."""
    given: dict[str, str | bool] = {
        name: values[name] for name in ('model', 'device') if values[name]
    }
    if values['autostart']:
        given['autostart'] = read_flag('autostart', values['autostart'])
    if values['imu']:
        given['use_imu'] = True
    if read_flag('autoware', values['autoware']):
        given.update(AUTOWARE_PARAMETERS)
    return {**given, **choose_time(values)}


def choose_remaps(values: Mapping[str, str]) -> list[tuple[str, str]]:
    renamed = AUTOWARE_TOPICS if read_flag('autoware', values['autoware']) else {}
    imu = [('~/imu', values['imu'])] if values['imu'] else []
    return [('~/points', values['points']), *imu, *renamed.items()]


def choose_time(values: Mapping[str, str]) -> dict[str, bool]:
    """A bag brings its clock along."""
    word = values['use_sim_time'] or ('true' if values['bag'] else '')
    return {'use_sim_time': read_flag('use_sim_time', word)} if word else {}


def read_flag(name: str, word: str) -> bool:
    if word.lower() not in FLAGS:
        raise ValueError(f'{name}:={word} is neither true nor false (nor 1 or 0).')
    return FLAGS[word.lower()]


def set_unless_set(name: str, value: str) -> SetEnvironmentVariable:
    return SetEnvironmentVariable(name, EnvironmentVariable(name, default_value=value))


def check_arguments(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """All of them before anything starts: what fails later leaves the rest running."""
    values = read_arguments(context)
    choose_parameters(values)
    if read_flag('rviz', values['rviz']):
        check_rviz()
    check_namespace(values['namespace'])
    if not Path(values['params_file']).is_file():
        raise RuntimeError(f'params_file:={values["params_file"]} is no file; check the path.')
    return []


def check_namespace(name: str) -> None:
    if not re.fullmatch(r'/?([A-Za-z_]\w*(/[A-Za-z_]\w*)*)?', name, re.ASCII):
        raise RuntimeError(
            f"namespace:='{name}' is no name of ROS: words of letters, digits, _ and / between."
        )


def start_node(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    values = read_arguments(context)
    if values['labelled_bag']:
        return []
    if values['sensors']:
        return [start_sensors(values)]
    return [
        Node(
            package='lidar_kd',
            executable='segment_node',
            name=NAME,
            namespace=values['namespace'],
            parameters=[values['params_file'], choose_parameters(values)],
            remappings=choose_remaps(values),
            arguments=['--ros-args', '--log-level', values['log_level']],
            output='screen',
            emulate_tty=True,
        )
    ]


def start_sensors(values: Mapping[str, str]) -> Node:
    """Each sensor gets a namespace; a name for all nodes of the process would be one too few."""
    return Node(
        package='lidar_kd',
        executable='sensors_node',
        parameters=[values['params_file'], choose_parameters(values)],
        remappings=choose_remaps(values)[1:],  # the file names the clouds
        arguments=[
            values['sensors'], values['namespace'],
            '--ros-args', '--log-level', values['log_level'],
        ],
        output='screen',
        emulate_tty=True,
    )  # fmt: skip


def start_bag(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    values = read_arguments(context)
    play = ['ros2', 'bag', 'play', values['bag'], '--clock', '--loop']
    command = label_bag(values) if values['labelled_bag'] else play if values['bag'] else []
    return [ExecuteProcess(cmd=command, output='screen')] if command else []


def label_bag(values: Mapping[str, str]) -> list[str]:
    """The command, in the active environment; it goes on where it was interrupted."""
    if not values['bag']:
        raise ValueError('labelled_bag needs the bag that is to be labelled: bag:=FOLDER.')
    bundle = '' if values['model'] == 'auto' else values['model']
    given = {'--bundle': bundle, '--device': values['device']}
    options = [word for name, value in given.items() if value for word in (name, value)]
    return [
        *('python3', '-m', 'lidar_kd.cli.bag', values['bag'], values['labelled_bag']),
        *options,
    ]


def start_rviz(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    values = read_arguments(context)
    if not read_flag('rviz', values['rviz']):
        return []
    namespace = values['namespace'].strip('/')
    prefix = f'/{namespace}/{NAME}' if namespace else f'/{NAME}'
    return [
        Node(
            package='rviz2',
            executable='rviz2',
            arguments=['-d', str(CONFIG / 'lidar_kd.rviz'), '-f', values['fixed_frame']],
            remappings=[(f'/{NAME}/{topic}', f'{prefix}/{topic}') for topic in SHOWN],
            parameters=[choose_time(values)],
        )
    ]


def check_rviz() -> None:
    try:
        get_package_prefix('rviz2')
    except PackageNotFoundError:
        raise RuntimeError(
            'rviz:=true needs rviz2: sudo apt install ros-$ROS_DISTRO-rviz2, or rviz:=false.'
        ) from None


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=text)
                for name, (default, text) in ARGUMENTS.items()
            ),
            *(set_unless_set(name, value) for name, value in ENVIRONMENT.items()),
            # The node last: what fails before it leaves no node behind.
            OpaqueFunction(function=check_arguments),
            OpaqueFunction(function=start_rviz),
            OpaqueFunction(function=start_bag),
            OpaqueFunction(function=start_node),
        ]
    )
