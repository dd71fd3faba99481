# SPDX-License-Identifier: Apache-2.0
"""Cells of a level of fixed shape on a line, and the patches of attention, without a value from
the device: how many cells there are stays there.

R rows of a level, of which some are nobody's; O orders. One scan.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lidar_kd.models.blocks import HALF
from lidar_kd.models.serialization import Patches, place_on_curve, serialize, Serialized
from lidar_kd.sparse import Level
from lidar_kd.sparse.fixed.level import FixedLevel

DEEPEST = 20  # bits of an axis: what a key of fixed shape holds
_BEHIND = (1 << 63) - 1  # a code after all others


class FixedOrder:
    """As Serialized; codes (O, R) of the cells, anything for rows that are nobody's.

    A scan with fewer cells than a patch has rows is told by the level's `unfit`.
    """

    def __init__(self, level: FixedLevel, orders: Sequence[str], codes: Tensor) -> None:
        self.level, self.orders, self._codes = level, tuple(orders), codes
        self._count = level.occupied.sum()
        self._patches: dict[tuple[int, int], Patches] = {}
        self._lines: Tensor | None = None

    def __len__(self) -> int:
        return len(self.level)

    def patches(self, index: int, size: int) -> Patches:
        """As many patches as there is room for; those behind the last one repeat it."""
        line = index % len(self.orders)
        if (line, size) not in self._patches:
            self._patches[line, size] = self._cut(self._rows_along(line), size)
        return self._patches[line, size]

    def _rows_along(self, line: int) -> Tensor:
        """(R,) the cells' rows in their order, then the others."""
        if self._lines is None:  # of all orders at once
            self._lines = torch.where(self.level.occupied, self._codes, _BEHIND).argsort(1)
        return self._lines[line]

    def _cut(self, rows: Tensor, size: int) -> Patches:
        self.level.unfit.append(self._count < size)
        place = torch.arange(len(rows), device=rows.device)
        starts = torch.minimum(place[::size], self._count - size).clamp_(min=0)
        patch = place // size
        within = place - starts.index_select(0, patch)
        answers = torch.empty_like(rows)
        # of the rows behind the last cell any result will do that is there
        answers.scatter_(0, rows, (patch * size + within).clamp_(max=len(starts) * size - 1))
        inside = (starts[:, None] + place[:size]).clamp_(max=len(rows) - 1)
        return Patches([rows.take(inside)], answers)

    def pooled(self) -> tuple[FixedOrder, Tensor]:
        coarse, pairs = self.level.coarser(HALF)
        assert isinstance(coarse, FixedLevel)
        codes = self._codes.new_zeros(len(self.orders), len(coarse))
        codes.scatter_(1, pairs.parents.expand(len(codes), -1), self._codes >> 3)
        return FixedOrder(coarse, self.orders, codes), pairs.parents

    def shuffled(self) -> FixedOrder:
        raise NotImplementedError('fixed shapes are for inference')


Ordered = Serialized | FixedOrder


def order_cells(level: Level, orders: Sequence[str], strides: int) -> Ordered:
    """A level in every order; `strides`: how often it will be pooled."""
    if not isinstance(level, FixedLevel):
        return serialize(level, orders, strides)
    cells, depth = _place(level, strides)
    codes = [place_on_curve(cells, depth, order, DEEPEST) for order in orders]
    return FixedOrder(level, orders, torch.stack(codes))


def _place(level: FixedLevel, strides: int) -> tuple[Tensor, Tensor]:
    """(R, 3) cells from 0 on, and () how many bits they have; as serialization.place."""
    occupied, cells = level.occupied[:, None], level.coords[:, 1:].long()
    low = torch.where(occupied, cells, 1 << DEEPEST).amin(0)
    origin = torch.where((low < 0).any(), low >> strides << strides, 0)
    cells = torch.where(occupied, cells - origin, 0)
    powers = 1 << torch.arange(DEEPEST + 1, device=cells.device)
    depth = (cells.amax() + 1 >= powers).sum()
    level.unfit.append(depth > DEEPEST)
    return cells, depth.clamp(max=DEEPEST)
