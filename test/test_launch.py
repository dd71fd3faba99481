# SPDX-License-Identifier: Apache-2.0
"""The launch files; what needs the launch system runs where a ROS distribution has it."""

from __future__ import annotations

import ast
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
SEGMENT = ROOT / 'launch' / 'segment.launch.py'
has_launch = find_spec('launch_ros') is not None  # `launch` alone is also the checkout's folder
needs_launch = pytest.mark.skipif(
    not has_launch, reason='launch and launch_ros are not here: they come with a ROS distribution'
)


def constant(name: str) -> Any:
    """A literal of the launch file, without running it."""
    for node in ast.parse(SEGMENT.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return node.value
    raise AssertionError(name)


def test_every_argument_of_the_node_is_there_and_described() -> None:
    arguments = constant('ARGUMENTS')
    names = {key.value for key in arguments.keys}
    assert names == {
        'points', 'model', 'params_file', 'device', 'rviz', 'bag', 'use_sim_time', 'namespace',
        'log_level', 'autostart',
    }  # fmt: skip
    assert all(value.elts[1].value.endswith('.') for value in arguments.values)


def test_the_executables_that_launch_files_start_are_shipped() -> None:
    shipped = {path.name for path in (ROOT / 'scripts').iterdir()}
    for path in (ROOT / 'launch').glob('*.launch.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'Node':
                words = {k.arg: getattr(k.value, 'value', None) for k in node.keywords}
                assert words['package'] != 'lidar_kd' or words['executable'] in shipped


def test_the_fast_dds_profile_has_the_sizes_that_big_clouds_need() -> None:
    text = (ROOT / 'config' / 'fastdds_large_clouds.xml').read_text()
    space = '{http://www.eprosima.com}'
    tree = ElementTree.fromstring(text)
    transports = {
        each.findtext(f'{space}type'): each for each in tree.iter(f'{space}transport_descriptor')
    }
    shared = transports['SHM']
    assert int(shared.findtext(f'{space}segment_size') or 0) == 32 << 20
    assert int(shared.findtext(f'{space}maxMessageSize') or 0) == 16 << 20
    participant = next(tree.iter(f'{space}participant'))
    assert participant.get('is_default_profile') == 'true'


def test_rviz_shows_the_newest_labelled_cloud_in_colour() -> None:
    tree = yaml.safe_load((ROOT / 'config' / 'lidar_kd.rviz').read_text())
    displays = {each['Name']: each for each in tree['Visualization Manager']['Displays']}
    assert displays['Classes']['Color Transformer'] == 'RGB8'
    assert displays['Label ids']['Channel Name'] == 'label'
    for name in ('Classes', 'Label ids', 'Obstacles'):
        topic = displays[name]['Topic']
        assert (topic['Depth'], topic['Reliability Policy']) == (1, 'Best Effort')


@needs_launch
def test_the_launch_description_names_its_arguments_and_starts_the_node() -> None:
    from launch.actions import DeclareLaunchArgument

    spec = spec_from_file_location('segment_launch', SEGMENT)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    description = module.generate_launch_description()
    declared = [each for each in description.entities if isinstance(each, DeclareLaunchArgument)]
    assert {each.name for each in declared} == set(module.ARGUMENTS)
