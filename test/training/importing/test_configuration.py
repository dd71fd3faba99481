# SPDX-License-Identifier: Apache-2.0
"""Configurations of published code are read as data, whatever they are written in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lidar_kd.errors import ConfigError
from training.importing.configuration import read_configuration, read_pairs

WANTED = ('patch', 'heads', 'grid_size', 'names')


def read(folder: Path, text: str, name: str = 'a.py', **others: str) -> dict[str, Any]:
    """others: files beside it."""
    for stem, content in others.items():
        (folder / f'{stem}.py').write_text(content)
    (folder / name).write_text(text)
    return read_configuration(folder / name, WANTED)


def test_python_yaml_and_json_say_the_same(tmp_path: Path) -> None:
    python = "'''Of a run.'''\nmodel = dict(type='X', backbone=dict(patch=(64, 32), heads=[2, 4]))"
    settings = {'model': {'type': 'X', 'backbone': {'patch': [64, 32], 'heads': [2, 4]}}}
    yaml = 'model:\n  type: X\n  backbone: {patch: [64, 32], heads: [2, 4]}\n'
    expected = {'patch': [64, 32], 'heads': [2, 4]}
    assert read(tmp_path, python) == expected
    assert read(tmp_path, yaml, 'a.yaml') == expected
    assert read(tmp_path, json.dumps(settings), 'a.json') == expected


def test_numbers_are_worked_out_and_names_looked_up(tmp_path: Path) -> None:
    text = """
half = dict(sizes=[2**6, -3])
patch = [half['sizes'][0], 1024 // 8, 7 - 3]
heads = [dict(a=x, b=y) for x in [1, 2] for y in (3,)]
"""
    assert read(tmp_path, text) == {
        'patch': [64, 128, 4],
        'heads': [{'a': 1, 'b': 3}, {'a': 2, 'b': 3}],
    }


@pytest.mark.parametrize(
    'code',
    [
        'import os',
        'patch = open("x")',
        'patch = [0] * 10**9',
        'patch = 2**100000',
        'patch = 1 / 0',
        'patch = -"a"',
        'patch = unknown',
        'patch = [x for x in range(9)]',
        'patch = [x for x in [1] if x]',
        'patch = [1][1]',
        'patch: int = 3',
        'patch = lambda: 3',
        'a, b = 1, 2',
        'if True:\n    patch = 1',
        'patch = dict(**{})',
    ],
)
def test_what_would_have_to_be_run_is_refused_with_its_line(tmp_path: Path, code: str) -> None:
    with pytest.raises(ConfigError, match=r'a\.py, line 2: code beyond literals'):
        read(tmp_path, f'x = 1\n{code}')


def test_what_training_saw_goes_before_what_a_test_sees(tmp_path: Path) -> None:
    # as Pointcept's: the test samples a finer grid first
    text = """
data = dict(
    train=dict(transform=[dict(type='GridSample', grid_size=0.05)]),
    test=dict(transform=[dict(type='GridSample', grid_size=0.025)], grid_size=0.05))
"""
    assert read(tmp_path, text) == {'grid_size': 0.05}


def test_two_values_for_one_setting_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='heads stands there twice with two values'):
        read(tmp_path, 'a = dict(heads=[1])\nb = dict(heads=[2])')


# --- _base_ ---


def test_a_file_that_begins_with_others_replaces_what_they_say(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        "_base_ = ['./one.py', './two.py']\nmodel = dict(backbone=dict(heads=[4]))",
        one="model = dict(backbone=dict(heads=[2], patch=[8]))\nnames = ['a']",
        two="names = ['b', 'c']",
    )
    assert found == {'heads': [4], 'patch': [8], 'names': ['b', 'c']}


def test_a_dictionary_with_delete_replaces_the_whole(tmp_path: Path) -> None:
    text = "_base_ = 'one.py'\nmodel = dict(_delete_=True, heads=[4])"
    found = read(tmp_path, text, one='model = dict(heads=[2], patch=[8])')
    assert found == {'heads': [4]}


def test_a_base_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'begins with \.\./one\.py, which is not there'):
        read(tmp_path, "_base_ = ['../one.py']")


def test_files_that_begin_with_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='more than 16 files begin with one another'):
        read(tmp_path, "_base_ = 'one.py'", one="_base_ = 'a.py'")


# --- what is no configuration ---


@pytest.mark.parametrize(
    ('name', 'content'),
    [
        ('a.py', b'x = ('),
        ('a.py', b'\xff\xfe'),
        ('a.py', b'x = 1\0'),
        ('a.yaml', b'a: [1'),
        ('a.json', b'{"a": '),
        ('a.py', b'x = ' + b'[' * 5000),
        ('a.yaml', b'!!python/object/apply:os.mkdir [done]'),
    ],
)
def test_what_is_no_configuration_gets_one_sentence(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match='not readable as a configuration') as caught:
        read_configuration(tmp_path / name, WANTED)
    assert '\n' not in str(caught.value)


def test_a_configuration_that_is_not_there_gets_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'b\.yaml: not readable as a configuration: .*No such'):
        read_configuration(tmp_path / 'b.yaml', WANTED)


def test_pairs_are_read_as_yaml() -> None:
    assert read_pairs(['a=[1, 2]', 'b=z', 'c=0.5']) == {'a': [1, 2], 'b': 'z', 'c': 0.5}


@pytest.mark.parametrize(
    ('pair', 'sentence'), [('a', 'write key=value'), ('=1', 'write key'), ('a=[', 'no YAML')]
)
def test_a_pair_that_is_none_gets_one_sentence(pair: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        read_pairs([pair])
