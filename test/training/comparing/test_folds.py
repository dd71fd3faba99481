# SPDX-License-Identifier: Apache-2.0
"""Cross-validation: every sequence is scored once, by students that never saw it."""

from __future__ import annotations

import json
from pathlib import Path
import shutil
import sys

import numpy as np
import pytest
from small_run import make_street, save_teacher, settings_on, write_config

from lidar_kd.errors import ConfigError
from training import compare
from training.comparing.figures import Outcome
from training.comparing.folds import pool_folds, split_folds
from training.comparing.plan import plan_folds
from training.comparing.status import RunStatus
from training.run.config import Config, load_config

NAMES = ('00', '08', '09', '10')


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Four sequences in a folder for each of two folds, and a teacher for each."""
    monkeypatch.chdir(tmp_path)
    street = make_street(tmp_path / 'street0')
    for name in NAMES[2:]:
        shutil.copytree(street / 'sequences' / '08', street / 'sequences' / name)
    shutil.copytree(street, tmp_path / 'street1')
    for fold in range(2):
        save_teacher(tmp_path / f'teacher{fold}.safetensors')
    settings = settings_on(
        Path('street{fold}'),
        teacher={'bundle': 'teacher{fold}.safetensors', 'cache': True},
        method=['srkd'],
        optim__steps=2,
        validate__steps=2,
    )
    settings['data']['train'] = list(NAMES)
    return load_config(write_config(tmp_path / 'small.yaml', settings))


def test_each_sequence_is_scored_once_and_never_by_who_learnt_from_it(config: Config) -> None:
    folds = split_folds(config, 3)
    assert [fold.data.validation for fold in folds] == [('00', '10'), ('08',), ('09',)]
    assert [fold.data.train for fold in folds] == [
        ('08', '09'),
        ('00', '09', '10'),
        ('00', '08', '10'),
    ]
    assert [str(fold.data.root) for fold in folds] == ['street0', 'street1', 'street2']
    teachers = [fold.teacher.bundle if fold.teacher else None for fold in folds]
    assert teachers == [Path(f'teacher{fold}.safetensors') for fold in range(3)]
    assert split_folds(config, None) == [config]


@pytest.mark.parametrize('count', [0, 1, 5])
def test_folds_that_cannot_be_are_refused(config: Config, count: int) -> None:
    with pytest.raises(ConfigError, match=rf'--folds {count}: data.train must name the seq'):
        split_folds(config, count)
    named = config.data.model_copy(update={'train': 'train'})
    with pytest.raises(ConfigError, match='data.train must name the sequences'):
        split_folds(config.model_copy(update={'data': named}), 2)


def test_runs_come_seed_by_seed_and_fold_by_fold(config: Config) -> None:
    runs = plan_folds(split_folds(config, 2), ['alone', 'srkd', 'self_teacher'], 2, Path('x/y'))
    assert [run.name for run in runs][:7] == [
        *('alone-0-fold0', 'srkd-0-fold0', 'self_teacher-0-fold0'),
        *('alone-0-fold1', 'srkd-0-fold1', 'self_teacher-0-fold1'),
        'alone-1-fold0',
    ]
    assert len({run.folder.path for run in runs}) == len(runs)
    taught = [run.taught_by.name for run in runs if run.taught_by]
    assert taught == ['alone-0-fold0', 'alone-0-fold1'] * 2
    status = RunStatus(name=runs[1].name, state='left', step=0, steps=2)
    assert status.arm == 'srkd'


def outcome(*counts: list[list[int]]) -> Outcome:
    """Two classes; of which `b` is hard."""
    return Outcome(
        miou=0.0,
        hard_miou=0.0,
        iou={'a': None, 'b': None},
        step_ms=1.0,
        peak_gb=float(len(counts)),
        agreement=0.5 * len(counts),
        curve=[(1, 0.1 * len(counts)), (2, 0.2)],
        counts=np.array(counts),
        hard=[1],
    )


def test_points_of_all_folds_are_counted_together() -> None:
    first = outcome([[6, 2, 0], [0, 0, 0]])
    second = outcome([[1, 0, 0], [1, 3, 0]], [[0, 0, 0], [2, 0, 0]])
    both = pool_folds([first, second])
    # a: 7 hits, 9 of a, 10 answers: 7 / 12; b: 3 hits, 6 of b, 5 answers: 3 / 8
    assert both.iou == pytest.approx({'a': 7 / 12, 'b': 3 / 8})
    assert both.miou == pytest.approx((7 / 12 + 3 / 8) / 2)
    assert both.hard_miou == pytest.approx(3 / 8)
    assert both.counts is not None
    assert both.counts.shape == (3, 2, 3)  # what the bootstrap draws
    # by their points, 8 and 7; the curve is the mean of both
    assert both.agreement == pytest.approx((8 * 0.5 + 7 * 1.0) / 15)
    assert [step for step, _ in both.curve] == [1, 2]
    assert [score for _, score in both.curve] == pytest.approx([0.15, 0.2])
    assert pool_folds([first]) is first


def test_one_command_cross_validates(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ['compare.py', '--cfg', 'small.yaml', '--seeds', '1', '--json', 'figures.json']
    monkeypatch.setattr(sys, 'argv', [*words, '--folds', '2', '--out', 'out/cross'])
    assert compare.main() == 0
    figures = json.loads(Path('figures.json').read_text())
    assert {'srkd_gain', 'srkd_gain_streets_low', 'teacher_miou', 'macs_share'} <= figures.keys()
    table = Path('out/cross/comparison.txt').read_text()
    assert '10 scans of 4 sequences, cross-validated in 2 folds' in table
    assert len(list(Path('out').rglob('report.json'))) == 4  # two networks in two folds
    monkeypatch.setattr(sys, 'argv', [*words, '--folds', '2', '--half', 'report'])
    assert compare.main() == 2
