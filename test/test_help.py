# SPDX-License-Identifier: Apache-2.0
"""Every command under training/ explains itself: `--help` exits 0, says what it does and how."""

from __future__ import annotations

import ast
from itertools import pairwise
from pathlib import Path
import runpy
import shlex
import sys

import pytest

from training.run.config import load_config

TRAINING = Path(__file__).resolve().parents[1] / 'training'
COMMANDS = sorted(
    path.stem for path in TRAINING.glob('*.py') if "__name__ == '__main__'" in path.read_text()
)


@pytest.fixture(autouse=True)
def same_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script replaces its own folder in sys.path; here that place is another's."""
    monkeypatch.setattr(sys, 'path', [str(TRAINING), *sys.path])


def exit_code(name: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> object:
    """In this process: starting one per command would import torch each time."""
    path = str(TRAINING / f'{name}.py')
    monkeypatch.setattr(sys, 'argv', [path, *words])
    with pytest.raises(SystemExit) as exited:
        runpy.run_path(path, run_name='__main__')
    return exited.value.code


@pytest.mark.parametrize('name', COMMANDS)
def test_help_says_what_a_command_does(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(name, ['--help'], monkeypatch) == 0
    shown = capsys.readouterr().out
    before_options = shown.split('options:')[0].split('\n\n', 1)[1]
    assert len(before_options.split()) >= 8  # more than the usage: a sentence at least
    examples = f'training/{name}.py', f'make {name}'
    assert any(example in before_options for example in examples)  # a line to copy


EXAMPLES = [
    line.strip()
    for path in sorted(TRAINING.glob('*.py'))
    for line in (ast.get_docstring(ast.parse(path.read_text())) or '')
    .replace('\\\n', '')
    .split('\n')
    if ' --cfg config/' in line
]


@pytest.mark.parametrize('example', EXAMPLES)
def test_a_configuration_that_an_example_changes_can_be_read(example: str) -> None:
    words = shlex.split(example)
    after = {flag: [b for a, b in pairwise(words) if a == flag] for flag in ('--cfg', '--set')}
    load_config(TRAINING.parent / after['--cfg'][0], after['--set'])


@pytest.mark.parametrize('name', COMMANDS)
def test_a_command_finds_the_package_from_any_directory(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    exit_code(name, ['--help'], monkeypatch)
    assert sys.path[0] == str(TRAINING.parent)


@pytest.mark.parametrize('name', COMMANDS)
def test_an_unknown_option_exits_2(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(name, ['--no-such-option'], monkeypatch) == 2
    assert f'{name}.py' in capsys.readouterr().err
