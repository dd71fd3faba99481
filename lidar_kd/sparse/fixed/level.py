# SPDX-License-Identifier: Apache-2.0
"""A Level whose maps are there before the first layer asks, at fixed shapes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from torch import Tensor
from torch.nn import functional as F

from lidar_kd.errors import ConfigError
from lidar_kd.sparse.engines.contract import Engine
from lidar_kd.sparse.engines.maps import KernelMap
from lidar_kd.sparse.fixed.maps import FixedMaps
from lidar_kd.sparse.fixed.morton import cells_of_keys, PAD
from lidar_kd.sparse.tensor import Level, Triple

HALF = (2, 2, 2)


class FixedLevel(Level):
    """One level of `maps`; the next is made with it."""

    def __init__(
        self,
        maps: FixedMaps,
        engine: Engine,
        kernel: Triple,
        number: int = 0,
        finer: FixedLevel | None = None,
    ) -> None:
        """kernel: of the tables that every level has."""
        self.engine, self._number, self._keys = engine, number, maps.keys[number]
        self._rows = len(self._keys)
        self._tables = {kernel: _map_of(maps.tables[number], self._rows)}
        if number == 0 and maps.stem is not None:
            size = round(maps.stem.shape[1] ** (1 / 3))
            self._tables[size, size, size] = _map_of(maps.stem, self._rows)
        # () each, on the device: whether a network asks for what this scan cannot give
        self.unfit: list[Tensor] = [] if finer is None else finer.unfit
        self._before = finer
        self._next: tuple[FixedLevel, KernelMap] | None = None
        if number + 1 < len(maps.keys):
            coarse = FixedLevel(maps, engine, kernel, number + 1, self)
            down = _map_of(maps.down[number], self._rows)
            down.parents = maps.parents[number]
            slots = (0,) * 9
            nothing = down.in_rows
            down.transposed = KernelMap(
                nothing, nothing, slots, len(coarse), self._rows, {'up': maps.up[number]}
            )
            self._next = coarse, down

    def __len__(self) -> int:
        """Rows, most of which may be nobody's."""
        return self._rows

    @cached_property
    def coords(self) -> Tensor:  # type: ignore[override]
        """(rows, 4) as of any level; anything in the rows that are nobody's."""
        return F.pad(cells_of_keys(self._keys, self._number), (1, 0)).int()

    @cached_property
    def occupied(self) -> Tensor:
        """(rows,) which rows are cells."""
        return (self._keys >= 0) & (self._keys < PAD >> 3 * self._number)

    def submanifold(self, kernel: Triple) -> KernelMap:
        if kernel not in self._tables:
            raise ConfigError(f'fixed shapes: kernel {kernel} beside {list(self._tables)}')
        return self._tables[kernel]

    def coarser(self, stride: Triple, kernel: Triple | None = None) -> tuple[Level, KernelMap]:
        if stride != HALF or kernel is not None or self._next is None:
            raise ConfigError(f'fixed shapes: no level of stride {stride}, kernel {kernel}')
        return self._next

    def finer(self, stride: Triple, kernel: Triple | None = None) -> Level:
        if stride != HALF or kernel is not None or self._before is None:
            raise ConfigError(f'fixed shapes: no finer level of stride {stride}, kernel {kernel}')
        return self._before


def _map_of(table: Tensor, rows: int) -> KernelMap:
    """A map that is a table, and no pairs."""
    nothing = table.new_empty(0)
    slots = (0,) * (table.shape[1] + 1)
    return KernelMap(nothing, nothing, slots, rows, len(table), {'table': table, 'nobody': 0})


def rooms_for(points: int, levels: int) -> Sequence[int]:
    """Cells that each level has room for: of LiDAR scans a level has about half the cells of the
    one before, whatever the voxel; a scan that has more is answered without fixed shapes.
    """
    return [points, *(max(1024, points >> level) for level in range(1, levels))]
