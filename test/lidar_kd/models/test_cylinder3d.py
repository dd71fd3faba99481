# SPDX-License-Identifier: Apache-2.0
"""Cylinder3D: sizes, kernels wider than their stride, one answer live and in training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn, Tensor
from torch.nn import functional as F

from lidar_kd.bundle import BundleSpec, load_bundle, ModelSpec, save_bundle
from lidar_kd.errors import ConfigError
from lidar_kd.labels import SEMANTICKITTI
from lidar_kd.models import build_model
from lidar_kd.models.cylinder3d import geometry
from lidar_kd.models.points import highest
from lidar_kd.segmenter import Segmenter
from lidar_kd.sparse import Engine, fold_norms, InverseConv, Level, SparseTensor, StridedConv
from lidar_kd.sparse.tensor import Triple
from lidar_kd.voxels import CylinderGrid, voxelize, Voxels

GRID = CylinderGrid(shape=(24, 36, 8), radius_m=(0.0, 12.0), outside='clamp')
TINY: dict[str, Any] = {
    'width': 4,
    'voxel_channels': 4,
    'point_channels': 8,
    'point_hidden': [8, 16],
}
CUBE = (3, 3, 3)


def scan(points: int = 600, seed: int = 0) -> Tensor:
    """Points on a bent sheet around the sensor, some of them beyond the grid."""
    generator = torch.Generator().manual_seed(seed)
    xy = torch.rand(points, 2, generator=generator) * 20 - 10
    z = torch.sin(xy[:, :1]) + 0.1 * torch.randn(points, 1, generator=generator)
    return torch.cat([xy, z, torch.rand(points, 1, generator=generator)], 1)


def tiny(classes: int = 5) -> nn.Module:
    """Random weights, and batch norms that have seen a scan, in eval mode."""
    torch.manual_seed(1)
    model = build_model('cylinder3d', classes=classes, **TINY)
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm1d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.1)
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(voxelize(scan(), GRID))
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm1d)):
        norm.momentum = 0.1
    return model.eval()


# --- sizes ---


def voxel_parameters(width: int, channels: int) -> int:
    """Of 19 classes; channels: of the last layer of the points' network."""

    def norms(c: int, count: int) -> int:
        return 2 * c * count

    def asymmetric(a: int, b: int) -> int:
        return 2 * (9 * a * b + 9 * b * b) + norms(b, 4)  # two pairs of kernels of 9 cells

    w = [width * 2**step for step in range(5)]
    # points: a norm of 9; 9 -> 64 -> 128 -> 256 with biases and norms, then -> channels -> 16
    points = norms(9, 1) + 9 * 64 + 64 * 128 + 128 * 256 + 3 * (64 + 128 + 256)
    points += 256 * channels + channels + channels * 16 + 16
    down = asymmetric(16, w[0])
    down += sum(asymmetric(a, b) + 27 * b * b for a, b in zip(w, w[1:]))  # pools of 27 cells
    # up: 27 cells a -> b, the inverse convolution and one more of 27 and two flat ones b -> b
    up = sum(
        27 * a * b + (27 + 27 + 9 + 9) * b * b + norms(b, 4)
        for a, b in zip([w[4], *w[:0:-1]], w[:0:-1])
    )
    context = 3 * 3 * w[1] * w[1] + norms(w[1], 3)  # three lines of 3 cells
    head = 27 * 2 * w[1] * 19 + 19  # on twice the channels of the context
    return points + down + up + context + head


@pytest.mark.parametrize(
    ('preset', 'width', 'channels', 'parameters', 'refinement'),
    [
        # refinement: cell 128 -> 64; point 256 -> 64 with bias and norm; 64 -> 19 with bias:
        # 8,192 + 16,384 + 64 + 128 + 1,216 + 19 = 26,003
        ('cylinder3d', 32, 256, 55_849_909, 26_003),
        # 64 -> 32, 128 -> 32, 32 -> 19: 2,048 + 4,096 + 32 + 64 + 608 + 19 = 6,867
        ('cylinder3d_half', 16, 128, 14_034_869, 6_867),
    ],
)
def test_presets_have_the_published_number_of_parameters(
    preset: str, width: int, channels: int, parameters: int, refinement: int
) -> None:
    with torch.device('meta'):
        model = build_model(preset, classes=19)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert voxel_parameters(width, channels) == parameters
    assert count == parameters + refinement


@pytest.mark.parametrize(
    ('settings', 'classes', 'parameters'),
    [
        ({}, 20, 55_853_366),
        ({}, 17, 55_842_995),
        ({'voxel_channels': 32}, 20, 55_866_694),  # PVKD's for SemanticKITTI
        ({'width': 16, 'point_channels': 128}, 20, 14_036_598),
        ({'width': 16}, 26, 14_081_916),  # PVKD's for several scans
    ],
)
def test_without_a_point_head_it_has_the_parameters_of_the_published_files(
    settings: dict[str, int], classes: int, parameters: int
) -> None:
    with torch.device('meta'):
        model = build_model('cylinder3d', classes=classes, point_head=False, **settings)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_shared_pairs_leave_out_the_weights_without_a_use() -> None:
    with torch.device('meta'):
        models = [build_model('cylinder3d', classes=20, shared_pairs=s) for s in (False, True)]
    own, shared = (sum(p.numel() for p in model.parameters()) for model in models)
    # 18 of the 27 slots of the last layer of each way up: 64, 128, 256 and 512 channels
    assert own - shared == 18 * (64**2 + 128**2 + 256**2 + 512**2)


def test_a_published_cell_is_the_range_over_one_less_than_their_number() -> None:
    # 24 cells over 12 m: 12 / 23 m each; 6.2 m lie in cell floor(11.88) = 11, evenly in 12;
    # 12 m and all beyond in the last
    grid = GRID.model_copy(update={'cell': 'published'})
    points = torch.tensor([[6.2, 0.0, 0.0, 0.0], [11.99, 0.0, 0.0, 0.0], [12.5, 0.0, 0.0, 0.0]])
    voxels = voxelize(points, grid)
    assert voxels.coords[voxels.point_voxel, 1].tolist() == [11, 22, 23]
    assert voxels.left_out == {'clamped': 1}
    assert voxelize(points[:1], GRID).coords[0, 1] == 12


def test_cells_beyond_the_grid_are_left_out_where_it_is_given(engine: Engine) -> None:
    # cells 0 and 3 along x: along z a step of 1 reaches -1 and 1 from 0; of a grid one cell high
    # only 0 is inside
    level = Level(torch.tensor([[0, 0, 0, 0], [0, 3, 0, 0]]), engine)
    coarse = level.coarser_inside((2, 2, 1), CUBE, (2, 1, 1))
    assert coarse.coords.tolist() == [[0, 0, 0, 0], [0, 1, 0, 0]]
    again, pairs = level.coarser((2, 2, 1), CUBE)
    assert again is coarse
    assert coarse.finer((2, 2, 1), CUBE) is level
    assert pairs.pairs == 2  # 0 <- 0 and 1 <- 3; the kernel around 4 is outside
    x = torch.randn(2, 3)
    conv = StridedConv(3, 5, (2, 2, 1), kernel=CUBE)
    by_hand = [x[0] @ conv.weight[:, 1, 1, 1].T, x[1] @ conv.weight[:, 2, 1, 1].T]
    with torch.no_grad():
        y = conv(SparseTensor(x, level)).features
    torch.testing.assert_close(y, torch.stack(by_hand), rtol=1e-4, atol=1e-5)


def test_a_cylinder3d_without_channels_is_refused() -> None:
    none: list[dict[str, Any]] = [{'width': 0}, {'point_hidden': []}]
    for settings in none:
        with pytest.raises(ConfigError, match='must be 1 or more'):
            build_model('cylinder3d', classes=5, **settings)


# --- kernels wider than their stride ---


def conv_by_hand(x: Tensor, weight: Tensor, stride: Triple) -> Tensor:
    """conv3d over (2, C, X, Y, Z) with two empty cells around, so that index 1 is cell 0 where the
    stride is 2 and index 2 where it is 1."""
    return F.conv3d(F.pad(x, [2] * 6), weight, stride=stride, padding=1)


def at(dense: Tensor, coords: Tensor, stride: Triple) -> Tensor:
    batch, x, y, z = (coords + torch.tensor([0, *(3 - step for step in stride)])).long().T
    return dense[batch, :, x, y, z]


def random_level(engine: Engine) -> Level:
    occupied = torch.rand(2, 9, 8, 7, generator=torch.Generator().manual_seed(0)) < 0.1
    return Level(torch.nonzero(occupied), engine)


def dense_of(x: Tensor, level: Level) -> Tensor:
    cells = tuple(level.coords.long().T)
    return torch.zeros(2, 9, 8, 7, x.shape[1]).index_put(cells, x).permute(0, 4, 1, 2, 3)


def assert_same_gradients(y: Tensor, expected: Tensor, inputs: list[Tensor]) -> None:
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    weights = torch.randn_like(y)
    for a, b in zip(*(torch.autograd.grad((z * weights).sum(), inputs) for z in (y, expected))):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('stride', [(2, 2, 2), (2, 2, 1)])
def test_a_kernel_wider_than_its_stride_agrees_with_a_dense_one(
    engine: Engine, stride: Triple
) -> None:
    level = random_level(engine)
    x = torch.randn(len(level), 3, requires_grad=True)
    conv = StridedConv(3, 5, stride, kernel=CUBE)
    y = conv(SparseTensor(x, level))
    dense = conv_by_hand(dense_of(x, level), conv.weight.permute(0, 4, 1, 2, 3), stride)
    assert_same_gradients(y.features, at(dense, y.level.coords, stride), [x, conv.weight])
    occupied = dense_of(torch.ones(len(level), 1), level)
    reached = conv_by_hand(occupied, torch.ones(1, 1, *CUBE), stride)
    assert len(y.level) == int((reached > 0).sum())
    with torch.inference_mode():
        torch.testing.assert_close(conv(SparseTensor(x, level)).features, y.features)


@pytest.mark.parametrize('stride', [(2, 2, 2), (2, 2, 1)])
def test_its_way_back_is_its_transpose(engine: Engine, stride: Triple) -> None:
    level = random_level(engine)
    coarse, _ = level.coarser(stride, CUBE)
    x = torch.randn(len(coarse), 3, requires_grad=True)
    back = InverseConv(3, 5, stride, kernel=CUBE)
    y = back(SparseTensor(x, coarse))
    assert y.level is level
    # <back(x), e> = <x, conv(e)> for every e: so back is the gradient of conv
    probe = torch.zeros(len(level), 5, requires_grad=True)
    there = conv_by_hand(dense_of(probe, level), back.weight.permute(4, 0, 1, 2, 3), stride)
    product = (at(there, coarse.coords, stride) * x).sum()
    (expected,) = torch.autograd.grad(product, probe, create_graph=True)
    assert_same_gradients(y.features, expected, [x, back.weight])


def test_a_row_of_cells_reaches_its_neighbours() -> None:
    # cells 0 and 3 along x: kernels around 0, 2 and 4 meet them; along z a step of 1 reaches 1 on
    level = Level(torch.tensor([[0, 0, 0, 0], [0, 3, 0, 0]]), 'torch')
    coarse, pairs = level.coarser((2, 2, 1), CUBE)
    assert coarse.coords.tolist() == [[0, x, 0, z] for x in (0, 1, 2) for z in (-1, 0, 1)]
    assert pairs.pairs == 3 + 6
    with pytest.raises(ValueError, match='no finer level'):
        coarse.finer((2, 2, 1))


# --- points and their cells ---


def test_the_maximum_and_its_gradient_agree_with_a_loop() -> None:
    rows = torch.randn(50, 3, requires_grad=True)
    owner = torch.cat([torch.arange(8), torch.randint(8, (42,))])
    by_hand = torch.stack([rows[owner == k].amax(0) for k in range(8)])
    assert_same_gradients(highest(rows, owner, 8), by_hand, [rows])


def test_what_a_point_says_of_itself() -> None:
    # cells of 0.5 m, 10 degrees and 0.75 m; (0, 3.1, 0.5): radius 3.1 = 6.2 cells, a right angle =
    # 27 cells from -180 degrees, height 4.5 above -4 = 6 cells: a fraction of 0.2, 0 and 0 inside
    voxels = voxelize(torch.tensor([[0.0, 3.1, 0.5, 0.25]]), GRID)
    expected = [-0.3, -0.5, -0.5, 3.1, np.pi / 2, 0.5, 0.0, 3.1, 0.25]
    torch.testing.assert_close(geometry(voxels), torch.tensor([expected]), rtol=0, atol=1e-5)


def test_the_angle_does_not_wrap_around() -> None:
    beside = torch.tensor([[-5.0, 0.01, 0.0, 0.5], [-5.0, -0.01, 0.0, 0.5]])
    voxels = voxelize(beside, GRID)
    assert voxels.coords[:, 2].tolist() == [0, 35]
    assert voxels.level.submanifold(CUBE).pairs == 2  # each with itself


def test_points_of_one_cell_get_answers_of_their_own() -> None:
    points = torch.tensor([[3.1, 0.1, 0.1, 0.5], [3.3, 0.2, 0.3, 0.9]])
    voxels = voxelize(points, GRID)
    assert len(voxels.level) == 1
    with torch.inference_mode():
        first, second = tiny()(voxels).point_logits
    assert not torch.allclose(first, second)


# --- gradients, and the way to the robot ---


def test_the_numerical_gradient_agrees() -> None:
    voxels = voxelize(scan(60, seed=5), GRID, engine='torch')
    model = tiny().double()
    double = {name: getattr(voxels, name).double() for name in ('positions', 'features')}
    weights = torch.randn(60, 5, dtype=torch.float64)

    def loss(points: Tensor) -> Tensor:
        output = model(Voxels(**{**vars(voxels), **double, 'points': points}))
        voxel = output.voxel_logits.index_select(0, output.point_voxel)
        return ((output.point_logits + voxel) * weights).sum()

    points = voxels.points.double().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(points), points)
    direction = torch.randn_like(points)
    step = 1e-7
    ahead, behind = (loss(points.detach() + s * direction) for s in (step, -step))
    numerical = float((ahead - behind).detach()) / (2 * step)
    assert numerical == pytest.approx(float((gradient * direction).sum()), rel=1e-4)


def trained() -> Tensor:
    model = tiny().train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for seed in range(2):
        output = model(voxelize(scan(seed=seed), GRID))
        optimiser.zero_grad()
        (output.point_logits.square().mean() + output.voxel_logits.square().mean()).backward()
        optimiser.step()
    return torch.cat([tensor.flatten().double() for tensor in model.state_dict().values()])


def test_two_runs_of_training_are_the_same_to_the_bit() -> None:
    assert torch.equal(trained(), trained())


def test_the_segmenter_answers_as_the_saved_network_does(tmp_path: Path) -> None:
    model = tiny(SEMANTICKITTI.num_classes)
    spec = BundleSpec(
        model=ModelSpec(name='cylinder3d', settings=TINY), grid=GRID, labels=SEMANTICKITTI
    )
    save_bundle(tmp_path / 'a.safetensors', model, spec)
    bundle = load_bundle(tmp_path / 'a.safetensors')
    points = scan(seed=3)
    output = model(voxelize(points, GRID))  # with gradients: the code of training, nothing folded
    answer = Segmenter(bundle, precision='float32').segment(points.numpy())
    probability, labels = output.point_logits.softmax(1).max(1)
    assert answer.labels.tolist() == labels.tolist()
    assert answer.unseen == {}
    np.testing.assert_allclose(answer.probability, probability.detach(), rtol=1e-3)


def test_folding_leaves_a_norm_behind_a_nonlinearity_where_it_is() -> None:
    model = fold_norms(tiny())
    left = [name for name, m in model.named_modules() if isinstance(m, nn.BatchNorm1d)]
    # 5 asymmetric blocks and 4 stages up of four kernels each, and the norm of the points
    assert len(left) == 5 * 4 + 4 * 4 + 1
