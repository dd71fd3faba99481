# SPDX-License-Identifier: Apache-2.0
"""Point Transformer V3: attention in patches of cells along curves; the large teacher.

Its points are voxels: one row per occupied cell, and points take what their voxel has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import nn, Tensor
from torch.utils.checkpoint import checkpoint

from lidar_kd.errors import ConfigError
from lidar_kd.models.blocks import build_level_maps, MOST_BLOCKS
from lidar_kd.models.fixed_patches import order_cells, Ordered
from lidar_kd.models.output import Early, Output
from lidar_kd.models.points import highest
from lidar_kd.models.serialization import ORDERS
from lidar_kd.models.transformer import AttentionBlock, Linear, MlpSeen, take_rows
from lidar_kd.sparse import ConvNorm, Level, Norm, SparseTensor, SubmanifoldConv
from lidar_kd.voxels import Voxels

STEM = (5, 5, 5)
NORM = Norm(eps=1e-3, momentum=0.01)


class LinearNorm(nn.Module):
    """gelu(norm(linear(x)))"""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.linear = Linear(c_in, c_out)
        self.norm = nn.BatchNorm1d(c_out, eps=NORM.eps, momentum=NORM.momentum)

    def forward(self, x: Tensor, level: Level) -> Tensor:
        return self.activate(self.linear(x), level)

    def activate(self, y: Tensor, level: Level) -> Tensor:
        return level.engine.attention.gelu(
            level.engine.norms.normalise(y, self.norm, None, relu=False)
        )


class Pool(nn.Module):
    """gelu(norm(max of linear(x) over the finer cells in each coarser one))"""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.proj = LinearNorm(c_in, c_out)

    def forward(self, x: Tensor, parent: Tensor, coarse: Level) -> Tensor:
        most = highest(self.proj.linear(x), parent, len(coarse))
        return self.proj.activate(most, coarse)


class Unpool(nn.Module):
    """What the coarser cell has, projected, plus what the encoder had here, projected.

    Returns the sum and its second part, which the next block's convolution sees in its stead: so
    the published code runs, and its checkpoints were trained.
    """

    def __init__(self, c_in: int, c_skip: int, c_out: int) -> None:
        super().__init__()
        self.proj = LinearNorm(c_in, c_out)
        self.skip = LinearNorm(c_skip, c_out)

    def forward(
        self, x: Tensor, coarse: Level, skip: Tensor, fine: Level, parent: Tensor
    ) -> tuple[Tensor, Tensor]:
        own: Tensor = self.skip(skip, fine)
        return own + take_rows(self.proj(x, coarse), parent), own


class Blocks(nn.ModuleList):
    """The blocks of one level; block k looks along order k."""

    def __init__(self, blocks: Iterable[AttentionBlock], patch: int) -> None:
        super().__init__(blocks)
        self.patch = patch
        self.checkpointing = False

    def forward(self, x: Tensor, cells: Ordered, seen: Tensor | None = None) -> Tensor:
        for k, block in enumerate(self):
            inputs = x, cells.level, cells.patches(k, self.patch), seen
            if self.checkpointing and torch.is_grad_enabled():
                x, seen = checkpoint(block, *inputs, use_reentrant=False)
            else:
                x, seen = block(*inputs)
        return x


class PTv3(nn.Module):
    """encoder_*, decoder_*: one number per level, finest first; the decoder has one level less.

    patch: cells that attend to each other, for all levels or per level; more than 256 pay only
    with a fused attention kernel on a GPU. checkpointing: less memory in training for a second
    forward pass. conv_sees_mlp: the convolution of every block but a level's first sees what the
    MLP before it adds instead of the sum, as the published code ran before its version 1.5.2.
    """

    def __init__(
        self,
        *,
        classes: int,
        in_channels: int = 4,
        encoder_depths: Sequence[int] = (2, 2, 2, 6, 2),
        encoder_channels: Sequence[int] = (32, 64, 128, 256, 512),
        encoder_heads: Sequence[int] = (2, 4, 8, 16, 32),
        decoder_depths: Sequence[int] = (2, 2, 2, 2),
        decoder_channels: Sequence[int] = (64, 64, 128, 256),
        decoder_heads: Sequence[int] = (4, 4, 8, 16),
        patch: int | Sequence[int] = 256,
        decoder_patch: int | Sequence[int] | None = None,
        orders: Sequence[str] = ORDERS,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.3,
        checkpointing: bool = False,
        conv_sees_mlp: bool = False,
    ) -> None:
        super().__init__()
        encoder = _stages(encoder_depths, encoder_channels, encoder_heads, patch)
        decoder_patch = decoder_patch or (patch if isinstance(patch, int) else patch[:-1])
        decoder = _stages(decoder_depths, decoder_channels, decoder_heads, decoder_patch)
        _check(encoder, decoder, orders)
        self.orders = tuple(orders)
        widths = encoder_channels
        stem = SubmanifoldConv(in_channels, widths[0], STEM)
        self.stem = ConvNorm(stem, relu=False, norm=NORM)
        self.pools = nn.ModuleList(map(Pool, widths, widths[1:]))
        block = partial(MlpSeen if conv_sees_mlp else AttentionBlock, mlp_ratio=mlp_ratio)
        self.encoder = _levels(encoder, _rates(encoder_depths, drop_path), block)
        below = [*decoder_channels, widths[-1]]
        self.unpools = nn.ModuleList(map(Unpool, below[1:], widths, decoder_channels))
        rates = [sorted(stage, reverse=True) for stage in _rates(decoder_depths, drop_path)]
        self.decoder = _levels(decoder, rates, block)
        self.head = Linear(below[0], classes)
        self.point_width = self.voxel_width = below[0]
        self.early_width = below[-2] if decoder_channels else below[0]
        for stage in [*self.encoder, *self.decoder]:
            stage.checkpointing = checkpointing

    def build_maps(self, level: Level) -> None:
        level.submanifold(STEM)
        build_level_maps(level, len(self.pools))

    def forward(self, voxels: Voxels) -> Output:
        levels, parents = self._pyramid(voxels.level)
        stem = self.stem(SparseTensor(voxels.features, voxels.level))
        x = voxels.level.engine.attention.gelu(stem.features)
        skips = []
        for k, cells in enumerate(levels):
            if k:
                skips.append(x)
                x = self.pools[k - 1](x, parents[k - 1], cells.level)
            x = self.encoder[k](x, cells)
        top = max(0, len(skips) - 1)  # the first level of the decoder
        early = x
        for k in reversed(range(len(skips))):
            coarse, fine = levels[k + 1].level, levels[k].level
            x, own = self.unpools[k](x, coarse, skips.pop(), fine, parents[k])
            x = self.decoder[k](x, levels[k], own)
            early = x if k == top else early
        return Output(
            self.head(x),
            x,
            voxels.point_voxel,
            early=Early(SparseTensor(early, levels[top].level), (2**top,) * 3, voxels.level),
        )

    def _pyramid(self, level: Level) -> tuple[list[Ordered], list[Tensor]]:
        """Every level in its orders, finest first, and each one's rows in the next."""
        levels, parents = [order_cells(level, self.orders, len(self.pools))], []
        for _ in self.pools:
            coarse, parent = levels[-1].pooled()
            levels.append(coarse)
            parents.append(parent)
        if not self.training:
            return levels, parents
        return [cells.shuffled() for cells in levels], parents


def _stages(
    depths: Sequence[int],
    channels: Sequence[int],
    heads: Sequence[int],
    patch: int | Sequence[int],
) -> list[tuple[int, int, int]]:
    """(channels, heads, patch) per level, finest first."""
    patches = [patch] * len(depths) if isinstance(patch, int) else patch
    lengths = [len(depths), len(channels), len(heads), len(patches)]
    if len(set(lengths)) > 1:
        raise ConfigError(
            'model ptv3: {} depths, {} channels, {} heads and {} patches: '
            'give one of each per level'.format(*lengths)
        )
    if min([1, *depths, *channels, *heads, *patches]) < 1:
        raise ConfigError('model ptv3: depths, channels, heads and patches must be 1 or more')
    if max(depths, default=0) > MOST_BLOCKS:
        raise ConfigError(f'model ptv3: depths must be {MOST_BLOCKS} or fewer per level')
    for width, count in zip(channels, heads):
        if width % count:
            raise ConfigError(f'model ptv3: {count} heads do not divide {width} channels')
    return list(zip(channels, heads, patches))


def _levels(
    stages: Sequence[tuple[int, int, int]],
    rates: Sequence[Sequence[float]],
    block: Callable[..., AttentionBlock],
) -> nn.ModuleList:
    """rates: of drop path, per block of every level."""
    return nn.ModuleList(
        Blocks([block(channels, heads, drop_path=rate) for rate in own], patch)
        for (channels, heads, patch), own in zip(stages, rates)
    )


def _check(encoder: Sequence[object], decoder: Sequence[object], orders: Sequence[str]) -> None:
    if len(encoder) != len(decoder) + 1:
        raise ConfigError(
            f'model ptv3: {len(encoder)} levels in the encoder and {len(decoder)} in the decoder: '
            'the decoder has one less'
        )
    unknown = sorted({*orders} - {*ORDERS})
    if unknown or not orders:
        raise ConfigError(
            f'model ptv3: orders: {", ".join(unknown) or "none"}: choose of {", ".join(ORDERS)}'
        )


def _rates(depths: Sequence[int], drop_path: float) -> list[list[float]]:
    """The deeper a block, the likelier its branches are left out."""
    rates = torch.linspace(0, drop_path, sum(depths), device='cpu').tolist()
    return [[rates.pop(0) for _ in range(depth)] for depth in depths]
