# SPDX-License-Identifier: Apache-2.0
"""A whole distillation, from its banner to its report, on a CPU and on a card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_run import make_street, save_teacher, settings_on, write_config
import torch

from training.reports.known_gain import quote_gain
from training.run.perform import distill, main

on_a_card = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason='needs an NVIDIA card'),
]
PTV3 = {
    'encoder_depths': [1, 1, 1, 1, 1],
    'encoder_channels': [16, 16, 16, 16, 16],
    'encoder_heads': [2, 2, 2, 2, 2],
    'decoder_depths': [1, 1, 1, 1],
    'decoder_channels': [16, 16, 16, 16],
    'decoder_heads': [2, 2, 2, 2],
    'patch': 64,
}


@pytest.mark.parametrize('cache', [False, True])
@pytest.mark.parametrize('device', ['cpu', pytest.param('cuda', marks=on_a_card)])
@pytest.mark.parametrize(('network', 'settings'), [('spvcnn', {'width': 0.25}), ('ptv3', PTV3)])
def test_every_method_runs_from_the_banner_to_the_report(
    network: str,
    settings: dict[str, object],
    device: str,
    cache: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = save_teacher(tmp_path / 'teacher.safetensors', name=network, settings=settings)
    changes = settings_on(
        make_street(tmp_path / 'street'),
        device=device,
        method=['srkd', 'pvkd', 'm2skd'],
        teacher={'bundle': str(bundle), 'cache': cache},
        known_gain='SRKD',
        optim__steps=2,
    )
    path = write_config(tmp_path / 'small.yaml', changes)
    monkeypatch.setattr('sys.argv', ['distill.py', '--cfg', str(path)])
    assert main('', distill, path) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert 'srkd + pvkd + m2skd' in said
    assert f'teacher ({network})' in said
    report = json.loads(Path('runs/small/report.json').read_text())
    assert report['title'] == 'small'
    assert report['facts']['measured before'] == quote_gain('SRKD')


def test_a_finished_teacher_is_taken_with_a_warning_where_it_learnt_from_other_streets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    street = make_street(tmp_path / 'street')
    write_config(tmp_path / 'theirs.yaml', settings_on(street, name='theirs', optim__steps=2))
    teacher = {'config': 'theirs.yaml'}
    ours = settings_on(street, method=['srkd'], teacher=teacher, optim__steps=2)
    path = write_config(tmp_path / 'small.yaml', ours)
    for digest, folder in (('old', 'one'), ('new', 'two')):
        monkeypatch.setattr(
            'training.run.perform.find_origins', lambda *_, d=digest: {'streets': d}
        )
        monkeypatch.setattr('sys.argv', ['distill.py', '--cfg', str(path), '--out', folder])
        assert main('', distill, path) == 0
    said = capsys.readouterr()
    assert 'the finished teacher is taken, though' in said.err
    assert '(streets old -> new)' in said.err
    assert said.out.count('report and pictures in runs/theirs') == 1
