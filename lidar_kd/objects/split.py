# SPDX-License-Identifier: Apache-2.0
"""Clusters that are too large for one object of their class are taken apart."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lidar_kd.objects.boxes import fit_rectangles
from lidar_kd.objects.cells import Cells, connect

TIGHTER = (0.75, 0.55, 0.4)  # shares of the gap that are tried, one after the other
_PIECE = 0.12  # share of a cluster's points that makes a piece an object of its own
_HEAP = 1 << 18  # distances; what has more is no row of objects, and its crumbs are nobody's
Ids = NDArray[np.int64]
Floats = NDArray[np.float64]
Pairs = tuple[Ids, Ids, Floats]  # of cells, and how far apart


def split_large(
    cells: Cells, clusters: Ids, pairs: Pairs, reach_m: Floats, largest_m: Floats
) -> Ids:
    """(c,) new numbers; largest_m: (c, 2) length and width that an object of the class has."""
    large = np.ones(len(cells), np.bool_)
    for share in TIGHTER:
        large = find_large(cells, clusters, largest_m, large)
        if not large.any():
            return clusters
        first, second, distance = pairs
        limit = np.where(large, share, 1.0) * reach_m
        close = distance <= np.minimum(limit[first], limit[second])
        kept = np.flatnonzero(close & (clusters[first] == clusters[second]))
        pieces = connect(len(cells), first[kept], second[kept])
        clusters = _give_back(cells, clusters, pieces)
    return _cut(cells, clusters, largest_m, large)


def find_large(
    cells: Cells, clusters: Ids, largest_m: Floats, among: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """(c,) whether the cell's cluster is longer or wider than its class allows; those that are
    not `among` (c,) are known not to be.
    """
    of_cell = np.zeros(len(cells), np.bool_)
    rows = np.flatnonzero(among)
    if len(rows):
        order, starts = sort_by(clusters[rows])
        rows = rows[order]
        extents = np.sort(fit_rectangles(cells.middles[rows], starts).extents, axis=1)[:, ::-1]
        large = (extents > largest_m[rows[starts]]).any(1)
        of_cell[rows] = np.repeat(large, np.diff(np.append(starts, len(rows))))
    return of_cell


def sort_by(clusters: Ids) -> tuple[Ids, Ids]:
    """Rows in order of their clusters, numbered from 0, and where each begins."""
    order = np.argsort(clusters, kind='stable')
    return order, np.flatnonzero(np.diff(clusters[order], prepend=-1))


def _give_back(cells: Cells, clusters: Ids, pieces: Ids) -> Ids:
    """Crumbs of a cluster join the nearest of its larger pieces."""
    points = np.bincount(pieces, cells.counts)
    whole = np.bincount(clusters, cells.counts)
    crumb = points[pieces] < _PIECE * whole[clusters]
    joined = pieces.copy()
    for members in _members_of(np.unique(clusters[crumb]), clusters):
        lost, kept = members[crumb[members]], members[~crumb[members]]
        if not len(kept):
            joined[members] = pieces[members[0]]
        elif len(lost) * len(kept) <= _HEAP:
            x, y = (cells.middles[lost, None] - cells.middles[None, kept]).transpose(2, 0, 1)
            joined[lost] = pieces[kept[(x * x + y * y).argmin(1)]]
    return np.unique(joined, return_inverse=True)[1].reshape(-1)


def _members_of(chosen: Ids, clusters: Ids) -> Iterator[Ids]:
    """The rows of each chosen cluster."""
    order, starts = sort_by(clusters)
    ends = np.append(starts[1:], len(order))
    for cluster in chosen:  # they are numbered 0, 1, ...
        yield order[starts[cluster] : ends[cluster]]


def _cut(cells: Cells, clusters: Ids, largest_m: Floats, among: NDArray[np.bool_]) -> Ids:
    """Where no gap is left, at the emptiest place along the cluster."""
    cut = clusters.copy()
    large = np.unique(clusters[find_large(cells, clusters, largest_m, among)])
    for members in _members_of(large, clusters):
        axis = _long_axis(cells.middles[members])
        place = cells.middles[members] @ axis
        span, typical = np.ptp(place), 0.8 * largest_m[members[0], 0]
        parts = max(2, round(span / typical))
        for border in _find_valleys(place, cells.counts[members], parts):
            cut[members[place > border]] += len(clusters) + 1
    return np.unique(cut, return_inverse=True)[1].reshape(-1)


def _long_axis(middles: Floats) -> Floats:
    centred = middles - middles.mean(0)
    axis: Floats = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    return axis


def _find_valleys(place: Floats, counts: Ids, parts: int) -> list[float]:
    """Borders of equal parts, each moved a little to where few points are."""
    bins = np.floor((place - place.min()) / 0.2).astype(np.int64)
    filled = np.bincount(bins, counts)
    step = len(filled) / parts
    typical = filled.mean()
    borders = []
    for part in range(1, parts):
        bins_near = np.arange(int((part - 0.3) * step), int((part + 0.3) * step) + 1)
        apart = np.abs(bins_near + 0.5 - part * step) / step
        valley = int(bins_near[(filled[bins_near] / typical + 4 * apart).argmin()])
        borders.append(float(place.min() + 0.2 * (valley + 0.5)))
    return borders
