# SPDX-License-Identifier: Apache-2.0
"""The rules of the house: who may import whom, who may print, how long things may be."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
import re

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = sorted((ROOT / 'lidar_kd').rglob('*.py'))
OTHERS = [path for name in ('training', 'test', 'launch') for path in (ROOT / name).rglob('*.py')]
PYTHON = [*LIBRARY, *sorted(OTHERS), ROOT / 'setup.py']
SOURCES = [*PYTHON, *sorted((ROOT / 'lidar_kd').rglob('*.[ch]'))]

# room -> what of lidar_kd its modules may import; the others may import every room
ROOMS: dict[str, set[str]] = {
    'errors': set(),
    'labels': {'errors'},
    'sparse': {'sparse', 'errors'},
    'voxels': {'sparse', 'errors'},
    'models': {'models', 'sparse', 'voxels', 'errors'},
    'objects': {'objects', 'labels', 'errors'},
}
# the only modules that know ROS
ROS_ROOMS = {'ros'}
ROS = {
    'ament_index_python',
    'builtin_interfaces',
    'diagnostic_msgs',
    'geometry_msgs',
    'launch',
    'launch_ros',
    'lifecycle_msgs',
    'rcl_interfaces',
    'rclpy',
    'rosbag2_py',
    'sensor_msgs',
    'sensor_msgs_py',
    'std_msgs',
    'tf2_ros',
}
# room -> what of training its modules may import
TRAINING_ROOMS: dict[str, set[str]] = {
    'data': {'streets'},
    'streets': set(),
    'importing': set(),
    'live': set(),
    'methods': set(),
    'scores': {'data'},
    'views': {'data', 'scores'},
}
MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 60
VAGUE_MODULES = {'utils', 'helpers', 'common', 'misc'}
VAGUE_CLASSES = ('Manager', 'Helper', 'Helpers', 'Utils', 'Base')


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room(path: Path) -> str:
    return path.relative_to(ROOT / 'lidar_kd').parts[0].removesuffix('.py')


@cache
def tree(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text(encoding='utf-8'))))


@cache
def imported(path: Path) -> set[str]:
    """What a file imports anywhere, as module.name."""
    names = [alias.name for n in tree(path) if isinstance(n, ast.Import) for alias in n.names]
    for node in tree(path):
        if isinstance(node, ast.ImportFrom):
            module = '.' * node.level + (node.module or '')
            names += [f'{module}.{alias.name}' for alias in node.names]
    return set(names)


def packages(path: Path) -> set[str]:
    return {name.split('.')[0] for name in imported(path)}


def test_the_package_imports_nothing_of_training_or_the_tests() -> None:
    assert [name_of(p) for p in LIBRARY if packages(p) & {'training', 'test'}] == []


def test_imports_are_absolute() -> None:
    relative = {name_of(p) for p in PYTHON for name in imported(p) if name.startswith('.')}
    assert relative == set()


def test_rooms_import_only_the_rooms_below_them() -> None:
    offences = [
        f'{name_of(path)} imports {name}'
        for path in LIBRARY
        for name in imported(path)
        if room(path) in ROOMS
        and name.split('.')[0] == 'lidar_kd'
        and name.split('.')[1] not in ROOMS[room(path)]
    ]
    assert offences == []


def test_rooms_of_training_import_only_what_lies_below_them() -> None:
    offences = [
        f'{name_of(path)} imports {name}'
        for own, below in TRAINING_ROOMS.items()
        for path in sorted((ROOT / 'training' / own).rglob('*.py'))
        for name in imported(path)
        if name.split('.')[0] == 'training' and name.split('.')[1] not in {own, *below}
    ]
    assert offences == []


def test_only_the_node_and_the_replay_know_ros() -> None:
    modules = [path for path in LIBRARY if room(path) not in ROS_ROOMS]
    assert [name_of(path) for path in modules if packages(path) & ROS] == []


def test_only_the_console_prints() -> None:
    prints = [
        f'{name_of(path)}:{node.lineno}'
        for path in PYTHON
        for node in tree(path)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if node.func.id == 'print' and name_of(path) != 'lidar_kd/cli/console.py'
    ]
    assert prints == []


def test_files_are_short() -> None:
    lines = {name_of(path): len(path.read_text(encoding='utf-8').splitlines()) for path in SOURCES}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


def test_functions_are_short() -> None:
    lines = {
        f'{name_of(path)}: {node.name}': (node.end_lineno or 0) - node.lineno + 1
        for path in PYTHON
        for node in tree(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    long = {name: count for name, count in lines.items() if count > MOST_LINES_OF_A_FUNCTION}
    assert long == {}


def test_every_file_names_its_licence() -> None:
    def head(path: Path) -> list[str]:  # a script may open with #!
        return path.read_text(encoding='utf-8').split('\n')[:2]

    licence = 'SPDX-License-Identifier: Apache-2.0'
    assert [name_of(p) for p in SOURCES if not any(licence in line for line in head(p))] == []


def test_files_are_ascii() -> None:
    assert [name_of(path) for path in SOURCES if not path.read_bytes().isascii()] == []


def test_no_path_of_one_machine_is_written_down() -> None:
    # a folder under one of these, in a string or a comment; /dev, /proc, /opt/ros are everywhere
    own = re.compile(r"""(?<![\w.\])}])/(?:home|root|work|mnt|Users|tmp)/[\w.-]+""")
    found = {name_of(path): own.findall(path.read_text(encoding='utf-8')) for path in SOURCES}
    assert {name: paths for name, paths in found.items() if paths} == {}


def test_names_say_what_things_are() -> None:
    classes = {
        f'{name_of(path)}: {node.name}'
        for path in PYTHON
        for node in tree(path)
        if isinstance(node, ast.ClassDef) and node.name.endswith(VAGUE_CLASSES)
    }
    assert classes == set()
    assert [name_of(path) for path in PYTHON if path.stem in VAGUE_MODULES] == []
