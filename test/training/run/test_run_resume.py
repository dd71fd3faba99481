# SPDX-License-Identifier: Apache-2.0
"""A run that was killed, or interrupted, ends with the bits of one that was not."""

from __future__ import annotations

import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file
from small_run import (
    check_same,
    fit,
    make_config,
    ROOT,
    run_until_killed,
    save_teacher,
    Settings,
    settings_on,
    without_times,
    write_config,
)
from started_command import start_command
import torch

from lidar_kd.cli.lacking import EXIT_INTERRUPTED
from lidar_kd.errors import ConfigError
from training.run.checkpoint import load_checkpoint
from training.run.config import Config
from training.run.folder import RunFolder
from training.run.loop import Run
from training.run.perform import main, train

KILLED_AT = 5  # the last checkpoint before it is that of step 3

pytestmark = pytest.mark.usefixtures('in_own_folder')


def supervised(street: Path, tmp_path: Path) -> Settings:
    augmentation = {'paste': 3, 'polarmix': 0.5, 'jitter_m': 0.01, 'drop': 0.1}
    return settings_on(street, optim__ema=0.9, data__workers=1, data__augment=augmentation)


def distilled(street: Path, tmp_path: Path) -> Settings:
    """Automatic weights, measured at steps 0 and 10; adapters; fused scans; another grid."""
    teacher = {'bundle': str(save_teacher(tmp_path / 'teacher.safetensors'))}
    return settings_on(
        street, optim__steps=12, teacher=teacher, method=['srkd', 'm2skd'], data__workers=1
    )


def check_same_run(one: RunFolder, other: RunFolder) -> None:
    assert without_times(one.history()) == without_times(other.history())
    for path in ('last', 'best'):
        ours, theirs = (load_checkpoint(getattr(folder, path)) for folder in (one, other))
        check_same(ours, theirs, path)
    check_same(load_file(one.bundle), load_file(other.bundle))


@pytest.mark.parametrize(('job', 'make'), [('train', supervised), ('distill', distilled)])
def test_a_run_that_got_kill_9_ends_with_the_bits_of_one_that_did_not(
    job: str, make: type, street: Path, tmp_path: Path
) -> None:
    settings = make(street, tmp_path)
    config = make_config(tmp_path, settings)
    whole, killed = RunFolder(tmp_path / 'whole'), RunFolder(tmp_path / 'killed')
    arguments = ['--cfg', str(tmp_path / 'small.yaml'), '--out', str(killed.path)]
    status = run_until_killed(job, arguments, step=KILLED_AT, cwd=tmp_path)
    assert status == -signal.SIGKILL
    assert load_checkpoint(killed.last)['step'] == 3
    assert max(row['step'] for row in killed.history()) == KILLED_AT
    fit(config, killed.path)
    fit(config, whole.path)
    check_same_run(whole, killed)
    steps = [row['step'] for row in killed.history() if 'loss' in row]
    assert steps == list(range(1, settings['optim']['steps'] + 1))
    if job == 'distill':
        beside = load_checkpoint(killed.last)['distillation']
        assert {*beside['weights']['counts'].values()} == {2}
        assert 'm2skd.late.map.weight' in beside['methods']


def test_a_run_whose_teacher_or_streets_have_changed_is_refused(tmp_path: Path) -> None:
    config, folder = Config(name='x'), RunFolder(tmp_path)
    folder.claim(config, {'teacher': 'ab12', 'streets': 'old'})
    folder.last.touch()
    folder.claim(config, {'teacher': 'ab12', 'streets': 'old', 'model.warm_start': 'new to it'})
    with pytest.raises(ConfigError, match='something else to learn from .teacher ab12 -> cd34.;'):
        folder.claim(config, {'teacher': 'cd34', 'streets': 'old'})
    folder.origins.unlink()  # a run from before they were written
    folder.claim(config, {'teacher': 'cd34', 'streets': 'new'})


def test_ctrl_c_saves_says_how_to_go_on_and_the_same_command_does(
    street: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write_config(tmp_path / 'small.yaml', settings_on(street))
    command = ['train.py', '--cfg', str(path), '--out', 'interrupted']
    monkeypatch.setattr('sys.argv', command)
    learn = Run._learn

    def learn_and_interrupt(run: Run, batch: object) -> None:
        learn(run, batch)  # type: ignore[arg-type]
        if run.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Run, '_learn', learn_and_interrupt)
        assert main('', train, path) == EXIT_INTERRUPTED == 130
    assert capsys.readouterr().err.splitlines()[-1] == (
        'warning: interrupted after step 4; the same command goes on from there (interrupted)'
    )
    folder = RunFolder(tmp_path / 'interrupted')
    assert load_checkpoint(folder.last)['step'] == 4
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert main('', train, path) == 0
    assert 'going on from step 4 of 6' in capsys.readouterr().out
    fit(make_config(tmp_path, settings_on(street)), tmp_path / 'whole')
    check_same_run(RunFolder(tmp_path / 'whole'), folder)
    assert main('', train, path) == 0
    assert 'this run is finished' in capsys.readouterr().out
    assert torch.load(folder.last, weights_only=True)['step'] == 6


def test_a_signal_to_the_whole_group_saves_the_run_in_spite_of_its_workers(
    street: Path, tmp_path: Path
) -> None:
    """As `timeout`, and what stops containers, send it."""
    settings = settings_on(street, optim__steps=10_000, validate__every=5_000, data__workers=1)
    path, folder = write_config(tmp_path / 'small.yaml', settings), RunFolder(tmp_path / 'run')
    command = [ROOT / 'training' / 'train.py', '--cfg', path, '--out', folder.path]
    said = tmp_path / 'said'
    run = start_command(command, (tmp_path / 'told', said))
    while not (folder.log.is_file() and 'step 3/' in folder.log.read_text()):
        assert run.exitcode is None
        time.sleep(0.1)
    os.killpg(run.pid or 0, signal.SIGTERM)
    run.join(60)
    assert run.exitcode == EXIT_INTERRUPTED
    assert said.read_text().splitlines()[-1].startswith('warning: interrupted after step ')
    assert load_checkpoint(folder.last)['step'] >= 3


HOLD_UNTIL_TOLD = """
import fcntl, sys
with open('busy/.lock', 'w') as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print('held', flush=True)
    sys.stdin.read()
"""


def test_two_processes_do_not_train_in_one_folder(
    street: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr('training.run.folder.PATIENCE_S', 0.2)
    path = write_config(tmp_path / 'small.yaml', settings_on(street))
    monkeypatch.setattr('sys.argv', ['train.py', '--cfg', str(path), '--out', 'busy'])
    (tmp_path / 'busy').mkdir()
    command, pipe = [sys.executable, '-c', HOLD_UNTIL_TOLD], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == 'held\n'
        assert main('', train, path) == 2
        assert 'busy: another process trains here' in capsys.readouterr().err
        other.kill()  # what dies lets go
    assert main('', train, path) == 0
