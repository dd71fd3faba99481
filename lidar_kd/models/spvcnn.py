# SPDX-License-Identifier: Apache-2.0
"""SPVCNN: MinkUNet beside a point branch that keeps what a voxel blurs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from lidar_kd.models.blocks import on_rows
from lidar_kd.models.minkunet import BLOCKS, EARLY_STRIDE, scaled_widths, UNet
from lidar_kd.models.output import Early, Output
from lidar_kd.models.points import PointBranch
from lidar_kd.sparse import ConvNorm, Level, PointwiseConv, SparseTensor
from lidar_kd.voxels import Voxels


class SPVCNN(nn.Module):
    """The voxels hand their features to the points after stem, encoder, and each half of the
    decoder; the points hand theirs back before each half.

    The published code also averages the stem's features back into the voxels; for points at whole
    positions, as its checkpoints were trained, that changes nothing and it is left out here.
    whole_positions: points are where their voxel's features are, as those checkpoints want them.
    """

    def __init__(
        self,
        *,
        classes: int,
        width: float = 1.0,
        in_channels: int = 4,
        dropout: float = 0.3,
        whole_positions: bool = False,
        blocks: Sequence[int] = BLOCKS,
    ) -> None:
        super().__init__()
        widths = scaled_widths(width)
        self.unet = UNet(in_channels, widths, blocks)
        steps = (widths[0], widths[4], widths[6], widths[8])
        self.point_layers = nn.ModuleList(
            ConvNorm(PointwiseConv(a, b, bias=True)) for a, b in zip(steps, steps[1:])
        )
        self.whole_positions = whole_positions
        self.dropout = nn.Dropout(dropout)
        self.head = PointwiseConv(widths[-1], classes, bias=True)
        self.point_width = self.voxel_width = widths[-1]
        self.early_width = widths[5]

    def build_maps(self, level: Level) -> None:
        self.unet.build_maps(level)

    def forward(self, voxels: Voxels) -> Output:
        if self.whole_positions:
            cells = voxels.coords[:, 1:].index_select(0, voxels.point_voxel)
            voxels = replace(voxels, positions=cells.to(voxels.positions.dtype))
        level, points = voxels.level, PointBranch(voxels)
        to_bottleneck, *to_decoder = self.point_layers
        *skips, x = self.unet.encode(SparseTensor(voxels.features, level))
        z = points.interpolate(skips[0])
        z = points.interpolate(x).add_(on_rows(to_bottleneck, z, level))
        ups, halves = iter(self.unet.ups), []
        for layer in to_decoder:
            x = x.with_features(self.dropout(points.mean(z, x.level)))
            halves.append(next(ups)(x, skips.pop()))
            x = next(ups)(halves[-1], skips.pop())
            z = points.interpolate(x).add_(on_rows(layer, z, level))
        logits = on_rows(self.head, z, level)
        return Output(
            points.mean(logits, level),
            x.features,
            voxels.point_voxel,
            own_point_logits=logits,
            own_point_features=z,
            early=Early(halves[0], EARLY_STRIDE, level),
        )
