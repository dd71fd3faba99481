# SPDX-License-Identifier: Apache-2.0
"""Batches of scans: the same ones in the same order for any number of workers, and resumable.

M points, V voxels, B scans. Points that the grid cannot hold are not in a batch, so every row of
a network's Output has its label here; scoring of all points is the Segmenter's task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from lidar_kd.labels import IGNORE
from lidar_kd.sparse import Level
from lidar_kd.voxels import CartesianGrid, CylinderGrid, voxelize, Voxels
from training.data.scan import Scan

AnyGrid = CartesianGrid | CylinderGrid


@dataclass(frozen=True, kw_only=True, eq=False)
class TeacherView:
    """What the teacher sees where that differs: another grid, scans fused with their past, or
    scans as they were before augmentation.

    rows (M,): where each point of the batch is among those of the teacher's voxels.
    """

    voxels: Voxels
    rows: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """B scans one after the other.

    voxels: their points, owners and voxels; labels (M,) uint8 train ids, 255 ignored;
    instances (M,) int64, 0 in a scan without any, or None where no scan has some;
    starts: scan i has the rows starts[i] to starts[i + 1];
    teacher: None where a teacher sees the same voxels.
    """

    voxels: Voxels
    labels: Tensor
    instances: Tensor | None
    starts: tuple[int, ...]
    names: tuple[str, ...]
    teacher: TeacherView | None = None

    @property
    def points(self) -> Tensor:
        """(M, 4)"""
        return self.voxels.points

    @property
    def owner(self) -> Tensor:
        """(M,) the scan of each point."""
        return self.voxels.batch

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device | str) -> Batch:
        parts: list[Any] = [
            part.to(device, non_blocking=True) if isinstance(part, Tensor) else part
            for part in _take_apart(self)
        ]
        return _put_together(*parts)

    def __reduce__(self) -> tuple[Callable[..., Batch], tuple[Any, ...]]:
        # An engine is bound to its process: a worker sends the tensors, and the batch is put
        # together with the engine that the receiver has for them.
        return _put_together, _take_apart(self)


def make_batch(
    scans: Sequence[Scan], grid: AnyGrid, *, teacher_grid: AnyGrid | None = None
) -> Batch:
    """With a teacher the past of fused scans is for its eyes alone; without one it is learnt from.
    Points that one of the two grids cannot hold are left out of the batch.
    """
    differs = any(scan.past is not None or scan.unmoved is not None for scan in scans)
    view = None
    if teacher_grid is not None and (differs or teacher_grid != grid):
        view, scans = _see_as_teacher(scans, teacher_grid)
    points, owner = _concatenate(scans)
    voxels = voxelize(points, grid, batch=owner)
    labels = torch.from_numpy(np.concatenate([scan.labels for scan in scans]))
    instances = None
    if any(scan.instances is not None for scan in scans):
        instances = torch.from_numpy(np.concatenate([_numbers(scan) for scan in scans]))
        instances = instances[voxels.rows]
    starts = torch.searchsorted(voxels.batch, torch.arange(len(scans) + 1, dtype=torch.int32))
    if view is not None:
        view = TeacherView(voxels=view.voxels, rows=view.rows[voxels.rows])
    return Batch(
        voxels=voxels,
        labels=labels[voxels.rows],
        instances=instances,
        starts=tuple(starts.tolist()),
        names=tuple(scan.name for scan in scans),
        teacher=view,
    )


def _numbers(scan: Scan) -> NDArray[np.int64]:
    """(N,) of its objects; none in a scan that nobody labelled."""
    if scan.instances is None:
        return np.zeros(len(scan), dtype=np.int64)
    return scan.instances.astype(np.int64)


def _see_as_teacher(scans: Sequence[Scan], grid: AnyGrid) -> tuple[TeacherView, list[Scan]]:
    """The teacher's voxels, and of each scan the own points that they hold."""
    points, owner = _concatenate([_before_augmentation(scan) for scan in scans])
    voxels = voxelize(points, grid, batch=owner)
    row = torch.full((len(points),), -1)
    row[voxels.rows] = torch.arange(len(voxels.rows))
    seen, first = [], 0
    kept: list[Scan] = []
    for scan in scans:
        mine = row[first : first + len(scan)]
        first += len(scan)
        own, rows = _present(scan)
        known = mine[rows] >= 0
        kept.append(own if bool(known.all()) else own.take(known.numpy()))
        seen.append(mine[rows][known])
    return TeacherView(voxels=voxels, rows=torch.cat(seen)), kept


def _before_augmentation(scan: Scan) -> Scan:
    return scan if scan.unmoved is None else replace(scan, points=scan.unmoved)


def _present(scan: Scan) -> tuple[Scan, Tensor]:
    """The scan without what fusion added, and the rows that it had."""
    if scan.past is None:
        return scan, torch.arange(len(scan))
    rows = np.flatnonzero(~scan.past)
    own = replace(scan, past=None).take(rows)
    return own, torch.from_numpy(rows)


def _concatenate(scans: Sequence[Scan]) -> tuple[Tensor, Tensor]:
    """(N, 4) points of all scans, (N,) the scan of each."""
    points = torch.from_numpy(np.concatenate([scan.points for scan in scans]))
    return points, torch.repeat_interleave(torch.tensor([len(scan) for scan in scans]))


def voxel_labels(batch: Batch, classes: int) -> Tensor:
    """(V,) the label that most points of a voxel have, the lower id of two; 255 without any."""
    known = batch.labels < classes
    cell = batch.voxels.point_voxel[known] * classes + batch.labels[known]
    cells = len(batch.voxels.level) * classes
    counts = torch.bincount(cell, minlength=cells).view(-1, classes)
    return counts.argmax(1).masked_fill(counts.sum(1) == 0, IGNORE).to(torch.uint8)


def _take_apart(batch: Batch) -> tuple[Any, ...]:
    view = batch.teacher
    theirs = (None,) * 9 if view is None else (*_take_voxels_apart(view.voxels), view.rows)
    return (
        *_take_voxels_apart(batch.voxels),
        *(batch.labels, batch.instances, batch.starts, batch.names),
        *theirs,
    )


def _take_voxels_apart(v: Voxels) -> tuple[Any, ...]:
    return (
        *(v.points, v.batch, v.rows, v.positions, v.point_voxel, v.features, v.coords),
        v.left_out,
    )


def _put_together(*parts: Any) -> Batch:
    ours, (labels, instances, starts, names), theirs = parts[:8], parts[8:12], parts[12:]
    view = None
    if theirs[0] is not None:
        view = TeacherView(voxels=_put_voxels_together(*theirs[:8]), rows=theirs[8])
    return Batch(
        voxels=_put_voxels_together(*ours),
        labels=labels,
        instances=instances,
        starts=starts,
        names=names,
        teacher=view,
    )


def _put_voxels_together(*parts: Any) -> Voxels:
    points, owner, rows, positions, point_voxel, features, coords, left_out = parts
    level = Level(coords)
    return Voxels(points, owner, rows, positions, point_voxel, features, level, left_out)
