# SPDX-License-Identifier: Apache-2.0
"""SPVCNN's point branch: interpolation and means against loops, and what points get of it."""

from itertools import product

import pytest
from seen_network import build_seen, flat_gradient, GRID, scan
import torch
from torch import Tensor

from lidar_kd.models.points import CORNERS, PointBranch, trilinear
from lidar_kd.sparse import Level, SparseTensor
from lidar_kd.voxels import CartesianGrid, CylinderGrid, voxelize, Voxels

HALF = (2, 2, 2)


def test_trilinear_weights_of_one_point() -> None:
    # at (0.5, 0.25, 0) in its cell: x halves, y 3/4 and 1/4, z all below
    # corners in the order 000 001 010 011 100 101 110 111
    inside = torch.tensor([[0.5, 0.25, 0.0]])
    expected = torch.tensor([[3 / 8, 0, 1 / 8, 0, 3 / 8, 0, 1 / 8, 0]])
    everywhere = torch.ones(1, 8, dtype=torch.bool)
    torch.testing.assert_close(trilinear(inside, everywhere), expected)
    # cell 110 is empty: the others share 7/8, so 3/7, 1/7 and 3/7
    everywhere[0, 6] = False
    expected = torch.tensor([[3 / 7, 0, 1 / 7, 0, 3 / 7, 0, 0, 0]])
    torch.testing.assert_close(trilinear(inside, everywhere), expected)


def test_a_point_among_empty_cells_gets_its_own_cell_whole() -> None:
    alone = torch.zeros(2, 8, dtype=torch.bool)
    corner = torch.tensor([[0.999, 0.999, 0.999], [1.0, 1.0, 1.0]])
    expected = torch.eye(8)[[0, 0]]
    assert torch.equal(trilinear(corner, alone), expected)


def interpolate_by_hand(
    features: Tensor, coords: Tensor, positions: Tensor, batch: Tensor, stride: int
) -> Tensor:
    """The published rule, point by point: the 8 cells around it, without the empty ones."""
    row_of = {tuple(cell): row for row, cell in enumerate(coords.tolist())}
    result = []
    for scan_index, position in zip(batch.tolist(), (positions / stride).double()):
        base, total, value = position.floor(), 0.0, torch.zeros(features.shape[1])
        for corner in CORNERS:
            cell = (scan_index, *(int(b) + d for b, d in zip(base.tolist(), corner)))
            if cell not in row_of:
                continue
            distance = (position - base - torch.tensor(corner)).abs()
            weight = float((1 - distance).prod())
            value, total = value + weight * features[row_of[cell]], total + weight
        result.append(value / (total + 1e-8))
    return torch.stack(result)


@pytest.fixture
def two_scans() -> Voxels:
    points = torch.cat([scan(40, seed=3), scan(30, seed=4)]) * 0.3
    return voxelize(points, GRID, batch=torch.tensor([0] * 40 + [1] * 30))


def level_at(level: Level, depth: int) -> Level:
    for _ in range(depth):
        level, _ = level.coarser(HALF)
    return level


@pytest.mark.parametrize('depth', [0, 2, 4])
def test_interpolation_and_its_gradient_agree_with_a_loop(two_scans: Voxels, depth: int) -> None:
    level = level_at(two_scans.level, depth)
    features = torch.randn(len(level), 3, requires_grad=True)
    result = PointBranch(two_scans).interpolate(SparseTensor(features, level))
    by_hand = interpolate_by_hand(
        features, level.coords, two_scans.positions, two_scans.batch, 2**depth
    )
    torch.testing.assert_close(result, by_hand, rtol=1e-4, atol=1e-5)
    weights = torch.randn_like(result)
    gradient, expected = (
        torch.autograd.grad((y * weights).sum(), features)[0] for y in (result, by_hand)
    )
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('depth', [0, 2, 4])
def test_the_mean_and_its_gradient_agree_with_a_loop(two_scans: Voxels, depth: int) -> None:
    level = level_at(two_scans.level, depth)
    points = torch.randn(len(two_scans.points), 3, requires_grad=True)
    result = PointBranch(two_scans).mean(points, level)
    cells = torch.cat([two_scans.batch[:, None], two_scans.positions.floor().int() >> depth], 1)
    by_hand = torch.stack([points[(cells == cell).all(1)].mean(0) for cell in level.coords])
    torch.testing.assert_close(result, by_hand)
    weights = torch.randn_like(result)
    gradient, expected = (
        torch.autograd.grad((y * weights).sum(), points)[0] for y in (result, by_hand)
    )
    torch.testing.assert_close(gradient, expected)


def test_the_numerical_gradient_of_a_tiny_spvcnn_agrees() -> None:
    # through the point branch at every level
    voxels = voxelize(scan(60, seed=5), CartesianGrid(voxel_m=2.0), engine='torch')
    model = build_seen('spvcnn', width=0.25).double()
    features = voxels.features.double().requires_grad_()
    weights = torch.randn(60, 5, dtype=torch.float64)

    def loss(x: Tensor) -> Tensor:
        output = model(Voxels(**{**vars(voxels), 'features': x}))
        return (output.point_logits * weights).sum()

    (gradient,) = torch.autograd.grad(loss(features), features)
    direction = torch.randn_like(features)
    step = 1e-6
    x = features.detach().requires_grad_()  # the same float64 code on both sides
    ahead, behind = loss(x + step * direction), loss(x - step * direction)
    numerical = float((ahead - behind).detach()) / (2 * step)
    assert numerical == pytest.approx(float((gradient * direction).sum()), rel=1e-4)


def test_the_gradient_of_the_point_branch_is_the_same_in_every_run() -> None:
    model, voxels = build_seen('spvcnn', width=0.25), voxelize(scan(), GRID)
    runs = []
    for _ in range(3):
        model.zero_grad()
        model(voxels).point_logits.square().sum().backward()
        runs.append(flat_gradient(model))
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])


def test_points_clamped_into_a_border_cell_take_that_cell() -> None:
    grid = CylinderGrid(shape=(8, 8, 4), radius_m=(0.0, 10.0), outside='clamp')
    points = torch.tensor([[30.0, 1.0, 0.0, 0.5], [-2.0, 0.0, 9.0, 0.1]])
    voxels = voxelize(points, grid)
    features = torch.randn(len(voxels.level), 3)
    result = PointBranch(voxels).interpolate(SparseTensor(features, voxels.level))
    assert torch.equal(result, features[voxels.point_voxel])


def test_voxel_logits_of_spvcnn_are_the_mean_of_their_points() -> None:
    voxels = voxelize(scan(), GRID)
    with torch.inference_mode():
        output = build_seen('spvcnn', width=0.25)(voxels)
    for voxel, logits in enumerate(output.voxel_logits[:20]):
        mean = output.point_logits[voxels.point_voxel == voxel].mean(0)
        torch.testing.assert_close(logits, mean, rtol=1e-4, atol=1e-5)


def test_points_of_one_voxel_get_answers_of_their_own_from_spvcnn() -> None:
    pairs = list(product((0.05, 0.45), repeat=2))
    points = torch.tensor([[x, y, 0.2, 0.5] for x, y in pairs] + [[0.7, 0.2, 0.2, 0.5]])
    voxels = voxelize(points, GRID)
    assert voxels.point_voxel.tolist() == [0, 0, 0, 0, 1]
    with torch.inference_mode():
        logits = build_seen('spvcnn', width=0.25)(voxels).point_logits
    assert len(torch.unique(logits[:4], dim=0)) > 1
