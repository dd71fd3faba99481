# SPDX-License-Identifier: Apache-2.0
"""PTv3: sizes, attention against a loop, and whose cells an answer depends on."""

from typing import Any

import pytest
import torch
from torch import nn, Tensor

from lidar_kd.errors import ConfigError, DataError
from lidar_kd.models import build_model
from lidar_kd.models.serialization import cut, ORDERS, serialize
from lidar_kd.models.transformer import Attention, DropPath, MlpSeen
from lidar_kd.sparse import select_engine
from lidar_kd.voxels import CartesianGrid, voxelize, Voxels
from training.run.macs import count_work

GRID = CartesianGrid(voxel_m=0.5)
TINY: dict[str, Any] = {
    'classes': 5,
    'encoder_depths': [1, 2, 1],
    'encoder_channels': [8, 16, 16],
    'encoder_heads': [1, 2, 2],
    'decoder_depths': [2, 1],
    'decoder_channels': [16, 16],
    'decoder_heads': [2, 1],
    'patch': 32,
}


def tiny(**settings: Any) -> nn.Module:
    """Random weights, and norms whose statistics are not those of no data."""
    torch.manual_seed(1)
    model = build_model('ptv3', **{**TINY, **settings})
    for name, buffer in model.named_buffers():
        if 'running' in name:
            nn.init.uniform_(buffer, 0.5, 1.5)
    return model.eval()


def scan(points: int = 400, seed: int = 0) -> Tensor:
    """Points around the origin, some of them in one voxel."""
    generator = torch.Generator().manual_seed(seed)
    xyz = torch.rand(points, 3, generator=generator) * torch.tensor([16.0, 16.0, 2.0])
    xyz -= torch.tensor([8.0, 8.0, 1.0])
    return torch.cat([xyz, torch.rand(points, 1, generator=generator)], 1)


@torch.inference_mode()
def logits(model: nn.Module, points: Tensor, **batch: Tensor) -> Tensor:
    result: Tensor = model(voxelize(points, GRID, **batch)).point_logits  # type: ignore[arg-type]
    return result


def gradient(model: nn.Module, voxels: Voxels) -> Tensor:
    model.zero_grad()
    model(voxels).voxel_logits.square().mean().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


# --- sizes ---

ENCODER_DEPTHS, DECODER_DEPTHS = (2, 2, 2, 6, 2), (2, 2, 2, 2)
ENCODER, DECODER = (32, 64, 128, 256, 512), (64, 64, 128, 256)


def expected_parameters(width: float) -> int:
    """4 inputs, 16 classes."""
    encoder, decoder = ([int(width * c) for c in channels] for channels in (ENCODER, DECODER))
    # a block of c channels: convolution 27 c^2 + c, linear c^2 + c, qkv 3 c^2 + 3 c,
    # projection c^2 + c, MLP 8 c^2 + 5 c, three layer norms 6 c: together 40 c^2 + 17 c
    channels = [*encoder, *decoder]
    depths = [*ENCODER_DEPTHS, *DECODER_DEPTHS]
    blocks = sum(depth * (40 * c * c + 17 * c) for c, depth in zip(channels, depths))
    # stem: 5^3 cells of 4 channels, and a norm; head: a linear layer
    ends = 125 * 4 * encoder[0] + 2 * encoder[0] + 16 * decoder[0] + 16
    # down and both halves of up: a linear layer a -> b with its bias, and a norm: a b + 3 b
    below = [*decoder[1:], encoder[-1]]
    pairs = [*zip(encoder, encoder[1:]), *zip(below, decoder), *zip(encoder, decoder)]
    return blocks + ends + sum(a * b + 3 * b for a, b in pairs)


@pytest.mark.parametrize(
    ('preset', 'width', 'parameters'),
    [
        ('ptv3_quarter', 0.25, 2_902_144),
        ('ptv3_half', 0.5, 11_562_736),
        ('ptv3_base', 1.0, 46_159_312),
        ('ptv3_103m', 1.5, 103_789_744),
    ],
)
def test_presets_have_the_published_number_of_parameters(
    preset: str, width: float, parameters: int
) -> None:
    with torch.device('meta'):
        model = build_model(preset, classes=16)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert expected_parameters(width) == parameters


@pytest.mark.parametrize(
    ('settings', 'sentence'),
    [
        ({'encoder_depths': [1, 2]}, '2 depths, 3 channels, 3 heads and 2 patches'),
        ({'decoder_depths': [1], 'decoder_channels': [16], 'decoder_heads': [2]}, 'one less'),
        ({'encoder_heads': [1, 3, 2]}, '3 heads do not divide 16 channels'),
        ({'patch': 0}, 'must be 1 or more'),
        ({'patch': [32, 32]}, '3 heads and 2 patches'),
        ({'orders': ['z', 'spiral']}, 'spiral: choose of z, z-trans'),
        ({'orders': []}, 'none: choose of z, z-trans'),
    ],
)
def test_settings_that_make_no_ptv3_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        tiny(**settings)


# --- attention ---


@pytest.mark.parametrize('size', [3, 7, 50])
def test_attention_agrees_with_a_loop_over_rows(size: int) -> None:
    torch.manual_seed(0)
    layer, x = Attention(6, heads=2).double(), torch.randn(20, 6, dtype=torch.float64)
    orders = [torch.randperm(13), 13 + torch.randperm(7)]
    q, k, v = layer.qkv(x).view(20, 3, 2, 3).unbind(1)
    expected = torch.empty(20, 2, 3, dtype=torch.float64)
    for order in orders:
        count = len(order)
        for place, row in enumerate(order):
            start = max(0, min(place // size * size, count - size))
            seen = order[start : start + size]
            for head in range(2):
                weights = (k[seen, head] @ q[row, head] / 3**0.5).softmax(0)
                expected[row, head] = weights @ v[seen, head]
    found = layer(x, cut(orders, size), select_engine('cpu'))
    torch.testing.assert_close(found, layer.proj(expected.flatten(1)))


# --- what a convolution sees ---


def test_blocks_that_are_alone_on_their_level_have_no_mlp_before_them() -> None:
    alone = {'encoder_depths': [1, 1, 1], 'decoder_depths': [1, 1]}
    for depths, same in ((alone, True), ({}, False)):
        mlp, usual = (tiny(conv_sees_mlp=seen, **depths) for seen in (True, False))
        assert torch.equal(logits(mlp, scan()), logits(usual, scan())) is same


def test_the_next_convolution_sees_the_mlp_with_the_rows_that_drop_path_left_out() -> None:
    torch.manual_seed(0)
    block = MlpSeen(8, heads=2, mlp_ratio=4.0, drop_path=0.5)
    nn.init.zeros_(block.attention.proj.weight)  # no branch but the MLP's
    nn.init.zeros_(block.attention.proj.bias)
    cells = serialize(voxelize(scan(), GRID).level, ORDERS, 0)
    inputs = torch.randn(len(cells), 8), cells.level, cells.patches(0, 16)
    _, whole = block.eval()(*inputs)
    x, seen = block.train()(*inputs)
    kept = seen.any(1)
    assert 0.4 < kept.float().mean() < 0.6  # of about 370 rows: 4 standard deviations are 0.1
    torch.testing.assert_close(seen[kept], whole[kept] / 0.5)  # made up for
    before, _ = block.eval()(*inputs)
    torch.testing.assert_close(x - seen, before - whole)  # what came before the MLP


# --- whose cells an answer depends on ---


def test_two_scans_get_in_a_batch_what_each_gets_alone() -> None:
    # 30 points lie in fewer voxels than a patch has
    model, first, second = tiny(), scan(400, seed=1), scan(30, seed=2)
    batch = torch.tensor([0] * 400 + [1] * 30)
    together = logits(model, torch.cat([first, second]), batch=batch)
    alone = torch.cat([logits(model, first), logits(model, second)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_the_order_of_the_points_changes_nothing_where_each_has_a_voxel() -> None:
    # cells are distinct and so are their codes: there are no ties. Where several points share a
    # voxel, the mean of their features is rounded differently in another order.
    model, points = tiny(), scan(400)
    voxels = voxelize(points, GRID)
    first = torch.full((len(voxels.level),), len(points))
    first.scatter_reduce_(0, voxels.point_voxel, torch.arange(len(points)), 'amin')
    points = points[first]
    order = torch.randperm(len(points))
    assert torch.equal(logits(model, points[order]), logits(model, points)[order])


def test_points_in_one_voxel_get_one_answer() -> None:
    points = scan(40)
    doubled = torch.cat([points, points])
    result = logits(tiny(), doubled)
    assert torch.equal(result[:40], result[40:])
    torch.testing.assert_close(result[:40], logits(tiny(), points))


def test_orders_are_shuffled_in_training_only() -> None:
    voxels = voxelize(scan(), GRID)
    model = tiny(drop_path=0.0)
    first, second = (model(voxels).voxel_logits for _ in range(2))
    assert torch.equal(first, second)
    model.train()
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm1d)):
        norm.eval()
    turns = torch.stack([model(voxels).voxel_logits for _ in range(4)])
    assert (turns - first).abs().amax() > 1e-4
    cells = serialize(voxels.level, ORDERS, 2)
    assert sorted(cells.shuffled().orders) == sorted(ORDERS)


def test_a_cloud_of_one_point_is_answered_and_refused_in_training() -> None:
    point = torch.tensor([[3.0, -2.0, 0.5, 0.1]])
    assert logits(tiny(), point).isfinite().all()
    with pytest.raises(DataError, match='a single cell at some level, where batch norm needs two'):
        tiny().train()(voxelize(point, GRID))


def test_no_points_are_refused() -> None:
    with pytest.raises(DataError, match='there are no voxels'):
        logits(tiny(), torch.zeros(0, 4))


# --- training ---


def test_the_numerical_gradient_agrees() -> None:
    voxels = voxelize(scan(80), CartesianGrid(voxel_m=1.0), engine='torch')
    model = tiny(patch=16).double()
    features = voxels.features.double().requires_grad_()
    weights = torch.randn(len(voxels.level), 5, dtype=torch.float64)

    def loss(x: Tensor) -> Tensor:
        output = model(Voxels(**{**vars(voxels), 'features': x}))
        return (output.voxel_logits * weights).sum()

    parameters = [features, *model.parameters()]
    gradients = torch.autograd.grad(loss(features), parameters)
    directions = [torch.randn_like(parameter) for parameter in parameters]
    expected = sum(float((g * d).sum()) for g, d in zip(gradients, directions))

    @torch.no_grad()
    def move(step: float) -> None:
        for parameter, direction in zip(parameters, directions):
            parameter += step * direction

    step, values = 1e-7, []
    for part in (step, -2 * step):
        move(part)
        values.append(float(loss(features).detach()))
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize('conv_sees_mlp', [False, True])
def test_checkpointing_changes_no_gradient(conv_sees_mlp: bool) -> None:
    voxels = voxelize(scan(), GRID)
    gradients = []
    for checkpointing in (False, True):
        model = tiny(checkpointing=checkpointing, conv_sees_mlp=conv_sees_mlp).train()
        torch.manual_seed(3)  # of drop path and orders
        gradients.append(gradient(model, voxels))
    assert torch.equal(*gradients)


def test_gradients_are_the_same_in_every_run() -> None:
    voxels, model = voxelize(scan(), GRID), tiny()
    first = gradient(model, voxels)
    assert all(torch.equal(gradient(model, voxels), first) for _ in range(20))


def test_drop_path_leaves_out_rows_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    layer, x = DropPath(0.25), torch.ones(4000, 3)
    y = layer(x)
    assert sorted(set(y.flatten().tolist())) == [0.0, pytest.approx(4 / 3)]
    assert torch.equal(y[:, 0], y[:, 2])
    assert float(y.mean()) == pytest.approx(1, abs=0.05)  # 4 standard deviations are 0.037
    assert layer.eval()(x) is x


# --- its work ---


def test_macs_of_one_block_are_counted_from_maps_and_patches() -> None:
    model = tiny(
        encoder_depths=[1],
        encoder_channels=[8],
        encoder_heads=[1],
        decoder_depths=[],
        decoder_channels=[],
        decoder_heads=[],
        patch=2,
    )
    # cells 0, 1 and 9 of a row: the pair of neighbours sees both, so 5 pairs in either kernel
    points = torch.tensor([[0.1, 0.1, x, 0.5] for x in (0.1, 0.6, 4.6)])
    # stem 5 * 4 * 8; CPE 5 * 64 + 3 * 64; attention on patches (0, 1) and (1, 9): 4 rows of qkv
    # 4 * 3 * 64, 2 * 2 * 2 * 2 products of 8; projection 3 * 64; MLP 3 * 8 * 64; head 3 * 8 * 5
    expected = 160 + 512 + 768 + 128 + 192 + 1536 + 120
    with torch.inference_mode():
        assert count_work(model, voxelize(points, GRID)).macs == expected
