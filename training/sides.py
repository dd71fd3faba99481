# SPDX-License-Identifier: Apache-2.0
"""What teacher and student say, row for row about the same points and voxels.

M points and V voxels of the student. A teacher with other voxels is read at the student's points,
and averaged over the student's voxels: posteriors, not logits, for those can be averaged.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lidar_kd.models.output import Output
from training.data.batch import Batch

_SMALLEST = 1e-12  # posterior


def mean_over_voxels(values: Tensor, point_voxel: Tensor, voxels: int) -> Tensor:
    """(M, D) -> (V, D)"""
    sums = values.new_zeros(voxels, values.shape[1]).index_add_(0, point_voxel, values)
    return sums / torch.bincount(point_voxel, minlength=voxels)[:, None]


def average_logits(logits: Tensor, point_voxel: Tensor, voxels: int) -> Tensor:
    """(M, C) -> (V, C) whose softmax is the mean posterior of a voxel's points."""
    posterior = mean_over_voxels(logits.float().softmax(1), point_voxel, voxels)
    return posterior.clamp(min=_SMALLEST).log()


def early_rows(output: Output, rows: Tensor) -> Tensor:
    """Early decoder features at some of the network's own points."""
    assert output.early_features is not None
    assert output.early_cell is not None
    cells = output.early_cell.index_select(0, output.point_voxel.index_select(0, rows))
    return output.early_features.index_select(0, cells)


def _rows_of_teacher(batch: Batch, rows: Tensor) -> Tensor:
    return rows if batch.teacher is None else batch.teacher.rows.index_select(0, rows)
