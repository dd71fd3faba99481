# SPDX-License-Identifier: Apache-2.0
"""A Level whose maps are there before the first layer asks, at fixed shapes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lidar_kd.errors import ConfigError
from lidar_kd.sparse.engines.maps import KernelMap
from lidar_kd.sparse.fixed.engine import FixedShapeEngine
from lidar_kd.sparse.fixed.maps import FixedMaps
from lidar_kd.sparse.tensor import Level, Triple

HALF = (2, 2, 2)


class FixedLevel(Level):
    """One level of `maps`; the next is made with it."""

    def __init__(
        self,
        maps: FixedMaps,
        engine: FixedShapeEngine,
        kernel: Triple,
        number: int = 0,
        finer: FixedLevel | None = None,
    ) -> None:
        self.engine, self._kernel = engine, kernel
        self._rows = len(maps.keys[number])
        self._table = _map_of(maps.tables[number], self._rows)
        self._before = finer
        self._next: tuple[FixedLevel, KernelMap] | None = None
        if number + 1 < len(maps.keys):
            coarse = FixedLevel(maps, engine, kernel, number + 1, self)
            down = _map_of(maps.down[number], self._rows)
            slots = (0,) * 9
            nothing = down.in_rows
            down.transposed = KernelMap(
                nothing, nothing, slots, len(coarse), self._rows, {'up': maps.up[number]}
            )
            self._next = coarse, down

    def __len__(self) -> int:
        """Rows, most of which may be nobody's."""
        return self._rows

    def submanifold(self, kernel: Triple) -> KernelMap:
        if kernel != self._kernel:
            raise ConfigError(f'fixed shapes: kernel {kernel} beside {self._kernel}')
        return self._table

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
