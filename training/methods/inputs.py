# SPDX-License-Identifier: Apache-2.0
"""What a method is given: what both networks say about the same points and voxels.

M points and V occupied voxels of the student, B scans, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from lidar_kd.errors import DataError
from lidar_kd.labels import ClassTable, IGNORE

Rows = Callable[[Tensor], Tensor]  # row numbers (R,) -> features (R, D)


@dataclass(frozen=True, kw_only=True, eq=False)
class AlignedOutput:
    """What one network says about the student's points and voxels; a teacher's is detached.

    Callables, for nothing is to be gathered or averaged that no term asks for; whoever makes
    them remembers what is dear. Gathers are index_select: the gradient of x[rows] is racy.
    """

    point_logits: Callable[[], Tensor]  # (M, C)
    voxel_logits: Callable[[], Tensor]  # (V, C)
    point_features: Rows  # of some points, the last shared layer
    voxel_features: Rows  # of some voxels, the last decoder level
    early_features: Rows | None = None  # of some points, an early decoder level
    seen: Callable[[], Tensor] | None = None  # logits of its own voxels, where those are others
    by_voxel: bool = False  # every point's logits are those of its voxel


@dataclass(frozen=True, kw_only=True, eq=False)
class HostRows:
    """What the samplers draw from, in host memory: they are numpy's. As in Inputs."""

    labels: Tensor
    instances: Tensor | None
    point_voxel: Tensor
    voxel_scan: Tensor
    voxel_xyz: Tensor
    find_voxel_labels: Callable[[], Tensor]  # only where a sampler asks

    @cached_property
    def label_array(self) -> NDArray[np.uint8]:
        labels: NDArray[np.uint8] = self.labels.numpy()
        return labels

    def of_classes(self, classes: int) -> HostRows:
        """Without labels that are none of them."""

        def leave_out(labels: Tensor) -> Tensor:
            return labels.masked_fill(labels >= classes, IGNORE)

        return replace(
            self,
            labels=leave_out(self.labels),
            find_voxel_labels=lambda: leave_out(self.find_voxel_labels()),
        )

    @cached_property
    def voxel_label_array(self) -> NDArray[np.uint8]:
        labels: NDArray[np.uint8] = self.find_voxel_labels().numpy()
        return labels


@dataclass(frozen=True, kw_only=True, eq=False)
class Inputs:
    """One batch: what is known of its points, and what both networks say."""

    points: Tensor  # (M, 4) x y z in metres, intensity
    labels: Tensor  # (M,) uint8 train ids, 255 ignored or not labelled
    instances: Tensor | None  # (M,) int64 number of an object within its scan and class, 0 none
    starts: tuple[int, ...]  # scan i has the points starts[i] to starts[i + 1]
    point_voxel: Tensor  # (M,) the voxel of each point
    voxel_scan: Tensor  # (V,) the scan of each voxel, ascending
    voxel_xyz: Tensor  # (V, 3) mean of their points in metres
    voxel_labels: Tensor  # (V,) uint8 majority label, 255 without any
    student: AlignedOutput
    teacher: AlignedOutput
    kept: HostRows | None = None  # of a batch on a GPU, what never left the host

    @property
    def scans(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def host(self) -> HostRows:
        """What was kept there, or a copy of what is on the device: a wait for it."""
        return self.kept or HostRows(
            labels=self.labels.cpu(),
            instances=None if self.instances is None else self.instances.cpu(),
            point_voxel=self.point_voxel.cpu(),
            voxel_scan=self.voxel_scan.cpu(),
            voxel_xyz=self.voxel_xyz.cpu(),
            find_voxel_labels=self.voxel_labels.cpu,
        )


@dataclass(frozen=True, kw_only=True)
class Widths:
    """Channels of what a network gives; adapters are built from them.

    classes: None for a teacher that teaches by features and relations alone.
    """

    classes: int | None
    point: int
    voxel: int
    early: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelStatistics:
    """What the methods know of the data before the first batch."""

    table: ClassTable
    class_shares: NDArray[np.float64]  # (C,) share of the labelled training points

    def class_weights(self, power: float) -> Tensor | None:
        """(C,) share ** -power, mean 1 over the classes that occur; None: all the same."""
        return torch.from_numpy(class_weights(self.class_shares, power=power)) if power else None


def class_weights(
    counts: NDArray[np.int64] | NDArray[np.float64], *, power: float = 0.5
) -> NDArray[np.float32]:
    """(C,) share ** -power, mean 1 over the classes that occur; 1 for those that do not."""
    weights = np.ones(len(counts), np.float64)
    occurs = counts > 0
    weights[occurs] = (counts[occurs] / counts.sum()) ** -power
    weights[occurs] /= weights[occurs].mean() if occurs.any() else 1.0
    return weights.astype(np.float32)


def check_teacher(teacher: AlignedOutput, names: Sequence[str]) -> Tensor:
    """() one look at what every term builds on, whether it is finite; NaN features give NaN
    logits. On a CPU it is refused at once; of a GPU the run asks later, for it would wait.

    names: of the scans.
    """
    logits = teacher.voxel_logits() if teacher.by_voxel else teacher.point_logits()
    finite = torch.isfinite(logits).all()
    if not finite.is_cuda and not finite:
        refuse_teacher(names)
    return finite


def refuse_teacher(names: Sequence[str]) -> NoReturn:
    where = ' '.join(names) or 'a batch'
    raise DataError(
        f'{where}: the teacher answers with numbers that are not finite; choose precision '
        'float32 or another teacher, or leave these scans out.'
    )
