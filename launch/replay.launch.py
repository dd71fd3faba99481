# SPDX-License-Identifier: Apache-2.0
"""Recorded scans as a sensor's topic: `ros2 launch lidar_kd replay.launch.py path:=SEQUENCE`.

`path` is the only argument one needs; `--show-args` lists the others.
"""

import os
from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

PROFILE = Path(__file__).resolve().parents[1] / 'config' / 'node' / 'fastdds_large_clouds.xml'
IS_OLD = os.environ.get('ROS_DISTRO') in ('humble', 'iron', 'jazzy')
# Fast DDS 3, of Kilted and newer, renamed it and warns of the old name
PROFILE_VARIABLE = f'FAST{"RTPS" if IS_OLD else "DDS"}_DEFAULT_PROFILES_FILE'
PARAMETERS = {  # of the node; the types are those of the defaults
    'path': ('', 'A sequence, a scan, a folder of scans (.bin .pcd .ply .npy) or a rosbag.'),
    'layout': ('auto', "A driver's: xyzi, velodyne, ouster, hesai, ...; auto: bags as recorded."),
    'topic': ('', 'Topic of a bag; empty: the only one with clouds.'),
    'rate_hz': (0.0, "Scans per second; 0: the sensor's own."),
    'loop': (True, 'Begin again after the last scan; false: end.'),
    'start': (0, 'Number of the first scan to publish.'),
    'scans': (0, 'How many to publish from there on; 0: all.'),
    'truth': (False, "Also publish a sequence's labels, in the field truth."),
    'frame_id': ('', "Of the clouds; empty: the bag's, else lidar."),
    'reliability': ('reliable', 'QoS: reliable or best_effort.'),
    'depth': (5, 'QoS: clouds kept for slow listeners.'),
    'listeners': (0, 'Begin when so many subscribe.'),
}
ARGUMENTS = {
    'points': ('/points', 'Topic to publish on.'),
    'namespace': ('', 'Namespace of the node.'),
    'log_level': ('info', 'debug, info, warn, error or fatal.'),
}


def generate_launch_description() -> LaunchDescription:
    declared = [
        DeclareLaunchArgument(name, default_value=str(default).lower(), description=description)
        for name, (default, description) in {**PARAMETERS, **ARGUMENTS}.items()
    ]
    profile = SetEnvironmentVariable(
        PROFILE_VARIABLE, EnvironmentVariable(PROFILE_VARIABLE, default_value=str(PROFILE))
    )
    node = Node(
        package='lidar_kd',
        executable='replay_node',
        name='replay',
        namespace=LaunchConfiguration('namespace'),
        parameters=[
            {
                name: ParameterValue(LaunchConfiguration(name), value_type=type(default))
                for name, (default, _) in PARAMETERS.items()
            }
        ],
        remappings=[('points', LaunchConfiguration('points'))],
        arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
        output='screen',
        emulate_tty=True,
    )
    return LaunchDescription([*declared, profile, node])
