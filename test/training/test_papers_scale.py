# SPDX-License-Identifier: Apache-2.0
"""Every configuration at the papers' scale, its teacher included, for three steps on a tiny tree.

Only the networks, the cells and the batches are made small; data, loss, methods, augmentation and
the kind of teacher are the file's own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from shrunk import shrink, start
from small_nuscenes import make_nuscenes
from small_run import make_street

from lidar_kd.voxels import CylinderGrid
from training.run.config import load_config
from training.run.folder import RunFolder
from training.run.perform import distill, train

ROOT = Path(__file__).resolve().parents[2]
MAKE: dict[str, Callable[[Path], Path]] = {
    'semantickitti': make_street,
    'nuscenes': make_nuscenes,
}
FILES = [path for kind in MAKE for path in sorted((ROOT / 'config' / kind).glob('*.yaml'))]
LABELLED = [p for p in FILES if p.stem not in {'few_scans', 'e2', 'e2_warm'}]  # other sequences
DISTILLED = [path for path in LABELLED if load_config(path).method]


def name_of(path: Path) -> str:
    return f'{path.parent.name}/{path.stem}'


@pytest.fixture(scope='module')
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: make(tmp_path_factory.mktemp(kind)) for kind, make in MAKE.items()}


@pytest.fixture(scope='module')
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('teachers')


def train_teacher(path: Path, root: Path, bundles: Path) -> Path:
    """Once for all that learn from it."""
    folder = RunFolder(bundles / path.parent.name / path.stem)
    if not folder.bundle.is_file():
        assert start(train, path, folder.path, shrink(load_config(path), root)) == 0
    return folder.bundle


@pytest.mark.parametrize('path', DISTILLED, ids=name_of)
def test_a_configuration_and_its_teacher_run(
    path: Path, trees: dict[str, Path], bundles: Path, in_own_folder: None
) -> None:
    config, root = load_config(path), trees[path.parent.name]
    changes = shrink(config, root)
    assert config.teacher is not None
    if config.teacher.config is not None:
        bundle = train_teacher(config.teacher.config, root, bundles)
        changes += ['teacher.config=null', f'teacher.bundle={bundle}']
    out = Path('run')
    assert start(distill, path, out, changes) == 0
    rows = [row for row in RunFolder(out).history() if 'loss' in row]
    assert [row['step'] for row in rows] == [1, 2, 3]
    (method,) = config.method
    assert any(name.startswith(f'{method}.') for row in rows for name in row)


@pytest.mark.parametrize('kind', MAKE)
def test_a_student_alone_runs(
    kind: str, trees: dict[str, Path], tmp_path: Path, in_own_folder: None
) -> None:
    path = ROOT / 'config' / kind / 'baseline.yaml'
    assert start(train, path, tmp_path / 'run', shrink(load_config(path), trees[kind])) == 0


def test_every_teacher_is_there_and_belongs_to_its_student() -> None:
    """The same data, and a network of the family that a published pair has."""
    families = {
        'srkd': ('ptv3_103m', 'ptv3_half'),
        'pvkd': ('cylinder3d', 'cylinder3d_half'),
        'pvkd_spvcnn': ('spvcnn', 'spvcnn_half'),
        'pvkd_minkunet': ('minkunet', 'minkunet_half'),
        'm2skd_cylinder': ('cylinder3d', 'cylinder3d'),
        'm2skd_minkunet': ('minkunet', 'minkunet'),
    }
    for path in DISTILLED:
        config = load_config(path)
        assert config.teacher is not None
        if path.stem == 'm2skd':
            assert config.is_its_own_teacher
            assert (config.model.name, config.loss.fused_ce) == ('cylinder3d', 0.2)
            assert config.data.moving == 'centroid'
            continue
        assert config.teacher.config is not None
        theirs = load_config(config.teacher.config)
        assert (theirs.model.name, config.model.name) == families[path.stem]
        assert theirs.data.root == config.data.root
        assert theirs.data.intensity_scale == config.data.intensity_scale
        assert theirs.data.fusion == ('m2skd' in config.method)


@pytest.mark.parametrize('path', DISTILLED, ids=name_of)
def test_boxes_are_as_high_as_the_published_grid(path: Path) -> None:
    config = load_config(path)
    height_m = {'semantickitti': (-4, 2), 'nuscenes': (-5, 3)}[path.parent.name]
    if isinstance(config.model.grid, CylinderGrid):
        assert config.model.grid.height_m == height_m
        assert config.methods.pvkd.boxes.height_m is None  # they follow the grid
    elif config.method == ('pvkd',):
        assert config.methods.pvkd.boxes.span_m == height_m
