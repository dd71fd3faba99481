# SPDX-License-Identifier: Apache-2.0
"""Batch norm in training, with the sum and the ReLU after it, in the native library."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn, Tensor

Pointer, Int64, Int32 = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32


class _Norm(ctypes.Structure):
    _fields_ = [
        ('x', Pointer),
        ('residual', Pointer),
        ('y', Pointer),
        ('dy', Pointer),
        ('weight', Pointer),
        ('bias', Pointer),
        ('mean', Pointer),
        ('inverse', Pointer),
        ('out', Pointer),
        ('dx', Pointer),
        ('dresidual', Pointer),
        ('rows', Int64),
        ('channels', Int64),
        ('relu', Int32),
    ]


@dataclass(frozen=True)
class _Settings:
    library: ctypes.CDLL
    norm: nn.BatchNorm1d
    relu: bool

    def job(self, x: Tensor, **tensors: Tensor | None) -> _Norm:
        addresses = {name: t.data_ptr() for name, t in tensors.items() if t is not None}
        rows, channels = x.shape
        return _Norm(x=x.data_ptr(), rows=rows, channels=channels, relu=self.relu, **addresses)


class _NormRelu(torch.autograd.Function):
    """relu?(norm(x) + residual?). What the ReLU let through is read from the result where that is
    kept anyway (it follows a residual and feeds the next block), else worked out again from x.
    """

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, settings: _Settings
    ) -> Tensor:
        library, norm, threads = settings.library, settings.norm, torch.get_num_threads()
        rows, channels = x.shape
        mean, variance = torch.empty(2, channels)
        size = Int64(rows), Int64(channels)
        moments = Pointer(mean.data_ptr()), Pointer(variance.data_ptr())
        library.lk_norm_moments(Pointer(x.data_ptr()), *size, threads, *moments)
        _follow(norm, mean, variance, rows)
        inverse = torch.rsqrt(variance + norm.eps)
        out = torch.empty_like(x)
        parts = {'weight': weight, 'bias': bias, 'mean': mean, 'inverse': inverse}
        job = settings.job(x, residual=residual, out=out, **parts)
        library.lk_norm_apply(ctypes.byref(job), threads)
        ctx.save_for_backward(x, weight, bias, mean, inverse, None if residual is None else out)
        ctx.settings = settings
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        x, weight, bias, mean, inverse, y = ctx.saved_tensors
        dy, settings = dy.contiguous(), ctx.settings
        dx, dweight, dbias = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)
        dresidual = torch.empty_like(x) if ctx.needs_input_grad[3] else None
        parts: dict[str, Any] = {'weight': weight, 'bias': bias, 'mean': mean, 'inverse': inverse}
        job = settings.job(x, y=y, dy=dy, dx=dx, dresidual=dresidual, **parts)
        settings.library.lk_norm_backward(
            ctypes.byref(job),
            torch.get_num_threads(),
            Pointer(dweight.data_ptr()),
            Pointer(dbias.data_ptr()),
        )
        return dx, dweight, dbias, dresidual, None


def _follow(norm: nn.BatchNorm1d, mean: Tensor, variance: Tensor, rows: int) -> None:
    """The running statistics, as nn.BatchNorm1d keeps them."""
    if norm.running_mean is None or norm.running_var is None:
        return
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    share = norm.momentum if norm.momentum is not None else 1 / int(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean, share)
    norm.running_var.lerp_(variance * (rows / (rows - 1)), share)


def normalise(
    library: ctypes.CDLL, x: Tensor, norm: nn.BatchNorm1d, residual: Tensor | None, *, relu: bool
) -> Tensor:
    """For a norm in training mode with weights, and float32 rows."""
    residual = None if residual is None else residual.contiguous()
    settings = _Settings(library, norm, relu)
    y: Tensor = _NormRelu.apply(x.contiguous(), norm.weight, norm.bias, residual, settings)  # type: ignore[no-untyped-call]
    return y
