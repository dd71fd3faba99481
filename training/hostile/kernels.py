# SPDX-License-Identifier: Apache-2.0
"""Random work for the native kernels, held against plain torch; meant for sanitizers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn, Tensor

from lidar_kd.sparse import (
    ConvNorm,
    Engine,
    fold_norms,
    InverseConv,
    Level,
    PointwiseConv,
    select_engine,
    sparse_tensor,
    SparseTensor,
    StridedConv,
    SubmanifoldConv,
)
from lidar_kd.sparse.engines.native.engine import NativeEngine
from training.hostile.damage import pick, Rng

CHANNELS = (1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 32, 33, 48, 64, 96)
KERNELS = ((3, 3, 3), (1, 3, 3), (3, 1, 3), (1, 1, 3), (3, 3, 1), (5, 3, 1))
STRIDES = ((2, 2, 2), (1, 2, 2), (2, 2, 1), (2, 1, 1))
EXTENTS = (1, 2, 3, 5, 9, 40)
CLOSE, CLOSE_16 = 2e-3, 0.3  # bfloat16 keeps 8 bits, and sums of hundreds
ROUNDING = 1e-4  # of the largest answer, where larger ones cancel
Answers = list[Tensor]


def check_kernels(cases: int, seed: int) -> None:
    """AssertionError with the case's number where the two engines differ."""
    native, plain = select_engine('cpu', 'native'), select_engine('cpu', 'torch')
    assert isinstance(native, NativeEngine)
    for number in range(cases):
        rng = np.random.default_rng([seed, number])
        torch.set_num_threads(int(pick((1, 1, 2, 3, 4), rng)))
        work = WORKS[number % len(WORKS)]
        ours, theirs = (work(engine, np.random.default_rng([seed, number]))
                        for engine in (native, plain))  # fmt: skip
        # a gradient that is zero in theory is a rounding of what cancelled in it
        largest = max([1.0, *(float(each.abs().max()) for each in theirs if each.numel())])
        for place, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            close = CLOSE if mine.dtype == torch.float32 else CLOSE_16
            if not torch.allclose(
                mine.float(), other.float(), rtol=close, atol=max(close, ROUNDING * largest)
            ):
                raise AssertionError(f'case {number}, {work.__name__}: answer {place} differs')


def draw_cells(rng: Rng, most: int = 90) -> Tensor:
    """Distinct cells of one or two scans, also below zero, in any order."""
    extent, count = int(pick(EXTENTS, rng)), int(rng.integers(1, most))
    cells = rng.integers(-extent, extent + 1, (count, 3))
    scan = rng.integers(0, int(rng.integers(1, 3)), (count, 1))
    unique = np.unique(np.hstack([scan, cells]), axis=0)
    return torch.from_numpy(rng.permutation(unique)).int()


def draw(rng: Rng, *shape: int) -> Tensor:
    return torch.from_numpy(rng.normal(size=shape)).float()


def draw_level(engine: Engine, rng: Rng) -> Level:
    cells = draw_cells(rng)
    return sparse_tensor(cells, draw(rng, len(cells), 1), engine)[0].level


def train_layer(engine: Engine, rng: Rng) -> Answers:
    """One layer with its norm, forward and backward."""
    level = draw_level(engine, rng)
    layer, width = _draw_layer(rng)
    _fill(layer, rng)
    x = draw(rng, len(level), width).requires_grad_()
    try:
        y = layer(SparseTensor(x, level)).features
    except ValueError:  # a single cell, which no batch norm takes
        return []
    (y * draw(rng, *y.shape)).sum().backward()
    gradients = [p.grad for p in (x, *layer.parameters()) if p.grad is not None]
    return [y.detach(), *gradients]


def infer_layer(engine: Engine, rng: Rng) -> Answers:
    """The same frozen, with a shortcut, in one of two number types."""
    level = draw_level(engine, rng)
    layer, width = _draw_layer(rng)
    _fill(layer, rng)
    fold_norms(layer)
    dtype = torch.float32 if rng.random() < 0.6 else torch.bfloat16
    with torch.no_grad():
        x = SparseTensor(draw(rng, len(level), width).to(dtype), level)
        return [layer(x).features]


def there_and_back(engine: Engine, rng: Rng) -> Answers:
    """A strided layer and its way back, with kernels that may reach no cell."""
    level = draw_level(engine, rng)
    a, b, stride = int(pick(CHANNELS, rng)), int(pick(CHANNELS, rng)), pick(STRIDES, rng)
    kernel = pick((None, *KERNELS[:5]), rng)
    down, back = StridedConv(a, b, stride, kernel=kernel), InverseConv(b, a, stride, kernel=kernel)
    _fill(down, rng)
    _fill(back, rng)
    x = draw(rng, len(level), a).requires_grad_()
    y = back(down(SparseTensor(x, level))).features
    (y * draw(rng, *y.shape)).sum().backward()
    assert x.grad is not None
    return [y.detach(), x.grad, *(p.grad for p in down.parameters() if p.grad is not None)]


def group_points(engine: Engine, rng: Rng) -> Answers:
    count = int(rng.integers(1, 300))
    keys = torch.from_numpy(rng.integers(-2, int(pick((1, 9, 2**40), rng)), count))
    group, order, starts = engine.grouping.group(keys)
    rows = draw(rng, count, int(pick(CHANNELS, rng)))
    return [group, order, starts, engine.grouping.means(rows, order, starts)]


def answer_rows(engine: Engine, rng: Rng) -> Answers:
    rows, classes = int(rng.integers(0, 200)), int(rng.integers(1, 257))
    return list(engine.answers(draw(rng, rows, classes) * 5))


def attend_patches(engine: Engine, rng: Rng) -> Answers:
    shape = (int(rng.integers(0, 4)), int(rng.integers(1, 70)), 3,
             int(rng.integers(1, 5)), int(pick((1, 2, 4, 8, 15, 16, 18), rng)))  # fmt: skip
    qkv = draw(rng, *shape).requires_grad_()
    y = engine.attention.gelu(engine.attention.attend(qkv).contiguous())
    (y * draw(rng, *y.shape)).sum().backward()
    assert qkv.grad is not None
    return [y.detach(), qkv.grad]


def _draw_layer(rng: Rng) -> tuple[ConvNorm, int]:
    a, b = int(pick(CHANNELS, rng)), int(pick(CHANNELS, rng))
    kinds: tuple[Callable[[], nn.Module], ...] = (
        lambda: SubmanifoldConv(a, b, pick(KERNELS, rng)),
        lambda: SubmanifoldConv(a, b, (3, 3, 3)),
        lambda: StridedConv(a, b, pick(STRIDES, rng)),
        lambda: PointwiseConv(a, b, bias=True),
    )
    return ConvNorm(pick(kinds, rng)(), relu=bool(rng.random() < 0.5)), a


def _fill(module: nn.Module, rng: Rng) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(draw(rng, *parameter.shape) * 0.3)


WORKS: tuple[Callable[[Engine, Rng], Answers], ...] = (
    *(train_layer, infer_layer, there_and_back),
    *(group_points, answer_rows, attend_patches),
)
