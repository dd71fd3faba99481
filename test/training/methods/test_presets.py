# SPDX-License-Identifier: Apache-2.0
"""The `paper` presets: every weight, where it is read from, and the terms that only they use.

[pub] published, [code] public code, [dig] digest of the paper, [rec] recalled, [ours].
"""

from __future__ import annotations

from dataclasses import replace
import math
from pathlib import Path
import re
from typing import Any

from made_up_batch import (
    Answers,
    build,
    CAR,
    CONTEXT,
    make_inputs,
    PERSON,
    POINTS,
    Settings,
    STUDENT,
    TEACHER,
    terms_of,
    total,
    weights_of,
)
from pydantic import BaseModel, ValidationError
import pytest
import torch
from torch import Tensor

from lidar_kd.errors import ConfigError
from lidar_kd.labels import IGNORE
from lidar_kd.voxels import CartesianGrid, CylinderGrid
from training.methods import build_methods
from training.methods.inputs import Widths
from training.methods.logits import LogitPair
from training.methods.m2skd import M2skdSettings
from training.methods.pvkd import Pvkd, PvkdSettings
from training.methods.srkd import SrkdSettings
from training.methods.terms import feature_mse
from training.run.config import load_config

ROOT = Path(__file__).resolve().parents[3]
SRKD = SrkdSettings.model_validate('paper')
PVKD = PvkdSettings.model_validate('paper')
M2SKD = M2skdSettings.model_validate('paper')


def made_up(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_srkd_has_the_weights_of_its_paper_and_code() -> None:
    assert (SRKD.output, SRKD.output_tau) == (0.3, 2.0)  # [dig]
    assert SRKD.cross == 0.1  # [code] 1e-3 to 0.1
    assert (SRKD.cross_tau, SRKD.points, SRKD.draw, SRKD.project) == (2.0, 1024, 'uniform', True)
    assert SRKD.feature == 0.1  # [code]
    assert (SRKD.point_affinity, SRKD.voxel_affinity) == (1.0, 1.0)  # [ours]
    assert SRKD.boxes.draw == 'class_aware'  # [dig]
    assert (SRKD.channel, SRKD.voxel_channel, SRKD.channel_tau) == (1000.0, 1000.0, 2.0)  # [dig]
    assert SRKD.per_point  # [ours]
    assert SRKD.relate_mixes  # [code]: Mix3D 0.8 in its recipe


def test_pvkd_has_the_weights_as_they_are_recalled() -> None:
    weights = (PVKD.point_output, PVKD.voxel_output, PVKD.point_affinity, PVKD.voxel_affinity)
    assert weights == (0.1, 0.15, 0.15, 0.25)  # [rec]
    assert PVKD.per_class  # mean over N and C [rec]
    assert PVKD.output_tau == 1.0  # [ours]
    boxes = PVKD.boxes
    assert (boxes.grid, boxes.box, boxes.draw) == ((480, 360, 32), (120, 60, 8), 'difficulty')
    assert (boxes.per_scan, boxes.minority_share) == (4, 0.01)  # [rec], [pub]


def test_m2skd_has_the_weights_of_its_public_run() -> None:
    assert (M2SKD.early_feature, M2SKD.late_feature) == (0, 0)  # [code]
    assert (M2SKD.logit, M2SKD.logit_tau, M2SKD.affinity) == (5.0, 3.3, 1.0)  # [pub]
    assert (M2SKD.affinity_of, M2SKD.affinity_within) == ('logits', 'classes')  # [code]
    assert M2SKD.object_points == 256  # [pub]


@pytest.mark.parametrize('name', ['srkd', 'pvkd', 'm2skd'])
def test_every_value_of_a_preset_names_its_source(name: str) -> None:
    text = (ROOT / 'training' / 'methods' / f'{name}.py').read_text(encoding='utf-8')
    written = text.partition('_PAPER: dict[str, Any] = {\n')[2].partition('\n}\n')[0]
    sources = {
        line.strip(): re.search(r'# .*\[(pub|code|dig|rec|ours)\]', line)
        for line in written.splitlines()
        if re.match(r" +'\w+': [^{]", line)
    }
    assert len(sources) >= 8
    assert [line for line, source in sources.items() if source is None] == []


@pytest.mark.parametrize('settings', [SrkdSettings, PvkdSettings, M2skdSettings])
def test_a_preset_is_a_word_or_a_beginning(settings: type[BaseModel]) -> None:
    paper = settings.model_validate('paper')
    assert settings.model_validate({'preset': 'paper'}) == paper
    assert settings.model_validate(paper.model_dump(mode='json')) == paper
    assert settings() != paper
    with pytest.raises(ValidationError, match="preset: unknown 'papr'. Choose one of paper"):
        settings.model_validate({'preset': 'papr'})


def test_what_stands_beside_a_preset_counts_more() -> None:
    changed = PvkdSettings.model_validate(
        {'preset': 'paper', 'voxel_output': 0.5, 'boxes': {'height_m': [-5, 3]}}
    )
    boxes = PVKD.boxes.model_copy(update={'height_m': (-5.0, 3.0)})
    assert changed == PVKD.model_copy(update={'voxel_output': 0.5, 'boxes': boxes})


def test_a_configuration_names_a_preset_and_set_changes_one_value_of_it(tmp_path: Path) -> None:
    path = tmp_path / 'a.yaml'
    path.write_text('methods: {srkd: paper}\n')
    assert load_config(path).methods.srkd == SRKD
    changed = load_config(path, ['methods.srkd.output=0.05']).methods.srkd
    assert changed == SRKD.model_copy(update={'output': 0.05})
    with pytest.raises(ConfigError, match="methods.srkd: preset: unknown 'old'"):
        load_config(path, ['methods.srkd=old'])


def test_boxes_without_a_height_follow_the_cylinder_of_the_student() -> None:
    grids = (CylinderGrid(height_m=(-5, 3)), CartesianGrid(voxel_m=0.1), None)
    given = Settings(pvkd=PvkdSettings.model_validate({'boxes': {'height_m': (-1, 1)}}))
    spans = []
    for settings in (Settings(), given):
        for grid in grids:
            methods = build_methods(
                settings,
                student=STUDENT,
                teachers={'pvkd': TEACHER},
                statistics=CONTEXT,
                grid=grid,
            )
            pvkd = methods['pvkd']
            assert isinstance(pvkd, Pvkd)
            spans.append(pvkd.settings.boxes.span_m)
    assert spans == [(-5, 3), (-4, 2), (-4, 2), (-1, 1), (-1, 1), (-1, 1)]


def test_the_published_feature_term_is_a_mean_over_rows_and_channels() -> None:
    student = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    teacher = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert feature_mse(student, teacher) == (4 + 1) / 4
    assert feature_mse(10 * student, 10 * teacher) == 100 * 5 / 4  # it does see the scale
    assert feature_mse(student[:0], teacher[:0]) == 0


def test_per_class_divides_the_outputs_of_pvkd_by_the_classes() -> None:
    inputs = make_inputs(Answers(STUDENT, 2, 0), Answers(TEACHER, 2, 1))
    rows = terms_of(build('pvkd', pvkd=PvkdSettings()), inputs)
    both = terms_of(build('pvkd', pvkd=PvkdSettings(per_class=True)), inputs)
    for name in ('pvkd.point_output', 'pvkd.voxel_output'):
        torch.testing.assert_close(both[name] * STUDENT.classes, rows[name])


@pytest.mark.parametrize(('name', 'settings'), [('srkd', SRKD), ('pvkd', PVKD), ('m2skd', M2SKD)])
def test_every_term_of_a_preset_teaches_the_student_alone(name: str, settings: Any) -> None:
    student, teacher = Answers(STUDENT, 2, 0, learns=True), Answers(TEACHER, 2, 1, learns=True)
    methods = build(name, **{name: settings})
    terms = terms_of(methods, make_inputs(student, teacher))
    assert terms.keys() == weights_of(methods, name).keys()
    assert all(0 < term.item() < math.inf for term in terms.values())
    total(terms).backward()
    assert all(tensor.grad is None for tensor in teacher.all.values())
    assert all(p.grad is not None for p in methods.parameters())
    same = terms_of(
        build(name, teacher=STUDENT, **{name: settings}), make_inputs(student, student)
    )
    assert {each: term.item() for each, term in same.items()} == dict.fromkeys(same, 0.0)


def test_the_affinity_of_a_class_is_that_of_its_points_in_all_scans() -> None:
    settings = M2skdSettings.model_validate({'preset': 'paper', 'logit': 0})
    student, teacher = Answers(STUDENT, 2, 0), Answers(TEACHER, 2, 1)
    labels = torch.full((2 * POINTS,), CAR, dtype=torch.uint8)
    labels[[3, 9, POINTS + 4]] = PERSON  # two in the first scan, one in the second
    inputs = make_inputs(student, teacher, labels=labels, instances=None)
    found = terms_of(build('m2skd', m2skd=settings), inputs)['m2skd.affinity']
    rows = [3, 9, POINTS + 4]
    differences = []
    for a in rows:
        for b in rows:
            cosines = [
                torch.cosine_similarity(n.all['point_logits'][a], n.all['point_logits'][b], dim=0)
                for n in (student, teacher)
            ]
            differences.append((cosines[0] - cosines[1]).abs())
    torch.testing.assert_close(found, torch.stack(differences).mean())


def test_the_voxel_half_of_the_channel_term_equals_a_loop_over_channels() -> None:
    only = SrkdSettings(
        output=0, cross=0, point_affinity=0, voxel_affinity=0, voxel_channel=1.0, points=1000
    )
    student, teacher = Answers(STUDENT, 2, 0), Answers(STUDENT, 2, 1)
    methods = build('srkd', teacher=STUDENT, srkd=only)  # of one width: nothing to adapt
    found = terms_of(methods, make_inputs(student, teacher))['srkd.voxel_channel']
    each = []
    for scan in range(2):
        pair = [n.all['voxel_features'].chunk(2)[scan] for n in (student, teacher)]
        for channel in range(STUDENT.voxel):
            s, t = (f[:, channel] / 2 for f in pair)
            each.append(4 * (t.softmax(0) * (t.log_softmax(0) - s.log_softmax(0))).sum())
    torch.testing.assert_close(found, torch.stack(each).mean())


@pytest.mark.parametrize('name', ['channel', 'voxel_channel'])
@pytest.mark.parametrize('per_point', [False, True])
def test_the_channel_terms_of_two_rows_are_worked_out_by_hand(name: str, per_point: bool) -> None:
    one = Widths(classes=STUDENT.classes, point=1, voxel=1, early=1)
    off = {'output': 0, 'cross': 0, 'point_affinity': 0, 'voxel_affinity': 0}
    settings = SrkdSettings.model_validate({**off, name: 1.0, 'points': 2, 'per_point': per_point})
    student, teacher = Answers(one, 1, 0), Answers(one, 1, 1)
    kind = 'point_features' if name == 'channel' else 'voxel_features'
    student.all[kind] = torch.zeros(len(student.all[kind]), 1)
    # tau 2 halves the logits; all rows are one of two kinds, whichever are drawn
    teacher.all[kind] = torch.full((len(teacher.all[kind]), 1), 2 * math.log(3))
    methods = build('srkd', student=one, teacher=one, srkd=settings)
    inputs = make_inputs(student, teacher, scans=1)
    assert terms_of(methods, inputs)[f'srkd.{name}'].item() == pytest.approx(0, abs=1e-6)
    rows = 2 if per_point else 1
    # one row in a softmax with another that is three times as likely: (1/4, 3/4) from (1/2, 1/2)
    half = len(teacher.all[kind]) // 2
    teacher.all[kind][:half] = 0
    expected = 4 * (math.log(0.5) / 4 + 3 / 4 * math.log(1.5)) / rows
    found = {round(terms_of(methods, inputs, seed)[f'srkd.{name}'].item(), 5) for seed in range(9)}
    assert found == {0.0, round(expected, 5)}  # two rows of one kind, or one of each


def test_a_teacher_is_trusted_where_no_label_contradicts_it() -> None:
    teacher = torch.eye(4)[[0, 1, 2, 3]]
    logits = LogitPair(student=torch.zeros(4, 4), teacher=teacher)
    labels = torch.tensor([0, 0, IGNORE, 3], dtype=torch.uint8)

    def trusted(unlabelled: bool, correct: bool) -> list[bool] | None:
        chosen = logits.trusted(labels, unlabelled=unlabelled, correct=correct)
        return None if chosen is None else chosen.tolist()

    assert trusted(unlabelled=True, correct=False) is None
    assert trusted(unlabelled=False, correct=False) == [True, True, False, True]
    assert trusted(unlabelled=True, correct=True) == [True, False, True, True]
    assert trusted(unlabelled=False, correct=True) == [True, False, False, True]


def test_output_terms_that_trust_labels_more_leave_out_where_the_teacher_errs() -> None:
    settings: dict[str, Any] = {
        'srkd': SrkdSettings(trust='correct', cross=0, point_affinity=0, voxel_affinity=0),
        'pvkd': PvkdSettings(trust='correct', point_affinity=0, voxel_affinity=0),
        'm2skd': M2skdSettings(trust='correct', early_feature=0, late_feature=0, affinity=0),
    }
    inputs = make_inputs(Answers(STUDENT, 2, 0), Answers(TEACHER, 2, 1))
    told = inputs.teacher.point_logits().argmax(1).to(torch.uint8)
    told_voxels = inputs.teacher.voxel_logits().argmax(1).to(torch.uint8)
    wrong = replace(inputs, labels=(told + 1) % 19, voxel_labels=(told_voxels + 1) % 19)
    methods = build('srkd', 'pvkd', 'm2skd', **settings)
    assert {term.item() for term in terms_of(methods, wrong).values()} == {0.0}
    right = replace(inputs, labels=told, voxel_labels=told_voxels)
    assert all(term > 0 for term in terms_of(methods, right).values())


def test_mixes_beside_relations_are_refused_or_asked_for(tmp_path: Path) -> None:
    path = tmp_path / 'a.yaml'
    path.write_text(
        'method: [srkd]\nteacher: {bundle: t.safetensors}\ndata: {augment: {mix3d: 0.8}}\n'
    )
    with pytest.raises(ConfigError, match=r'cross term of SRKD relates whole ones; set its mixes'):
        load_config(path)
    assert load_config(path, ['methods.srkd=paper']).data.augment.mixes
    assert load_config(path, ['methods.srkd.cross=0']).data.augment.mixes
