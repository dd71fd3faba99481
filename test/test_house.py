# SPDX-License-Identifier: Apache-2.0
"""The rules of the house: who may import whom, who may print, how long things may be."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
import re
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = sorted((ROOT / 'lidar_kd').rglob('*.py'))
OTHERS = [path for name in ('training', 'test', 'launch') for path in (ROOT / name).rglob('*.py')]
PYTHON = [*LIBRARY, *sorted(OTHERS), ROOT / 'setup.py']
OTHER_TONGUES = {'.c', '.h', '.js', '.css', '.html'}
SOURCES = [
    *PYTHON,
    *sorted(p for p in (ROOT / 'lidar_kd').rglob('*.*') if p.suffix in OTHER_TONGUES),
]

# from the bottom up: a file imports its own room and those before it (design.md)
ORDER = [
    *('errors', 'labels', 'sensor', 'sparse', 'voxels', 'models', 'bundle'),
    *('segmenter', 'objects', 'scans', 'cloud', 'cli', 'ros'),
]
TRAINING_ORDER = [
    *('importing', 'live', 'methods', 'streets', 'worlds', 'data', 'scores', 'reports', 'views'),
    *('run', 'comparing', 'hostile', 'benchmarks'),
]
CORE = {
    *('bundle', 'segmenter', 'labels', 'voxels', 'sensor', 'errors', 'models', 'sparse'),
}
# the only modules that know ROS
ROS_ROOMS = {'ros'}
ROS = {
    'ament_index_python',
    'autoware_internal_debug_msgs',
    'autoware_perception_msgs',
    'builtin_interfaces',
    'diagnostic_msgs',
    'geometry_msgs',
    'launch',
    'launch_ros',
    'lifecycle_msgs',
    'nav_msgs',
    'rcl_interfaces',
    'rclpy',
    'rosbag2_py',
    'sensor_msgs',
    'sensor_msgs_py',
    'std_msgs',
    'tf2_ros',
    'unique_identifier_msgs',
    'vision_msgs',
    'visualization_msgs',
}
MOST_LINES = 320
MOST_LINES_OF_A_TEST = 400
MOST_ROOMS = 13
MEDIAN_LINES, P90_LINES = 8, 20  # of a function in lidar_kd and training
PRIVATE_WORDS = {'belief', 'beliefs', 'believe', 'tutor', 'sight', 'lesson', 'opinion', 'opinions'}
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


@cache
def modules() -> dict[str, Path]:
    """Every module of the house under its dotted name."""
    names = {}
    for path in [*LIBRARY, *sorted((ROOT / 'training').rglob('*.py'))]:
        names['.'.join(path.relative_to(ROOT).with_suffix('').parts)] = path
    return {name.removesuffix('.__init__'): path for name, path in names.items()}


@cache
def arrows() -> set[tuple[str, str]]:
    """(who, whom) of every import between two modules, also of those within functions."""
    found = set()
    for module, path in modules().items():
        for name in imported(path):
            target = name if name in modules() else name.rpartition('.')[0]
            if target in modules() and target != module:
                found.add((module, target))
    return found


def level_of(module: str, top: str, order: list[str]) -> int:
    """Commands and the face, which are in no room, lie above all."""
    parts = module.split('.')
    known = parts[0] == top and len(parts) > 1 and parts[1] in order
    return order.index(parts[1]) if known else len(order)


def cycles(edges: set[tuple[str, str]]) -> set[str]:
    """Those that are on a circle or lead only to one: what is left when the leaves are taken."""
    left = set(edges)
    while True:
        sources = {a for a, _ in left}
        kept = {(a, b) for a, b in left if b in sources}
        if kept == left:
            return sources
        left = kept


@pytest.mark.parametrize(('top', 'order'), [('lidar_kd', ORDER), ('training', TRAINING_ORDER)])
def test_no_arrow_between_rooms_runs_back_up(top: str, order: list[str]) -> None:
    offences = [
        f'{a} imports {b}'
        for a, b in sorted(arrows())
        if a.startswith(f'{top}.') and b.startswith(f'{top}.')
        if level_of(b, top, order) > level_of(a, top, order)
    ]
    assert offences == []


def test_every_room_has_its_place_in_the_order() -> None:
    rooms = {
        name.split('.')[1]
        for name, path in modules().items()
        if name.count('.') and (name.startswith('lidar_kd.') or path.parent.name != 'training')
    }
    assert rooms - {*ORDER, *TRAINING_ORDER} == set()


def test_files_form_no_circle() -> None:
    assert cycles(arrows()) == set()


def folder_of(module: str) -> str:
    """A room's own name; a file that lies in no room stands for itself."""
    path = modules()[module]
    folder = '.'.join(path.parent.relative_to(ROOT).parts)
    return module if folder in ('lidar_kd', 'training') else folder


def test_folders_form_no_circle() -> None:
    edges = {(folder_of(a), folder_of(b)) for a, b in arrows()}
    assert cycles({(a, b) for a, b in edges if a != b}) == set()


def test_no_file_goes_through_the_door_of_its_own_room() -> None:
    assert [(a, b) for a, b in sorted(arrows()) if a.startswith(f'{b}.') and a in inside(b)] == []


def inside(room_name: str) -> set[str]:
    """The files of a room, where it is one."""
    door = modules()[room_name]
    if door.name != '__init__.py':
        return set()
    return {name for name, path in modules().items() if path.parent == door.parent}


def test_the_search_for_circles_finds_one() -> None:
    assert cycles({('a', 'b'), ('b', 'c')}) == set()
    assert cycles({('a', 'b'), ('b', 'a'), ('b', 'c')}) == {'a', 'b'}


def test_the_core_knows_nothing_of_messages_files_or_screens() -> None:
    outer = {'cloud', 'ros', 'scans', 'cli'}
    offences = [
        (a, b)
        for a, b in arrows()
        if a.count('.') and b.startswith('lidar_kd.')
        if a.startswith('lidar_kd.') and a.split('.')[1] in CORE and b.split('.')[1] in outer
    ]
    assert offences == []


def test_few_things_lie_at_the_top() -> None:
    folder = ROOT / 'lidar_kd'
    files = [p.stem for p in folder.glob('*.py') if p.stem != '__init__']
    rooms = [p.parent.name for p in folder.glob('*/__init__.py')]
    assert len(files + rooms) <= MOST_ROOMS


def test_only_commands_lie_at_the_top_of_training() -> None:
    for path in (ROOT / 'training').glob('*.py'):
        text = path.read_text(encoding='utf-8')
        assert "if __name__ == '__main__':" in text, path.name
        assert 'main' in imported_or_defined(path), path.name


def imported_or_defined(path: Path) -> set[str]:
    defined = {n.name for n in tree(path) if isinstance(n, ast.FunctionDef)}
    return defined | {name.rpartition('.')[2] for name in imported(path)}


def test_each_name_means_one_thing() -> None:
    places: dict[str, list[str]] = {}
    for path in modules().values():
        for node in [n for n in tree(path) if isinstance(n, ast.ClassDef)] + public(path):
            places.setdefault(node.name, []).append(name_of(path))
    twice = {name: found for name, found in places.items() if len(found) > 1}
    assert twice == {}


def public(path: Path) -> list[Any]:
    body = ast.parse(path.read_text(encoding='utf-8')).body
    functions = [n for n in body if isinstance(n, ast.FunctionDef)]
    return [n for n in functions if not n.name.startswith('_') and n.name != 'main']


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
    most = {n: MOST_LINES_OF_A_TEST if n.startswith('test/') else MOST_LINES for n in lines}
    long = {name: count for name, count in lines.items() if count > most[name]}
    assert long == {}


def test_most_functions_are_a_few_lines() -> None:
    lines = sorted(
        (node.end_lineno or 0) - node.lineno + 1
        for path in modules().values()
        for node in tree(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    assert lines[len(lines) // 2] <= MEDIAN_LINES
    assert lines[len(lines) * 9 // 10] <= P90_LINES


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


def test_words_that_only_this_house_used_do_not_come_back() -> None:
    names = {
        (name_of(path), word)
        for path in modules().values()
        for node in tree(path)
        for word in re.findall('[A-Z]?[a-z]+', identifier(node))
        if word.lower() in PRIVATE_WORDS
    }
    assert names == set()


def identifier(node: ast.AST) -> str:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return node.name
    return node.id if isinstance(node, ast.Name) else getattr(node, 'arg', None) or ''
