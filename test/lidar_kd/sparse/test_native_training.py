# SPDX-License-Identifier: Apache-2.0
"""What the native engine does differently in training gives what plain torch gives."""

from __future__ import annotations

from collections.abc import Iterator
import copy
import pickle

import pytest
import torch
from torch import nn, Tensor

from lidar_kd.models.blocks import Residual
from lidar_kd.sparse import (
    chain,
    ConvNorm,
    Engine,
    Level,
    select_engine,
    SparseTensor,
    SubmanifoldConv,
)
from lidar_kd.sparse.engines.native.engine import NativeEngine
from lidar_kd.sparse.engines.native.library import native_missing

pytestmark = pytest.mark.skipif(bool(native_missing()), reason='no native kernel')


@pytest.fixture
def high() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision('high')
    yield
    torch.set_float32_matmul_precision(before)


def normalised(engine: Engine, rows: int, channels: int, *, residual: bool, relu: bool) -> dict:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(channels)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = (3 * torch.randn(rows, channels) + 5).requires_grad_()
    extra = torch.randn(rows, channels).requires_grad_() if residual else None
    y = engine.norms.normalise(x * 1, norm, extra, relu=relu)
    y.backward(torch.randn(rows, channels))
    found = {'y': y.detach(), 'dx': x.grad, 'dweight': norm.weight.grad, 'dbias': norm.bias.grad}
    found |= {'mean': norm.running_mean, 'variance': norm.running_var}
    return found | ({'dresidual': extra.grad} if extra is not None else {})


def worst(a: dict, b: dict) -> float:
    """The largest difference, relative to the largest value of each."""
    return max(float((a[key] - b[key]).detach().abs().max() / b[key].abs().max()) for key in b)


@pytest.mark.parametrize('residual', [False, True])
@pytest.mark.parametrize('relu', [False, True])
@pytest.mark.parametrize(('rows', 'channels'), [(5000, 96), (777, 20), (257, 1), (3, 32)])
def test_batch_norm_equals_torch(rows: int, channels: int, residual: bool, relu: bool) -> None:
    native, plain = (
        normalised(select_engine('cpu', name), rows, channels, residual=residual, relu=relu)
        for name in ('native', 'torch')
    )
    assert worst(native, plain) < 2e-5


def test_batch_norm_gives_the_same_bits_on_any_number_of_threads() -> None:
    engine, before = select_engine('cpu', 'native'), torch.get_num_threads()
    runs = []
    for threads in (1, 2, 3, 4, 8):
        torch.set_num_threads(threads)
        runs.append(normalised(engine, 3001, 48, residual=True, relu=True))
    torch.set_num_threads(before)
    for run in runs[1:]:
        assert all(torch.equal(run[key], runs[0][key]) for key in run)


def block(engine: Engine, *, chained: bool) -> dict:
    """Two layers with a shortcut around them, and every gradient."""
    torch.manual_seed(0)
    coords = torch.nonzero(torch.rand(1, 12, 12, 6) < 0.3).int()
    first, second = (ConvNorm(SubmanifoldConv(16, 16, (3, 3, 3))) for _ in range(2))
    x = torch.randn(len(coords), 16, requires_grad=True)
    given = SparseTensor(x, Level(coords, engine))
    y = chain(first, second, given, x) if chained else second(first(given), x)
    y.features.square().sum().backward()
    grads = {
        f'{name}{i}': p.grad
        for i, layer in enumerate((first, second))
        for name, p in layer.named_parameters()
    }
    return {'y': y.features.detach(), 'x': x.grad} | grads


def test_a_chain_equals_its_two_layers_bit_for_bit() -> None:
    engine = select_engine('cpu', 'native')
    one, two = block(engine, chained=True), block(engine, chained=False)
    assert all(torch.equal(one[key], two[key]) for key in two)


def test_a_chain_equals_plain_torch() -> None:
    native, plain = (
        block(select_engine('cpu', name), chained=True) for name in ('native', 'torch')
    )
    assert worst(native, plain) < 1e-4


def residual_under_autocast(name: str) -> Tensor:
    """Autocast makes the shortcut bfloat16 and leaves the convolutions float32."""
    torch.manual_seed(0)
    level = Level(torch.nonzero(torch.rand(1, 12, 12, 12) < 0.2), name)
    block, x = Residual(16, 32).train(), torch.randn(len(level), 16)
    with torch.autocast('cpu', torch.bfloat16):
        y = block(SparseTensor(x, level)).features
    y.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())
    return y.detach().float()


def test_a_block_under_autocast_equals_plain_torch() -> None:
    native, plain = residual_under_autocast('native'), residual_under_autocast('torch')
    assert torch.allclose(native, plain, atol=1e-3)


def test_a_norm_with_weights_of_another_type_is_left_to_torch() -> None:
    norm = nn.BatchNorm1d(8, track_running_stats=False).bfloat16()
    with pytest.raises(RuntimeError, match='type'):  # torch's own; ours would read past the end
        select_engine('cpu', 'native').norms.normalise(torch.ones(4, 8), norm, None, relu=False)


def test_a_chain_does_not_keep_what_lies_between_its_layers() -> None:
    kept: list[Tensor] = []
    engine = select_engine('cpu', 'native')

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        block_forward = block(engine, chained=True)
    rows = len(block_forward['y'])
    # x of both layers' norms, x of the first convolution, and the block's result: not the fifth,
    # the activation between the layers
    activations = {t.data_ptr() for t in kept if t.shape == (rows, 16)}
    assert len(activations) == 4


@pytest.mark.usefixtures('high')
@pytest.mark.parametrize(('c_in', 'c_out'), [(4, 32), (20, 48), (128, 96), (5, 7)])
def test_float32_in_two_parts_stays_within_1e_5_of_float64(c_in: int, c_out: int) -> None:
    engine = NativeEngine()
    if not engine.splits():
        pytest.skip('this CPU has no AMX')
    torch.manual_seed(0)
    coords = torch.nonzero(torch.rand(1, 9, 7, 11) < 0.3).int()
    pairs = Level(coords, engine).submanifold((3, 3, 3))
    x, weight, dy = torch.randn(len(coords), c_in), torch.randn(c_out, 27, c_in), None
    y = engine.forward(x, weight, pairs)
    dy = torch.randn_like(y)
    dx = engine.grad_input(dy, weight, pairs)
    exact = select_engine('cpu', 'torch')
    y64 = exact.forward(x.double(), weight.double(), pairs)
    dx64 = exact.grad_input(dy.double(), weight.double(), pairs)
    for found, truth in ((y, y64), (dx, dx64)):
        error = float((found - truth).abs().max() / truth.abs().max())
        # not exact float32 (that would be below 2e-6), but as good as the promise
        assert 5e-7 < error < 1e-5


def test_a_layer_that_has_run_can_be_copied_and_pickled() -> None:
    level = Level(torch.tensor([[0, 1, 2, 3]]).int(), select_engine('cpu', 'native'))
    layer, x = SubmanifoldConv(4, 4, (3, 3, 3)), SparseTensor(torch.ones(1, 4), level)
    with torch.no_grad():
        y = layer.infer(x).features
        for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert torch.equal(copied.infer(x).features, y)


@pytest.mark.usefixtures('high')
def test_a_layer_packs_again_when_the_arithmetic_changes() -> None:
    engine = NativeEngine()
    if not engine.splits():
        pytest.skip('this CPU has no AMX')
    torch.manual_seed(0)
    coords = torch.nonzero(torch.rand(1, 6, 6, 6) < 0.4).int()
    layer, level = SubmanifoldConv(8, 8, (3, 3, 3)), Level(coords, engine)
    x = SparseTensor(torch.randn(len(coords), 8), level)
    with torch.no_grad():
        split = layer.infer(x).features
        torch.set_float32_matmul_precision('highest')
        exact = layer.infer(x).features
    assert not torch.equal(split, exact)
    assert torch.allclose(split, exact, atol=1e-4)
