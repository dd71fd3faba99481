# SPDX-License-Identifier: Apache-2.0
"""What the teacher sees where it differs from the student, and how both meet row by row."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from lidar_kd.voxels import CartesianGrid
from training.data.batch import Batch, make_batch, TeacherInput
from training.data.scan import Scan

FINE = CartesianGrid(voxel_m=0.5)
COARSE = CartesianGrid(voxel_m=1)
NARROW = CartesianGrid(voxel_m=1, lower_m=(0, -9, -9), upper_m=(9, 9, 9))


def scan(x: list[float], past: list[bool] | None = None) -> Scan:
    points = np.array([[value, 0.2, 0.2, value] for value in x], np.float32)
    return Scan(
        points=points,
        labels=np.arange(len(x), dtype=np.uint8),
        past=None if past is None else np.array(past),
    )


def at(values: torch.Tensor) -> list[float]:
    return [round(value, 3) for value in values.tolist()]


def test_on_the_same_grid_without_a_past_there_is_one_view() -> None:
    assert not make_batch([scan([0.1])], COARSE, teacher_inputs=[TeacherInput(COARSE)]).views
    assert not make_batch([scan([0.1])], COARSE).views


def test_on_another_grid_every_point_finds_itself_among_the_teachers() -> None:
    batch = make_batch(
        [scan([0.1, 0.6, 3.1]), scan([1.1])], COARSE, teacher_inputs=[TeacherInput(FINE)]
    )
    (view,) = batch.views.values()
    assert len(batch.voxels.level) == 3
    assert len(view.voxels.level) == 4  # 0.1 and 0.6 part at half a metre
    theirs = view.voxels.points[view.rows]
    assert torch.equal(theirs, batch.points)


def test_the_past_of_a_fused_scan_is_the_teachers_alone() -> None:
    fused = scan([0.1, 5.1, 0.2, 6.1], past=[False, False, True, True])
    batch = make_batch(
        [fused, scan([2.1])], COARSE, teacher_inputs=[TeacherInput(COARSE, fused=True)]
    )
    assert at(batch.points[:, 0]) == [0.1, 5.1, 2.1]
    assert batch.labels.tolist() == [0, 1, 0]
    assert batch.starts == (0, 2, 3)
    (view,) = batch.views.values()
    assert at(view.voxels.points[:, 0]) == [0.1, 5.1, 0.2, 6.1, 2.1]
    assert view.rows.tolist() == [0, 1, 4]


def test_without_a_teacher_the_past_is_learnt_from() -> None:
    batch = make_batch([scan([0.1, 5.1], past=[False, True])], COARSE)
    assert at(batch.points[:, 0]) == [0.1, 5.1]


def test_points_that_the_teacher_cannot_see_are_in_no_view() -> None:
    batch = make_batch([scan([-3.0, 1.1, 2.1])], COARSE, teacher_inputs=[TeacherInput(NARROW)])
    assert at(batch.points[:, 0]) == [1.1, 2.1]
    assert batch.labels.tolist() == [1, 2]
    (view,) = batch.views.values()
    assert view.rows.tolist() == [0, 1]


@pytest.mark.parametrize('copy', [lambda b: pickle.loads(pickle.dumps(b)), lambda b: b.to('cpu')])
def test_both_views_survive_the_way_from_a_worker_and_to_a_device(copy) -> None:  # type: ignore[no-untyped-def]
    batch: Batch = copy(
        make_batch([scan([0.1, 0.6])], COARSE, teacher_inputs=[TeacherInput(FINE)])
    )
    (view,) = batch.views.values()
    assert view.rows.tolist() == [0, 1]
    assert len(view.voxels.level) == 2
    assert len(batch.voxels.level) == 1


def test_two_teachers_see_the_same_points_each_in_its_way() -> None:
    fused = scan([-3.0, 1.1, 5.1, 1.2], past=[False, False, False, True])
    teacher_inputs = [TeacherInput(NARROW), TeacherInput(FINE, fused=True), TeacherInput(COARSE)]
    batch = make_batch([fused], COARSE, teacher_inputs=teacher_inputs)
    assert at(batch.points[:, 0]) == [1.1, 5.1]  # one of them cannot see the first
    assert list(batch.views) == teacher_inputs[:2]  # the third sees what the student sees
    narrow, fine = batch.views.values()
    assert at(narrow.voxels.points[:, 0]) == [1.1, 5.1]
    assert at(fine.voxels.points[:, 0]) == [-3.0, 1.1, 5.1, 1.2]
    assert (narrow.rows.tolist(), fine.rows.tolist()) == ([0, 1], [1, 2])
    again = pickle.loads(pickle.dumps(batch))
    assert [view.rows.tolist() for view in again.views.values()] == [[0, 1], [1, 2]]
    assert list(again.views) == teacher_inputs[:2]
