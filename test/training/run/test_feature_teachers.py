# SPDX-License-Identifier: Apache-2.0
"""A teacher without answers in the student's classes teaches by features and relations alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_run import (
    find_teachers,
    make_config,
    make_street,
    prepare,
    save_teacher,
    settings_on,
    write_config,
)
import torch

from lidar_kd.errors import BundleError, ConfigError
from lidar_kd.labels import NO_CLASSES, NUSCENES
from lidar_kd.segmenter import Segmenter
from lidar_kd.voxels import CartesianGrid, CylinderGrid
from training.methods.by_features import outputs_of, without_outputs
from training.methods.srkd import SrkdSettings
from training.run.perform import distill, main

pytestmark = pytest.mark.usefixtures('in_own_folder')
LITEPT: dict[str, Any] = {
    'encoder_depths': [1, 1, 1],
    'encoder_channels': [8, 12, 12],
    'encoder_heads': [1, 2, 2],
    'decoder_depths': [0, 0],
    'decoder_channels': [18, 12],
    'decoder_heads': [1, 2],
    'attention_from': 1,
    'patch': 32,
}
PTV3: dict[str, Any] = {
    'encoder_depths': [1, 1],
    'encoder_channels': [8, 16],
    'encoder_heads': [1, 2],
    'decoder_depths': [1],
    'decoder_channels': [8],
    'decoder_heads': [1],
    'patch': 32,
}
SPUNET: dict[str, Any] = {'base_channels': 8, 'channels': [8, 8, 8, 8], 'layers': [1, 1, 1, 1]}
CYLINDER = CylinderGrid(shape=(48, 36, 16), radius_m=(0, 25))
CARTESIAN = CartesianGrid(voxel_m=0.5)
FAMILIES: dict[str, dict[str, Any]] = {
    'minkunet': {'settings': {'width': 0.25}},
    'spvcnn': {'settings': {'width': 0.25}},
    'spunet': {'settings': SPUNET},
    'ptv3': {'settings': PTV3},
    'litept': {'settings': LITEPT},
    'cylinder3d_quarter': {'settings': {}, 'grid': CYLINDER},
}
METHODS = ['srkd', 'pvkd', 'm2skd']
LEFT_OUT = {'srkd.output', 'pvkd.point_output', 'pvkd.voxel_output', 'm2skd.logit'}


def taught(street: Path, folder: Path, bundle: Path, **changes: Any) -> Any:
    """The parts of a run, and the terms of its first step."""
    changes = {'teacher': {'bundle': str(bundle)}, 'method': METHODS, **changes}
    parts = prepare(make_config(folder, settings_on(street, **changes)), folder / 'run')
    batch = next(iter(parts.loader))
    return parts, parts.distillation.train()(batch, np.random.default_rng(0))


@pytest.mark.parametrize('table', [NO_CLASSES, NUSCENES], ids=['headless', 'other classes'])
@pytest.mark.parametrize('family', FAMILIES)
def test_every_family_teaches_by_its_features(
    street: Path, tmp_path: Path, family: str, table: Any
) -> None:
    bundle = tmp_path / 'teacher.safetensors'
    save_teacher(bundle, name=family, table=table, **FAMILIES[family])
    parts, terms = taught(street, tmp_path, bundle, methods__srkd__feature='auto')
    names = {name for name in terms.raw if '.' in name}
    assert not names & LEFT_OUT
    assert {'srkd.cross', 'srkd.feature', 'pvkd.point_affinity', 'm2skd.late_feature'} <= names
    terms.loss.backward()
    adapter = parts.distillation.methods['srkd'].projection.map
    assert adapter.weight.grad.abs().max() > 0


def test_no_answer_of_the_teacher_reaches_the_loss(street: Path, tmp_path: Path) -> None:
    bundle = save_teacher(tmp_path / 'teacher.safetensors', table=NUSCENES)
    config = make_config(
        tmp_path, settings_on(street, teacher={'bundle': str(bundle)}, method=METHODS)
    )
    losses = []
    for scale in (1.0, 7.0):
        teachers = find_teachers(config)
        with torch.no_grad():
            for part in teachers['teacher'].network.get_submodule('head').parameters():
                part.mul_(scale)
        parts = prepare(config, tmp_path / f'run{scale}', teachers=teachers)
        batch = next(iter(parts.loader))
        losses.append(parts.distillation.train()(batch, np.random.default_rng(0)).loss)
    assert losses[0] == losses[1]


def test_its_relations_of_answers_become_relations_of_features() -> None:
    settings = SrkdSettings.model_validate('paper')
    assert outputs_of('srkd', settings) == ['srkd.output']
    left = without_outputs('srkd', settings)
    assert (left.output, left.cross, left.feature) == (0, 0.1, 0.1)


def test_a_method_with_nothing_left_to_teach_is_refused(street: Path, tmp_path: Path) -> None:
    bundle = save_teacher(tmp_path / 'teacher.safetensors', table=NUSCENES)
    nothing = {'point_affinity': 0, 'voxel_affinity': 0}
    with pytest.raises(ConfigError, match=r'methods\.pvkd: its teacher has no answers'):
        taught(street, tmp_path, bundle, method=['pvkd'], methods__pvkd=nothing)


def test_such_a_teacher_gives_no_pseudo_labels(street: Path, tmp_path: Path) -> None:
    bundle = save_teacher(tmp_path / 'teacher.safetensors', table=NUSCENES)
    teacher = {'bundle': str(bundle), 'pseudo_labels': 0.5}
    with pytest.raises(ConfigError, match=r'teacher\.pseudo_labels: teacher .* has no answers'):
        taught(street, tmp_path, bundle, teacher=teacher)


def test_a_network_without_a_head_labels_nothing(tmp_path: Path) -> None:
    bundle = save_teacher(tmp_path / 'encoder.safetensors', table=NO_CLASSES)
    with pytest.raises(BundleError, match='has no head and labels nothing; it is a teacher'):
        Segmenter(bundle)


def command(
    folder: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> dict[str, Any]:
    """distill.py on these settings; the report."""
    path = write_config(folder / 'small.yaml', settings)
    monkeypatch.setattr('sys.argv', ['distill.py', '--cfg', str(path)])
    assert main('', distill, path) == 0
    report: dict[str, Any] = json.loads(Path('runs/small/report.json').read_text())
    return report


def without_labels(street: Path) -> Path:
    """The same scans as a robot records them."""
    for labels in (street / 'sequences' / '00' / 'labels').glob('*.label'):
        np.zeros_like(np.fromfile(labels, '<u4')).tofile(labels)
    return street


def test_a_headless_encoder_teaches_on_scans_that_nobody_labelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = save_teacher(
        tmp_path / 'encoder.safetensors', name='litept', settings=LITEPT, table=NO_CLASSES
    )
    settings = settings_on(
        without_labels(make_street(tmp_path / 'street')),
        teacher={'bundle': str(bundle)},
        method=['srkd', 'm2skd'],
        methods={'srkd': {'feature': 'auto'}},
        optim__steps=4,
    )
    command(tmp_path, monkeypatch, settings)
    said = ' '.join(capsys.readouterr().out.split())
    assert 'teaches by features and relations alone, for it has no head' in said
    assert 'left out: srkd.output, m2skd.logit' in said
    rows = [json.loads(line) for line in Path('runs/small/metrics.jsonl').read_text().splitlines()]
    steps = [row for row in rows if 'srkd.feature' in row]
    # there is no supervision to measure a share of: the shares are the weights
    assert all(row['loss'] > 0.09 * row['srkd.feature'] > 0 for row in steps)
    assert steps


@pytest.mark.parametrize('direction', ['litept teaches', 'litept learns'])
def test_litept_is_teacher_and_student_of_the_other_families(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    direction: str,
) -> None:
    teaches = direction == 'litept teaches'
    name, settings = ('litept', LITEPT) if teaches else ('ptv3', PTV3)
    bundle = save_teacher(tmp_path / 'teacher.safetensors', name=name, settings=settings)
    changes = settings_on(
        make_street(tmp_path / 'street'),
        teacher={'bundle': str(bundle)},
        method=['srkd'],
        optim__steps=2,
    )
    if not teaches:
        changes['model'] |= {'name': 'litept', 'settings': LITEPT}
    report = command(tmp_path, monkeypatch, changes)
    assert f'teacher ({name})' in capsys.readouterr().out
    assert report['title'] == 'small'
    answers = Segmenter('runs/small/best.safetensors', device='cpu')
    assert answers.spec.model.name == ('minkunet' if teaches else 'litept')
