# SPDX-License-Identifier: Apache-2.0
"""Points gathered in cells of the ground plan, and cells in clusters.

n points, c cells, e pairs of cells that are close enough.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CELL_M = 0.2
_ROWS = 1 << 16  # cells to a side of the plan: 13 km, more than any range
Ids = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """Squares of the ground plan that hold points of one class."""

    keys: Ids  # (c,) class, x and y in one number, ascending
    of_point: Ids  # (n,) the cell of each point
    counts: Ids  # (c,) points
    middles: Floats  # (c, 2) mean of the points

    def __len__(self) -> int:
        return len(self.keys)


def gather_cells(xy: Floats, classes: NDArray[np.uint8]) -> Cells:
    """xy: (n, 2) within the range; classes: (n,)."""
    column, row = (np.floor(xy / CELL_M).astype(np.int64) + _ROWS // 2).T
    keys, of_point, counts = np.unique(
        (classes.astype(np.int64) * _ROWS + column) * _ROWS + row,
        return_inverse=True,
        return_counts=True,
    )
    of_point = of_point.reshape(-1)
    sums = [np.bincount(of_point, values, len(keys)) for values in xy.T]
    return Cells(
        keys=keys, of_point=of_point, counts=counts, middles=np.stack(sums, 1) / counts[:, None]
    )


def find_pairs(cells: Cells, reach_m: Floats) -> tuple[Ids, Ids, Floats]:
    """Cells of one class whose middles are within the smaller reach of both, and how far."""
    width = np.ceil(reach_m / CELL_M).astype(np.int64)
    pairs = [
        _find_across(cells.keys, np.flatnonzero(width >= across), width, across)
        for across in range(int(width.max(initial=0)) + 1)
    ]
    first, second = (np.concatenate(each) for each in zip(*pairs))
    distance = np.hypot(*(cells.middles[first] - cells.middles[second]).T)
    close = distance <= np.minimum(reach_m[first], reach_m[second])
    return first[close], second[close], distance[close]


def _find_across(keys: Ids, rows: Ids, width: Ids, across: int) -> tuple[Ids, Ids]:
    """Pairs of `rows` with cells so many columns on: those follow each other in the keys."""
    wanted, reach = keys[rows] + across * _ROWS, width[rows]
    begin = np.searchsorted(keys, wanted - reach) if across else rows + 1
    counts = np.searchsorted(keys, wanted + reach, side='right') - begin
    ends = np.cumsum(counts)
    first = np.repeat(rows, counts)
    return first, np.arange(len(first)) + np.repeat(begin - ends + counts, counts)


def connect(count: int, first: Ids, second: Ids) -> Ids:
    """(count,) the number of the component of each, in order of their first members."""
    root = np.arange(count)
    while len(first):
        low = np.minimum(root[first], root[second])
        np.minimum.at(root, root[first], low)
        np.minimum.at(root, root[second], low)
        while (root[root] != root).any():
            root = root[root]
        apart = root[first] != root[second]
        first, second = first[apart], second[apart]
    return np.unique(root, return_inverse=True)[1].reshape(-1)
