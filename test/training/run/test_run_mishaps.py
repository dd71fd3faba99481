# SPDX-License-Identifier: Apache-2.0
"""Runs that cannot mean anything say so; a folder that lost a part is not taken for another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
import shlex
from typing import Any

import numpy as np
import pytest
from small_run import fit, make_config, make_street, prepare, settings_on, write_config
import torch

from lidar_kd.cli.console import Console
from lidar_kd.errors import ConfigError, DataError
from training.comparing.runs import read_run
from training.data.batch import make_batch
from training.data.scan import Scan
from training.run.checkpoint import load_checkpoint
from training.run.folder import RunFolder
from training.run.loop import Run
from training.run.perform import distill, main, say_goodbye, train

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def command(street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """train.py on the street, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    path = write_config(tmp_path / 'small.yaml', settings_on(street))

    def start(*words: str) -> int:
        monkeypatch.setattr('sys.argv', ['train.py', '--cfg', str(path), '--out', 'run', *words])
        return main('', train, path)

    return start


@pytest.mark.parametrize('lost', ['last.pt', 'best.safetensors', 'report.json'])
def test_a_finished_run_that_lost_a_file_is_still_the_run_of_its_configuration(
    lost: str, command: Callable[..., int], capsys: Capture
) -> None:
    assert command() == 0
    written = Path('run/config.yaml').read_text()
    Path('run', lost).unlink()
    assert command('--set', 'optim.lr=5e-4') == 2
    assert 'holds a run with another configuration (optim.lr' in capsys.readouterr().err
    assert Path('run/config.yaml').read_text() == written


def test_results_whose_configuration_is_gone_are_nobody_elses(
    command: Callable[..., int], capsys: Capture
) -> None:
    assert command() == 0
    Path('run/config.yaml').unlink()
    assert command() == 2
    assert 'holds a run with results and no configuration (last.pt' in capsys.readouterr().err
    assert command('--fresh') == 0


def test_a_run_without_its_bundle_is_not_finished_and_says_how_to_get_it_back(
    command: Callable[..., int], capsys: Capture
) -> None:
    assert command() == 0
    Path('run/best.safetensors').unlink()
    assert command() == 2
    assert 'training/export.py run --out run/best.safetensors' in capsys.readouterr().err


def test_a_folder_with_a_configuration_alone_can_be_claimed_anew(tmp_path: Path) -> None:
    config = make_config(tmp_path, settings_on(tmp_path))
    folder = RunFolder(tmp_path / 'run')
    folder.claim(config, {})
    folder.claim(config.model_copy(update={'seed': 5}), {})
    assert 'seed: 5' in folder.config.read_text()


def test_train_takes_no_labels_from_a_teacher(
    street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Else train.py and distill.py would share a folder and a configuration, and not the run."""
    teacher = {'bundle': 'teacher.safetensors', 'pseudo_labels': 0.5}
    path = write_config(tmp_path / 'small.yaml', settings_on(street, teacher=teacher))
    monkeypatch.setattr('sys.argv', ['train.py', '--cfg', str(path)])
    assert main('', train, path) == 2
    assert 'or train the student alone with --set teacher=null' in capsys.readouterr().err
    monkeypatch.setattr('sys.argv', ['distill.py', '--cfg', str(path)])
    assert main('', distill, path) == 2
    assert 'teacher.safetensors: no such bundle' in capsys.readouterr().err


def test_a_device_that_is_not_there_is_told_before_anything_is_opened(
    command: Callable[..., int], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('training.run.perform.open_sources_once', pytest.fail)
    assert command('--set', 'device=cuda:99') == 2
    assert 'device cuda:99: this ' in capsys.readouterr().err


def erase_labels(street: Path, sequence: str) -> None:
    for path in (street / 'sequences' / sequence / 'labels').iterdir():
        np.zeros(path.stat().st_size // 4, '<u4').tofile(path)


@pytest.mark.parametrize(
    ('sequence', 'sentence'),
    [
        ('00', 'no point of its 4 scans has a label that counts; change data.train'),
        ('08', 'the scans to score hold no labelled point; change data.validation'),
    ],
)
def test_scans_without_a_label_that_counts_are_refused(
    sequence: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own_street = make_street(tmp_path / 'street')
    erase_labels(own_street, sequence)
    with pytest.raises(DataError, match=sentence):
        fit(make_config(tmp_path, settings_on(own_street)), tmp_path / 'run')


def test_a_batch_with_nothing_in_the_grid_is_a_warning_once(
    street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = Scan(points=np.zeros((0, 4), np.float32), labels=np.zeros(0, np.uint8), name='00/1')
    config = make_config(tmp_path, settings_on(street))
    batch = make_batch([nothing], config.model.grid)
    run = Run(prepare(config, tmp_path / 'run'), Console(quiet=True))
    warnings: list[str] = []
    monkeypatch.setattr(run.console, 'warn', warnings.append)
    for _ in range(2):
        run._learn(batch)
    assert len(warnings) == 1
    assert 'no point of 00/1 lies in the grid' in warnings[0]


def test_a_run_that_stops_early_has_logged_its_steps_and_can_be_compared(
    street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    better = Run._validate

    def worse(run: Run) -> None:
        better(run)
        run.validation.stale = 2

    monkeypatch.setattr(Run, '_validate', worse)
    settings = settings_on(street, validate__patience=2, log_every=100)
    parts = prepare(make_config(tmp_path, settings), tmp_path / 'run')
    run = Run(parts, Console(quiet=True))
    run.fit()
    assert [row['step'] for row in run.folder.history() if 'loss' in row] == [3]
    assert read_run(run.folder, parts.validation, []).step_ms > 0
    run.folder.metrics.unlink()
    assert np.isnan(read_run(run.folder, parts.validation, []).step_ms)


def test_one_cell_is_refused_where_batch_norm_needs_two(street: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path, settings_on(street))
    run = Run(prepare(config, tmp_path / 'run'), Console(quiet=True))
    point = Scan(points=np.ones((1, 4), np.float32), labels=np.zeros(1, np.uint8), name='00/1')
    with pytest.raises(DataError, match='batch norm needs two: train on larger scans'):
        run._learn(make_batch([point], config.model.grid))


def test_a_checkpoint_of_other_layers_is_not_reached(street: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = settings_on(street)
    fit(make_config(tmp_path, settings), tmp_path / 'run')
    settings['model']['settings'] = {'width': 0.25}
    with pytest.raises(ConfigError, match='another configuration'):
        fit(make_config(tmp_path, settings), tmp_path / 'run')


def test_a_flipped_bit_in_a_checkpoint_is_refused(street: Path, tmp_path: Path) -> None:
    run = fit(make_config(tmp_path, settings_on(street)), tmp_path / 'run')
    damaged = bytearray(run.folder.last.read_bytes())
    damaged[len(damaged) // 2] ^= 1  # in the middle of the weights
    run.folder.last.write_bytes(bytes(damaged))
    with pytest.raises(DataError, match='no complete checkpoint'):
        load_checkpoint(run.folder.last)


def test_a_damaged_checkpoint_is_replaced_by_the_best_one(
    street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(tmp_path, settings_on(street, validate__keep='last', optim__steps=7))
    whole = fit(config, tmp_path / 'run')
    damaged = bytearray(whole.folder.last.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    whole.folder.last.write_bytes(bytes(damaged))
    again = fit(config, tmp_path / 'run')
    assert again.step == 7
    assert 'best.pt is taken instead, of step 7' in capsys.readouterr().err


def test_a_run_that_goes_on_with_other_threads_says_so(
    street: Path, tmp_path: Path, capsys: Capture, threads: int
) -> None:
    """`threads`: whatever is set is put back."""
    config = make_config(tmp_path, settings_on(street, threads=0))  # as many as there are
    for count in (2, 3):
        torch.set_num_threads(count)
        fit(config, tmp_path / 'run')
    assert 'going on with threads 2 -> 3: the last bits will differ' in capsys.readouterr().err


def test_the_next_steps_hold_where_the_path_has_spaces(tmp_path: Path, capsys: Capture) -> None:
    folder = RunFolder(tmp_path / 'my run')
    say_goodbye(folder, 0.5, Console())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith('  ')]
    launch, segment = map(shlex.split, lines)
    assert launch[4] == f'model:={folder.bundle}'
    assert segment[3] == str(folder.bundle)
