# SPDX-License-Identifier: Apache-2.0
"""Points to voxels and back: cells worked out by hand, and what never depends on the rest."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
import pytest
import torch
from torch import Tensor

from lidar_kd.errors import DataError
from lidar_kd.sparse import Engine
from lidar_kd.sparse.engines.plain_torch import TorchEngine
from lidar_kd.voxels import CartesianGrid, CylinderGrid, voxelize, Voxels

HALF_METRE = CartesianGrid(voxel_m=0.5)
# cells of 2 m, an eighth of a turn from -pi on, and 2 m
SMALL_CYLINDER = CylinderGrid(shape=(4, 8, 2), radius_m=(0, 8), height_m=(-2, 2))
CLAMPING = SMALL_CYLINDER.model_copy(update={'outside': 'clamp'})
GRIDS = [HALF_METRE, SMALL_CYLINDER, CLAMPING, CartesianGrid(), CylinderGrid()]


def scan(count: int = 3000) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([20, 20, 1.5, 1])
    return torch.randn(count, 4, generator=generator) * spread


def cells_of(voxels: Voxels) -> list[list[int]]:
    """The cell of each point that was kept."""
    return voxels.coords[voxels.point_voxel, 1:].tolist()


def test_points_fall_into_the_cells_worked_out_by_hand(engine: Engine) -> None:
    points = torch.tensor(
        [
            [0.1, 0.2, 0.3, 0.0],  # cell 0 0 0
            [0.4, 0.4, 0.1, 1.0],  # the same
            [-0.1, 0.2, 0.3, 0.5],  # just below zero: cell -1, not 0
            [0.5, -0.5, 1.0, 0.0],  # on a border: the cell above it
            [-0.5, 0.4, 0.1, 0.3],  # cell -1 again
        ]
    )
    voxels = voxelize(points, HALF_METRE, engine=engine)
    assert voxels.coords.tolist() == [[0, -1, 0, 0], [0, 0, 0, 0], [0, 1, -1, 2]]
    assert voxels.coords.dtype == torch.int32
    assert voxels.point_voxel.tolist() == [1, 1, 0, 2, 0]
    assert voxels.point_counts.tolist() == [2, 2, 1]
    # the mean of points 2 and 4, of 0 and 1, and point 3 alone
    means = [[-0.3, 0.3, 0.2, 0.4], [0.25, 0.3, 0.2, 0.5], [0.5, -0.5, 1.0, 0.0]]
    assert torch.allclose(voxels.features, torch.tensor(means))
    assert torch.equal(voxels.positions, points[:, :3] / 0.5)
    assert voxels.rows.tolist() == [0, 1, 2, 3, 4]
    assert voxels.left_out == {}


def test_scans_of_a_batch_do_not_share_voxels(engine: Engine) -> None:
    points = torch.tensor([[1.0, 1, 1, 1], [1, 1, 1, 3], [1, 1, 1, 5]])
    voxels = voxelize(points, HALF_METRE, batch=torch.tensor([1, 0, 1]), engine=engine)
    assert voxels.coords.tolist() == [[0, 2, 2, 2], [1, 2, 2, 2]]
    assert voxels.point_voxel.tolist() == [1, 0, 1]
    assert voxels.features[:, 3].tolist() == [3, 3]  # 3 alone, and the mean of 1 and 5


def test_points_that_the_grid_cannot_hold_are_left_out_and_counted(engine: Engine) -> None:
    nan, inf = math.nan, math.inf
    points = torch.tensor(
        [
            [nan, 1, 1, 0],
            [1, 2, 3, 0],
            [1, inf, 1, 0],
            [1, 1, -inf, 0],
            [1, 1, 1, nan],  # an intensity is part of the input too
            [inf, -inf, 1, 0],
            [1e7, 0, 0, 0],  # 20 million cells away
            [0, 0, 0, 7],  # how many drivers write a beam without a return
            [4, 5, 6, 1],
        ]
    )
    batch = torch.arange(9)
    voxels = voxelize(points, HALF_METRE, batch=batch, engine=engine)
    assert voxels.left_out == {'not_finite': 5, 'no_return': 1, 'out_of_range': 1}
    assert voxels.rows.tolist() == [1, 8]
    assert voxels.points.tolist() == [[1, 2, 3, 0], [4, 5, 6, 1]]
    assert voxels.coords.tolist() == [[1, 2, 4, 6], [8, 8, 10, 12]]
    assert voxels.features.isfinite().all()


def test_bounds_hold_their_lower_end_and_not_their_upper(engine: Engine) -> None:
    grid = CartesianGrid(voxel_m=0.5, lower_m=(-1, -1, -1), upper_m=(1, 1, 1))
    points = torch.tensor([[-1.0, -1, -1, 0], [1, 0.5, 0.5, 0], [0.5, 0.5, -1.01, 0]])
    voxels = voxelize(points, grid, engine=engine)
    assert voxels.rows.tolist() == [0]
    assert voxels.left_out == {'out_of_range': 2}


def test_cylinder_cells_are_those_worked_out_by_hand(engine: Engine) -> None:
    points = torch.tensor(
        [
            [1.0, 0.1, 0.5, 0],  # radius 1.0, angle 0.10: (0.10 + pi) / (pi / 4) = 4.1
            [-0.1, 3.0, -1.0, 0],  # radius 3.0, angle 1.60: 6.0
            [-5.0, 0.0, 1.0, 0],  # angle exactly pi: the last cell, not a ninth
            [-5.0, -0.0, 1.0, 0],  # angle exactly -pi: the first
            [0.0, -7.9, -2.0, 0],  # angle -pi / 2: 2.0; the lowest height
        ]
    )
    voxels = voxelize(points, SMALL_CYLINDER, engine=engine)
    assert cells_of(voxels) == [[0, 4, 1], [1, 6, 0], [2, 7, 1], [2, 0, 1], [3, 2, 0]]
    assert voxels.left_out == {}


BEYOND_THE_CYLINDER = torch.tensor(
    [
        [9.0, 1.0, 0.5, 0],  # too far
        [8.0, 0.0, 0.5, 0],  # just too far
        [1.0, 0.1, 2.0, 0],  # just too high
        [-1.0, -0.1, -3e38, 0],  # far too low
        [math.nan, 1, 1, 0],
        [0, 0, 0, 0],
        [math.inf, 1, 1, 0],
        [-5.0, 0.0, 1.0, 0],  # inside, at an angle of exactly pi
    ]
)


def test_a_cylinder_drops_what_is_outside(engine: Engine) -> None:
    voxels = voxelize(BEYOND_THE_CYLINDER, SMALL_CYLINDER, engine=engine)
    assert voxels.rows.tolist() == [7]
    assert voxels.left_out == {'not_finite': 2, 'no_return': 1, 'out_of_range': 4}


def test_a_clamping_cylinder_keeps_what_is_outside_and_counts_it(engine: Engine) -> None:
    voxels = voxelize(BEYOND_THE_CYLINDER, CLAMPING, engine=engine)
    assert voxels.rows.tolist() == [0, 1, 2, 3, 7]
    # angles 0.11, 0, 0.10, -3.04 and pi are 4.1, 4.0, 4.1, 0.1 and 8.0 eighths from -pi
    assert cells_of(voxels) == [[3, 4, 1], [3, 4, 1], [0, 4, 1], [0, 0, 0], [2, 7, 1]]
    assert voxels.left_out == {'not_finite': 2, 'no_return': 1, 'clamped': 4}


@pytest.mark.parametrize('bounds', [(5, 5), (5, 1)])
def test_bounds_of_a_cylinder_must_increase(bounds: tuple[float, float]) -> None:
    with pytest.raises(ValidationError, match='the first must be below the second'):
        CylinderGrid(radius_m=bounds)
    with pytest.raises(ValidationError, match='the first must be below the second'):
        CylinderGrid(height_m=bounds)


@pytest.mark.parametrize('number', [math.nan, math.inf])
def test_grids_of_numbers_that_are_not_finite_are_refused(number: float) -> None:
    for grid, name, value in (
        (CartesianGrid, 'voxel_m', number),
        (CartesianGrid, 'origin_m', (0, number, 0)),
        (CartesianGrid, 'lower_m', (-number, 0, 0)),
        (CartesianGrid, 'upper_m', (0, 0, number)),
        (CylinderGrid, 'radius_m', (0, number)),
        (CylinderGrid, 'height_m', (-number, 0)),
    ):
        with pytest.raises(ValidationError, match=f'{name}(.|\n)*finite number'):
            grid.model_validate({name: value})


def test_a_position_is_the_float32_quotient_to_the_bit() -> None:
    grid = CartesianGrid(voxel_m=0.1)
    # in float32 1.3 is 1.29999995 and 0.1 is 0.100000001: 12.9999993, cell 12; times 1 / 0.1,
    # which is 10 there, it would be cell 13
    positions = grid.positions(torch.tensor([[1.3, 0.0, 0.0, 0.0]]))
    assert positions[0, 0].item() == np.float32(1.3) / np.float32(0.1)
    assert grid.cells(positions)[0, 0].item() == 12


@pytest.mark.parametrize('grid', GRIDS, ids=str)
def test_engines_agree_on_every_voxel(native: Engine, grid: CartesianGrid) -> None:
    batch = torch.arange(3000) % 3
    ours = voxelize(scan(), grid, batch=batch, engine=native)
    plain = voxelize(scan(), grid, batch=batch, engine=TorchEngine())
    assert torch.equal(ours.coords, plain.coords)
    assert torch.equal(ours.point_voxel, plain.point_voxel)
    assert torch.equal(ours.rows, plain.rows)
    assert torch.allclose(ours.features, plain.features)
    assert ours.left_out == plain.left_out


def test_the_same_points_give_the_same_bits(engine: Engine) -> None:
    first, again = (voxelize(scan(), HALF_METRE, engine=engine) for _ in range(2))
    assert torch.equal(first.features, again.features)
    assert torch.equal(first.point_voxel, again.point_voxel)


def test_the_order_of_the_points_does_not_matter(engine: Engine) -> None:
    points = scan()
    shuffle = torch.randperm(len(points), generator=torch.Generator().manual_seed(1))
    voxels = voxelize(points, HALF_METRE, engine=engine)
    shuffled = voxelize(points[shuffle], HALF_METRE, engine=engine)
    assert torch.equal(voxels.coords, shuffled.coords)
    assert torch.equal(voxels.point_voxel[shuffle], shuffled.point_voxel)
    assert torch.allclose(voxels.features, shuffled.features, atol=1e-5)


@pytest.mark.parametrize('grid', GRIDS, ids=str)
def test_the_cell_of_a_point_does_not_depend_on_the_others(grid: CartesianGrid) -> None:
    points = scan()
    far = points + torch.tensor([900, -900, 0, 0])
    voxels = voxelize(points, grid)
    among_others = voxelize(torch.cat([points[::7], far]), grid)
    cell_of = dict(zip(voxels.rows.tolist(), cells_of(voxels)))
    some = [row for row in among_others.rows.tolist() if row < len(points[::7])]
    assert cells_of(among_others)[: len(some)] == [cell_of[7 * row] for row in some]


@pytest.mark.parametrize('grid', GRIDS, ids=repr)
@pytest.mark.parametrize(
    'stray', [[0.0, 0.0, 0.0, 0.3], [math.nan, 1.0, 1.0, 0.3], [1.0, 1.0, 1.0, math.inf]]
)
def test_a_point_that_is_left_out_changes_nothing_for_the_others(
    engine: Engine, grid: CartesianGrid, stray: list[float]
) -> None:
    points = voxelize(scan(), grid).points  # of them none is left out
    alone = voxelize(points, grid, engine=engine)
    with_it = voxelize(torch.cat([torch.tensor([stray]), points]), grid, engine=engine)
    assert sum(with_it.left_out.values()) == 1 + sum(alone.left_out.values())
    assert torch.equal(with_it.rows, alone.rows + 1)
    assert torch.equal(with_it.coords, alone.coords)
    assert torch.equal(with_it.features, alone.features)
    assert torch.equal(with_it.point_voxel, alone.point_voxel)


@pytest.mark.parametrize('shape', [(5, 3), (4,), (2, 5, 4), (0,)])
def test_points_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r'expected \(N, 4\) with x, y, z and intensity'):
        voxelize(torch.zeros(shape), HALF_METRE)


def test_a_batch_of_another_length_is_refused() -> None:
    with pytest.raises(DataError, match='one scan number per point'):
        voxelize(torch.ones(5, 4), HALF_METRE, batch=torch.zeros(4))


@pytest.mark.parametrize('grid', GRIDS, ids=str)
@pytest.mark.parametrize('count', [0, 5])
def test_no_points_and_nothing_but_nan_give_no_voxels(
    engine: Engine, grid: CartesianGrid, count: int
) -> None:
    voxels = voxelize(torch.full((count, 4), math.nan), grid, engine=engine)
    assert len(voxels.level) == 0
    assert voxels.coords.shape == (0, 4)
    assert voxels.features.shape == (0, 4)
    assert voxels.point_voxel.shape == (0,)
    assert voxels.left_out == ({'not_finite': count} if count else {})


clouds = arrays(
    np.float32,
    st.tuples(st.integers(0, 40), st.just(4)),
    elements=st.floats(-300, 300, width=32),
)


@settings(max_examples=60, deadline=None)
@given(clouds, st.sampled_from([0.05, 0.1, 0.5, 3.0]))
def test_every_kept_point_lies_inside_its_cell(
    points: NDArray[np.float32], voxel_m: float
) -> None:
    voxels = voxelize(torch.from_numpy(points), CartesianGrid(voxel_m=voxel_m))
    check_inside(voxels, points[:, :3].astype(np.float64) / voxel_m)


@settings(max_examples=60, deadline=None)
@given(clouds)
def test_every_kept_point_lies_inside_its_cylinder_cell(points: NDArray[np.float32]) -> None:
    voxels = voxelize(torch.from_numpy(points), CylinderGrid())
    x, y, z = points[:, :3].astype(np.float64).T
    polar = [
        np.hypot(x, y) / 50 * 480,
        (np.arctan2(y, x) / math.tau + 0.5) * 360,
        (z + 4) / 6 * 32,
    ]
    check_inside(voxels, np.stack(polar, 1))


def check_inside(voxels: Voxels, positions: NDArray[np.float64]) -> None:
    """`positions` in float64; a point nearer to a border than float32 tells may be beyond it."""
    kept = positions[voxels.rows.numpy()]
    cells = np.array(cells_of(voxels)).reshape(-1, 3)
    near = 1e-6 * (np.abs(kept) + 360)
    assert (kept >= cells - near).all()
    assert (kept <= cells + 1 + near).all()
    dropped = len(positions) - len(kept)
    assert dropped == sum(voxels.left_out.values())
