# SPDX-License-Identifier: Apache-2.0
"""Pairs rows with columns so that as many as possible are paired, at the lowest sum of costs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lidar_kd.objects.cells import connect

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]


def assign(cost: Floats) -> tuple[Ids, Ids]:
    """Rows, ascending, and their columns; an infinite cost forbids a pair. cost: (r, c).

    What could be paired falls into small groups that have nothing to do with each other, and
    each is solved on its own.
    """
    rows, columns = np.nonzero(np.isfinite(cost))
    group = connect(sum(cost.shape), rows, columns + len(cost))
    found = [
        _assign_group(cost, np.unique(rows[pairs]), np.unique(columns[pairs]))
        for pairs in _by_group(group[rows])
    ]
    if not found:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    first, second = (np.concatenate(each) for each in zip(*found))
    order = np.argsort(first)
    return first[order], second[order]


def _by_group(group: Ids) -> list[Ids]:
    order = np.argsort(group, kind='stable')
    borders = np.flatnonzero(np.diff(group[order])) + 1
    return [pairs for pairs in np.split(order, borders) if len(pairs)]


def _assign_group(cost: Floats, rows: Ids, columns: Ids) -> tuple[Ids, Ids]:
    part = cost[np.ix_(rows, columns)]
    if part.size == 1:
        return rows, columns
    # A pair too many costs more than all others together: the number of pairs comes first.
    forbidden = 1 + 2 * np.abs(part[np.isfinite(part)]).sum()
    matrix = np.where(np.isfinite(part), part, forbidden)
    turned = len(rows) > len(columns)
    chosen = solve(matrix.T if turned else matrix)
    row, column = np.arange(len(chosen)), chosen
    if turned:
        row, column = column, row
    allowed = np.isfinite(part[row, column])
    return rows[row[allowed]], columns[column[allowed]]


def solve(cost: Floats) -> Ids:
    """(r,) the column of each row at the lowest sum; r <= c, all finite.

    Shortest augmenting paths (Jonker and Volgenant 1987): rows come in one after the other, and
    each may push those before it to other columns. `row_price` + `column_price` never exceed
    the cost and equal it on chosen pairs.
    """
    rows, columns = cost.shape
    row_price, column_price = np.zeros(rows), np.zeros(columns)
    owner = np.full(columns, -1)
    for row in range(rows):
        column, way = _find_path(cost, row, owner, row_price, column_price)
        while column >= 0:  # hand the columns of the path on, from its free end
            owner[column] = way[column][0]
            column = way[column][1]
    chosen = np.zeros(rows, np.int64)
    taken = np.flatnonzero(owner >= 0)
    chosen[owner[taken]] = taken
    return chosen


def _find_path(
    cost: Floats, row: int, owner: Ids, row_price: Floats, column_price: Floats
) -> tuple[int, dict[int, tuple[int, int]]]:
    """A free column, and for each on the way to it: its next owner, and the column before."""
    columns = cost.shape[1]
    distance, before = np.full(columns, np.inf), np.full(columns, -1)
    done = np.zeros(columns, np.bool_)
    source = np.full(columns, -1)
    current, last, reached = row, -1, 0.0
    while True:
        further = reached + cost[current] - row_price[current] - column_price
        shorter = ~done & (further < distance)
        distance[shorter], before[shorter], source[shorter] = further[shorter], last, current
        last = int(np.where(done, np.inf, distance).argmin())
        reached = float(distance[last])
        if owner[last] < 0:
            break
        done[last] = True
        current = int(owner[last])
    row_price[row] += reached
    passed = np.flatnonzero(done)
    row_price[owner[passed]] += reached - distance[passed]
    column_price[passed] -= reached - distance[passed]
    return last, {
        each: (int(source[each]), int(before[each])) for each in [last, *passed.tolist()]
    }
