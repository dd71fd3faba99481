# SPDX-License-Identifier: Apache-2.0
"""Scans that nobody labelled get the teacher's pseudo-labels; labelled ones keep theirs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_run import make_config, make_street, prepare, save_teacher, settings_on
import torch
from torch import Tensor

from lidar_kd.labels import IGNORE
from lidar_kd.models.output import Output
from lidar_kd.voxels import Voxels
from training.methods.inputs import AlignedOutput, Inputs
from training.run.loss import Teacher
from training.run.pseudo_labels import pseudo_label

SURE, UNSURE = 4.0, 0.1  # logits above the others': 0.87 and 0.12 of 9 classes

OWNER = torch.tensor([0, 0, 1, 1, 1], dtype=torch.int32)  # as a batch has it


def logits(*answers: tuple[int, float]) -> Tensor:
    rows = torch.zeros(len(answers), 9)
    for row, (train_id, height) in zip(rows, answers):
        row[train_id] = height
    return rows


def two_scans() -> Inputs:
    """Scan a has a labelled point and one without; scan b, of three points, has no label."""
    points = logits((5, SURE), (6, SURE), (3, SURE), (7, UNSURE), (4, SURE))
    voxels = logits((5, SURE), (3, SURE), (4, UNSURE))
    said = AlignedOutput(
        point_logits=lambda: points,
        voxel_logits=lambda: voxels,
        point_features=lambda rows: points[rows],
        voxel_features=lambda rows: voxels[rows],
    )
    return Inputs(
        points=torch.zeros(5, 4),
        labels=torch.tensor([1, IGNORE, IGNORE, IGNORE, IGNORE], dtype=torch.uint8),
        instances=None,
        starts=(0, 2, 5),
        point_voxel=torch.tensor([0, 0, 1, 1, 2]),
        voxel_scan=torch.tensor([0, 1, 1], dtype=torch.int32),
        voxel_xyz=torch.zeros(3, 3),
        voxel_labels=torch.tensor([1, IGNORE, IGNORE], dtype=torch.uint8),
        student=said,
        teacher=said,
    )


def test_only_a_scan_without_any_label_is_told_what_it_shows() -> None:
    scans = two_scans()
    told = pseudo_label(scans, [scans.teacher], OWNER, 0.5)
    assert told.labels.tolist() == [1, IGNORE, 3, IGNORE, 4]
    assert told.voxel_labels.tolist() == [1, 3, IGNORE]
    assert told.labels.dtype == told.voxel_labels.dtype == torch.uint8
    assert told.host.label_array.tolist() == told.labels.tolist()


def test_at_zero_every_answer_is_a_pseudo_label() -> None:
    scans = two_scans()
    told = pseudo_label(scans, [scans.teacher], OWNER, 0.0)
    assert told.labels.tolist() == [1, IGNORE, 3, 7, 4]
    assert told.voxel_labels.tolist() == [1, 3, 4]


def test_several_teachers_give_pseudo_labels_in_the_mean() -> None:
    """Sure of 3 and of 3: 0.87. Sure of 7, the other not: 0.50. Sure of 4 and of 8: 0.44."""
    scans = two_scans()
    points = logits((5, SURE), (6, SURE), (3, SURE), (7, SURE), (8, SURE))
    other = replace(scans.teacher, point_logits=lambda: points)
    told = pseudo_label(scans, [scans.teacher, other], OWNER, 0.45)
    assert told.labels.tolist() == [1, IGNORE, 3, 7, IGNORE]


@pytest.mark.parametrize(
    ('method', 'labels', 'without'), [(['srkd'], None, 3), (['srkd'], 0.0, 0), ([], 0.0, 0)]
)
def test_a_student_is_supervised_on_its_pseudo_labels(
    method: list[str], labels: float | None, without: int, tmp_path: Path
) -> None:
    street = make_street(tmp_path / 'street')
    for path in sorted((street / 'sequences' / '00' / 'labels').iterdir())[1:]:
        path.write_bytes(bytes(path.stat().st_size))  # raw id 0: not labelled
    save_teacher(tmp_path / 'teacher.safetensors')
    teacher = {'bundle': str(tmp_path / 'teacher.safetensors'), 'pseudo_labels': labels}
    settings = settings_on(street, method=method, teacher=teacher, optim__batch_size=1)
    parts = prepare(make_config(tmp_path, settings), tmp_path / 'run')
    distillation, rng = parts.distillation.train(), np.random.default_rng(0)
    losses = [float(distillation(batch, rng).raw['voxel_ce']) for batch in parts.loader]
    assert losses.count(0) == without


def test_without_a_method_the_teacher_is_asked_about_scans_without_labels_alone(
    tmp_path: Path,
) -> None:
    street = make_street(tmp_path / 'street')
    bare = sorted((street / 'sequences' / '00' / 'labels').iterdir())[0]
    bare.write_bytes(bytes(bare.stat().st_size))
    save_teacher(tmp_path / 'teacher.safetensors')
    teacher = {'bundle': str(tmp_path / 'teacher.safetensors'), 'pseudo_labels': 0.0}
    settings = settings_on(street, method=[], teacher=teacher, optim__batch_size=1)
    parts = prepare(make_config(tmp_path, settings), tmp_path / 'run')
    network, told_about = parts.distillation._teachers['teacher'].network, []

    def answer(voxels: Voxels) -> Output:
        told_about.append(len(voxels.points))
        return network(voxels)

    asked = Teacher(answer, parts.distillation._teachers['teacher'].teacher_input)
    parts.distillation._teachers['teacher'] = asked
    for batch in parts.loader:
        parts.distillation(batch, np.random.default_rng(0))
    assert len(told_about) == 1
