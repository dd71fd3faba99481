# SPDX-License-Identifier: Apache-2.0
"""Every map of a U-Net over one scan, of fixed shape and without a value from the device.

Row 0 of a level is nobody: a row of zeros that stands wherever a neighbour is missing. Cells have
the rows 1 .. n; n stays on the device, and what lies beyond it, one row at least, is never read by
a row that counts.
A level has room for a given number of cells; where a scan has more, `overflowed` says so when the
answers come down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lidar_kd.sparse.fixed.morton import Neighbours, PAD

_BEFORE_ALL = -1  # the key of row 0; around it lie cells that no grid holds


@dataclass(frozen=True, eq=False)
class FixedMaps:
    """L levels, each twice as wide as the one before, of P points.

    point_row (P,): of the first level, 0 where a point has no cell. order, starts: the points of
    each row, as embedding_bag wants them. keys: of each level, (2 + room,) int64. tables:
    (2 + room, K) the row in each slot of a submanifold kernel. down: of each level but the first,
    (2 + room, 8) the finer row in each slot. up: of each level but the last, (2 + room,) the slot
    times the coarser level's rows, plus the coarser row: its place among all slots' products.
    parents: likewise, the coarser row alone. stem: (2 + room, K) of the first level, a larger
    kernel, where there is one. cells (L,): how many each level would need room for.
    """

    point_row: Tensor
    order: Tensor
    starts: Tensor
    keys: list[Tensor]
    tables: list[Tensor]
    down: list[Tensor]
    up: list[Tensor]
    parents: list[Tensor]
    stem: Tensor | None
    cells: Tensor
    overflowed: Tensor  # () bool


class MapBuilder:
    """Builds the maps of a network with cubes of one odd size and halving strides."""

    def __init__(
        self, rooms: Sequence[int], size: int, device: torch.device, *, stem: int = 0
    ) -> None:
        """rooms: cells that each level has room for, the first as many as there are points.

        stem: size of a larger cube that the first level is asked for, too; 0: of none.
        """
        self.rooms = tuple(rooms)
        self._neighbours = Neighbours(size, device)
        self._stem = Neighbours(stem, device) if stem else None
        self._shifts = 3 * torch.arange(len(rooms), device=device)[:, None]
        self._most = torch.tensor(rooms, device=device)[:, None]
        self._width = max(rooms) + 2  # row 0, and a PAD behind the last
        self._place = torch.arange(self._width, device=device)
        self._rows = torch.where(self._place < self._most[:-1] + 2, self._place, 0).int()

    def build(self, keys: Tensor) -> FixedMaps:
        """keys (P,) of the points' cells, PAD for those without one."""
        ordered, order = torch.sort(keys, stable=True)
        shifted = ordered >> self._shifts  # (L, P): a coarser key is a shift, and still sorted
        first = F.pad(shifted[:, 1:] != shifted[:, :-1], (1, 0), value=True)
        row = first.cumsum(1)
        kept = torch.where(row <= self._most, row, 0)
        at = torch.where(first, kept, 0)
        cells = torch.full((len(row), self._width), PAD, device=row.device)
        cells.scatter_(1, at, shifted)[:, 0] = _BEFORE_ALL
        parents = torch.zeros_like(cells[1:]).scatter_(1, at[:-1], kept[1:])
        up, down = self._between(cells, parents)
        own = torch.where(ordered == PAD, 0, row[0])
        return FixedMaps(
            point_row=torch.empty_like(own).scatter_(0, order, own),
            order=order,
            starts=self._starts(row[0]),
            keys=[each[: 2 + room] for each, room in zip(cells, self.rooms)],
            tables=self._tables(cells),
            down=down,
            up=up,
            parents=[each[: 2 + room] for each, room in zip(parents, self.rooms)],
            stem=None if self._stem is None else self._search(cells[:1], self._stem)[0],
            cells=row[:, -1],
            overflowed=(row[:, -1:] > self._most).any(),
        )

    def _starts(self, row: Tensor) -> Tensor:
        """Of each row among the ordered points; rows that are not there lie behind the last."""
        starts = torch.full((self._width,), len(row), device=row.device)
        starts.scatter_reduce_(0, row, self._place[: len(row)], 'amin')
        starts[0].zero_()  # nobody's row is empty: it begins where the first one does
        return starts

    def _between(self, keys: Tensor, parent: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Where each cell lies in the next level, and the other way round."""
        slot = keys[:-1] & 7
        up = slot * (self._most[1:] + 2) + parent
        down = torch.zeros((len(up), 8 * self._width), dtype=torch.int32, device=keys.device)
        down.scatter_(1, parent * 8 + slot, self._rows)
        ups = [each[: 2 + room] for each, room in zip(up, self.rooms)]
        downs = [each[: 8 * (2 + room)].view(-1, 8) for each, room in zip(down, self.rooms[1:])]
        return ups, downs

    def _tables(self, keys: Tensor) -> list[Tensor]:
        """The first level by itself, for the others have room for fewer cells."""
        fewer = 2 + max(self.rooms[1:], default=0)
        first = self._search(keys[:1], self._neighbours)[0, : 2 + self.rooms[0]]
        others = self._search(keys[1:, :fewer].contiguous(), self._neighbours)
        return [first, *(each[: 2 + room] for each, room in zip(others, self.rooms[1:]))]

    def _search(self, keys: Tensor, neighbours: Neighbours) -> Tensor:
        """(L, W) sorted keys -> (L, W, K) the row of each neighbour, 0 where there is none."""
        wanted = neighbours.keys(keys).flatten(1)
        found = torch.searchsorted(keys, wanted)
        there = keys.gather(1, found.clamp_(max=keys.shape[1] - 1)) == wanted
        rows = torch.where(there, found, 0).int()
        return rows.view(len(keys), neighbours.slots, -1).transpose(1, 2).contiguous()
