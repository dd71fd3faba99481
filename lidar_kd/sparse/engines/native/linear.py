# SPDX-License-Identifier: Apache-2.0
"""A linear layer as a convolution in which every row meets itself alone: the same sums in the same
order on any number of threads, forward and backward.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from lidar_kd.sparse.engines.maps import KernelMap
from lidar_kd.sparse.engines.parts import TrainingNorms


class _Products(Protocol):
    """Of an engine that takes None for the map of a linear layer."""

    norms: TrainingNorms

    def forward(self, x: Tensor, weight: Tensor, pairs: KernelMap | None) -> Tensor: ...

    def grad_input(self, dy: Tensor, weight: Tensor, pairs: KernelMap | None) -> Tensor: ...

    def grad_weight(self, x: Tensor, dy: Tensor, pairs: KernelMap | None) -> Tensor: ...


class _LinearRows(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, x: Tensor, weight: Tensor, bias: Tensor | None, engine: _Products
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.engine = engine
        y = engine.forward(x, weight[:, None], None)
        return y if bias is None else y.add_(bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        (x, weight), engine, dy = ctx.saved_tensors, ctx.engine, dy.contiguous()
        need_x, need_weight, need_bias, _ = ctx.needs_input_grad
        dx = engine.grad_input(dy, weight[:, None], None) if need_x else None
        dweight = engine.grad_weight(x, dy, None)[:, 0] if need_weight else None
        return dx, dweight, engine.norms.column_sums(dy) if need_bias else None, None


def linear_rows(x: Tensor, weight: Tensor, bias: Tensor | None, engine: _Products) -> Tensor:
    """x (..., C_in), weight (C_out, C_in); differentiable."""
    rows = x.reshape(-1, x.shape[-1])
    y: Tensor = _LinearRows.apply(rows, weight, bias, engine)  # type: ignore[no-untyped-call]
    return y.view(*x.shape[:-1], len(weight))
