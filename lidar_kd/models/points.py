# SPDX-License-Identifier: Apache-2.0
"""Between points and the voxels of any level: trilinear interpolation and means.

N points, V cells of a level. Both ways are linear in the features, so nothing is kept for the
backward pass but the rows and weights, and the backward of each way is the other kind of sum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from lidar_kd.models.blocks import CUBE, HALF
from lidar_kd.sparse import Engine, Level, SparseTensor
from lidar_kd.voxels import Voxels

CORNERS = tuple(product((0, 1), repeat=3))  # the cell itself first
OWN_SHARE = 1e-8  # of a cell's own corner: no sum of weights is 0

Map = Callable[[Tensor], Tensor]


class _Linear(torch.autograd.Function):
    """there(x), whose backward is `back`."""

    @staticmethod
    def forward(ctx, x: Tensor, there: Map, back: Map) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.back = back
        return there(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        return ctx.back(dy.contiguous()), None, None


@dataclass(eq=False)
class Shares:
    """A sparse matrix (N, V): point n has weights[n, i] of cell rows[n, i], i < W.

    Every cell is some point's with a weight above 0.
    """

    rows: Tensor  # (N, W) int32
    weights: Tensor  # (N, W) float32
    engine: Engine

    def spread(self, cells: Tensor) -> Tensor:
        """(V, C) -> (N, C): what each point has of its cells."""
        y: Tensor = _Linear.apply(cells, self._spread, self._collect)  # type: ignore[no-untyped-call]
        return y

    def collect(self, points: Tensor) -> Tensor:
        """(N, C) -> (V, C), the transpose: what each cell has of its points."""
        y: Tensor = _Linear.apply(points, self._collect, self._spread)  # type: ignore[no-untyped-call]
        return y

    def _spread(self, cells: Tensor) -> Tensor:
        weights = self.weights.to(cells.dtype)
        return embedding_bag(self.rows, cells, mode='sum', per_sample_weights=weights)

    def _collect(self, points: Tensor) -> Tensor:
        rows, starts, weights = self._by_cell
        weights = weights.to(points.dtype)
        return embedding_bag(rows, points, starts, mode='sum', per_sample_weights=weights)

    @cached_property
    def _by_cell(self) -> tuple[Tensor, Tensor, Tensor]:
        """The matrix by columns: points, where each cell's begin, weights."""
        weights = self.weights.flatten()
        cells = torch.where(weights > 0, self.rows.flatten().long(), -1)
        _, order, starts = self.engine.grouping.group(cells)
        return order // self.rows.shape[1], starts[:-1], weights[order]


class PointBranch:
    """Where the points of one forward pass are on every level; found once per level."""

    def __init__(self, voxels: Voxels) -> None:
        self._engine = voxels.level.engine
        # level -> (row of the cell each point is in, position in cells of that level)
        self._places = {voxels.level: (voxels.point_voxel.int(), voxels.positions)}
        self._interpolation: dict[Level, Shares] = {}
        self._mean: dict[Level, Shares] = {}

    def interpolate(self, x: SparseTensor) -> Tensor:
        """(N, C): the 8 cells floor(position) + {0, 1}^3 by trilinear weight, occupied ones only.

        A cell's features sit at its lower corner, as in the published SPVCNN.
        """
        if x.level not in self._interpolation:
            rows, positions = self._place(x.level)
            inside = (positions - x.level.coords[rows, 1:]).clamp(0, 1)
            corners = corner_cells(x.level)[rows]
            weights = trilinear(inside, corners != rows[:, None])
            self._interpolation[x.level] = Shares(corners, weights, self._engine)
        return self._interpolation[x.level].spread(x.features)

    def mean(self, points: Tensor, level: Level) -> Tensor:
        """(V, C): the mean of the points (N, C) in each cell."""
        if level not in self._mean:
            rows, _ = self._place(level)
            weights = 1 / torch.bincount(rows, minlength=len(level))[rows]
            self._mean[level] = Shares(rows[:, None], weights[:, None], self._engine)
        return self._mean[level].collect(points)

    def _place(self, level: Level) -> tuple[Tensor, Tensor]:
        if level not in self._places:
            finer = level.finer(HALF)
            rows, positions = self._place(finer)
            parents = finer.coarser(HALF)[1].parents
            self._places[level] = parents[rows].int(), positions / 2
        return self._places[level]


def corner_cells(level: Level) -> Tensor:
    """(V, 8) int32: the rows of cell + {0, 1}^3; the cell's own row where one is not occupied.

    They are a part of the 3^3 neighbourhood, whose map the convolutions of the level share.
    """
    pairs = level.submanifold(CUBE)
    own = torch.arange(len(level), dtype=torch.int32, device=level.coords.device)
    cells = own[:, None].repeat(1, len(CORNERS))
    for corner, (dx, dy, dz) in enumerate(CORNERS):
        in_rows, out_rows = pairs.slot(((dx + 1) * 3 + dy + 1) * 3 + dz + 1)
        cells[out_rows.long(), corner] = in_rows
    return cells


def trilinear(inside: Tensor, occupied: Tensor) -> Tensor:
    """(N, 8) weights that sum to 1, from the positions (N, 3) in the cell, each 0..1.

    occupied (N, 8); of the own cell, the first, it is not read.
    """
    x, y, z = torch.stack([1 - inside, inside], 2).float().unbind(1)
    weights = x[:, :, None, None] * y[:, None, :, None] * z[:, None, None, :]
    weights = weights.flatten(1)
    weights[:, 1:] *= occupied[:, 1:]
    weights[:, 0] += OWN_SHARE
    return weights / weights.sum(1, keepdim=True)


def highest(rows: Tensor, owner: Tensor, count: int) -> Tensor:
    """(count, C): per channel the largest of the rows (N, C) that an owner has; each has one."""
    # not empty memory: the gradient is shared with a start that happens to equal the maximum
    most = rows.new_full((count, rows.shape[1]), -torch.inf)
    owner = owner[:, None].expand_as(rows)
    return most.scatter_reduce(0, owner, rows, 'amax', include_self=False)
