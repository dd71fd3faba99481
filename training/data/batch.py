# SPDX-License-Identifier: Apache-2.0
"""Batches of scans: the same ones in the same order for any number of workers, and resumable.

M points, V voxels, B scans. Points that the grid cannot hold are not in a batch, so every row of
a network's Output has its label here; scoring of all points is the Segmenter's task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from lidar_kd.labels import IGNORE
from lidar_kd.sparse import Level
from lidar_kd.voxels import CartesianGrid, CylinderGrid, voxelize, Voxels
from training.data.scan import Scan
from training.methods.without_wait import bring, count_rows

AnyGrid = CartesianGrid | CylinderGrid


@dataclass(frozen=True)
class TeacherInput:
    """How a teacher looks at scans: on its grid, fused with their past or as the student sees
    them, augmented or as they were before that.
    """

    grid: AnyGrid
    fused: bool = False
    augmented: bool = True


@dataclass(frozen=True, kw_only=True, eq=False)
class TeacherView:
    """What a teacher sees where that differs from what the student sees.

    rows (M,): where each point of the batch is among those of the teacher's voxels.
    labels: (points of the teacher's voxels,) uint8, of the past as well.
    """

    voxels: Voxels
    rows: Tensor
    labels: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """B scans one after the other.

    voxels: their points, owners and voxels; labels (M,) uint8 train ids, 255 ignored;
    instances (M,) int64, 0 in a scan without any, or None where no scan has some;
    starts: scan i has the rows starts[i] to starts[i + 1];
    views: what teachers see; those whose teacher_input is not there see the batch's own voxels.
    """

    voxels: Voxels
    labels: Tensor
    instances: Tensor | None
    starts: tuple[int, ...]
    names: tuple[str, ...]
    views: Mapping[TeacherInput, TeacherView] = field(default_factory=dict)
    host: Batch | None = None  # of a batch on a device, the one it was copied from

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
        """On a device, with what the host knows of it."""
        device = torch.device(device)
        parts: list[Any] = [
            bring(part, device) if isinstance(part, Tensor) else part for part in _take_apart(self)
        ]
        return replace(_put_together(*parts), host=None if device.type == 'cpu' else self)

    def __reduce__(self) -> tuple[Callable[..., Batch], tuple[Any, ...]]:
        # An engine is bound to its process: a worker sends the tensors, and the batch is put
        # together with the engine that the receiver has for them.
        return _put_together, _take_apart(self)


def make_batch(
    scans: Sequence[Scan], grid: AnyGrid, *, teacher_inputs: Sequence[TeacherInput] = ()
) -> Batch:
    """With teachers the past of fused scans is for their eyes alone; without any it is learnt
    from. Points that one of the grids cannot hold are left out of the batch.
    """
    own = [_present(scan) for scan in scans] if teacher_inputs else scans
    seen = {
        teacher_input: _look(scans if teacher_input.fused else own, teacher_input)
        for teacher_input in dict.fromkeys(teacher_inputs)
        if _differs(teacher_input, scans, grid)
    }
    scans, rows = _keep_what_all_see(own, [rows for _, _, rows in seen.values()])
    points, owner = _concatenate(scans)
    voxels = voxelize(points, grid, batch=owner)
    labels = torch.from_numpy(np.concatenate([scan.labels for scan in scans]))
    instances = None
    if any(scan.instances is not None for scan in scans):
        instances = torch.from_numpy(np.concatenate([_numbers(scan) for scan in scans]))
        instances = instances[voxels.rows]
    starts = torch.searchsorted(voxels.batch, torch.arange(len(scans) + 1, dtype=torch.int32))
    return Batch(
        voxels=voxels,
        labels=labels[voxels.rows],
        instances=instances,
        starts=tuple(starts.tolist()),
        names=tuple(scan.name for scan in scans),
        views={
            teacher_input: TeacherView(voxels=theirs, rows=mine[voxels.rows], labels=told)
            for (teacher_input, (theirs, told, _)), mine in zip(seen.items(), rows)
        },
    )


def _numbers(scan: Scan) -> NDArray[np.int64]:
    """(N,) of its objects; none in a scan that nobody labelled."""
    if scan.instances is None:
        return np.zeros(len(scan), dtype=np.int64)
    return scan.instances.astype(np.int64)


def _differs(teacher_input: TeacherInput, scans: Sequence[Scan], grid: AnyGrid) -> bool:
    """Whether the teacher sees other voxels than the student."""
    fused = teacher_input.fused and any(scan.past is not None for scan in scans)
    moved = not teacher_input.augmented and any(scan.unmoved is not None for scan in scans)
    return teacher_input.grid != grid or fused or moved


def _look(
    scans: Sequence[Scan], teacher_input: TeacherInput
) -> tuple[Voxels, Tensor, list[Tensor]]:
    """A teacher's voxels, the labels of their points, and by scan where its own points are among
    them; -1 nowhere.
    """
    if not teacher_input.augmented:
        scans = [_before_augmentation(scan) for scan in scans]
    points, owner = _concatenate(scans)
    voxels = voxelize(points, teacher_input.grid, batch=owner)
    row = torch.full((len(points),), -1)
    row[voxels.rows] = torch.arange(len(voxels.rows))
    by_scan = zip(scans, row.split([len(scan) for scan in scans]))
    labels = torch.from_numpy(np.concatenate([scan.labels for scan in scans]))[voxels.rows]
    return (
        voxels,
        labels,
        [
            rows if scan.past is None else rows[torch.from_numpy(~scan.past)]
            for scan, rows in by_scan
        ],
    )


def _keep_what_all_see(
    scans: Sequence[Scan], rows: Sequence[Sequence[Tensor]]
) -> tuple[list[Scan], list[Tensor]]:
    """The scans without points that a teacher cannot see, and by teacher where the others are."""
    kept, known = [], []
    for scan, of_scan in zip(scans, zip(*rows) if rows else [()] * len(scans)):
        held = torch.ones(len(scan), dtype=torch.bool)
        for mine in of_scan:
            held &= mine >= 0
        known.append(held)
        kept.append(scan if bool(held.all()) else scan.take(held.numpy()))
    return kept, [torch.cat([row[held] for row, held in zip(mine, known)]) for mine in rows]


def _before_augmentation(scan: Scan) -> Scan:
    return scan if scan.unmoved is None else replace(scan, points=scan.unmoved)


def _present(scan: Scan) -> Scan:
    """The scan without what fusion added."""
    return scan if scan.past is None else replace(scan, past=None).take(~scan.past)


def _concatenate(scans: Sequence[Scan]) -> tuple[Tensor, Tensor]:
    """(N, 4) points of all scans, (N,) the scan of each."""
    points = torch.from_numpy(np.concatenate([scan.points for scan in scans]))
    return points, torch.repeat_interleave(torch.tensor([len(scan) for scan in scans]))


def voxel_labels(batch: Batch, classes: int) -> Tensor:
    """(V,) the label that most points of a voxel have, the lower id of two; 255 without any."""
    voxels = batch.voxels
    return majority(batch.labels, voxels.point_voxel, len(voxels.level), classes)


def majority(labels: Tensor, point_voxel: Tensor, voxels: int, classes: int) -> Tensor:
    """(M,) uint8 labels of points in voxels -> (V,) uint8, 255 where none has one."""
    known = labels < classes
    if labels.is_cuda:
        cell = point_voxel * classes + labels.long().masked_fill(~known, 0)
        counts = count_rows(cell, voxels * classes, known).view(-1, classes)
    else:
        cell = point_voxel[known] * classes + labels[known]
        counts = torch.bincount(cell, minlength=voxels * classes).view(-1, classes)
    return counts.argmax(1).masked_fill(counts.sum(1) == 0, IGNORE).to(torch.uint8)


def newly_labelled(view: TeacherView, batch: Batch, classes: int) -> Tensor:
    """(voxels of a teacher,) uint8 their majority label where the past, that only it sees, gives
    another than the batch's own points do; 255 elsewhere.
    """
    cells, voxels = view.voxels.point_voxel, len(view.voxels.level)
    fused = majority(view.labels, cells, voxels, classes)
    own = majority(batch.labels, cells.index_select(0, view.rows), voxels, classes)
    return fused.masked_fill(fused == own, IGNORE)


def _take_apart(batch: Batch) -> tuple[Any, ...]:
    parts = [*_take_voxels_apart(batch.voxels), batch.labels, batch.instances, batch.starts,
             batch.names]  # fmt: skip
    for teacher_input, view in batch.views.items():
        parts += [teacher_input, view.rows, view.labels, *_take_voxels_apart(view.voxels)]
    return tuple(parts)


def _take_voxels_apart(v: Voxels) -> tuple[Any, ...]:
    return (
        *(v.points, v.batch, v.rows, v.positions, v.point_voxel, v.features, v.coords),
        v.left_out,
    )


def _put_together(*parts: Any) -> Batch:
    ours, (labels, instances, starts, names), theirs = parts[:8], parts[8:12], parts[12:]
    views = {}
    for first in range(0, len(theirs), 11):
        teacher_input, rows, told, *voxels = theirs[first : first + 11]
        views[teacher_input] = TeacherView(
            voxels=_put_voxels_together(*voxels), rows=rows, labels=told
        )
    return Batch(
        voxels=_put_voxels_together(*ours),
        labels=labels,
        instances=instances,
        starts=starts,
        names=names,
        views=views,
    )


def _put_voxels_together(*parts: Any) -> Voxels:
    points, owner, rows, positions, point_voxel, features, coords, left_out = parts
    level = Level(coords)
    return Voxels(points, owner, rows, positions, point_voxel, features, level, left_out)
