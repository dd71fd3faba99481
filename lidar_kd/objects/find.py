# SPDX-License-Identifier: Apache-2.0
"""From labelled points to objects: cells, clusters, splits, boxes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lidar_kd.errors import DataError
from lidar_kd.labels import ClassTable
from lidar_kd.objects.boxes import complete, fit_rectangles
from lidar_kd.objects.cells import Cells, connect, find_pairs, gather_cells
from lidar_kd.objects.settings import ObjectSettings, Shape
from lidar_kd.objects.split import sort_by, split_large

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]
_THINNEST_M = 0.1  # no box is thinner: two points have no width


@dataclass(frozen=True, kw_only=True, eq=False)
class Objects:
    """K objects in the frame of the points; object k + 1 is what `instances` calls it."""

    instances: NDArray[np.uint32]  # (N,) per point, 0 where there is none
    class_id: NDArray[np.uint8]  # (K,) train ids
    centre: Floats  # (K, 3) of the box, metres
    size: Floats  # (K, 3) length, width, height
    yaw: Floats  # (K,) of the length about z; front and back cannot be told: within +-90 degrees
    points: Ids  # (K,)
    confidence: NDArray[np.float32]  # (K,) mean probability of its points

    def __len__(self) -> int:
        return len(self.class_id)


def find_objects(
    points: NDArray[np.float32],
    labels: NDArray[np.uint8],
    probability: NDArray[np.float32] | None,
    table: ClassTable,
    settings: ObjectSettings | None = None,
) -> Objects:
    """Objects of the classes in `movable`, in order of class and place.

    points: (N, 3+) in metres, z up; labels: (N,) train ids; probability: (N,), None for certain.
    """
    settings = settings or ObjectSettings()
    if points.ndim != 2 or points.shape[1] < 3 or len(labels) != len(points):
        raise DataError(
            f'objects: points {points.shape} and labels {labels.shape} do not belong together; '
            'give (N, 3) points and one label for each.'
        )
    if probability is None:
        probability = np.ones(len(points), np.float32)
    rows = _choose_rows(points, labels, probability, table, settings)
    if not len(rows):
        return _no_objects(len(points))
    xyz, classes = points[rows, :3].astype(np.float64), labels[rows]
    cells = gather_cells(xyz[:, :2], classes)
    clusters = _cluster(cells, _shapes_of(cells, classes, table, settings), settings)
    numbers = _drop_small(clusters[cells.of_point], xyz, settings)
    kept = numbers >= 0
    instances = np.zeros(len(points), np.uint32)
    instances[rows[kept]] = numbers[kept] + 1
    if not kept.any():
        return _no_objects(len(points))
    return _describe(instances, rows[kept], points, labels, probability, table, settings)


def _choose_rows(
    points: NDArray[np.float32], labels: NDArray[np.uint8], probability: NDArray[np.float32],
    table: ClassTable, settings: ObjectSettings,
) -> Ids:  # fmt: skip
    """Finite points of movable classes within the range."""
    wanted = np.zeros(256, np.bool_)
    wanted[table.group_ids('movable')] = True
    rows = np.flatnonzero(wanted[labels])
    kept = ~(probability[rows] < settings.min_probability)
    for column in range(3):  # by columns: much faster than by rows
        kept &= np.abs(points[rows, column]) <= settings.range_m  # NaN: False
    chosen: Ids = rows[kept]
    return chosen


def _shapes_of(
    cells: Cells, classes: NDArray[np.uint8], table: ClassTable, settings: ObjectSettings
) -> NDArray[np.float64]:
    """(c, 3) gap, longest and widest of the class of each cell."""
    of_cell = np.zeros(len(cells), np.uint8)
    of_cell[cells.of_point] = classes
    values = np.zeros((table.num_classes, 3))
    for class_id in np.unique(of_cell):
        shape = _shape(table, int(class_id), settings)
        values[class_id] = shape.gap_m, shape.longest_m, shape.widest_m
    return values[of_cell]


def _shape(table: ClassTable, class_id: int, settings: ObjectSettings) -> Shape:
    """That of a car for a movable class nobody has described."""
    shapes = settings.shapes
    return shapes.get(table.autoware_ids[class_id]) or next(iter(shapes.values()))


def _cluster(cells: Cells, shapes: Floats, settings: ObjectSettings) -> Ids:
    """(c,) the cluster of each cell."""
    range_m = np.hypot(*cells.middles.T)
    reach_m = shapes[:, 0] + settings.gap_per_m * range_m
    pairs = find_pairs(cells, reach_m)
    clusters = connect(len(cells), pairs[0], pairs[1])
    return split_large(cells, clusters, pairs, reach_m, shapes[:, 1:])


def _drop_small(clusters: Ids, xyz: Floats, settings: ObjectSettings) -> Ids:
    """(n,) -1 for points of clusters with too few; the others numbered anew without gaps."""
    counts = np.bincount(clusters)
    middle = np.stack([np.bincount(clusters, values) for values in xyz[:, :2].T]) / counts
    range_m = np.maximum(np.hypot(*middle), 10)
    least = np.maximum(settings.min_points * 10 / range_m, settings.fewest_points)
    large = counts >= least
    renumbered = np.where(large, np.cumsum(large) - 1, -1)
    return renumbered[clusters]


def _describe(
    instances: NDArray[np.uint32], rows: Ids, points: NDArray[np.float32],
    labels: NDArray[np.uint8], probability: NDArray[np.float32],
    table: ClassTable, settings: ObjectSettings,
) -> Objects:  # fmt: skip
    """The records of the numbered points."""
    order, starts = sort_by(instances[rows].astype(np.int64) - 1)
    rows = rows[order]
    xyz, class_id = points[rows, :3].astype(np.float64), labels[rows[starts]]
    counts = np.diff(np.append(starts, len(rows)))
    known = {int(each): _shape(table, int(each), settings) for each in np.unique(class_id)}
    length, width = (
        np.array([getattr(known[int(each)], name) for each in class_id])
        for name in ('length_m', 'width_m')
    )
    centre, size, yaw = complete(fit_rectangles(xyz[:, :2], starts), length, width)
    bottom = np.minimum.reduceat(xyz[:, 2], starts)
    top = np.maximum.reduceat(xyz[:, 2], starts)
    certain = np.nan_to_num(probability[rows].astype(np.float64))
    return Objects(
        instances=instances,
        class_id=class_id,
        centre=np.column_stack([centre, (bottom + top) / 2]),
        size=np.maximum(np.column_stack([size, top - bottom]), _THINNEST_M),
        yaw=yaw,
        points=counts,
        confidence=(np.add.reduceat(certain, starts) / counts).astype(np.float32),
    )


def _no_objects(count: int) -> Objects:
    return Objects(
        instances=np.zeros(count, np.uint32),
        class_id=np.zeros(0, np.uint8),
        centre=np.zeros((0, 3)),
        size=np.zeros((0, 3)),
        yaw=np.zeros(0),
        points=np.zeros(0, np.int64),
        confidence=np.zeros(0, np.float32),
    )
