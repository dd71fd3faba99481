# SPDX-License-Identifier: Apache-2.0
"""A teacher that remembers answers as it would answer anew, whatever batch a scan is in."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_run import make_config, make_street, prepare, save_teacher, settings_on
import torch

from lidar_kd.bundle import load_bundle
from lidar_kd.errors import ConfigError
from lidar_kd.models.output import Output
from lidar_kd.voxels import CartesianGrid
from training.data.batch import Batch, make_batch
from training.data.semantickitti import open_semantickitti
from training.run.teacher_cache import CachedTeacher
from training.run.teachers import FrozenTeacher

GRID = CartesianGrid(voxel_m=0.5)
STILL = {'rotation_deg': 0, 'flip': False, 'scale': 0}


@pytest.fixture(scope='module')
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_street(tmp_path_factory.mktemp('street'))


@pytest.fixture(params=['minkunet', 'spvcnn'])
def teacher(request: pytest.FixtureRequest, tmp_path: Path) -> FrozenTeacher:
    path = save_teacher(tmp_path / 'teacher.safetensors', name=request.param, grid=GRID)
    return FrozenTeacher(load_bundle(path), torch.device('cpu'))


def batch_of(street: Path, *frames: int) -> Batch:
    scans = open_semantickitti(street, ['00'])
    return make_batch([scans[frame] for frame in frames], GRID)


def everything(output: Output) -> list[torch.Tensor]:
    cell = output.early_cell
    assert cell is not None
    assert output.early_features is not None
    early = output.early_features[cell]
    return [output.voxel_logits, output.point_logits, output.point_features, early]


def test_what_is_remembered_equals_what_is_answered_anew(
    street: Path, teacher: FrozenTeacher, tmp_path: Path
) -> None:
    batch = batch_of(street, 0, 2)
    cached = CachedTeacher(teacher, tmp_path / 'cache')
    fresh = everything(teacher(batch.voxels))
    for answers in (cached(batch.voxels, batch.names), cached(batch.voxels, batch.names)):
        for expected, found in zip(fresh, everything(answers)):
            # float16 has 11 bits
            torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-2)


def test_a_scan_is_remembered_for_every_batch_that_it_comes_in(
    street: Path, teacher: FrozenTeacher, tmp_path: Path
) -> None:
    cached = CachedTeacher(teacher, tmp_path / 'cache')
    for frames in ((0, 1), (1, 2)):
        batch = batch_of(street, *frames)
        cached(batch.voxels, batch.names)
    teacher.network = torch.nn.Identity()  # it is not asked again
    batch = batch_of(street, 2, 0, 1)
    again = cached(batch.voxels, batch.names)
    assert len(again.voxel_logits) == len(batch.voxels.level)
    assert len(list((tmp_path / 'cache').glob('*.safetensors'))) == 3


def test_a_cache_wants_scans_that_stay_as_they_are(
    street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = str(save_teacher(tmp_path / 'teacher.safetensors'))
    wish = {'teacher': {'bundle': bundle, 'cache': True}, 'method': ['srkd']}
    moved = make_config(tmp_path, settings_on(street, **wish))
    with pytest.raises(ConfigError, match='teacher.cache: its answers can be kept only'):
        prepare(moved, tmp_path / 'moved')
    still = make_config(tmp_path, settings_on(street, **wish, data__augment=STILL))
    prepare(still, tmp_path / 'still')
