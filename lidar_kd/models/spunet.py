# SPDX-License-Identifier: Apache-2.0
"""SpUNet: the widely used sparse U-Net with a 5^3 stem and any depth and widths; a teacher."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lidar_kd.errors import ConfigError
from lidar_kd.models.blocks import build_level_maps, Down, leave_room, MOST_BLOCKS, Up
from lidar_kd.models.output import Early, Output
from lidar_kd.sparse import ConvNorm, Level, Norm, PointwiseConv, SparseTensor, SubmanifoldConv
from lidar_kd.voxels import Voxels

STEM = (5, 5, 5)
NORM = Norm(eps=1e-3, momentum=0.01)


class SpUNet(nn.Module):
    """channels, layers: of the stages down, finest first, then of those up, coarsest first."""

    def __init__(
        self,
        *,
        classes: int,
        in_channels: int = 4,
        base_channels: int = 32,
        channels: Sequence[int] = (32, 64, 128, 256, 256, 128, 96, 96),
        layers: Sequence[int] = (2, 3, 4, 6, 2, 2, 2, 2),
    ) -> None:
        super().__init__()
        _check(channels, layers)
        stages = len(channels) // 2
        skips = [base_channels, *channels[:stages]]
        decoder = channels[stages - 1 :]
        self.stem = ConvNorm(SubmanifoldConv(in_channels, base_channels, STEM), norm=NORM)
        downs = [
            Down(a, b, b, blocks=blocks, norm=NORM)
            for a, b, blocks in zip(skips, skips[1:], layers)
        ]
        self.downs = nn.ModuleList(downs)
        ups = [
            Up(a, skip, b, blocks=blocks, norm=NORM)
            for a, skip, b, blocks in zip(decoder, skips[-2::-1], decoder[1:], layers[stages:])
        ]
        self.ups = nn.ModuleList(ups)
        leave_room(ups[::-1], [self.stem, *(stage.last for stage in downs[:-1])])
        self.head = PointwiseConv(channels[-1], classes, bias=True)
        self.point_width = self.voxel_width = channels[-1]
        self.early_width = decoder[1]

    def build_maps(self, level: Level) -> None:
        level.submanifold(STEM)
        build_level_maps(level, len(self.downs))

    def forward(self, voxels: Voxels) -> Output:
        x = self.stem(SparseTensor(voxels.features, voxels.level))
        skips = []
        for stage in self.downs:
            skips.append(x)
            x = stage(x)
        first, *stages = self.ups
        early = x = first(x, skips.pop())
        for stage in stages:
            x = stage(x, skips.pop())
        width = 2 ** len(stages)
        return Output(
            self.head(x).features,
            x.features,
            voxels.point_voxel,
            early=Early(early, (width, width, width), voxels.level),
        )


def _check(channels: Sequence[int], layers: Sequence[int]) -> None:
    if not channels or len(channels) % 2 or len(channels) != len(layers):
        raise ConfigError(
            f'model spunet: {len(channels)} channels and {len(layers)} layers: '
            'give one of each per stage down and as many up'
        )
    if min(*channels, *layers) < 1:
        raise ConfigError('model spunet: channels and layers must be 1 or more')
    if max(layers) > MOST_BLOCKS:
        raise ConfigError(f'model spunet: layers must be {MOST_BLOCKS} or fewer per stage')
