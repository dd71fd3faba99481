# SPDX-License-Identifier: Apache-2.0
"""The peer on a Jetson: left out with a reason, or asked as spconv is."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from lidar_kd.cli.console import Console
from lidar_kd.errors import ConfigError
from training.benchmarks import triton_peer
from training.benchmarks.gpu import engines_to_compare
from training.benchmarks.triton_peer import make_triton_peer


def implicit_gemm(
    x: Tensor, filters: Tensor, table: Tensor, masks: Any, orders: Any, n_out: int, *_: Any
) -> tuple[Tensor, Tensor, int]:
    """In plain torch: table (K, n_out), -1 where there is nobody."""
    y = x.new_zeros(n_out, filters.shape[0])
    for slot, rows in enumerate(table.long()):
        y += torch.where(rows[:, None] >= 0, x[rows], 0) @ filters[:, slot].T
    return y, torch.Tensor(), -1


def implicit_gemm_backward(
    x: Tensor, filters: Tensor, dy: Tensor, table: Tensor, back: Tensor, *_: Any
) -> tuple[Tensor, Tensor]:
    turned = filters.permute(2, 1, 0)
    dx = implicit_gemm(dy, turned, back, [], [], len(x))[0]
    taken = [torch.where(rows[:, None] >= 0, x[rows], 0) for rows in table.long()]
    return dx, torch.stack([dy.T @ rows for rows in taken], 1)


def install(monkeypatch: pytest.MonkeyPatch, **functions: Any) -> None:
    """A package of that name, which has these functions."""
    ops = ModuleType('spconv_triton.pytorch.ops')
    vars(ops).update(functions)
    parent = ModuleType('spconv_triton.pytorch')
    vars(parent)['ops'] = ops
    for name, module in (('', ModuleType('spconv_triton')), ('.pytorch', parent)):
        monkeypatch.setitem(sys.modules, f'spconv_triton{name}', module)
    monkeypatch.setattr(triton_peer, 'find_spec', lambda name: name)


def test_where_it_is_missing_it_is_left_out_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(triton_peer, 'find_spec', lambda name: None)
    engines = engines_to_compare(Console(), ['torch'])
    assert [engine.name for engine in engines] == ['torch']
    told = ' '.join(''.join(capsys.readouterr()).split())
    assert 'left out: peer spconv-triton: it is not installed' in told
    assert 'pip install spconv-triton==1.0.0' in told


def test_it_is_asked_for_what_it_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    install(
        monkeypatch, implicit_gemm=implicit_gemm, implicit_gemm_backward=implicit_gemm_backward
    )
    assert make_triton_peer('cpu').name == 'spconv-triton'


def test_one_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(*arguments: Any) -> tuple[Tensor, Tensor, int]:
        y, tiles, width = implicit_gemm(*arguments)
        return 2 * y, tiles, width

    install(monkeypatch, implicit_gemm=twice, implicit_gemm_backward=implicit_gemm_backward)
    with pytest.raises(ConfigError, match='off by'):
        make_triton_peer('cpu')


def test_one_that_dies_is_refused_with_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: Any) -> None:
        raise RuntimeError('no kernel for this GPU\nand more')

    install(monkeypatch, implicit_gemm=die, implicit_gemm_backward=die)
    with pytest.raises(ConfigError, match=r'fails here \(no kernel for this GPU\)'):
        make_triton_peer('cpu')
