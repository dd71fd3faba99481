# SPDX-License-Identifier: Apache-2.0
"""The parts that the U-Nets share."""

from __future__ import annotations

import torch
from torch import nn, Tensor

from lidar_kd.sparse import (
    ConvNorm,
    InverseConv,
    Norm,
    PointwiseConv,
    SparseTensor,
    StridedConv,
    SubmanifoldConv,
)

CUBE = (3, 3, 3)
HALF = (2, 2, 2)


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
        y: SparseTensor = self.first(x)
        residual: Tensor = x.features if self.shortcut is None else self.shortcut(x).features
        y = self.second(y, residual)
        return y


def joined(x: SparseTensor, skip: SparseTensor) -> SparseTensor:
    """The channels of both, on the same cells."""
    return x.with_features(torch.cat([x.features, skip.features], dim=1))
