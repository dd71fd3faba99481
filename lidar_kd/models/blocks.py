# SPDX-License-Identifier: Apache-2.0
"""The parts that the U-Nets share."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn, Tensor

from lidar_kd.sparse import (
    chain,
    ConvNorm,
    InverseConv,
    Level,
    Norm,
    PointwiseConv,
    SparseTensor,
    StridedConv,
    SubmanifoldConv,
)

CUBE = (3, 3, 3)
HALF = (2, 2, 2)
MOST_BLOCKS = 100  # per stage: a damaged description must not build layers for hours


def submanifold(c_in: int, c_out: int, *, relu: bool = True, norm: Norm | None = None) -> ConvNorm:
    return ConvNorm(SubmanifoldConv(c_in, c_out, CUBE), relu=relu, norm=norm)


def down(c_in: int, c_out: int, norm: Norm | None = None) -> ConvNorm:
    return ConvNorm(StridedConv(c_in, c_out, HALF), norm=norm)


def up(c_in: int, c_out: int, norm: Norm | None = None) -> ConvNorm:
    return ConvNorm(InverseConv(c_in, c_out, HALF), norm=norm)


class Residual(nn.Module):
    """relu(conv(relu(conv(x))) + shortcut(x)); the shortcut is linear where the widths differ."""

    def __init__(self, c_in: int, c_out: int, norm: Norm | None = None) -> None:
        super().__init__()
        self.first = submanifold(c_in, c_out, norm=norm)
        self.second = submanifold(c_out, c_out, norm=norm)
        self.shortcut: ConvNorm | None = None
        if c_in != c_out:
            self.shortcut = ConvNorm(PointwiseConv(c_in, c_out), relu=False, norm=norm)

    def forward(self, x: SparseTensor) -> SparseTensor:
        residual: Tensor = x.features if self.shortcut is None else self.shortcut(x).features
        return chain(self.first, self.second, x, residual)


class Down(nn.Module):
    """Half the resolution at `c_down` channels, then residual blocks of `c_out`."""

    def __init__(
        self, c_in: int, c_down: int, c_out: int, *, blocks: int = 2, norm: Norm | None = None
    ) -> None:
        super().__init__()
        self.down = down(c_in, c_down, norm)
        self.blocks = residuals(c_down, c_out, blocks, norm)

    @property
    def last(self) -> ConvNorm:
        """The layer whose result is the stage's."""
        block: Residual = self.blocks[-1]  # type: ignore[assignment]
        return block.second

    def forward(self, x: SparseTensor) -> SparseTensor:
        y: SparseTensor = self.blocks(self.down(x))
        return y


class Up(nn.Module):
    """Twice the resolution, joined with the encoder's features there, then residual blocks."""

    def __init__(
        self, c_in: int, c_skip: int, c_out: int, *, blocks: int = 2, norm: Norm | None = None
    ) -> None:
        super().__init__()
        self.up = up(c_in, c_out, norm)
        self.blocks = residuals(c_out + c_skip, c_out, blocks, norm)

    def forward(self, x: SparseTensor, skip: SparseTensor) -> SparseTensor:
        y: SparseTensor = self.blocks(self._join(x, skip))
        return y

    def _join(self, x: SparseTensor, skip: SparseTensor) -> SparseTensor:
        """The channels of both, on the same cells; without a copy where the skip has room."""
        if skip.joint is None:
            return joined(self.up(x), skip)
        self.up.infer_into(skip.joint[:, : self.up.conv.out_channels], x)
        return skip.with_features(skip.joint)


def joined(x: SparseTensor, skip: SparseTensor) -> SparseTensor:
    """The channels of both, on the same cells."""
    return x.with_features(torch.cat([x.features, skip.features], dim=1))


def leave_room(ups: Iterable[Up], skips: Iterable[ConvNorm]) -> None:
    """skips: the layers whose results the stages up are joined with, in their order."""
    for stage, layer in zip(ups, skips):
        layer.room = stage.up.conv.out_channels


def residuals(c_in: int, c_out: int, count: int, norm: Norm | None = None) -> nn.Sequential:
    return nn.Sequential(*(Residual(c_out if k else c_in, c_out, norm) for k in range(count)))


def build_level_maps(level: Level, strides: int) -> None:
    """Every kernel map of 3^3 convolutions on a level and `strides` coarser ones."""
    for _ in range(strides):
        level.submanifold(CUBE)
        level, _ = level.coarser(HALF)
    level.submanifold(CUBE)


def on_rows(layer: nn.Module, rows: Tensor, level: Level) -> Tensor:
    """A pointwise layer on rows that are no cells (points); the level lends its engine."""
    y: SparseTensor = layer(SparseTensor(rows, level))
    return y.features
