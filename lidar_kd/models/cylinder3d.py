# SPDX-License-Identifier: Apache-2.0
"""Cylinder3D: a U-Net of flat kernels on cells of a cylinder; PVKD's teacher and student.

N points, V cells; w the width. The first axis is the radius, the second the angle, the third the
height. As in the published network the angle does not wrap around: cells on both sides of -pi are
no neighbours.

Our own networks keep what is sounder: every layer its own kernel, offsets in cells, the coarse
cells that a kernel reaches beyond the border, and an answer for each point. Published weights were
trained otherwise: shared_pairs, cell_sizes, extent and point_head False run them as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn, Tensor
from torch.nn import functional as F

from lidar_kd.errors import ConfigError
from lidar_kd.models.blocks import CUBE, HALF, joined, on_rows
from lidar_kd.models.output import Early, Output
from lidar_kd.models.points import highest
from lidar_kd.sparse import (
    Conv,
    ConvNorm,
    InverseConv,
    Level,
    PointwiseConv,
    SparseTensor,
    StridedConv,
    SubmanifoldConv,
)
from lidar_kd.sparse.tensor import Triple
from lidar_kd.voxels import Voxels

GEOMETRY = 9  # channels of a point
WALL, SLICE = (1, 3, 3), (3, 1, 3)  # at one radius; at one angle
LINES = ((3, 1, 1), (1, 3, 1), (1, 1, 3))
FLAT = (2, 2, 1)  # keeps the height
STRIDES = (HALF, HALF, FLAT, FLAT)
EARLY_STRIDE = (8, 8, 4)  # after the first three of them


class ConvLeakyNorm(nn.Module):
    """norm(leaky_relu(conv(x))) + residual?

    A norm behind a nonlinearity does not fold into the convolution before it.
    """

    def __init__(self, conv: Conv) -> None:
        super().__init__()
        self.conv = conv
        self.norm = nn.BatchNorm1d(conv.out_channels)

    def forward(self, x: SparseTensor, residual: Tensor | None = None) -> SparseTensor:
        y: SparseTensor = self.conv(x)
        rows = F.leaky_relu_(y.features)  # its gradient needs the result alone
        return y.with_features(
            y.level.engine.norms.normalise(rows, self.norm, residual, relu=False)
        )


def flat(c_in: int, c_out: int, kernel: Triple) -> ConvLeakyNorm:
    return ConvLeakyNorm(SubmanifoldConv(c_in, c_out, kernel))


class Asymmetric(nn.Module):
    """A wall then a slice, plus a slice then a wall."""

    def __init__(self, c_in: int, c_out: int, shared: Triple | None = None) -> None:
        super().__init__()
        wall, slice_ = shared or WALL, shared or SLICE
        self.wall_first = nn.ModuleList([flat(c_in, c_out, wall), flat(c_out, c_out, slice_)])
        self.slice_first = nn.ModuleList([flat(c_in, c_out, slice_), flat(c_out, c_out, wall)])

    def forward(self, x: SparseTensor) -> SparseTensor:
        first, second = self.wall_first
        shortcut = second(first(x)).features
        first, second = self.slice_first
        y: SparseTensor = second(first(x), shortcut)
        return y


class AsymmetricUp(nn.Module):
    """The way back to a finer level, the encoder's features there added, then three kernels."""

    def __init__(
        self, c_in: int, c_out: int, stride: Triple, shared: Triple | None = None
    ) -> None:
        super().__init__()
        self.before = flat(c_in, c_out, CUBE)
        self.up = InverseConv(c_out, c_out, stride, kernel=CUBE)
        kernels = (WALL, SLICE, CUBE) if shared is None else (shared,) * 3
        self.after = nn.Sequential(*(flat(c_out, c_out, kernel) for kernel in kernels))

    def forward(self, x: SparseTensor, skip: SparseTensor) -> SparseTensor:
        fine = self.up(self.before(x))
        y: SparseTensor = self.after(fine.with_features(fine.features + skip.features))
        return y


class Context(nn.Module):
    """x and x * sum over the three axes of sigmoid(norm(conv(x))): a gate of rank one each."""

    def __init__(self, channels: int, lines: Sequence[Triple] = LINES) -> None:
        super().__init__()
        self.lines = nn.ModuleList(
            ConvNorm(SubmanifoldConv(channels, channels, line), relu=False) for line in lines
        )

    def forward(self, x: SparseTensor) -> SparseTensor:
        a, b, c = (torch.sigmoid(line(x).features) for line in self.lines)
        return joined(x.with_features((a + b + c) * x.features), x)


class PointEncoder(nn.Module):
    """What a point says of itself, (N, point_channels)."""

    def __init__(
        self, hidden: Sequence[int], channels: int, cell_sizes: Sequence[float] | None
    ) -> None:
        super().__init__()
        self.cell_sizes = cell_sizes
        self.norm = nn.BatchNorm1d(GEOMETRY)
        self.hidden = nn.ModuleList(
            ConvNorm(PointwiseConv(a, b, bias=True)) for a, b in pairwise([GEOMETRY, *hidden])
        )
        self.last = PointwiseConv(hidden[-1], channels, bias=True)

    def forward(self, voxels: Voxels) -> Tensor:
        rows: Tensor = self.norm(geometry(voxels, self.cell_sizes)).to(voxels.features.dtype)
        for layer in [*self.hidden, self.last]:
            rows = on_rows(layer, rows, voxels.level)
        return rows


class Cylinder3D(nn.Module):
    """width: channels of the finest level; voxel_channels: what it gets of the points' maximum.

    Points get answers of their own from what they say and what their cell found, unless point_head
    is False. shared_pairs: layers that share a key in spconv 1 have the first one's kernel.
    cell_sizes: offsets in metres and radians. extent: cells of the grid, none is kept beyond.
    """

    def __init__(
        self,
        *,
        classes: int,
        width: int = 32,
        voxel_channels: int = 16,
        point_channels: int = 256,
        point_hidden: Sequence[int] = (64, 128, 256),
        shared_pairs: bool = False,
        cell_sizes: Sequence[float] | None = None,
        extent: Sequence[int] | None = None,
        point_head: bool = True,
    ) -> None:
        super().__init__()
        if min(width, voxel_channels, point_channels, *point_hidden) < 1 or not point_hidden:
            raise ConfigError('model cylinder3d: widths and channels must be 1 or more')
        widths = [width << step for step in range(5)]
        self.points = PointEncoder(point_hidden, point_channels, cell_sizes)
        self.squeeze = PointwiseConv(point_channels, voxel_channels, bias=True)
        wall, slice_ = (WALL, SLICE) if shared_pairs else (None, None)
        self.lines, self.extent = LINES[:1] * 3 if shared_pairs else LINES, extent
        self.stem = Asymmetric(voxel_channels, width, wall)
        self.blocks = nn.ModuleList(Asymmetric(a, b, slice_) for a, b in pairwise(widths))
        self.pools = nn.ModuleList(
            StridedConv(c, c, stride, kernel=CUBE) for c, stride in zip(widths[1:], STRIDES)
        )
        below = [widths[-1], *widths[:0:-1]]
        self.ups = nn.ModuleList(
            AsymmetricUp(a, b, stride, wall)
            for a, b, stride in zip(below, below[1:], STRIDES[::-1])
        )
        self.early_width, self.voxel_width, self.point_width = widths[-1], 4 * width, 4 * width
        self.context = Context(2 * width, self.lines)
        self.head = SubmanifoldConv(self.voxel_width, classes, CUBE, bias=True)
        self.point_head: PointwiseConv | None = None
        if point_head:
            self._add_point_head(point_channels, 2 * width, classes)

    def _add_point_head(self, point_channels: int, width: int, classes: int) -> None:
        self.point_width = width
        self.from_voxel = PointwiseConv(self.voxel_width, self.point_width)
        self.from_point = ConvNorm(PointwiseConv(point_channels, self.point_width, bias=True))
        self.point_head = PointwiseConv(self.point_width, classes, bias=True)

    def build_maps(self, level: Level) -> None:
        for line in self.lines:
            level.submanifold(line)
        self._bound(level)
        for stride in STRIDES:
            for kernel in (WALL, SLICE, CUBE):
                level.submanifold(kernel)
            level, _ = level.coarser(stride, CUBE)
        level.submanifold(CUBE)

    def forward(self, voxels: Voxels) -> Output:
        self._bound(voxels.level)
        points = self.points(voxels)
        most = highest(points, voxels.point_voxel, len(voxels.level))
        x = SparseTensor(torch.relu(on_rows(self.squeeze, most, voxels.level)), voxels.level)
        x, skips = self.stem(x), []
        for block, pool in zip(self.blocks, self.pools):
            skips.append(block(x))
            x = pool(skips[-1])
        first, *ups = self.ups
        early = x = first(x, skips.pop())
        for up in ups:
            x = up(x, skips.pop())
        x = self.context(x)
        output = Output(
            self.head(x).features,
            x.features,
            voxels.point_voxel,
            early=Early(early, EARLY_STRIDE, voxels.level),
        )
        if self.point_head is not None:
            refined = self._refine(points, x, voxels.point_voxel)
            output.own_point_logits = on_rows(self.point_head, refined, voxels.level)
            output.own_point_features = refined
        return output

    def _bound(self, level: Level) -> None:
        """Leaves out what lies beyond the grid, on every coarser level."""
        if self.extent is None:
            return
        r, phi, z = self.extent
        for a, b, c in STRIDES:
            r, phi, z = (r - 1) // a + 1, (phi - 1) // b + 1, (z - 1) // c + 1
            level = level.coarser_inside((a, b, c), CUBE, (r, phi, z))

    def _refine(self, points: Tensor, x: SparseTensor, point_voxel: Tensor) -> Tensor:
        """(N, 2 w) relu(norm(linear(point)) + linear(its cell))"""
        # first the linear layer, then its rows: there are fewer cells than points
        cells = self.from_voxel(x).features.index_select(0, point_voxel)
        y: SparseTensor = self.from_point(SparseTensor(points, x.level), cells)
        return y.features


def geometry(voxels: Voxels, cell_sizes: Sequence[float] | None = None) -> Tensor:
    """(N, 9): from the middle of the cell, radius, angle, height, x, y, intensity.

    The first three in cells, with cell_sizes in metres and radians. The norm that follows takes
    the units out again.
    """
    cells = voxels.coords[:, 1:].index_select(0, voxels.point_voxel)
    x, y, z, intensity = voxels.points[:, :4].unbind(1)
    own = torch.stack([torch.hypot(x, y), torch.atan2(y, x), z, x, y, intensity], 1)
    inside = voxels.positions - cells - 0.5
    if cell_sizes is not None:
        inside = inside * inside.new_tensor(cell_sizes)
    return torch.cat([inside, own], 1)
