# SPDX-License-Identifier: Apache-2.0
"""What teacher and student say, row for row about the same points and voxels.

M points and V voxels of the student. A teacher with other voxels is read at the student's points,
and averaged over the student's voxels: posteriors, not logits, for those can be averaged.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from torch import Tensor

from lidar_kd.models.output import Output
from training.data.batch import Batch, TeacherView, voxel_labels
from training.methods.inputs import AlignedOutput, HostRows, Inputs, Rows
from training.methods.without_wait import count_rows

_SMALLEST = 1e-12  # posterior


def make_inputs(student: Output, batch: Batch, kinds: int) -> Inputs:
    """kinds: how many labels there are. Until a teacher comes, the student is its own."""
    voxels, ours, host = batch.voxels, align_own(student), batch.host
    return Inputs(
        points=batch.points,
        labels=batch.labels,
        instances=batch.instances,
        starts=batch.starts,
        point_voxel=voxels.point_voxel,
        voxel_scan=voxels.coords[:, 0].contiguous(),
        voxel_xyz=voxels.features[:, :3],  # the mean of its points
        voxel_labels=voxel_labels(batch, kinds),
        student=ours,
        teacher=ours,
        kept=None if host is None else _keep(host, kinds),
    )


def _keep(batch: Batch, kinds: int) -> HostRows:
    """Of the batch as the loader made it, what the samplers draw from."""
    voxels = batch.voxels
    return HostRows(
        labels=batch.labels,
        instances=batch.instances,
        point_voxel=voxels.point_voxel,
        voxel_scan=voxels.coords[:, 0].contiguous(),
        voxel_xyz=voxels.features[:, :3],
        find_voxel_labels=lambda: voxel_labels(batch, kinds),
    )


def align_own(output: Output) -> AlignedOutput:
    """A network's answers for its own points and voxels."""
    return AlignedOutput(
        point_logits=lambda: output.point_logits,
        voxel_logits=lambda: output.voxel_logits,
        by_voxel=output.own_point_logits is None,
        point_features=_points_of(output),
        voxel_features=lambda rows: output.voxel_features.index_select(0, rows),
        early_features=_early_of(output),
    )


def align_teacher(output: Output, view: TeacherView | None, batch: Batch) -> AlignedOutput:
    """A teacher's answers about the student's points and voxels."""
    return align_own(output) if view is None else align_to_student(output, view, batch)


def align_to_student(output: Output, view: TeacherView, batch: Batch) -> AlignedOutput:
    """A teacher's answers, where its voxels are not the student's."""
    row, ours, voxels = view.rows, batch.voxels.point_voxel, len(batch.voxels.level)
    points, early = _points_of(output), _early_of(output)

    @cache
    def point_logits() -> Tensor:
        return output.point_logits.index_select(0, row)

    @cache
    def voxel_features() -> Tensor:
        of_points = output.voxel_features.index_select(0, output.point_voxel.index_select(0, row))
        return mean_over_voxels(of_points, ours, voxels)

    return AlignedOutput(
        point_logits=point_logits,
        voxel_logits=cache(lambda: average_logits(point_logits(), ours, voxels)),
        point_features=lambda rows: points(row.index_select(0, rows)),
        voxel_features=lambda rows: voxel_features().index_select(0, rows),
        early_features=early and (lambda rows: early(row.index_select(0, rows))),
        seen=lambda: output.voxel_logits,
    )


def detached(answers: AlignedOutput) -> AlignedOutput:
    """The same answers, through which no gradient flows."""
    early = answers.early_features
    return replace(
        answers,
        point_logits=lambda: answers.point_logits().detach(),
        voxel_logits=lambda: answers.voxel_logits().detach(),
        point_features=lambda rows: answers.point_features(rows).detach(),
        voxel_features=lambda rows: answers.voxel_features(rows).detach(),
        early_features=early and (lambda rows: early(rows).detach()),
    )


def mean_over_voxels(values: Tensor, point_voxel: Tensor, voxels: int) -> Tensor:
    """(M, D) -> (V, D)"""
    sums = values.new_zeros(voxels, values.shape[1]).index_add_(0, point_voxel, values)
    return sums / count_rows(point_voxel, voxels)[:, None]


def average_logits(logits: Tensor, point_voxel: Tensor, voxels: int) -> Tensor:
    """(M, C) -> (V, C) whose softmax is the mean posterior of a voxel's points."""
    posterior = mean_over_voxels(logits.float().softmax(1), point_voxel, voxels)
    return posterior.clamp(min=_SMALLEST).log()


def _points_of(output: Output) -> Rows:
    features = output.own_point_features
    if features is not None:
        return lambda rows: features.index_select(0, rows)
    return lambda rows: output.voxel_features.index_select(
        0, output.point_voxel.index_select(0, rows)
    )


def _early_of(output: Output) -> Rows | None:
    features = output.early_features
    if features is None:
        return None

    def rows_of(rows: Tensor) -> Tensor:
        cell = output.early_cell
        assert cell is not None
        cells = cell.index_select(0, output.point_voxel.index_select(0, rows))
        return features.index_select(0, cells)

    return rows_of
