# SPDX-License-Identifier: Apache-2.0
"""What it costs to drive where: classes, heights and slopes in cells around the sensor.

The frame of the points has z up, as target_frame makes sure; side x side cells, row y, column x.
"""

from __future__ import annotations

from dataclasses import dataclass
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lidar_kd.errors import ConfigError
from lidar_kd.labels import ClassTable
from lidar_kd.ros.output_settings import OutputSettings, read_costs

UNKNOWN, MOST = -1, 100
_NOT_DRAWN = -1
_REACH = 2  # cells to either side that a slope is measured over
Ids = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Costmap:
    costs: NDArray[np.int8]  # (side, side) 0 free to 100 never, -1 unknown
    cell_m: float
    origin_m: float  # x and y of the first cell's corner


class Heights(NamedTuple):
    """(side, side) of the ground in each cell, NaN without any."""

    bottom: Floats
    top: Floats
    mean: Floats


def draw_costmap(
    points: NDArray[np.float32],
    labels: NDArray[np.uint8],
    table: ClassTable,
    settings: OutputSettings,
) -> Costmap:
    """points: (N, 3+), z up; labels: (N,) train ids, 255 for none."""
    cell_m = settings.costmap_cell_m
    half = math.ceil(settings.costmap_range_m / cell_m)
    side, origin_m = 2 * half, -half * cell_m
    cost_of = list_costs(table, settings)
    rows = _choose_rows_within(points, cost_of[labels] != _NOT_DRAWN, half * cell_m)
    is_ground = np.zeros(256, np.bool_)
    is_ground[table.group_ids('ground')] = True
    cost, z, on_ground = cost_of[labels[rows]], points[rows, 2], is_ground[labels[rows]]
    cell = _find_cells(points[rows, :2], cell_m, half)
    up = ~on_ground
    with np.errstate(
        over='ignore', invalid='ignore', divide='ignore'
    ):  # a driver may send any height
        ground = _find_heights(cell[on_ground], z[on_ground], side)
        costs = _blend(
            _mean(cell[on_ground], cost[on_ground], side),
            _cost_of_shape(ground, settings),
            _highest_cost(cell[up], z[up], cost[up], ground.bottom, settings),
        )
    return Costmap(costs=costs, cell_m=cell_m, origin_m=origin_m)


def list_costs(table: ClassTable, settings: OutputSettings) -> NDArray[np.int16]:
    """(256,) the cost of each train id, -1 for what is not drawn."""
    costs = np.full(256, _NOT_DRAWN, np.int16)
    for word, cost in read_costs(settings.costmap_costs).items():
        if word in table.names:
            costs[table.names.index(word)] = cost
        elif word in table.groups:
            costs[table.group_ids(word)] = cost
        else:
            raise ConfigError(
                f"parameter costmap.costs: '{word}' is no class and no group of '{table.name}'; "
                f'use {", ".join([*table.groups, *table.names])}.'
            )
    return costs


def _choose_rows_within(
    points: NDArray[np.float32], drawn: NDArray[np.bool_], range_m: float
) -> Ids:
    """Of `drawn` those that lie within the map."""
    rows = np.flatnonzero(drawn)
    x, y, z = (points[rows, column] for column in range(3))
    inside = (np.abs(x) < range_m) & (np.abs(y) < range_m) & np.isfinite(z)
    inside &= (x != 0) | (y != 0) | (z != 0)  # where drivers put what gave no echo
    chosen: Ids = rows[inside]
    return chosen


def _find_cells(xy: NDArray[np.float32], cell_m: float, half: int) -> Ids:
    """(n,) row and column in one number."""
    place = np.floor(xy / np.float32(cell_m)).astype(np.int64) + half
    column, row = np.clip(place, 0, 2 * half - 1).T  # rounding may lead out of the last
    cells: Ids = row * 2 * half + column
    return cells


def _find_heights(cell: Ids, z: NDArray[np.float32], side: int) -> Heights:
    bottom = np.full(side * side, np.inf, np.float32)
    top = -bottom
    np.minimum.at(bottom, cell, z)
    np.maximum.at(top, cell, z)
    bottom[np.isinf(bottom)] = top[np.isinf(top)] = np.nan
    lowest, highest = (each.reshape(side, side).astype(np.float64) for each in (bottom, top))
    return Heights(lowest, highest, _mean(cell, z, side))


def _mean(cell: Ids, values: NDArray[Any], side: int) -> Floats:
    """(side, side) over the points of each cell, NaN without any."""
    counts = np.bincount(cell, minlength=side * side)
    sums = np.bincount(cell, values, side * side)
    mean: Floats = (sums / counts).reshape(side, side)
    return mean


def _cost_of_shape(ground: Heights, settings: OutputSettings) -> Floats:
    """(side, side) of slopes, over a few cells, and of steps within one."""
    rise = np.hypot(_rise(ground.mean), _rise(ground.mean.T).T) / settings.costmap_cell_m
    slope = np.degrees(np.arctan(rise)) / settings.costmap_max_slope_deg
    step = np.nan_to_num(ground.top - ground.bottom) >= settings.costmap_max_step_m
    cost: Floats = np.where(step, MOST, MOST * np.minimum(slope, 1))
    return cost


def _rise(height: Floats) -> Floats:
    """(side, side) from one column to the next; 0 where it is not known."""
    # the nearer the cells that are compared, the more a few centimetres of noise are
    across = (height[:, 2 * _REACH :] - height[:, : -2 * _REACH]) / (2 * _REACH)
    return np.pad(np.nan_to_num(across), ((0, 0), (_REACH, _REACH)))


def _highest_cost(
    cell: Ids,
    z: NDArray[np.float32],
    cost: NDArray[np.int16],
    bottom: Floats,
    settings: OutputSettings,
) -> Floats:
    """(side, side) of what stands on the ground and does not hang above it; NaN without any."""
    ground = _spread_heights(bottom).ravel()[cell]
    stands = ~(z - ground > settings.costmap_max_height_m)  # no ground is known: it stands
    highest = np.full(bottom.size, -np.inf)
    np.maximum.at(highest, cell[stands], cost[stands].astype(np.float64))
    highest[np.isinf(highest)] = np.nan
    return highest.reshape(bottom.shape)


def _spread_heights(bottom: Floats) -> Floats:
    """Cells without ground take the lowest of the nearest that have some, up to 8 cells away."""
    known = bottom
    for _ in range(8):
        padded = np.pad(np.where(np.isnan(known), np.inf, known), 1, constant_values=np.inf)
        rows = np.minimum(np.minimum(padded[:-2], padded[1:-1]), padded[2:])
        around = np.minimum(np.minimum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])
        known = np.where(np.isnan(known) & np.isfinite(around), around, known)
    return known


def _blend(ground: Floats, shape: Floats, standing: Floats) -> NDArray[np.int8]:
    """The worst of all that is known of a cell."""
    of_ground = np.fmax(ground, np.where(np.isnan(ground), np.nan, shape))
    worst = np.fmax(of_ground, standing)
    costs: NDArray[np.int8] = np.where(np.isnan(worst), UNKNOWN, np.round(worst)).astype(np.int8)
    return costs
