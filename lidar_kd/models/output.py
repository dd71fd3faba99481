# SPDX-License-Identifier: Apache-2.0
"""What every network returns, so that every distillation term works with every pair of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from torch import Tensor

from lidar_kd.sparse import Level, SparseTensor
from lidar_kd.sparse.tensor import Triple
from lidar_kd.voxels import Voxels


@dataclass(frozen=True, eq=False)
class Early:
    """What the first decoder level gives; its cells are `stride` voxels wide."""

    tensor: SparseTensor
    stride: Triple
    voxels: Level  # the finest level


@dataclass(eq=False)
class Output:
    """N points, V voxels, C classes. A network without a point head answers for voxels, and its
    points take what their voxel has; one without a voxel head sets own_point_* and the mean.

    voxel_logits (V, C), voxel_features (V, E), point_voxel (N,) the voxel each point is in,
    own_point_logits (N, C) and own_point_features (N, D) of a network with a point head.
    early_features (U, E0) of the first decoder level, early_cell (V,) each voxel's row in them.
    """

    voxel_logits: Tensor
    voxel_features: Tensor
    point_voxel: Tensor
    own_point_logits: Tensor | None = None
    own_point_features: Tensor | None = None
    early: Early | None = None

    @cached_property
    def point_logits(self) -> Tensor:
        if self.own_point_logits is not None:
            return self.own_point_logits
        # its gradient is a sum in a fixed order; that of voxel_logits[point_voxel] is not
        return self.voxel_logits.index_select(0, self.point_voxel)

    @cached_property
    def point_features(self) -> Tensor:
        if self.own_point_features is not None:
            return self.own_point_features
        return self.voxel_features.index_select(0, self.point_voxel)

    @property
    def early_features(self) -> Tensor | None:
        return self.early.tensor.features if self.early else None

    @cached_property
    def early_cell(self) -> Tensor | None:
        if self.early is None:
            return None
        cells = self.early.voxels.coords
        return self.early.tensor.level.find(cells // cells.new_tensor([1, *self.early.stride]))


class SegmentationNetwork(Protocol):
    """What the Segmenter and the trainer ask of every network."""

    point_width: int  # channels of point_features, voxel_features and early_features
    voxel_width: int
    early_width: int

    def build_maps(self, level: Level) -> None:
        """Every kernel map the network will need, ahead of the first layer."""

    def __call__(self, voxels: Voxels) -> Output: ...
