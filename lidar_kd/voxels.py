# SPDX-License-Identifier: Apache-2.0
"""Points to occupied voxels and back: the only preprocessing, live and in training.

N points, V voxels. A cell is floor((point - origin) / size), an absolute number, so a point falls
into the same voxel whatever else the scan holds. Points that a grid cannot hold are left out and
counted by reason; none is moved into another cell unless the grid says `outside: clamp`, and then
it is counted too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
import math
from typing import Annotated, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    PositiveFloat,
    PositiveInt,
)
import torch
from torch import Tensor

from lidar_kd.errors import DataError
from lidar_kd.sparse import Engine, Level, select_engine, sparse_tensor
from lidar_kd.sparse.engines.maps import key_layout

Bounds = tuple[float, float, float]
REACH = 2**19 - 16  # cells on each side of the origin: 26 km at 0.05 m, and keys always fit


class _FrozenGrid(BaseModel):
    model_config = ConfigDict(frozen=True, extra='forbid', allow_inf_nan=False)


class CartesianGrid(_FrozenGrid):
    """Cubes; without bounds every point within 26 km (at 0.05 m) is seen."""

    clamps: ClassVar[bool] = False

    kind: Literal['cartesian'] = 'cartesian'
    voxel_m: PositiveFloat = 0.05
    origin_m: Bounds | None = None  # a corner of voxel 0, where it is not the sensor
    lower_m: Bounds | None = None  # x, y, z a point must reach
    upper_m: Bounds | None = None  # and must stay below

    def positions(self, points: Tensor) -> Tensor:
        """(N, 3) positions in units of a voxel."""
        xyz = points[:, :3]
        if self.origin_m is not None:
            xyz = xyz - xyz.new_tensor(self.origin_m)
        # a tensor: by a number CUDA multiplies with its inverse, and borders would move
        return xyz / xyz.new_tensor(self.voxel_m)

    def inside(self, points: Tensor, positions: Tensor) -> Tensor:
        keep = (positions.abs() < REACH).all(1)
        if self.lower_m is not None:
            keep &= (points[:, :3] >= points.new_tensor(self.lower_m)).all(1)
        if self.upper_m is not None:
            keep &= (points[:, :3] < points.new_tensor(self.upper_m)).all(1)
        return keep

    def surely_holds(self, positions: Tensor) -> bool:
        """Whether every point is inside and that is cheap to tell."""
        unbounded = self.lower_m is None and self.upper_m is None
        return unbounded and bool(positions.abs().amax() < REACH)

    def cells(self, positions: Tensor) -> Tensor:
        return positions.floor().int()


class CylinderGrid(_FrozenGrid):
    """Cells in radius, angle and height, as many as `cells` between the bounds."""

    kind: Literal['cylinder'] = 'cylinder'
    shape: tuple[PositiveInt, PositiveInt, PositiveInt] = (480, 360, 32)
    radius_m: tuple[float, float] = (0.0, 50.0)
    height_m: tuple[float, float] = (-4.0, 2.0)
    # a cell is the range over their number; 'published': over one less, so that the last holds
    # only what lies on or beyond the bound, as the published weights of Cylinder3D want it
    cell: Literal['even', 'published'] = 'even'
    outside: Literal['drop', 'clamp'] = 'drop'  # clamp: into the border cell, and counted

    @field_validator('radius_m', 'height_m')
    @classmethod
    def _increase(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        if not bounds[0] < bounds[1]:
            raise ValueError(f'{bounds}: the first must be below the second')
        return bounds

    @property
    def clamps(self) -> bool:
        return self.outside == 'clamp'

    @property
    def lower(self) -> Bounds:
        return (self.radius_m[0], -self._half_turn, self.height_m[0])

    @property
    def upper(self) -> Bounds:
        return (self.radius_m[1], self._half_turn, self.height_m[1])

    @property
    def _half_turn(self) -> float:
        return math.pi if self.cell == 'even' else 3.1415926

    @property
    def cell_sizes(self) -> Bounds:
        """In metres, radians, metres."""
        less = 0 if self.cell == 'even' else 1
        r, phi, z = (
            (top - low) / max(1, count - less)
            for low, top, count in zip(self.lower, self.upper, self.shape)
        )
        return r, phi, z

    def positions(self, points: Tensor) -> Tensor:
        """(N, 3) radius, angle and height in units of a cell."""
        x, y, z = points[:, 0], points[:, 1], points[:, 2]
        polar = torch.stack([torch.hypot(x, y), torch.atan2(y, x), z], 1)
        if self.cell == 'published':  # as there divided in float64: on a border each bit counts
            polar = polar.double()
            return (polar - polar.new_tensor(self.lower)) / polar.new_tensor(self.cell_sizes)
        lower, upper = polar.new_tensor(self.lower), polar.new_tensor(self.upper)
        return (polar - lower) / (upper - lower) * polar.new_tensor(self.shape)

    def inside(self, points: Tensor, positions: Tensor) -> Tensor:
        top = positions.new_tensor(self.shape)
        if self.cell == 'published':
            return ((positions >= 0) & (positions <= top - 1)).all(1)
        top[1] += 1  # an angle of exactly pi belongs to the last cell
        return ((positions >= 0) & (positions < top)).all(1)

    def surely_holds(self, positions: Tensor) -> bool:
        """As the other grid's: here nothing is cheaper than to ask for each point."""
        return False

    def cells(self, positions: Tensor) -> Tensor:
        top = torch.tensor(self.shape, device=positions.device) - 1
        return positions.floor().clamp(min=torch.zeros_like(top), max=top).int()


Grid = Annotated[CartesianGrid | CylinderGrid, Field(discriminator='kind')]


@dataclass(frozen=True, eq=False)
class Voxels:
    """The points a grid can hold (M of N), and the voxels they occupy.

    points (M, 4+) x y z intensity; batch (M,) the scan each is from; rows (M,) where each was in
    the input; positions (M, 3) in voxels; point_voxel (M,); coords (V, 4) int32 sorted as
    (batch, x, y, z); features (V, 4+) the mean of the voxel's points; left_out: reason -> points,
    of which only the `clamped` ones are here, in a border cell.
    """

    points: Tensor
    batch: Tensor
    rows: Tensor
    positions: Tensor
    point_voxel: Tensor
    features: Tensor
    level: Level
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def coords(self) -> Tensor:
        return self.level.coords

    @cached_property
    def point_counts(self) -> Tensor:
        """(V,) points in each voxel."""
        return torch.bincount(self.point_voxel, minlength=len(self.level))


def voxelize(
    points: Tensor,
    grid: CartesianGrid | CylinderGrid,
    *,
    batch: Tensor | None = None,
    engine: Engine | str | None = None,
) -> Voxels:
    """points (N, 4+), float32 on any device; batch (N,) the scan of each point, 0 by default."""
    if points.ndim != 2 or points.shape[1] < 4:
        raise DataError(
            f'points: shape {tuple(points.shape)}: expected (N, 4) with x, y, z and intensity'
        )
    if batch is not None and batch.shape != points.shape[:1]:
        raise DataError(f'batch: shape {tuple(batch.shape)}: expected one scan number per point')
    chosen = select_engine(points.device, engine)
    positions = grid.positions(points)
    rows, left_out = _rows_inside(points, positions, grid)
    if len(rows) < len(points):
        points, positions = points[rows], positions[rows]
        batch = None if batch is None else batch[rows]
    cells = grid.cells(positions)
    positions = positions.to(points.dtype)
    owner = cells.new_zeros(len(cells)) if batch is None else batch.int()
    coords = torch.cat([owner[:, None], cells], 1)
    layout = key_layout(coords)
    group, order, starts = chosen.grouping.group(chosen.keys(coords, layout))
    level = Level(coords.index_select(0, order.index_select(0, starts[:-1])), chosen, layout)
    features = chosen.grouping.means(points, order, starts)
    return Voxels(points, owner, rows, positions, group.long(), features, level, left_out)


def voxels_from_cells(
    cells: Tensor, features: Tensor, ends: Tensor, engine: Engine | str | None = None
) -> Voxels:
    """What a data set voxelised before: cells (V, 3) in any order, one point in each one's middle,
    features (V, C) that are also the points' columns; ends (B,): where the rows of each scan end.
    """
    sizes = torch.diff(ends, prepend=ends.new_zeros(1))
    batch = torch.repeat_interleave(torch.arange(len(ends), device=ends.device), sizes)
    x, order = sparse_tensor(torch.cat([batch[:, None], cells], 1).int(), features, engine)
    rows = torch.arange(len(cells), device=cells.device)
    row_of = torch.empty_like(order).scatter_(0, order, rows)
    return Voxels(features, batch, rows, cells + 0.5, row_of, x.features, x.level)


def _rows_inside(
    points: Tensor, positions: Tensor, grid: CartesianGrid | CylinderGrid
) -> tuple[Tensor, dict[str, int]]:
    """The rows that the grid can hold, and why the others are left out."""
    if _holds_all(points, positions, grid):
        return torch.arange(len(points), device=points.device), {}
    finite = points.sum(1).isfinite()
    empty = (points[:, :3] == 0).all(1)
    inside = grid.inside(points, positions)
    keep = finite & ~empty if grid.clamps else finite & ~empty & inside
    rows = torch.nonzero(keep).squeeze(1)
    if len(rows) == len(points) and not grid.clamps:
        return rows, {}
    counts = {
        'not_finite': int((~finite).sum()),
        'no_return': int((finite & empty).sum()),
        'clamped' if grid.clamps else 'out_of_range': int((finite & ~empty & ~inside).sum()),
    }
    return rows, {reason: count for reason, count in counts.items() if count}


def _holds_all(points: Tensor, positions: Tensor, grid: CartesianGrid | CylinderGrid) -> bool:
    """Whether no point is left out, as far as that is told in a quarter of the time it takes to
    ask for each.
    """
    if not len(points) or not grid.surely_holds(positions) or not points.sum().isfinite():
        return False
    at_zero = points[points[:, 0] == 0, :3]  # few, where a sensor leaves out what did not return
    return not (at_zero == 0).all(1).any()
