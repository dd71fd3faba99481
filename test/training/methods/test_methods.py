# SPDX-License-Identifier: Apache-2.0
"""The methods as a whole: their terms on made-up scans, their settings, what they refuse."""

from __future__ import annotations

from dataclasses import replace
import math
from typing import Any

from made_up_batch import (
    Answers,
    build,
    CAR,
    CLASSES,
    make_inputs,
    PERSON,
    POINTS,
    rng,
    Settings,
    STUDENT,
    TEACHER,
    terms_of,
    total,
    VOXELS,
    weights_of,
)
import numpy as np
from pydantic import BaseModel, ValidationError
import pytest
import torch
from torch import Tensor

from lidar_kd.errors import ConfigError, DataError
from lidar_kd.labels import IGNORE, NUSCENES
from training.methods import build_methods, METHODS
from training.methods.draws import draw_balanced, draw_rows, draw_uniform
from training.methods.inputs import check_teacher, LabelStatistics
from training.methods.logits import point_logits_of
from training.methods.m2skd import M2skdSettings, split_objects
from training.methods.pvkd import PvkdSettings
from training.methods.srkd import SrkdSettings
from training.methods.supervised import (
    mean_cross_entropy,
    mean_lovasz,
    Supervised,
    SupervisedSettings,
)

each_method = pytest.mark.parametrize('name', METHODS)


@each_method
def test_a_method_gives_the_terms_it_weighs_and_teaches_the_student_alone(name: str) -> None:
    student, teacher = Answers(STUDENT, 2, 0, learns=True), Answers(TEACHER, 2, 1, learns=True)
    methods = build(name)
    terms = terms_of(methods, make_inputs(student, teacher))
    assert terms.keys() == weights_of(methods, name).keys()
    assert all(term.ndim == 0 and 0 < term.item() < math.inf for term in terms.values())
    total(terms).backward()
    assert any(tensor.grad is not None for tensor in student.all.values())
    assert all(tensor.grad is None for tensor in teacher.all.values())
    assert all(p.grad is not None for p in methods.parameters())


@each_method
def test_a_student_that_says_what_the_teacher_says_has_nothing_to_learn(name: str) -> None:
    said = Answers(STUDENT, 2, 0)
    terms = terms_of(build(name, teacher=STUDENT), make_inputs(said, said))
    assert {name: term.item() for name, term in terms.items()} == dict.fromkeys(terms, 0.0)


def test_methods_add_up_and_only_adapters_are_trained() -> None:
    methods = build('srkd', 'pvkd', 'm2skd')
    terms = terms_of(methods, make_inputs(Answers(STUDENT, 2, 0), Answers(TEACHER, 2, 1)))
    assert {name.split('.')[0] for name in terms} == {'srkd', 'pvkd', 'm2skd'}
    assert len(terms) == 7 + 4 + 4
    assert {name for name, _ in methods.named_parameters()} == {
        f'{place}.map.{part}'
        for place in (
            *('srkd.projection', 'srkd.channel', 'srkd.voxel_channel'),
            *('m2skd.early', 'm2skd.late'),
        )
        for part in ('weight', 'bias')
    }


@each_method
def test_the_same_seed_gives_the_same_bits(name: str) -> None:
    inputs = make_inputs(Answers(STUDENT, 2, 0), Answers(TEACHER, 2, 1))
    methods = build(name)
    one, two = terms_of(methods, inputs), terms_of(methods, inputs)
    assert all(torch.equal(one[key], two[key]) for key in one)


@each_method
def test_a_batch_of_one_is_a_batch(name: str) -> None:
    inputs = make_inputs(Answers(STUDENT, 1, 0), Answers(TEACHER, 1, 1), scans=1)
    assert all(term > 0 for term in terms_of(build(name), inputs).values())


@each_method
def test_scans_without_a_single_label_still_teach(name: str) -> None:
    student = Answers(STUDENT, 2, 0, learns=True)
    inputs = make_inputs(student, Answers(TEACHER, 2, 1))
    bare = replace(
        inputs,
        labels=torch.full_like(inputs.labels, IGNORE),
        voxel_labels=torch.full_like(inputs.voxel_labels, IGNORE),
        instances=None,
    )
    terms = terms_of(build(name), bare)
    total(terms).backward()
    assert all(math.isfinite(term.item()) for term in terms.values())
    # objects are known by their labels; everything else is the teacher's opinion
    assert [name for name, term in terms.items() if term == 0] == ['m2skd.affinity'] * (
        name == 'm2skd'
    )


def test_the_flag_takes_points_without_a_label_out_of_the_output_terms() -> None:
    inputs = make_inputs(Answers(STUDENT, 2, 0), Answers(TEACHER, 2, 1))
    bare = replace(
        inputs,
        labels=torch.full_like(inputs.labels, IGNORE),
        voxel_labels=torch.full_like(inputs.voxel_labels, IGNORE),
    )
    methods = build(
        'srkd', 'pvkd', srkd=SrkdSettings(unlabelled=False), pvkd=PvkdSettings(unlabelled=False)
    )
    terms = terms_of(methods, bare)
    outputs = [name for name in terms if name.endswith('output')]
    assert len(outputs) == 3
    assert [terms[name].item() for name in outputs] == [0, 0, 0]
    assert all(terms_of(methods, inputs)[name] > 0 for name in outputs)


def test_without_boxes_the_affinities_are_zero() -> None:
    none = {'boxes': {'per_scan': 0}}
    methods = build(
        'srkd',
        'pvkd',
        srkd=SrkdSettings.model_validate(none),
        pvkd=PvkdSettings.model_validate(none),
    )
    student = Answers(STUDENT, 2, 0, learns=True)
    terms = terms_of(methods, make_inputs(student, Answers(TEACHER, 2, 1)))
    assert [terms[name].item() for name in terms if name.endswith('affinity')] == [0] * 4
    total(terms).backward()


def test_a_term_of_weight_zero_is_not_computed() -> None:
    settings = SrkdSettings(cross=0, point_affinity=0, voxel_affinity=0)
    methods = build('srkd', srkd=settings)
    inputs = make_inputs(Answers(STUDENT, 2, 0), Answers(TEACHER, 2, 1))
    assert list(terms_of(methods, inputs)) == ['srkd.output']
    assert list(methods.parameters()) == []


@pytest.mark.parametrize('unlabelled', [True, False])
def test_voxels_speak_for_their_points_when_no_network_has_a_point_head(unlabelled: bool) -> None:
    student, teacher = Answers(STUDENT, 2, 0, learns=True), Answers(TEACHER, 2, 1)
    inputs = make_inputs(student, teacher)
    voxels = student.all['voxel_logits'], teacher.all['voxel_logits']
    gathered = [logits.index_select(0, inputs.point_voxel) for logits in voxels]
    ours = replace(inputs.student, point_logits=lambda: gathered[0])
    theirs = replace(inputs.teacher, point_logits=lambda: gathered[1])
    one_by_one = replace(inputs, student=ours, teacher=theirs)
    by_voxel = replace(
        inputs, student=replace(ours, by_voxel=True), teacher=replace(theirs, by_voxel=True)
    )
    settings = SrkdSettings(unlabelled=unlabelled, cross=0, point_affinity=0, voxel_affinity=0)
    methods = build('srkd', 'm2skd', srkd=settings)
    found = []
    for seen in (one_by_one, by_voxel):
        terms = terms_of(methods, seen)
        losses = terms['srkd.output'], terms['m2skd.logit']
        (gradient,) = torch.autograd.grad(losses[0] + losses[1], voxels[0], retain_graph=True)
        found.append((*losses, gradient))
    for point_wise, voxel_wise in zip(*found):
        torch.testing.assert_close(voxel_wise, point_wise)
    assert point_logits_of(by_voxel).student is voxels[0]
    disputed = point_logits_of(one_by_one).disputed()
    assert torch.equal(point_logits_of(by_voxel).disputed(), disputed)
    assert 0 < disputed.sum() < len(disputed)


def test_the_logit_term_sees_hard_classes_and_disputes_only() -> None:
    said, other = Answers(STUDENT, 2, 0), Answers(STUDENT, 2, 0)
    labels = torch.full((2 * POINTS,), 8, dtype=torch.uint8)
    methods = build('m2skd', teacher=STUDENT)
    # both choose the same class everywhere, the teacher more firmly
    other.all['point_logits'] = 2 * said.all['point_logits']
    inputs = make_inputs(said, other, labels=labels)
    assert terms_of(methods, inputs)['m2skd.logit'] == 0
    labels[3] = PERSON
    alone = terms_of(methods, make_inputs(said, other, labels=labels))['m2skd.logit']
    s, t = (a.all['point_logits'][3] / 3.3 for a in (said, other))
    kl = (t.softmax(0) * (t.log_softmax(0) - s.log_softmax(0))).sum()
    torch.testing.assert_close(alone, 3.3**2 * kl)


def test_objects_are_split_by_their_names() -> None:
    rows = np.array([4, 9, 2, 7, 5, 1, 8])
    a, b, c = 70, 30, 50
    names = np.array([a, b, a, c, a, a, b])
    # c is one point; of a's four the first three stay
    objects = [members.tolist() for members in split_objects(rows, names, 3)]
    assert sorted(objects) == [[4, 2, 5], [9, 8]]
    assert split_objects(rows[:0], names[:0], 3) == []


def test_objects_beyond_the_limit_are_left_out_at_random() -> None:
    inputs = make_inputs(Answers(STUDENT, 2, 0), Answers(TEACHER, 2, 1))
    terms = [
        terms_of(build('m2skd', m2skd=M2skdSettings(objects=most)), inputs)['m2skd.affinity']
        for most in (1, 8, 99)  # two scans, two hard classes, two objects of each
    ]
    assert terms[0] > 0
    assert terms[0] != terms[1] == terms[2]


def test_the_affinity_of_objects_ignores_what_is_not_hard() -> None:
    inputs = make_inputs(Answers(STUDENT, 2, 0), Answers(TEACHER, 2, 1))
    methods = build('m2skd')
    cars = replace(inputs, labels=torch.full_like(inputs.labels, CAR))
    assert terms_of(methods, cars)['m2skd.affinity'] == 0
    assert inputs.instances is not None
    none = replace(inputs, instances=torch.zeros_like(inputs.instances))
    assert terms_of(methods, none)['m2skd.affinity'] == 0
    assert terms_of(methods, inputs)['m2skd.affinity'] > 0


def test_a_teacher_of_other_classes_is_refused() -> None:
    with pytest.raises(ConfigError, match='knows 16 classes, the student 19; choose a teacher'):
        build('srkd', teacher=replace(TEACHER, classes=16))


def test_m2skd_learns_from_the_classes_of_any_table() -> None:
    nuscenes = LabelStatistics(table=NUSCENES, class_shares=np.full(16, 1 / 16))
    few = {'student': replace(STUDENT, classes=16), 'teacher': replace(TEACHER, classes=16)}
    methods = build_methods(
        Settings(),
        student=few['student'],
        teachers={'m2skd': few['teacher']},
        statistics=nuscenes,
    )
    said, other = Answers(few['student'], 2, 0), Answers(few['teacher'], 2, 1)
    hard = torch.full((2 * POINTS,), int(NUSCENES.hard_ids[0]), dtype=torch.uint8)
    terms = terms_of(methods, make_inputs(said, other, labels=hard))
    assert terms['m2skd.affinity'] > 0  # nuScenes-panoptic numbers its objects


def test_m2skd_without_early_features_is_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match='the teacher has no early decoder features; set'):
        build('m2skd', teacher=replace(TEACHER, early=None))


def test_a_teacher_that_answers_nan_is_named_with_its_scans() -> None:
    teacher = Answers(TEACHER, 2, 1)
    inputs = make_inputs(Answers(STUDENT, 2, 0), teacher)
    check_teacher(inputs.teacher, ('a', 'b'))
    teacher.all['point_logits'][5, 2] = float('nan')
    with pytest.raises(DataError, match='a b: the teacher answers with numbers'):
        check_teacher(inputs.teacher, ('a', 'b'))


@pytest.mark.parametrize('settings', [SrkdSettings, PvkdSettings, M2skdSettings])
def test_settings_survive_being_written_down_and_refuse_unknown_keys(
    settings: type[BaseModel],
) -> None:
    default = settings()
    assert settings.model_validate(default.model_dump(mode='json')) == default
    with pytest.raises(ValidationError):
        settings.model_validate({'weight': 1})


def test_supervision_is_what_the_settings_name() -> None:
    inputs = make_inputs(Answers(STUDENT, 2, 0), Answers(TEACHER, 2, 1))
    weights = torch.ones(CLASSES)
    assert list(Supervised(SupervisedSettings(), weights)(inputs)) == ['voxel_ce', 'voxel_lovasz']
    settings = SupervisedSettings(point_ce=2, point_lovasz=1, voxel_ce=0, voxel_lovasz=0.5)
    supervised = Supervised(settings, weights)
    with torch.autocast('cpu', torch.bfloat16):
        terms = supervised(inputs)
    assert list(terms) == ['voxel_lovasz', 'point_ce', 'point_lovasz']
    said, starts = inputs.student, (0, VOXELS, 2 * VOXELS)
    ce = mean_cross_entropy(said.point_logits(), inputs.labels, inputs.starts, weights)
    lovasz = mean_lovasz(said.voxel_logits(), inputs.voxel_labels, starts)
    torch.testing.assert_close(terms['point_ce'], 2 * ce)
    torch.testing.assert_close(terms['voxel_lovasz'], 0.5 * lovasz)
    assert supervised.state_dict() == {}


def test_the_same_points_of_every_scan_are_drawn_for_both_networks() -> None:
    inputs = make_inputs(Answers(STUDENT, 2, 0), Answers(TEACHER, 2, 1))
    for draw in (draw_balanced, draw_uniform):
        first, second = draw_rows(inputs, 16, rng(), draw)
        assert len(set(first.tolist())) == len(set(second.tolist())) == 16
        assert first.max() < POINTS <= second.min()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs an NVIDIA card')
def test_a_card_finds_the_same_terms() -> None:
    found = []
    for device in ('cpu', 'cuda'):
        student, teacher = Answers(STUDENT, 2, 0), Answers(TEACHER, 2, 1)
        for answers in (student, teacher):
            answers.all = {k: v.to(device).requires_grad_() for k, v in answers.all.items()}
        inputs = make_inputs(student, teacher)
        tensors: dict[str, Any] = {
            k: v.to(device) for k, v in vars(inputs).items() if isinstance(v, Tensor)
        }
        inputs = replace(inputs, **tensors)
        terms = terms_of(build('srkd', 'pvkd', 'm2skd').to(device), inputs)
        terms |= Supervised(SupervisedSettings(), torch.ones(CLASSES)).to(device)(inputs)
        total(terms).backward()
        found.append({name: term.item() for name, term in terms.items()})
    assert found[1] == pytest.approx(found[0], rel=1e-3)
