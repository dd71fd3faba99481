# SPDX-License-Identifier: Apache-2.0
"""Features at occupied cells: a Level is where the cells are, a SparseTensor what is there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from weakref import ref, ReferenceType

import torch
from torch import Tensor

from lidar_kd.errors import DataError
from lidar_kd.sparse.engines.contract import Engine
from lidar_kd.sparse.engines.maps import KernelMap, key_layout, KeyLayout, reaching_pairs
from lidar_kd.sparse.select import select_engine

Triple = tuple[int, int, int]
Step = tuple[Triple, Triple | None]  # stride, and kernel where it is not the stride


class Level:
    """Sorted, distinct cells (N, 4) int32 as (batch, x, y, z), and the maps between them.

    Every map is built once and shared by all layers that ask for it. layout: that of the cells,
    where it is known.
    """

    def __init__(
        self,
        coords: Tensor,
        engine: Engine | str | None = None,
        layout: KeyLayout | None = None,
    ) -> None:
        self.coords = coords.int().contiguous()  # nonzero and transposes are not; C would misread
        self.engine = select_engine(coords.device, engine)
        self._layout = layout
        # weak: a level keeps its coarser ones alive, and a ring would wait for the collector
        self._finer: dict[Step, ReferenceType[Level]] = {}
        self._submanifold: dict[Triple, KernelMap] = {}
        self._coarser: dict[Step, tuple[Level, KernelMap]] = {}

    def __len__(self) -> int:
        return len(self.coords)

    @cached_property
    def layout(self) -> KeyLayout:
        return self._layout or key_layout(self.coords)

    @cached_property
    def keys(self) -> Tensor:
        keys = self.engine.keys(self.coords, self.layout)
        # the native engine reserves no room for more neighbours than distinct cells can have
        if self.engine.sorts and not (keys[1:] > keys[:-1]).all():
            raise ValueError(
                f'level: its {len(keys)} cells are not sorted and distinct: '
                'make it of points with voxelize(), or of cells with sparse_tensor()'
            )
        return keys

    def submanifold(self, kernel: Triple) -> KernelMap:
        """The map of a convolution whose result lives on the same cells."""
        if kernel not in self._submanifold:
            if any(size % 2 == 0 or size > 2 * 4 + 1 for size in kernel):
                raise ValueError(f'submanifold kernel {kernel}: sizes must be odd and at most 9')
            self._submanifold[kernel] = self.engine.submanifold(self.keys, kernel, self.layout)
        return self._submanifold[kernel]

    def coarser(self, stride: Triple, kernel: Triple | None = None) -> tuple[Level, KernelMap]:
        """The level whose cells are `stride` of ours wide, and the map from ours to it.

        kernel: of odd sizes around each coarse cell's first; every cell it reaches is there.
        """
        if (stride, kernel) not in self._coarser:
            if any(step not in (1, 2) for step in stride):
                raise ValueError(f'stride {stride}: steps must be 1 or 2')
            if any(size % 2 == 0 for size in kernel or ()):
                raise ValueError(f'kernel {kernel}: sizes must be odd, or it must be the stride')
            _ = self.keys  # refuses cells out of order
            if kernel is None:
                coords, pairs = self.engine.strided(self.coords, stride, self.layout)
                coarse = Level(coords, self.engine, self.layout.coarser(stride))
            else:
                coords, pairs = reaching_pairs(self.coords, kernel, stride, self.layout)
                coarse = Level(coords, self.engine)
            coarse._finer[stride, kernel] = ref(self)
            self._coarser[stride, kernel] = (coarse, pairs)
        return self._coarser[stride, kernel]

    def coarser_inside(self, stride: Triple, kernel: Triple, extent: Triple) -> Level:
        """coarser(), from now on without the cells outside 0 .. extent - 1."""
        coarse, pairs = self.coarser(stride, kernel)
        cells = coarse.coords[:, 1:]
        kept = ((cells >= 0) & (cells < cells.new_tensor(extent))).all(1)
        if not kept.all():
            coarse = Level(coarse.coords[kept], self.engine)
            coarse._finer[stride, kernel] = ref(self)
            self._coarser[stride, kernel] = (coarse, pairs.with_results(kept))
        return coarse

    def finer(self, stride: Triple, kernel: Triple | None = None) -> Level:
        """The level this one was made from; it must still be held by someone."""
        found = self._finer.get((stride, kernel))
        level = found() if found else None
        if level is None:
            raise ValueError(f'no finer level with stride {stride}: make this one with coarser()')
        return level

    def find(self, cells: Tensor) -> Tensor:
        """(N,) the rows of occupied cells (N, 4)."""
        return torch.searchsorted(self.keys, self.engine.keys(cells, self.layout))


@dataclass(eq=False, slots=True)  # one a layer: frozen, it would take three times as long
class SparseTensor:
    """features: (N, C), one row per cell of the level. joint: (N, more), where they are the last
    channels; the first ones are for the layer whose result belongs beside them.
    """

    features: Tensor
    level: Level
    joint: Tensor | None = None

    def with_features(self, features: Tensor) -> SparseTensor:
        return SparseTensor(features, self.level)


def sort_cells(coords: Tensor) -> tuple[Tensor, Tensor]:
    """Cells in key order, and the order that sorts the given ones; repeats are refused."""
    keys = key_layout(coords).keys(coords)
    ordered, order = keys.sort(stable=True)
    repeats = int((ordered[1:] == ordered[:-1]).sum())
    if repeats:
        raise DataError(f'voxels: {repeats} cells occur twice: voxelise the points first')
    return coords[order].int().contiguous(), order


def sparse_tensor(
    coords: Tensor, features: Tensor, engine: Engine | str | None = None
) -> tuple[SparseTensor, Tensor]:
    """A tensor of cells in any order, and `order`: row i of the tensor is row order[i] given."""
    cells, order = sort_cells(coords)
    return SparseTensor(features[order], Level(cells, engine)), order


def batch_sizes(coords: Tensor) -> list[int]:
    """Cells per scan."""
    counts: list[int] = torch.bincount(coords[:, 0].long()).tolist()
    return counts
