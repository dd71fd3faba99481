# SPDX-License-Identifier: Apache-2.0
"""What a teacher does to a student's loss, and what the loss must not do to the teacher."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
import shutil
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file
from small_run import (
    check_same,
    find_teachers,
    fit,
    make_config,
    make_street,
    prepare,
    save_teacher,
    settings_on,
)
import torch

from lidar_kd.bundle import BundleSpec, IntensitySpec, load_bundle, ModelSpec, read_spec
from lidar_kd.cli.console import Console
from lidar_kd.errors import ConfigError, DataError
from lidar_kd.labels import IGNORE, NUSCENES
from lidar_kd.voxels import CartesianGrid, CylinderGrid
from training.data.batch import Batch
from training.data.settings import Data, Streets
from training.run import sources
from training.run.config import Config
from training.run.loop import Parts, Run
from training.run.loss import Terms
from training.run.teachers import check_intensity, FrozenTeacher

METHODS = ('srkd', 'pvkd', 'm2skd')
PTV3 = {
    'encoder_depths': [1, 1, 1],
    'encoder_channels': [16, 32, 32],
    'encoder_heads': [1, 2, 2],
    'decoder_depths': [1, 1],
    'decoder_channels': [16, 32],
    'decoder_heads': [1, 2],
}
CYLINDER = CylinderGrid(shape=(48, 36, 16), radius_m=(0, 25))
TEACHERS: dict[str, dict[str, Any]] = {
    'SPVCNN on other voxels': {'name': 'spvcnn', 'settings': {'width': 0.25}},
    'Cylinder3D': {'name': 'cylinder3d_quarter', 'settings': {}, 'grid': CYLINDER},
    'PTv3': {'name': 'ptv3', 'settings': PTV3, 'grid': CartesianGrid(voxel_m=0.5)},
    'the same network': {'name': 'minkunet', 'grid': CartesianGrid(voxel_m=0.5)},
}

pytestmark = pytest.mark.usefixtures('in_own_folder')


def distillation(street: Path, folder: Path, *methods: str, **changes: Any) -> Config:
    bundle = folder / 'teacher.safetensors'
    if not bundle.exists():
        save_teacher(bundle)
    changes = {'teacher': {'bundle': str(bundle)}, 'method': list(methods), **changes}
    return make_config(folder, settings_on(street, **changes))


def teach(parts: Parts, batch: Batch | None = None) -> Terms:
    batch = next(iter(parts.loader)) if batch is None else batch
    terms: Terms = parts.distillation.train()(batch, np.random.default_rng(0))
    return terms


def weights_of(teacher: FrozenTeacher) -> dict[str, torch.Tensor]:
    return copy.deepcopy(teacher.network.state_dict())


def test_a_distillation_leaves_the_teacher_as_it_was(street: Path, tmp_path: Path) -> None:
    config = distillation(street, tmp_path, *METHODS, optim__steps=3)
    teacher = find_teachers(config)['teacher']
    before = weights_of(teacher)
    run = Run(
        prepare(config, tmp_path / 'run', teachers={'teacher': teacher}), Console(quiet=True)
    )
    student = copy.deepcopy(run.distillation.student.state_dict())
    run.fit()
    check_same(before, weights_of(teacher))
    assert not teacher.network.training
    assert not torch.equal(
        student['head.weight'], run.distillation.student.state_dict()['head.weight']
    )


def test_the_bundle_of_a_distilled_student_holds_what_it_would_hold_alone(
    street: Path, tmp_path: Path
) -> None:
    run = fit(distillation(street, tmp_path, *METHODS, optim__steps=3), tmp_path / 'distilled')
    adapters = sum(p.numel() for p in run.distillation.methods.parameters())
    assert adapters > 0
    fit(make_config(tmp_path, settings_on(street, optim__steps=3)), tmp_path / 'alone')
    distilled, alone = (tmp_path / name / 'best.safetensors' for name in ('distilled', 'alone'))
    shapes = [{k: v.shape for k, v in load_file(path).items()} for path in (distilled, alone)]
    assert shapes[0] == shapes[1]
    assert read_spec(distilled).provenance['method'] == 'srkd + pvkd + m2skd'
    assert 'method' not in read_spec(alone).provenance
    # the adapters were trained with the student
    fresh = prepare(distillation(street, tmp_path, *METHODS, optim__steps=3), tmp_path / 'fresh')
    trained, new = (
        distillation.methods.state_dict()['m2skd.late.map.weight']
        for distillation in (run.distillation, fresh.distillation)
    )
    assert not torch.equal(trained, new)


def test_methods_add_up(street: Path, tmp_path: Path) -> None:
    parts = prepare(distillation(street, tmp_path, *METHODS), tmp_path / 'run')
    terms = teach(parts)
    owners = {name.partition('.')[0] for name in terms.weighted}
    assert owners == {'voxel_ce', 'voxel_lovasz', *METHODS}
    total = sum(float(value) for value in terms.weighted.values())
    assert float(terms.loss.detach()) == pytest.approx(total, rel=1e-6)
    alone = teach(prepare(distillation(street, tmp_path, 'pvkd'), tmp_path / 'alone'))
    assert {name.partition('.')[0] for name in alone.raw} == {'voxel_ce', 'voxel_lovasz', 'pvkd'}


@pytest.mark.parametrize('which', TEACHERS)
def test_a_teacher_of_any_family_and_grid_teaches_the_student_alone(
    which: str, street: Path, tmp_path: Path
) -> None:
    save_teacher(tmp_path / 'teacher.safetensors', **TEACHERS[which])
    config = distillation(street, tmp_path, *METHODS, loss={'voxel_ce': 0.1, 'voxel_lovasz': 0})
    teacher = find_teachers(config)['teacher']
    parts = prepare(config, tmp_path / 'run', teachers={'teacher': teacher})
    terms = teach(parts)
    terms.loss.backward()
    assert all(torch.isfinite(value) for value in terms.raw.values()), terms.raw
    assert {name for name, value in terms.raw.items() if float(value) > 0} >= {
        *('srkd.output', 'srkd.cross', 'pvkd.point_output', 'pvkd.voxel_output'),
        *('m2skd.late_feature', 'm2skd.early_feature', 'm2skd.logit'),
    }
    for parameter in parts.distillation.student.parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()
    assert all(p.grad is None and not p.requires_grad for p in teacher.network.parameters())


def without_labels(batch: Batch) -> Batch:
    return dataclasses.replace(batch, labels=torch.full_like(batch.labels, IGNORE))


def test_a_method_with_a_teacher_of_its_own_listens_to_nobody_else(
    street: Path, tmp_path: Path
) -> None:
    """Two methods, two teachers: each term is the one that its teacher alone would give."""
    own = {'srkd': {'bundle': str(save_teacher(tmp_path / 'own.safetensors', **TEACHERS['PTv3']))}}
    both = distillation(street, tmp_path, 'srkd', 'pvkd', teachers=own)
    assert list(both.asked_teachers) == ['teacher', 'srkd']
    together = teach(prepare(both, tmp_path / 'both')).raw
    for method, config in (
        ('pvkd', distillation(street, tmp_path, 'pvkd')),
        ('srkd', distillation(street, tmp_path, 'srkd', teacher=own['srkd'])),
    ):
        alone = teach(prepare(config, tmp_path / method)).raw
        sure = [f'{method}.{term}' for term in ('output', 'point_output', 'voxel_output')]
        for term in alone.keys() & set(sure):  # the others draw points in turn
            torch.testing.assert_close(alone[term], together[term])


def test_only_the_teacher_of_m2skd_sees_the_past_of_a_scan(street: Path, tmp_path: Path) -> None:
    own = {'m2skd': {'bundle': str(save_teacher(tmp_path / 'own.safetensors'))}}
    config = distillation(street, tmp_path, 'srkd', 'm2skd', teachers=own)
    batch = next(iter(prepare(config, tmp_path / 'run').loader))
    seen = {
        teacher_input.fused: len(view.voxels.points) for teacher_input, view in batch.views.items()
    }
    assert seen[True] > seen[False] == len(batch.points)  # same grid for both teachers


def test_answers_that_are_labels_come_from_the_teachers_that_methods_ask(
    street: Path, tmp_path: Path
) -> None:
    own = {'pvkd': {'bundle': str(save_teacher(tmp_path / 'own.safetensors'))}}
    main = {'bundle': str(save_teacher(tmp_path / 'teacher.safetensors')), 'pseudo_labels': 0.5}
    for methods, asked in (
        (['pvkd'], ['pvkd']),
        (['srkd'], ['teacher']),
        (['pvkd', 'srkd'], ['teacher', 'pvkd']),
        ([], ['teacher']),
    ):
        config = distillation(street, tmp_path, *methods, teacher=main, teachers=own)
        assert list(config.asked_teachers) == asked


def test_a_method_whose_teacher_is_its_own_needs_no_other(street: Path, tmp_path: Path) -> None:
    bundle = str(save_teacher(tmp_path / 'own.safetensors'))
    settings = settings_on(street, teachers={'pvkd': {'bundle': bundle}}, method=['pvkd'])
    terms = teach(prepare(make_config(tmp_path, settings), tmp_path / 'run'))
    assert float(terms.raw['pvkd.point_output']) > 0
    settings['method'] = ['pvkd', 'srkd']
    with pytest.raises(ConfigError, match='teacher: missing, but srkd needs one'):
        make_config(tmp_path, settings)


def test_scans_without_labels_teach_through_the_teacher_alone(
    street: Path, tmp_path: Path
) -> None:
    parts = prepare(distillation(street, tmp_path, 'srkd', 'pvkd'), tmp_path / 'run')
    terms = teach(parts)
    assert float(terms.raw['voxel_ce']) > 0  # and the automatic weights were measured
    terms = teach(parts, without_labels(next(iter(parts.loader))))
    assert float(terms.raw['voxel_ce']) == float(terms.raw['voxel_lovasz']) == 0
    for name in ('srkd.output', 'srkd.cross', 'pvkd.point_output'):
        assert float(terms.weighted[name]) > 0
    terms.loss.backward()
    head = dict(parts.distillation.student.named_parameters())['head.weight'].grad
    assert head is not None
    assert torch.isfinite(head).all()
    assert head.abs().max() > 0


def test_more_scans_without_labels_take_part_in_a_distillation(
    street: Path, tmp_path: Path
) -> None:
    place = make_street(tmp_path / 'recorded') / 'sequences' / '08' / 'velodyne'
    more = [{'kind': 'folder', 'root': str(place)}]
    config = distillation(street, tmp_path, *METHODS, data__unlabelled=more, optim__steps=3)
    parts = prepare(config, tmp_path / 'run')
    assert len(parts.loader) == 3  # (4 + 2) / 2
    batches = list(parts.loader)
    names = sorted(name for batch in batches for name in batch.names)
    assert names == [*(f'00/{number:06}' for number in range(4)), '000000', '000001']
    bare = [batch.labels[batch.owner == i] for batch in batches
            for i, name in enumerate(batch.names) if '/' not in name]  # fmt: skip
    assert all(bool((labels == IGNORE).all()) for labels in bare)
    Run(parts, Console(quiet=True)).fit()


def test_scans_to_score_are_not_learnt_from_without_labels_either(
    street: Path, tmp_path: Path
) -> None:
    (tmp_path / 'also').symlink_to(street)
    for root in (None, str(tmp_path / 'also')):  # the same data set, by either name
        more = [{'root': root, 'sequences': ['08']}]
        config = distillation(street, tmp_path, 'srkd', data__unlabelled=more)
        with pytest.raises(DataError, match='2 scans are in both splits'):
            prepare(config, tmp_path / 'run')


def brighten(velodyne: Path, factor: float) -> None:
    for scan in velodyne.glob('*.bin'):
        (np.fromfile(scan, '<f4').reshape(-1, 4) * [1, 1, 1, factor]).astype('<f4').tofile(scan)


@pytest.mark.parametrize(('given', 'expected'), [(None, 1), (2 / 4095, 2)])
def test_scans_without_labels_have_the_intensity_of_the_labelled_ones(
    given: float | None, expected: float, tmp_path: Path
) -> None:
    street, other = make_street(tmp_path / 'street'), make_street(tmp_path / 'other')
    shutil.copytree(street / 'sequences' / '00', street / 'sequences' / '07')
    brighten(street / 'sequences' / '07' / 'velodyne', 9)
    brighten(other / 'sequences' / '08' / 'velodyne', 4095)
    recorded = {'kind': 'folder', 'root': str(other / 'sequences' / '08' / 'velodyne')}
    more = [recorded | {'intensity_scale': given}, {'sequences': ['07']}]
    data = distillation(street, tmp_path, 'srkd', data__unlabelled=more).data
    others, same = sources.open_sources(data, Console(quiet=True)).unlabelled
    assert others[1].points[:, 3].max() == pytest.approx(expected, rel=0.02)
    assert same[1].points[:, 3].max() == pytest.approx(9, rel=0.02)  # of the same set: as it is


def test_an_intensity_that_no_robot_would_show_is_told(
    street: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Data(kind='semantickitti', root=street, train=('00',), validation=('08',))
    sources.open_sources(data, Console())
    assert 'intensity' not in capsys.readouterr().err
    sources.open_sources(data.model_copy(update={'intensity_scale': 1 / 255}), Console())
    said = capsys.readouterr().err
    assert 'goes up to 1, and data.intensity_scale is 0.00392157' in said
    assert 'set data.intensity_scale to 1' in said


def test_labels_of_streets_that_only_a_teacher_explains_are_left_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    street = make_street(tmp_path / 'streets')
    shutil.move(street / 'sequences' / '08', street / 'sequences' / '01')
    shutil.copytree(street / 'sequences' / '01', street / 'sequences' / '02')
    monkeypatch.setattr(sources, 'simulate', lambda *_: street)
    streets = Streets(train=1, validation=1, unlabelled=1, scans=2)
    opened = sources.open_sources(Data(streets=streets), Console(quiet=True))
    assert [frame.sequence for frame in opened.validation.frames] == ['01', '01']
    (more,) = opened.unlabelled
    assert [frame.sequence for frame in more.frames] == ['02', '02']
    assert (more[0].labels == IGNORE).all()
    assert more[0].instances is None
    assert (opened.validation[0].labels != IGNORE).any()


def test_without_a_teacher_there_are_no_unlabelled_scans(street: Path, tmp_path: Path) -> None:
    place = make_street(tmp_path / 'recorded') / 'sequences' / '08' / 'velodyne'
    more = [{'kind': 'folder', 'root': str(place)}]
    config = make_config(tmp_path, settings_on(street, data__unlabelled=more))
    assert len(prepare(config, tmp_path / 'run').loader) == 2


def test_a_teacher_of_another_intensity_scale_is_refused(street: Path, tmp_path: Path) -> None:
    save_teacher(tmp_path / 'teacher.safetensors', scale=0.5)
    with pytest.raises(ConfigError, match=r'with intensity times 0.5, data.intensity_scale is 1;'):
        find_teachers(distillation(street, tmp_path, 'srkd'))


def test_intensity_scales_may_differ_in_their_digits_only() -> None:
    spec = BundleSpec(
        model=ModelSpec(name='spvcnn'),
        grid=CartesianGrid(voxel_m=0.1),
        labels=NUSCENES,
        intensity=IntensitySpec(scale=1 / 255),
    )
    check_intensity(spec, 0.00392157, 'imported.safetensors')  # as config/nuscenes/ writes it
    with pytest.raises(ConfigError, match=r'imported\.safetensors.*--intensity-scale of'):
        check_intensity(spec, 0.004, 'imported.safetensors')


def test_a_teacher_that_answers_nan_is_named_before_it_teaches(
    street: Path, tmp_path: Path
) -> None:
    config = distillation(street, tmp_path, 'srkd')
    teacher = find_teachers(config)['teacher']
    parts = prepare(config, tmp_path / 'run', teachers={'teacher': teacher})
    teacher.network.get_parameter('head.bias').data.fill_(float('nan'))
    with pytest.raises(ValueError, match='the teacher answers with numbers that are not finite'):
        teach(parts)


def test_the_loaded_bundle_answers_like_the_student(street: Path, tmp_path: Path) -> None:
    config = distillation(street, tmp_path, 'srkd', optim__steps=3, optim__ema=0.5)
    run = fit(config, tmp_path / 'run')
    bundle = load_bundle(tmp_path / 'run' / 'best.safetensors')
    average = run._average
    assert average is not None
    kept = dict(bundle.model.named_parameters())
    assert all(torch.equal(p, kept[k]) for k, p in average.model.named_parameters())
    student = dict(run.distillation.student.named_parameters())
    assert not torch.equal(student['head.weight'], kept['head.weight'])


def test_a_student_can_teach_itself_from_the_fused_scan(street: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path, settings_on(street, teacher={'shared': True}, method=['m2skd']))
    parts = prepare(config, tmp_path / 'run')
    terms = teach(parts)
    assert {'fused_voxel_ce', 'fused_voxel_lovasz', 'm2skd.logit'} <= terms.raw.keys()
    assert float(terms.raw['m2skd.logit']) > 0  # the fused scan is seen otherwise
    assert float(terms.raw['fused_voxel_ce']) != float(terms.raw['voxel_ce'])


def test_only_the_method_that_fuses_scans_can_do_without_another_teacher(
    street: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r'teacher.shared: only M2SKD'):
        make_config(tmp_path, settings_on(street, teacher={'shared': True}, method=['srkd']))


def test_the_joint_variant_may_learn_from_the_past_where_it_says_something_else_only(
    street: Path, tmp_path: Path
) -> None:
    settings = settings_on(
        street, teacher={'shared': True}, method=['m2skd'], methods={'m2skd': 'paper'}
    )
    found = []
    for weight in (0.2, 0.4):
        settings['loss'] = {'fused_ce': weight}
        parts = prepare(make_config(tmp_path, settings), tmp_path / f'run{weight}')
        batches = [batch for batch in parts.loader if batch.views]
        terms = teach(parts, batches[0])
        assert {name for name in terms.raw if name.startswith('fused')} == {'fused_ce'}
        terms.loss.backward()
        assert parts.distillation.student.head.weight.grad is not None
        found.append(float(terms.raw['fused_ce']))
    assert found[1] == pytest.approx(2 * found[0])
    assert found[0] > 0
