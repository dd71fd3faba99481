# SPDX-License-Identifier: Apache-2.0
"""Attention and GELU in C give what torch gives in float64, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lidar_kd.sparse import Engine, select_engine
from lidar_kd.sparse.engines.native.engine import NativeEngine
from lidar_kd.sparse.engines.native.library import library, native_missing

pytestmark = pytest.mark.skipif(bool(native_missing()), reason='no native kernel')


def engine_of(isa: str) -> Engine:
    if not library().lk_find(isa.encode()):
        pytest.skip(f'this machine has no {isa}')
    return NativeEngine(isa)


def attended(engine: Engine, qkv: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    """The result, and the gradient of what went in."""
    qkv = qkv.clone().requires_grad_()
    y = engine.attention.attend(qkv)
    y.backward(dy)
    assert qkv.grad is not None
    return y.detach(), qkv.grad


def drawn(patches: int, size: int, heads: int, width: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return 2 * torch.randn(patches, size, 3, heads, width), torch.randn(
        patches, size, heads, width
    )


@pytest.mark.parametrize('isa', ['avx512', 'avx2', 'portable'])
@pytest.mark.parametrize(
    ('patches', 'size', 'heads', 'width'),
    [(3, 64, 2, 8), (2, 256, 4, 16), (2, 37, 3, 5), (5, 1, 1, 1), (1, 7, 1, 33), (1, 1030, 2, 16)],
)
def test_any_size_agrees_with_float64(
    isa: str, patches: int, size: int, heads: int, width: int
) -> None:
    qkv, dy = drawn(patches, size, heads, width)
    found = attended(engine_of(isa), qkv, dy)
    exact = attended(select_engine('cpu', 'torch'), qkv.double(), dy.double())
    for mine, truth in zip(found, exact):
        assert (mine - truth).abs().max() < 3e-6 * truth.abs().max()


def test_a_query_that_prefers_one_key_by_a_thousand_gets_its_value() -> None:
    # scores 1000, 0 and -1000 at width 1: e^-1000 is 0, and nothing overflows on the way
    qkv = torch.tensor([[1000.0, 1.0, 5.0], [1.0, 0.0, 6.0], [1.0, -1.0, 7.0]])[
        None, :, :, None, None
    ]
    y = select_engine('cpu', 'native').attention.attend(qkv)
    assert y[0, 0].item() == 5
    # the other queries score 1, 0 and -1
    shares = torch.tensor([1.0, 0.0, -1.0]).softmax(0)
    torch.testing.assert_close(
        y[0, 1].flatten(), (shares * torch.tensor([5.0, 6.0, 7.0])).sum()[None]
    )


def test_what_is_no_number_stays_in_its_patch_and_head() -> None:
    qkv, _ = drawn(3, 20, 2, 8)
    qkv[1, 4, 1, 0, 3] = torch.nan  # a key of patch 1, head 0
    y = select_engine('cpu', 'native').attention.attend(qkv)
    assert y[1, :, 0].isnan().all()
    assert y[[0, 2]].isfinite().all()
    assert y[1, :, 1].isfinite().all()


def test_any_number_of_threads_gives_the_same_bits() -> None:
    engine, before, (qkv, dy) = (
        select_engine('cpu', 'native'),
        torch.get_num_threads(),
        drawn(9, 50, 3, 8),
    )
    runs = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        runs.append(attended(engine, qkv, dy))
    torch.set_num_threads(before)
    for y, gradient in runs[1:]:
        assert torch.equal(y, runs[0][0])
        assert torch.equal(gradient, runs[0][1])


def test_no_patches_give_no_rows() -> None:
    assert select_engine('cpu', 'native').attention.attend(torch.empty(0, 16, 3, 2, 8)).shape == (
        0,
        16,
        2,
        8,
    )


def test_other_number_types_take_the_way_of_torch() -> None:
    qkv, dy = drawn(2, 16, 2, 8)
    half = attended(select_engine('cpu', 'native'), qkv.bfloat16(), dy.bfloat16())
    plain = attended(select_engine('cpu', 'torch'), qkv.bfloat16(), dy.bfloat16())
    assert all(torch.equal(a, b) for a, b in zip(half, plain))


@pytest.mark.parametrize('isa', ['avx512', 'avx2', 'portable'])
@pytest.mark.parametrize('count', [1, 37, 10_000])
def test_gelu_and_its_gradient_agree_with_float64(isa: str, count: int) -> None:
    x, dy = torch.linspace(-12, 12, count), torch.linspace(1, 2, count)
    mine, truth = x.clone().requires_grad_(), x.double().requires_grad_()
    y, exact = (
        engine_of(isa).attention.gelu(mine),
        select_engine('cpu', 'torch').attention.gelu(truth),
    )
    y.backward(dy)
    exact.backward(dy.double())
    assert (y - exact).abs().max() < 1e-6
    assert (mine.grad - truth.grad).abs().max() < 1e-6  # type: ignore[operator]


def test_gelu_passes_on_what_is_no_number_and_what_is_too_large() -> None:
    y = select_engine('cpu', 'native').attention.gelu(
        torch.tensor([torch.nan, torch.inf, 1e30, -1e30, 0])
    )
    torch.testing.assert_close(y, torch.tensor([torch.nan, torch.inf, 1e30, 0, 0]), equal_nan=True)
