# SPDX-License-Identifier: Apache-2.0
"""Every configuration of the evidence in docs/distillation.md, with its teacher, for 3 steps."""

from __future__ import annotations

from pathlib import Path
import re

import pytest
from shrunk import shrink, start
from small_run import make_street

from lidar_kd.voxels import CartesianGrid
from training.comparing.folds import split_folds
from training.comparing.plan import plan_runs
from training.run.config import load_config
from training.run.folder import RunFolder
from training.run.perform import distill, train

CONFIG = Path(__file__).resolve().parents[2] / 'config'
TEACHERS = {
    'streets/e1': 'minkunet_half_e1',
    'streets/e1_sum': 'minkunet_half_e1',
    'streets/e1_m2skd': 'minkunet_half_e1_fused',
    'streets/e3_minkunet': 'minkunet_half_e1',
    'streets/e3_spvcnn': 'spvcnn_half_e3',
    'streets/e3_cylinder': 'cylinder3d_quarter_e3',
    'semantickitti/e2': 'streets_e2',
    'semantickitti/e2_warm': 'streets_e2',
}
SCRIPTS = ('streets/e1.sh', 'semantickitti/e2.sh', 'streets/e3.sh', 'streets/e4.sh')


@pytest.fixture(scope='module')
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_street(tmp_path_factory.mktemp('street'))


@pytest.fixture(scope='module')
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('teachers')


def train_teacher(name: str, street: Path, bundles: Path) -> Path:
    """Once for all that learn from it."""
    folder, path = RunFolder(bundles / name), CONFIG / 'teachers' / f'{name}.yaml'
    if not folder.bundle.is_file():
        changes = shrink(load_config(path), street)
        changes.append('model.warm_start=null')  # of another size
        assert start(train, path, folder.path, changes) == 0
    return folder.bundle


@pytest.mark.parametrize('name', TEACHERS)
def test_a_configuration_of_the_evidence_and_its_teacher_run(
    name: str, street: Path, bundles: Path, in_own_folder: None
) -> None:
    path = CONFIG / f'{name}.yaml'
    config = load_config(path)
    changes = shrink(config, street)
    bundle = train_teacher(TEACHERS[name], street, bundles)
    changes += [f'teacher.bundle={bundle}', 'model.warm_start=null']
    if config.teacher and config.teacher.ensemble:
        changes.append(f'teacher.ensemble=[{bundle}]')  # what ships looks at other voxels
    assert start(distill, path, Path('run'), changes) == 0
    rows = [row for row in RunFolder(Path('run')).history() if 'loss' in row]
    assert [row['step'] for row in rows] == [1, 2, 3]
    for method in config.method:
        assert any(name.startswith(f'{method}.') for row in rows for name in row)


@pytest.mark.parametrize('name', TEACHERS)
def test_a_teacher_has_learnt_from_the_scans_of_its_students(name: str) -> None:
    """From these alone, on the grid of the student or a finer one of its kind."""
    config = load_config(CONFIG / f'{name}.yaml')
    theirs = load_config(CONFIG / 'teachers' / f'{TEACHERS[name]}.yaml')
    if name.startswith('semantickitti'):
        config = split_folds(config, 3)[0]
    assert theirs.data.root == config.data.root
    assert theirs.data.train == config.data.train
    assert theirs.data.fusion == (config.method == ('m2skd',))
    assert theirs.data.moving == config.data.moving
    fine, coarse = theirs.model.grid, config.model.grid
    assert isinstance(fine, type(coarse))
    if isinstance(fine, CartesianGrid) and isinstance(coarse, CartesianGrid):
        assert fine.voxel_m <= coarse.voxel_m
    else:
        assert fine == coarse
    assert not {*map(str, config.data.train)} & {*map(str, config.data.validation)}


def test_what_arms_can_share_they_share() -> None:
    """The student alone of E1, whose name the runs that are there already have."""
    names = [name for name in TEACHERS if name.startswith('streets/e1')]
    folders = set()
    for name in names:
        config = load_config(CONFIG / f'{name}.yaml')
        (alone,) = plan_runs(config, ['alone'], 1, Path('runs/e1/compare'))
        folders.add(str(alone.folder.path))
    assert folders == {'runs/e1/alone-9a823909/alone-0'}


def test_the_folds_of_the_script_are_those_of_the_comparison() -> None:
    script = (CONFIG / 'semantickitti' / 'e2.sh').read_text()
    said = re.findall(r"^prepare (\d) '([\d ]+)' '([\d ]+)'$", script, re.MULTILINE)
    for name in ('e2', 'e2_warm'):
        folds = split_folds(load_config(CONFIG / 'semantickitti' / f'{name}.yaml'), 3)
        assert said == [
            (str(k), ' '.join(map(str, f.data.validation)), ' '.join(map(str, f.data.train)))
            for k, f in enumerate(folds)
        ]


@pytest.mark.parametrize('name', SCRIPTS)
def test_a_script_names_files_that_are_there(name: str) -> None:
    script = (CONFIG / name).read_text()
    named = re.findall(r'\bconfig/[\w/]+\.(?:yaml|sh)', script)
    named += re.findall(r'training/\w+\.py', script)
    assert len(named) >= 3
    assert [path for path in named if not (CONFIG.parent / path).is_file()] == []
