# SPDX-License-Identifier: Apache-2.0
"""A run may begin with the weights of a bundle instead of random ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from small_run import fit, make_config, prepare, ROOT, save_teacher, Settings, settings_on
import torch

from lidar_kd.bundle import load_bundle
from lidar_kd.cli.console import Console
from lidar_kd.errors import BundleError, ConfigError
from lidar_kd.labels import ClassTable, NUSCENES, SEMANTICKITTI
from training.run.config import load_config
from training.run.folder import RunFolder
from training.run.loop import Run
from training.run.perform import train
from training.run.ranks import Ranks

EIGHTH = {'name': 'minkunet', 'settings': {'width': 0.125}}

pytestmark = pytest.mark.usefixtures('in_own_folder')


def beginning_with(bundle: Path, street: Path) -> Settings:
    return settings_on(street, model__warm_start=str(bundle))


def test_the_network_begins_with_every_weight_of_the_bundle(street: Path, tmp_path: Path) -> None:
    bundle = save_teacher(tmp_path / 'start.safetensors', **EIGHTH)
    parts = prepare(make_config(tmp_path, beginning_with(bundle, street)), tmp_path / 'run')
    begun = parts.distillation.student.state_dict()
    for name, tensor in load_bundle(bundle).model.state_dict().items():
        assert torch.equal(begun[name], tensor), name
    assert parts.spec.provenance['warm_start'] == 'start'


# the first has as many classes, so only the table tells that its head means something else
@pytest.mark.parametrize(
    ('table', 'anew'),
    [
        (replace(SEMANTICKITTI, name='own', names=SEMANTICKITTI.names[::-1]), {'head.weight'}),
        (NUSCENES, {'head.weight', 'head.bias'}),
    ],
    ids=['own', 'nuscenes'],
)
def test_classes_of_another_table_start_anew_and_all_else_is_kept(
    street: Path, tmp_path: Path, table: ClassTable, anew: set[str]
) -> None:
    bundle = save_teacher(tmp_path / 'start.safetensors', **EIGHTH, table=table)
    parts = prepare(make_config(tmp_path, beginning_with(bundle, street)), tmp_path / 'run')
    begun = parts.distillation.student.state_dict()
    stored = load_bundle(bundle).model.state_dict()
    # a bias begins with 0 whoever makes it
    assert anew == {k for k, tensor in stored.items() if not torch.equal(begun[k], tensor)}


def test_a_run_that_goes_on_does_so_from_its_checkpoint(street: Path, tmp_path: Path) -> None:
    bundle = save_teacher(tmp_path / 'start.safetensors', **EIGHTH)
    config = make_config(tmp_path, beginning_with(bundle, street))
    whole = fit(config, tmp_path / 'whole')
    again = Run(prepare(config, tmp_path / 'whole'), whole.console)
    again.fit()  # it is at its end: nothing is learnt
    assert again.step == whole.step == 6
    for name, tensor in whole.distillation.student.state_dict().items():
        assert torch.equal(again.distillation.student.state_dict()[name], tensor), name


def test_a_start_that_does_not_fit_is_one_sentence(street: Path, tmp_path: Path) -> None:
    def refuse(error: type[Exception], sentence: str, bundle: Path) -> None:
        with pytest.raises(error, match=sentence):
            prepare(make_config(tmp_path, beginning_with(bundle, street)), tmp_path / 'run')
        RunFolder(tmp_path / 'run').clear()

    wider = save_teacher(tmp_path / 'w.safetensors', name='minkunet', settings={'width': 0.25})
    refuse(ConfigError, r'minkunet width 0\.25, has other layers .* set model\.name and', wider)
    other = save_teacher(tmp_path / 'o.safetensors')
    refuse(ConfigError, r'spvcnn width 0\.25, has other layers', other)
    scaled = save_teacher(tmp_path / 's.safetensors', **EIGHTH, scale=2.0)
    refuse(ConfigError, r'intensity times 2, data\.intensity_scale is 1; set it', scaled)
    refuse(BundleError, r'none\.safetensors: no such bundle', tmp_path / 'none.safetensors')


def test_the_same_layers_that_compute_otherwise_are_refused(street: Path, tmp_path: Path) -> None:
    bundle = save_teacher(
        tmp_path / 'w.safetensors', settings={'width': 0.25, 'whole_positions': True}
    )
    ours = {
        'name': 'spvcnn',
        'grid': {'kind': 'cartesian', 'voxel_m': 0.5},
        'warm_start': str(bundle),
    }
    for settings, sentence in (
        ({'width': 0.25, 'dropout': 0.1}, r'computes otherwise \(whole_positions True -> False\)'),
        ({'width': 0.25, 'dropout': 0.1, 'whole_positions': True}, None),
    ):
        config = make_config(tmp_path, settings_on(street, model={**ours, 'settings': settings}))
        if sentence is None:
            prepare(config, tmp_path / 'run')
            continue
        with pytest.raises(ConfigError, match=sentence):
            prepare(config, tmp_path / 'refused')


def test_a_bundle_that_is_not_there_is_told_before_anything_is_simulated(tmp_path: Path) -> None:
    config = load_config(
        ROOT / 'config' / 'baseline.yaml', ['model.warm_start=nowhere.safetensors']
    )
    with pytest.raises(BundleError, match='nowhere'):
        train(config, RunFolder(tmp_path / 'run'), Console(quiet=True), Ranks())
    assert not Path('runs').exists()
