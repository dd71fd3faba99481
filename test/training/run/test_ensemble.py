# SPDX-License-Identifier: Apache-2.0
"""Several teachers that answer as one."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from small_run import fit, make_config, save_teacher, settings_on
import torch

from lidar_kd.bundle import load_bundle
from lidar_kd.errors import ConfigError
from lidar_kd.models.output import Output
from lidar_kd.voxels import CartesianGrid
from training.data.batch import make_batch
from training.data.semantickitti import open_semantickitti
from training.run.ensemble import mean_posterior
from training.run.perform import find_origins
from training.run.teachers import FrozenTeacher, load_teacher

GRID, OTHER_GRID = CartesianGrid(voxel_m=0.5), CartesianGrid(voxel_m=0.4)


def load(*paths: Path) -> FrozenTeacher:
    return load_teacher(paths, 'semantickitti', 1.0, torch.device('cpu'))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A network that answers for voxels and one with a head for points."""
    names = ('minkunet', 'spvcnn')
    first, second = (
        save_teacher(tmp_path / f'{name}.safetensors', name=name, grid=GRID) for name in names
    )
    return first, second


def test_the_mean_of_two_posteriors_is_that_worked_out_by_hand() -> None:
    # 3/4, 1/4 and 1/4, 3/4 in the mean 1/2, 1/2; 3/4, 1/4 and 1/2, 1/2: 5/8, 3/8
    one = torch.tensor([[math.log(3), 0.0], [math.log(3), 0.0]])
    two = torch.tensor([[0.0, math.log(3)], [7.0, 7.0]])
    outputs = [Output(logits, logits, torch.arange(2)) for logits in (one, two)]
    mean = mean_posterior(outputs, lambda output: output.voxel_logits).softmax(1)
    torch.testing.assert_close(mean, torch.tensor([[1 / 2, 1 / 2], [5 / 8, 3 / 8]]))


def test_an_ensemble_says_the_mean_and_has_the_features_of_its_first(
    street: Path, pair: tuple[Path, Path]
) -> None:
    voxels = make_batch([open_semantickitti(street, ['00'])[0]], GRID).voxels
    first, second, both = load(pair[0])(voxels), load(pair[1])(voxels), load(*pair)(voxels)
    for logits_of in (lambda said: said.voxel_logits, lambda said: said.point_logits):
        expected = (logits_of(first).softmax(1) + logits_of(second).softmax(1)) / 2
        torch.testing.assert_close(logits_of(both).softmax(1), expected)
    assert torch.equal(both.voxel_features, first.voxel_features)
    assert torch.equal(both.point_features, first.point_features)


def test_answers_of_one_and_of_several_are_kept_apart(pair: tuple[Path, Path]) -> None:
    first, second = pair
    assert load(first).sha256 == load_bundle(first).sha256
    assert len({load(*paths).sha256 for paths in ([first], [second], [first, second])}) == 3
    assert load(first, second).parameters == load(first).parameters + load(second).parameters


def test_teachers_that_look_at_other_voxels_are_refused(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    other = save_teacher(tmp_path / 'other.safetensors', grid=OTHER_GRID)
    with pytest.raises(ConfigError, match=r'other.safetensors: its voxels or classes are not'):
        load(pair[0], other)


def test_a_run_learns_from_an_ensemble_and_remembers_of_whom(
    street: Path, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    first, second = map(str, pair)
    teacher = {'bundle': first, 'ensemble': [second], 'cache': True}
    settings = settings_on(street, teacher=teacher, method=['pvkd'], optim__steps=2)
    config = make_config(tmp_path, settings)
    assert fit(config, tmp_path / 'run').step == 2
    origins = find_origins(config, {'teacher': pair[0]})
    assert origins['teacher.ensemble.0'] == load_bundle(pair[1]).sha256
