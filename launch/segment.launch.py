# SPDX-License-Identifier: Apache-2.0
"""The front door: `ros2 launch lidar_kd segment.launch.py points:=/velodyne_points rviz:=true`.

`points` is the only argument one needs; `--show-args` lists the others.
"""

import os
from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    OpaqueFunction,
    SetEnvironmentVariable,
)
from launch.conditions import IfCondition
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import Node

CONFIG = Path(__file__).resolve().parents[1] / 'config'  # in the checkout and in share/lidar_kd
NAME = 'lidar_kd'
SHOWN = ('labeled', 'obstacles')  # in the RViz file
ARGUMENTS = {
    'points': ('/points', 'Topic with the PointCloud2 scans.'),
    'model': ('', 'Bundle (.safetensors); empty: what params_file says, else the shipped one.'),
    'params_file': (str(CONFIG / 'segment.yaml'), 'Parameters of the node.'),
    'device': ('', 'auto, cpu, cuda or cuda:N; empty: what params_file says.'),
    'rviz': ('false', 'Also start RViz with the labelled cloud.'),
    'bag': ('', 'Also play this bag, in a loop, with its clock (then give use_sim_time:=true).'),
    'use_sim_time': ('false', 'Take the time from /clock.'),
    'namespace': ('', 'Namespace of the node.'),
    'log_level': ('info', 'debug, info, warn, error or fatal.'),
    'autostart': ('true', 'Configure and activate; false leaves that to a lifecycle manager.'),
}

IS_OLD = os.environ.get('ROS_DISTRO') in ('humble', 'iron', 'jazzy')
PROFILE = str(CONFIG / 'fastdds_large_clouds.xml')
ENVIRONMENT = {
    # Fast DDS 3, of Kilted and newer, renamed it and warns of the old name
    f'FAST{"RTPS" if IS_OLD else "DDS"}_DEFAULT_PROFILES_FILE': PROFILE,
    'OMP_WAIT_POLICY': 'passive',  # threads that wait must not spin
}


def set_unless_set(name: str, value: str) -> SetEnvironmentVariable:
    return SetEnvironmentVariable(name, EnvironmentVariable(name, default_value=value))


def start_node(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    values = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    given = {name: values[name] for name in ('model', 'device') if values[name]}
    flags = {name: values[name].lower() == 'true' for name in ('use_sim_time', 'autostart')}
    return [
        Node(
            package='lidar_kd',
            executable='segment_node',
            name=NAME,
            namespace=values['namespace'],
            parameters=[values['params_file'], {**given, **flags}],
            remappings=[('~/points', values['points'])],
            arguments=['--ros-args', '--log-level', values['log_level']],
            output='screen',
            emulate_tty=True,
        )
    ]


def start_bag(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    bag = LaunchConfiguration('bag').perform(context)
    play = ['ros2', 'bag', 'play', bag, '--clock', '--loop']
    return [ExecuteProcess(cmd=play, output='screen')] if bag else []


def start_rviz(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    namespace = LaunchConfiguration('namespace').perform(context).strip('/')
    prefix = f'/{namespace}/{NAME}' if namespace else f'/{NAME}'
    return [
        Node(
            package='rviz2',
            executable='rviz2',
            arguments=['-d', str(CONFIG / 'lidar_kd.rviz')],
            remappings=[(f'/{NAME}/{topic}', f'{prefix}/{topic}') for topic in SHOWN],
            parameters=[{'use_sim_time': LaunchConfiguration('use_sim_time')}],
        )
    ]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=text)
                for name, (default, text) in ARGUMENTS.items()
            ),
            *(set_unless_set(name, value) for name, value in ENVIRONMENT.items()),
            OpaqueFunction(function=start_node),
            OpaqueFunction(function=start_bag),
            OpaqueFunction(
                function=start_rviz, condition=IfCondition(LaunchConfiguration('rviz'))
            ),
        ]
    )
