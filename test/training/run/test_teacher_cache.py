# SPDX-License-Identifier: Apache-2.0
"""A teacher that remembers answers as it would answer anew, whatever batch a scan is in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError
from small_run import fit, make_config, save_teacher, settings_on
import torch

from lidar_kd.bundle import load_bundle
from lidar_kd.errors import ConfigError, DataError
from lidar_kd.models.output import Output
from lidar_kd.voxels import CartesianGrid
from training.data.augment import Augmentation
from training.data.batch import Batch, make_batch, TeacherInput
from training.data.loader import TrainingScans, Turn
from training.data.scan import Scan
from training.data.semantickitti import open_semantickitti
from training.run import teacher_cache
from training.run.align import align_to_student
from training.run.teacher_cache import CachedTeacher
from training.run.teachers import FrozenTeacher

GRID = CartesianGrid(voxel_m=0.5)


@pytest.fixture(params=['minkunet', 'spvcnn'])
def teacher(request: pytest.FixtureRequest, tmp_path: Path) -> FrozenTeacher:
    path = save_teacher(tmp_path / 'teacher.safetensors', name=request.param, grid=GRID)
    return FrozenTeacher(load_bundle(path), torch.device('cpu'))


def batch_of(street: Path, *frames: int, intensity_scale: float = 1.0) -> Batch:
    scans = [open_semantickitti(street, ['00'])[frame] for frame in frames]
    for scan in scans:
        scan.points[:, 3] *= intensity_scale
    return make_batch(scans, GRID)


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
    for answers in (cached(batch.voxels), cached(batch.voxels)):
        for expected, found in zip(fresh, everything(answers)):
            # float16 has 11 bits
            torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-2)


def test_a_scan_is_remembered_for_every_batch_that_it_comes_in(
    street: Path, teacher: FrozenTeacher, tmp_path: Path
) -> None:
    cached = CachedTeacher(teacher, tmp_path / 'cache')
    for frames in ((0, 1), (1, 2)):
        batch = batch_of(street, *frames)
        cached(batch.voxels)
    teacher.network = torch.nn.Identity()  # it is not asked again
    batch = batch_of(street, 2, 0, 1)
    again = cached(batch.voxels)
    assert len(again.voxel_logits) == len(batch.voxels.level)
    assert len(list((tmp_path / 'cache').glob('*.safetensors'))) == 3


def test_the_teacher_sees_a_scan_unmoved_and_answers_for_the_points_of_the_moved_one(
    street: Path, teacher: FrozenTeacher, tmp_path: Path
) -> None:
    scans = open_semantickitti(street, ['00'])
    moving = TrainingScans(
        scans, Augmentation(jitter_m=0.01), seed=0, keep_unmoved=True, intensity_scale=0.5
    )
    turned = [moving[Turn(0, index)] for index in (0, 1)]
    batch = make_batch(
        turned, GRID, teacher_inputs=[TeacherInput(teacher.spec.grid, augmented=False)]
    )
    (view,) = batch.views.values()
    unmoved = torch.from_numpy(np.concatenate([scans[0].points, scans[1].points]))
    unmoved[:, 3] *= 0.5
    torch.testing.assert_close(view.voxels.points[view.rows], unmoved)
    moved_m = (batch.points[:, :3] - unmoved[:, :3]).norm(dim=1)
    assert moved_m.median() > 1
    cached = CachedTeacher(teacher, tmp_path / 'cache')
    side = align_to_student(cached(view.voxels), view, batch)
    alone = batch_of(street, 0, 1, intensity_scale=0.5)
    expected = teacher(alone.voxels).point_logits
    torch.testing.assert_close(side.point_logits(), expected, rtol=2e-3, atol=2e-2)


@pytest.mark.parametrize('augment', [{'paste': 1}, {'drop': 0.1}, {'polarmix': 0.5}])
def test_a_cache_wants_scans_that_keep_their_points(
    augment: dict[str, float], street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = str(save_teacher(tmp_path / 'teacher.safetensors'))
    wish = {'teacher': {'bundle': bundle, 'cache': True}, 'method': ['srkd']}
    with pytest.raises(ConfigError, match='may move but not come and go; set paste, drop and'):
        make_config(tmp_path, settings_on(street, **wish, data__augment=augment))


def test_a_damaged_answer_is_asked_for_again(
    street: Path, teacher: FrozenTeacher, tmp_path: Path
) -> None:
    cached, batch = CachedTeacher(teacher, tmp_path / 'cache'), batch_of(street, 0)
    expected = cached(batch.voxels).voxel_logits
    (kept,) = (tmp_path / 'cache').iterdir()
    kept.write_bytes(kept.read_bytes()[:1000])
    assert torch.equal(cached(batch.voxels).voxel_logits, expected)
    assert kept.stat().st_size > 1000


def test_answers_that_cannot_be_kept_are_one_sentence(
    street: Path, teacher: FrozenTeacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise SafetensorError('I/O error: No space left on device')

    monkeypatch.setattr(teacher_cache, 'save_file', full)
    cached = CachedTeacher(teacher, tmp_path / 'cache')
    with pytest.raises(DataError, match='cannot be kept .*No space left.*; free some space'):
        cached(batch_of(street, 0).voxels)


def test_a_batch_without_points_is_answered(teacher: FrozenTeacher, tmp_path: Path) -> None:
    nothing = Scan(points=np.zeros((0, 4), np.float32), labels=np.zeros(0, np.uint8))
    cached = CachedTeacher(teacher, tmp_path / 'cache')
    assert cached(make_batch([nothing], GRID).voxels).point_logits.shape == (0, 19)


def test_a_run_asks_the_teacher_once_about_each_scan(
    street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = str(save_teacher(tmp_path / 'teacher.safetensors'))
    wish = {'teacher': {'bundle': bundle, 'cache': True}, 'method': ['srkd']}
    fit(make_config(tmp_path, settings_on(street, **wish)), tmp_path / 'run')
    assert len(list((tmp_path / 'runs' / 'cache').rglob('*.safetensors'))) == 4  # of sequence 00
