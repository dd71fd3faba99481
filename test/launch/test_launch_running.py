# SPDX-License-Identifier: Apache-2.0
"""The front door as users open it: launch_testing runs segment.launch.py and ends it."""

from __future__ import annotations

from functools import partial
import os
from pathlib import Path
import sys
from tempfile import TemporaryDirectory
from typing import Any
import unittest

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not here: source a distribution or install [ros]')
pytest.importorskip('launch_ros', reason='no launch_ros here: it comes with a ROS distribution')
pytest.importorskip(
    'launch_testing', reason='no launch_testing here: it comes with ROS distributions'
)

from launch import LaunchDescription
from launch.actions import GroupAction, IncludeLaunchDescription, SetEnvironmentVariable
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_testing import post_shutdown_test
from launch_testing.actions import ReadyToTest
from ros_partner import leave_domain, make_scan, Partner, scatter, spinning, wait_for, write_bundle

ROOT = Path(__file__).resolve().parents[2]
POINTS = '/driver/points'
START_S = 60  # torch is loaded and the bundle warmed up, perhaps on a busy machine


@pytest.mark.launch_test
def generate_test_description() -> tuple[LaunchDescription, dict[str, Any]]:
    """Called by launch_testing, by this name; the tests get what the dict holds."""
    leave_domain()
    folder = TemporaryDirectory()
    bundle = write_bundle(Path(folder.name) / 'random.safetensors')
    front_door = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(ROOT / 'launch' / 'segment.launch.py')),
        launch_arguments={'points': POINTS, 'model': str(bundle), 'device': 'cpu'}.items(),
    )
    places = {
        'AMENT_PREFIX_PATH': install_checkout(Path(folder.name)),
        'PATH': Path(sys.executable).parent,  # whose Python the executable asks for
        'PYTHONPATH': ROOT,
    }
    environment = [
        SetEnvironmentVariable(name, os.pathsep.join([str(place), os.environ.get(name, '')]))
        for name, place in places.items()
    ]
    return LaunchDescription([GroupAction([*environment, front_door]), ReadyToTest()]), {
        'folder': folder
    }


def install_checkout(prefix: Path) -> Path:
    """What colcon installs of the package, as far as launch looks for it."""
    index = prefix / 'share' / 'ament_index' / 'resource_index' / 'packages'
    index.mkdir(parents=True)
    (index / 'lidar_kd').touch()
    (prefix / 'lib').mkdir()
    (prefix / 'lib' / 'lidar_kd').symlink_to(ROOT / 'scripts')
    return prefix


class TestWhileItRuns(unittest.TestCase):
    def test_it_becomes_active_and_the_labelled_cloud_has_the_stamp_of_its_scan(self) -> None:
        with spinning(partial(Partner, points=POINTS)) as partner:
            wait_for(partner.has_listener, 'the subscription', START_S)
            assert partner.state() == 'active'
            scan = make_scan(scatter(500))
            labelled = partner.ask(scan, 'labeled')
        assert labelled.header == scan.header
        assert labelled.width == 500
        names = [field.name for field in labelled.fields]
        assert names == ['x', 'y', 'z', 'intensity', 'label', 'rgb']


@post_shutdown_test()
class TestAfterShutdown(unittest.TestCase):
    def test_the_node_has_ended_by_itself_without_a_traceback(
        self, proc_info: Any, proc_output: Any, folder: Any
    ) -> None:
        self.addCleanup(folder.cleanup)
        assert [process.returncode for process in proc_info] == [0]
        said = b''.join(piece.text for piece in proc_output).decode()
        assert 'configured: ' in said
        assert 'Traceback' not in said
