# SPDX-License-Identifier: Apache-2.0
"""What is odd in a run that is read back, or in the environment, is told in a sentence."""

from __future__ import annotations

from collections.abc import Callable
import json
from pathlib import Path
import pickle
from typing import Any
import zipfile

import pytest
from small_run import make_config, make_street, prepare, settings_on
import torch

from lidar_kd.cli.console import Console
from lidar_kd.errors import ConfigError, DataError, MOST_SAID
from training.data.loader import explain_lost_worker
from training.run.checkpoint import load_checkpoint
from training.run.folder import RunFolder
from training.run.loop import Run
from training.run.perform import main, train
from training.run.ranks import join_ranks
from training.run.yaml_file import parse_yaml, read_settings

DOUBLING = 'a0: &a0 [x, x]\n' + ''.join(
    f'a{level}: &a{level} [*a{level - 1}, *a{level - 1}]\n' for level in range(1, 21)
)


@pytest.mark.parametrize(
    ('text', 'sentence'),
    [
        (DOUBLING, 'more than 100,000 values'),  # 2^21 with every alias written out
        ('a: &a [*a]', 'nested too deeply'),
        ('[' * 10_000, 'nested too deeply'),
        ('a: ' + '[' * 60 + ']' * 60, 'nested too deeply'),
        ('a: !!timestamp 2026-99-99', 'a value'),
        ('a: ' + '9' * 5000, 'a value'),
        ('? [a, b]\n: c\n? [a, b]\n: d', 'occurs twice'),
    ],
)
def test_yaml_that_is_no_configuration_is_told(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        parse_yaml(text, 'config.yaml')


@pytest.mark.parametrize(
    ('content', 'sentence'),
    [
        ('name: \u00e9'.encode('utf-16'), 'is no UTF-8 text'),
        (b'name: \xff', 'is no UTF-8 text'),
        (b'# ' * 200_000, 'has more than 262,144 bytes'),
    ],
)
def test_a_configuration_is_a_short_text(content: bytes, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / 'config.yaml'
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=sentence):
        read_settings(path)


def test_a_sentence_is_one_printable_line_of_bounded_length() -> None:
    error = ConfigError(
        f"config.yaml: unknown key '\x1b[31m{'x' * 100_000}'. Did you mean 'name'?"
    )
    assert str(error).isprintable()
    assert len(str(error)) == MOST_SAID + len(' ... ')
    assert str(error).startswith("config.yaml: unknown key '?[31m")
    assert str(error).endswith("Did you mean 'name'?")


@pytest.mark.parametrize('text', ['', '[]', '{', '"a"', '\x00'])
def test_damaged_origins_are_told(text: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.origins.write_text(text)
    with pytest.raises(ConfigError, match='origins.json: is damaged'):
        folder.changed_origins({'teacher': 'abc'})


def test_damaged_rows_are_left_out_and_the_others_stay(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    good = {'step': 3, 'loss': 0.5}
    lines = [json.dumps(good).encode(), b'{"step": 4, "lo', b'\xff\xfe}', b'[]', b'{"step": "5"}']
    folder.metrics.write_bytes(b'\n'.join(lines))
    assert folder.history() == [good]
    folder.forget_after(9)
    assert folder.metrics.read_text() == json.dumps(good) + '\n'


def respell(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Another pickle in a checkpoint, whose checksums are right."""
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, 'w') as new:
        for name, content in members.items():
            new.writestr(name, change(content) if name.endswith('data.pkl') else content)


@pytest.mark.parametrize(
    'change',
    [
        lambda content: content[: len(content) // 2],
        lambda content: b'\xff' + content[1:],
        lambda _: pickle.dumps([1, 2], 2),
        lambda _: pickle.dumps({'model': 3}, 2),
    ],
)
def test_a_checkpoint_with_another_pickle_is_refused(
    change: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = tmp_path / 'last.pt'
    torch.save({'step': 1, 'model': {'a': torch.ones(3)}}, path)
    respell(path, change)
    with pytest.raises(DataError, match='no complete checkpoint'):
        load_checkpoint(path)


def test_a_whole_checkpoint_of_something_else_is_told(street: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path, settings_on(street))
    parts = prepare(config, tmp_path / 'run')
    torch.save({'step': 1, 'loader': parts.loader.state()}, parts.folder.last)
    with pytest.raises(DataError, match="its checkpoint does not fit this run .*'model'"):
        Run(parts, Console(quiet=True)).fit()


@pytest.mark.parametrize('workers', [0, 1])
def test_a_bad_scan_is_one_sentence_whoever_reads_it(workers: int, tmp_path: Path) -> None:
    root = make_street(tmp_path / 'street')
    for scan in (root / 'sequences/00/velodyne').iterdir():
        scan.write_bytes(b'123')
    settings: dict[str, Any] = settings_on(root, data__workers=workers)
    sources = make_config(tmp_path, settings)
    with pytest.raises(DataError, match='3 bytes are no multiple of a point') as caught:
        Run(prepare(sources, tmp_path / 'run'), Console(quiet=True)).fit()
    assert 'Traceback' not in str(caught.value)


def test_a_lost_worker_is_told_with_its_remedy() -> None:
    lost = RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed. ')
    assert 'set data.workers lower' in str(explain_lost_worker(lost))
    assert explain_lost_worker(RuntimeError('shapes differ')) is None


@pytest.mark.parametrize(
    'environment',
    [
        {'WORLD_SIZE': '0'},
        {'WORLD_SIZE': 'two'},
        {'RANK': '2', 'WORLD_SIZE': '2'},
        {'RANK': '-1', 'WORLD_SIZE': '2'},
        {'RANK': '0', 'WORLD_SIZE': '2', 'LOCAL_RANK': '0'},  # and no address to meet at
    ],
)
def test_ranks_that_cannot_be_are_told(
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ('MASTER_ADDR', 'MASTER_PORT'):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match='torchrun'), join_ranks():
        pass
    monkeypatch.setattr('sys.argv', ['train.py'])
    assert main('', train, Path('none.yaml')) == 2
    assert capsys.readouterr().err.startswith('error: ')
