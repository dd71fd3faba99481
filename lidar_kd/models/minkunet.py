# SPDX-License-Identifier: Apache-2.0
"""MinkUNet: a residual U-Net on voxels; the small student that robots run, and a teacher."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lidar_kd.errors import ConfigError
from lidar_kd.models.blocks import build_level_maps, Down, leave_room, MOST_BLOCKS, submanifold, Up
from lidar_kd.models.output import Early, Output
from lidar_kd.sparse import Level, PointwiseConv, SparseTensor
from lidar_kd.voxels import Voxels

WIDTHS = (32, 32, 64, 128, 256, 256, 128, 96, 96)
EARLY_STRIDE = (8, 8, 8)  # after the first of four stages up
BLOCKS = (2,) * 8  # of four stages down, finest first, and four up, coarsest first


def scaled_widths(width: float) -> list[int]:
    """The channels of stem, four stages down and four up at a width ratio."""
    widths = [int(width * channels) for channels in WIDTHS]
    if min(widths) < 1:
        raise ConfigError(
            f'model: width {width:g} leaves layers without channels: '
            f'use {1 / min(WIDTHS):g} or more'
        )
    return widths


class UNet(nn.Module):
    """Stem, four stages down and four up; SPVCNN puts its point branch between the same parts."""

    def __init__(
        self, in_channels: int, widths: Sequence[int], blocks: Sequence[int] = BLOCKS
    ) -> None:
        super().__init__()
        if len(blocks) != len(BLOCKS) or not 1 <= min(blocks) <= max(blocks) <= MOST_BLOCKS:
            raise ConfigError(
                f'model: blocks: give {len(BLOCKS)} numbers of 1 to {MOST_BLOCKS}, of the stages '
                'down and up'
            )
        stem, *encoder = widths[:5]
        begin, first = submanifold(in_channels, stem), submanifold(stem, stem)
        self.stem = nn.Sequential(begin, first)
        levels = [stem, *encoder]
        downs = [Down(a, a, b, blocks=count) for a, b, count in zip(levels, encoder, blocks)]
        self.downs = nn.ModuleList(downs)
        decoder = widths[4:]
        ups = [
            Up(a, skip, b, blocks=count)
            for a, skip, b, count in zip(decoder, levels[-2::-1], decoder[1:], blocks[4:])
        ]
        self.ups = nn.ModuleList(ups)
        leave_room(ups[::-1], [first, *(stage.last for stage in downs[:-1])])

    def encode(self, x: SparseTensor) -> list[SparseTensor]:
        """Stem and every stage down, finest first."""
        levels = [self.stem(x)]
        for stage in self.downs:
            levels.append(stage(levels[-1]))
        return levels

    def build_maps(self, level: Level) -> None:
        """Every kernel map the network will ask for."""
        build_level_maps(level, len(self.downs))


class MinkUNet(nn.Module):
    """blocks: of each stage, as UNet has them; 2, 3, 4, 6 and four times 2 make MinkUNet34."""

    def __init__(
        self,
        *,
        classes: int,
        width: float = 1.0,
        in_channels: int = 4,
        blocks: Sequence[int] = BLOCKS,
    ) -> None:
        super().__init__()
        widths = scaled_widths(width)
        self.unet = UNet(in_channels, widths, blocks)
        self.head = PointwiseConv(widths[-1], classes, bias=True)
        self.point_width = self.voxel_width = widths[-1]
        self.early_width = widths[5]

    def build_maps(self, level: Level) -> None:
        self.unet.build_maps(level)

    def forward(self, voxels: Voxels) -> Output:
        *skips, x = self.unet.encode(SparseTensor(voxels.features, voxels.level))
        first, *stages = self.unet.ups
        early = x = first(x, skips.pop())
        for stage in stages:
            x = stage(x, skips.pop())
        return Output(
            self.head(x).features,
            x.features,
            voxels.point_voxel,
            early=Early(early, EARLY_STRIDE, voxels.level),
        )
