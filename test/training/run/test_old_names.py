# SPDX-License-Identifier: Apache-2.0
"""What version 0.1 left is read, and its runs go on: test/data/before_0.2.0."""

from __future__ import annotations

from pathlib import Path
import shutil
import sys

import pytest
from safetensors.torch import load_file
from small_run import make_street, ROOT
import torch
import yaml

from lidar_kd.errors import ConfigError
from lidar_kd.segmenter import Segmenter
from training.data.semantickitti import open_semantickitti
from training.run.config import describe_changes, load_config, read_past_settings
from training.run.old_names import find_run
from training.run.perform import distill, main
from training.run.teachers import FrozenTeacher

BEFORE = ROOT / 'test' / 'data' / 'before_0.2.0'
CACHE = Path('runs/cache/e9967bfec3da')  # the first digits of the teacher's sha256

pytestmark = pytest.mark.usefixtures('in_own_folder')


def lay_out(place: Path) -> Path:
    """What was there when the run was killed; its configuration in the names of today."""
    make_street(place / 'street')
    shutil.copytree(BEFORE / 'run', place / 'run')
    shutil.copytree(BEFORE / 'teacher_cache', place / CACHE)
    shutil.copy(BEFORE / 'teacher.safetensors', place)
    text = (BEFORE / 'run' / 'config.yaml').read_text()
    text = text.replace('  labels: 0.05', '  pseudo_labels: 0.05')
    (place / 'new.yaml').write_text(text.replace('  start: teacher', '  warm_start: teacher'))
    return place / 'run'


def test_a_bundle_of_before_labels(tmp_path: Path) -> None:
    scan = open_semantickitti(make_street(tmp_path / 'street'), ['00'])[0]
    labels = Segmenter(BEFORE / 'whole.safetensors', device='cpu').segment(scan.points).labels
    assert len(labels) == 2030
    assert labels.max() < 19


def test_a_run_of_before_goes_on_to_its_end_without_asking_its_teacher_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = lay_out(tmp_path)

    def refuse(*_: object) -> None:
        raise AssertionError('the teacher is asked although its answers are kept')

    monkeypatch.setattr(FrozenTeacher, '__call__', refuse)
    monkeypatch.setattr(sys, 'argv', ['distill.py', '--cfg', 'new.yaml', '--out', str(run)])
    assert main('', distill, Path()) == 0
    ours, theirs = load_file(run / 'best.safetensors'), load_file(BEFORE / 'whole.safetensors')
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():  # not bit for bit: the norms' kernel sums otherwise now
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-6, msg=name)
    assert 'going on from step 3 of 6' in (run / 'log.txt').read_text()


@pytest.mark.parametrize(
    ('change', 'now'), [('teacher.labels=0.5', 'pseudo_labels'), ('model.start=a', 'warm_start')]
)
def test_who_writes_an_old_key_is_told_the_new_one(change: str, now: str) -> None:
    with pytest.raises(ConfigError, match=f"srkd.yaml: .* is called '{now}' now; rename the key"):
        load_config(ROOT / 'config' / 'srkd.yaml', [change])


@pytest.mark.parametrize('checkout', ['/elsewhere/lidar_kd', str(ROOT)])
def test_a_run_in_a_moved_checkout_with_renamed_configurations_is_the_same(checkout: str) -> None:
    config = load_config(ROOT / 'config' / 'srkd.yaml')
    there = yaml.safe_load(yaml.safe_dump(config.model_dump(mode='json', by_alias=True)))
    there['teacher']['config'] = f'{checkout}/config/teacher.yaml'
    there['teacher']['labels'] = there['teacher'].pop('pseudo_labels')
    assert describe_changes(config, read_past_settings(there)) == []


def test_an_arm_of_before_is_found_under_its_old_name(tmp_path: Path) -> None:
    assert find_run(tmp_path, 'pseudo_labels-3') == tmp_path / 'pseudo_labels-3'
    (tmp_path / 'answers-3').mkdir()
    assert find_run(tmp_path, 'pseudo_labels-3') == tmp_path / 'answers-3'
    assert find_run(tmp_path, 'srkd-3') == tmp_path / 'srkd-3'
