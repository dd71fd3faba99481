# SPDX-License-Identifier: Apache-2.0
"""Every command that a page, a configuration or a help text prints can be typed as it stands.

Commands of our own are given to their own parsers, and the configurations they name are read with
the changes they make; what cannot be tried here is listed with the reason in NOT_TRIED.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator
import importlib.util
from itertools import pairwise
from pathlib import Path
import re
import runpy
import shlex
import sys
from typing import Any

import pytest

from lidar_kd.cli import bag, segment
from training.run.config import load_config

ROOT = Path(__file__).resolve().parents[1]
TRAINING = ROOT / 'training'
PAGES = [*ROOT.glob('*.md'), *(ROOT / 'docs').rglob('*.md'), ROOT / 'config' / 'README.md']
SHELLS = ('bash', 'sh', 'console')
NOT_TRIED = {
    '.': 'changes the shell that it is typed in',
    'apt': 'installs packages of the system',
    'apt-get': 'installs packages of the system',
    'cd': 'changes the shell that it is typed in',
    'colcon': 'test_install.py builds with it',
    'docker': 'needs a daemon',
    'echo': 'writes to a file of the user',
    'export': 'changes the shell that it is typed in',
    'git': 'needs the network',
    'ls': 'shows files',
    'mkdir': 'makes a folder of the user',
    'mkdocs': '`make docs` calls it',
    'mypy': '`make lint` calls it',
    'nvpmodel': 'a Jetson has it',
    'pip': 'needs the network; test_install.py installs',
    'pre-commit': 'needs the network',
    'pytest': 'this is it',
    'python3': 'makes an environment',
    'rosdep': 'needs the network',
    'ruff': '`make lint` calls it',
    'rviz2': 'needs a display',
    'sh': 'e1.sh takes days',
    'source': 'changes the shell that it is typed in',
    'sudo': 'changes the system',
    'tegrastats': 'a Jetson has it',
    'tensorboard': 'serves until it is stopped',
}
OURS = ('python', 'torchrun', 'make', 'ros2', 'lidar-kd-bag', 'lidar-kd-segment')
# what follows need not be there yet
MAKES = ('-o', '--out', '--json', '--html', '>', '--animation')
AND = re.compile(r'\s(?:&&|\|\||\|)\s|;\s')


class Parsed(Exception):
    """What a command would begin with."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__()
        self.options = options


def commands_of_page(path: Path) -> Iterator[str]:
    """Lines of fenced blocks; a block without a language may hold anything beside commands."""
    text = path.read_text(encoding='utf-8')
    for language, block in re.findall(r'^ *```(\w*)[^\n]*\n(.*?)^ *```', text, re.S | re.M):
        if language and language not in SHELLS:
            continue
        for line in block.replace('\\\n', ' ').splitlines():
            words = without_comment(line)
            if words and (language or words.split()[0] in OURS):
                yield words


def commands_of_configuration(path: Path) -> Iterator[str]:
    text = path.read_text(encoding='utf-8')
    head = re.sub(r'\\\n#\s*', ' ', text)
    for line in re.findall(r'^# {3,}(\S.*)$', head, re.M):
        if line.split()[0] in OURS:
            yield without_comment(line)


def commands_of_help(path: Path) -> Iterator[str]:
    words = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'))) or ''
    for line in words.replace('\\\n', ' ').splitlines():
        if line.strip() and line.split()[0] in OURS:
            yield without_comment(line)


def without_comment(line: str) -> str:
    return re.sub(r'(^|\s)#\s.*$', '', line).strip().removeprefix('$ ')


def printed() -> Iterator[tuple[str, str]]:
    configurations = sorted((ROOT / 'config').rglob('*.yaml'))
    for paths, find in (
        (sorted(PAGES), commands_of_page),
        (configurations, commands_of_configuration),
        (sorted(TRAINING.glob('*.py')), commands_of_help),
    ):
        for path in paths:
            for line in find(path):
                for part in AND.split(line):
                    yield path.relative_to(ROOT).as_posix(), part.strip()


PRINTED = list(dict.fromkeys(printed()))


@pytest.fixture(autouse=True)
def only_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command ends where its options are read; its script's folder may come to sys.path."""
    parse = argparse.ArgumentParser.parse_args

    def stop(self: argparse.ArgumentParser, *given: Any) -> None:
        raise Parsed(parse(self, *given))

    monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', stop)
    monkeypatch.setattr(sys, 'path', [str(TRAINING), *sys.path])


def test_there_are_pages_and_commands_on_them() -> None:
    assert len(PRINTED) > 40
    places = {place for place, _ in PRINTED}
    assert {'README.md', 'config/srkd.yaml', 'training/distill.py'} <= places


@pytest.mark.parametrize(('place', 'line'), PRINTED, ids=[f'{p}: {c}' for p, c in PRINTED])
def test_a_printed_command_can_be_typed(
    place: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = shlex.split(line)
    while words and re.fullmatch(r'[A-Z_]+=.*', words[0]):
        del words[0]
    if not words or words[0] in NOT_TRIED:
        return
    for before, word in pairwise(['', *words]):
        if word.startswith(('config/', 'training/', 'examples/')) and before not in MAKES:
            assert (ROOT / word).exists(), word
    try:
        check(words, monkeypatch)
    except Parsed as parsed:
        options = vars(parsed.options)
        if options.get('cfg') is not None:
            changes = options.get('set') or []
            load_config(ROOT / options['cfg'], changes)


def check(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    first, *rest = words
    if first == 'make':
        targets = re.findall(r'^([\w./$()-]+):', (ROOT / 'Makefile').read_text(), re.M)
        wanted = [word for word in rest if '=' not in word and word != '.venv/.ready']
        assert {*wanted} <= {*targets}
    elif first == 'ros2':
        check_ros2(rest)
    elif first in ('lidar-kd-bag', 'lidar-kd-segment'):
        monkeypatch.setattr(sys, 'argv', words)
        (bag if first == 'lidar-kd-bag' else segment).main()
    elif first in ('python', 'torchrun'):
        check_python(rest, monkeypatch)
    else:
        pytest.fail(f'{first}: neither a command of ours nor in NOT_TRIED')


def check_python(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    script = next((i for i, word in enumerate(words) if word.endswith('.py')), None)
    if script is None and '-m' in words:
        assert importlib.util.find_spec(words[words.index('-m') + 1])
        return
    if script is None:  # python -c CODE, or a script without a suffix
        assert words[0] == '-c' or (ROOT / words[0]).is_file()
        return
    path = ROOT / words[script]
    assert path.is_file(), path
    if path.parent != TRAINING:
        return  # test_examples.py runs the examples
    monkeypatch.setattr(sys, 'argv', [str(path), *words[script + 1 :]])
    runpy.run_path(str(path), run_name='__main__')


def check_ros2(words: list[str]) -> None:
    """Files, arguments and parameters of ours; there need be no ROS here."""
    if words[:2] == ['launch', 'lidar_kd']:
        text = (ROOT / 'launch' / words[2]).read_text()
        names = [word.partition(':=')[0] for word in words[3:] if ':=' in word]
        assert [name for name in names if f"'{name}'" not in text] == []
    if words[:2] == ['run', 'lidar_kd']:
        assert (ROOT / 'scripts' / words[2]).is_file()
        sources = [ROOT / 'config/node/segment.yaml', *(ROOT / 'lidar_kd/ros').rglob('*.py')]
        text = '\n'.join(path.read_text() for path in sources)
        names = [after.partition(':=')[0] for flag, after in pairwise(words) if flag == '-p']
        assert [name for name in names if name.split('.')[-1] not in text] == []
