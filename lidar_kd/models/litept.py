# SPDX-License-Identifier: Apache-2.0
"""LitePT: a point transformer thinned out; convolution on fine levels, attention on coarse ones.

Its points are voxels, as in PTv3, whose ways between levels it shares. V cells of a level.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn, Tensor

from lidar_kd.errors import ConfigError
from lidar_kd.models.blocks import build_level_maps, CUBE, MOST_BLOCKS
from lidar_kd.models.fixed_patches import order_cells, Ordered
from lidar_kd.models.output import Early, Output
from lidar_kd.models.ptv3 import NORM, Pool, STEM, Unpool
from lidar_kd.models.serialization import ORDERS, Patches
from lidar_kd.models.transformer import (
    Attention,
    DropPath,
    in_parts,
    join_parts,
    LayerNorm,
    Linear,
)
from lidar_kd.sparse import ConvNorm, Engine, Level, SparseTensor, SubmanifoldConv
from lidar_kd.voxels import Voxels


class ConvBlock(nn.Module):
    """x += norm(linear(conv(x)))"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = SubmanifoldConv(channels, channels, CUBE, bias=True)
        self.linear = Linear(channels, channels)
        self.norm = LayerNorm(channels)

    def forward(self, x: Tensor, seen: Tensor, level: Level) -> Tensor:
        """seen: what the convolution sees of the cells."""
        y: Tensor = self.norm(self.linear(self.conv(SparseTensor(seen, level)).features))
        return x + y


class RotaryBlock(nn.Module):
    """x = norm(x), without a shortcut; x += attention(norm(x)); x += mlp(norm(x))"""

    def __init__(self, channels: int, heads: int, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        hidden = int(channels * mlp_ratio)
        self.norm = LayerNorm(channels)
        self.attention_norm = LayerNorm(channels)
        self.attention = Attention(channels, heads)
        self.mlp_norm = LayerNorm(channels)
        self.mlp = nn.Sequential(Linear(channels, hidden), nn.GELU(), Linear(hidden, channels))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, patches: Patches, turns: Tensor, engine: Engine) -> Tensor:
        x = self.norm(x)
        y = self.attention(self.attention_norm(x), patches, engine, turns)
        x = x + self.drop_path(y)
        return join_parts([part + self.drop_path(self._mix(part, engine)) for part in in_parts(x)])

    def _mix(self, x: Tensor, engine: Engine) -> Tensor:
        wide, _, narrow = self.mlp  # published checkpoints count the GELU between them
        y: Tensor = narrow(engine.attention.gelu(wide(self.mlp_norm(x))))
        return y


class LiteStage(nn.ModuleList):
    """The blocks of one level; block k looks along order k, in patches of `patch` cells."""

    def __init__(self, blocks: Iterable[nn.Module], patch: int, rope_base: float) -> None:
        super().__init__(blocks)
        self.patch, self.rope_base = patch, rope_base

    def forward(self, x: Tensor, seen: Tensor, cells: Ordered) -> Tensor:
        turns = None
        for k, block in enumerate(self):
            if isinstance(block, RotaryBlock):
                if turns is None:
                    turns = self._turns(cells.level, x.shape[1] // block.attention.heads // 6)
                x = block(x, cells.patches(k, self.patch), turns, cells.level.engine)
            else:
                x = seen = block(x, seen, cells.level)
        return x

    def _turns(self, level: Level, width: int) -> Tensor:
        """(V, 2, 3, m) cosines and sines of p * base^(-i / m)"""
        steps = torch.arange(width, device=level.coords.device) / width
        angles = level.coords[:, 1:, None] * self.rope_base**-steps
        return torch.stack([angles.cos(), angles.sin()], 1)


class LitePT(nn.Module):
    """encoder_*, decoder_*: one number per level, finest first; the decoder has one level less.

    attention_from: the first level whose blocks attend; those before it convolve. rope_base: of
    the frequencies by which cells turn queries and keys.
    """

    def __init__(
        self,
        *,
        classes: int,
        in_channels: int = 4,
        encoder_depths: Sequence[int] = (2, 2, 2, 6, 2),
        encoder_channels: Sequence[int] = (36, 72, 144, 252, 504),
        encoder_heads: Sequence[int] = (2, 4, 8, 14, 28),
        decoder_depths: Sequence[int] = (0, 0, 0, 0),
        decoder_channels: Sequence[int] = (72, 72, 144, 252),
        decoder_heads: Sequence[int] = (4, 4, 8, 14),
        attention_from: int = 3,
        patch: int = 1024,
        rope_base: float = 100.0,
        orders: Sequence[str] = ORDERS,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.3,
    ) -> None:
        super().__init__()
        encoder = list(zip(encoder_depths, encoder_channels, encoder_heads))
        decoder = list(zip(decoder_depths, decoder_channels, decoder_heads))
        lengths = [len(encoder_depths), len(encoder_channels), len(encoder_heads)]
        lengths += [len(part) + 1 for part in (decoder_depths, decoder_channels, decoder_heads)]
        _check(lengths, encoder, decoder, attention_from)
        if not orders or {*orders} - {*ORDERS}:
            raise ConfigError(f'model litept: orders: choose of {", ".join(ORDERS)}')
        self.orders, self.patch, self.rope_base = tuple(orders), patch, rope_base
        self.attention_from = attention_from
        self.stem = ConvNorm(
            SubmanifoldConv(in_channels, encoder_channels[0], STEM), relu=False, norm=NORM
        )
        self.pools = nn.ModuleList(map(Pool, encoder_channels, encoder_channels[1:]))
        below = [*decoder_channels, encoder_channels[-1]]
        self.unpools = nn.ModuleList(map(Unpool, below[1:], encoder_channels, decoder_channels))
        self.encoder = self._levels(encoder, mlp_ratio, drop_path)
        self.decoder = self._levels(decoder, mlp_ratio, drop_path)
        self.head = Linear(below[0], classes)
        self.point_width = self.voxel_width = below[0]
        self.early_width = below[-2] if decoder_channels else below[0]

    def _levels(
        self, stages: Sequence[tuple[int, int, int]], mlp_ratio: float, drop_path: float
    ) -> nn.ModuleList:
        """The deeper a block, the likelier its branches are left out."""
        count = sum(depth for depth, _, _ in stages)
        rates = iter(torch.linspace(0, drop_path, count, device='cpu').tolist())
        return nn.ModuleList(
            LiteStage(
                [
                    RotaryBlock(channels, heads, mlp_ratio, rate)
                    if level >= self.attention_from
                    else ConvBlock(channels)
                    for rate in [next(rates) for _ in range(depth)]
                ],
                self.patch,
                self.rope_base,
            )
            for level, (depth, channels, heads) in enumerate(stages)
        )

    def build_maps(self, level: Level) -> None:
        level.submanifold(STEM)
        build_level_maps(level, len(self.pools))

    def forward(self, voxels: Voxels) -> Output:
        stem = self.stem(SparseTensor(voxels.features, voxels.level))
        x = voxels.level.engine.attention.gelu(stem.features)
        levels, parents, skips = [self._ordered(voxels.level, 0)], [], []
        for k, blocks in enumerate(self.encoder):
            if k:
                coarse, pairs = levels[-1].level.coarser((2, 2, 2))
                levels.append(self._ordered(coarse, k))
                parents.append(pairs.parents)
                skips.append(x)
                x = self.pools[k - 1](x, pairs.parents, coarse)
            x = blocks(x, x, levels[k])
        top = max(0, len(skips) - 1)  # the first level of the decoder
        early = x
        for k in reversed(range(len(skips))):
            fine, coarse = levels[k].level, levels[k + 1].level
            x, own = self.unpools[k](x, coarse, skips.pop(), fine, parents[k])
            x = self.decoder[k](x, own, levels[k])
            early = x if k == top else early
        return Output(
            self.head(x),
            x,
            voxels.point_voxel,
            early=Early(SparseTensor(early, levels[top].level), (2**top,) * 3, voxels.level),
        )

    def _ordered(self, level: Level, k: int) -> Ordered:
        """The orders are found anew at each level that attends, and asked for nowhere else."""
        return order_cells(level, self.orders, len(self.pools) - k)


def _check(
    lengths: Sequence[int],
    encoder: Sequence[tuple[int, int, int]],
    decoder: Sequence[tuple[int, int, int]],
    attention_from: int,
) -> None:
    if len({*lengths}) > 1:
        raise ConfigError(
            'model litept: give one depth, width and number of heads per level, and to the '
            'decoder one less'
        )
    for stages in (encoder, decoder):
        for level, (depth, channels, heads) in enumerate(stages):
            if not 0 <= depth <= MOST_BLOCKS or min(channels, heads) < 1:
                raise ConfigError(
                    f'model litept: depths must be 0 to {MOST_BLOCKS}, widths and heads 1 or more'
                )
            if depth and level >= attention_from and channels % (6 * heads):
                raise ConfigError(
                    f'model litept: {channels} channels in {heads} heads: a head must have a '
                    'multiple of 6 channels, two of each axis'
                )
