# SPDX-License-Identifier: Apache-2.0
"""What every engine promises beside the right numbers: repeatable, NaN kept, nothing stored."""

from __future__ import annotations

from itertools import product
import math

import pytest
import torch
from torch import nn, Tensor
from torch.func import functional_call
from torch.nn import functional as F

from lidar_kd.sparse import (
    Conv,
    ConvNorm,
    Engine,
    fold_norms,
    InverseConv,
    KernelMap,
    Level,
    PointwiseConv,
    SparseTensor,
    StridedConv,
    SubmanifoldConv,
)
from lidar_kd.sparse.engines import plain_torch
from lidar_kd.sparse.engines.plain_torch import convolve_unrolled, correlate_unrolled

Triple = tuple[int, int, int]
pytestmark = pytest.mark.usefixtures('threads')
CUBE = (3, 3, 3)
HALF = (2, 2, 2)
KINDS: list[tuple[type[Conv], Triple]] = [
    (SubmanifoldConv, CUBE),
    (StridedConv, HALF),
    (InverseConv, HALF),
]


def cloud_of(voxels: int) -> Tensor:
    """About so many cells of two scans, at the fill of a LiDAR scan."""
    generator = torch.Generator().manual_seed(2)
    side = math.ceil((voxels / 2 / 0.2) ** (1 / 3))
    return torch.nonzero(torch.rand(2, side, side, side, generator=generator) < 0.2).int()


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def error(got: Tensor, wanted: Tensor) -> float:
    return ((got.double() - wanted.double()).abs().max() / wanted.abs().max()).item()


# --- the same bits every time ---


def bits(engine: Engine, coords: Tensor) -> list[Tensor]:
    """Forward, dX and dW of all three kinds of layer."""
    level = Level(coords, engine)
    results = []
    for kind, size in KINDS:
        here = level.coarser(size)[0] if kind is InverseConv else level
        layer = kind(16, 32, size)
        with torch.no_grad():
            layer.weight.copy_(random(*layer.weight.shape, seed=3))
        x = random(len(here), 16, seed=4).requires_grad_()
        y = layer(SparseTensor(x, here)).features
        y.backward(random(*y.shape, seed=6))
        assert x.grad is not None
        assert layer.weight.grad is not None
        results += [y.detach(), x.grad, layer.weight.grad]
    return results


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(a, b, strict=True))


def test_fifty_runs_give_the_same_bits(engine: Engine) -> None:
    coords = cloud_of(5000)  # more than two groups of rows in the native dW
    first = bits(engine, coords)
    assert all(same(first, bits(engine, coords)) for _ in range(49))


def test_the_number_of_threads_does_not_change_a_bit(native: Engine) -> None:
    coords = cloud_of(5000)
    torch.set_num_threads(1)
    alone = bits(native, coords)
    for count in (2, 3, 4, 8):  # which may be more than there are cores
        torch.set_num_threads(count)
        assert same(alone, bits(native, coords))


def test_bfloat16_has_the_same_bits_in_fifty_runs_and_for_any_number_of_threads(
    bfloat16_engine: Engine,
) -> None:
    level = Level(cloud_of(5000), bfloat16_engine)
    layer = SubmanifoldConv(32, 48, CUBE)
    x = SparseTensor(random(len(level), 32, seed=4).bfloat16(), level)
    with torch.inference_mode():
        first = layer(x).features
        for run in range(50):
            torch.set_num_threads(run % 8 + 1)
            assert torch.equal(first, layer(x).features)


# --- inference: fused steps, strides, NaN, packing ---


@pytest.mark.parametrize('c_out', [1, 8, 20, 24, 33, 64])
def test_the_fused_epilogue_equals_the_separate_steps(engine: Engine, c_out: int) -> None:
    level = Level(cloud_of(300), engine)
    layer = SubmanifoldConv(16, c_out, CUBE, bias=True)
    bias = layer.bias
    assert bias is not None
    nn.init.normal_(bias)
    x = SparseTensor(random(len(level), 16, seed=4), level)
    choices = list(product((None, random(len(level), c_out, seed=7)), (False, True)))
    with torch.inference_mode():
        fused = [layer.infer(x, residual=r, relu=relu).features for r, relu in choices]
        layer.bias = None
        plain = layer.infer(x).features + bias
    for got, (r, relu) in zip(fused, choices):
        wanted = plain if r is None else plain + r
        assert torch.equal(got, F.relu(wanted) if relu else wanted)


def test_the_fused_epilogue_in_bfloat16_is_near_the_separate_steps(
    bfloat16_engine: Engine,
) -> None:
    level = Level(cloud_of(300), bfloat16_engine)
    layer = SubmanifoldConv(16, 20, CUBE, bias=True)
    x, residual = random(len(level), 16, seed=4), random(len(level), 20, seed=7)
    with torch.inference_mode():
        wanted = layer.infer(SparseTensor(x, level), residual=residual, relu=True).features
        x, residual = x.bfloat16(), residual.bfloat16()
        fused = layer.infer(SparseTensor(x, level), residual=residual, relu=True).features
    assert error(fused, wanted) <= 2e-2


def test_slices_and_transposes_of_tensors_are_read_right(engine: Engine) -> None:
    level = Level(cloud_of(300), engine)
    layer = SubmanifoldConv(16, 20, CUBE, bias=True)
    x, residual = random(len(level), 16, seed=4), random(len(level), 20, seed=7)
    with torch.inference_mode():
        wanted = layer.infer(SparseTensor(x, level), residual=residual).features
        views = (lambda t: torch.cat([t, t, t], 1)[:, t.shape[1] : 2 * t.shape[1]], transposed)
        for view in views:
            got = layer.infer(SparseTensor(view(x), level), residual=view(residual)).features
            assert torch.equal(got, wanted)


def transposed(t: Tensor) -> Tensor:
    return t.T.contiguous().T


def test_gradients_take_slices_and_expanded_gradients(engine: Engine) -> None:
    level = Level(cloud_of(300), engine)
    layer = SubmanifoldConv(16, 20, CUBE)
    x = random(len(level), 48, seed=4)
    grads: list[list[Tensor]] = []
    for part in (x[:, 16:32], x[:, 16:32].contiguous()):
        part = part.detach().requires_grad_()
        layer.weight.grad = None
        y = layer(SparseTensor(part, level)).features
        y.sum().backward()  # one number expanded to every row
        assert part.grad is not None
        assert layer.weight.grad is not None
        grads.append([y.detach(), part.grad, layer.weight.grad])
    assert same(*grads)


def test_a_nan_reaches_its_neighbours_and_no_one_else(engine: Engine) -> None:
    check_nan(Level(cloud_of(300), engine), torch.float32, channels=20)


@pytest.mark.parametrize('channels', [20, 5])  # kernels that take pairs must not read a next row
def test_a_nan_reaches_its_neighbours_in_bfloat16(bfloat16_engine: Engine, channels: int) -> None:
    check_nan(Level(cloud_of(300), bfloat16_engine), torch.bfloat16, channels=channels)


def check_nan(level: Level, dtype: torch.dtype, *, channels: int) -> None:
    x = random(len(level), channels, seed=4)
    x[40, [0, -1]] = math.nan
    near = (level.coords[:, 1:] - level.coords[40, 1:]).abs().amax(1) <= 1
    near &= level.coords[:, 0] == level.coords[40, 0]
    layer = SubmanifoldConv(channels, 20, CUBE, bias=True)
    with torch.inference_mode():
        y = layer.infer(SparseTensor(x.to(dtype), level), relu=True).features
    assert y[near].isnan().all()
    assert y[~near].isfinite().all()


def test_a_table_taken_in_parts_gives_what_it_gives_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    level = Level(torch.cartesian_prod(*[torch.arange(n) for n in (1, 5, 4, 3)]), 'torch')
    pairs = level.submanifold(CUBE)
    x, dy, weight = torch.randn(60, 8), torch.randn(60, 6), torch.randn(6, 27, 8)
    whole = convolve_unrolled(x, weight, pairs), correlate_unrolled(x, dy, pairs)
    monkeypatch.setattr(plain_torch, 'TABLE_VALUES', 7 * 27 * 8)  # seven rows, and four at last
    parts = convolve_unrolled(x, weight, pairs), correlate_unrolled(x, dy, pairs)
    for ours, theirs in zip(parts, whole):
        torch.testing.assert_close(ours, theirs)


def test_a_sum_over_parts_of_a_table_in_bfloat16_does_not_stall(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = torch.arange(1024, dtype=torch.int32)
    pairs = KernelMap(rows, rows, (0, 1024), 1024, 1024)  # every row to itself
    monkeypatch.setattr(plain_torch, 'TABLE_VALUES', 1)  # one row at a time
    ones = torch.ones(1024, 1).bfloat16()
    # 1024 times 1 * 1; in bfloat16, which has no 257, the sum would stay at 256
    grad = correlate_unrolled(ones, ones, pairs)
    assert grad.dtype == torch.bfloat16
    assert grad.flatten().tolist() == [1024]


@pytest.mark.parametrize('frozen', [False, True])
def test_a_changed_weight_is_packed_again(engine: Engine, frozen: bool) -> None:
    level = Level(cloud_of(300), engine)
    layer = SubmanifoldConv(16, 20, CUBE).requires_grad_(not frozen)
    x = SparseTensor(random(len(level), 16, seed=4), level)
    with torch.no_grad():
        before = layer(x).features
        layer.weight.mul_(2)
        assert torch.equal(layer(x).features, 2 * before)
        layer.weight = nn.Parameter(layer.weight / 4, requires_grad=not frozen)
        assert torch.equal(layer(x).features, before / 2)


@torch.no_grad()
def test_what_is_written_through_data_is_seen_while_a_layer_learns(engine: Engine) -> None:
    level = Level(cloud_of(300), engine)
    layer = SubmanifoldConv(16, 20, CUBE)
    x = SparseTensor(random(len(level), 16, seed=4), level)
    before = layer(x).features
    layer.weight.data.mul_(2)  # as averages of weights are swapped in: no version counts it
    assert torch.equal(layer(x).features, 2 * before)


@torch.no_grad()
def test_a_weight_at_the_address_of_an_earlier_one_is_packed(engine: Engine) -> None:
    level = Level(cloud_of(300), engine)
    layer = SubmanifoldConv(32, 32, CUBE)
    x = SparseTensor(random(len(level), 32, seed=4), level)
    before = layer(x).features
    for power in range(20):  # each is freed after its call, and some take an earlier one's place
        weights = {'weight': layer.weight * 2**power}
        y = functional_call(layer, weights, (x,)).features
        del weights
        assert torch.equal(y, before * 2**power)


@torch.no_grad()
def test_a_frozen_weight_is_packed_once(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> None:
    level = Level(cloud_of(300), engine)
    layer = SubmanifoldConv(16, 20, CUBE).requires_grad_(False)
    x = SparseTensor(random(len(level), 16, seed=4), level)
    before = layer(x).features
    monkeypatch.setattr(engine, 'pack', None)
    assert torch.equal(layer(x).features, before)


# --- empty levels, memory, folding ---


@pytest.mark.parametrize(('kind', 'size'), KINDS)
def test_a_level_without_voxels_is_no_special_case(
    engine: Engine, kind: type[Conv], size: Triple
) -> None:
    finest = Level(torch.empty(0, 4, dtype=torch.int32), engine)
    level = finest.coarser(size)[0] if kind is InverseConv else finest
    layer = kind(4, 32, size, bias=True)
    x = torch.empty(0, 4, requires_grad=True)
    y = layer(SparseTensor(x, level)).features
    assert y.shape == (0, 32)
    y.sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is not None
    assert x.grad.shape == (0, 4)
    assert not layer.weight.grad.any()
    with torch.inference_mode():
        y = layer.infer(SparseTensor(x, level), residual=torch.empty(0, 32), relu=True).features
    assert y.shape == (0, 32)


def test_a_layer_keeps_only_its_input_and_its_weight_for_the_backward(engine: Engine) -> None:
    level = Level(cloud_of(300), engine)
    layer = SubmanifoldConv(16, 20, CUBE)
    x = random(len(level), 16, seed=4).requires_grad_()
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(SparseTensor(x, level))
    assert sorted(kept) == sorted([x.data_ptr(), layer.weight.data_ptr()])


def test_a_frozen_input_needs_no_gradient(engine: Engine) -> None:
    level = Level(cloud_of(300), engine)
    layer = SubmanifoldConv(4, 20, CUBE)
    x = random(len(level), 4, seed=4)
    layer(SparseTensor(x, level)).features.sum().backward()
    assert x.grad is None
    assert layer.weight.grad is not None


class Blocks(nn.Module):
    """Every kind of layer, a bias before a norm, and a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.first = ConvNorm(SubmanifoldConv(4, 16, CUBE, bias=True))
        self.down = ConvNorm(StridedConv(16, 32, HALF))
        self.up = ConvNorm(InverseConv(32, 16, HALF))
        self.shortcut = ConvNorm(PointwiseConv(16, 20), relu=False)
        self.last = ConvNorm(SubmanifoldConv(16, 20, CUBE))

    def forward(self, x: SparseTensor) -> Tensor:
        x = self.first(x)
        y = self.up(self.down(x))
        result: Tensor = self.last(y, self.shortcut(x).features).features
        return result


def test_folded_norms_answer_as_the_unfolded_ones(engine: Engine) -> None:
    torch.manual_seed(0)
    model = Blocks().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    level = Level(cloud_of(300), engine)
    x = SparseTensor(random(len(level), 4, seed=4), level)
    with torch.no_grad():
        wanted = model(x)
        folded = fold_norms(model)(x)
    assert not any(isinstance(module, nn.BatchNorm1d) for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert error(folded, wanted) <= 1e-5
    assert error(model(x).detach(), wanted) <= 1e-5  # and with gradients on


@pytest.mark.parametrize('learning', [False, True])
@pytest.mark.parametrize('width', [3, 5])
def test_features_of_the_wrong_width_are_refused(
    engine: Engine, width: int, learning: bool
) -> None:
    level = Level(cloud_of(300), engine)
    x = SparseTensor(random(len(level), width, seed=4), level)
    sentence = f'SubmanifoldConv 4 -> 20, .*: got features of {width} channels: give it 4'
    for layer in (SubmanifoldConv(4, 20, CUBE), ConvNorm(SubmanifoldConv(4, 20, CUBE))):
        with torch.set_grad_enabled(learning), pytest.raises(ValueError, match=sentence):
            layer(x)


# --- kernels and types that a layer is given ---


def test_a_kernel_that_is_the_stride_is_the_plain_step(engine: Engine) -> None:
    level = Level(cloud_of(200), engine)
    x = SparseTensor(random(len(level), 3, seed=0), level)
    plain, said = StridedConv(3, 5, HALF), StridedConv(3, 5, HALF, kernel=HALF)
    said.load_state_dict(plain.state_dict())
    assert torch.equal(said(x).features, plain(x).features)


def test_an_even_kernel_that_is_not_the_stride_is_refused(engine: Engine) -> None:
    level = Level(cloud_of(200), engine)
    with pytest.raises(ValueError, match='sizes must be odd, or it must be the stride'):
        level.coarser(HALF, (4, 4, 4))


def test_inference_under_autocast_is_float32_on_a_cpu(engine: Engine) -> None:
    level = Level(cloud_of(200), engine)
    conv, x = SubmanifoldConv(3, 5, CUBE), random(len(level), 3, seed=0)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        answer = conv(SparseTensor(x.bfloat16(), level)).features
    with torch.no_grad():
        assert torch.equal(answer, conv(SparseTensor(x.bfloat16().float(), level)).features)


def test_answers_of_a_single_class_are_certain(engine: Engine) -> None:
    labels, probability, entropy = engine.answers(random(5, 1, seed=0))
    assert labels.tolist() == [0] * 5
    assert probability.tolist() == [1] * 5
    assert entropy.tolist() == [0] * 5
