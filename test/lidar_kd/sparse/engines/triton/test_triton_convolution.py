# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels against float64: on a GPU where there is one, else interpreted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

pytest.importorskip('triton', reason='Triton is not installed (torch for CUDA brings it)')

from lidar_kd.models import build_model, PRESETS  # noqa: E402
from lidar_kd.sparse import Conv, KernelMap, Level  # noqa: E402
from lidar_kd.sparse.engines.parts import RowAnswers  # noqa: E402
from lidar_kd.sparse.engines.triton.engine import TritonEngine  # noqa: E402
from lidar_kd.sparse.engines.triton.order import (  # noqa: E402
    count_products,
    marks_of_slots,
    visit_numbers,
)
from lidar_kd.sparse.engines.triton.plan import make_plans, table_of_pairs  # noqa: E402
from lidar_kd.sparse.engines.triton.tiles import DeviceTiles, tiles_of  # noqa: E402

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
# largest error over largest value; half an ulp of a result is 5e-4 in float16, 4e-3 in bfloat16
LIMITS = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
types = pytest.mark.parametrize('dtype', LIMITS, ids=lambda dtype: str(dtype)[6:])

# small enough that a few dozen rows make several tiles, groups of slots and shares
SMALL = DeviceTiles(80, 16, 32, 24, {bits: [[4096, 16, 16, 4, 2]] for bits in ('16', '32')})
LARGE = replace(SMALL, rows=64, limits={bits: [[4096, 256, 256, 4, 2]] for bits in ('16', '32')})


def random(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return values.to(dtype).to(DEVICE)


@cache
def cells(cloud: str) -> Tensor:
    """(N, 4) sorted cells, partly negative."""
    if cloud == 'one voxel':
        return torch.tensor([[0, -1, 2, -3]], dtype=torch.int32, device=DEVICE)
    occupied = torch.rand(2, 5, 3, 4, generator=torch.Generator().manual_seed(1)) < 0.3
    if cloud == 'isolated':  # two apart: every slot but the centre stays empty
        occupied = torch.zeros(2, 5, 3, 4, dtype=torch.bool)
        occupied[:, ::2, ::2, ::2] = True
    return (torch.nonzero(occupied) + torch.tensor([0, -3, -1, -2])).int().to(DEVICE)


def submanifold(kernel: tuple[int, int, int]) -> Callable[[Level], KernelMap]:
    return lambda level: level.submanifold(kernel)


def strided(
    stride: tuple[int, int, int], kernel: tuple[int, int, int] | None = None
) -> Callable[[Level], KernelMap]:
    return lambda level: level.coarser(stride, kernel)[1]


def inverse(
    stride: tuple[int, int, int], kernel: tuple[int, int, int] | None = None
) -> Callable[[Level], KernelMap]:
    return lambda level: level.coarser(stride, kernel)[1].transposed


KINDS = {
    'submanifold 3x3x3': submanifold((3, 3, 3)),
    'submanifold 1x3x3': submanifold((1, 3, 3)),
    'submanifold 3x1x3': submanifold((3, 1, 3)),
    'submanifold 3x1x1': submanifold((3, 1, 1)),
    'strided 2x2x2': strided((2, 2, 2)),
    'strided 2x2x1': strided((2, 2, 1)),
    'strided 2x2x1, kernel 3': strided((2, 2, 1), (3, 3, 3)),
    'inverse 2x2x2': inverse((2, 2, 2)),
    'inverse 2x2x1, kernel 3': inverse((2, 2, 1), (3, 3, 3)),
}
COMMON = ('submanifold 3x3x3', 'strided 2x2x2', 'inverse 2x2x2')
cases = pytest.mark.parametrize(
    ('kind', 'dtype'),
    [(kind, dtype) for kind in KINDS for dtype in (LIMITS if kind in COMMON else [torch.float32])],
    ids=lambda value: str(value).removeprefix('torch.'),
)


def map_of(kind: str, cloud: str = 'two scans') -> KernelMap:
    return KINDS[kind](Level(cells(cloud), 'torch'))


def convolved(x: Tensor, weight: Tensor, pairs: KernelMap) -> Tensor:
    """In float64, slot by slot."""
    y = torch.zeros(pairs.n_out, weight.shape[0], dtype=torch.float64, device=x.device)
    for k in range(pairs.slots):
        in_rows, out_rows = pairs.slot(k)
        y.index_add_(0, out_rows.long(), x.double()[in_rows.long()] @ weight[:, k].double().T)
    return y


def correlated(x: Tensor, dy: Tensor, pairs: KernelMap) -> Tensor:
    """The gradient of the weight, in float64."""
    parts = []
    for k in range(pairs.slots):
        in_rows, out_rows = pairs.slot(k)
        parts.append(dy.double()[out_rows.long()].T @ x.double()[in_rows.long()])
    return torch.stack(parts, 1)


def error(got: Tensor, wanted: Tensor) -> float:
    return ((got.double() - wanted).abs().max() / wanted.abs().max()).item()


def layer(
    pairs: KernelMap, c_in: int, c_out: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """x, weight, dy"""
    return (
        random(pairs.n_in, c_in, seed=1, dtype=dtype),
        random(c_out, pairs.slots, c_in, seed=2, dtype=dtype),
        random(pairs.n_out, c_out, seed=3, dtype=dtype),
    )


@cases
def test_results_and_gradients_are_those_of_float64(kind: str, dtype: torch.dtype) -> None:
    engine, pairs = TritonEngine(DEVICE, replace(LARGE, split_from=99)), map_of(kind)
    x, weight, dy = layer(pairs, 20, 24, dtype)
    assert error(engine.forward(x, weight, pairs), convolved(x, weight, pairs)) <= LIMITS[dtype]
    dx, dw = engine.backward(x, weight, dy, pairs, need_x=True)
    assert dx is not None
    turned = convolved(dy, weight.permute(2, 1, 0), pairs.transposed)
    assert error(dx, turned) <= LIMITS[dtype]
    assert error(dw, correlated(x, dy, pairs)) <= LIMITS[dtype]
    assert dx.dtype == dw.dtype == dtype


def test_many_tiles_groups_of_slots_and_shares_give_the_same() -> None:
    dtype = torch.float16
    engine, pairs = TritonEngine(DEVICE, SMALL), map_of('submanifold 3x3x3')
    assert pairs.n_out > 2 * SMALL.rows
    assert SMALL.groups(27, 24, 24) == 2
    x, weight, dy = layer(pairs, 24, 24, dtype)
    assert error(engine.forward(x, weight, pairs), convolved(x, weight, pairs)) <= LIMITS[dtype]
    assert error(engine.grad_weight(x, dy, pairs), correlated(x, dy, pairs)) <= LIMITS[dtype]


@types
@pytest.mark.parametrize('split_from', [8, 99])
def test_bias_shortcut_and_relu_are_part_of_it(dtype: torch.dtype, split_from: int) -> None:
    engine = TritonEngine(DEVICE, replace(LARGE, split_from=split_from))
    pairs = map_of('submanifold 3x3x3')
    x, weight, shortcut = layer(pairs, 8, 20, dtype)
    bias = random(20, seed=4)
    packed = engine.pack(weight, dtype)
    y = engine.infer(x, packed, pairs, 20, bias=bias, residual=shortcut, relu=True)
    wanted = (convolved(x, weight, pairs) + bias.double() + shortcut.double()).relu()
    assert error(y, wanted) <= LIMITS[dtype]


def test_a_kernel_of_more_slots_than_a_mask_has_bits_gives_the_same() -> None:
    engine, pairs = TritonEngine(DEVICE, LARGE), Level(cells('two scans')).submanifold((5, 5, 5))
    x, weight, _ = layer(pairs, 4, 32, torch.float32)
    assert error(engine.forward(x, weight, pairs), convolved(x, weight, pairs)) <= 1e-5


def test_rows_are_visited_in_the_order_that_plain_torch_finds() -> None:
    table = table_of_pairs(map_of('submanifold 3x3x3'))
    [plan] = make_plans(table, 16, 1, none=-1)
    numbers = visit_numbers(table, marks_of_slots(27), none=-1)
    assert torch.equal(numbers[plan.order], numbers.sort()[0])
    assert int(plan.counts.sum()) * 16 == count_products(table, 16, 1, none=-1)


@types
def test_a_pointwise_layer_is_a_product(dtype: torch.dtype) -> None:
    engine = TritonEngine(DEVICE, LARGE)
    x, weight = random(70, 20, seed=1, dtype=dtype), random(19, 1, 20, seed=2, dtype=dtype)
    bias, shortcut = random(19, seed=3), random(70, 19, seed=4, dtype=dtype)
    packed = engine.pack(weight, dtype)
    y = engine.infer(x, packed, None, 19, bias=bias, residual=shortcut, relu=True)
    wanted = (x.double() @ weight[:, 0].double().T + bias.double() + shortcut.double()).relu()
    assert error(y, wanted) <= LIMITS[dtype]


def test_rows_may_lie_any_distance_apart() -> None:
    engine, pairs = TritonEngine(DEVICE, LARGE), map_of('strided 2x2x2')
    x, weight, shortcut = layer(pairs, 8, 16, torch.float32)
    packed = engine.pack(weight, torch.float32)
    wanted = engine.infer(x, packed, pairs, 16, residual=shortcut)
    beside = torch.full((pairs.n_out, 40), 7.0, device=DEVICE)
    wide_x, wide_shortcut = (torch.cat([t, t], 1)[:, : t.shape[1]] for t in (x, shortcut))
    assert wide_x.stride(0) == 16
    y = engine.infer_into(beside[:, 16:32], wide_x, packed, pairs, residual=wide_shortcut)
    assert y.data_ptr() == beside[:, 16:].data_ptr()
    assert torch.equal(beside[:, 16:32], wanted)
    assert (beside[:, :16] == 7).all()
    assert (beside[:, 32:] == 7).all()


@pytest.mark.parametrize('cloud', ['one voxel', 'isolated'])
@pytest.mark.parametrize('kind', COMMON)
def test_sparse_clouds_give_the_same(kind: str, cloud: str) -> None:
    engine, pairs = TritonEngine(DEVICE, SMALL), map_of(kind, cloud)
    x, weight, dy = layer(pairs, 8, 16, torch.float32)
    assert error(engine.forward(x, weight, pairs), convolved(x, weight, pairs)) <= 1e-5
    turned = convolved(dy, weight.permute(2, 1, 0), pairs.transposed)
    assert error(engine.grad_input(dy, weight, pairs), turned) <= 1e-5
    assert error(engine.grad_weight(x, dy, pairs), correlated(x, dy, pairs)) <= 1e-5


def test_maps_without_rows_or_without_pairs_have_a_result() -> None:
    engine = TritonEngine(DEVICE, SMALL)
    nothing = torch.empty(0, dtype=torch.int32, device=DEVICE)
    weight, bias = random(16, 8, 8, seed=1), random(16, seed=2)
    empty = KernelMap(nothing, nothing, (0,) * 9, 0, 0)
    y = engine.forward(random(0, 8, seed=1), weight, empty)
    assert y.shape == (0, 16)
    assert not engine.grad_weight(random(0, 8, seed=1), y, empty).any()
    lonely = KernelMap(nothing, nothing, (0,) * 9, 3, 5)  # a row of the result is the bias alone
    y = engine.infer(
        random(3, 8, seed=1), engine.pack(weight, torch.float32), lonely, 16, bias=bias
    )
    assert torch.equal(y, bias.expand(5, 16))


def test_every_run_gives_the_same_bits() -> None:
    engine = TritonEngine(DEVICE, SMALL)
    results = []
    for _ in range(2):
        pairs = map_of('submanifold 3x1x3')  # a new plan
        x, weight, dy = layer(pairs, 24, 24, torch.float16)
        y = engine.forward(x, weight, pairs)
        results.append((y, *engine.backward(x, weight, dy, pairs, need_x=True)))
    for first, second in zip(*results):
        assert first is not None
        assert second is not None
        assert torch.equal(first, second)


@cache
def channels_of_presets() -> list[tuple[int, int]]:
    """(c_in, c_out) of every layer of every network."""
    found = set()
    for name in PRESETS:
        with torch.device('meta'):
            model = build_model(name, classes=19)
        layers = [module for module in model.modules() if isinstance(module, Conv)]
        found |= {(each.in_channels, each.out_channels) for each in layers}
    return sorted(found)


def test_every_channel_count_of_our_networks_gives_the_same() -> None:
    engine, pairs = TritonEngine(DEVICE, LARGE), map_of('strided 2x2x1', 'one voxel')
    for c_in, c_out in channels_of_presets():
        x, weight, _ = layer(pairs, c_in, c_out, torch.float16)
        y = engine.forward(x, weight, pairs)
        assert error(y, convolved(x, weight, pairs)) <= LIMITS[torch.float16], (c_in, c_out)


@pytest.mark.parametrize('capability', [80, 87, 90, 110])
def test_the_tiles_that_ship_give_the_same(capability: int) -> None:
    engine, pairs = TritonEngine(DEVICE, tiles_of(capability)), map_of('strided 2x2x2')
    x, weight, dy = layer(pairs, 36, 40, torch.float16)
    assert error(engine.forward(x, weight, pairs), convolved(x, weight, pairs)) <= 2e-3
    assert error(engine.grad_weight(x, dy, pairs), correlated(x, dy, pairs)) <= 2e-3


@pytest.mark.parametrize('classes', [1, 19, 256])
def test_answers_are_those_of_plain_torch(classes: int) -> None:
    logits = 4 * random(70, classes, seed=1)
    labels, probability, entropy = TritonEngine(DEVICE, SMALL).answers(logits)
    expected = RowAnswers()(logits)
    assert torch.equal(labels, expected[0])
    torch.testing.assert_close(probability, expected[1])
    torch.testing.assert_close(entropy, expected[2], atol=1e-6, rtol=1e-5)


def test_an_answer_of_a_row_that_is_not_finite_says_so() -> None:
    logits = torch.zeros(4, 3, device=DEVICE)
    logits[1, 0], logits[2, 2] = torch.nan, torch.inf
    _, probability, entropy = TritonEngine(DEVICE, SMALL).answers(logits)
    assert (probability + entropy).isfinite().tolist() == [True, False, False, True]
