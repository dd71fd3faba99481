# SPDX-License-Identifier: Apache-2.0
"""What every network returns, so that every distillation term works with every pair of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from torch import Tensor

from lidar_kd.sparse import Level
from lidar_kd.voxels import Voxels


@dataclass(eq=False)
class Output:
    """N points, V voxels, C classes. A network without a point head answers for voxels, and its
    points take what their voxel has; one without a voxel head sets own_point_* and the mean.

    voxel_logits (V, C), voxel_features (V, E), point_voxel (N,) the voxel each point is in,
    own_point_logits (N, C) and own_point_features (N, D) of a network with a point head.
    """

    voxel_logits: Tensor
    voxel_features: Tensor
    point_voxel: Tensor
    own_point_logits: Tensor | None = None
    own_point_features: Tensor | None = None

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


class Network(Protocol):
    """What the Segmenter and the trainer ask of every network."""

    def build_maps(self, level: Level) -> None:
        """Every kernel map the network will need, ahead of the first layer."""

    def __call__(self, voxels: Voxels) -> Output: ...
