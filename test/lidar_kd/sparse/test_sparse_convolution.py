# SPDX-License-Identifier: Apache-2.0
"""Forward, dX and dW of every engine and layer against dense float64 convolution."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lidar_kd.sparse import (
    Conv,
    Engine,
    InverseConv,
    Level,
    PointwiseConv,
    SparseTensor,
    StridedConv,
    SubmanifoldConv,
)
from lidar_kd.sparse.engines.plain_torch import TorchEngine

Triple = tuple[int, int, int]
pytestmark = pytest.mark.usefixtures('threads')
FLOAT32 = 1e-5  # largest error over largest value
BFLOAT16 = 2e-2


# --- the oracle ---


@dataclass(frozen=True)
class Case:
    kind: type[Conv]
    size: Triple
    c_in: int
    c_out: int
    cloud: str = 'two scans'

    def __str__(self) -> str:
        size = 'x'.join(map(str, self.size))
        return f'{self.kind.__name__} {size} {self.c_in}-{self.c_out} {self.cloud}'


def cells(cloud: str) -> Tensor:
    """(N, 4) sorted cells, partly negative."""
    if cloud == 'one voxel':
        return torch.tensor([[0, -1, 2, -3]], dtype=torch.int32)
    generator = torch.Generator().manual_seed(1)
    occupied = torch.rand(2, 9, 7, 11, generator=generator) < 0.2
    if cloud == 'isolated':  # three apart: every slot but the centre stays empty
        occupied = torch.zeros(2, 9, 7, 11, dtype=torch.bool)
        occupied[:, ::3, ::3, ::3] = True
    return (torch.nonzero(occupied) + torch.tensor([0, -5, -3, -6])).int()


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Answer:
    y: Tensor
    dx: Tensor
    dw: Tensor
    dbias: Tensor


def inputs(case: Case) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, weight, bias, dy."""
    fine = cells(case.cloud)
    rows_in, rows_out = len(fine), len(fine)
    coarse = len(torch.unique(halved(fine, case.size), dim=0))
    if case.kind is StridedConv:
        rows_out = coarse
    if case.kind is InverseConv:
        rows_in = coarse
    weight = random(case.c_out, *case.size, case.c_in, seed=3)
    return (
        random(rows_in, case.c_in, seed=4),
        weight,
        random(case.c_out, seed=5),
        random(rows_out, case.c_out, seed=6),
    )


def halved(coords: Tensor, stride: Triple) -> Tensor:
    return torch.div(coords, torch.tensor([1, *stride]), rounding_mode='floor')


@cache
def expected(case: Case) -> Answer:
    x, weight, bias, dy = (t.double().requires_grad_() for t in inputs(case))
    fine = cells(case.cloud).long()
    even = fine.amin(0) // 2 * 2 * torch.tensor([0, 1, 1, 1])  # strided cells start at even ones
    at = fine - even
    kernel = weight.permute(0, 4, 1, 2, 3)
    if case.kind is SubmanifoldConv:
        dense = F.conv3d(volume(x, at), kernel, padding=[k // 2 for k in case.size])
    elif case.kind is StridedConv:
        dense = F.conv3d(volume(x, at), kernel, stride=case.size)
        at = torch.unique(halved(at, case.size), dim=0)
    else:
        coarse = torch.unique(halved(at, case.size), dim=0)
        dense = F.conv_transpose3d(volume(x, coarse), kernel.transpose(0, 1), stride=case.size)
    y = dense.permute(0, 2, 3, 4, 1)[tuple(at.T)] + bias
    y.backward(dy)
    assert x.grad is not None
    assert weight.grad is not None
    assert bias.grad is not None
    return Answer(y.detach(), x.grad, weight.grad, bias.grad)


def volume(x: Tensor, at: Tensor) -> Tensor:
    """(B, C, X, Y, Z), of even size, zero where there is no cell."""
    sizes = (at.amax(0) // 2 * 2 + 2).tolist()
    dense = x.new_zeros(*sizes, x.shape[1]).index_put(tuple(at.T), x)
    return dense.permute(0, 4, 1, 2, 3)


def error(got: Tensor, wanted: Tensor) -> float:
    return ((got.double() - wanted).abs().max() / wanted.abs().max()).item()


# --- what the engines answer ---


def layer_of(case: Case) -> Conv:
    layer = case.kind(case.c_in, case.c_out, case.size, bias=True)
    _, weight, bias, _ = inputs(case)
    assert layer.bias is not None
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer


def level_of(case: Case, engine: Engine) -> tuple[Level, Level]:
    """The level the features live on, and the finest, which must be held."""
    finest = Level(cells(case.cloud), engine)
    return (finest.coarser(case.size)[0] if case.kind is InverseConv else finest), finest


def answer(case: Case, engine: Engine) -> Answer:
    x, _, _, dy = inputs(case)
    x.requires_grad_()
    layer = layer_of(case)
    level, _finest = level_of(case, engine)
    y = layer(SparseTensor(x, level)).features
    y.backward(dy)
    assert x.grad is not None
    assert layer.weight.grad is not None
    assert layer.bias is not None
    assert layer.bias.grad is not None
    return Answer(y.detach(), x.grad, layer.weight.grad, layer.bias.grad)


CUBE = (3, 3, 3)
HALF = (2, 2, 2)
KINDS: list[tuple[type[Conv], Triple]] = [
    (SubmanifoldConv, CUBE),
    (StridedConv, HALF),
    (InverseConv, HALF),
]
CHANNELS = [(4, 32), (16, 20), (20, 48), (48, 16), (32, 96), (128, 96), (256, 256), (5, 7)]
KERNELS = [(3, 1, 3), (1, 3, 3), (3, 1, 1), (1, 3, 1), (1, 1, 3)]
STRIDES = [HALF, (2, 2, 1)]
CASES = [
    *(Case(SubmanifoldConv, CUBE, *channels) for channels in CHANNELS),
    *(Case(SubmanifoldConv, kernel, 16, 20) for kernel in KERNELS),
    Case(SubmanifoldConv, (5, 5, 5), 4, 32),
    *(Case(StridedConv, stride, 32, 48) for stride in STRIDES),
    *(Case(InverseConv, stride, 48, 32) for stride in STRIDES),
    Case(StridedConv, HALF, 5, 7),
    Case(InverseConv, HALF, 256, 256),
    *(Case(kind, size, 4, 32, 'isolated') for kind, size in KINDS),
    *(Case(kind, size, 4, 32, 'one voxel') for kind, size in KINDS),
]


@pytest.mark.parametrize('threads', [2, 3], indirect=True)
@pytest.mark.parametrize('case', CASES, ids=str)
def test_forward_and_gradients_equal_dense_float64_convolution(engine: Engine, case: Case) -> None:
    got, wanted = answer(case, engine), expected(case)
    assert error(got.y, wanted.y) <= FLOAT32
    assert error(got.dx, wanted.dx) <= FLOAT32
    assert error(got.dw, wanted.dw) <= FLOAT32
    assert error(got.dbias, wanted.dbias) <= FLOAT32


@pytest.mark.parametrize('case', CASES, ids=str)
def test_inference_equals_dense_float64_convolution(engine: Engine, case: Case) -> None:
    level, _finest = level_of(case, engine)
    with torch.inference_mode():
        y = layer_of(case)(SparseTensor(inputs(case)[0], level)).features
    assert error(y, expected(case).y) <= FLOAT32


@pytest.mark.parametrize('threads', [2, 3], indirect=True)
@pytest.mark.parametrize('case', CASES, ids=str)
def test_bfloat16_inference_is_near_dense_float64_convolution(
    bfloat16_engine: Engine, case: Case
) -> None:
    level, _finest = level_of(case, bfloat16_engine)
    with torch.inference_mode():
        y = layer_of(case)(SparseTensor(inputs(case)[0].bfloat16(), level)).features
    assert y.dtype == torch.bfloat16
    assert error(y, expected(case).y) <= BFLOAT16


def test_a_pointwise_layer_is_a_linear_one(engine: Engine) -> None:
    layer, x = PointwiseConv(20, 7, bias=True), random(33, 20, seed=0)
    level = Level(cells('two scans')[:33], engine)
    assert layer.bias is not None
    wanted = F.linear(x.double(), layer.weight.double().flatten(1), layer.bias.double())
    assert error(layer(SparseTensor(x, level)).features.detach(), wanted.detach()) <= FLOAT32
    with torch.inference_mode():
        assert error(layer(SparseTensor(x, level)).features, wanted.detach()) <= FLOAT32


def test_one_layer_serves_one_engine_after_another(engine: Engine) -> None:
    case = CASES[1]
    layer, x, wanted = layer_of(case), inputs(case)[0], expected(case).y
    with torch.inference_mode():
        for each in (TorchEngine(), engine):
            level, _finest = level_of(case, each)
            assert error(layer(SparseTensor(x, level)).features, wanted) <= FLOAT32


def test_a_model_cast_to_bfloat16_answers_in_bfloat16(bfloat16_engine: Engine) -> None:
    case = CASES[1]
    level, _finest = level_of(case, bfloat16_engine)
    layer = layer_of(case).bfloat16()
    with torch.inference_mode():
        y = layer(SparseTensor(inputs(case)[0].bfloat16(), level)).features
    assert error(y, expected(case).y) <= BFLOAT16
