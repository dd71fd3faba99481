# SPDX-License-Identifier: Apache-2.0
"""The rows of a fair table: what a gain must be above before a method may claim it."""

from __future__ import annotations

from dataclasses import replace
import json
from pathlib import Path
import sys

import numpy as np
import pytest
from small_run import make_street, save_teacher, settings_on, write_config

from lidar_kd.cli.console import Console
from lidar_kd.errors import ConfigError
from lidar_kd.segmenter import Segmenter
from lidar_kd.sensor import EACH_ALONE
from training import compare
from training.comparing.plan import plan_runs
from training.comparing.runs import answer_all, choose_half, score_run
from training.comparing.side_by_side import SideBySide
from training.data.scan import ScanSet
from training.data.semantickitti import open_semantickitti
from training.run.config import Config, load_config
from training.run.folder import RunFolder


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.chdir(tmp_path)
    teacher = {'bundle': str(save_teacher(tmp_path / 'teacher.safetensors')), 'cache': True}
    street = make_street(tmp_path / 'street')
    settings = settings_on(
        street, teacher=teacher, method=['srkd'], optim__steps=2, validate__steps=2
    )
    return load_config(write_config(tmp_path / 'small.yaml', settings))


def test_label_smoothing_is_the_student_alone_but_for_its_labels(config: Config) -> None:
    alone, smoothed = plan_runs(config, ['alone', 'label_smoothing'], 1, Path('x/y'))
    assert (alone.config.loss.label_smoothing, smoothed.config.loss.label_smoothing) == (0, 0.1)
    same = {'name': 'same', 'loss': config.loss}
    assert smoothed.config.model_copy(update=same) == alone.config.model_copy(update=same)
    # beside the comparisons, each in a folder of its own
    assert smoothed.folder.path.parent.parent == alone.folder.path.parent.parent == Path('x')
    assert smoothed.folder.path.parent != alone.folder.path.parent


def test_what_only_m2skds_teacher_sees_makes_no_other_student_alone(config: Config) -> None:
    def alone(**changes: object) -> Path:
        data = config.data.model_copy(update=changes)
        changed = config.model_copy(update={'data': data})
        return plan_runs(changed, ['alone'], 1, Path('x/y'))[0].folder.path

    assert alone(moving='centroid', past_scans=2) == alone()
    assert alone(validation_scans=3) != alone()


def test_the_first_student_alone_teaches_the_self_taught_of_all_seeds(config: Config) -> None:
    runs = plan_runs(config, ['alone', 'self_teacher'], 2, Path('x/y'))
    first, *others = runs
    for taught in (run for run in others if run.arm == 'self_teacher'):
        assert taught.config.teacher is not None
        assert taught.config.teacher.bundle == first.folder.bundle
        assert taught.config.teacher.cache
        assert taught.config.method == ('srkd',)
        assert taught.taught_by is not None
        assert taught.taught_by.name == 'alone-0'


def test_nobody_is_taught_by_itself_without_a_method(config: Config) -> None:
    bare = config.model_copy(update={'method': ()})
    with pytest.raises(ConfigError, match='self_teacher: the first student alone takes'):
        plan_runs(bare, ['self_teacher'], 1, Path('x'))


def test_the_rows_are_trained_by_one_command(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ['compare.py', '--cfg', 'small.yaml', '--seeds', '1', '--json', 'figures.json']
    words += ['--arms', 'self_teacher', 'label_smoothing', '--out', 'out/all']
    monkeypatch.setattr(sys, 'argv', words)
    assert compare.main() == 0
    figures = json.loads(Path('figures.json').read_text())
    assert {'self_teacher_gain', 'label_smoothing_gain'} <= figures.keys()
    assert len(list(Path('out').rglob('report.json'))) == 3


def test_a_run_waits_for_the_one_that_teaches_it(tmp_path: Path) -> None:
    done, note = tmp_path / 'done', tmp_path / 'note'
    teach = f'import time; time.sleep(1); open({str(done)!r}, "w").close()'
    learn = f'import os; open({str(note)!r}, "w").write(str(os.path.exists({str(done)!r})))'
    runs = {name: RunFolder(tmp_path / name) for name in ('learn', 'teach')}
    for folder in runs.values():
        folder.path.mkdir()
        folder.append({'step': 1, 'miou': 0.5})
    codes = {'learn': learn, 'teach': teach}
    commands = {name: (runs[name], [sys.executable, '-c', codes[name]]) for name in codes}
    SideBySide(commands, 2, Console(quiet=True), after={'learn': 'teach'}).finish()
    assert note.read_text() == 'True'


def streets(root: Path) -> ScanSet:
    """Two scans each of the sequences 08 and 09, which are copies."""
    make_street(root)
    (root / 'sequences' / '09').symlink_to(root / 'sequences' / '08')
    return open_semantickitti(root, ['08', '09'])


def test_settings_are_chosen_on_one_half_and_reported_on_the_other(tmp_path: Path) -> None:
    both = streets(tmp_path / 'street')
    halves = [choose_half(both, half) for half in ('choice', 'report')]
    assert [[f.sequence for f in half.frames] for half in halves] == [['08'] * 2, ['09'] * 2]
    with pytest.raises(ConfigError, match=r'--half report: .* has 1 sequence to score on'):
        choose_half(halves[0], 'report')


def test_every_street_is_counted_by_itself(tmp_path: Path) -> None:
    both = streets(tmp_path / 'street')
    answers = [both[index].labels for index in range(4)]
    answers[3] = np.full_like(answers[3], 255)  # nothing is said of the last scan
    outcome = score_run(both, answers, step_ms=1.0, peak_gb=1.0)
    assert outcome.counts is not None
    first, second = outcome.counts
    assert np.diagonal(first).sum() == first.sum() == len(both[0]) + len(both[1])
    assert second[:, -1].sum() == len(both[3])
    assert np.diagonal(second).sum() == len(both[2])


def test_an_ensemble_answers_by_the_mean_of_its_posteriors(config: Config, tmp_path: Path) -> None:
    scans = open_semantickitti(tmp_path / 'street', ['08'])
    one = tmp_path / 'teacher.safetensors'
    other = save_teacher(
        tmp_path / 'other.safetensors', name='minkunet', settings={'width': 0.125}
    )
    segmenters = [Segmenter(path, sensor=EACH_ALONE) for path in (one, other)]
    together = answer_all(one, scans, [other])
    for index, labels in enumerate(together):
        first, second = (each.probabilities(scans[index].points) for each in segmenters)
        np.testing.assert_array_equal(labels, (first + second).argmax(1))
    alone = answer_all(one, scans)
    assert any((a != b).any() for a, b in zip(together, alone))


def test_a_network_is_asked_about_the_same_scans_once(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans = open_semantickitti(tmp_path / 'street', ['08'])
    first = answer_all(tmp_path / 'teacher.safetensors', scans)
    monkeypatch.setattr('training.comparing.runs.Segmenter', None)
    again = answer_all(tmp_path / 'teacher.safetensors', scans)
    assert all((a == b).all() for a, b in zip(first, again))
    other = replace(scans, frames=scans.frames[:1])
    with pytest.raises(TypeError):  # which are other scans
        answer_all(tmp_path / 'teacher.safetensors', other)
