# SPDX-License-Identifier: Apache-2.0
"""The launch files; what needs the launch system runs where a ROS distribution has it."""

from __future__ import annotations

import ast
from importlib.util import find_spec, module_from_spec, spec_from_file_location
import json
from pathlib import Path
import sys
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock
from xml.etree import ElementTree

import pytest
import yaml

from lidar_kd.cli.bag import make_bag_parser

ROOT = Path(__file__).resolve().parents[2]
SEGMENT = ROOT / 'launch' / 'segment.launch.py'
MESSAGES = {'Objects', 'Costmap'}  # displays that show no cloud
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
        'log_level', 'autostart', 'fixed_frame', 'autoware', 'sensors', 'labelled_bag', 'imu',
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
    text = (ROOT / 'config' / 'node' / 'fastdds_large_clouds.xml').read_text()
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
    tree = yaml.safe_load((ROOT / 'config' / 'node' / 'lidar_kd.rviz').read_text())
    displays = {each['Name']: each for each in tree['Visualization Manager']['Displays']}
    assert displays['Classes']['Color Transformer'] == 'RGB8'
    assert displays['Label ids']['Channel Name'] == 'label'
    assert {each['Topic']['Value'] for name, each in displays.items() if name in MESSAGES} == {
        '/lidar_kd/markers', '/lidar_kd/costmap',
    }  # fmt: skip
    for name in ('Classes', 'Label ids', 'Obstacles', 'What cannot move'):
        topic = displays[name]['Topic']
        assert (topic['Depth'], topic['Reliability Policy']) == (1, 'Best Effort')


@pytest.fixture
def segment(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The launch file; where there is no launch system its names mean nothing."""
    if not has_launch:
        names = ('launch', 'launch.actions', 'launch.conditions', 'launch.substitutions')
        found = ('ament_index_python', 'ament_index_python.packages')
        for name in (*names, 'launch_ros', 'launch_ros.actions', *found):
            monkeypatch.setitem(sys.modules, name, MagicMock())
    spec = spec_from_file_location('segment_launch', SEGMENT)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rviz_begins_in_the_frame_of_the_replay(segment: ModuleType) -> None:
    replay = pytest.importorskip('lidar_kd.ros.replay.node', reason='ROS 2 is not here')
    tree = yaml.safe_load((ROOT / 'config' / 'node' / 'lidar_kd.rviz').read_text())
    assert tree['Visualization Manager']['Global Options']['Fixed Frame'] == replay.FRAME_ID
    assert segment.ARGUMENTS['fixed_frame'][0] == replay.FRAME_ID


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        ({}, {}),
        ({'model': 'a.safetensors', 'device': 'cpu'}, {'model': 'a.safetensors', 'device': 'cpu'}),
        ({'autostart': 'False'}, {'autostart': False}),
        ({'autostart': '1', 'use_sim_time': 'true'}, {'autostart': True, 'use_sim_time': True}),
        ({'bag': 'drive'}, {'use_sim_time': True}),
        ({'autoware': 'true'}, {'output_classes': 'autoware', 'debug_stamped': True}),
        ({'bag': 'drive', 'use_sim_time': '0'}, {'use_sim_time': False}),
    ],
    ids=str,
)
def test_only_what_was_given_goes_before_the_parameters_file(
    segment: ModuleType, given: dict[str, str], expected: dict[str, Any]
) -> None:
    defaults = {name: default for name, (default, _) in segment.ARGUMENTS.items()}
    assert segment.choose_parameters({**defaults, **given}) == expected


def test_a_bag_is_labelled_by_the_command_that_a_shell_would_start(segment: ModuleType) -> None:
    defaults = {name: default for name, (default, _) in segment.ARGUMENTS.items()}
    given = {**defaults, 'labelled_bag': 'out', 'model': 'a.safetensors'}
    with pytest.raises(ValueError, match='labelled_bag needs the bag'):
        segment.label_bag(given)
    program, *words = segment.label_bag({**given, 'bag': 'drive'})
    assert program == 'python3'  # the active environment's, as that of the node
    assert words == ['-m', 'lidar_kd.cli.bag', 'drive', 'out', '--bundle', 'a.safetensors']
    assert make_bag_parser().parse_args(words[2:]).out == Path('out')
    chosen = segment.label_bag({**given, 'bag': 'drive', 'model': 'auto'})
    assert '--bundle' not in chosen  # the command has a default of its own


def test_an_imu_is_connected_and_used(segment: ModuleType) -> None:
    defaults = {name: default for name, (default, _) in segment.ARGUMENTS.items()}
    given = {**defaults, 'imu': '/ouster/imu'}
    assert ('~/imu', '/ouster/imu') in segment.choose_remaps(given)
    assert segment.choose_parameters(given)['use_imu'] is True


def test_in_autowares_place_the_topics_have_its_names(segment: ModuleType) -> None:
    defaults = {name: default for name, (default, _) in segment.ARGUMENTS.items()}
    assert segment.choose_remaps(defaults) == [('~/points', '/points')]
    given = {**defaults, 'autoware': 'true', 'points': '/sensing/lidar/concatenated/pointcloud'}
    remaps = dict(segment.choose_remaps(given))
    assert remaps.pop('~/points') == '/sensing/lidar/concatenated/pointcloud'
    assert remaps == {
        '~/segmented': '~/output/pointcloud/segmentation',
        '~/labeled': '~/output/pointcloud/visualization',
        '~/obstacles': '~/output/pointcloud/filtered',
        '~/detected_objects': '~/output/objects',
    }


@pytest.mark.parametrize('name', ['autostart', 'use_sim_time', 'autoware'])
def test_a_flag_that_is_neither_true_nor_false_is_refused(segment: ModuleType, name: str) -> None:
    defaults = {name: default for name, (default, _) in segment.ARGUMENTS.items()}
    with pytest.raises(ValueError, match=f'{name}:=yes is neither true nor false'):
        segment.choose_parameters({**defaults, name: 'yes'})


@pytest.mark.parametrize('name', ['', '/', 'front', '/front', 'robot1/front_left'])
def test_a_namespace_of_ros_is_taken(segment: ModuleType, name: str) -> None:
    segment.check_namespace(name)


@pytest.mark.parametrize('name', ['a b', 'front/', '//front', '1st', 'a//b', 'f-r'])
def test_any_other_namespace_is_refused(segment: ModuleType, name: str) -> None:
    with pytest.raises(RuntimeError, match=f"namespace:='{name}' is no name of ROS"):
        segment.check_namespace(name)


def test_the_node_starts_last_so_that_what_fails_leaves_none_behind() -> None:
    calls = [
        ast.unparse(node.keywords[0].value)
        for node in ast.walk(ast.parse(SEGMENT.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'OpaqueFunction'
    ]
    assert calls == ['check_arguments', 'start_rviz', 'start_bag', 'start_node']


@needs_launch
@pytest.mark.parametrize(
    ('given', 'says'),
    [
        ('autostart:=yes', 'autostart:=yes is neither true nor false'),
        ('rviz:=yes', 'rviz:=yes is neither true nor false'),
        ('rviz:=true', 'rviz:=true needs rviz2'),
        ('params_file:=missing.yaml', 'params_file:=missing.yaml is no file; check the path'),
        ('namespace:=a b', "namespace:='a b' is no name of ROS"),
    ],
)
def test_arguments_are_checked_before_anything_starts(
    segment: ModuleType, given: str, says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    if given == 'rviz:=true' and has_package('rviz2'):
        pytest.skip('rviz2 is here')
    name, _, value = given.partition(':=')
    assert run_launch(segment, {'bag': 'drive', name: value}) == 1
    said = ''.join(capfd.readouterr())
    assert says in said
    assert 'process started' not in said


def has_package(name: str) -> bool:
    from ament_index_python.packages import get_package_prefix, PackageNotFoundError

    try:
        return bool(get_package_prefix(name))
    except PackageNotFoundError:
        return False


def run_launch(segment: ModuleType, arguments: dict[str, str]) -> int:
    """The exit code of ros2 launch."""
    from launch import LaunchService

    service = LaunchService(argv=[f'{name}:={value}' for name, value in arguments.items()])
    service.context.launch_configurations.update(arguments)
    service.include_launch_description(segment.generate_launch_description())
    return int(service.run())


@needs_launch
def test_the_launch_description_names_its_arguments_and_starts_the_node(
    segment: ModuleType,
) -> None:
    from launch.actions import DeclareLaunchArgument

    description = segment.generate_launch_description()
    declared = [each for each in description.entities if isinstance(each, DeclareLaunchArgument)]
    assert {each.name for each in declared} == set(segment.ARGUMENTS)


def test_the_foxglove_layout_shows_topics_that_the_node_has() -> None:
    layout = json.loads((ROOT / 'config' / 'node' / 'foxglove.json').read_text())
    panels = layout['configById']
    scene = panels['3D!lidar_kd']
    assert scene['topics']['/lidar_kd/labeled']['colorField'] == 'rgb'
    assert set(scene['topics']) == {f'/lidar_kd/{name}' for name in constants('SHOWN')}
    plotted = {path['value'].removesuffix('.data') for path in panels['Plot!lidar_kd']['paths']}
    stages = ('total', 'inference', 'objects')
    assert plotted == {f'/lidar_kd/debug/processing_time/{stage}_ms' for stage in stages}

    def leaves(tree: Any) -> set[str]:
        return {tree} if isinstance(tree, str) else leaves(tree['first']) | leaves(tree['second'])

    assert leaves(layout['layout']) == set(panels)


def constants(name: str) -> list[str]:
    return [each.value for each in constant(name).elts]
